"""Rows as the reference leaves them: runs in every status and reason, targets in every row of the contract's table 4.3.

``seed`` fills a database at the newest state; to have the rows of an older one, seed first and then go down, which is
how such rows come about.  All instants are in the past, so no claim's lease stands; ``claim_now`` makes one that does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID, uuid5

from sqlalchemy import Connection, text

from .reference_statements import claim, insert_row

SEEDED_AT: Final = datetime(2026, 3, 2, 8, 15, 30, 250000, tzinfo=UTC)
TOUCHED_AT: Final = SEEDED_AT + timedelta(minutes=5)
"""``updated_at`` of every row."""
COMPONENTS: Final[Mapping[str, list[str]]] = MappingProxyType(
    {"Compute": ["1c2d0000-0000-4000-8000-000000000001", "1c2d0000-0000-4000-8000-000000000002"]}
)
RACKS: Final = 15
_NAMES: Final = UUID("0f3d6c1e-6d0a-4f5b-9a86-0c9a3a1b7e55")


def run_id(run: str) -> UUID:
    return uuid5(_NAMES, run)


def target_id(run: str, label: str) -> UUID:
    return uuid5(_NAMES, f"{run}/{label}")


def task_id(run: str, label: str) -> UUID:
    return uuid5(_NAMES, f"{run}/{label}/task")


def rack_id(number: int) -> UUID:
    return uuid5(_NAMES, f"rack {number}")


def documents(*, auto_advance: bool = False, first_wait: Any = 30_000_000_000, gate: int = 9) -> dict[str, Any]:
    """Selector, options and template of a run with a target spec, a queue and a filter by components."""
    nobody = "00000000-0000-0000-0000-000000000000"
    return {
        "selector": {"kind": "percentage", "payload": {"percentage": 25, "seed": "canary-1"}},
        "options": {
            "max_concurrent_targets": 4,
            "safety_policy": {
                "gates": [
                    {"kind": "failure_rate", "payload": {"scope": "", "failure_threshold_percent": 100}},
                    {"kind": "failure_count", "payload": {"scope": "cumulative_run", "failure_threshold_count": gate}},
                ]
            },
            "conflict_policy": {
                "kind": "retry",
                "payload": {
                    "retry_timeout": 3_600_000_000_000,
                    "initial_retry_delay": first_wait,
                    "max_retry_delay": 300_000_000_001,
                },
            },
            "ordering_policy": {"kind": "random", "payload": {"seed": "shuffle-7"}},
            "phase_policy": {
                "kind": "count",
                "plan": {"phases": [{"count": 1}, {"count": 4}]},
                "advance_policy": {"auto_advance": auto_advance},
            },
        },
        "operation_template": {
            "type": "firmware_control",
            "code": "upgrade",
            "target_spec": {
                "Racks": [{"Identifier": {"id": nobody, "name": "row-3-rack-2"}, "ComponentTypes": None}],
                "NVLDomains": None,
                "Components": None,
            },
            "description": "spring firmware",
            "queue_options": {"conflict_strategy": 0},
            "target_scope": {
                "excluded_operation_run_ids": ["0b9f6a52-0000-4000-8000-000000000001"],
                "default_scope_component_filter": {"kind": "components", "components": [nobody]},
            },
            "payload": {"operation": 1, "target_version": "2.4.1", "sub_targets": ["bmc"]},
        },
    }


@dataclass(frozen=True, slots=True)
class _Target:
    """A target of a seeded run.  ``task``: it has one; ``key``: a task stands under its submission key."""

    label: str
    status: str
    phase: int = 0
    task: bool = False
    key: bool = False
    message: str | None = None
    retry_after: datetime | None = None
    retry_state: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    status: str
    reason: str = "none"
    message: str | None = None
    phase: int = 0
    started: bool = True
    finished: bool = False
    first_wait: Any = 30_000_000_000
    auto_advance: bool = False
    targets: tuple[_Target, ...] = ()


_RETRY_STATE: Final = {
    "blocked_since": "2026-03-02T08:00:00.123456789Z",
    "attempts": 3,
    "last_retry_delay_seconds": 120,
}
_OVER: Final = SEEDED_AT - timedelta(seconds=1)
_CLAIMED: Final = "claimed for submission"
_TEN_MINUTES: Final = 600_000_000_001


def _blocked(label: str, retry_state: Any, **fields: Any) -> _Target:
    return _Target(label, "blocked", message="busy", retry_after=SEEDED_AT, retry_state=retry_state, **fields)


def _two(first: _Target, *, second: str = "pending") -> tuple[_Target, ...]:
    """A target of the first phase and one of the second."""
    return first, _Target("second", second, phase=1)


def _done(label: str = "first", phase: int = 0) -> _Target:
    return _Target(label, "completed", phase, task=True, message="Succeeded")


RUNS: Final[Mapping[str, _Run]] = {
    "new": _Run(status="pending", started=False, targets=_two(_Target("first", "pending"))),
    "every row": _Run(
        status="running",
        message="submitted 1 operation run target",
        first_wait=_TEN_MINUTES,
        targets=(
            _Target("pending", "pending"),
            _Target("claimed", "claimed", message=_CLAIMED, retry_after=_OVER),
            _Target("claimed with a task", "claimed", message=_CLAIMED, retry_after=_OVER, key=True),
            _Target("claimed without a lease", "claimed", message=_CLAIMED),
            _blocked("blocked", _RETRY_STATE),
            _blocked("blocked without a state", None),
            _blocked("blocked with garbage", {"blocked_since": "2026-02-30T00:00:00Z", "attempts": "3"}),
            _blocked("blocked with a list", [1]),
            _Target("submitted", "submitted", task=True, message="Running"),
            _Target("submitted, task deleted", "submitted", message="Running"),
            _done("completed"),
            _Target("terminated", "terminated", task=True, message="Terminated"),
            _Target("failed by its task", "failed", task=True, message="Failed"),
            _Target("failed at submission", "failed", message="task submission did not return exactly one task"),
            _Target("skipped", "skipped"),
        ),
    ),
    "garbage": _Run(status="running", first_wait="soon", targets=(_blocked("blocked", {"attempts": 1.5}),)),
    "operator": _Run(
        status="paused",
        reason="operator_paused",
        message="operation run paused by operator",
        targets=_two(_Target("first", "submitted", task=True, message="Running")),
    ),
    "paused": _Run(status="paused", started=False, targets=_two(_Target("first", "pending"))),
    "gate": _Run(status="paused", reason="phase_gate", message="waiting for phase advance", targets=_two(_done())),
    "trapped": _Run(
        status="paused", reason="phase_gate", message="waiting for phase advance", phase=1, targets=_two(_done())
    ),
    "safety": _Run(
        status="paused",
        reason="safety_gate",
        message="failure_rate safety gate tripped for current_phase: 1/1 targets failed (100%, threshold 100%)",
        targets=_two(_Target("first", "failed", message="no")),
    ),
    "conflict": _Run(
        status="paused",
        reason="conflict_retry_timeout",
        message="target x blocked by rack conflict for 1h0m0s",
        targets=_two(_blocked("first", _RETRY_STATE)),
    ),
    "conflict without a text": _Run(
        status="paused", reason="conflict_retry_timeout", message="", targets=_two(_blocked("first", None))
    ),
    "advanced": _Run(
        status="running",
        auto_advance=True,
        phase=1,
        targets=_two(_done(), second="submitted"),
    ),
    "completed": _Run(status="completed", phase=1, finished=True, targets=(_done(), _done("second", 1))),
    "mixed": _Run(
        status="completed_with_failures",
        message="operation run completed with failed targets",
        phase=1,
        finished=True,
        targets=(_done(), _Target("second", "failed", 1, task=True, message="Failed")),
    ),
    "cancelled": _Run(
        status="cancelled",
        finished=True,
        targets=(
            _Target("submitted", "submitted", task=True, message="Running"),
            _Target("claimed with a task", "claimed", message=_CLAIMED, retry_after=_OVER, key=True),
            _blocked("blocked", _RETRY_STATE),
            _Target("pending", "pending", 1),
        ),
    ),
    "failed": _Run(status="failed", finished=True, targets=(_Target("first", "failed", message="no"),)),
    "without an end": _Run(status="failed", targets=(_Target("first", "failed", message="no"),)),
    "with an end": _Run(status="running", finished=True, targets=(_Target("first", "pending"),)),
    "gaps": _Run(status="running", auto_advance=True, targets=(_done(), _Target("second", "pending", 2))),
    "empty": _Run(status="pending", started=False),
}
"""The seeded runs by name."""


def seed(connection: Connection) -> None:
    """Every rack, run, target and task, into a database at the newest state."""
    for number in range(RACKS - 1):  # The last rack was purged.
        serial = {"manufacturer": "m", "serial_number": f"s{number}"}
        insert_row(connection, "rack", {"id": rack_id(number), "name": f"r{number}", **serial})
    for name, run in RUNS.items():
        _seed_run(connection, name, run)


def _seed_run(connection: Connection, name: str, run: _Run) -> None:
    chosen = documents(auto_advance=run.auto_advance, first_wait=run.first_wait)
    if run.first_wait == _TEN_MINUTES:
        chosen["options"]["conflict_policy"]["payload"]["max_retry_delay"] = _TEN_MINUTES
    insert_row(
        connection,
        "operation_run",
        {
            **chosen,
            "id": run_id(name),
            "name": name,
            "status": run.status,
            "status_reason": run.reason,
            "status_message": run.message,
            "operation_type": "firmware_control",
            "operation_code": "upgrade",
            "created_at": SEEDED_AT,
            "updated_at": TOUCHED_AT,
            "started_at": SEEDED_AT if run.started else None,
            "finished_at": SEEDED_AT if run.finished else None,
            "current_phase_index": run.phase,
            "total_phases": max((target.phase for target in run.targets), default=-1) + 1,
        },
    )
    for sequence, target in enumerate(run.targets):
        _seed_target(connection, name, sequence, target)


def _seed_target(connection: Connection, run: str, sequence: int, target: _Target) -> None:
    this = target_id(run, target.label)
    if target.task or target.key:
        insert_row(
            connection,
            "task",
            {
                "id": task_id(run, target.label),
                "type": "firmware_control",
                "executor_type": "temporal",
                "rack_id": rack_id(sequence),
                "execution_id": "{}",
                "status": "running",
                "message": "Running",
                "idempotency_key": f"operation-run-target:{this}",
            },
        )
    insert_row(
        connection,
        "operation_run_target",
        {
            "id": this,
            "operation_run_id": run_id(run),
            "rack_id": rack_id(sequence),
            "sequence_index": sequence,
            "phase_index": target.phase,
            "components_by_type": dict(COMPONENTS),
            "task_id": task_id(run, target.label) if target.task else None,
            "status": target.status,
            "message": target.message,
            "retry_after": target.retry_after,
            "retry_state": target.retry_state,
            "created_at": SEEDED_AT,
            "updated_at": TOUCHED_AT,
        },
    )


def claim_now(connection: Connection, run: str, label: str) -> datetime:
    """Claim a target as a dispatcher that is at work would; returns when its lease is over."""
    now: datetime = connection.scalar(text("SELECT clock_timestamp()"))
    claim(connection, target_id(run, label), now)
    return now + timedelta(seconds=30)
