"""A task: the child unit of work that another system runs for one target.

The core knows of a task only its id, its status and a message.  The statuses are those of the reference's
wire (``flow.proto``, enum TaskStatus); a status that is not known is *unknown*: not settled, never success
and never failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from types import MappingProxyType

from .errors import InvalidInput
from .identity import ComponentId, IdempotencyKey, RackId, RunId, TargetId, TaskId

Components = Mapping[str, tuple[ComponentId, ...]]
"""Component ids by component type; types are opaque text, ids ascend in text order, no list is empty."""


def frozen_components(components: Mapping[str, tuple[ComponentId, ...]]) -> Components:
    """The same components in canonical form: types and ids ascending, read-only.

    Raises InvalidInput for a type with no name or no component, and for an id that is named twice.
    """
    seen: set[ComponentId] = set()
    for kind, ids in components.items():
        if not kind or not ids:
            raise InvalidInput.at(f"components[{kind!r}]", "a component type needs a name and at least one component")
        for component in ids:
            if component in seen:
                raise InvalidInput.at(f"components[{kind!r}]", f"component {component} is named twice")
            seen.add(component)
    return MappingProxyType({kind: tuple(sorted(components[kind], key=str)) for kind in sorted(components)})


@unique
class TaskStatus(StrEnum):
    """What a task manager says of a task."""

    UNKNOWN = "unknown"
    """Nothing that we know how to read; treated as not settled yet."""
    WAITING = "waiting"
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    TERMINATED = "terminated"

    __hash__ = str.__hash__

    @property
    def is_over(self) -> bool:
        """True when the task has ended and will never run again."""
        return self in _OVER


_OVER = (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.TERMINATED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What to do to each target.

    ``type`` and ``code`` are the reference's texts (``firmware_control`` / ``upgrade``) or an adapter's own;
    ``payload`` is a document that the core never looks into: JSON text, kept byte for byte.
    """

    type: str
    code: str
    description: str = ""
    payload: str = "{}"

    def __post_init__(self) -> None:
        for name, value in (("type", self.type), ("code", self.code)):
            if not value or len(value) > 64:
                raise InvalidInput.at(f"$.operation.{name}", f"{value!r} is not a name of 1 to 64 characters")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionRequest:
    """All that a task manager needs to begin one attempt of one target."""

    key: IdempotencyKey
    run_id: RunId
    target_id: TargetId
    attempt: int
    fence: int
    rack_id: RackId
    rack_name: str
    components: Components
    operation: Operation
    resubmission: bool
    """True when an earlier claim of the same attempt went unanswered: a manager that cannot promise its
    deadline must look for the task before it begins another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRef:
    """What to look at, or to cancel: a recorded task, its target's or a stray."""

    target_id: TargetId
    task_id: TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRef:
    """What to look at: the key of a claim whose lease is over and that nobody answered."""

    target_id: TargetId
    attempt: int
    fence: int
    key: IdempotencyKey
    rack_id: RackId
    bar: bool
    """True when no task may begin under the key any more (the run is over): the manager bars the key, where
    it can, before it answers that there is none."""


Ref = TaskRef | ClaimRef
