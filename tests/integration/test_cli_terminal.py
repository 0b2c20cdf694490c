"""The program on a terminal, on poor ones, and on streams that break."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from .cli_kit import SHORT, Site, Terminal, environment

FRAME = "\x1b[1mfw\x1b[0m"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_run_on_a_terminal_draws_a_frame_that_stays(site: Site) -> None:
    site.fail("r2")
    terminal = Terminal(site, "run", str(site.file), *SHORT)

    code = terminal.end()

    assert code == 3
    assert "COMPLETED_WITH_FAILURES" in terminal.text
    assert "rack r2 failed" in terminal.text
    assert "\x1b[?1049h" not in terminal.text, "no second screen"
    assert terminal.text.rstrip().endswith("(exit 3)")


def test_ctrl_c_on_a_terminal_detaches_and_does_not_reach_the_tasks(site: Site) -> None:
    site.hold()
    terminal = Terminal(site, "run", str(site.file), *SHORT)
    site.until_began(4)

    terminal.interrupt()
    code = terminal.end()

    assert code == 130
    assert "nothing new starts until" in terminal.text
    assert len(site.running()) >= 4
    site.let_go()
    assert site.opd("attach", "fw", *SHORT).returncode == 0


def test_without_rich_a_terminal_gets_lines(site: Site) -> None:
    shadow = site.path / "shadow"
    shadow.mkdir()
    (shadow / "rich.py").write_text("raise ImportError('there is no rich')\n")
    path = f"{shadow}:{environment()['PYTHONPATH']}"
    terminal = Terminal(site, "run", str(site.file), *SHORT, env={"PYTHONPATH": path})

    assert terminal.end() == 0
    assert "finished status=completed" in terminal.text


def test_no_color_means_no_colours(site: Site) -> None:
    terminal = Terminal(site, "run", str(site.file), *SHORT, env={"NO_COLOR": "1"})

    assert terminal.end() == 0
    assert not re.search("\x1b\\[[0-9;]*3[0-9]", terminal.text)


@pytest.mark.parametrize("words", [("run", "FILE", *SHORT), ("plan", "FILE"), ("ls",), ("--help",), ("show", "fw")])
def test_forty_columns_are_enough(site: Site, words: tuple[str, ...]) -> None:
    site.run()
    terminal = Terminal(site, *(str(site.file) if word == "FILE" else word for word in words), columns=40)

    assert terminal.end() == 0
    assert "Traceback" not in terminal.text


def test_a_locale_that_spells_little_is_no_error(site: Site) -> None:
    site.inventory(["räck-ö", "機架"])
    poor = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    terminal = Terminal(site, "run", str(site.file), *SHORT, env=poor)

    assert terminal.end() == 0
    assert "Traceback" not in terminal.text
    assert site.opd("show", "fw", "--targets", **poor).returncode == 0


def test_what_a_task_says_cannot_steer_the_terminal(site: Site) -> None:
    site.program.write_text("#!/bin/sh\nprintf 'evil\\033[2J\\033]0;title\\007\\rforged line\\n'\nexit 1\n")
    terminal = Terminal(site, "run", str(site.file), *SHORT)

    terminal.end()

    assert "\x1b[2J" not in terminal.text
    assert "\x1b]0;" not in terminal.text
    assert "\x1b" not in site.opd("show", "fw", "--targets").stdout


@pytest.mark.parametrize("redirection", ["| true", ">&-", ">/dev/full", "2>&-", ">&- 2>&-", "2>/dev/full"])
def test_a_stream_that_breaks_does_not_break_a_run(site: Site, redirection: str) -> None:
    words = " ".join(f"'{word}'" for word in site.arguments("run", str(site.file), *SHORT))
    shell = subprocess.run(
        ["/bin/bash", "-c", f"set -o pipefail; {words} {redirection}"],
        cwd=site.path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert site.totals() == {"completed": 4}
    assert "Traceback" not in shell.stderr
    assert shell.returncode == (1 if redirection == ">/dev/full" else 0), shell.stderr


def test_a_heartbeat_comes_when_nothing_else_does(site: Site) -> None:
    site.hold()

    done = site.run("--timeout", "3s", "--heartbeat", "0.5s")

    assert done.stderr.count("heartbeat status=running phase=0 settled=0/4 in_flight=4") >= 2
    site.let_go()
