"""What the database does with writes that are not ours: obeyed, filled in, passed over or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError

from opdispatch.identity import RunId
from opdispatch.run import RunStatus
from opdispatch.state import Limits
from opdispatch.target import TargetStatus
from opdispatch_adapters.sql import PostgresSettings, PostgresStore, adopt, migrate
from opdispatch_adapters.sql.postgres import guards
from opdispatch_adapters.sql.postgres.settings import CHANNEL
from tests.postgres import Server

from .adoption_kit import created, foreign, reference_database, row_of, serve, statuses
from .reference_seeds import COMPONENTS, documents, rack_id, run_id, target_id, task_id
from .reference_statements import (
    advance,
    cancel,
    claim,
    delete_task,
    finish,
    idle_pass,
    insert_row,
    lock_for_control,
    pause,
    record_blocked,
    record_failed,
    record_submitted,
    resume,
    update_run,
)
from .store_kit import a_run

BEGUN: Final = datetime.now(UTC)
REFUSED: Final = "this database is served by opdispatch; "
UNBEGUN: Final = {"new": "first", "every row": "pending"}
"""A target of each of these runs that nobody has begun."""
OURS: Final = "SELECT set_config('opdispatch.writer', 'on', true)"


@pytest.fixture
def url(postgres_server: Server) -> Iterator[str]:
    """A seeded database of the reference, adopted and not served yet."""
    with reference_database(postgres_server) as found:
        adopt(found)
        yield found


@pytest.fixture(scope="module")
def kept_url(postgres_server: Server) -> Iterator[str]:
    """One such database for all tests whose writes come to nothing."""
    with reference_database(postgres_server) as found:
        adopt(found)
        yield found


def _do(url: str, statement: str, **values: Any) -> None:
    with foreign(url) as connection:
        connection.execute(text(statement), values)


def _target(url: str, run: str, label: str) -> Row[Any]:
    with foreign(url) as connection:
        query = text("SELECT * FROM operation_run_target WHERE id = :id")
        return connection.execute(query, {"id": target_id(run, label)}).one()


def _quiet(url: str, *runs: str) -> None:
    """As if these runs had been served: due at no time."""
    listed = ", ".join(f"'{run_id(run)}'" for run in runs)
    _do(url, f"{OURS}; UPDATE operation_run SET wake_at = NULL WHERE id IN ({listed})")


def _is_obeyed(before: Row[Any], after: Row[Any]) -> None:
    assert after.revision == before.revision + 1
    assert BEGUN < after.decided_at <= after.wake_at


# -- controls --


def test_an_idle_pass_of_the_reference_changes_nothing_but_when_it_was(url: str) -> None:
    _quiet(url, "every row")
    before = row_of(url, "every row")

    with foreign(url) as connection:
        idle_pass(connection, run_id("every row"))

    after = row_of(url, "every row")
    assert after.updated_at > before.updated_at
    assert {**after._mapping, "updated_at": before.updated_at} == dict(before._mapping)


@pytest.mark.parametrize("run", ["new", "every row"])
def test_a_pause_of_the_reference_is_an_operators_hold(url: str, run: str) -> None:
    _quiet(url, run)
    before = row_of(url, run)

    with foreign(url) as connection:
        pause(connection, run_id(run))

    after = row_of(url, run)
    _is_obeyed(before, after)
    assert (after.status, after.operator_hold, after.started_at) == ("paused", True, before.started_at)
    serve(url)
    assert statuses(url)[run] == ("paused", "operator_paused")
    assert _target(url, run, UNBEGUN[run]).status == "pending"


@pytest.mark.parametrize("run", ["operator", "safety", "conflict", "paused"])
def test_a_resume_of_the_reference_releases_the_stored_holds(url: str, run: str) -> None:
    _quiet(url, run)
    before = row_of(url, run)

    with foreign(url) as connection:
        resume(connection, run_id(run))

    after = row_of(url, run)
    _is_obeyed(before, after)
    assert (after.status, after.operator_hold, after.conflict_hold) == ("running", False, None)
    assert after.resumed_at >= before.updated_at
    assert after.started_at is not None


def test_a_resumed_conflict_is_tried_at_once_with_its_history_forgotten(url: str) -> None:
    assert _target(url, "conflict", "first").conflict_count == 3

    with foreign(url) as connection:
        resume(connection, run_id("conflict"))

    found = _target(url, "conflict", "first")
    assert (found.conflict_since, found.conflict_count, found.conflict_delay_us, found.retry_state) == (None,) * 4
    assert found.retry_at == found.retry_after > BEGUN


def test_a_resume_leaves_a_tripped_gate_to_the_next_decision(url: str) -> None:
    with foreign(url) as connection:
        resume(connection, run_id("safety"))

    serve(url)

    assert statuses(url)["safety"] == ("paused", "safety_gate")


def test_an_advance_of_the_reference_opens_the_next_phase(url: str) -> None:
    _quiet(url, "gate")
    before = row_of(url, "gate")

    with foreign(url) as connection:
        advance(connection, run_id("gate"))

    after = row_of(url, "gate")
    _is_obeyed(before, after)
    assert (after.status, after.current_phase_index, after.opened_phase) == ("running", 1, 1)
    serve(url)
    assert statuses(url)["gate"] == ("completed", "none")


@pytest.mark.parametrize("run", ["new", "every row", "operator", "gate"])
def test_a_cancel_of_the_reference_is_drained(url: str, run: str) -> None:
    _quiet(url, run)
    before, now = row_of(url, run), datetime.now(UTC)

    with foreign(url) as connection:
        cancel(connection, run_id(run), now)

    after = row_of(url, run)
    _is_obeyed(before, after)
    assert (after.status, after.status_reason, after.finished_at) == ("cancelled", "none", now)
    serve(url)
    with PostgresStore(url) as store:
        found = store.targets(RunId(run_id(run)))
    assert all(target.status.is_settled for target in found)
    assert {target.status for target in found} & {TargetStatus.SKIPPED}


def test_a_cancel_without_an_end_is_given_one(url: str) -> None:
    _do(url, "UPDATE operation_run SET status = 'cancelled', status_reason = 'safety_gate' WHERE name = 'new'")

    found = row_of(url, "new")

    assert found.finished_at > BEGUN
    assert found.status_reason == "none"


@pytest.mark.parametrize(
    "control",
    [
        lambda connection: pause(connection, run_id("new")),
        lambda connection: resume(connection, run_id("operator")),
        lambda connection: advance(connection, run_id("gate")),
        lambda connection: cancel(connection, run_id("gate"), BEGUN),
        lambda connection: created(connection, [rack_id(0)], [0]),
    ],
    ids=["pause", "resume", "advance", "cancel", "create"],
)
def test_what_is_obeyed_is_heard(url: str, control: Callable[[Connection], object]) -> None:
    with psycopg.connect(url, autocommit=True) as ear:
        ear.execute(f"LISTEN {CHANNEL}")
        with foreign(url) as connection:
            control(connection)
            found = connection.scalars(
                text("SELECT id FROM operation_run WHERE xmin = pg_current_xact_id()::xid")
            ).all()

        heard = [UUID(notify.payload) for notify in ear.notifies(timeout=30, stop_after=1)]

    assert heard == found


# -- what is refused --


def _led(run: str, **changes: Any) -> Callable[[Connection], object]:
    return lambda connection: update_run(connection, lock_for_control(connection, run_id(run)), **changes)


def _said(statement: str) -> Callable[[Connection], object]:
    return lambda connection: connection.execute(text(statement))


_PENDING: Final = target_id("every row", "pending")
_GATE: Final = {"status": "running", "status_reason": "none"}


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda c: claim(c, _PENDING, BEGUN), "update of operation_run_target by others is refused"),
        (lambda c: record_failed(c, _PENDING, "no"), "update of operation_run_target"),
        (lambda c: record_blocked(c, _PENDING, BEGUN, timedelta(seconds=1), "busy"), "update of operation_run_target"),
        (lambda c: record_submitted(c, _PENDING, task_id("operator", "first")), "update of operation_run_target"),
        (_said("UPDATE operation_run_target SET task_id = NULL"), "update of operation_run_target"),
        (_said("DELETE FROM operation_run_target"), "delete of operation_run_target"),
        (_said("TRUNCATE operation_run CASCADE"), "truncate of operation_run"),
        (_said("UPDATE operation_run_phase SET pending = 0"), "update of operation_run_phase"),
        (_said("DELETE FROM operation_run_phase"), "delete of operation_run_phase"),
        (_said("DELETE FROM operation_run_journal"), "delete of operation_run_journal"),
        (_said("DELETE FROM operation_run_stray"), "delete of operation_run_stray"),
        (_said("DELETE FROM operation_run WHERE name = 'new'"), "delete of operation_run by others"),
        (lambda c: finish(c, run_id("every row"), "completed", BEGUN), "from running .none, phase 0. to completed"),
        (lambda c: finish(c, run_id("gate"), "failed", BEGUN), "to failed"),
        (_led("new", status="running"), "from pending .none, phase 0. to running"),
        (_led("every row", status="paused", status_reason="safety_gate"), "to paused .safety_gate"),
        (_led("every row", status="paused", status_reason="phase_gate"), "to paused .phase_gate"),
        (_led("every row", current_phase_index=1), "running .none, phase 1"),
        (_led("gate", **_GATE), "from paused .phase_gate, phase 0. to running .none, phase 0"),
        (_led("gate", **_GATE, current_phase_index=2), "to running .none, phase 2"),
        (_led("operator", **_GATE, current_phase_index=1), "to running .none, phase 1"),
        (_led("operator", status_reason="phase_gate"), "to paused .phase_gate"),
        (_led("completed", status="cancelled", finished_at=BEGUN), "from completed"),
        (_led("cancelled", status="running", finished_at=None), "from cancelled"),
        (_said("UPDATE operation_run SET options = '{}' WHERE name = 'new'"), "others may not change options of run"),
        (_said("UPDATE operation_run SET revision = 9, wake_at = now()"), "others may not change revision, wake_at"),
    ],
)
def test_what_would_dispatch_behind_our_back_is_refused(
    kept_url: str, write: Callable[[Connection], object], told: str
) -> None:
    def everything() -> list[Any]:
        with foreign(kept_url) as connection:
            tables = ("operation_run", "operation_run_target")
            return [connection.execute(text(f"SELECT * FROM {table} ORDER BY id")).all() for table in tables]

    before = everything()

    with pytest.raises(DBAPIError, match=f"{REFUSED}.*{told}"), foreign(kept_url) as connection:
        write(connection)

    assert everything() == before


def test_a_refusal_says_what_may_be_done(kept_url: str) -> None:
    with pytest.raises(DBAPIError) as refused, foreign(kept_url) as connection:
        claim(connection, _PENDING, BEGUN)

    assert "HINT:  Stop the other dispatcher." in str(refused.value.orig)
    assert getattr(refused.value.orig, "sqlstate", None) == "55000"


def test_a_trigger_of_somebody_else_is_no_way_round(url: str) -> None:
    _do(
        url,
        "CREATE FUNCTION sly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " UPDATE operation_run_target SET status = 'skipped'; RETURN NULL; END $$;"
        " CREATE TRIGGER sly AFTER UPDATE ON task FOR EACH ROW EXECUTE FUNCTION sly()",
    )

    with pytest.raises(DBAPIError, match="update of operation_run_target by others"):
        _do(url, "UPDATE task SET message = 'm'")


# -- runs of others --


def test_a_run_of_others_is_counted_when_it_is_whole(url: str) -> None:
    with foreign(url) as connection:
        run = created(connection, [rack_id(2), rack_id(14), rack_id(1)], [0, 1, 1])
        assert (
            connection.scalar(text("SELECT count(*) FROM operation_run_phase WHERE operation_run_id = :r"), {"r": run})
            == 0
        )

    with PostgresStore(url) as store:
        overview = store.get(run)
        assert [tally.pending for tally in overview.phases] == [1, 2]
        assert [target.rack_name for target in store.targets(run)] == ["r2", str(rack_id(14)), "r1"]
        assert overview.wake_at is not None
        assert store.check() == ()
        with store.lock(run, timedelta(0)) as held:
            assert held is not None
            assert held.load((), Limits()).run.revision == 0


def test_what_is_ours_in_a_run_of_others_is_as_in_any_new_run(url: str) -> None:
    with foreign(url) as connection:
        chosen = documents()
        run = insert_row(
            connection,
            "operation_run",
            {
                **chosen,
                "name": "n",
                "operation_type": "t",
                "operation_code": "c",
                "total_phases": 0,
                "revision": 7,
                "decided_at": BEGUN,
                "operator_hold": True,
                "command_id": "theirs",
                "error_count": 3,
                "error_message": "m",
                "error_at": BEGUN,
            },
        )

    with PostgresStore(url) as store:
        found = store.get(RunId(run))
    assert (found.run.revision, found.run.decided_at, found.run.operator_hold, found.trouble) == (0, None, False, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "running"},
        {"status_reason": "safety_gate"},
        {"current_phase_index": 1},
        {"started_at": BEGUN},
        {"status": "cancelled", "finished_at": BEGUN},
    ],
)
def test_a_run_of_others_begins_at_its_beginning(kept_url: str, changes: dict[str, Any]) -> None:
    with pytest.raises(DBAPIError, match=f"{REFUSED}a run begins pending, in phase 0"), foreign(kept_url) as connection:
        row = {**documents(), "name": "n", "operation_type": "t", "operation_code": "c", "total_phases": 1, **changes}
        insert_row(connection, "operation_run", row)


def _new_target(run: UUID, **changes: Any) -> dict[str, Any]:
    row = {"operation_run_id": run, "rack_id": UUID(int=9), "sequence_index": 99, "phase_index": 0}
    return {**row, "components_by_type": dict(COMPONENTS), **changes}


@pytest.mark.parametrize("changes", [{"status": "skipped"}, {"task_id": task_id("operator", "first")}])
def test_a_target_of_others_begins_at_its_beginning(kept_url: str, changes: dict[str, Any]) -> None:
    with pytest.raises(DBAPIError, match=f"{REFUSED}a target begins pending"), foreign(kept_url) as connection:
        run = created(connection, [rack_id(0)], [0])
        insert_row(connection, "operation_run_target", _new_target(run, **changes))


@pytest.mark.parametrize("run", ["new", "every row", "completed"])
def test_the_targets_of_a_run_that_was_there_before_are_frozen(kept_url: str, run: str) -> None:
    with pytest.raises(DBAPIError, match=f"{REFUSED}the targets of run {run_id(run)} are frozen"):  # noqa: SIM117
        with foreign(kept_url) as connection:
            insert_row(connection, "operation_run_target", _new_target(run_id(run)))


def test_a_run_of_others_that_comes_to_nothing_leaves_nothing(kept_url: str) -> None:
    with foreign(kept_url) as connection:
        nested = connection.begin_nested()
        run = created(connection, [rack_id(0)], [0])
        nested.rollback()

    with PostgresStore(kept_url) as store:
        assert store.check() == ()
        assert run not in {found.run_id for found in store.list()}


def test_a_database_of_our_own_takes_runs_and_controls_of_others_too(postgres_url: str) -> None:
    with foreign(postgres_url) as connection:
        created(connection, [rack_id(0), rack_id(1)], [0, 0])

    tasks = serve(postgres_url)

    assert statuses(postgres_url) == {"created": ("completed", "none")}
    assert {request.rack_name for request in tasks.submitted} == {str(rack_id(0)), str(rack_id(1))}


# -- what goes --


@pytest.mark.parametrize("writer", ["", f"{OURS}; "], ids=["others", "ours"])
def test_a_run_that_has_ended_can_be_deleted_with_all_that_hangs_on_it(url: str, writer: str) -> None:
    serve(url)

    _do(url, f"{writer}DELETE FROM operation_run WHERE name IN ('every row', 'mixed', 'cancelled')")

    with PostgresStore(url) as store:
        assert store.check() == ()
        assert not {"every row", "mixed", "cancelled"} & {found.name for found in store.list()}


def test_a_purge_of_tasks_goes_through(url: str) -> None:
    with foreign(url) as connection:
        delete_task(connection, task_id("every row", "submitted"))
        connection.execute(text("DELETE FROM task"))
        assert connection.scalar(text("SELECT count(*) FROM operation_run_target WHERE task_id IS NOT NULL")) == 0


# -- ours --


def test_our_own_store_is_let_through_behind_a_pooler_too(postgres_url: str) -> None:
    with PostgresStore(postgres_url, settings=PostgresSettings(pooler=True)) as store:
        run = store.create(a_run(name="pooled"))
        assert store.get(run.id).run.status is RunStatus.PENDING
        assert store.due(1, timedelta(seconds=30)) == (run.id,)


def test_nothing_of_a_guard_is_left_below_its_revision(postgres_url: str) -> None:
    query = text(
        "SELECT tgname FROM pg_trigger WHERE tgname LIKE 'opdispatch%' UNION ALL"
        " SELECT proname FROM pg_proc WHERE proname LIKE 'opdispatch%'"
    )
    with foreign(postgres_url) as connection:
        assert connection.scalars(query).all() != []

    migrate(postgres_url, "0001")

    with foreign(postgres_url) as connection:
        assert connection.scalars(query).all() == []
    migrate(postgres_url)


def test_guards_can_be_put_up_again(postgres_url: str) -> None:
    with foreign(postgres_url) as connection:
        guards.install(connection, has_racks=False)
        guards.install(connection, has_racks=False)

    with foreign(postgres_url) as connection:
        created(connection, [rack_id(0)], [0])


def test_the_guards_find_our_tables_whatever_the_caller_looks_at_first(url: str) -> None:
    with foreign(url) as connection:
        connection.execute(text("CREATE SCHEMA other"))
        connection.execute(text("CREATE TABLE other.operation_run_phase (LIKE operation_run_phase)"))
        connection.execute(text("SET LOCAL search_path = other, public"))
        created(connection, [rack_id(0)], [0])

    with PostgresStore(url) as store:
        assert store.check() == ()
