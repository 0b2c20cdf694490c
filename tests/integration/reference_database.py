"""A database as the reference makes it: its operation-run migrations, step by step, up and down.

Rebuilt from the flow-storage contract, sections 2 to 4: the tables, constraints, indexes and triggers by their names,
and what each step does to the rows that are there.  ``bring_to`` leads a database to any state of section 3, by the
ledger ``migrations``, as the reference's own runner would.  What runs and targets need of the rest (``task``,
``rack``, ``component``, ``set_updated_at()``) is made as it stood before them, in one go.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

_EARLIER: Final = (
    ("20250831154717", "initial"),
    ("20251121130900", "inventory"),
    ("20251204120000", "create_task_table"),
    ("20260107000000", "component_external_id"),
    ("20260112000000", "task_component_identifiers"),
    ("20260130000000", "create_operation_rules"),
    ("20260130000001", "add_task_rule_tracking"),
    ("20260204005059", "component_drift"),
    ("20260306000000", "add_conflict_support"),
    ("20260313000000", "add_task_started_at"),
    ("20260316000000", "add_task_attributes"),
    ("20260401000000", "bmc_cascade_delete"),
    ("20260409000000", "create_trigger_functions"),
    ("20260410000000", "create_task_schedule_table"),
    ("20260517000000", "add_task_attributes_gin_index"),
    ("20260520193000", "component_rack_id_nullable"),
    ("20260521100000", "add_task_report"),
    ("20260605175553", "component_status"),
    ("20260605204000", "component_updated_at"),
)
"""The migrations before the first one of operation runs: they stand in the ledger, and ``_GROUND`` is their sum."""

_GROUND: Final = (
    """
    CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.updated_at = now();
        RETURN NEW;
    END $$
    """,
    """
    CREATE TABLE rack (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        name varchar NOT NULL,
        manufacturer varchar NOT NULL,
        serial_number varchar NOT NULL,
        description jsonb,
        location jsonb,
        nvldomain_id uuid,
        status varchar(16) DEFAULT 'new',
        created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
        updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
        ingested_at timestamptz,
        deleted_at timestamptz,
        CONSTRAINT rack_manufacturer_serial_idx UNIQUE (manufacturer, serial_number)
    )
    """,
    "CREATE UNIQUE INDEX rack_name_idx ON rack (name)",
    """
    CREATE TABLE component (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        name varchar,
        type varchar(16) DEFAULT 'Compute',
        manufacturer varchar NOT NULL,
        serial_number varchar NOT NULL,
        model varchar,
        description jsonb,
        firmware_version varchar,
        rack_id uuid,
        slot_id bigint,
        tray_index bigint,
        host_id bigint,
        ingested_at timestamptz,
        deleted_at timestamptz,
        external_id text,
        power_state integer,
        status jsonb,
        updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
        CONSTRAINT component_manufacturer_serial_idx UNIQUE (manufacturer, serial_number)
    )
    """,
    """
    CREATE TRIGGER component_set_updated_at BEFORE UPDATE ON component FOR EACH ROW EXECUTE FUNCTION set_updated_at()
    """,
    """
    CREATE TABLE task (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        type varchar(64) NOT NULL,
        executor_type varchar(64) NOT NULL,
        information jsonb,
        description text,
        rack_id uuid NOT NULL,
        execution_id varchar NOT NULL,
        status varchar(32) NOT NULL,
        message text,
        created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
        updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
        finished_at timestamptz,
        applied_rule_id uuid,
        queue_expires_at timestamptz,
        started_at timestamptz,
        attributes jsonb NOT NULL DEFAULT '{}',
        report jsonb
    )
    """,
    "CREATE INDEX idx_task_rack_status ON task (rack_id, status)",
    "CREATE INDEX idx_task_attributes_gin ON task USING gin (attributes jsonb_path_ops)",
    """
    CREATE TABLE migrations (
        id text PRIMARY KEY,
        name text NOT NULL,
        hash text NOT NULL,
        applied_date timestamp NOT NULL DEFAULT now()
    )
    """,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One migration: its statements forward and back, in order."""

    id: str
    name: str
    up: tuple[str, ...]
    down: tuple[str, ...]


def _check(table: str, *statuses: str) -> str:
    listed = ", ".join(f"'{status}'" for status in statuses)
    return f"ALTER TABLE {table} ADD CONSTRAINT {table}_status_check CHECK (status IN ({listed}))"


def _drop_check(table: str) -> str:
    return f"ALTER TABLE {table} DROP CONSTRAINT {table}_status_check"


_RUNS: Final = ("pending", "running", "paused", "completed", "cancelled", "failed")
_TARGETS: Final = ("pending", "blocked", "submitted", "completed", "failed", "terminated", "skipped")
_OPEN_TARGETS: Final = "status NOT IN ('completed', 'failed', 'terminated', 'skipped')"

STEPS: Final = (
    Step(
        id="20260608000000",
        name="create_operation_run_tables",
        up=(
            """
            CREATE TABLE operation_run (
                id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
                name varchar(255) NOT NULL,
                description text,
                status varchar(32) NOT NULL DEFAULT 'pending',
                status_reason varchar(64) NOT NULL DEFAULT 'none',
                status_message text,
                selector jsonb NOT NULL,
                options jsonb NOT NULL,
                operation_template jsonb NOT NULL,
                operation_type varchar(64) NOT NULL,
                operation_code varchar(64) NOT NULL,
                created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
                updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
                started_at timestamptz,
                finished_at timestamptz,
                CONSTRAINT operation_run_status_reason_check CHECK (status_reason IN
                    ('none', 'operator_paused', 'phase_gate', 'safety_gate', 'conflict_retry_timeout'))
            )
            """,
            _check("operation_run", *_RUNS),
            "CREATE INDEX idx_operation_run_status_updated_at ON operation_run (status, updated_at)",
            "CREATE INDEX idx_operation_run_operation ON operation_run (operation_type, operation_code)",
            "CREATE INDEX idx_operation_run_created_at ON operation_run (created_at)",
            """
            CREATE TRIGGER operation_run_set_updated_at BEFORE UPDATE ON operation_run
                FOR EACH ROW EXECUTE FUNCTION set_updated_at()
            """,
            """
            CREATE TABLE operation_run_target (
                id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
                operation_run_id uuid NOT NULL REFERENCES operation_run (id) ON DELETE CASCADE,
                rack_id uuid NOT NULL,
                sequence_index integer NOT NULL CHECK (sequence_index >= 0),
                phase_index integer NOT NULL CHECK (phase_index >= 0),
                component_filter jsonb,
                task_id uuid REFERENCES task (id) ON DELETE SET NULL,
                status varchar(32) NOT NULL DEFAULT 'pending',
                message text,
                retry_after timestamptz,
                retry_state jsonb,
                created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
                updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
                UNIQUE (operation_run_id, rack_id),
                UNIQUE (operation_run_id, sequence_index)
            )
            """,
            _check("operation_run_target", *_TARGETS),
            "CREATE INDEX idx_operation_run_target_run_status ON operation_run_target (operation_run_id, status)",
            """
            CREATE INDEX idx_operation_run_target_run_phase_sequence
                ON operation_run_target (operation_run_id, phase_index, sequence_index)
            """,
            """
            CREATE INDEX idx_operation_run_target_run_status_retry_after
                ON operation_run_target (operation_run_id, status, retry_after)
            """,
            "CREATE INDEX idx_operation_run_target_task ON operation_run_target (task_id) WHERE task_id IS NOT NULL",
            """
            CREATE TRIGGER operation_run_target_set_updated_at BEFORE UPDATE ON operation_run_target
                FOR EACH ROW EXECUTE FUNCTION set_updated_at()
            """,
        ),
        down=("DROP TABLE operation_run_target", "DROP TABLE operation_run"),
    ),
    Step(
        id="20260609170000",
        name="rack_external_id",
        up=(
            "ALTER TABLE rack ADD COLUMN external_id text",
            "CREATE UNIQUE INDEX rack_external_id_idx ON rack (external_id) WHERE external_id IS NOT NULL",
        ),
        down=("ALTER TABLE rack DROP COLUMN external_id",),
    ),
    Step(
        id="20260611150000",
        name="component_leak_status",
        up=("ALTER TABLE component ADD COLUMN leak_status varchar(16) NOT NULL DEFAULT 'UNKNOWN'",),
        down=("ALTER TABLE component DROP COLUMN leak_status",),
    ),
    Step(
        id="20260624120000",
        name="rename_operation_run_target_components_by_type",
        up=("ALTER TABLE operation_run_target RENAME COLUMN component_filter TO components_by_type",),
        down=("ALTER TABLE operation_run_target RENAME COLUMN components_by_type TO component_filter",),
    ),
    Step(
        id="20260626120000",
        name="operation_run_completed_with_failures_status",
        up=(
            _drop_check("operation_run"),
            _check("operation_run", *_RUNS, "completed_with_failures"),
            _drop_check("operation_run_target"),
            _check("operation_run_target", *_TARGETS, "claimed"),
        ),
        down=(
            _drop_check("operation_run"),
            "UPDATE operation_run SET status = 'failed' WHERE status = 'completed_with_failures'",
            _check("operation_run", *_RUNS),
            """
            UPDATE operation_run_target SET status = 'pending', message = NULL, retry_after = NULL, retry_state = NULL
                WHERE status = 'claimed'
            """,
            _drop_check("operation_run_target"),
            _check("operation_run_target", *_TARGETS),
        ),
    ),
    Step(
        id="20260709120000",
        name="add_task_idempotency_key",
        up=(
            "ALTER TABLE task ADD COLUMN idempotency_key text",
            """
            CREATE UNIQUE INDEX task_idempotency_key_unique ON task (idempotency_key)
                WHERE idempotency_key IS NOT NULL
            """,
        ),
        down=("DROP INDEX task_idempotency_key_unique", "ALTER TABLE task DROP COLUMN idempotency_key"),
    ),
    Step(
        id="20260713000000",
        name="operation_run_current_phase_index",
        up=(
            """
            ALTER TABLE operation_run ADD COLUMN current_phase_index integer NOT NULL DEFAULT 0
                CONSTRAINT operation_run_current_phase_index_check CHECK (current_phase_index >= 0)
            """,
            f"""
            UPDATE operation_run r SET current_phase_index = coalesce(
                (SELECT min(phase_index) FROM operation_run_target WHERE operation_run_id = r.id AND {_OPEN_TARGETS}),
                (SELECT max(phase_index) FROM operation_run_target WHERE operation_run_id = r.id),
                0)
            """,
        ),
        down=("ALTER TABLE operation_run DROP COLUMN current_phase_index",),
    ),
    Step(
        id="20260813000000",
        name="nullable_chassis_labels",
        up=tuple(
            f"ALTER TABLE {table} ALTER COLUMN manufacturer DROP NOT NULL, ALTER COLUMN serial_number DROP NOT NULL"
            for table in ("rack", "component")
        ),
        down=tuple(
            f"ALTER TABLE {table} ALTER COLUMN manufacturer SET NOT NULL, ALTER COLUMN serial_number SET NOT NULL"
            for table in ("rack", "component")
        ),
    ),
    Step(
        id="20260818120000",
        name="operation_run_total_phases",
        up=(
            """
            ALTER TABLE operation_run ADD COLUMN total_phases integer NOT NULL DEFAULT 0
                CONSTRAINT operation_run_total_phases_check CHECK (total_phases >= 0)
            """,
            """
            UPDATE operation_run r SET total_phases = coalesce(
                (SELECT max(phase_index) + 1 FROM operation_run_target WHERE operation_run_id = r.id), 0)
            """,
            "ALTER TABLE operation_run ALTER COLUMN total_phases DROP DEFAULT",
        ),
        down=("ALTER TABLE operation_run DROP COLUMN total_phases",),
    ),
    Step(
        id="20260819120000",
        name="allow_duplicate_rack_names",
        up=("DROP INDEX rack_name_idx", "CREATE INDEX rack_name_idx ON rack (name)"),
        down=("DROP INDEX rack_name_idx", "CREATE UNIQUE INDEX rack_name_idx ON rack (name)"),
    ),
)

HEAD: Final = STEPS[-1].id
STATES: Final = (
    "20260608000000",
    "20260624120000",
    "20260626120000",
    "20260709120000",
    "20260713000000",
    "20260818120000",
    HEAD,
)
"""The last migration of every state in which runs and targets differ, and the newest one."""


def bring_to(connection: Connection, wanted: str = HEAD) -> None:
    """Make the database's tables those that stand after the migration ``wanted``, forward or back.

    On an empty database everything earlier is made first.  Rows change as the contract says, section 3.
    """
    if connection.scalar(text("SELECT to_regclass('migrations')")) is None:
        _execute(connection, *_GROUND)
        for earlier, name in _EARLIER:
            _record(connection, earlier, name, "")
    applied = set(connection.scalars(text("SELECT id FROM migrations")))
    for step in STEPS:
        if step.id <= wanted and step.id not in applied:
            _execute(connection, *step.up)
            _record(connection, step.id, step.name, "".join(step.up))
    for step in reversed(STEPS):
        if step.id > wanted and step.id in applied:
            _execute(connection, *step.down)
            connection.execute(text("DELETE FROM migrations WHERE id = :id"), {"id": step.id})


def _execute(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _record(connection: Connection, step: str, name: str, content: str) -> None:
    connection.execute(
        text("INSERT INTO migrations (id, name, hash) VALUES (:id, :name, :hash)"),
        {"id": step, "name": name, "hash": hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()},
    )


def columns_of(connection: Connection, table: str) -> frozenset[str]:
    """The names of a table's columns."""
    found = connection.scalars(
        text(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped"
        ),
        {"table": table},
    )
    return frozenset(found)
