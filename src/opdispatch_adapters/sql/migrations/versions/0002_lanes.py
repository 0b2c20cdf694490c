"""Lanes instead of statuses in the partial indexes; what a replay needs in the journal; PostgreSQL made at home.

On PostgreSQL also: room on the pages for new versions of the rows that change (fill factors), vacuums that follow
the work and not the size of a table, defaults for what other writers do not know, and the guards against them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from opdispatch_adapters.sql.columns import Document

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LANE = (
    "CASE status WHEN 'pending' THEN 0 WHEN 'blocked' THEN 1 WHEN 'claimed' THEN 2 WHEN 'submitted' THEN 2 ELSE 3 END"
)
RUN, TARGET, PHASE, JOURNAL = "operation_run", "operation_run_target", "operation_run_phase", "operation_run_journal"
INDEXES = {
    "idx_operation_run_target_blocked": (
        ["operation_run_id", "phase_index", "retry_at", "sequence_index"],
        "lane = 1",
        "status = 'blocked'",
    ),
    "idx_operation_run_target_in_flight": (
        ["operation_run_id", "sequence_index"],
        "lane = 2",
        "status IN ('claimed', 'submitted')",
    ),
    "idx_operation_run_target_pending": (
        ["operation_run_id", "phase_index", "sequence_index"],
        "lane = 0",
        "status = 'pending'",
    ),
}
"""Name to columns, the condition by lane, and the condition by status that it replaces."""
VACUUMS = "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0"
STORAGE = {
    TARGET: f"fillfactor = 50, {VACUUMS}, autovacuum_analyze_scale_factor = 0.02",
    PHASE: f"fillfactor = 25, {VACUUMS}",
    RUN: f"fillfactor = 50, {VACUUMS}",
}
RESET = (
    "fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold, autovacuum_vacuum_cost_delay,"
    " autovacuum_analyze_scale_factor"
)
DEFAULTS = (
    (RUN, "operator_hold", sa.false()),
    (RUN, "accepted", '{"version":1,"value":[]}'),
    (TARGET, "rack_name", ""),
)
OF_THE_REFERENCE = (
    ("id", "gen_random_uuid()"),
    ("created_at", "CURRENT_TIMESTAMP"),
    ("updated_at", "CURRENT_TIMESTAMP"),
)
"""What the reference's own tables give a row by themselves: an adopted one has it already, and keeps it."""


def _is_postgres() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _is_adopted() -> bool:
    from opdispatch_adapters.sql.postgres.adopt import is_adopted

    return is_adopted(op.get_bind())


def _guard() -> None:
    from opdispatch_adapters.sql.postgres import guards

    has_racks = _is_adopted() and sa.inspect(op.get_bind()).has_table("rack")
    guards.install(op.get_bind(), has_racks=has_racks, cursors=guards.FIRST_CURSORS)


def _unguard() -> None:
    from opdispatch_adapters.sql.postgres import guards

    guards.remove(op.get_bind())


def _default_as_the_reference(*, given: bool) -> None:
    if not _is_adopted():
        for table in (RUN, TARGET):
            for column, default in OF_THE_REFERENCE:
                op.alter_column(table, column, server_default=sa.text(default) if given else None)


def _replace_indexes(*, by_lane: bool) -> None:
    for name, (columns, lane, status) in INDEXES.items():
        where = sa.text(lane if by_lane else status)
        op.drop_index(name, TARGET)
        op.create_index(name, TARGET, columns, sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    op.add_column(TARGET, sa.Column("lane", sa.SmallInteger(), sa.Computed(LANE, persisted=_is_postgres() or None)))
    _replace_indexes(by_lane=True)
    op.add_column(JOURNAL, sa.Column("limits", Document()))
    op.add_column(JOURNAL, sa.Column("digest", sa.String(32)))
    if not _is_postgres():
        return
    for table, column, default in DEFAULTS:
        op.alter_column(table, column, server_default=default)
    _default_as_the_reference(given=True)
    for table, settings in STORAGE.items():
        op.execute(f"ALTER TABLE {table} SET ({settings})")
    # Written with every decision and read by few: kept as the text that it is, and not taken apart on the way in.
    for column in ("observations", "steps"):
        op.execute(f"ALTER TABLE {JOURNAL} ALTER COLUMN {column} TYPE json USING {column}::json")
    _guard()


def downgrade() -> None:
    if _is_postgres():
        _unguard()
        for column in ("observations", "steps"):
            op.execute(f"ALTER TABLE {JOURNAL} ALTER COLUMN {column} TYPE jsonb USING {column}::jsonb")
        for table in STORAGE:
            op.execute(f"ALTER TABLE {table} RESET ({RESET})")
        for table, column, _ in DEFAULTS:
            op.alter_column(table, column, server_default=None)
        _default_as_the_reference(given=False)
    op.drop_column(JOURNAL, "digest")
    op.drop_column(JOURNAL, "limits")
    _replace_indexes(by_lane=False)
    op.drop_column(TARGET, "lane")
