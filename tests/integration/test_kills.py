"""kill -9 of workers at random moments, and two workers on one file: nothing is started twice, nothing is lost.

The truth comes from two records that no worker writes: the line that each command appends when it begins, and the
records of the supervisors.  ``OPDISPATCH_DEEP=1`` kills a hundred times over eight runs.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5

from opdispatch.candidate import Candidate
from opdispatch.identity import CommandId, ComponentId, RackId, RunId
from opdispatch.plan import new_run, plan
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.policy.gates import FailureRateGate
from opdispatch.policy.ordering import RandomOrdering
from opdispatch.policy.phases import EqualPhases
from opdispatch.policy.selection import PercentageSelector
from opdispatch.ports import Store
from opdispatch.rollout import Rollout
from opdispatch.run import RunStatus
from opdispatch.target import SETTLED, Target, TargetStatus
from opdispatch.task import Operation
from opdispatch_adapters.sql import SqliteStore, migrate

from .replaying import check_replay
from .waiting import eventually

DEEP: Final = os.environ.get("OPDISPATCH_DEEP") == "1"
KILLS: Final = 100 if DEEP else 10
RUNS: Final = 8 if DEEP else 2
RACKS: Final = 40
ROOT: Final = Path(__file__).parents[2]
PROGRAM: Final = """#!/bin/sh
# One line, appended in one write: the proof that this command began.
echo "$1" >> "$LOG"
case "$2" in *7) exit 3 ;; esac
sleep 0.1
"""


def a_rollout(name: str) -> Rollout:
    return Rollout(
        name=name,
        operation=Operation(type="test", code="kill"),
        selector=PercentageSelector(percentage=100, seed=name),
        ordering=RandomOrdering(seed=name),
        max_concurrent_targets=6,
        gates=(FailureRateGate(threshold_percent=90),),
        phases=EqualPhases(count=3),
        auto_advance=True,
        conflict=ConflictRetry(
            window=timedelta(minutes=10), initial_delay=timedelta(seconds=0.2), max_delay=timedelta(seconds=1)
        ),
    )


def racks(name: str, count: int) -> list[Candidate]:
    namespace = UUID(int=7)
    return [
        Candidate(
            id=RackId(uuid5(namespace, f"{name}-{index}")),
            name=f"{name}-{index}",
            components={"compute": (ComponentId(uuid5(namespace, f"{name}-{index}-c")),)},
        )
        for index in range(count)
    ]


def create(store: Store, name: str, *, count: int = RACKS) -> RunId:
    made = plan(racks(name, count), a_rollout(name))
    new = new_run(made, command_id=CommandId(name), actor="test", now=datetime.now(UTC))
    return store.create(new).id


class Site:
    """A store, a work directory and a program in one directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "store.db"
        self.tasks = directory / "tasks"
        self.program = directory / "program"
        self.log = directory / "log"
        self.errors = directory / "stderr"
        self.program.write_text(PROGRAM)
        self.program.chmod(0o700)
        self.log.touch()
        migrate(self.path)
        self.store = SqliteStore(self.path)

    def worker(self) -> subprocess.Popen[str]:
        arguments = [str(self.path), str(self.tasks), str(self.program), str(self.log)]
        with self.errors.open("a") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.integration.worker", *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def ended(self, runs: list[RunId]) -> bool:
        return all(self.store.get(run_id).run.status.is_terminal for run_id in runs)

    def starts(self) -> Counter[str]:
        """How often each key's command began, by its own word."""
        return Counter(self.log.read_text().split())

    def records(self) -> dict[str, str]:
        """Each key that a supervisor took, with the status that it recorded."""
        found = {}
        for started in self.tasks.glob("tasks/*/*/started"):
            ended = started.with_name("ended")
            key = json.loads(started.read_text())["key"]
            found[key] = json.loads(ended.read_text())["status"] if ended.exists() else "no record"
        return found


def check(site: Site, runs: list[RunId], *, failing: bool = True) -> None:
    """Counts are true, no key began twice, and what is settled is what its supervisor recorded."""
    starts, records = site.starts(), site.records()
    assert {key: count for key, count in starts.items() if count > 1} == {}
    for run_id in runs:
        overview = site.store.get(run_id)
        targets = site.store.targets(run_id)
        assert all(target.status in SETTLED for target in targets)
        check_replay(site.store, run_id)
        for phase, tally in enumerate(overview.phases):
            recount = Counter(target.status for target in targets if target.phase == phase)
            assert {status: tally.of(status) for status in SETTLED} == {s: recount[s] for s in SETTLED}
        for target in targets:
            check_target(target, starts, records, failing)
    assert set(starts) <= set(records)


def check_target(target: Target, starts: Counter[str], records: dict[str, str], failing: bool) -> None:
    assert target.task_id is not None, target
    assert starts[target.task_id] == 1, target
    assert records[target.task_id] == target.status.value
    expected = TargetStatus.FAILED if failing and target.rack_name.endswith("7") else TargetStatus.COMPLETED
    assert target.status is expected


def test_a_worker_that_is_killed_at_any_moment_starts_nothing_twice_and_loses_nothing(tmp_path: Path) -> None:
    site, chance = Site(tmp_path), random.Random(20)
    runs = [create(site.store, f"run{index}") for index in range(RUNS)]
    kills = 0

    while kills < KILLS or not site.ended(runs):
        if site.ended(runs):
            # All is done before all were killed: more work.
            runs.append(create(site.store, f"run{len(runs)}"))
        worker = site.worker()
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        if kills < KILLS:
            # The moment is what is under test: somewhere in the first ticks.
            threading.Event().wait(chance.uniform(0.0, 0.6))
            worker.kill()
            kills += 1
        else:
            eventually(lambda: site.ended(runs), patience_seconds=180)
            worker.send_signal(signal.SIGTERM)
        worker.wait(30)
        worker.stdout.close()

    assert kills == KILLS
    check(site, runs)
    assert {site.store.get(run_id).run.status for run_id in runs} == {RunStatus.COMPLETED_WITH_FAILURES}


def test_two_workers_on_one_file_do_no_target_twice_and_report_no_error(tmp_path: Path) -> None:
    site = Site(tmp_path)
    runs = [create(site.store, f"both{index}", count=30) for index in range(3)]

    workers = [site.worker(), site.worker()]
    eventually(lambda: site.ended(runs), patience_seconds=180)
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    codes = [worker.wait(30) for worker in workers]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.close()

    assert codes == [0, 0]
    check(site, runs)
    assert site.errors.read_text() == ""
    actors = {entry.actor for run_id in runs for entry in site.store.journal(run_id)}
    assert len(actors) == 2
    assert all(site.store.get(run_id).trouble is None for run_id in runs)
