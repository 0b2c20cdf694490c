"""What the reference does to its database: its statements, as the flow-storage contract (section 6) tells them.

The dispatcher's (find, lock, claim, write results, update the run), the manual controls, the creation of a run, and
what its task store does.  They are the other writer that guards are tried against, and the row-by-row dispatcher
that others are compared with.  Nothing here is careful: an update matches by id and tests no old status.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from .reference_database import columns_of

LEASE: Final = timedelta(seconds=30)
RUN_STATE: Final = (
    "status",
    "status_reason",
    "status_message",
    "current_phase_index",
    "started_at",
    "finished_at",
)
TARGET_STATE: Final = ("task_id", "status", "message", "retry_after", "retry_state")
TERMINAL: Final = ("completed", "completed_with_failures", "cancelled", "failed")


def insert_row(connection: Connection, table: str, values: Mapping[str, Any]) -> UUID:
    """One row; documents are given as values, and the columns that a state of the tables lacks are left out."""
    known = columns_of(connection, table)
    row = {
        name: json.dumps(value) if isinstance(value, dict | list) else value
        for name, value in values.items()
        if name in known
    }
    names = ", ".join(row)
    marks = ", ".join(f":{name}" for name in row)
    found: UUID = connection.execute(
        text(f"INSERT INTO {table} ({names}) VALUES ({marks}) RETURNING id"), row
    ).scalar_one()
    return found


# -- the dispatcher --


def find_runnable(connection: Connection, limit: int = 10) -> Sequence[UUID]:
    """The runs of one poll: no lock, the one that was touched longest ago first."""
    query = "SELECT id FROM operation_run WHERE status IN ('pending', 'running') ORDER BY updated_at LIMIT :limit"
    return connection.scalars(text(query), {"limit": limit}).all()


def lock_for_dispatch(connection: Connection, run_id: UUID) -> RowMapping | None:
    """The run, if it can still be dispatched and nobody else has it."""
    query = "SELECT * FROM operation_run WHERE id = :id AND status IN ('pending', 'running') FOR UPDATE SKIP LOCKED"
    return connection.execute(text(query), {"id": run_id}).mappings().first()


def lock_targets(connection: Connection, run_id: UUID, phase: int) -> Sequence[RowMapping]:
    """The targets of a phase, by sequence."""
    query = (
        "SELECT * FROM operation_run_target WHERE operation_run_id = :id AND phase_index = :phase"
        " ORDER BY phase_index, sequence_index FOR UPDATE"
    )
    return connection.execute(text(query), {"id": run_id, "phase": phase}).mappings().all()


def summarise_earlier(connection: Connection, run_id: UUID, phase: int) -> RowMapping:
    """The earlier phases as one row of counts."""
    counts = ", ".join(
        f"count(*) FILTER (WHERE status = '{status}') AS {status}"
        for status in ("completed", "failed", "terminated", "skipped")
    )
    query = (
        f"SELECT count(*) AS total, {counts} FROM operation_run_target"
        " WHERE operation_run_id = :id AND phase_index < :phase"
    )
    return connection.execute(text(query), {"id": run_id, "phase": phase}).mappings().one()


def update_run(connection: Connection, run: RowMapping, **changes: Any) -> None:
    """Write the whole state of a run, by its id."""
    names = [name for name in RUN_STATE if name in run]
    marks = ", ".join(f"{name} = :{name}" for name in names)
    row = {name: changes.get(name, run[name]) for name in names}
    done = connection.execute(text(f"UPDATE operation_run SET {marks} WHERE id = :id"), {**row, "id": run["id"]})
    assert done.rowcount == 1, "the run is gone"


def update_target(connection: Connection, target_id: UUID, **state: Any) -> None:
    """Write the whole state of a target, by its id and whatever its status was."""
    row = {name: state.get(name) for name in TARGET_STATE}
    if row["retry_state"] is not None:
        row["retry_state"] = json.dumps(row["retry_state"])
    marks = ", ".join(f"{name} = :{name}" for name in TARGET_STATE)
    done = connection.execute(text(f"UPDATE operation_run_target SET {marks} WHERE id = :id"), {**row, "id": target_id})
    assert done.rowcount == 1, "the target is gone"


def claim(connection: Connection, target_id: UUID, now: datetime) -> None:
    """Reserve a target for its submission; forgets what it was blocked by."""
    update_target(connection, target_id, status="claimed", message="claimed for submission", retry_after=now + LEASE)


def record_submitted(connection: Connection, target_id: UUID, task_id: UUID) -> None:
    update_target(connection, target_id, status="submitted", message="submitted", task_id=task_id)


def record_blocked(connection: Connection, target_id: UUID, now: datetime, wait: timedelta, message: str) -> None:
    state = {
        "blocked_since": f"{now.replace(tzinfo=None).isoformat(timespec='microseconds')}000Z",
        "attempts": 1,
        "last_retry_delay_seconds": int(wait.total_seconds()),
    }
    update_target(connection, target_id, status="blocked", message=message, retry_after=now + wait, retry_state=state)


def record_failed(connection: Connection, target_id: UUID, message: str) -> None:
    update_target(connection, target_id, status="failed", message=message)


def idle_pass(connection: Connection, run_id: UUID, message: str = "waiting for active targets quota") -> None:
    """A pass that finds nothing to do rewrites the run all the same."""
    run = lock_for_dispatch(connection, run_id)
    assert run is not None
    update_run(connection, run, status="running", status_reason="none", status_message=message)


# -- manual control --


def lock_for_control(connection: Connection, run_id: UUID) -> RowMapping:
    query = "SELECT * FROM operation_run WHERE id = :id FOR UPDATE"
    return connection.execute(text(query), {"id": run_id}).mappings().one()


def pause(connection: Connection, run_id: UUID) -> None:
    run = lock_for_control(connection, run_id)
    assert run["status"] not in TERMINAL
    if run["status"] != "paused":
        update_run(
            connection,
            run,
            status="paused",
            status_reason="operator_paused",
            status_message="operation run paused by operator",
        )


def resume(connection: Connection, run_id: UUID) -> None:
    run = lock_for_control(connection, run_id)
    assert (run["status"], run["status_reason"] != "phase_gate") == ("paused", True)
    update_run(connection, run, status="running", status_reason="none", status_message="operation run resumed")


def advance(connection: Connection, run_id: UUID) -> None:
    run = lock_for_control(connection, run_id)
    assert (run["status"], run["status_reason"]) == ("paused", "phase_gate")
    following = run["current_phase_index"] + 1
    update_run(
        connection,
        run,
        status="running",
        status_reason="none",
        status_message=f"advanced to phase {following}",
        current_phase_index=following,
    )


def cancel(connection: Connection, run_id: UUID, now: datetime) -> None:
    run = lock_for_control(connection, run_id)
    if run["status"] not in TERMINAL:
        update_run(
            connection,
            run,
            status="cancelled",
            status_reason="none",
            status_message="operation run cancelled",
            finished_at=now,
        )


def finish(connection: Connection, run_id: UUID, status: str, now: datetime) -> None:
    """What resume and advance write when the stored rows already amount to an end."""
    update_run(
        connection,
        lock_for_control(connection, run_id),
        status=status,
        status_reason="none",
        status_message="operation run completed",
        finished_at=now,
    )


# -- creation --


def create_run(
    connection: Connection,
    *,
    name: str,
    documents: Mapping[str, Any],
    racks: Sequence[UUID],
    phases: Sequence[int],
    components: Mapping[str, Sequence[str]],
) -> UUID:
    """A run and its targets, in the order of their racks; ``phases`` has each one's phase.  Ids are the database's."""
    template = documents["operation_template"]
    run_id = insert_row(
        connection,
        "operation_run",
        {
            **documents,
            "name": name,
            "status": "pending",
            "status_reason": "none",
            "operation_type": template["type"],
            "operation_code": template["code"],
            "current_phase_index": 0,
            "total_phases": max(phases, default=-1) + 1,
        },
    )
    for sequence, (rack, phase) in enumerate(zip(racks, phases, strict=True)):
        insert_row(
            connection,
            "operation_run_target",
            {
                "operation_run_id": run_id,
                "rack_id": rack,
                "sequence_index": sequence,
                "phase_index": phase,
                "component_filter": dict(components),
                "components_by_type": dict(components),
                "status": "pending",
            },
        )
    return run_id


# -- its task store --


def submit_task(connection: Connection, target_id: UUID, rack: UUID, components: Mapping[str, Sequence[str]]) -> UUID:
    """Make the task of a target, or find the one that was made under the same key."""
    key = f"operation-run-target:{target_id}"
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": key})
    if "idempotency_key" in columns_of(connection, "task"):
        found: UUID | None = connection.scalar(text("SELECT id FROM task WHERE idempotency_key = :key"), {"key": key})
        if found is not None:
            return found
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:rack, 0))"), {"rack": str(rack)})
    return insert_row(
        connection,
        "task",
        {
            "type": "firmware_control",
            "executor_type": "temporal",
            "rack_id": rack,
            "execution_id": '{"workflow_id": "w", "run_id": "r"}',
            "status": "running",
            "message": "Running",
            "attributes": {"components_by_type": dict(components)},
            "idempotency_key": key,
        },
    )


def delete_task(connection: Connection, task_id: UUID) -> None:
    """A purge: the foreign key nulls what its target had."""
    connection.execute(text("DELETE FROM task WHERE id = :id"), {"id": task_id})
