"""A database that the reference made: adopted from every state of its migrations, served, given back, adopted again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from opdispatch.errors import CorruptRecord, InvalidInput, NotFound, Unavailable
from opdispatch.identity import RunId, TaskId
from opdispatch.query import RunQuery
from opdispatch.run import RunStatus
from opdispatch.state import Limits
from opdispatch.target import Blocked, Claimed, Conflict, Pending, Settled, Submitted, Target, TargetStatus
from opdispatch_adapters.sql import Adoption, PostgresStore, adopt, migrate, open_store
from opdispatch_adapters.sql.postgres.reference import ReferenceStore
from tests.postgres import Server

from .adoption_kit import created, foreign, reference_database, row_of, serve, statuses
from .reference_database import HEAD, STATES, bring_to, columns_of
from .reference_seeds import RUNS, SEEDED_AT, claim_now, documents, rack_id, run_id, target_id, task_id
from .reference_statements import advance, cancel, delete_task, pause, record_submitted, resume, submit_task
from .store_kit import a_run

WITH_CLAIMS = "20260626120000"
WITH_KEYS = "20260709120000"
WITH_POINTERS = "20260713000000"
DIFFERING = (STATES[0], WITH_POINTERS, HEAD)
"""The states with the fewest columns, with some and with all."""
COMPLETED, FAILED, CANCELLED = ("completed", "none"), ("failed", "none"), ("cancelled", "none")
MIXED = ("completed_with_failures", "none")
AT_GATE, BY_OPERATOR = ("paused", "phase_gate"), ("paused", "operator_paused")
BY_CONFLICT, BY_GATE = ("paused", "conflict_retry_timeout"), ("paused", "safety_gate")
SERVED = {
    "new": AT_GATE,
    "every row": MIXED,
    "garbage": ("running", "none"),
    "operator": BY_OPERATOR,
    "paused": BY_OPERATOR,
    "gate": AT_GATE,
    "trapped": AT_GATE,
    "safety": BY_GATE,
    "conflict": BY_CONFLICT,
    "conflict without a text": BY_CONFLICT,
    "advanced": MIXED,
    "completed": COMPLETED,
    "mixed": MIXED,
    "cancelled": CANCELLED,
    "failed": FAILED,
    "without an end": FAILED,
    "with an end": COMPLETED,
    "gaps": FAILED,
    "empty": FAILED,
}
"""Where each seeded run comes to when nobody commands it."""
CATALOG = """
SELECT 'column', c.relname || '.' || a.attname, format_type(a.atttypid, a.atttypmod) || a.attnotnull
        || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d
        ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL SELECT 'constraint', conrelid::regclass::text || conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(oid) || tgenabled::text FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'function', proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT 'options', relname, array_to_string(reloptions, ',') FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND reloptions IS NOT NULL
ORDER BY 1, 2, 3
"""
"""Everything that a migration can leave behind."""


@pytest.fixture
def url(postgres_server: Server) -> Iterator[str]:
    """A seeded database at the newest state, not adopted."""
    with reference_database(postgres_server) as found:
        yield found


def _catalog(url: str) -> list[tuple[Any, ...]]:
    with foreign(url) as connection:
        return [tuple(row) for row in connection.execute(text(CATALOG))]


def _rows(url: str, table: str) -> dict[UUID, dict[str, Any]]:
    with foreign(url) as connection:
        return {row["id"]: dict(row) for row in connection.execute(text(f"SELECT * FROM {table}")).mappings()}


def _change(url: str, statement: str, **values: Any) -> None:
    with foreign(url) as connection:
        connection.execute(text(statement), values)


# -- there and back --


@pytest.mark.parametrize("state", STATES)
def test_a_database_is_adopted_served_given_back_and_adopted_again(postgres_server: Server, state: str) -> None:
    with reference_database(postgres_server, state) as url:
        before = _catalog(url)

        found = adopt(url)
        serve(url)

        assert (found.state, found.before, found.after) == (state, "base", "0003")
        assert (found.runs, found.targets) == (len(RUNS), sum(len(run.targets) for run in RUNS.values()))
        expected = dict(SERVED)
        if state < WITH_CLAIMS:
            expected["mixed"] = FAILED
        if state < WITH_POINTERS:
            # The pointer that such a state lacks passes over the gap.
            expected["gaps"] = COMPLETED
        assert statuses(url) == expected
        assert row_of(url, "garbage").error_count > 0
        targets = _rows(url, "operation_run_target")

        assert migrate(url, "base") == ("0003", "base")

        assert _catalog(url) == before
        if state < WITH_CLAIMS:
            expected = {name: FAILED if found == MIXED else found for name, found in expected.items()}
        assert statuses(url) == expected
        for this, row in _rows(url, "operation_run_target").items():
            assert row["status"] == targets[this]["status"]
            components = row.get("component_filter") or row.get("components_by_type")
            assert components == targets[this]["components_by_type"]

        again = adopt(url)
        serve(url)

        assert statuses(url) == expected
        assert "phase pointer led back to the phase that the run finished" not in again.healed or state < WITH_POINTERS


@pytest.mark.parametrize("state", STATES)
def test_what_was_not_served_is_given_back_as_it_was(postgres_server: Server, state: str) -> None:
    healed = {
        ("trapped", "current_phase_index"),
        ("without an end", "finished_at"),
        ("with an end", "finished_at"),
        ("every row", "claimed with a task"),
        ("cancelled", "claimed with a task"),
        ("every row", "submitted, task deleted"),
        ("advanced", "second"),
    }
    with reference_database(postgres_server, state) as url:
        runs, targets = _rows(url, "operation_run"), _rows(url, "operation_run_target")

        adopt(url)
        migrate(url, "base")

        changed = {
            (row["name"], column)
            for this, row in _rows(url, "operation_run").items()
            for column, value in row.items()
            if value != runs[this][column]
        }
        names = {target_id(run, target.label): (run, target.label) for run in RUNS for target in RUNS[run].targets}
        changed |= {names[this] for this, row in _rows(url, "operation_run_target").items() if row != targets[this]}
        assert changed <= healed
        assert ("without an end", "finished_at") in changed


def test_the_narrow_statuses_come_back_with_the_row_changes_of_the_reference(postgres_server: Server) -> None:
    with reference_database(postgres_server, STATES[1]) as url:
        adopt(url)
        _change(
            url,
            "SELECT set_config('opdispatch.writer', 'on', true);"
            " UPDATE operation_run SET status = 'completed_with_failures', status_message = 'm' WHERE name = 'failed';"
            " UPDATE operation_run_target SET status = 'claimed', fence = 1, lease_until = now(), retry_after = now(),"
            f" message = 'claimed for submission' WHERE id = '{target_id('new', 'first')}'",
        )
        before = row_of(url, "failed")

        migrate(url, "base")

        found, target = row_of(url, "failed"), _rows(url, "operation_run_target")[target_id("new", "first")]
        assert (found.status, found.status_message, found.finished_at) == ("failed", "m", before.finished_at)
        assert found.updated_at > before.updated_at
        assert [target[c] for c in ("status", "message", "retry_after", "retry_state")] == ["pending", None, None, None]


# -- the rows --


def _targets(url: str, name: str) -> dict[str, Target]:
    with PostgresStore(url) as store:
        found: dict[UUID, Target] = {target.id: target for target in store.targets(RunId(run_id(name)))}
    return {target.label: found[target_id(name, target.label)] for target in RUNS[name].targets}


def test_targets_arrive_as_what_they_were(url: str) -> None:
    done = adopt(url)

    found = _targets(url, "every row")

    deleted = "its task was deleted, and nobody knows how it ended"
    since = datetime(2026, 3, 2, 8, 0, 0, 123456, tzinfo=UTC)
    conflict = Conflict(since=since, count=3, delay=timedelta(seconds=120))
    assert found["pending"].state == Pending()
    assert found["claimed"].state == Claimed(lease_until=SEEDED_AT - timedelta(seconds=1))
    assert found["claimed with a task"].state == Submitted(
        task_id=TaskId(str(task_id("every row", "claimed with a task")))
    )
    assert isinstance(found["claimed without a lease"].state, Claimed)
    assert (found["blocked"].state, found["blocked"].conflict) == (Blocked(retry_at=SEEDED_AT), conflict)
    for label in ("blocked without a state", "blocked with garbage", "blocked with a list"):
        assert (found[label].state, found[label].conflict) == (Blocked(retry_at=SEEDED_AT), None)
    assert found["submitted"].task_id == str(task_id("every row", "submitted"))
    assert (found["submitted, task deleted"].state, found["submitted, task deleted"].message) == (
        Settled(status=TargetStatus.FAILED),
        deleted,
    )
    assert found["terminated"].task_id == str(task_id("every row", "terminated"))
    assert (found["failed at submission"].task_id, found["skipped"].fence) == (None, 0)
    assert (found["pending"].rack_name, found["skipped"].rack_name) == ("r0", str(rack_id(14)))
    assert {target.fence for target in found.values() if target.status.holds_slot} == {1}
    assert done.healed == {
        "phase pointer led back to the phase that the run finished": 1,
        "end filled in or taken away, as the status says": 2,
        "claimed target whose task was found by its key": 2,
        "submitted target whose task was deleted, failed": 2,
    }


def test_runs_arrive_with_the_holds_that_paused_them(url: str) -> None:
    adopt(url)

    with PostgresStore(url) as store:
        runs = {listed.name: store.get(listed.run_id) for listed in store.list() if listed.run is not None}

    held = {name for name, found in runs.items() if found.run.operator_hold}
    conflicts = {name: found.run.conflict_hold for name, found in runs.items() if found.run.conflict_hold}
    assert held == {"operator", "paused"}
    assert conflicts == {
        "conflict": "target x blocked by rack conflict for 1h0m0s",
        "conflict without a text": "a rack conflict lasted too long",
    }
    assert {name for name, found in runs.items() if found.wake_at is None} == {
        "completed",
        "mixed",
        "failed",
        "without an end",
    }
    assert (runs["trapped"].run.phase, runs["gate"].run.phase, runs["advanced"].run.opened) == (0, 0, 1)
    assert runs["every row"].run.rollout.conflict.initial_delay == timedelta(minutes=10, microseconds=1)


def test_a_run_whose_gate_the_migration_moved_on_waits_for_its_advance(url: str) -> None:
    with foreign(url) as connection:
        bring_to(connection, WITH_KEYS)
        bring_to(connection)
    assert row_of(url, "gate").current_phase_index == 1

    adopt(url)
    serve(url)

    assert (row_of(url, "gate").current_phase_index, statuses(url)["gate"]) == (0, AT_GATE)
    with foreign(url) as connection:
        advance(connection, run_id("gate"))
    serve(url)
    assert (row_of(url, "gate").current_phase_index, statuses(url)["gate"]) == (1, COMPLETED)


def test_a_run_whose_safety_hold_the_migration_moved_on_stays_held(url: str) -> None:
    with foreign(url) as connection:
        bring_to(connection, WITH_KEYS)
        bring_to(connection)
    assert row_of(url, "safety").current_phase_index == 1

    adopt(url)
    serve(url)

    assert (row_of(url, "safety").current_phase_index, statuses(url)["safety"]) == (0, BY_GATE)


def test_a_run_at_a_gate_that_is_in_no_phase_is_refused_by_its_id(url: str) -> None:
    stuck = (
        "UPDATE operation_run SET status = 'paused', status_reason = 'phase_gate' WHERE name IN ('new', 'every row')"
    )
    _change(url, stuck)
    before = _catalog(url)

    with pytest.raises(CorruptRecord) as refused:
        adopt(url)

    assert {str(run_id("new")), str(run_id("every row"))} <= set(refused.value.what.replace(",", "").split())
    assert "let its status_reason be operator_paused" in refused.value.remedy
    assert _catalog(url) == before


def test_a_number_of_phases_that_is_too_small_is_raised(url: str) -> None:
    _change(url, "UPDATE operation_run SET total_phases = 1 WHERE name = 'new'")

    assert adopt(url).healed["number of phases raised to that of the targets"] == 1

    assert row_of(url, "new").total_phases == 2


def test_a_claim_that_the_dispatcher_of_the_reference_just_made_is_left_until_its_lease_ends(url: str) -> None:
    with foreign(url) as connection:
        until = claim_now(connection, "new", "first")

    adopt(url)

    state = _targets(url, "new")["first"].state
    assert isinstance(state, Claimed)
    assert abs(state.lease_until - until) < timedelta(seconds=1)
    # What it was about to submit, and to record, comes too late.
    with foreign(url) as connection, pytest.raises(DBAPIError, match="insert of task by others is refused"):
        submit_task(connection, target_id("new", "first"), rack_id(0), {})
    with foreign(url) as connection, pytest.raises(DBAPIError, match="update of operation_run_target by others"):
        record_submitted(connection, target_id("new", "first"), task_id("every row", "submitted"))


def test_without_keys_a_claim_that_stands_is_waited_for(postgres_server: Server) -> None:
    with reference_database(postgres_server, WITH_CLAIMS) as url:
        with foreign(url) as connection:
            claim_now(connection, "new", "first")

        with pytest.raises(Unavailable, match=r"a claim of it stands until \S+ UTC; stop its service"):
            adopt(url)

        _change(url, "UPDATE operation_run_target SET retry_after = now() WHERE status = 'claimed'")
        adopt(url)
        assert isinstance(_targets(url, "new")["first"].state, Claimed)


# -- going on --


def test_every_run_comes_to_its_end_under_the_controls_of_the_reference(url: str) -> None:
    adopt(url)
    serve(url)

    for _ in range(2):
        for name, found in statuses(url).items():
            with foreign(url) as connection:
                if found == AT_GATE:
                    advance(connection, run_id(name))
                elif found in (BY_OPERATOR, BY_CONFLICT):
                    resume(connection, run_id(name))
        serve(url)
    with foreign(url) as connection:
        cancel(connection, run_id("safety"), datetime.now(UTC))
        cancel(connection, run_id("garbage"), datetime.now(UTC))
    serve(url)

    ended = statuses(url)
    assert {name for name, (status, _) in ended.items() if not RunStatus(status).is_terminal} == set()
    held = ("new", "operator", "paused", "gate", "trapped", "conflict", "conflict without a text")
    assert {ended[name] for name in held} == {COMPLETED}


@pytest.mark.parametrize("state", DIFFERING)
def test_a_run_that_the_reference_creates_is_dispatched(postgres_server: Server, state: str) -> None:
    with reference_database(postgres_server, state) as url:
        adopt(url)
        with foreign(url) as connection:
            run = created(connection, [rack_id(0), rack_id(1), rack_id(14)], [0, 1, 1])

        tasks = serve(url)

        assert statuses(url)["created"] == COMPLETED
        named = {request.rack_name for request in tasks.submitted if request.run_id == run}
        assert named == {"r0", "r1", str(rack_id(14))}
        with PostgresStore(url) as store:
            overview = store.get(run)
            assert [tally.completed for tally in overview.phases] == [1, 2]


def test_a_service_of_the_oldest_state_creates_runs_by_its_own_columns(postgres_server: Server) -> None:
    with reference_database(postgres_server, STATES[0], seeded=False) as url:
        adopt(url)
        with foreign(url) as connection:
            run = connection.scalar(
                text(
                    "INSERT INTO operation_run (name, selector, options, operation_template, operation_type,"
                    " operation_code) SELECT 'old', s, o, t, 'firmware_control', 'upgrade' FROM (VALUES (CAST(:s AS"
                    " jsonb), CAST(:o AS jsonb), CAST(:t AS jsonb))) v (s, o, t) RETURNING id"
                ),
                _documents(),
            )
            connection.execute(
                text(
                    "INSERT INTO operation_run_target (operation_run_id, rack_id, sequence_index, phase_index,"
                    " component_filter) SELECT :run, gen_random_uuid(), i, i, jsonb_build_object('Compute',"
                    " jsonb_build_array(gen_random_uuid())) FROM generate_series(0, 1) i"
                ),
                {"run": run},
            )

        tasks = serve(url)

        assert statuses(url) == {"old": COMPLETED}
        assert [list(request.components) for request in tasks.submitted] == [["Compute"], ["Compute"]]


def _documents() -> dict[str, str]:
    found = documents(auto_advance=True)
    return {key[0]: json.dumps(found[name]) for key, name in zip("sot", found, strict=True)}


def test_a_deleted_task_nulls_what_its_target_shows_and_not_what_it_is_followed_by(url: str) -> None:
    adopt(url)
    task = task_id("every row", "submitted")

    with foreign(url) as connection:
        delete_task(connection, task)

    row = _rows(url, "operation_run_target")[target_id("every row", "submitted")]
    assert (row["status"], row["task_id"], row["task_ref"]) == ("submitted", None, str(task))


def test_the_service_creates_runs_whoever_adopted_its_database(postgres_server: Server) -> None:
    with reference_database(postgres_server, seeded=False) as url:
        role = f"flow_{url.rpartition('_')[2][:8]}"
        with foreign(url) as connection:
            connection.execute(text(f"CREATE ROLE {role}"))
            for table in ("operation_run", "operation_run_target", "task", "rack", "migrations"):
                connection.execute(text(f"ALTER TABLE {table} OWNER TO {role}"))
            connection.execute(text(f"GRANT CREATE ON SCHEMA public TO {role}"))

        adopt(url)
        with foreign(url) as connection:
            connection.execute(text(f"SET LOCAL ROLE {role}"))
            run = created(connection, [rack_id(0)], [0])
        with foreign(url) as connection:
            connection.execute(text(f"SET LOCAL ROLE {role}"))
            pause(connection, run)
            resume(connection, run)
        serve(url)

        assert statuses(url) == {"created": COMPLETED}
        migrate(url, "base")
        with foreign(url) as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))


# -- going back --


def test_what_the_reference_would_do_again_is_not_given_back(url: str) -> None:
    adopt(url)
    with foreign(url) as connection:
        delete_task(connection, task_id("every row", "submitted"))
    before = _catalog(url)

    with pytest.raises(Unavailable, match=f"target {target_id('every row', 'submitted')} is submitted; pause the runs"):
        migrate(url, "base")

    assert _catalog(url) == before
    serve(url)
    migrate(url, "base")


def test_a_claim_of_ours_and_an_open_stray_are_not_given_back(url: str) -> None:
    adopt(url)
    ours = "SELECT set_config('opdispatch.writer', 'on', true);"
    _change(url, f"{ours} UPDATE operation_run SET revision = 1, decided_at = now() WHERE name = 'every row'")
    stray = (
        f"{ours} INSERT INTO operation_run_stray (operation_run_id, task_ref, target_id, cancel_due, cancel_delay_us,"
        f" is_open, message) VALUES ('{run_id('failed')}', 'other', '{target_id('failed', 'first')}', now(), 1, true,"
        " '')"
    )
    _change(url, stray)

    with pytest.raises(Unavailable) as refused:
        migrate(url, "base")

    assert "is claimed" in refused.value.detail
    assert "task other is still to be cancelled" in refused.value.detail


def test_a_service_that_was_renewed_meanwhile_keeps_the_name_that_it_uses(postgres_server: Server) -> None:
    with reference_database(postgres_server, STATES[0]) as url:
        adopt(url)
        _change(url, "INSERT INTO migrations (id, name, hash) VALUES ('20260624120000', 'n', 'h')")

        migrate(url, "base")

        with foreign(url) as connection:
            assert "components_by_type" in columns_of(connection, "operation_run_target")
            assert "component_filter" not in columns_of(connection, "operation_run_target")


def test_a_task_of_another_manager_does_not_stand_in_the_way_back(url: str) -> None:
    adopt(url)
    serve(url)
    assert any(row["task_id"] for row in _rows(url, "operation_run_target").values())

    migrate(url, "base")

    with foreign(url) as connection:
        known = set(connection.scalars(text("SELECT id FROM task")))
    assert {row["task_id"] for row in _rows(url, "operation_run_target").values()} - {None} <= known


# -- what is adopted --


def test_an_adoption_is_asked_for(url: str) -> None:
    for touch in (lambda: migrate(url), lambda: migrate(url, "base"), lambda: PostgresStore(url)):
        with pytest.raises(Unavailable, match="they are not adopted; run `opdispatch store adopt`"):
            touch()


def test_a_second_adoption_tells_what_the_first_one_did(url: str) -> None:
    first = adopt(url)

    second = adopt(url)

    assert second == Adoption(
        state=HEAD, before="0003", after="0003", runs=first.runs, targets=first.targets, healed=first.healed
    )


def test_a_database_of_our_own_is_not_adopted(postgres_url: str, postgres_server: Server) -> None:
    with pytest.raises(InvalidInput, match="the reference made no tables in it"):
        adopt(postgres_url)
    empty = postgres_server.create()
    with pytest.raises(InvalidInput, match="run `opdispatch store migrate`"):
        adopt(empty)
    postgres_server.drop(empty)
    with pytest.raises(InvalidInput, match="only a PostgreSQL database can be adopted"):
        adopt("runs.db")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("ALTER TABLE operation_run ADD COLUMN soak integer", r"table operation_run .*\(soak\)"),
        ("ALTER TABLE operation_run_target DROP COLUMN message", r"table operation_run_target .*\(message\)"),
        ("DROP TABLE migrations", "not the reference's tables task and migrations"),
    ],
)
def test_tables_of_a_state_that_is_not_known_are_left_alone(url: str, change: str, told: str) -> None:
    _change(url, change)
    before = _catalog(url)

    with pytest.raises(CorruptRecord, match=told):
        adopt(url)

    assert _catalog(url) == before


def test_a_database_without_racks_names_them_by_their_ids(url: str) -> None:
    _change(url, "DROP TABLE rack")

    adopt(url)

    assert _targets(url, "new")["first"].rack_name == str(rack_id(0))
    with foreign(url) as connection:
        created(connection, [rack_id(1)], [0])
    assert {request.rack_name for request in serve(url).submitted} >= {str(rack_id(1))}


# -- without an adoption --


@pytest.mark.parametrize("state", DIFFERING)
def test_a_database_that_is_not_adopted_is_read(postgres_server: Server, state: str) -> None:
    with reference_database(postgres_server, state) as url, open_store(url) as store:
        assert isinstance(store, ReferenceStore)
        before = _catalog(url)
        listed = {found.name: found for found in store.list()}
        assert set(listed) == set(RUNS)
        assert [found.name for found in store.list(RunQuery.in_statuses([RunStatus.CANCELLED]))] == ["cancelled"]
        trouble = listed["garbage"].trouble
        assert trouble is not None
        assert '"soon" is not an integer' in trouble.message
        for name, found in listed.items():
            if found.run is not None:
                overview = store.get(found.run_id)
                labels = [target.label for target in RUNS[name].targets]
                targets = store.targets(found.run_id)
                assert [target.id for target in targets] == [target_id(name, label) for label in labels]
                assert sum(tally.total for tally in overview.phases) == len(labels)
                assert (overview.wake_at, overview.open_strays, overview.trouble) == (None, 0, None)
                assert (store.strays(found.run_id), store.journal(found.run_id)) == ((), ())
                assert store.unsettled(found.run_id).refs is not None
                assert store.glance(found.run_id, (), Limits()) is not None
        row: dict[UUID, Target] = {target.id: target for target in store.targets(RunId(run_id("every row")))}
        blocked, deleted = (
            row[target_id("every row", "blocked")],
            row[target_id("every row", "submitted, task deleted")],
        )
        assert (blocked.conflict is not None, deleted.state) == (True, Submitted(task_id=TaskId("")))
        assert store.targets(RunId(run_id("new")), phases={1}, statuses={TargetStatus.PENDING}, limit=1)
        assert (store.check(), store.next_due()) == ((), None)
        with pytest.raises(NotFound):
            store.get(RunId(UUID(int=1)))
        assert _catalog(url) == before


def test_a_database_that_is_not_adopted_is_not_written(url: str) -> None:
    before, wait = _catalog(url), timedelta(0)
    with open_store(url) as store:
        new = RunId(run_id("new"))
        writes = (
            lambda: store.create(a_run()),
            lambda: store.lock(new, wait),
            lambda: store.due(1, wait),
            lambda: store.wake(new),
            lambda: store.report(new, "m", lambda count: wait, 1),
            lambda: store.release(new),
        )
        for write in writes:
            with pytest.raises(Unavailable, match=r"it can only be read: .*; run `opdispatch store adopt`"):
                write()
    assert _catalog(url) == before


def test_a_database_of_our_own_is_opened_as_such(postgres_url: str, postgres_server: Server) -> None:
    with open_store(postgres_url) as store:
        assert isinstance(store, PostgresStore)
    ReferenceStore(postgres_url).close()
    empty = postgres_server.create()
    with pytest.raises(Unavailable, match="run `opdispatch store migrate`"):
        ReferenceStore(empty)
    postgres_server.drop(empty)
