"""What is in flight is noted beside the counts, so that no index looks at what nearly every target goes through.

A target that is claimed, submitted and settled stays in no lane, and PostgreSQL touches no index for it; the lanes are
for those whose rack is busy, and those that are tried again.
"""

# ruff: noqa: S608  (every part of a statement here is a constant)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from opdispatch_adapters.sql.columns import Id, Numbers

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

LANE = "CASE WHEN status = 'blocked' THEN 1 WHEN status = 'pending' AND attempt > 1 THEN 0 END"
LANE_BEFORE = (
    "CASE status WHEN 'pending' THEN 0 WHEN 'blocked' THEN 1 WHEN 'claimed' THEN 2 WHEN 'submitted' THEN 2 ELSE 3 END"
)
TARGET, PHASE = "operation_run_target", "operation_run_phase"
LINE = ["operation_run_id", "phase_index", "sequence_index"]
BLOCKED = ["operation_run_id", "phase_index", "retry_at", "sequence_index"]
INDEXES = {
    "idx_operation_run_target_line": (LINE, None),
    "idx_operation_run_target_again": (LINE, "lane = 0"),
    "idx_operation_run_target_blocked": (BLOCKED, "lane = 1"),
}
INDEXES_BEFORE = {
    "idx_operation_run_target_in_flight": (["operation_run_id", "sequence_index"], "lane = 2"),
    "idx_operation_run_target_pending": (LINE, "lane = 0"),
    "idx_operation_run_target_blocked": (BLOCKED, "lane = 1"),
}
"""Name to columns and condition."""
RULE, RULE_BEFORE = (
    "operation_run_phase_cursors_check",
    "0 <= low_seq AND low_seq <= high_seq AND next_seq >= 0",
)
COUNTERS = (
    *("pending", "claimed", "blocked", "submitted", "completed", "failed", "terminated", "skipped"),
    *("failed_before", "terminated_before"),
)
OF_PHASE = f"operation_run_id = {PHASE}.operation_run_id AND phase_index = {PHASE}.phase_index"
FLYING = f"FROM {TARGET} WHERE {OF_PHASE} AND status IN ('claimed', 'submitted')"
PENDING = f"FROM {TARGET} WHERE {OF_PHASE} AND status = 'pending'"
Indexes = Mapping[str, tuple[list[str], str | None]]


def _is_postgres() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _replace_lanes(lane: str, before: Indexes, after: Indexes) -> None:
    for name in before:
        op.drop_index(name, TARGET)
    op.drop_column(TARGET, "lane")
    op.add_column(TARGET, sa.Column("lane", sa.SmallInteger(), sa.Computed(lane, persisted=_is_postgres() or None)))
    for name, (columns, condition) in after.items():
        where = None if condition is None else sa.text(condition)
        op.create_index(name, TARGET, columns, sqlite_where=where, postgresql_where=where)


def _guard(*, by_place: bool) -> None:
    """Let the guards count a phase by the cursors that there are."""
    from opdispatch_adapters.sql.postgres import adopt, guards

    connection = op.get_bind()
    has_racks = adopt.is_adopted(connection) and sa.inspect(connection).has_table("rack")
    guards.install(connection, has_racks=has_racks, cursors=guards.CURSORS if by_place else guards.FIRST_CURSORS)


def _make_phases_anew(cursors: Sequence[sa.Column[Any]], rule: str) -> None:
    """For SQLite, which takes no column away that a constraint names."""
    kept = ", ".join(("operation_run_id", "phase_index", *COUNTERS, "next_seq"))
    op.rename_table(PHASE, "phases_before")
    op.create_table(
        PHASE,
        sa.Column("operation_run_id", Id(), sa.ForeignKey("operation_run.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("phase_index", sa.Integer(), primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in (*COUNTERS, "next_seq")),
        *cursors,
        sa.CheckConstraint("phase_index >= 0", name="operation_run_phase_phase_index_check"),
        sa.CheckConstraint(" AND ".join(f"{name} >= 0" for name in COUNTERS), name="operation_run_phase_counts_check"),
        sa.CheckConstraint(rule, name=RULE),
    )
    missing = ", ".join(column.name for column in cursors)
    values = ", ".join("'[]'" if column.name == "in_flight" else "0" for column in cursors)
    op.execute(f"INSERT INTO {PHASE} ({kept}, {missing}) SELECT {kept}, {values} FROM phases_before")
    op.drop_table("phases_before")


def upgrade() -> None:
    if not _is_postgres():
        _make_phases_anew([sa.Column("in_flight", Numbers(), nullable=False)], "next_seq >= 0")
        in_order = f"(SELECT sequence_index {FLYING} ORDER BY sequence_index)"
        op.execute(f"UPDATE {PHASE} SET in_flight = (SELECT json_group_array(sequence_index) FROM {in_order})")
        _replace_lanes(LANE, INDEXES_BEFORE, INDEXES)
        return
    op.add_column(PHASE, sa.Column("in_flight", Numbers(), nullable=False, server_default="{}"))
    op.execute(
        f"UPDATE {PHASE} SET in_flight = coalesce((SELECT array_agg(sequence_index ORDER BY sequence_index) {FLYING}),"
        " '{}')"
    )
    op.alter_column(PHASE, "in_flight", server_default=None)
    # Two thousand places fit into the row; in a table of its own each would be written a second time with its key.
    op.execute(f"ALTER TABLE {PHASE} ALTER COLUMN in_flight SET STORAGE MAIN")
    op.drop_constraint(RULE, PHASE)
    op.drop_column(PHASE, "low_seq")
    op.drop_column(PHASE, "high_seq")
    op.create_check_constraint(RULE, PHASE, "next_seq >= 0")
    _replace_lanes(LANE, INDEXES_BEFORE, INDEXES)
    _guard(by_place=True)


def downgrade() -> None:
    bounds = [sa.Column(name, sa.Integer(), nullable=False, server_default="0") for name in ("low_seq", "high_seq")]
    if _is_postgres():
        for column in bounds:
            op.add_column(PHASE, column)
    else:
        for column in bounds:
            column.server_default = None
        _make_phases_anew(bounds, RULE_BEFORE)
    op.execute(
        f"UPDATE {PHASE} SET low_seq = coalesce((SELECT min(sequence_index) {FLYING}), 0),"
        f" high_seq = coalesce((SELECT max(sequence_index) + 1 {FLYING}), 0),"
        f" next_seq = coalesce((SELECT min(sequence_index) {PENDING}), next_seq)"
    )
    if _is_postgres():
        for column in bounds:
            op.alter_column(PHASE, column.name, server_default=None)
        op.drop_constraint(RULE, PHASE)
        op.drop_column(PHASE, "in_flight")
        op.create_check_constraint(RULE, PHASE, RULE_BEFORE)
        _guard(by_place=False)
    _replace_lanes(LANE_BEFORE, INDEXES, INDEXES_BEFORE)
