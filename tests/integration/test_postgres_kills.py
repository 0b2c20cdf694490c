"""kill -9 of three dispatchers on one PostgreSQL database at random moments: nothing twice, nothing lost.

Some are stopped instead, until their leases are over and their work is another's, and then go on; some are asked to
end.  The truth comes from the record of the task manager, which no dispatcher keeps in its memory.
``OPDISPATCH_DEEP=1`` kills a thousand times over fifty runs and more.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from opdispatch.command import Command, Pause, Resume
from opdispatch.errors import Unavailable
from opdispatch.identity import CommandId, RunId
from opdispatch.run import RunStatus
from opdispatch.target import SETTLED
from opdispatch_adapters.dispatcher import Settings
from opdispatch_adapters.dispatcher.driver import carry_out_command
from opdispatch_adapters.sql import PostgresStore

from .recorded_tasks import Begun, RecordedTasks
from .recorded_worker import SHORT, is_alive, tasks_on, workers
from .replaying import check_replay
from .test_kills import RACKS, a_rollout, create
from .waiting import PATIENCE_SECONDS, eventually

DEEP: Final = os.environ.get("OPDISPATCH_DEEP") == "1"
KILLS: Final = 1000 if DEEP else 40
RUNS: Final = 50 if DEEP else 4
DISPATCHERS: Final = 3
AT_ONCE: Final = 4
"""How many runs are under way at least, while there is somebody to kill."""
ASLEEP_SECONDS: Final = SHORT.claim_lease.total_seconds() + 1
"""How long a dispatcher is stopped: until whatever it had claimed is another's."""
QUOTA: Final = a_rollout("any").max_concurrent_targets


def commanded(store: PostgresStore, run_id: RunId, asked: Command) -> None:
    """An operator asks twice, as one does who did not hear the answer; one who waits for long gives up."""
    with suppress(Unavailable):
        first = carry_out_command(store, run_id, asked, Settings(), lambda refs, at: ())
        assert carry_out_command(store, run_id, asked, Settings(), lambda refs, at: ()) == first


class Asleep:
    """The processes that were stopped; each goes on after its time, whatever the test waits for meanwhile."""

    def __init__(self) -> None:
        self._timers: dict[int, threading.Timer] = {}

    def stop(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        self._timers[pid] = threading.Timer(ASLEEP_SECONDS, os.kill, (pid, signal.SIGCONT))
        self._timers[pid].start()

    def woken(self, *, all_of_them: bool = False) -> list[int]:
        """Those that go on, since this was asked last."""
        due = [pid for pid, timer in self._timers.items() if all_of_them or not timer.is_alive()]
        for pid in due:
            self._timers.pop(pid).join()
        return due


def about_to_write(
    tasks: RecordedTasks, alive: list[int], asleep: Asleep, under_way: Callable[[], list[RunId]]
) -> int | None:
    """A process of these that has begun a task just now, and has not written it yet or only just; None when every run
    has ended, so that nothing is begun any more."""
    before, _ = tasks.last_request()
    now = time.monotonic()
    end, look = now + PATIENCE_SECONDS, now + 1
    while (now := time.monotonic()) < end:
        if now > look:
            if not under_way():
                return None
            look = now + 1
        number, process = tasks.last_request()
        if number > before and process in alive:
            return process
        # One that was stopped inside the record keeps everybody from beginning anything.
        alive.extend(asleep.woken())
    raise AssertionError("nobody begins anything")


@pytest.mark.timeout(3600 if DEEP else 300)
def test_dispatchers_that_are_killed_at_any_moment_begin_nothing_twice_and_lose_nothing(
    postgres_url: str, tmp_path: Path
) -> None:
    record, errors, chance = tmp_path / "record", tmp_path / "errors", random.Random(31)
    tasks, runs, kills, struck_by = tasks_on(record), list[RunId](), 0, Counter[signal.Signals]()
    moment = threading.Event()

    with PostgresStore(postgres_url) as store, workers(postgres_url, record, errors) as all_workers:

        def under_way() -> list[RunId]:
            return [run_id for run_id in runs if not store.get(run_id).run.status.is_terminal]

        alive, asleep = [all_workers.start() for _ in range(DISPATCHERS)], Asleep()
        while kills < KILLS or len(runs) < RUNS:
            going = under_way()
            while len(going) < AT_ONCE:
                runs.append(create(store, f"run{len(runs)}"))
                going.append(runs[-1])
            if chance.random() < 0.2:
                paused = chance.choice(going)
                commanded(store, paused, Pause(command_id=CommandId(f"pause {kills}"), actor="ada"))
                commanded(store, paused, Resume(command_id=CommandId(f"resume {kills}"), actor="ada"))
            # The moment is what is under test: anywhere, or just after a task was begun and before that is written.
            if kills % 2:
                struck = about_to_write(tasks, alive, asleep, under_way) or chance.choice(alive)
            else:
                moment.wait(chance.uniform(0.0, 0.5))
                struck = chance.choice(alive)
            alive.remove(struck)
            how = chance.choices((signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM), (8, 1, 1))[0]
            if how == signal.SIGSTOP:
                asleep.stop(struck)
            else:
                os.kill(struck, how)
            struck_by[how] += 1
            kills += how == signal.SIGKILL
            alive.extend(asleep.woken())
            while len(alive) < DISPATCHERS:
                alive.append(all_workers.start())
        alive.extend(asleep.woken(all_of_them=True))
        eventually(lambda: not under_way(), what="the end of every run", patience_seconds=180)
        for pid in alive:
            os.kill(pid, signal.SIGTERM)
        eventually(lambda: not any(map(is_alive, alive)), what="the end of every worker")

        begun = tasks.begun()
        found, absent = tasks.looked_up()
        print(", ".join(f"{count} {how.name}" for how, count in struck_by.items()))
        print(f"{kills} kills, {len(runs)} runs, {len(begun)} tasks; answers lost: {found} begun, {absent} not begun")
        for run_id in runs:
            check(store, run_id, [task for task in begun if task.run == str(run_id)])
        assert {task.run for task in begun} == set(map(str, runs))
        assert store.check() == ()
    assert min(found, absent) > 0, "no kill met a task between its beginning and its record"
    assert errors.read_text() == ""


def check(store: PostgresStore, run_id: RunId, begun: list[Begun]) -> None:
    """What the store says of a run is what the record does."""
    assert store.get(run_id).run.status in (RunStatus.COMPLETED, RunStatus.COMPLETED_WITH_FAILURES)
    assert store.get(run_id).trouble is None
    assert store.strays(run_id) == ()
    found = store.targets(run_id)
    assert len(found) == RACKS
    assert all(target.status in SETTLED for target in found)
    # Nothing twice: one task for each target, and never another of it alive beside it.
    assert Counter(task.target for task in begun) == Counter(str(target.id) for target in found)
    assert {(task.attempt, task.twins) for task in begun} == {(1, 0)}
    # Nothing lost, and no orphan: what the record has is what the targets have, and it ended so.
    assert {task.key: task.status.value for task in begun} == {target.task_id: target.status.value for target in found}
    assert max(task.alive_then for task in begun) <= QUOTA
    entries = store.journal(run_id)
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    check_replay(store, run_id)
    assert sum(bool(entry.steps) for entry in entries) == store.get(run_id).run.revision
