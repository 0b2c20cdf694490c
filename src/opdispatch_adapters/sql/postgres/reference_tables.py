"""The reference's tables as it made them: what stands in each of their states, and what it means.

The states are those of its migrations (flow-storage contract, section 3).  A step says what a later state has, and how
to add it and take it away; the conditions are what a status, a reason and a pointer of theirs say in our terms.
"""

# ruff: noqa: S608  (every part of a statement here is a constant)
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from opdispatch.run import TERMINAL
from opdispatch.target import SETTLED, TargetStatus

RUN: Final = "operation_run"
TARGET: Final = "operation_run_target"
RUN_COLUMNS: Final = frozenset(
    {
        "id",
        "name",
        "description",
        "status",
        "status_reason",
        "status_message",
        "selector",
        "options",
        "operation_template",
        "operation_type",
        "operation_code",
        "created_at",
        "updated_at",
        "started_at",
        "finished_at",
    }
)
TARGET_COLUMNS: Final = frozenset(
    {
        "id",
        "operation_run_id",
        "rack_id",
        "sequence_index",
        "phase_index",
        "task_id",
        "status",
        "message",
        "retry_after",
        "retry_state",
        "created_at",
        "updated_at",
    }
)
"""What stands in every state of the reference's tables."""
LATER_RUN_COLUMNS: Final = frozenset({"current_phase_index", "total_phases"})
COMPONENTS: Final = ("component_filter", "components_by_type")
"""The older and the newer name of a target's components."""
RENAMED: Final = "20260624120000"
"""The reference's migration that renames them."""


def _listed(statuses: Sequence[str]) -> str:
    return ", ".join(f"'{status}'" for status in statuses)


IS_ENDED: Final = f"status IN ({_listed(sorted(TERMINAL))})"
IS_OPEN: Final = f"status NOT IN ({_listed(sorted(SETTLED))})"
FIRST_OPEN_PHASE: Final = f"(SELECT min(phase_index) FROM {TARGET} WHERE operation_run_id = r.id AND {IS_OPEN})"
LAST_PHASE: Final = f"(SELECT max(phase_index) FROM {TARGET} WHERE operation_run_id = r.id)"
FINISHED_PHASE: Final = (
    f"(SELECT max(phase_index) FROM {TARGET} WHERE operation_run_id = r.id AND phase_index < r.current_phase_index)"
)
"""Of a run ``r``: its first phase with work left, its last one, and the last one before its pointer."""
POINTER: Final = f"coalesce({FIRST_OPEN_PHASE}, {LAST_PHASE}, 0)"
"""Where the reference's migration puts the pointer of a run that has none."""
AT_GATE: Final = "r.status = 'paused' AND r.status_reason = 'phase_gate'"
IS_MOVED_ON: Final = f"""
    r.status = 'paused' AND r.current_phase_index = {FIRST_OPEN_PHASE} AND {FINISHED_PHASE} IS NOT NULL
    AND (r.status_reason = 'phase_gate' OR r.status_reason = 'safety_gate' AND NOT EXISTS (
        SELECT 1 FROM {TARGET}
        WHERE operation_run_id = r.id AND phase_index = r.current_phase_index AND status <> 'pending'))
"""
"""A run that was held in the phase that it had finished: the reference's migration led it on to the next one.

No gate can have tripped in a phase in which nothing was begun: what has failed tripped it where it failed.
"""
OPERATOR_HOLD: Final = "status = 'paused' AND status_reason IN ('operator_paused', 'none')"
CONFLICT_HOLD: Final = (
    "CASE WHEN status = 'paused' AND status_reason = 'conflict_retry_timeout'"
    " THEN coalesce(nullif(status_message, ''), 'a rack conflict lasted too long') END"
)
FENCE: Final = "CASE WHEN status IN ('pending', 'skipped') THEN 0 ELSE 1 END"
MAY_HAVE_TASK: Final = "status NOT IN ('pending', 'claimed', 'blocked')"
KEY: Final = "operation-run-target:"
"""What the reference's keys of submissions begin with; the target's id follows."""


def rack_name(target: str, *, has_racks: bool) -> str:
    """The name of a target's rack; its id where the reference has no such rack any more."""
    rack = f"{target}.rack_id"
    return f"coalesce((SELECT name FROM rack WHERE id = {rack}), {rack}::text)" if has_racks else f"{rack}::text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a later state of the reference's tables has: whether it is there, and how to add and to take it away."""

    name: str
    there: str
    up: tuple[str, ...]
    down: tuple[str, ...]


def has(table: str, column: str) -> str:
    """Asks whether a table has a column."""
    return (
        "SELECT EXISTS (SELECT 1 FROM pg_attribute"
        f" WHERE attrelid = to_regclass('{table}') AND attname = '{column}' AND NOT attisdropped)"
    )


def _checked(table: str, statuses: Sequence[str]) -> tuple[str, str]:
    name = f"{table}_status_check"
    return (
        f"ALTER TABLE {table} DROP CONSTRAINT {name}",
        f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK (status IN ({_listed(statuses)}))",
    )


_NARROW_RUNS: Final = ("pending", "running", "paused", "completed", "cancelled", "failed")
_NARROW_TARGETS: Final = tuple(status for status in TargetStatus if status is not TargetStatus.CLAIMED)
STEPS: Final = (
    Step(
        name="components_by_type",
        there=has(TARGET, "components_by_type"),
        up=(
            f"ALTER TABLE {TARGET} ADD COLUMN components_by_type jsonb",
            f"UPDATE {TARGET} SET components_by_type = component_filter",
            """
            CREATE FUNCTION opdispatch_both_names() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                NEW.components_by_type := coalesce(NEW.components_by_type, NEW.component_filter);
                NEW.component_filter := NEW.components_by_type;
                RETURN NEW;
            END $$
            """,
            f"""
            CREATE TRIGGER opdispatch_both_names BEFORE INSERT ON {TARGET}
                FOR EACH ROW EXECUTE FUNCTION opdispatch_both_names()
            """,
        ),
        down=(
            f"DROP TRIGGER opdispatch_both_names ON {TARGET}",
            "DROP FUNCTION opdispatch_both_names()",
        ),
    ),
    Step(
        name="statuses",
        there=(
            "SELECT pg_get_constraintdef(oid) LIKE '%completed_with_failures%' FROM pg_constraint"
            f" WHERE conrelid = to_regclass('{RUN}') AND conname = '{RUN}_status_check'"
        ),
        up=(
            *_checked(RUN, (*_NARROW_RUNS, "completed_with_failures")),
            *_checked(TARGET, (*_NARROW_TARGETS, "claimed")),
        ),
        down=(
            f"UPDATE {RUN} SET status = 'failed' WHERE status = 'completed_with_failures'",
            *_checked(RUN, _NARROW_RUNS),
            f"""
            UPDATE {TARGET} SET status = 'pending', message = NULL, retry_after = NULL, retry_state = NULL
                WHERE status = 'claimed'
            """,
            *_checked(TARGET, _NARROW_TARGETS),
        ),
    ),
    Step(
        name="current_phase_index",
        there=has(RUN, "current_phase_index"),
        up=(
            f"""
            ALTER TABLE {RUN} ADD COLUMN current_phase_index integer NOT NULL DEFAULT 0
                CONSTRAINT {RUN}_current_phase_index_check CHECK (current_phase_index >= 0)
            """,
            f"UPDATE {RUN} r SET current_phase_index = {POINTER}",
        ),
        down=(f"ALTER TABLE {RUN} DROP COLUMN current_phase_index",),
    ),
    Step(
        name="total_phases",
        there=has(RUN, "total_phases"),
        # The default stays: a service that does not know the column goes on creating runs.
        up=(
            f"""
            ALTER TABLE {RUN} ADD COLUMN total_phases integer NOT NULL DEFAULT 0
                CONSTRAINT {RUN}_total_phases_check CHECK (total_phases >= 0)
            """,
            f"UPDATE {RUN} r SET total_phases = coalesce({LAST_PHASE} + 1, 0)",
        ),
        down=(f"ALTER TABLE {RUN} DROP COLUMN total_phases",),
    ),
)
