"""The SQLite store where it is more than the memory store: a file, other processes, and people who go round it.

That both mean the same is the conformance suite's subject.
"""

from __future__ import annotations

import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import QueuePool, event

from opdispatch.command import Cancel
from opdispatch.control import control
from opdispatch.decide import decide
from opdispatch.errors import CorruptRecord, InvalidInput, NotFound, Unavailable
from opdispatch.identity import CommandId, RunId, TaskId
from opdispatch.observation import Observation, SubmissionAccepted, SubmissionConflicted, TaskObserved
from opdispatch.run import RunStatus
from opdispatch.state import Limits
from opdispatch.target import TargetStatus
from opdispatch.task import TaskStatus
from opdispatch_adapters.sql import SqliteStore, migrate
from opdispatch_adapters.sql.sqlite.engine import make_file

from .store_kit import NO_WAIT, NOW, a_round, a_run, accepted, in_the_middle, to_its_end


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "runs.db"
    migrate(path)
    return path


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(path, clock=lambda: NOW, patience=timedelta(milliseconds=20)) as store:
        yield store


def by_hand(path: Path, statement: str) -> None:
    """What somebody with a shell does."""
    connection = sqlite3.connect(path)
    try:
        connection.execute(statement)
        connection.commit()
    finally:
        connection.close()


# -- the file and its locks --


def test_what_was_committed_is_there_after_reopening(path: Path, store: SqliteStore) -> None:
    run_id = store.create(a_run()).id
    a_round(store, run_id)
    before = store.get(run_id)

    with SqliteStore(path) as again:
        assert again.get(run_id) == before


def test_the_file_is_in_wal_mode_and_syncs_fully(store: SqliteStore) -> None:
    with store._reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_store_stays_the_same_file_wherever_its_process_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        migrate(tmp_path / name / "store.db")
    monkeypatch.chdir(tmp_path / "a")

    with SqliteStore("store.db", clock=lambda: NOW) as store:
        monkeypatch.chdir(tmp_path / "b")
        run_id = store.create(a_run()).id
        with store.lock(run_id, NO_WAIT) as held:
            # A second connection, opened here.
            assert held is not None
            assert [line.run_id for line in store.list()] == [run_id]
        assert isinstance(store.version(), int)

    with SqliteStore(tmp_path / "b" / "store.db") as other:
        assert other.count() == 0


def test_a_store_that_was_restored_from_a_copy_is_the_store_from_then_on(path: Path, store: SqliteStore) -> None:
    kept = store.create(a_run(name="kept")).id
    seen = store.version()
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(path.with_name("copy"))) as copy:
        source.backup(copy)
    store.create(a_run(name="lost"))

    for ending in ("-wal", "-shm"):
        path.with_name(f"{path.name}{ending}").unlink()
    path.with_name("copy").replace(path)

    assert [line.run_id for line in store.list()] == [kept]
    a_round(store, kept)
    assert store.version() != seen
    with SqliteStore(path) as other:
        assert other.get(kept) == store.get(kept)


def test_a_store_whose_file_is_gone_is_not_available(path: Path, store: SqliteStore) -> None:
    path.unlink()

    with pytest.raises(Unavailable, match="unable to open database file"):
        store.list()


def test_a_number_beyond_all_bounds_is_bad_input(store: SqliteStore) -> None:
    run_id = store.create(a_run()).id
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.list(limit=2**63),
        lambda: store.targets(run_id, offset=2**70),
        lambda: store.due(1, timedelta.max),
    )
    for call in calls:
        with pytest.raises(InvalidInput, match="a number is beyond all bounds"):
            call()
    with store.lock(run_id, timedelta.max) as held:
        assert held is not None
    # What somebody does while a run is held is not the store's to judge.
    with pytest.raises(OverflowError), store.lock(run_id, NO_WAIT):
        raise OverflowError


@pytest.mark.parametrize("name", ["?#%&;'", "two\nlines", b"\xff\xfe".decode("utf-8", "surrogateescape")])
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    migrate(tmp_path / name)

    with SqliteStore(tmp_path / name) as store, SqliteStore(Path(f"/{tmp_path}") / name) as same:
        run_id = store.create(a_run()).id
        assert same.get(run_id).run.id == run_id
        assert same.version() > 0


def test_a_run_that_another_process_holds_is_not_waited_for(path: Path, store: SqliteStore) -> None:
    run_id = store.create(a_run()).id
    with SqliteStore(path) as other, other.lock(run_id, NO_WAIT) as held:
        assert held is not None
        with store.lock(run_id, NO_WAIT) as again:
            assert again is None


def test_a_run_that_is_let_go_in_time_is_locked(path: Path) -> None:
    with SqliteStore(path) as store:
        run_id = store.create(a_run()).id
        locked, let_go = threading.Event(), threading.Event()

        def hold() -> None:
            with store.lock(run_id, NO_WAIT):
                locked.set()
                let_go.wait(10)

        holder = threading.Thread(target=hold)
        holder.start()
        locked.wait(10)
        with store.lock(run_id, NO_WAIT) as refused:
            assert refused is None
        let_go.set()
        with store.lock(run_id, timedelta(seconds=10)) as held:
            assert held is not None
        holder.join()


def test_readers_are_not_disturbed_by_a_writer(store: SqliteStore) -> None:
    run_id = store.create(a_run()).id
    before = store.get(run_id)

    with store.lock(run_id, NO_WAIT) as held:
        assert held is not None
        state = held.load((), Limits())
        held.apply(state, decide(state), actor="dispatcher", served=True)
        assert store.get(run_id) == before

    assert store.get(run_id) != before


def test_a_write_that_waits_too_long_says_so(path: Path, store: SqliteStore) -> None:
    run_id = store.create(a_run()).id
    with SqliteStore(path) as other, other.lock(run_id, NO_WAIT), pytest.raises(Unavailable, match="locked") as refused:
        store.release(run_id)

    assert refused.value.__cause__ is not None


def test_threads_that_read_then_write_never_meet_a_stale_snapshot(path: Path) -> None:
    with SqliteStore(path) as store:
        runs = [store.create(a_run(name=f"c{index}")).id for index in range(4)]
        failures: list[BaseException] = []

        def serve(run_id: RunId) -> None:
            try:
                for _ in range(10):
                    a_round(store, run_id)
            except BaseException as error:  # told by the main thread
                failures.append(error)

        threads = [threading.Thread(target=serve, args=(run_id,)) for run_id in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert failures == []
        assert store.check() == ()


_TOGGLE = """
import sys
from datetime import timedelta
from itertools import count
from uuid import UUID
from opdispatch.command import Pause, Resume
from opdispatch.control import control
from opdispatch.state import Limits
from opdispatch_adapters.sql import SqliteStore

with SqliteStore(sys.argv[1]) as store:
    for number in count():
        asked = (Pause, Resume)[number % 2](command_id=f"{sys.argv[3]}-{number}", actor="child")
        with store.lock(UUID(sys.argv[2]), timedelta(seconds=20)) as held:
            state = held.load((), Limits())
            held.apply(state, control(state, asked), actor="child", served=True)
        print(asked.command_id, flush=True)
"""


def test_a_process_that_is_killed_while_it_writes_leaves_whole_decisions(path: Path, store: SqliteStore) -> None:
    run_id = store.create(a_run(40, quota=10)).id
    for life in range(3):
        arguments = [sys.executable, "-c", _TOGGLE, str(path), str(run_id), str(life)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            told = [child.stdout.readline().strip() for _ in range(5 + life)]
            child.kill()

        journal = store.journal(run_id)
        assert {entry.command.command_id for entry in journal if entry.command} >= set(told)
        assert [entry.number for entry in journal] == list(range(1, len(journal) + 1))
        assert sum(bool(entry.steps) for entry in journal) == store.get(run_id).run.revision
        assert store.check() == ()


def test_a_commit_of_anybody_is_noticed(path: Path, store: SqliteStore) -> None:
    run_id = store.create(a_run()).id
    first = store.version()
    assert store.version() == first

    with SqliteStore(path) as other:
        other.report(run_id, "trouble", lambda _: NO_WAIT, 9)

    assert store.version() != first


# -- errors of the file, in the core's words --


def test_a_full_disk_changes_nothing_and_says_what_to_do(store: SqliteStore) -> None:
    run_id = store.create(a_run()).id
    before = store.get(run_id)
    with store._reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    event.listen(store._engine, "begin", lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={pages}"))

    with pytest.raises(Unavailable, match="free some space"):
        store.create(a_run(400, name="large"))

    assert store.get(run_id) == before
    assert len(store.list()) == 1


def test_a_file_that_may_not_grow_is_told(path: Path) -> None:
    """A file size limit in a child: the write itself fails, as on a broken disk."""
    script = f"""
import resource, signal
from opdispatch.errors import Unavailable
from opdispatch_adapters.sql import SqliteStore
from tests.integration.test_sql_store import a_run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = SqliteStore({str(path)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, {resource.RLIM_INFINITY}))
try:
    store.create(a_run(2000))
except Unavailable as error:
    print(error)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        env={"PYTHONPATH": f"{root / 'src'}:{root}"},
        capture_output=True,
        check=True,
    )

    assert b"is not available" in done.stdout
    with SqliteStore(path) as store:
        assert store.list() == ()


@pytest.mark.parametrize("source", ["elsewhere/runs.db", "sqlite:///elsewhere/runs.db"])
def test_a_store_that_is_not_there_names_the_remedy(source: str) -> None:
    with pytest.raises(Unavailable, match="opdispatch store migrate"):
        SqliteStore(source)


def test_a_text_that_is_not_unicode_is_refused_and_nothing_is_stored(store: SqliteStore) -> None:
    new = a_run()
    odd = replace(new, targets=(replace(new.targets[0], message="\udcff"), *new.targets[1:]))

    with pytest.raises(InvalidInput, match="cannot be stored"):
        store.create(odd)

    assert store.list() == ()


def test_who_fails_to_make_a_store_leaves_alone_what_another_made_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, made = tmp_path / "new.db", []
    # The function has the module's name in its package.
    module = sys.modules[migrate.__module__]

    def slowly(draft: Path) -> None:
        make_file(draft)
        monkeypatch.undo()
        # Another process is quicker, and uses what it made; then this one is interrupted.
        migrate(path)
        with SqliteStore(path) as other:
            made.append(other.create(a_run()).id)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "make_file", slowly)
    with pytest.raises(KeyboardInterrupt):
        migrate(path)

    with SqliteStore(path) as store:
        assert [line.run_id for line in store.list()] == made
    assert [found.name for found in tmp_path.iterdir()] == ["new.db"]


@pytest.mark.parametrize("beginning", ["BEGIN", "BEGIN IMMEDIATE", "SELECT", "UPDATE"])
def test_an_exit_in_a_statement_goes_its_way_and_takes_no_connection_along(store: SqliteStore, beginning: str) -> None:
    # A Ctrl-C, or a signal's handler that exits.
    run_id = store.create(a_run()).id

    def interrupt(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(beginning):
            raise KeyboardInterrupt

    event.listen(store._engine, "before_cursor_execute", interrupt)
    for call in (lambda: store.get(run_id), lambda: a_round(store, run_id), lambda: store.wake(run_id)):
        with suppress(KeyboardInterrupt):
            call()
    event.remove(store._engine, "before_cursor_execute", interrupt)

    assert isinstance(store._engine.pool, QueuePool)
    assert store._engine.pool.checkedout() == 0
    a_round(store, run_id)
    assert store.get(run_id).run.status is RunStatus.RUNNING


# -- records that cannot be read --


def test_a_run_of_a_newer_version_is_told_and_left_as_it_is(path: Path, store: SqliteStore) -> None:
    run_id = store.create(a_run()).id
    by_hand(path, """UPDATE operation_run SET selector = '{"kind": "lottery", "payload": {}}'""")

    with pytest.raises(CorruptRecord, match=f'run {run_id}, column selector .*unknown kind "lottery"'):
        store.get(run_id)
    with pytest.raises(CorruptRecord), store.lock(run_id, NO_WAIT) as held:
        assert held is not None
        held.load((), Limits())


def test_a_run_that_cannot_be_read_is_listed_beside_the_others(path: Path, store: SqliteStore) -> None:
    bad, good = store.create(a_run()).id, store.create(a_run(name="other")).id
    by_hand(path, f"UPDATE operation_run SET options = '{{' WHERE id = '{bad}'")

    listed = {line.run_id: line for line in store.list()}

    assert listed[good].run is not None
    assert listed[good].trouble is None
    assert listed[bad].run is None
    trouble = listed[bad].trouble
    assert trouble is not None
    assert "column options" in trouble.message


def test_a_run_that_cannot_be_read_is_reported_quarantined_and_released(path: Path, store: SqliteStore) -> None:
    run_id = store.create(a_run()).id
    by_hand(path, "UPDATE operation_run SET options = '{'")

    trouble = store.report(run_id, "cannot be read", lambda _: NO_WAIT, 1)

    assert trouble.quarantined_at == NOW
    assert store.due(1, timedelta(seconds=1)) == ()
    assert store.release(run_id)
    assert store.due(1, timedelta(seconds=1)) == (run_id,)


def test_a_journal_entry_that_cannot_be_read_names_its_column(path: Path, store: SqliteStore) -> None:
    run_id = store.create(a_run()).id
    a_round(store, run_id)
    by_hand(path, "UPDATE operation_run_journal SET steps = '[]'")

    with pytest.raises(CorruptRecord, match="journal entry 1, column steps"):
        store.journal(run_id)


def test_an_instant_that_is_none_is_told(path: Path, store: SqliteStore) -> None:
    run_id = store.create(a_run()).id
    by_hand(path, "UPDATE operation_run SET wake_at = 'tomorrow'")

    with pytest.raises(CorruptRecord, match="tomorrow"):
        store.get(run_id)


@pytest.mark.parametrize(
    ("table", "column", "read"),
    [
        ("operation_run", "wake_at", SqliteStore.get),
        ("operation_run", "wake_at", SqliteStore.unsettled),
        ("operation_run_phase", "failed", SqliteStore.get),
        ("operation_run_target", "components_by_type", SqliteStore.targets),
        ("operation_run_journal", "at", SqliteStore.journal),
    ],
)
def test_an_error_that_somebody_keeps_keeps_no_old_snapshot(
    path: Path, store: SqliteStore, table: str, column: str, read: Callable[[SqliteStore, RunId], object]
) -> None:
    # Its traceback holds the frames that it passed, and they hold a cursor whose rows were not all read.
    run_id = store.create(a_run()).id
    decision = a_round(store, run_id)
    a_round(store, run_id, *accepted(decision))
    sound = read(store, run_id)
    by_hand(path, f"CREATE TABLE kept AS SELECT rowid AS place, {column} AS value FROM {table}")
    by_hand(path, f"UPDATE {table} SET {column} = 'tomorrow'")
    with pytest.raises(CorruptRecord) as kept:
        read(store, run_id)

    by_hand(path, f"UPDATE {table} SET {column} = (SELECT value FROM kept WHERE place = {table}.rowid)")

    assert read(store, run_id) == sound
    assert kept.value.__traceback__ is not None


# -- people who go round the Python --


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("UPDATE operation_run SET status = 'paussed'", "operation_run_status_check"),
        ("UPDATE operation_run SET status_reason = 'mood'", "operation_run_status_reason_check"),
        ("UPDATE operation_run SET status = 'completed'", "operation_run_finished_check"),
        ("UPDATE operation_run SET current_phase_index = -1", "operation_run_current_phase_index_check"),
        ("UPDATE operation_run SET current_phase_index = 5", "operation_run_opened_phase_check"),
        ("UPDATE operation_run SET revision = -1", "operation_run_revision_check"),
        ("UPDATE operation_run SET quarantined_at = created_at", "operation_run_error_check"),
        ("UPDATE operation_run SET operator_hold = 2", "operation_run_operator_hold_check"),
        ("UPDATE operation_run_target SET status = 'done'", "operation_run_target_status_check"),
        ("UPDATE operation_run_target SET lease_until = created_at", "operation_run_target_lease_check"),
        ("UPDATE operation_run_target SET retry_at = created_at", "operation_run_target_retry_check"),
        ("UPDATE operation_run_target SET status = 'submitted', fence = 1", "operation_run_target_task_check"),
        ("UPDATE operation_run_target SET task_ref = 't'", "operation_run_target_task_check"),
        (
            "UPDATE operation_run_target SET status = 'claimed', lease_until = created_at",
            "operation_run_target_fence_check",
        ),
        ("UPDATE operation_run_target SET attempt = 0", "operation_run_target_attempt_check"),
        ("UPDATE operation_run_target SET conflict_since = created_at", "operation_run_target_conflict_check"),
        ("UPDATE operation_run_target SET cancel_due = created_at", "operation_run_target_cancel_check"),
        ("UPDATE operation_run_target SET sequence_index = 0", "operation_run_target.sequence_index"),
        ("UPDATE operation_run_target SET rack_id = 'x'", "operation_run_target.rack_id"),
        ("UPDATE operation_run_phase SET pending = -1", "operation_run_phase_counts_check"),
        ("UPDATE operation_run_phase SET next_seq = -1", "operation_run_phase_cursors_check"),
    ],
)
def test_the_database_refuses_what_cannot_be(path: Path, store: SqliteStore, statement: str, constraint: str) -> None:
    store.create(a_run())

    with pytest.raises(sqlite3.IntegrityError, match=constraint):
        by_hand(path, statement)


def test_a_command_is_journalled_once(path: Path, store: SqliteStore) -> None:
    run_id = store.create(a_run()).id
    asked = Cancel(command_id=CommandId("c1"), actor="ada")
    with store.lock(run_id, NO_WAIT) as held:
        assert held is not None
        state = held.load((), Limits())
        held.apply(state, control(state, asked), actor="ada", served=True)
    before = store.get(run_id)

    with pytest.raises(CorruptRecord, match=r"operation_run_journal\.command_id"), store.lock(run_id, NO_WAIT) as held:
        assert held is not None
        state = held.load((), Limits())
        held.apply(state, control(state, asked), actor="ada", served=True)

    assert store.get(run_id) == before
    assert len(store.journal(run_id)) == 1


def test_counters_that_were_changed_by_hand_are_found(path: Path, store: SqliteStore) -> None:
    run_id = store.create(a_run()).id
    a_round(store, run_id)
    by_hand(path, "UPDATE operation_run_phase SET completed = 3, in_flight = '[1,4]', next_seq = 4")

    found = store.check()

    assert found == (
        f"run {run_id}, phase 0: 3 targets are counted as completed, and 0 are",
        f"run {run_id}, phase 0: targets in flight are noted at 1, 4, and stand at 0, 1",
        f"run {run_id}, phase 0: a pending target stands at 2, below 4",
    )


def test_a_run_whose_counters_miss_a_target_in_flight_is_not_decided_on(path: Path, store: SqliteStore) -> None:
    run_id = store.create(a_run()).id
    a_round(store, run_id)
    by_hand(path, "UPDATE operation_run_phase SET in_flight = '[1]'")

    with pytest.raises(CorruptRecord, match="2 targets are counted in flight, and 1 are"):
        a_round(store, run_id)


def test_a_decision_is_applied_only_to_the_state_that_was_loaded_last(store: SqliteStore) -> None:
    run_id = store.create(a_run()).id

    with pytest.raises(ValueError, match="applied once"), store.lock(run_id, NO_WAIT) as held:
        assert held is not None
        state = held.load((), Limits())
        decision = decide(state)
        held.apply(state, decision, actor="a", served=True)
        held.apply(state, decision, actor="a", served=True)

    assert store.get(run_id).run.revision == 0


def test_the_lock_of_a_run_that_is_not_there_is_refused(store: SqliteStore) -> None:
    nobody = a_run().run.id

    with pytest.raises(NotFound), store.lock(nobody, NO_WAIT):
        pass

    assert store.create(a_run()).id == nobody


# -- mirrors for other readers (flow-storage contract, 4.3) --


def _mirrors(path: Path) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(
            "SELECT status, task_id, retry_after, retry_state FROM operation_run_target ORDER BY sequence_index"
        ).fetchall()
    finally:
        connection.close()


def test_other_readers_find_the_columns_that_they_know(path: Path, store: SqliteStore) -> None:
    run_id = store.create(a_run(3, quota=2)).id
    first, second = accepted(a_round(store, run_id))
    assert isinstance(first, SubmissionAccepted)
    assert isinstance(second, SubmissionAccepted)
    assert _mirrors(path)[0] == ("claimed", None, "2026-01-01T00:00:30.000000Z", None)

    task = "0b9f6a52-0000-4000-8000-000000000001"
    busy = SubmissionConflicted(
        target_id=second.target_id, attempt=second.attempt, fence=second.fence, message="rack busy"
    )
    a_round(store, run_id, replace(first, task_id=TaskId(task)), busy)

    state = '{"blocked_since":"2026-01-01T00:00:00.000000Z","attempts":1,"last_retry_delay_seconds":30}'
    assert _mirrors(path)[:2] == [
        ("submitted", task, None, None),
        ("blocked", None, "2026-01-01T00:00:30.000000Z", state),
    ]


def test_mirrors_are_never_read_back(path: Path, store: SqliteStore) -> None:
    run_id = store.create(a_run()).id
    a_round(store, run_id)
    before = store.targets(run_id)

    by_hand(path, "UPDATE operation_run_target SET retry_after = NULL, retry_state = '{', task_id = 'none'")
    by_hand(path, "UPDATE operation_run SET operation_type = 'x', operation_code = 'y'")

    assert store.targets(run_id) == before


# -- cost --


def _statements(store: SqliteStore, count: int, quota: int) -> tuple[int, int, int]:
    """How many statements a claiming, a recording and a cancelling round take, begin and commit included."""
    run_id = store.create(a_run(count, quota=quota, name=f"{count} {quota}")).id
    seen: list[str] = []

    def record(*arguments: Any) -> None:
        seen.append(arguments[2])

    event.listen(store._engine, "before_cursor_execute", record)
    counts = []
    decision = a_round(store, run_id)
    counts.append(len(seen))
    seen.clear()
    a_round(store, run_id, *accepted(decision))
    counts.append(len(seen))
    seen.clear()
    with store.lock(run_id, NO_WAIT) as held:
        assert held is not None
        state = held.load((), Limits())
        held.apply(state, control(state, Cancel(command_id=CommandId("c"), actor="ada")), actor="ada", served=True)
    counts.append(len(seen))
    event.remove(store._engine, "before_cursor_execute", record)
    return counts[0], counts[1], counts[2]


def test_the_number_of_statements_depends_on_no_size(store: SqliteStore) -> None:
    small = _statements(store, 12, 2)

    assert _statements(store, 600, 2) == small
    assert _statements(store, 600, 200) == small
    assert max(small) <= 16


def test_no_statement_of_a_round_scans_the_targets(store: SqliteStore) -> None:
    run_id = store.create(a_run(50, quota=5)).id
    plans: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE")):
            some = parameters[0] if isinstance(parameters, list) else parameters
            plan_of = connection.connection.driver_connection.execute(f"EXPLAIN QUERY PLAN {statement}", some)
            plans.extend(f"{row[3]}" for row in plan_of.fetchall())

    event.listen(store._engine, "before_cursor_execute", explain)
    decision = a_round(store, run_id)
    conflicts = [
        SubmissionConflicted(target_id=found.target_id, attempt=1, fence=1, message="busy")
        for found in accepted(decision)
        if isinstance(found, SubmissionAccepted)
    ]
    a_round(store, run_id, *conflicts)
    a_round(store, run_id)
    store.due(1, timedelta(seconds=1))

    assert not [line for line in plans if line.startswith("SCAN operation_run")]
    used = " ".join(plans)
    for index in ("line", "again", "blocked"):
        assert f"idx_operation_run_target_{index}" in used
    assert "idx_operation_run_due" in used


def test_a_run_goes_through_to_its_end(store: SqliteStore) -> None:
    run_id = store.create(a_run(5, quota=2)).id
    seen: list[Observation] = []
    for _ in range(8):
        seen = accepted(a_round(store, run_id, *seen))
        for found in store.targets(run_id, statuses={TargetStatus.SUBMITTED}):
            assert found.task_id is not None
            over = TaskObserved(
                target_id=found.id, task_id=found.task_id, status=TaskStatus.COMPLETED, message="", looked_at=NOW
            )
            seen.append(over)

    assert store.get(run_id).run.status is RunStatus.COMPLETED
    assert store.check() == ()


# -- revisions --


def test_a_run_in_the_middle_goes_on_after_its_tables_went_back_and_forth(path: Path, store: SqliteStore) -> None:
    run_id = in_the_middle(store)
    store.close()

    migrate(path, "0002")

    connection = sqlite3.connect(path)
    cursors = connection.execute("SELECT low_seq, high_seq, next_seq FROM operation_run_phase").fetchall()
    connection.close()
    # The first is tried again; the second and the third are at work.
    assert cursors == [(1, 3, 0)]

    migrate(path)
    with SqliteStore(path, clock=lambda: NOW) as again:
        assert again.check() == ()
        to_its_end(again, run_id)
        assert again.check() == ()
