"""Small histories of real processes on each store, with real faults, in which no checker finds anything.

``OPDISPATCH_DEEP=1`` makes them as long as ``python -m tests.histories`` is meant to be run for a release.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from . import __main__ as program
from .chaos import SIGNALS, Told, Wanted, history, verdicts
from .checkers import Finding
from .worlds import STORES

DEEP: Final = os.environ.get("OPDISPATCH_DEEP") == "1"
KILLS: Final = 1000 if DEEP else 25
RUNS: Final = 50 if DEEP else 4


@pytest.mark.timeout(3600 if DEEP else 300)
@pytest.mark.parametrize("store", STORES)
def test_whoever_is_killed_at_whatever_moment_nothing_is_lost_or_done_twice(store: str) -> None:
    told = history(Wanted(store=store, kills=KILLS, runs=RUNS, seed=31))

    print(dict(told.counts))
    assert told.findings == [], "\n".join(map(str, told.findings))
    assert set(verdicts(told).values()) == {0}
    counts = told.counts
    assert counts["sigkill"] >= KILLS
    assert counts["runs"] >= RUNS
    assert counts["judged_runs"] == counts["replayed_runs"] == counts["runs"]
    assert counts["altered_journals"] == counts["altered_journals_refused"] > 0
    # It was no quiet time: tasks were begun, answers were lost, and operators were answered and refused.
    did = ("tasks", "commands_ok", "commands_fail", "commands_repeated", "recounts", "dispatchers_killed_between_steps")
    assert all(counts[name] for name in did), counts


def test_dispatchers_that_break_a_rule_are_found_out_by_who_decides_again() -> None:
    told = history(Wanted(store="sqlite", kills=0, runs=6, seed=5, broken="one slot too many"))

    assert verdicts(told)["unreplayed"] > 0, told.counts
    assert told.broken


def _found(told: Told) -> Callable[..., Told]:
    return lambda wanted, say: told


def test_the_program_prints_the_figures_and_ends_with_0_when_nothing_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told = Told(seconds=2.0)
    told.counts.update(sigkill=10, runs=3)
    monkeypatch.setattr(program, "history", _found(told))
    monkeypatch.setattr(sys, "argv", ["histories", "--store", "sqlite", "--json", str(tmp_path / "figures")])

    assert program.main() == 0

    printed = capsys.readouterr().out
    assert "| sigkill per second | 5.0 |" in printed
    assert "| lost | 0 |" in printed
    figures = json.loads((tmp_path / "figures").read_text())
    assert {name: figures[name] for name in ("store", "seed", "seconds", "sigkill", "lost", "findings")} == {
        "store": "sqlite",
        "seed": 1,
        "seconds": 2.0,
        "sigkill": 10,
        "lost": 0,
        "findings": 0,
    }
    assert all(name in figures for name in SIGNALS.values())


def test_the_program_ends_with_1_and_tells_the_run_when_something_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from .test_checkers import a_history

    told = Told(seconds=2.0, findings=[Finding(checker="lost", run="r", text="target a is pending")])
    told.broken.append(a_history())
    monkeypatch.setattr(program, "history", _found(told))
    monkeypatch.setattr(sys, "argv", ["histories", "--store", "sqlite"])

    assert program.main() == 1

    printed = capsys.readouterr().out
    assert "| lost | 1 |" in printed
    assert "lost: run r: target a is pending" in printed
    assert "the history of run r:" in printed
    assert "3.0000  entry 4: pause pause 1 accepted; hold" in printed
    assert "operator ok cli pause pause 1 it is paused" in printed
    assert "the manager begins key b, fence 1" in printed
