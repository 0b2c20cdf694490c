"""The tables of runs, targets, phases, strays and the journal; where the reference made the first two, ours beside."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

from opdispatch_adapters.sql.columns import Document, Id, Instant, Microseconds

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not context.config.attributes.get("adopt"):
        _create_runs()
        _create_targets()
        _create_ours()
        return
    from opdispatch_adapters.sql.postgres import adopt

    adopt.take_over(op.get_bind())
    _create_ours()
    adopt.count(op.get_bind())


def _create_runs() -> None:
    op.create_table(
        "operation_run",
        sa.Column("id", Id(), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("status", sa.String(32), nullable=False, server_default="pending"),
        sa.Column("status_reason", sa.String(64), nullable=False, server_default="none"),
        sa.Column("status_message", sa.Text()),
        sa.Column("selector", Document(), nullable=False),
        sa.Column("options", Document(), nullable=False),
        sa.Column("operation_template", Document(), nullable=False),
        sa.Column("operation_type", sa.String(64), nullable=False),
        sa.Column("operation_code", sa.String(64), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("updated_at", Instant(), nullable=False),
        sa.Column("started_at", Instant()),
        sa.Column("finished_at", Instant()),
        sa.Column("current_phase_index", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("total_phases", sa.Integer(), nullable=False),
        sa.Column("command_id", sa.Text()),
        sa.Column("actor", sa.Text()),
        sa.Column("opened_phase", sa.Integer(), nullable=False, server_default="0"),
        sa.Column(
            "operator_hold",
            sa.Boolean(create_constraint=True, name="operation_run_operator_hold_check"),
            nullable=False,
        ),
        sa.Column("conflict_hold", sa.Text()),
        sa.Column("accepted", Document(), nullable=False),
        sa.Column("resumed_at", Instant()),
        sa.Column("decided_at", Instant()),
        sa.Column("revision", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("wake_at", Instant()),
        sa.Column("error_count", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("error_message", sa.Text()),
        sa.Column("error_at", Instant()),
        sa.Column("quarantined_at", Instant()),
        sa.UniqueConstraint("command_id", name="operation_run_command_id_key"),
        sa.CheckConstraint(
            "status IN ('pending', 'running', 'paused', 'completed', 'completed_with_failures', 'cancelled', 'failed')",
            name="operation_run_status_check",
        ),
        sa.CheckConstraint(
            "status_reason IN ('none', 'operator_paused', 'conflict_retry_timeout', 'safety_gate', 'phase_gate')",
            name="operation_run_status_reason_check",
        ),
        sa.CheckConstraint("current_phase_index >= 0", name="operation_run_current_phase_index_check"),
        sa.CheckConstraint("total_phases >= 0", name="operation_run_total_phases_check"),
        sa.CheckConstraint("opened_phase >= current_phase_index", name="operation_run_opened_phase_check"),
        sa.CheckConstraint(
            "(status IN ('cancelled', 'completed', 'completed_with_failures', 'failed')) = (finished_at IS NOT NULL)",
            name="operation_run_finished_check",
        ),
        sa.CheckConstraint(
            "revision >= 0 AND (revision = 0 OR decided_at IS NOT NULL)", name="operation_run_revision_check"
        ),
        sa.CheckConstraint(
            "error_count >= 0 AND (error_count > 0) = (error_message IS NOT NULL)"
            " AND (error_count > 0) = (error_at IS NOT NULL)"
            " AND (error_count > 0 OR quarantined_at IS NULL)",
            name="operation_run_error_check",
        ),
    )
    op.create_index("idx_operation_run_created_at", "operation_run", ["created_at"])
    op.create_index(
        "idx_operation_run_due",
        "operation_run",
        ["wake_at", "id"],
        sqlite_where=sa.text("quarantined_at IS NULL"),
        postgresql_where=sa.text("quarantined_at IS NULL"),
    )
    op.create_index("idx_operation_run_operation", "operation_run", ["operation_type", "operation_code"])
    op.create_index("idx_operation_run_status_updated_at", "operation_run", ["status", "updated_at"])


def _create_targets() -> None:
    op.create_table(
        "operation_run_target",
        sa.Column("id", Id(), primary_key=True),
        sa.Column("operation_run_id", Id(), sa.ForeignKey("operation_run.id", ondelete="CASCADE"), nullable=False),
        sa.Column("rack_id", Id(), nullable=False),
        sa.Column("sequence_index", sa.Integer(), nullable=False),
        sa.Column("phase_index", sa.Integer(), nullable=False),
        sa.Column("components_by_type", Document()),
        sa.Column("task_id", Id()),
        sa.Column("status", sa.String(32), nullable=False, server_default="pending"),
        sa.Column("message", sa.Text()),
        sa.Column("retry_after", Instant()),
        sa.Column("retry_state", Document()),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("updated_at", Instant(), nullable=False),
        sa.Column("rack_name", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("fence", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("lease_until", Instant()),
        sa.Column("retry_at", Instant()),
        sa.Column("task_ref", sa.Text()),
        sa.Column("missing_since", Instant()),
        sa.Column("cancel_due", Instant()),
        sa.Column("cancel_delay_us", Microseconds()),
        sa.Column("conflict_since", Instant()),
        sa.Column("conflict_count", sa.Integer()),
        sa.Column("conflict_delay_us", Microseconds()),
        sa.UniqueConstraint(
            "operation_run_id", "sequence_index", name="operation_run_target_operation_run_id_sequence_index_key"
        ),
        sa.UniqueConstraint("operation_run_id", "rack_id", name="operation_run_target_operation_run_id_rack_id_key"),
        sa.CheckConstraint(
            "status IN ('pending', 'claimed', 'blocked', 'submitted', 'completed', 'failed', 'terminated', 'skipped')",
            name="operation_run_target_status_check",
        ),
        sa.CheckConstraint("sequence_index >= 0", name="operation_run_target_sequence_index_check"),
        sa.CheckConstraint("phase_index >= 0", name="operation_run_target_phase_index_check"),
        sa.CheckConstraint("attempt >= 1", name="operation_run_target_attempt_check"),
        sa.CheckConstraint(
            "fence >= 0 AND (fence >= 1 OR status NOT IN ('claimed', 'blocked', 'submitted'))",
            name="operation_run_target_fence_check",
        ),
        sa.CheckConstraint("(status = 'claimed') = (lease_until IS NOT NULL)", name="operation_run_target_lease_check"),
        sa.CheckConstraint("(status = 'blocked') = (retry_at IS NOT NULL)", name="operation_run_target_retry_check"),
        sa.CheckConstraint(
            "(status <> 'submitted' OR task_ref IS NOT NULL)"
            " AND (status NOT IN ('pending', 'claimed', 'blocked') OR task_ref IS NULL)",
            name="operation_run_target_task_check",
        ),
        sa.CheckConstraint(
            "(cancel_due IS NULL) = (cancel_delay_us IS NULL)"
            " AND (status = 'submitted' OR (cancel_due IS NULL AND missing_since IS NULL))",
            name="operation_run_target_cancel_check",
        ),
        sa.CheckConstraint(
            "(conflict_since IS NULL) = (conflict_count IS NULL)"
            " AND (conflict_since IS NULL) = (conflict_delay_us IS NULL)"
            " AND (conflict_count IS NULL OR conflict_count >= 1)"
            " AND (conflict_delay_us IS NULL OR conflict_delay_us > 0)",
            name="operation_run_target_conflict_check",
        ),
    )
    op.create_index(
        "idx_operation_run_target_blocked",
        "operation_run_target",
        ["operation_run_id", "phase_index", "retry_at", "sequence_index"],
        sqlite_where=sa.text("status = 'blocked'"),
        postgresql_where=sa.text("status = 'blocked'"),
    )
    op.create_index(
        "idx_operation_run_target_in_flight",
        "operation_run_target",
        ["operation_run_id", "sequence_index"],
        sqlite_where=sa.text("status IN ('claimed', 'submitted')"),
        postgresql_where=sa.text("status IN ('claimed', 'submitted')"),
    )
    op.create_index(
        "idx_operation_run_target_pending",
        "operation_run_target",
        ["operation_run_id", "phase_index", "sequence_index"],
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    )


def _create_ours() -> None:
    op.create_table(
        "operation_run_journal",
        sa.Column("operation_run_id", Id(), sa.ForeignKey("operation_run.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("command_id", sa.Text()),
        sa.Column("command", Document()),
        sa.Column("reply", Document()),
        sa.Column("observations", Document(), nullable=False),
        sa.Column("steps", Document(), nullable=False),
        sa.Column("held_back", Document(), nullable=False),
        sa.UniqueConstraint("operation_run_id", "command_id", name="operation_run_journal_command_id_key"),
        sa.CheckConstraint("number >= 1", name="operation_run_journal_number_check"),
    )
    op.create_table(
        "operation_run_phase",
        sa.Column("operation_run_id", Id(), sa.ForeignKey("operation_run.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("phase_index", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("pending", sa.Integer(), nullable=False),
        sa.Column("claimed", sa.Integer(), nullable=False),
        sa.Column("blocked", sa.Integer(), nullable=False),
        sa.Column("submitted", sa.Integer(), nullable=False),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("terminated", sa.Integer(), nullable=False),
        sa.Column("skipped", sa.Integer(), nullable=False),
        sa.Column("failed_before", sa.Integer(), nullable=False),
        sa.Column("terminated_before", sa.Integer(), nullable=False),
        sa.Column("low_seq", sa.Integer(), nullable=False),
        sa.Column("high_seq", sa.Integer(), nullable=False),
        sa.Column("next_seq", sa.Integer(), nullable=False),
        sa.CheckConstraint("phase_index >= 0", name="operation_run_phase_phase_index_check"),
        sa.CheckConstraint(
            "pending >= 0 AND claimed >= 0 AND blocked >= 0 AND submitted >= 0 AND completed >= 0"
            " AND failed >= 0 AND terminated >= 0 AND skipped >= 0 AND failed_before >= 0"
            " AND terminated_before >= 0",
            name="operation_run_phase_counts_check",
        ),
        sa.CheckConstraint(
            "0 <= low_seq AND low_seq <= high_seq AND next_seq >= 0", name="operation_run_phase_cursors_check"
        ),
    )
    op.create_table(
        "operation_run_stray",
        sa.Column("operation_run_id", Id(), sa.ForeignKey("operation_run.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("task_ref", sa.Text(), primary_key=True),
        sa.Column("target_id", Id(), sa.ForeignKey("operation_run_target.id", ondelete="CASCADE"), nullable=False),
        sa.Column("cancel_due", Instant(), nullable=False),
        sa.Column("cancel_delay_us", Microseconds(), nullable=False),
        sa.Column("missing_since", Instant()),
        sa.Column(
            "is_open", sa.Boolean(create_constraint=True, name="operation_run_stray_is_open_check"), nullable=False
        ),
        sa.Column("message", sa.Text(), nullable=False),
    )
    op.create_index(
        "idx_operation_run_stray_open",
        "operation_run_stray",
        ["operation_run_id"],
        sqlite_where=sa.text("is_open = 1"),
        postgresql_where=sa.text("is_open"),
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        from opdispatch_adapters.sql.postgres import adopt

        if adopt.is_adopted(op.get_bind()):
            adopt.require_nothing_of_ours(op.get_bind())
            _drop_ours()
            adopt.give_back(op.get_bind())
            return
    _drop_ours()
    op.drop_table("operation_run_target")
    op.drop_table("operation_run")


def _drop_ours() -> None:
    op.drop_table("operation_run_stray")
    op.drop_table("operation_run_phase")
    op.drop_table("operation_run_journal")
