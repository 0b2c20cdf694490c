"""Adoption: a database that the reference made becomes ours, and goes back.

What is ours is added beside the reference's columns, whatever state of its migrations the database is in (flow-storage
contract, section 3).  Columns and statuses that an older state lacks are added too, and taken away again on the way
back; everything that the reference had stays readable for it all the while.  ``opdispatch_adoption`` keeps what the
way back needs, and what was changed in rows.

Rows are taken as they are, but for these, which are counted.  A run that a gate held in a finished phase, and whose
pointer the reference's own migration moved on (3.3), is led back, because nothing would hold it in the next phase.  An
end or a number of phases that does not fit the rest of the row is made to fit.  A claim whose task stands under its
key has that task.  A submitted target whose task was deleted fails, because nobody knows how it ended.

One thing of the reference is replaced for the time being: the foreign key of ``task_id`` becomes a trigger on ``task``
that does the same.  A mirror must not be able to fail a decision, nor cost a look for each row.
"""

# ruff: noqa: S608  (every part of a statement here is a constant)
from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Connection, text

from opdispatch.errors import CorruptRecord, Unavailable

from ..rollout_documents import conflict_from
from .arrays import array_of
from .guards import FIRST_CURSORS, REFUSED, count_phases, define, execute
from .reference_tables import (
    AT_GATE,
    COMPONENTS,
    CONFLICT_HOLD,
    FENCE,
    FINISHED_PHASE,
    FIRST_OPEN_PHASE,
    IS_ENDED,
    IS_MOVED_ON,
    KEY,
    LAST_PHASE,
    LATER_RUN_COLUMNS,
    MAY_HAVE_TASK,
    OPERATOR_HOLD,
    RENAMED,
    RUN,
    RUN_COLUMNS,
    STEPS,
    TARGET,
    TARGET_COLUMNS,
    has,
    rack_name,
)

ADOPTION: Final = "opdispatch_adoption"

# -- what is ours in the reference's tables --

_OURS: Final = {
    RUN: {
        "command_id": "text",
        "actor": "text",
        "opened_phase": "integer NOT NULL DEFAULT 0",
        "operator_hold": "boolean NOT NULL DEFAULT false",
        "conflict_hold": "text",
        "accepted": """jsonb NOT NULL DEFAULT '{"version":1,"value":[]}'""",
        "resumed_at": "timestamptz",
        "decided_at": "timestamptz",
        "revision": "integer NOT NULL DEFAULT 0",
        "wake_at": "timestamptz",
        "error_count": "integer NOT NULL DEFAULT 0",
        "error_message": "text",
        "error_at": "timestamptz",
        "quarantined_at": "timestamptz",
    },
    TARGET: {
        "rack_name": "text NOT NULL DEFAULT ''",
        "attempt": "integer NOT NULL DEFAULT 1",
        "fence": "integer NOT NULL DEFAULT 0",
        "lease_until": "timestamptz",
        "retry_at": "timestamptz",
        "task_ref": "text",
        "missing_since": "timestamptz",
        "cancel_due": "timestamptz",
        "cancel_delay_us": "bigint",
        "conflict_since": "timestamptz",
        "conflict_count": "integer",
        "conflict_delay_us": "bigint",
    },
}
_CHECKS: Final = {
    RUN: {
        "command_id_key": "UNIQUE (command_id)",
        "opened_phase_check": "CHECK (opened_phase >= current_phase_index)",
        "finished_check": f"CHECK (({IS_ENDED}) = (finished_at IS NOT NULL))",
        "revision_check": "CHECK (revision >= 0 AND (revision = 0 OR decided_at IS NOT NULL))",
        "error_check": "CHECK (error_count >= 0 AND (error_count > 0) = (error_message IS NOT NULL)"
        " AND (error_count > 0) = (error_at IS NOT NULL) AND (error_count > 0 OR quarantined_at IS NULL))",
    },
    TARGET: {
        "attempt_check": "CHECK (attempt >= 1)",
        "fence_check": "CHECK (fence >= 0 AND (fence >= 1 OR status NOT IN ('claimed', 'blocked', 'submitted')))",
        "lease_check": "CHECK ((status = 'claimed') = (lease_until IS NOT NULL))",
        "retry_check": "CHECK ((status = 'blocked') = (retry_at IS NOT NULL))",
        "task_check": "CHECK ((status <> 'submitted' OR task_ref IS NOT NULL)"
        " AND (status NOT IN ('pending', 'claimed', 'blocked') OR task_ref IS NULL))",
        "cancel_check": "CHECK ((cancel_due IS NULL) = (cancel_delay_us IS NULL)"
        " AND (status = 'submitted' OR (cancel_due IS NULL AND missing_since IS NULL)))",
        "conflict_check": "CHECK ((conflict_since IS NULL) = (conflict_count IS NULL)"
        " AND (conflict_since IS NULL) = (conflict_delay_us IS NULL)"
        " AND (conflict_count IS NULL OR conflict_count >= 1)"
        " AND (conflict_delay_us IS NULL OR conflict_delay_us > 0))",
    },
}
_INDEXES: Final = {
    "idx_operation_run_due": f"{RUN} (wake_at, id) WHERE quarantined_at IS NULL",
    "idx_operation_run_target_blocked": f"{TARGET} (operation_run_id, phase_index, retry_at, sequence_index)"
    " WHERE status = 'blocked'",
    "idx_operation_run_target_in_flight": f"{TARGET} (operation_run_id, sequence_index)"
    " WHERE status IN ('claimed', 'submitted')",
    "idx_operation_run_target_pending": f"{TARGET} (operation_run_id, phase_index, sequence_index)"
    " WHERE status = 'pending'",
}
_FOREIGN_KEY: Final = f"{TARGET}_task_id_fkey"
_TASK_DELETED: Final = f"""
CREATE FUNCTION opdispatch_task_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE {TARGET} SET task_id = NULL WHERE task_id IN (SELECT id FROM deleted);
    RETURN NULL;
END $$
"""

# -- the way in --


def is_adopted(connection: Connection) -> bool:
    """True for a database that the reference made and that is ours for the time being."""
    return _is_there(connection, ADOPTION)


def act_as_owner(connection: Connection) -> None:
    """Be the role that made the tables, until the transaction ends: what is added must be its own, so that the guards,
    which run as whoever writes, let the reference's service create a run."""
    query = f"SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = to_regclass('{RUN}')"
    execute(connection, f"SET LOCAL ROLE {connection.scalar(text(query))}")


def take_over(connection: Connection) -> None:
    """Add what is ours to the reference's tables and fit the rows.  ``count`` follows, once the phases' table is there.

    Raises CorruptRecord when the tables are not those of the reference, or hold a run that cannot be carried on, and
    Unavailable while its dispatcher is at work where that cannot be fenced off.
    """
    state = _state_of(connection)
    for table in ("task", RUN, TARGET):
        # In the order in which the reference purges tasks; ``task`` too, so that no submission is half seen.
        execute(connection, f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
    _set_updated_at(connection, "DISABLE")
    missing = [step for step in STEPS if not connection.scalar(text(step.there))]
    for step in missing:
        execute(connection, *step.up)
    for table, columns in _OURS.items():
        added = ", ".join(f"ADD COLUMN {name} {kind}" for name, kind in columns.items())
        execute(connection, f"ALTER TABLE {table} {added}")
    healed = {**_fit_runs(connection), **_fit_targets(connection)}
    for table, checks in _CHECKS.items():
        added = ", ".join(f"ADD CONSTRAINT {table}_{name} {rule}" for name, rule in checks.items())
        execute(connection, f"ALTER TABLE {table} {added}")
    for name, on in _INDEXES.items():
        execute(connection, f"CREATE INDEX {name} ON {on}")
    _replace_foreign_key(connection)
    execute(
        connection,
        f"CREATE TABLE {ADOPTION} (adopted_at timestamptz NOT NULL DEFAULT clock_timestamp(), state text NOT NULL,"
        " added text[] NOT NULL, healed json NOT NULL)",
    )
    connection.execute(
        text(f"INSERT INTO {ADOPTION} (state, added, healed) VALUES (:state, :added, CAST(:healed AS json))"),
        {"state": state, "added": [step.name for step in missing], "healed": json.dumps(healed)},
    )


def count(connection: Connection) -> None:
    """Count the targets of every run, with the cursors of the first revision, and make due what has work left."""
    execute(connection, count_phases("true", FIRST_CURSORS))
    execute(
        connection,
        f"UPDATE {RUN} r SET wake_at = clock_timestamp() WHERE NOT r.{IS_ENDED} OR {FIRST_OPEN_PHASE} IS NOT NULL",
    )
    _set_updated_at(connection, "ENABLE")


def _set_updated_at(connection: Connection, how: str) -> None:
    """Fitting is no change of a row that anybody made."""
    for table in (RUN, TARGET):
        execute(connection, f"ALTER TABLE {table} {how} TRIGGER {table}_set_updated_at")


def _state_of(connection: Connection) -> str:
    """The last of the reference's migrations.  Raises CorruptRecord for tables that none of its known states has."""
    for table, needed, more in (
        (RUN, RUN_COLUMNS, LATER_RUN_COLUMNS),
        (TARGET, TARGET_COLUMNS, frozenset(COMPONENTS)),
    ):
        found = frozenset(_columns(connection, table))
        if needed - found or found - needed - more:
            odd = ", ".join(sorted((needed - found) | (found - needed - more)))
            raise CorruptRecord(
                f"table {table}",
                f"its columns are not those of a state of the reference that is known ({odd})",
                "use a version of opdispatch that knows it",
            )
    if not (_is_there(connection, "migrations") and _is_there(connection, "task")):
        raise CorruptRecord(
            "the database",
            "it holds runs, and not the reference's tables task and migrations beside them",
            "name the database that the reference uses",
        )
    found_state: str = connection.scalar(text("SELECT coalesce(max(id), '') FROM migrations"))
    return found_state


def _columns(connection: Connection, table: str) -> Iterator[str]:
    query = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped"
    yield from connection.scalars(text(query), {"table": table})


def _fit_runs(connection: Connection) -> dict[str, int]:
    """Make the runs' rows fit what the core says of a run.  What was changed, and how many rows."""
    healed = _changed(
        connection,
        {
            "phase pointer led back to the phase that the run finished": f"""
            UPDATE {RUN} r SET current_phase_index = {FINISHED_PHASE}
                WHERE {IS_MOVED_ON}
            """,
            "number of phases raised to that of the targets": f"""
            UPDATE {RUN} r SET total_phases = {LAST_PHASE} + 1 WHERE total_phases <= {LAST_PHASE}
            """,
            "end filled in or taken away, as the status says": f"""
            UPDATE {RUN} SET finished_at = CASE WHEN {IS_ENDED} THEN updated_at END
                WHERE ({IS_ENDED}) <> (finished_at IS NOT NULL)
            """,
        },
    )
    query = f"SELECT id FROM {RUN} r WHERE {AT_GATE} AND {FIRST_OPEN_PHASE} <= r.current_phase_index ORDER BY id"
    stuck = connection.scalars(text(query)).all()
    if stuck:
        raise CorruptRecord(
            f"run {', '.join(map(str, stuck[:3]))}{' ...' if stuck[3:] else ''}",
            "it waits at a phase gate, and the phase before the gate is not finished",
            "cancel it, or let its status_reason be operator_paused, and adopt again",
        )
    execute(
        connection,
        f"UPDATE {RUN} SET opened_phase = current_phase_index, operator_hold = ({OPERATOR_HOLD}),"
        f" conflict_hold = {CONFLICT_HOLD}",
    )
    return healed


def _fit_targets(connection: Connection) -> dict[str, int]:
    """The same for the targets."""
    healing: dict[str, str] = {}
    if _has_keys(connection):
        healing["claimed target whose task was found by its key"] = f"""
            UPDATE {TARGET} t SET status = 'submitted', message = 'submitted', task_id = k.id, retry_after = NULL,
                retry_state = NULL
                FROM task k WHERE t.status = 'claimed' AND k.idempotency_key = '{KEY}' || t.id
            """
    else:
        _require_no_claim(connection)
    healing["submitted target whose task was deleted, failed"] = f"""
            UPDATE {TARGET} SET status = 'failed', message = 'its task was deleted, and nobody knows how it ended'
                WHERE status = 'submitted' AND task_id IS NULL
            """
    healed = _changed(connection, healing)
    execute(
        connection,
        f"""
        UPDATE {TARGET} t SET rack_name = {rack_name("t", has_racks=_is_there(connection, "rack"))}, fence = {FENCE},
            lease_until = CASE status WHEN 'claimed' THEN coalesce(retry_after, clock_timestamp()) END,
            retry_at = CASE status WHEN 'blocked' THEN coalesce(retry_after, clock_timestamp()) END,
            task_ref = CASE WHEN {MAY_HAVE_TASK} THEN task_id::text END
        """,
    )
    _keep_conflicts(connection)
    return healed


def _require_no_claim(connection: Connection) -> None:
    """Without keys nobody can tell what a submission that is on its way becomes: wait until none is."""
    query = f"SELECT max(retry_after) FROM {TARGET} WHERE status = 'claimed' AND retry_after > clock_timestamp()"
    until = connection.scalar(text(query))
    if until is not None:
        raise Unavailable(
            "the database",
            f"the reference's dispatcher is at work: a claim of it stands until {until:%H:%M:%S} UTC",
            "stop its service or pause its runs, and adopt after that",
        )


def _keep_conflicts(connection: Connection) -> None:
    """What blocked targets were refused before; what cannot be read counts as nothing, as it does to the reference."""
    query = f"SELECT id, retry_state::text FROM {TARGET} WHERE status = 'blocked' AND retry_state IS NOT NULL"
    read = [(row[0], conflict_from(row[1])) for row in connection.execute(text(query))]
    known = [(target_id, conflict) for target_id, conflict in read if conflict is not None]
    connection.exec_driver_sql(
        f"""
        UPDATE {TARGET} t SET conflict_since = u.since, conflict_count = u.count,
            conflict_delay_us = u.seconds * 1000000
        FROM unnest(%(ids)s::uuid[], %(since)s::timestamptz[], %(count)s::int[], %(seconds)s::bigint[])
            AS u(id, since, count, seconds)
        WHERE t.id = u.id
        """,
        {
            "ids": array_of([target_id for target_id, _ in known]),
            "since": array_of([conflict.since for _, conflict in known]),
            "count": array_of([conflict.count for _, conflict in known]),
            "seconds": array_of([int(conflict.delay.total_seconds()) for _, conflict in known]),
        },
    )


def _replace_foreign_key(connection: Connection) -> None:
    execute(connection, f"ALTER TABLE {TARGET} DROP CONSTRAINT {_FOREIGN_KEY}")
    define(connection, "opdispatch_task_deleted", _TASK_DELETED)
    execute(
        connection,
        "CREATE TRIGGER opdispatch_deleted AFTER DELETE ON task REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT"
        " EXECUTE FUNCTION opdispatch_task_deleted()",
    )
    execute(connection, REFUSED.format(name="opdispatch_task_refused"))
    if _has_keys(connection):
        # What the reference's dispatcher was about to submit when its database was adopted.
        execute(
            connection,
            f"CREATE TRIGGER opdispatch_refused BEFORE INSERT ON task FOR EACH ROW"
            f" WHEN (NEW.idempotency_key LIKE '{KEY}%') EXECUTE FUNCTION opdispatch_task_refused()",
        )


def _has_keys(connection: Connection) -> bool:
    found: bool = connection.scalar(text(has("task", "idempotency_key")))
    return found


# -- the way back --


def give_back(connection: Connection) -> None:
    """Take away what is ours from the tables that the reference made, ours having gone before.

    Raises Unavailable while something is in flight that the reference does not know of.
    """
    added: Sequence[str] = connection.scalar(text(f"SELECT added FROM {ADOPTION}"))
    execute(
        connection,
        "DROP TRIGGER opdispatch_deleted ON task",
        "DROP TRIGGER IF EXISTS opdispatch_refused ON task",
        "DROP FUNCTION opdispatch_task_deleted()",
        "DROP FUNCTION opdispatch_task_refused()",
    )
    execute(
        connection,
        f"""
        UPDATE {TARGET} t SET task_id = NULL
            WHERE task_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM task WHERE id = t.task_id)
        """,
        f"ALTER TABLE {TARGET} ADD CONSTRAINT {_FOREIGN_KEY} FOREIGN KEY (task_id) REFERENCES task (id)"
        " ON DELETE SET NULL",
    )
    for name in _INDEXES:
        execute(connection, f"DROP INDEX {name}")
    for table, checks in _CHECKS.items():
        execute(connection, *(f"ALTER TABLE {table} DROP CONSTRAINT {table}_{name}" for name in checks))
    for table, columns in _OURS.items():
        execute(connection, f"ALTER TABLE {table} {', '.join(f'DROP COLUMN {name}' for name in columns)}")
    for step in reversed(STEPS):
        if step.name in added:
            execute(connection, *step.down)
    if "components_by_type" in added:
        # The name that the service does not use: one that was renewed meanwhile found both and left them.
        renamed = connection.scalar(text("SELECT EXISTS (SELECT 1 FROM migrations WHERE id = :id)"), {"id": RENAMED})
        execute(connection, f"ALTER TABLE {TARGET} DROP COLUMN {COMPONENTS[0 if renamed else 1]}")
    execute(connection, f"DROP TABLE {ADOPTION}")


def require_nothing_of_ours(connection: Connection) -> None:
    """Raises Unavailable while a task or a submission is open that the reference would begin a second time, or would
    never end."""
    query = f"""
        SELECT 'target ' || t.id || ' is ' || t.status FROM {TARGET} t JOIN {RUN} r ON r.id = t.operation_run_id
        WHERE NOT r.{IS_ENDED} AND (
            t.status = 'submitted' AND NOT EXISTS (SELECT 1 FROM task WHERE id = t.task_id)
            OR t.status = 'claimed' AND r.revision > 0)
        UNION ALL
        SELECT 'task ' || task_ref || ' is still to be cancelled' FROM operation_run_stray WHERE is_open
        LIMIT 3
    """
    found = connection.scalars(text(query)).all()
    if found:
        raise Unavailable(
            "the database",
            f"the reference does not know what is in flight: {'; '.join(found)}",
            "pause the runs and serve them until nothing of theirs is in flight, or cancel them",
        )


# -- statements --


def _changed(connection: Connection, statements: dict[str, str]) -> dict[str, int]:
    """Carry these out; those that changed rows, with how many."""
    counts = {label: connection.execute(text(statement)).rowcount for label, statement in statements.items()}
    return {label: count for label, count in counts.items() if count}


def _is_there(connection: Connection, table: str) -> bool:
    found: bool = connection.scalar(text("SELECT to_regclass(:table) IS NOT NULL"), {"table": table})
    return found


def adoption_of(connection: Connection) -> dict[str, Any] | None:
    """What the table of the adoption says, with the numbers of runs and targets; None for a database of our own."""
    if not is_adopted(connection):
        return None
    query = f"""
        SELECT state, healed, (SELECT count(*) FROM {RUN}) AS runs, (SELECT count(*) FROM {TARGET}) AS targets
        FROM {ADOPTION}
    """
    row = connection.execute(text(query)).mappings().one()
    return {**row, "healed": json.loads(row["healed"])}
