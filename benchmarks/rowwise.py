"""The same work done as the reference does it: the whole phase loaded and locked, and one statement for each row.

The tables, indexes, checks and triggers are the reference's where a dispatcher meets them, and so is the order of the
statements: find runnable runs; lock the run; lock and load every target of its phase; read each submitted target's
task on another connection; update each changed target; update the run; commit; then record each submission by itself.

What would flatter a comparison is left out: the statements are prepared, documents are not parsed, and the submissions
themselves cost nothing (their tasks are inserted while the clock stands).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
from psycopg.types.string import TextLoader

from benchmarks.contender import Contender

_SCHEMA: Final = """
CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.updated_at = now(); RETURN NEW; END $$;

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
    report jsonb,
    idempotency_key text
);
CREATE INDEX idx_task_rack_status ON task (rack_id, status);
CREATE INDEX idx_task_applied_rule ON task (applied_rule_id);
CREATE INDEX idx_task_attributes_gin ON task USING gin (attributes jsonb_path_ops);
CREATE UNIQUE INDEX task_idempotency_key_unique ON task (idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE operation_run (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name varchar(255) NOT NULL,
    description text,
    status varchar(32) NOT NULL DEFAULT 'pending' CHECK (status IN (
        'pending', 'running', 'paused', 'completed', 'completed_with_failures', 'cancelled', 'failed')),
    status_reason varchar(64) NOT NULL DEFAULT 'none' CHECK (status_reason IN (
        'none', 'operator_paused', 'phase_gate', 'safety_gate', 'conflict_retry_timeout')),
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
    current_phase_index integer NOT NULL DEFAULT 0 CHECK (current_phase_index >= 0),
    total_phases integer NOT NULL CHECK (total_phases >= 0)
);
CREATE INDEX idx_operation_run_status_updated_at ON operation_run (status, updated_at);
CREATE INDEX idx_operation_run_operation ON operation_run (operation_type, operation_code);
CREATE INDEX idx_operation_run_created_at ON operation_run (created_at);
CREATE TRIGGER operation_run_set_updated_at BEFORE UPDATE ON operation_run
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE operation_run_target (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    operation_run_id uuid NOT NULL REFERENCES operation_run (id) ON DELETE CASCADE,
    rack_id uuid NOT NULL,
    sequence_index integer NOT NULL CHECK (sequence_index >= 0),
    phase_index integer NOT NULL CHECK (phase_index >= 0),
    components_by_type jsonb,
    task_id uuid REFERENCES task (id) ON DELETE SET NULL,
    status varchar(32) NOT NULL DEFAULT 'pending' CHECK (status IN (
        'pending', 'claimed', 'blocked', 'submitted', 'completed', 'failed', 'terminated', 'skipped')),
    message text,
    retry_after timestamptz,
    retry_state jsonb,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    UNIQUE (operation_run_id, rack_id),
    UNIQUE (operation_run_id, sequence_index)
);
CREATE INDEX idx_operation_run_target_run_status ON operation_run_target (operation_run_id, status);
CREATE INDEX idx_operation_run_target_run_phase_sequence
    ON operation_run_target (operation_run_id, phase_index, sequence_index);
CREATE INDEX idx_operation_run_target_run_status_retry_after
    ON operation_run_target (operation_run_id, status, retry_after);
CREATE INDEX idx_operation_run_target_task ON operation_run_target (task_id) WHERE task_id IS NOT NULL;
CREATE TRIGGER operation_run_target_set_updated_at BEFORE UPDATE ON operation_run_target
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
"""

_NEW_RUN: Final = """
    INSERT INTO operation_run (
        name, selector, options, operation_template, operation_type, operation_code, total_phases
    ) VALUES (
        'benchmark',
        '{"kind": "percentage", "payload": {"percentage": 100, "seed": "s"}}',
        jsonb_build_object(
            'max_concurrent_targets', %s::integer,
            'safety_policy', '{"gates": []}'::jsonb,
            'conflict_policy', '{"kind": "retry", "payload": {"retry_timeout": 3600000000000,
                "initial_retry_delay": 30000000000, "max_retry_delay": 300000000000}}'::jsonb,
            'ordering_policy', '{"kind": "random", "payload": {"seed": "o"}}'::jsonb,
            'phase_policy', '{"kind": "equal", "plan": {"phase_count": 1},
                "advance_policy": {"auto_advance": false}}'::jsonb),
        '{"type": "firmware_control", "code": "upgrade", "target_scope": {},
            "payload": {"operation": 1, "target_version": "2.4.1"}}',
        'firmware_control', 'upgrade', 1
    ) RETURNING id
"""
_NEW_TARGETS: Final = """
    INSERT INTO operation_run_target (operation_run_id, rack_id, sequence_index, phase_index, components_by_type)
    SELECT %s, gen_random_uuid(), n, 0, jsonb_build_object('Compute', jsonb_build_array(gen_random_uuid()))
    FROM generate_series(0, %s) AS n
"""
_NEW_TASKS: Final = """
    INSERT INTO task (
        id, type, executor_type, information, rack_id, execution_id, status, message, finished_at, attributes,
        idempotency_key
    )
    SELECT new.task_id, 'firmware_control', 'temporal', '{"operation": 1, "target_version": "2.4.1"}', target.rack_id,
        '{"workflow_id": "w", "run_id": "r"}', 'completed', 'Succeeded', now(),
        jsonb_build_object('components_by_type', target.components_by_type), 'operation-run-target:' || target.id
    FROM unnest(%s::uuid[], %s::uuid[]) AS new (task_id, target_id)
    JOIN operation_run_target AS target ON target.id = new.target_id
"""

_RUNNABLE: Final = """
    SELECT id FROM operation_run WHERE status IN ('pending', 'running') ORDER BY updated_at LIMIT 10
"""
_LOCK_RUN: Final = """
    SELECT id, name, description, status, status_reason, status_message, selector, options, operation_template,
        operation_type, operation_code, created_at, updated_at, started_at, finished_at, current_phase_index,
        total_phases
    FROM operation_run WHERE id = %s AND status IN ('pending', 'running') FOR UPDATE SKIP LOCKED
"""
_LOCK_TARGETS: Final = """
    SELECT id, status, task_id, retry_after, operation_run_id, rack_id, sequence_index, phase_index,
        components_by_type, message, retry_state, created_at, updated_at
    FROM operation_run_target WHERE operation_run_id = %s AND phase_index = %s
    ORDER BY phase_index, sequence_index FOR UPDATE
"""
_TASK: Final = """
    SELECT status, message, id, type, executor_type, information, description, rack_id, execution_id, created_at,
        updated_at, finished_at, applied_rule_id, queue_expires_at, started_at, attributes, report, idempotency_key
    FROM task WHERE id = %s
"""
_EARLIER: Final = """
    SELECT count(*), count(*) FILTER (WHERE status = 'completed'), count(*) FILTER (WHERE status = 'failed'),
        count(*) FILTER (WHERE status = 'terminated'), count(*) FILTER (WHERE status = 'skipped')
    FROM operation_run_target WHERE operation_run_id = %s AND phase_index < %s
"""
_UPDATE_TARGET: Final = """
    UPDATE operation_run_target SET task_id = %s, status = %s, message = %s, retry_after = %s, retry_state = NULL
    WHERE id = %s
"""
_UPDATE_RUN: Final = """
    UPDATE operation_run SET status = %s, status_reason = 'none', status_message = %s, current_phase_index = 0,
        started_at = coalesce(started_at, %s), finished_at = %s
    WHERE id = %s
"""
_STANDING: Final = """
    SELECT count(*) FILTER (WHERE status = 'completed'), count(*) FILTER (WHERE status = 'submitted')
    FROM operation_run_target WHERE operation_run_id = %s
"""


class Rowwise(Contender):
    """The reference's tables in a database of their own, and two connections to it."""

    def __init__(self, url: str, size: int, concurrency: int) -> None:
        super().__init__(size, concurrency)
        self._transactions = psycopg.connect(url)
        self._others = psycopg.connect(url, autocommit=True)
        for connection in (self._transactions, self._others):
            connection.adapters.register_loader("jsonb", TextLoader)
        self._others.execute(_SCHEMA)
        self._run = UUID(int=0)
        self._is_over = True

    def refill(self) -> None:
        while not self._is_over:
            self._decide()
        with self._transactions.transaction():
            row = self._transactions.execute(_NEW_RUN, (self.concurrency,)).fetchone()
            assert row is not None
            self._run, self._is_over = row[0], False
            self._transactions.execute(_NEW_TARGETS, (self._run, self.size - 1))
        self._others.execute("VACUUM ANALYZE operation_run, operation_run_target, task")

    def tick(self, completes: int, claims: int) -> float:
        began = time.perf_counter()
        claimed = self._decide()
        seconds = time.perf_counter() - began
        submitted = [(uuid4(), target_id) for target_id in claimed]
        if submitted:
            # The work of whoever runs the tasks; they have ended by the time that they are looked at.
            self._others.execute(_NEW_TASKS, tuple(map(list, zip(*submitted, strict=True))))
        began = time.perf_counter()
        for task_id, target_id in submitted:
            self._others.execute(_UPDATE_TARGET, (task_id, "submitted", "submitted", None, target_id))
        return seconds + time.perf_counter() - began

    def _decide(self) -> Sequence[UUID]:
        """The locked transaction of one pass: the targets that it claimed."""
        runnable = self._others.execute(_RUNNABLE).fetchall()
        now = datetime.now(UTC)
        claimed: list[UUID] = []
        for (run_id,) in runnable:
            with self._transactions.transaction():
                run = self._transactions.execute(_LOCK_RUN, (run_id,)).fetchone()
                if run is None:
                    continue
                phase = run[15]
                targets = self._transactions.execute(_LOCK_TARGETS, (run_id, phase)).fetchall()
                changed, ended, in_flight = self._reconciled(targets)
                self._transactions.execute(_EARLIER, (run_id, phase)).fetchone()
                free = max(self.concurrency - in_flight, 0)
                lease = now + timedelta(seconds=30)
                for target_id in [row[0] for row in targets if row[1] == "pending"][:free]:
                    claimed.append(target_id)
                    changed.append((None, "claimed", "claimed for submission", lease, target_id))
                for change in changed:
                    self._transactions.execute(_UPDATE_TARGET, change)
                if ended == len(targets):
                    end = ("completed", "operation run completed", now, now, run_id)
                    self._transactions.execute(_UPDATE_RUN, end)
                    self._is_over = True
                else:
                    message = f"submitted {len(claimed)} operation run targets"
                    self._transactions.execute(_UPDATE_RUN, ("running", message, now, None, run_id))
        return claimed

    def _reconciled(self, targets: Sequence[tuple[Any, ...]]) -> tuple[list[tuple[Any, ...]], int, int]:
        """The targets whose tasks have ended, and how many of the phase have ended and are in flight then."""
        changed: list[tuple[Any, ...]] = []
        ended = in_flight = 0
        for target_id, status, task_id, *_ in targets:
            if status == "submitted":
                task = self._others.execute(_TASK, (task_id,)).fetchone()
                assert task is not None
                if task[0] == "completed":
                    changed.append((task_id, "completed", task[1], None, target_id))
                    ended += 1
                else:
                    in_flight += 1
            elif status == "completed":
                ended += 1
        return changed, ended, in_flight

    def standing(self) -> tuple[int, int]:
        row = self._others.execute(_STANDING, (self._run,)).fetchone()
        assert row is not None
        return row[0], row[1]

    def close(self) -> None:
        """Give the connections up."""
        self._transactions.close()
        self._others.close()
