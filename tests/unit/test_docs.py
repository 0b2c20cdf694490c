"""The pages are held to the code: what they show runs, what they list is there, and what is generated is fresh."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import click
import pytest
from apscheduler.events import EVENT_JOB_EXECUTED  # type: ignore[import-untyped]  # version 3 ships no types
from apscheduler.schedulers.background import BackgroundScheduler  # type: ignore[import-untyped]  # the same

import opdispatch
from opdispatch_adapters.cli.main import program
from opdispatch_adapters.cli.rollout_file import load_rollout
from opdispatch_adapters.cli.session import Session
from opdispatch_adapters.dispatcher import Dispatcher
from opdispatch_adapters.memory import MemoryStore

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
PAGES: Final = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md")))
_FENCE: Final = re.compile(r"^([ ]*)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)

_LINK: Final = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page, in order: language and text, without the indentation of a list."""
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    return [(language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)) for indent, language, text in found]


def tables() -> ModuleType:
    """The generator of the tables."""
    names = runpy.run_path(str(DOCS / "tables.py"))
    module = ModuleType("tables")
    vars(module).update(names)
    return module


# -- snippets --


class NoTasks:
    """A task manager with nothing to do."""

    capacity: int | None = None

    def on_change(self, callback: Any) -> None:
        return None

    def submit(self, requests: Any, deadline: Any) -> list[Any]:
        return []

    def observe(self, refs: Any, looked_at: Any) -> list[Any]:
        return []

    def cancel(self, refs: Any) -> list[Any]:
        return []


def given() -> Mapping[str, Mapping[str, Any]]:
    """What the snippets of a page take from its reader; a page with snippets must be here."""
    return {
        "docs/tutorial/first-rollout.md": {},
        "docs/how-to/embed.md": {
            "store": MemoryStore(),
            "tasks": NoTasks(),
            "serve_until_told_to_stop": lambda: None,
        },
        "docs/how-to/store.md": {"MyStore": MemoryStore},
        "docs/how-to/prove.md": {},
    }


def test_every_page_with_python_is_run_or_compared() -> None:
    with_python = {_name(page) for page in PAGES if any(language == "python" for language, _ in blocks(page))}

    assert with_python == {"README.md", *given()}


@pytest.mark.parametrize("page", sorted(given()))
def test_the_snippets_of_a_page_run_and_print_what_it_shows(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"__name__": "snippets", **given()[page]}
    printed = ""
    for language, text in blocks(ROOT / page):
        if language == "python":
            exec(compile(text, page, "exec"), names)
            printed = capsys.readouterr().out
        elif language == "text" and printed:
            assert printed == text
            printed = ""

    assert printed == ""


@pytest.mark.parametrize("example", ["library.py", "apscheduler_host.py"])
def test_the_readme_shows_the_examples_as_they_are(example: str) -> None:
    text = (ROOT / "examples" / example).read_text(encoding="utf-8")

    assert ("python", text) in blocks(ROOT / "README.md")


def test_the_library_example_takes_its_run_to_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "library.py"))

    assert capsys.readouterr().out.endswith("operation run completed with failed targets\n")


def test_the_apscheduler_example_serves_what_is_due() -> None:
    done = threading.Event()
    dispatcher = Dispatcher(MemoryStore(), NoTasks())
    scheduler = BackgroundScheduler(timezone=UTC)
    scheduler.add_listener(lambda event: done.set(), EVENT_JOB_EXECUTED)
    runpy.run_path(str(ROOT / "examples" / "apscheduler_host.py"))["add_to"](scheduler, dispatcher)
    scheduler.start()
    try:
        job = scheduler.get_job("opdispatch")
        job.modify(next_run_time=datetime.now(UTC))

        assert done.wait(60)
        assert (job.max_instances, job.coalesce) == (1, True)
        assert dispatcher.age is not None
        assert dispatcher.age < timedelta(seconds=60)
    finally:
        scheduler.shutdown()


def _rollout_files() -> list[tuple[str, str, str]]:
    found = []
    for page in PAGES:
        for language, text in blocks(page):
            if language in ("toml", "yaml"):
                found.append((_name(page), language, text))
    return found


@pytest.mark.parametrize(("page", "language", "text"), _rollout_files(), ids=lambda value: value[:40])
def test_every_rollout_file_that_is_shown_can_be_read(page: str, language: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / f"rollout.{language}"
    file.write_text(text, encoding="utf-8")

    assert load_rollout(file).command is not None


# -- command lines --


def _command_lines(page: Path) -> list[str]:
    """What a page tells to type, and what it tells cron to run."""
    text = re.sub(r"<!-- generated: .*?<!-- end -->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"^ *(?:\$|\* \* \* \* \*) opdispatch (.+)$", text, re.MULTILINE)


@pytest.mark.parametrize("line", sorted({line for page in PAGES for line in _command_lines(page)}))
def test_every_command_line_that_is_shown_is_understood(line: str) -> None:
    command: click.Command = program
    context = click.Context(program, info_name="opdispatch", obj=Session(), **program.context_settings)
    words = shlex.split(line)
    while isinstance(command, click.Group):
        _, words, _ = command.make_parser(context).parse_args(words)
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        assert name is not None
        command, context = found, click.Context(found, info_name=name, parent=context, **found.context_settings)

    command.make_context(command.name, words, parent=context.parent)


def test_the_first_rollout_of_the_readme_runs_as_it_is_shown(tmp_path: Path) -> None:
    (text,) = [text for language, text in blocks(ROOT / "README.md") if language == "toml"]
    (tmp_path / "first.toml").write_text(text, encoding="utf-8")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    lines = [line for line in _command_lines(ROOT / "README.md") if "--store" not in line]

    ended = [
        subprocess.run(
            [sys.executable, "-m", "opdispatch_adapters.cli", *shlex.split(line)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        for line in lines
    ]

    assert [line.split()[0] for line in lines] == ["inventory", "plan", "run"]
    assert [(done.returncode, done.stderr[-300:]) for done in ended if done.returncode != 0] == []
    assert (tmp_path / "opdispatch.db").exists()
    assert (tmp_path / "opdispatch.db.tasks").is_dir()


# -- lists --


@pytest.mark.parametrize("page", [_name(page) for page, _ in tables().pages()])
def test_the_generated_blocks_of_a_page_are_fresh(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")

    assert tables().renewed(text) == text, "run: python docs/tables.py"


def test_every_generated_block_is_on_some_page() -> None:
    shown = {name for _, text in tables().pages() for name in re.findall(r"<!-- generated: ([a-z-]+) -->", text)}

    assert shown == set(tables().MAKERS)


def _extras() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dependencies"] == []
    return {
        extra: [re.split(r"[\[<>=]", requirement)[0] for requirement in requirements]
        for extra, requirements in project["optional-dependencies"].items()
    }


def test_the_dependencies_page_equals_the_extras() -> None:
    listed: dict[str, list[str]] = {}
    for line in (DOCS / "dependencies.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            listed[line.removeprefix("## ")] = []
        elif match := re.fullmatch(r"\* `([^`]+)`: .+", line):
            listed[list(listed)[-1]].append(match[1])

    assert listed == _extras()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    broken = [link for link, _ in _LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]

    assert broken == []


# -- the surface --


def test_every_public_name_is_there_once() -> None:
    assert [name for name in opdispatch.__all__ if not hasattr(opdispatch, name)] == []
    assert len(set(opdispatch.__all__)) == len(opdispatch.__all__)


def test_nothing_is_exported_that_is_not_listed() -> None:
    exported = {
        name
        for name, value in vars(opdispatch).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }

    assert exported == set(opdispatch.__all__)


def test_the_reference_page_lists_the_public_names_and_documents_their_modules() -> None:
    page = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \{py:obj\}`(\w+) <([\w.]+)\.\w+>`", page, re.MULTILINE)
    documented = set(re.findall(r"^\.\. automodule:: ([\w.]+)$", page, re.MULTILINE))

    assert sorted(name for name, _ in listed) == sorted(opdispatch.__all__)
    assert {module for _, module in listed} <= documented


def test_the_core_is_imported_without_anything_else() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); from opdispatch import *; print(decide.__module__)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "opdispatch.decide\n"
