"""The examples do what they say, from wherever they are called."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from .cli_kit import REPOSITORY, environment

EXAMPLES = REPOSITORY / "examples"


def opd(cwd: Path, store: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "opdispatch_adapters.cli", "--store", str(store), *map(str, words)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def document(cwd: Path, store: Path, *words: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(opd(cwd, store, "-o", "json", *words).stdout)
    return found


@pytest.mark.parametrize("where", ["root", "elsewhere"])
def test_the_plan_of_the_example_is_the_same_from_anywhere(tmp_path: Path, where: str) -> None:
    cwd, file = (REPOSITORY, "examples/firmware.toml") if where == "root" else (tmp_path, EXAMPLES / "firmware.toml")

    made = document(cwd, tmp_path / "store.db", "plan", file)

    assert [len(phase["racks"]) for phase in made["phases"]] == [1, 13, 124]
    assert made["worst_case_at_once"] == 12
    assert made["dropped"] == []


def test_the_firmware_example_completes_with_four_failed_racks(tmp_path: Path) -> None:
    done = opd(tmp_path, tmp_path / "store.db", "run", EXAMPLES / "firmware.toml")

    assert done.returncode == 3, done.stderr
    totals = document(tmp_path, tmp_path / "store.db", "show", "fw-2.14")["totals"]
    assert (totals["total"], totals["completed"], totals["failed"]) == (138, 134, 4)


def held(cwd: Path, store: Path) -> Sequence[Any]:
    run = document(cwd, store, "show", "fw-2.15-bad")
    return run["status"], run["phase"], run["totals"]["failed"], run["gates"][0]["accepted"]


def test_the_gate_example_pauses_and_goes_on_only_when_the_failures_are_accepted(tmp_path: Path) -> None:
    store = tmp_path / "store.db"

    first = opd(tmp_path, store, "run", EXAMPLES / "gate-trips.toml")
    before = held(tmp_path, store)
    refused = opd(tmp_path, store, "resume", "fw-2.15-bad")
    accepted = opd(tmp_path, store, "resume", "fw-2.15-bad", "--accept-failures", str(before[2]))
    second = opd(tmp_path, store, "attach", "fw-2.15-bad")

    assert first.returncode == 4
    assert "failure_count safety gate tripped for current_phase: " in first.stdout
    assert before[:2] == ("paused", 1)
    assert refused.returncode == 5
    assert "failure_count safety gate tripped for current_phase: " in refused.stderr
    assert "GATE_TRIPPED" in refused.stderr
    assert accepted.returncode == 0
    assert second.returncode == 4
    status, phase, failed, forgiven = held(tmp_path, store)
    assert (status, phase, forgiven) == ("paused", 1, before[2])
    assert failed >= before[2] + 2, "only new failures stopped it again"
