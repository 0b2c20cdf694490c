"""Runs that ended long ago go, whole and without a trace, or leave a line for each row behind."""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from opdispatch.action import SubmitTask
from opdispatch.command import Advance, Cancel
from opdispatch.errors import InvalidInput, NotFound, Unavailable
from opdispatch.identity import CommandId, RunId
from opdispatch.observation import Observation
from opdispatch.plan import NewRun, new_run, plan
from opdispatch.policy.phases import EqualPhases
from opdispatch.run import RunStatus
from opdispatch.state import Limits
from opdispatch.target import TargetStatus
from opdispatch.task import Operation
from opdispatch_adapters.sql import PostgresStore, SqliteStore, migrate
from opdispatch_adapters.sql.retention import SCHEMA, Pruned, prune
from opdispatch_adapters.sql.schema import journal, metadata, phase, run, stray, target
from opdispatch_adapters.sql.store import SqlStore
from tests.racks import racks

from .store_kit import NO_WAIT, NOW, a_command, a_round, a_run, accepted, over

MONTH = timedelta(days=30)
LATER = NOW + 2 * MONTH


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Callable[[], SqlStore]]:
    """Opens the store of the test, any number of times."""
    stores: list[SqlStore] = []
    if request.param == "sqlite":
        migrate(tmp_path / "store.db")
        make: Callable[[], SqlStore] = lambda: SqliteStore(tmp_path / "store.db", clock=clock)  # noqa: E731
    else:
        url = request.getfixturevalue("postgres_url")
        make = lambda: PostgresStore(url, clock=clock)  # noqa: E731

    def opened() -> SqlStore:
        stores.append(make())
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Callable[[], SqlStore]) -> SqlStore:
    return opened()


def finish(store: SqlStore, new: NewRun, now: datetime = NOW) -> RunId:
    """Take a run to its end."""
    run_id = store.create(new).id
    seen: list[Observation] = []
    while not (found := store.get(run_id).run).status.is_terminal:
        if found.status is RunStatus.PAUSED:
            asked = CommandId(f"advance {found.phase}")
            advance = Advance(command_id=asked, actor="operator", expected_phase=found.phase + 1)
            assert a_command(store, run_id, advance).accepted
        seen = accepted(a_round(store, run_id, *seen)) or over(
            store.targets(run_id, statuses={TargetStatus.SUBMITTED}), now
        )
    return run_id


def left(store: SqlStore) -> dict[str, int]:
    """How many rows each table has, those that have any."""
    with store._reading() as connection:
        counts = {
            name: connection.scalar(select(func.count()).select_from(table)) for name, table in metadata.tables.items()
        }
    return {name.removeprefix("operation_"): count for name, count in counts.items() if count}


def change(store: SqlStore, statement: Any) -> None:
    with store._writing() as connection:
        connection.execute(statement)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- what goes --


def test_a_run_that_ended_long_ago_goes_with_all_that_hangs_on_it(store: SqlStore, clock: Clock) -> None:
    run_id = finish(store, a_run(4))
    entries = len(store.journal(run_id))
    clock.now = LATER

    done = prune(store, MONTH)

    assert done == Pruned(runs=1, targets=4, entries=entries)
    assert left(store) == {}
    with pytest.raises(NotFound):
        store.get(run_id)
    assert prune(store, MONTH) == Pruned()


def test_what_is_young_or_goes_on_or_is_not_over_stays(store: SqlStore, clock: Clock) -> None:
    going = store.create(a_run(2, name="going")).id
    flying = store.create(a_run(2, name="flying")).id
    seen = accepted(a_round(store, flying))
    a_round(store, flying, *seen)
    reply = a_command(store, flying, Cancel(command_id=CommandId("c"), actor="operator"))
    assert reply.accepted
    straying = finish(store, a_run(2, name="straying"))
    one = store.targets(straying)[0]
    a_stray = insert(stray).values(
        operation_run_id=straying,
        task_ref="lost",
        target_id=one.id,
        cancel_due=NOW,
        cancel_delay_us=timedelta(seconds=1),
        is_open=True,
        message="",
    )
    change(store, a_stray)
    clock.now = LATER
    young = finish(store, a_run(2, name="young"), LATER)
    old = finish(store, a_run(2, name="old"), LATER)
    change(store, update(run).where(run.c.id == old).values(finished_at=NOW))

    assert prune(store, MONTH, dry_run=True).runs == 1
    assert prune(store, MONTH, batch=1).runs == 1

    assert {one.run_id for one in store.list()} == {going, flying, straying, young}
    change(store, update(stray).values(is_open=False))
    assert prune(store, MONTH).runs == 1
    assert {one.run_id for one in store.list()} == {going, flying, young}
    assert store.check() == ()


def test_a_dry_run_counts_and_changes_nothing(store: SqlStore, clock: Clock, tmp_path: Path) -> None:
    ids = [finish(store, a_run(3, name=name)) for name in ("a", "b")]
    entries = sum(len(store.journal(run_id)) for run_id in ids)
    clock.now = LATER
    before = left(store)

    done = prune(store, MONTH, dry_run=True, archive=tmp_path / "archive")

    assert done == Pruned(runs=2, targets=6, entries=entries)
    assert left(store) == before
    assert not (tmp_path / "archive").exists()


def test_a_run_that_is_made_again_is_another_one_for_who_knew_the_first(
    opened: Callable[[], SqlStore], clock: Clock
) -> None:
    # The same request, but the racks are more by now, and what is done to them is something else.
    store, other = opened(), opened()
    first = a_run(4)
    run_id = store.create(first).id
    with other.lock(run_id, NO_WAIT) as held:
        assert held is not None
        held.load((), Limits())
    finish(store, first)
    with other.lock(run_id, NO_WAIT) as held:
        assert held is not None
        held.load((), Limits())
    clock.now = LATER
    assert prune(store, MONTH).runs == 1
    downgrade = Operation(type="firmware_control", code="downgrade")
    more = plan(racks(10), replace(first.run.rollout, operation=downgrade))
    assert store.create(new_run(more, command_id=CommandId("create"), actor="operator", now=LATER)).id == run_id

    decision = a_round(other, run_id)
    requests = [effect.request for effect in decision.effects if isinstance(effect, SubmitTask)]

    assert [request.operation for request in requests] == [downgrade] * 2
    assert store.get(run_id).phases[0].pending == 8
    assert store.check() == ()


def test_a_run_that_somebody_holds_is_left_for_the_next_time(
    opened: Callable[[], SqlStore], store: SqlStore, clock: Clock
) -> None:
    if isinstance(store, SqliteStore):
        # There a writer holds every run, and whoever prunes waits for it.
        store._patience = timedelta(milliseconds=50)
    held, free = (finish(store, a_run(2, name=name)) for name in ("held", "free"))
    clock.now = LATER
    with opened().lock(held, NO_WAIT) as lock:
        assert lock is not None
        if isinstance(store, SqliteStore):
            with pytest.raises(Unavailable):
                prune(store, MONTH)
        else:
            assert prune(store, MONTH).runs == 1
            assert [one.run_id for one in store.list()] == [held]

    assert prune(store, MONTH).runs == (2 if isinstance(store, SqliteStore) else 1)
    assert left(store) == {}
    assert free != held


def test_the_runs_that_ended_last_can_be_kept_whatever_their_age(store: SqlStore, clock: Clock) -> None:
    ended = []
    for hour, name in enumerate(("a", "b", "c")):
        clock.now = NOW + timedelta(hours=hour)
        ended.append(finish(store, a_run(2, name=name), clock.now))
    going = store.create(a_run(2, name="going")).id
    clock.now = LATER

    counts = [prune(store, MONTH, keep=keep, dry_run=True).runs for keep in (0, 1, 2, 3, 9)]
    done = prune(store, MONTH, keep=2, batch=1)

    assert counts == [3, 2, 1, 0, 0]
    assert done.runs == 1
    assert {one.run_id for one in store.list()} == {*ended[1:], going}
    assert store.check() == ()


def test_an_age_beyond_all_time_is_older_than_any_run(store: SqlStore) -> None:
    finish(store, a_run(2))

    assert prune(store, timedelta.max) == Pruned()


def test_less_than_none_cannot_be_kept(store: SqlStore) -> None:
    with pytest.raises(InvalidInput, match="below zero"):
        prune(store, MONTH, keep=-1)


@pytest.mark.parametrize("bound", [{"batch": 0}, {"rows": 0}, {"older_than": NO_WAIT}])
def test_a_bound_is_above_zero(store: SqlStore, bound: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="is not above zero"):
        prune(store, **{"older_than": MONTH, **bound})


# -- slices --


class Interrupted(Exception):
    pass


def interrupt_after(monkeypatch: pytest.MonkeyPatch, store: SqlStore, transactions: int) -> None:
    """The process is killed in the transaction after so many."""
    writing, count = store._writing, 0

    def counted() -> Any:
        nonlocal count
        if count == transactions:
            raise Interrupted
        count += 1
        return writing()

    monkeypatch.setattr(store, "_writing", counted)


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_an_interrupted_removal_leaves_what_fits_together_and_the_next_one_ends_it(
    store: SqlStore, clock: Clock, rows: int, tmp_path: Path
) -> None:
    run_id = finish(store, a_run(6, phases=EqualPhases(count=3)))
    a_small = finish(store, a_run(1, name="small"))
    entries = len(store.journal(run_id)) + len(store.journal(a_small))
    change(store, update(run).where(run.c.id == run_id).values(finished_at=NOW - timedelta(seconds=1)))
    clock.now = LATER
    archive = tmp_path / "archive.jsonl"
    steps = 0
    while left(store):
        before = sum(left(store).values())
        with pytest.MonkeyPatch.context() as patch:
            interrupt_after(patch, store, 1)
            with pytest.raises(Interrupted):
                prune(store, MONTH, archive=archive, rows=rows)
        assert store.check() == ()
        counts = left(store)
        # The counters of the phases and the run itself go together, in one more step.
        assert 0 < before - sum(counts.values()) <= rows + 4
        steps += 1

    assert steps >= (entries + 7) / (rows + 1)
    found = lines(archive)
    assert Counter(one["table"] for one in found) == {
        journal.name: entries,
        target.name: 7,
        phase.name: 4,
        run.name: 2,
    }
    assert [one["row"]["id"] for one in found if one["table"] == run.name] == [str(run_id), str(a_small)]


# -- the file --


def test_the_file_has_every_row_as_it_is_and_the_run_last(store: SqlStore, clock: Clock, tmp_path: Path) -> None:
    run_id = finish(store, a_run(2))
    clock.now = LATER
    archive = tmp_path / "archive.jsonl"

    prune(store, MONTH, archive=archive)

    found = lines(archive)
    assert {one["schema"] for one in found} == {SCHEMA}
    whole = found[-1]
    assert (whole["table"], whole["row"]["id"]) == ("operation_run", str(run_id))
    assert whole["row"]["finished_at"] == NOW.isoformat()
    assert whole["row"]["options"]["max_concurrent_targets"] == 2
    rows = [one["row"] for one in found if one["table"] == "operation_run_target"]
    assert [row["status"] for row in rows] == ["completed", "completed"]
    assert archive.stat().st_mode & 0o777 == 0o600


def test_a_document_that_cannot_be_read_is_kept_as_the_text_that_it_is(tmp_path: Path, clock: Clock) -> None:
    migrate(tmp_path / "store.db")
    with SqliteStore(tmp_path / "store.db", clock=clock) as store:
        finish(store, a_run(1))
        change(store, update(run).values(options="{not json"))
        clock.now = LATER

        prune(store, MONTH, archive=tmp_path / "archive")

    assert lines(tmp_path / "archive")[-1]["row"]["options"] == "{not json"


def test_a_wait_is_kept_in_microseconds(store: SqlStore, clock: Clock, tmp_path: Path) -> None:
    run_id = finish(store, a_run(1))
    change(
        store,
        insert(stray).values(
            operation_run_id=run_id,
            task_ref="old",
            target_id=store.targets(run_id)[0].id,
            cancel_due=NOW,
            cancel_delay_us=timedelta(seconds=1),
            is_open=False,
            message="ended",
        ),
    )
    clock.now = LATER

    prune(store, MONTH, archive=tmp_path / "archive")

    (row,) = [one["row"] for one in lines(tmp_path / "archive") if one["table"] == "operation_run_stray"]
    assert row["cancel_delay_us"] == 1_000_000
    assert row["is_open"] is False


def test_a_line_that_was_cut_off_does_not_spoil_the_next(store: SqlStore, clock: Clock, tmp_path: Path) -> None:
    finish(store, a_run(1))
    clock.now = LATER
    archive = tmp_path / "archive"
    archive.write_text('{"whole":1}\n{"cut')

    prune(store, MONTH, archive=archive)
    store.create(a_run(1, name="again"))
    prune(store, MONTH, archive=archive)

    first, cut, *rest = archive.read_text().split("\n")
    assert (first, cut) == ('{"whole":1}', '{"cut')
    assert all(json.loads(line)["schema"] == SCHEMA for line in rest[:-1])
    assert rest[-1] == ""


def test_nothing_is_removed_that_is_not_on_the_disk(
    store: SqlStore, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(store, a_run(2))
    clock.now = LATER
    before, synced = left(store), os.fsync
    calls = 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(28, "No space left on device")
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space left on device"):
        prune(store, MONTH, archive=tmp_path / "archive")

    assert left(store) == before
    monkeypatch.undo()
    assert prune(store, MONTH, archive=tmp_path / "archive").runs == 1
    keys = [(one["table"], json.dumps(one["row"])) for one in lines(tmp_path / "archive")]
    assert len(set(keys)) * 2 == len(keys)


def test_an_archive_is_one_process_s_at_a_time(store: SqlStore, tmp_path: Path) -> None:
    with (tmp_path / "archive").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="another process writes to it"):
            prune(store, MONTH, archive=tmp_path / "archive")


def test_a_store_is_no_archive_of_itself(tmp_path: Path, clock: Clock) -> None:
    migrate(tmp_path / "store.db")
    (tmp_path / "link").hardlink_to(tmp_path / "store.db")
    with SqliteStore(tmp_path / "store.db", clock=clock) as store:
        finish(store, a_run())
        clock.now = LATER
        for name in ("store.db", "store.db-wal", "link"):
            with pytest.raises(InvalidInput, match=r"archive: .* is a file of the store itself"):
                prune(store, MONTH, archive=tmp_path / name)
        assert store.count() == 1


def test_an_archive_that_cannot_be_opened_is_a_mistake(store: SqlStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file or directory"):
        prune(store, MONTH, archive=tmp_path / "nowhere" / "archive")
