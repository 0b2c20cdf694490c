"""Guards: what the database does with writes that are not ours.

Every transaction that does not say ``opdispatch.writer = on`` is foreign: the reference's service on a database that
was adopted, or somebody with a shell.  It may read everything, create runs, and pause, resume, advance and cancel
them; those four are obeyed as if they were our commands, and wake the run.  All else is refused:

=================================  ==================================================================
foreign write                      what becomes of it
=================================  ==================================================================
a new run, with its targets        at the commit our columns are filled in, the targets are counted, the run is due
run, pending or running to paused  an operator's hold
run, paused to running             the stored holds go; blocked targets are re-armed if a conflict held
run, gate to the next phase        the phase is opened
run, not ended to cancelled        cancelled; what is in flight is drained
run, status and phase unchanged    allowed, and changes nothing but ``updated_at``: an idle pass
run, anything else                 refused
run that has ended, deleted        allowed, with all that hangs on it
target, null of its ``task_id``    allowed where a deleted task brings it about
target, any other change           refused, and a new one in a run that was there before
phase, stray, journal              refused
=================================  ==================================================================

Our own writes pay one look at the setting for each statement, and one for each inserted target.  A row trigger before
an update of targets would make PostgreSQL lock every row beforehand, and one before an insert would make COPY insert
row by row, whatever their conditions say; so the refusals are triggers of statements, and what a foreign run lacks is
added to it at its commit.  What a deleted task or run brings about is told from other statements by its depth, because
it runs inside a trigger.
"""

# ruff: noqa: S608  (every part of a statement here is a constant)
from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from sqlalchemy import Connection

from opdispatch.run import TERMINAL

from ..schema import COUNTERS
from .settings import CHANNEL

_FOREIGN: Final = "current_setting('opdispatch.writer', true) IS DISTINCT FROM 'on'"
_DIRECT: Final = f"{_FOREIGN} AND pg_trigger_depth() = 0"
_NESTED: Final = f"{_FOREIGN} AND pg_trigger_depth() > 0"
_ENDED: Final = ", ".join(f"'{status}'" for status in sorted(TERMINAL))
_STATE: Final = "55000"
"""``object_not_in_prerequisite_state``: the statement is fine, and this database is not for it."""
_SERVED: Final = "this database is served by opdispatch"
_AS_OURS: Final = "PERFORM set_config('opdispatch.writer', 'on', true);"
_AS_BEFORE: Final = "PERFORM set_config('opdispatch.writer', coalesce(writer, ''), true);"
_WRITER: Final = "writer CONSTANT text := current_setting('opdispatch.writer', true);"


CURSORS: Final = {
    "next_seq": "coalesce(min(t.sequence_index) FILTER (WHERE t.status = 'pending' AND t.attempt = 1), 0)",
    "in_flight": "coalesce(array_agg(t.sequence_index ORDER BY t.sequence_index)"
    " FILTER (WHERE t.status IN ('claimed', 'submitted')), '{}')",
}
FIRST_CURSORS: Final = {
    "low_seq": "coalesce(min(t.sequence_index) FILTER (WHERE t.status IN ('claimed', 'submitted')), 0)",
    "high_seq": "coalesce(max(t.sequence_index) FILTER (WHERE t.status IN ('claimed', 'submitted')) + 1, 0)",
    "next_seq": "coalesce(min(t.sequence_index) FILTER (WHERE t.status = 'pending'), 0)",
}
"""The cursors of a phase, each with how to find it; and those of the revisions before 0003."""
_COUNTED: Final = ", ".join(
    f"0 AS {name}" if name.endswith("_before") else f"count(*) FILTER (WHERE t.status = '{name}') AS {name}"
    for name in COUNTERS
)
Cursors = Mapping[str, str]


def phases(cursors: Cursors = CURSORS) -> str:
    """The counters and cursors that the targets amount to."""
    found = ", ".join(f"{how} AS {name}" for name, how in cursors.items())
    return f"""
    SELECT r.id AS operation_run_id, i.phase AS phase_index, {_COUNTED}, {found}
    FROM operation_run r CROSS JOIN LATERAL generate_series(0, r.total_phases - 1) AS i (phase)
        LEFT JOIN operation_run_target t ON t.operation_run_id = r.id AND t.phase_index = i.phase
    GROUP BY r.id, i.phase
    """


def count_phases(which: str, cursors: Cursors = CURSORS) -> str:
    """Count the targets of the runs that ``which`` is true for; once a run."""
    columns = ", ".join(("operation_run_id", "phase_index", *COUNTERS, *cursors))
    return f"INSERT INTO operation_run_phase ({columns}) SELECT {columns} FROM ({phases(cursors)}) r WHERE {which}"


REFUSED: Final = f"""
CREATE FUNCTION {{name}}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '{_SERVED}; % of % by others is refused', lower(TG_OP), TG_TABLE_NAME
        USING ERRCODE = '{_STATE}', HINT = 'Stop the other dispatcher. Others may create runs with their targets, '
            'pause, resume, advance and cancel runs, and delete those that have ended; to dispatch with another '
            'program, give the database back to it first.';
END $$
"""
"""A function for a trigger that refuses; ``name`` is the function's."""

_RUN_CREATED: Final = f"""
CREATE FUNCTION opdispatch_run_created() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status <> 'pending' OR NEW.status_reason <> 'none' OR NEW.current_phase_index <> 0
            OR NEW.started_at IS NOT NULL OR NEW.finished_at IS NOT NULL THEN
        RAISE EXCEPTION '{_SERVED}; a run begins pending, in phase 0' USING ERRCODE = '{_STATE}';
    END IF;
    NEW.total_phases := coalesce(NEW.total_phases, 0);
    NEW.command_id := NULL;
    NEW.actor := NULL;
    NEW.opened_phase := 0;
    NEW.operator_hold := false;
    NEW.conflict_hold := NULL;
    NEW.accepted := '{{"version":1,"value":[]}}';
    NEW.resumed_at := NULL;
    NEW.decided_at := NULL;
    NEW.revision := 0;
    NEW.wake_at := NULL;  -- That is: not counted yet.
    NEW.error_count := 0;
    NEW.error_message := NULL;
    NEW.error_at := NULL;
    NEW.quarantined_at := NULL;
    RETURN NEW;
END $$
"""

_RUN_COUNTED: Final = f"""
CREATE FUNCTION opdispatch_run_counted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    {_WRITER}
BEGIN
    {_AS_OURS}
    UPDATE operation_run_target t SET rack_name = coalesce({{name}}, nullif(rack_name, ''), rack_id::text)
        WHERE operation_run_id = NEW.id;
    -- A service that does not know the number of phases leaves it at 0.
    UPDATE operation_run SET wake_at = clock_timestamp(), total_phases = greatest(total_phases,
            (SELECT max(phase_index) + 1 FROM operation_run_target WHERE operation_run_id = NEW.id))
        WHERE id = NEW.id;
    {{count}};
    {_AS_BEFORE}
    PERFORM pg_notify('{CHANNEL}', NEW.id::text);
    RETURN NULL;
END $$
"""
_RACK_NAME: Final = "(SELECT name FROM rack WHERE id = t.rack_id)"

_RUN_CHANGED: Final = f"""
CREATE FUNCTION opdispatch_run_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    theirs CONSTANT text[] := ARRAY['status', 'status_reason', 'status_message', 'current_phase_index', 'started_at',
        'finished_at', 'updated_at'];
    {_WRITER}
    moment CONSTANT timestamptz := clock_timestamp();
    here CONSTANT boolean := NEW.current_phase_index = OLD.current_phase_index;
    ours text;
BEGIN
    SELECT string_agg(n.key, ', ' ORDER BY n.key) INTO ours
        FROM jsonb_each(to_jsonb(NEW)) n JOIN jsonb_each(to_jsonb(OLD)) o USING (key)
        WHERE n.value <> o.value AND n.key <> ALL (theirs);
    IF ours IS NOT NULL THEN
        RAISE EXCEPTION '{_SERVED}; others may not change % of run %', ours, OLD.id
            USING ERRCODE = '{_STATE}', HINT = 'What a run was made from never changes; create a new run.';
    END IF;
    NEW.started_at := OLD.started_at;
    IF here AND NEW.status = OLD.status AND NEW.status_reason = OLD.status_reason THEN
        NEW.status_message := OLD.status_message;
        NEW.finished_at := OLD.finished_at;
        RETURN NEW;
    END IF;
    IF here AND NEW.status = 'cancelled' AND OLD.status IN ('pending', 'running', 'paused') THEN
        NEW.status_reason := 'none';
        NEW.finished_at := coalesce(NEW.finished_at, moment);
    ELSIF here AND NEW.status = 'paused' AND NEW.status_reason = 'operator_paused'
            AND OLD.status IN ('pending', 'running') THEN
        NEW.finished_at := NULL;
        NEW.operator_hold := true;
    ELSIF here AND NEW.status = 'running' AND NEW.status_reason = 'none'
            AND OLD.status = 'paused' AND OLD.status_reason <> 'phase_gate' THEN
        NEW.started_at := coalesce(OLD.started_at, moment);
        NEW.finished_at := NULL;
        NEW.operator_hold := false;
        NEW.conflict_hold := NULL;
        NEW.resumed_at := moment;
        IF OLD.conflict_hold IS NOT NULL THEN
            {_AS_OURS}
            UPDATE operation_run_target
                SET retry_at = moment, conflict_since = NULL, conflict_count = NULL, conflict_delay_us = NULL,
                    retry_after = moment, retry_state = NULL, updated_at = moment
                WHERE operation_run_id = OLD.id AND lane = 1;
            {_AS_BEFORE}
        END IF;
    ELSIF NEW.status = 'running' AND NEW.status_reason = 'none'
            AND OLD.status = 'paused' AND OLD.status_reason = 'phase_gate'
            AND NEW.current_phase_index = OLD.current_phase_index + 1
            AND NEW.current_phase_index < OLD.total_phases THEN
        NEW.started_at := coalesce(OLD.started_at, moment);
        NEW.finished_at := NULL;
        NEW.opened_phase := greatest(OLD.opened_phase, NEW.current_phase_index);
    ELSE
        RAISE EXCEPTION '{_SERVED}; others may not lead run % from % (%, phase %) to % (%, phase %)',
            OLD.id, OLD.status, OLD.status_reason, OLD.current_phase_index,
            NEW.status, NEW.status_reason, NEW.current_phase_index
            USING ERRCODE = '{_STATE}', HINT = 'Stop the other dispatcher. Others may pause a run that goes on, resume '
                'a paused one, advance one at a phase gate by one phase, and cancel one that has not ended.';
    END IF;
    NEW.revision := OLD.revision + 1;
    NEW.decided_at := greatest(OLD.decided_at, moment);
    NEW.wake_at := moment;
    PERFORM pg_notify('{CHANNEL}', OLD.id::text);
    RETURN NEW;
END $$
"""

_TARGET_CREATED: Final = f"""
CREATE FUNCTION opdispatch_target_created() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status <> 'pending' OR NEW.task_id IS NOT NULL OR NEW.task_ref IS NOT NULL THEN
        RAISE EXCEPTION '{_SERVED}; a target begins pending, without a task' USING ERRCODE = '{_STATE}';
    END IF;
    IF NOT EXISTS (SELECT 1 FROM operation_run
            WHERE id = NEW.operation_run_id AND status = 'pending' AND revision = 0 AND wake_at IS NULL) THEN
        RAISE EXCEPTION '{_SERVED}; the targets of run % are frozen', NEW.operation_run_id
            USING ERRCODE = '{_STATE}', HINT = 'Create a new run, with its targets in the same transaction.';
    END IF;
    RETURN NULL;
END $$
"""

_RUN: Final = "operation_run"
_TARGET: Final = "operation_run_target"
_OURS: Final = ("operation_run_phase", "operation_run_stray", "operation_run_journal")
_TARGET_COLUMNS: Final = (
    "id, operation_run_id, rack_id, sequence_index, phase_index, components_by_type, status, message, retry_after,"
    " retry_state, created_at, rack_name, attempt, fence, lease_until, retry_at, task_ref, missing_since, cancel_due,"
    " cancel_delay_us, conflict_since, conflict_count, conflict_delay_us"
)
"""All but ``task_id``, which a deleted task nulls, and ``updated_at``, which nobody is told by."""
_STATEMENT: Final = "FOR EACH STATEMENT"
_ROW: Final = "FOR EACH ROW"
_TRIGGERS: Final = (
    ("created", _RUN, "BEFORE INSERT", _ROW, _FOREIGN, "run_created"),
    ("counted", _RUN, "AFTER INSERT", f"DEFERRABLE INITIALLY DEFERRED {_ROW}", _FOREIGN, "run_counted"),
    ("changed", _RUN, "BEFORE UPDATE", _ROW, _FOREIGN, "run_changed"),
    ("refused", _RUN, "BEFORE DELETE", _ROW, f"{_FOREIGN} AND OLD.status NOT IN ({_ENDED})", "refuse"),
    ("created", _TARGET, "AFTER INSERT", _ROW, _FOREIGN, "target_created"),
    ("refused", _TARGET, "BEFORE UPDATE OR DELETE", _STATEMENT, _DIRECT, "refuse"),
    ("refused_nested", _TARGET, f"BEFORE UPDATE OF {_TARGET_COLUMNS}", _STATEMENT, _NESTED, "refuse"),
    *(("refused", table, "BEFORE INSERT OR UPDATE", _STATEMENT, _FOREIGN, "refuse") for table in _OURS),
    *(("refused_delete", table, "BEFORE DELETE", _STATEMENT, _DIRECT, "refuse") for table in _OURS),
    *(
        ("refused_truncate", table, "BEFORE TRUNCATE", _STATEMENT, _FOREIGN, "refuse")
        for table in (_RUN, _TARGET, *_OURS)
    ),
)
"""Name, table, event, level, condition and function."""


def _functions(*, has_racks: bool, cursors: Cursors = CURSORS) -> Iterator[tuple[str, str]]:
    yield "opdispatch_refuse", REFUSED.format(name="opdispatch_refuse")
    yield "opdispatch_run_created", _RUN_CREATED
    yield (
        "opdispatch_run_counted",
        _RUN_COUNTED.format(
            name=_RACK_NAME if has_racks else "NULL", count=count_phases("operation_run_id = NEW.id", cursors)
        ),
    )
    yield "opdispatch_run_changed", _RUN_CHANGED
    yield "opdispatch_target_created", _TARGET_CREATED


def install(connection: Connection, *, has_racks: bool, cursors: Cursors = CURSORS) -> None:
    """Put the guards up, in place of those that stand, on the tables of the connection's schema.

    ``has_racks`` says that the reference's table ``rack`` is there, to name the racks of foreign targets; ``cursors``
    are those that the table of phases has.
    """
    remove(connection)
    for name, definition in _functions(has_racks=has_racks, cursors=cursors):
        define(connection, name, definition)
    for name, table, event, level, condition, function in _TRIGGERS:
        kind = "CONSTRAINT TRIGGER" if "DEFERRED" in level else "TRIGGER"
        execute(
            connection,
            f"CREATE {kind} opdispatch_{name} {event} ON {table} {level} WHEN ({condition})"
            f" EXECUTE FUNCTION opdispatch_{function}()",
        )


def define(connection: Connection, name: str, definition: str) -> None:
    """Make a trigger's function that finds our tables, wherever its caller looks for tables first."""
    schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    execute(connection, definition, f"ALTER FUNCTION {name}() SET search_path = {schema}, pg_temp")


def remove(connection: Connection) -> None:
    """Take the guards down, where they stand."""
    for name, table, *_ in _TRIGGERS:
        execute(connection, f"DROP TRIGGER IF EXISTS opdispatch_{name} ON {table}")
    for name, _ in _functions(has_racks=False):
        execute(connection, f"DROP FUNCTION IF EXISTS {name}()")


def execute(connection: Connection, *statements: str) -> None:
    """Carry out statements without parameters: the driver leaves every percent sign alone."""
    for statement in statements:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
