"""The tables, as Alembic makes them: the reference's columns (flow-storage contract, section 4), and ours beside them.

The columns ``retry_after``, ``retry_state`` and ``task_id`` of a target, and ``operation_type`` and ``operation_code``
of a run, are mirrors for other readers: written, and never read back.  What is decided on stands in columns of ours.
The named constraints hold the invariants when somebody goes round the Python.

The counters of a phase are written in the transaction that changes its targets.  Its cursors say where to look:
``in_flight`` are the sequences of all its targets in flight, ascending, and no new one stands below ``next_seq``.  New
is a pending target in its first attempt.

Nearly every target goes straight from new to claimed, submitted and settled, and on this way no index looks at what
changes, so that PostgreSQL need not touch one.  A target that leaves it, because its rack is busy or because it is
tried again, waits in a lane, and a partial index has that lane.  The database computes the lane: nobody can write it
wrongly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Named,
    SmallInteger,
    String,
    Table,
    Text,
    TypedColumns,
    UniqueConstraint,
    false,
    select,
    text,
)

from opdispatch.run import TERMINAL, RunStatus, StatusReason
from opdispatch.target import TargetStatus

from .columns import Document, Id, Instant, Microseconds, Numbers

metadata: Final = MetaData()


LANE: Final = "CASE WHEN status = 'blocked' THEN 1 WHEN status = 'pending' AND attempt > 1 THEN 0 END"
NEW: Final = "status = 'pending' AND attempt = 1"
IN_FLIGHT: Final = "status IN ('claimed', 'submitted')"
AGAIN: Final = "lane = 0"
BLOCKED: Final = "lane = 1"
"""Lanes spelled as in the partial indexes: a planner takes such an index only for the same words."""
SERVED: Final = "quarantined_at IS NULL"
OPEN: Final = "is_open = 1"


NOTHING_ACCEPTED: Final = '{"version":1,"value":[]}'
"""What a run accepted that somebody else inserted."""


def _among(column: str, values: Iterable[str]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


def _partial(name: str, *columns: str, where: str, postgresql_where: str | None = None) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(postgresql_where or where))


class _RunColumns(TypedColumns):
    id: Named[UUID] = Column(Id, primary_key=True)
    name: Named[str] = Column(String(255))
    description: Named[str | None] = Column(Text)
    status: Named[str] = Column(String(32), server_default="pending")
    status_reason: Named[str] = Column(String(64), server_default="none")
    status_message: Named[str | None] = Column(Text)
    selector: Named[str] = Column(Document)
    options: Named[str] = Column(Document)
    operation_template: Named[str] = Column(Document)
    operation_type: Named[str] = Column(String(64))
    operation_code: Named[str] = Column(String(64))
    created_at: Named[datetime] = Column(Instant)
    updated_at: Named[datetime] = Column(Instant)
    started_at: Named[datetime | None] = Column(Instant)
    finished_at: Named[datetime | None] = Column(Instant)
    current_phase_index: Named[int] = Column(Integer, server_default="0")
    total_phases: Named[int] = Column(Integer)
    # -- ours --
    command_id: Named[str | None] = Column(Text)
    actor: Named[str | None] = Column(Text)
    opened_phase: Named[int] = Column(Integer, server_default="0")
    operator_hold: Named[bool] = Column(
        Boolean(create_constraint=True, name="operation_run_operator_hold_check"), server_default=false()
    )
    conflict_hold: Named[str | None] = Column(Text)
    accepted: Named[str] = Column(Document, server_default=NOTHING_ACCEPTED)
    resumed_at: Named[datetime | None] = Column(Instant)
    decided_at: Named[datetime | None] = Column(Instant)
    revision: Named[int] = Column(Integer, server_default="0")
    wake_at: Named[datetime | None] = Column(Instant)
    error_count: Named[int] = Column(Integer, server_default="0")
    error_message: Named[str | None] = Column(Text)
    error_at: Named[datetime | None] = Column(Instant)
    quarantined_at: Named[datetime | None] = Column(Instant)


run: Final = Table(
    "operation_run",
    metadata,
    _RunColumns,
    UniqueConstraint("command_id", name="operation_run_command_id_key"),
    CheckConstraint(_among("status", RunStatus), name="operation_run_status_check"),
    CheckConstraint(_among("status_reason", StatusReason), name="operation_run_status_reason_check"),
    CheckConstraint("current_phase_index >= 0", name="operation_run_current_phase_index_check"),
    CheckConstraint("total_phases >= 0", name="operation_run_total_phases_check"),
    CheckConstraint("opened_phase >= current_phase_index", name="operation_run_opened_phase_check"),
    CheckConstraint(
        f"({_among('status', sorted(TERMINAL))}) = (finished_at IS NOT NULL)", name="operation_run_finished_check"
    ),
    CheckConstraint("revision >= 0 AND (revision = 0 OR decided_at IS NOT NULL)", name="operation_run_revision_check"),
    CheckConstraint(
        "error_count >= 0 AND (error_count > 0) = (error_message IS NOT NULL)"
        " AND (error_count > 0) = (error_at IS NOT NULL) AND (error_count > 0 OR quarantined_at IS NULL)",
        name="operation_run_error_check",
    ),
    Index("idx_operation_run_status_updated_at", "status", "updated_at"),
    Index("idx_operation_run_operation", "operation_type", "operation_code"),
    Index("idx_operation_run_created_at", "created_at"),
    _partial("idx_operation_run_due", "wake_at", "id", where=SERVED),
)


class _TargetColumns(TypedColumns):
    id: Named[UUID] = Column(Id, primary_key=True)
    operation_run_id: Named[UUID] = Column(Id, ForeignKey("operation_run.id", ondelete="CASCADE"))
    rack_id: Named[UUID] = Column(Id)
    sequence_index: Named[int] = Column(Integer)
    phase_index: Named[int] = Column(Integer)
    components_by_type: Named[str | None] = Column(Document)
    task_id: Named[UUID | None] = Column(Id)
    status: Named[str] = Column(String(32), server_default="pending")
    message: Named[str | None] = Column(Text)
    retry_after: Named[datetime | None] = Column(Instant)
    retry_state: Named[str | None] = Column(Document)
    created_at: Named[datetime] = Column(Instant)
    updated_at: Named[datetime] = Column(Instant)
    # -- ours --
    rack_name: Named[str] = Column(Text, server_default="")
    attempt: Named[int] = Column(Integer, server_default="1")
    fence: Named[int] = Column(Integer, server_default="0")
    lease_until: Named[datetime | None] = Column(Instant)
    retry_at: Named[datetime | None] = Column(Instant)
    task_ref: Named[str | None] = Column(Text)
    missing_since: Named[datetime | None] = Column(Instant)
    cancel_due: Named[datetime | None] = Column(Instant)
    cancel_delay_us: Named[timedelta | None] = Column(Microseconds)
    conflict_since: Named[datetime | None] = Column(Instant)
    conflict_count: Named[int | None] = Column(Integer)
    conflict_delay_us: Named[timedelta | None] = Column(Microseconds)
    lane: Named[int] = Column(SmallInteger, Computed(LANE), nullable=True)


target: Final = Table(
    "operation_run_target",
    metadata,
    _TargetColumns,
    UniqueConstraint(
        "operation_run_id", "sequence_index", name="operation_run_target_operation_run_id_sequence_index_key"
    ),
    UniqueConstraint("operation_run_id", "rack_id", name="operation_run_target_operation_run_id_rack_id_key"),
    CheckConstraint(_among("status", TargetStatus), name="operation_run_target_status_check"),
    CheckConstraint("sequence_index >= 0", name="operation_run_target_sequence_index_check"),
    CheckConstraint("phase_index >= 0", name="operation_run_target_phase_index_check"),
    CheckConstraint("attempt >= 1", name="operation_run_target_attempt_check"),
    CheckConstraint(
        "fence >= 0 AND (fence >= 1 OR status NOT IN ('claimed', 'blocked', 'submitted'))",
        name="operation_run_target_fence_check",
    ),
    CheckConstraint("(status = 'claimed') = (lease_until IS NOT NULL)", name="operation_run_target_lease_check"),
    CheckConstraint("(status = 'blocked') = (retry_at IS NOT NULL)", name="operation_run_target_retry_check"),
    CheckConstraint(
        "(status <> 'submitted' OR task_ref IS NOT NULL)"
        " AND (status NOT IN ('pending', 'claimed', 'blocked') OR task_ref IS NULL)",
        name="operation_run_target_task_check",
    ),
    CheckConstraint(
        "(cancel_due IS NULL) = (cancel_delay_us IS NULL)"
        " AND (status = 'submitted' OR (cancel_due IS NULL AND missing_since IS NULL))",
        name="operation_run_target_cancel_check",
    ),
    CheckConstraint(
        "(conflict_since IS NULL) = (conflict_count IS NULL) AND (conflict_since IS NULL) = (conflict_delay_us IS NULL)"
        " AND (conflict_count IS NULL OR conflict_count >= 1) AND (conflict_delay_us IS NULL OR conflict_delay_us > 0)",
        name="operation_run_target_conflict_check",
    ),
    Index("idx_operation_run_target_line", "operation_run_id", "phase_index", "sequence_index"),
    _partial("idx_operation_run_target_again", "operation_run_id", "phase_index", "sequence_index", where=AGAIN),
    _partial(
        "idx_operation_run_target_blocked",
        "operation_run_id",
        "phase_index",
        "retry_at",
        "sequence_index",
        where=BLOCKED,
    ),
)

MIRRORS: Final = frozenset({"task_id", "retry_after", "retry_state", "created_at", "updated_at", "lane"})
"""What is written for other readers, or by the database, and not read back, on a target."""
TARGET_COLUMNS: Final = tuple(column.name for column in target.c if column.name not in MIRRORS)
"""The columns of a target in the order in which every query for whole targets has them."""
target_rows: Final = select(*(target.c[name] for name in TARGET_COLUMNS))
_RUN_MIRRORS: Final = ("operation_type", "operation_code")
run_rows: Final = select(*(column for column in run.c if column.name not in _RUN_MIRRORS))
"""What every query for whole targets or runs begins with."""
DOCUMENTS: Final = ("selector", "options", "operation_template")
"""What a run is made from, and never changes."""
head_rows: Final = select(*(column for column in run_rows.selected_columns if column.name not in DOCUMENTS))
"""A run without the documents that it was made from."""

COUNTERS: Final = (*(status.value for status in TargetStatus), "failed_before", "terminated_before")


class _PhaseColumns(TypedColumns):
    operation_run_id: Named[UUID] = Column(Id, ForeignKey("operation_run.id", ondelete="CASCADE"), primary_key=True)
    phase_index: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    pending: Named[int] = Column(Integer)
    claimed: Named[int] = Column(Integer)
    blocked: Named[int] = Column(Integer)
    submitted: Named[int] = Column(Integer)
    completed: Named[int] = Column(Integer)
    failed: Named[int] = Column(Integer)
    terminated: Named[int] = Column(Integer)
    skipped: Named[int] = Column(Integer)
    failed_before: Named[int] = Column(Integer)
    terminated_before: Named[int] = Column(Integer)
    next_seq: Named[int] = Column(Integer)
    in_flight: Named[Sequence[int]] = Column(Numbers)


phase: Final = Table(
    "operation_run_phase",
    metadata,
    _PhaseColumns,
    CheckConstraint("phase_index >= 0", name="operation_run_phase_phase_index_check"),
    CheckConstraint(" AND ".join(f"{name} >= 0" for name in COUNTERS), name="operation_run_phase_counts_check"),
    CheckConstraint("next_seq >= 0", name="operation_run_phase_cursors_check"),
)


class _StrayColumns(TypedColumns):
    operation_run_id: Named[UUID] = Column(Id, ForeignKey("operation_run.id", ondelete="CASCADE"), primary_key=True)
    task_ref: Named[str] = Column(Text, primary_key=True)
    target_id: Named[UUID] = Column(Id, ForeignKey("operation_run_target.id", ondelete="CASCADE"))
    cancel_due: Named[datetime] = Column(Instant)
    cancel_delay_us: Named[timedelta] = Column(Microseconds)
    missing_since: Named[datetime | None] = Column(Instant)
    is_open: Named[bool] = Column(Boolean(create_constraint=True, name="operation_run_stray_is_open_check"))
    message: Named[str] = Column(Text)


stray: Final = Table(
    "operation_run_stray",
    metadata,
    _StrayColumns,
    _partial("idx_operation_run_stray_open", "operation_run_id", where=OPEN, postgresql_where="is_open"),
)


class _JournalColumns(TypedColumns):
    operation_run_id: Named[UUID] = Column(Id, ForeignKey("operation_run.id", ondelete="CASCADE"), primary_key=True)
    number: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    at: Named[datetime] = Column(Instant)
    actor: Named[str] = Column(Text)
    command_id: Named[str | None] = Column(Text)
    command: Named[str | None] = Column(Document)
    reply: Named[str | None] = Column(Document)
    observations: Named[str] = Column(Document)
    steps: Named[str] = Column(Document)
    held_back: Named[str] = Column(Document)
    limits: Named[str | None] = Column(Document)
    digest: Named[str | None] = Column(String(32))


journal: Final = Table(
    "operation_run_journal",
    metadata,
    _JournalColumns,
    UniqueConstraint("operation_run_id", "command_id", name="operation_run_journal_command_id_key"),
    CheckConstraint("number >= 1", name="operation_run_journal_number_check"),
)
