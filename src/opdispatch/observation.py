"""Observations: everything that happened outside since the last decision.

Each names target and attempt, and the fence of the claim it belongs to where it can.  Each may be late,
doubled, reordered or lost; ``decide`` meets them all by the same rules.  An answer is one of three: yes
(accepted), no (conflicted, refused) or unsure (unknown); unsure never becomes no by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from .identity import TargetId, TaskId
from .task import TaskStatus


def storable(text: str) -> str:
    """The text as every store can keep it: a lone surrogate or a NUL, which databases refuse, becomes an escape."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """Something that came with words of somebody else."""

    message: str

    def __post_init__(self) -> None:
        text = storable(self.message)
        if text is not self.message:
            object.__setattr__(self, "message", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskObserved(_Told):
    """A task was seen, in this status."""

    target_id: TargetId
    task_id: TaskId
    status: TaskStatus
    looked_at: datetime
    """The store's clock, read before the look began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMissing:
    """The manager answered, and does not know the task."""

    target_id: TargetId
    task_id: TaskId
    looked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionAccepted:
    """There is a task for this attempt: it was begun by a submission, or found by its key."""

    target_id: TargetId
    attempt: int
    fence: int
    task_id: TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionConflicted(_Told):
    """A definite no for now: the rack is busy, and nothing was begun under this fence."""

    target_id: TargetId
    attempt: int
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionRefused(_Told):
    """A definite no for good: the request can never be accepted, and nothing was begun under this fence."""

    target_id: TargetId
    attempt: int
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionUnknown(_Told):
    """Nobody knows: a time-out, a lost connection, an error that is not listed."""

    target_id: TargetId
    attempt: int
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionAbsent:
    """A claim whose lease is over was looked up by its key, and there is no task for it."""

    target_id: TargetId
    attempt: int
    fence: int
    barred: bool
    """True when no task can begin under the key any more."""
    looked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CancellationRefused(_Told):
    """The manager would not cancel a task; it is asked again, later and later."""

    target_id: TargetId
    task_id: TaskId


Submission = SubmissionAccepted | SubmissionConflicted | SubmissionRefused | SubmissionUnknown | SubmissionAbsent
Observation = Submission | TaskObserved | TaskMissing | CancellationRefused


def named_tasks(observations: Iterable[Observation]) -> frozenset[TaskId]:
    """The tasks that these observations name: a state must hold their strays, closed ones too."""
    return frozenset(
        observation.task_id
        for observation in observations
        if isinstance(observation, (TaskObserved, TaskMissing, SubmissionAccepted, CancellationRefused))
    )
