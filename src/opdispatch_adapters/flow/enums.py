"""Flow's enums and the core's, one total table for each.

A table is read as a mapping from numbers; ``of`` goes the other way.  A number that no table knows is the caller's to
refuse, with the path of its field; only a task's status is read as unknown, because that is what it then is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Generic, TypeVar

from opdispatch.policy.gates import GateScope
from opdispatch.policy.ordering import LocationStrategy
from opdispatch.run import RunStatus, StatusReason
from opdispatch.target import TargetStatus
from opdispatch.task import TaskStatus

from .wire import flow_pb2 as wire

_N = TypeVar("_N", bound=int)
_V = TypeVar("_V")


class Table(Mapping[int, _V], Generic[_N, _V]):
    """Numbers of one enum and what they mean: one to one, the zero that means nothing left out."""

    def __init__(self, pairs: Mapping[_N, _V]) -> None:
        self._values: Final = {int(number): value for number, value in pairs.items()}
        self._numbers: Final = {value: number for number, value in pairs.items()}

    def __getitem__(self, number: int) -> _V:
        return self._values[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def of(self, value: _V) -> _N:
        """The number of a value.  Raises KeyError for one that is not in the table."""
        return self._numbers[value]

    def number(self, value: _V) -> _N | None:
        """The number of a value; None for one that is not in the table."""
        return self._numbers.get(value)


RUN_STATUSES: Final = Table(
    {
        wire.OPERATION_RUN_STATUS_PENDING: RunStatus.PENDING,
        wire.OPERATION_RUN_STATUS_RUNNING: RunStatus.RUNNING,
        wire.OPERATION_RUN_STATUS_PAUSED: RunStatus.PAUSED,
        wire.OPERATION_RUN_STATUS_COMPLETED: RunStatus.COMPLETED,
        wire.OPERATION_RUN_STATUS_CANCELLED: RunStatus.CANCELLED,
        wire.OPERATION_RUN_STATUS_FAILED: RunStatus.FAILED,
        wire.OPERATION_RUN_STATUS_COMPLETED_WITH_FAILURES: RunStatus.COMPLETED_WITH_FAILURES,
    }
)
STATUS_REASONS: Final = Table(
    {
        wire.OPERATION_RUN_STATUS_REASON_NONE: StatusReason.NONE,
        wire.OPERATION_RUN_STATUS_REASON_OPERATOR_PAUSED: StatusReason.OPERATOR_PAUSED,
        wire.OPERATION_RUN_STATUS_REASON_PHASE_GATE: StatusReason.PHASE_GATE,
        wire.OPERATION_RUN_STATUS_REASON_SAFETY_GATE: StatusReason.SAFETY_GATE,
        wire.OPERATION_RUN_STATUS_REASON_CONFLICT_RETRY_TIMEOUT: StatusReason.CONFLICT_RETRY_TIMEOUT,
    }
)
TARGET_STATUSES: Final = Table(
    {
        wire.OPERATION_RUN_TARGET_STATUS_PENDING: TargetStatus.PENDING,
        wire.OPERATION_RUN_TARGET_STATUS_BLOCKED: TargetStatus.BLOCKED,
        wire.OPERATION_RUN_TARGET_STATUS_SUBMITTED: TargetStatus.SUBMITTED,
        wire.OPERATION_RUN_TARGET_STATUS_COMPLETED: TargetStatus.COMPLETED,
        wire.OPERATION_RUN_TARGET_STATUS_FAILED: TargetStatus.FAILED,
        wire.OPERATION_RUN_TARGET_STATUS_TERMINATED: TargetStatus.TERMINATED,
        wire.OPERATION_RUN_TARGET_STATUS_SKIPPED: TargetStatus.SKIPPED,
        wire.OPERATION_RUN_TARGET_STATUS_CLAIMED: TargetStatus.CLAIMED,
    }
)
GATE_SCOPES: Final = Table(
    {
        wire.OPERATION_RUN_SAFETY_GATE_SCOPE_CURRENT_PHASE: GateScope.CURRENT_PHASE,
        wire.OPERATION_RUN_SAFETY_GATE_SCOPE_CUMULATIVE_RUN: GateScope.CUMULATIVE_RUN,
    }
)
LOCATION_STRATEGIES: Final = Table(
    {
        wire.OperationRunPhysicalLocationOrdering.STRATEGY_ROW_BY_ROW: LocationStrategy.ROW_BY_ROW,
        wire.OperationRunPhysicalLocationOrdering.STRATEGY_ONE_PER_ROW_ROUND_ROBIN: (
            LocationStrategy.ONE_PER_ROW_ROUND_ROBIN
        ),
    }
)
OPERATION_TYPES: Final = Table(
    {
        wire.OPERATION_TYPE_POWER_CONTROL: "power_control",
        wire.OPERATION_TYPE_FIRMWARE_CONTROL: "firmware_control",
    }
)
COMPONENT_TYPES: Final = Table(
    {
        wire.COMPONENT_TYPE_COMPUTE: "Compute",
        wire.COMPONENT_TYPE_NVSWITCH: "NVSwitch",
        wire.COMPONENT_TYPE_POWERSHELF: "PowerShelf",
        wire.COMPONENT_TYPE_TORSWITCH: "ToRSwitch",
        wire.COMPONENT_TYPE_UMS: "UMS",
        wire.COMPONENT_TYPE_CDU: "CDU",
    }
)
TASK_STATUSES: Final = Table(
    {
        wire.TASK_STATUS_UNKNOWN: TaskStatus.UNKNOWN,
        wire.TASK_STATUS_PENDING: TaskStatus.PENDING,
        wire.TASK_STATUS_RUNNING: TaskStatus.RUNNING,
        wire.TASK_STATUS_COMPLETED: TaskStatus.COMPLETED,
        wire.TASK_STATUS_FAILED: TaskStatus.FAILED,
        wire.TASK_STATUS_TERMINATED: TaskStatus.TERMINATED,
        wire.TASK_STATUS_WAITING: TaskStatus.WAITING,
    }
)
