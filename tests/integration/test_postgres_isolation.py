"""What one run or one host does to the others on PostgreSQL: nothing but its share of the time.

The bound is the driver's: a pass takes the runs that are due by the time since when they are, and serves each once.
So a run that can be served waits, for each of its ticks, for at most one attempt of every run that was due before it;
one in quarantine is not due.  How many passes it takes to its end does not depend on the others.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import psycopg
import pytest

from opdispatch.identity import RunId
from opdispatch.run import RunStatus
from opdispatch_adapters.dispatcher import Dispatcher, Settings
from opdispatch_adapters.sql import PostgresStore

from .recorded_worker import is_alive, tasks_on, workers
from .store_kit import NOW, a_run
from .test_dispatcher import InstantTasks
from .test_kills import create
from .waiting import eventually

DEEP: Final = os.environ.get("OPDISPATCH_DEEP") == "1"
QUARANTINED: Final = 1000
FAILING: Final = 1000 if DEEP else 250
FAILING_IN_A_LOOP: Final = 1000 if DEEP else 100
GOOD: Final = 10
PASSES: Final = 2
"""As many as a run of four racks, all at once, takes to its end: one that claims, and one that settles."""
UNREADABLE: Final = """{"kind": "lottery", "payload": {}}"""


class Clock:
    """The store's, which a test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self):  # type: ignore[no-untyped-def]  # an instant
        return self.now

    def monotonic(self) -> float:
        return (self.now - NOW).total_seconds()


def unreadable_runs(url: str, count: int, *, quarantined: bool) -> None:
    """So many copies of the one run that there is, of which nobody can read what they are made from."""
    trouble = ", error_count = 10, error_message = 'm', error_at = created_at, quarantined_at = created_at"
    with psycopg.connect(url, options="-c session_replication_role=replica") as connection:
        row = connection.execute(
            "SELECT string_agg(attname, ', ') FROM pg_attribute WHERE attrelid = 'operation_run'::regclass"
            " AND attnum > 0 AND NOT attisdropped AND attname NOT IN ('id', 'command_id', 'selector')"
        ).fetchone()
        assert row is not None
        copied = f"""INSERT INTO operation_run (id, command_id, selector, {row[0]})
            SELECT gen_random_uuid(), 'bad ' || n, %s, {row[0]} FROM operation_run, generate_series(1, %s) n"""
        connection.execute(copied.encode(), [UNREADABLE, count])
        connection.execute("DELETE FROM operation_run WHERE command_id = 'model'")
        if quarantined:
            connection.execute(f"UPDATE operation_run SET wake_at = created_at{trouble}".encode())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(postgres_url: str, clock: Clock) -> Iterator[PostgresStore]:
    with PostgresStore(postgres_url, clock=clock) as store:
        yield store


def bad_and_good(url: str, clock: Clock, store: PostgresStore, bad: int, *, quarantined: bool) -> list[RunId]:
    """The good ones come last, when all others are due already."""
    store.create(a_run(1, name="model"))
    unreadable_runs(url, bad, quarantined=quarantined)
    clock.now += timedelta(seconds=1)
    return [store.create(a_run(quota=4, name=f"good {number}")).id for number in range(GOOD)]


@pytest.mark.parametrize(
    ("bad", "quarantined"), [(QUARANTINED, True), (FAILING, False)], ids=["quarantined", "failing"]
)
def test_runs_that_cannot_be_read_cost_the_others_no_pass(
    postgres_url: str, clock: Clock, store: PostgresStore, bad: int, quarantined: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    good = bad_and_good(postgres_url, clock, store, bad, quarantined=quarantined)
    tasks = InstantTasks()
    dispatcher = Dispatcher(store, tasks, Settings(), actor="d", monotonic=clock.monotonic, jitter=lambda: 1.0)

    began, failed = time.monotonic(), []
    for _ in range(PASSES):
        done = dispatcher.run_once()
        assert set(done.served) == set(good)
        failed.append(len(done.failed))
        clock.now += timedelta(seconds=10)
    took = time.monotonic() - began
    print(f"{bad} bad runs, {failed} attempts of them in {PASSES} passes, {GOOD} good ones done in {took:.1f} s")

    assert {store.get(run_id).run.status for run_id in good} == {RunStatus.COMPLETED}
    assert len({request.key for request in tasks.submitted}) == len(tasks.submitted) == 4 * GOOD
    # Each was tried once in a pass, less and less often, and never by the way of the good ones.
    assert failed == [0 if quarantined else bad] * PASSES
    listed = store.list(limit=2 * bad)
    assert Counter(line.run is None for line in listed) == {True: bad, False: GOOD}
    assert {line.trouble.count for line in listed if line.trouble is not None} == {10 if quarantined else PASSES}


def test_runs_that_fail_again_and_again_are_left_alone_in_the_end(
    postgres_url: str, clock: Clock, store: PostgresStore, caplog: pytest.LogCaptureFixture
) -> None:
    """All that broken runs can ever cost is so many attempts each."""
    caplog.set_level(logging.CRITICAL)
    store.create(a_run(1, name="model"))
    unreadable_runs(postgres_url, 20, quarantined=False)
    settings = Settings(quarantine_after=4)
    dispatcher = Dispatcher(store, InstantTasks(), settings, monotonic=clock.monotonic, jitter=lambda: 1.0)

    failed = []
    for _ in range(8):
        failed.append(len(dispatcher.run_once().failed))
        clock.now += timedelta(minutes=5)

    assert failed == [20, 20, 20, 20, 0, 0, 0, 0]
    assert store.next_due() is None


def test_a_loop_serves_the_good_ones_among_many_that_fail(
    postgres_url: str, clock: Clock, store: PostgresStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The same in real time, with the loop and the store's own clock."""
    caplog.set_level(logging.CRITICAL)
    bad_and_good(postgres_url, clock, store, FAILING_IN_A_LOOP, quarantined=False)
    with PostgresStore(postgres_url) as opened:
        good = [line.run_id for line in opened.list(limit=2000) if line.run is not None]
        began = time.monotonic()
        settings = Settings(poll=timedelta(seconds=0.5))
        with Dispatcher(opened, InstantTasks(), settings, listen=opened.listening):
            eventually(
                lambda: all(opened.get(run_id).run.status.is_terminal for run_id in good),
                patience_seconds=250 if DEEP else 60,
            )
        print(f"{len(good)} good runs ended in {time.monotonic() - began:.1f} s beside {FAILING_IN_A_LOOP} that fail")

    assert len(good) == GOOD


# -- clocks --


def test_the_clocks_of_the_hosts_decide_nothing(postgres_url: str, tmp_path: Path) -> None:
    """Two dispatchers, one of them an hour ahead: no lease ends before its time, and every instant is the store's."""
    record, errors, module = tmp_path / "record", tmp_path / "errors", "tests.integration.shifted_worker"
    tasks, runs = tasks_on(record), list[RunId]()
    with (
        PostgresStore(postgres_url) as store,
        workers(postgres_url, record, errors, module=module, environment={"SHIFT": "0"}) as right,
        workers(postgres_url, record, errors, module=module, environment={"SHIFT": "3600"}) as ahead,
        psycopg.connect(postgres_url, autocommit=True) as connection,
    ):
        asked = "SELECT clock_timestamp()"
        began = connection.execute(asked).fetchone()
        alive = [right.start(), ahead.start()]

        def both_took_part() -> bool:
            for run_id in runs:
                eventually(lambda run_id=run_id: store.get(run_id).run.status.is_terminal)  # type: ignore[misc]
            return len({entry.actor for run_id in runs for entry in store.journal(run_id)}) == 2

        while not both_took_part() or len(runs) < 6:
            assert len(runs) < 60
            runs.extend(create(store, f"run{len(runs) + more}", count=10) for more in range(3))
        for pid in alive:
            os.kill(pid, signal.SIGTERM)
        eventually(lambda: not any(map(is_alive, alive)))
        ended = connection.execute(asked).fetchone()

        assert began is not None
        assert ended is not None
        entries = [entry for run_id in runs for entry in store.journal(run_id)]
        assert all(began[0] <= entry.at <= ended[0] for entry in entries)
        # One host's clock is right, give or take the test's own time, and the other one's is not.
        hosts = sorted({float(entry.actor.removeprefix("host at ")) for entry in entries})
        assert 3000 < hosts[1] - hosts[0] < 4200
        assert store.check() == ()
        begun = tasks.begun()
        assert tasks.looked_up() == (0, 0)
        assert {(task.attempt, task.twins) for task in begun} == {(1, 0)}
        assert len(begun) == 10 * len(runs) == tasks.last_request()[0]
    assert errors.read_text() == ""
