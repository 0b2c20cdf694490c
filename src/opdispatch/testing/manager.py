"""A task manager to be mistreated: it keeps its promises, and everything around it goes wrong.

It promises that a key begins at most one task and that a request takes effect before its deadline or never.  What it
may do: refuse, find a rack busy, forget a task it knew (for a while or for good), refuse to cancel, invent a second
task for an attempt and claim that it was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..identity import IdempotencyKey, RackId, TargetId, TaskId
from ..observation import (
    CancellationRefused,
    Observation,
    SubmissionAbsent,
    SubmissionAccepted,
    SubmissionConflicted,
    SubmissionRefused,
    TaskMissing,
    TaskObserved,
)
from ..task import Ref, SubmissionRequest, TaskRef, TaskStatus
from .tasks import KnownTask


@dataclass(slots=True)
class SimulatedTask:
    """One task that exists in the manager, whoever knows of it."""

    id: TaskId
    key: IdempotencyKey
    target_id: TargetId
    attempt: int
    rack_id: RackId
    status: TaskStatus = TaskStatus.RUNNING
    forgotten: bool = False
    ever_forgotten: bool = False
    ghost: bool = False
    """Begun by nobody's request: the manager made it up."""
    cancel_asked: bool = False
    stubborn: bool = False
    """Refuses its first cancellation."""

    @property
    def live(self) -> bool:
        return not self.status.is_over


class SimulatedTasks:
    """The truth about tasks.  ``foreign`` are racks that other work keeps busy.

    A manager need not ``guard`` racks: one that does not begins a second task beside one of its own, so that whoever
    asks for it must not.
    """

    def __init__(self, *, guards: bool = True) -> None:
        self._guards = guards
        self.tasks: dict[TaskId, SimulatedTask] = {}
        self.by_key: dict[IdempotencyKey, TaskId] = {}
        self.barred: set[IdempotencyKey] = set()
        self.foreign: set[RackId] = set()

    def known(self) -> tuple[KnownTask, ...]:
        """Every task, as the laws ask for it."""
        return tuple(
            KnownTask(
                task_id=task.id,
                target_id=task.target_id,
                attempt=task.attempt,
                status=task.status,
                forgotten=task.ever_forgotten,
                invented=task.ghost,
            )
            for task in self.tasks.values()
        )

    def busy(self, rack_id: RackId) -> bool:
        if rack_id in self.foreign:
            return True
        return self._guards and any(t.live and t.rack_id == rack_id for t in self.tasks.values())

    def begin(self, request: SubmissionRequest, *, refuse: bool = False) -> Observation:
        """Execute one request: at most one task per key, none under a barred key, none on a busy rack."""
        known = self.by_key.get(request.key)
        if known is not None:
            return SubmissionAccepted(
                target_id=request.target_id, attempt=request.attempt, fence=request.fence, task_id=known
            )
        if refuse or request.key in self.barred:
            return SubmissionRefused(
                target_id=request.target_id, attempt=request.attempt, fence=request.fence, message="never"
            )
        if self.busy(request.rack_id):
            return SubmissionConflicted(
                target_id=request.target_id, attempt=request.attempt, fence=request.fence, message="rack busy"
            )
        task = self._add(request.key, request.target_id, request.attempt, request.rack_id, ghost=False)
        self.by_key[request.key] = task.id
        return SubmissionAccepted(
            target_id=request.target_id, attempt=request.attempt, fence=request.fence, task_id=task.id
        )

    def _add(
        self, key: IdempotencyKey, target_id: TargetId, attempt: int, rack_id: RackId, *, ghost: bool
    ) -> SimulatedTask:
        task_id = TaskId(f"task-{len(self.tasks)}")
        task = SimulatedTask(id=task_id, key=key, target_id=target_id, attempt=attempt, rack_id=rack_id, ghost=ghost)
        self.tasks[task_id] = task
        return task

    def invent(self, of: SimulatedTask) -> SimulatedTask:
        """A second task for an attempt: the manager broke its word, and tells of it."""
        return self._add(of.key, of.target_id, of.attempt, of.rack_id, ghost=True)

    def look(self, refs: tuple[Ref, ...], looked_at: datetime) -> list[Observation]:
        answers: list[Observation] = []
        for ref in refs:
            if isinstance(ref, TaskRef):
                task = self.tasks.get(ref.task_id)
                if task is None or task.forgotten:
                    answers.append(TaskMissing(target_id=ref.target_id, task_id=ref.task_id, looked_at=looked_at))
                else:
                    answers.append(
                        TaskObserved(
                            target_id=ref.target_id,
                            task_id=ref.task_id,
                            status=task.status,
                            message=task.status,
                            looked_at=looked_at,
                        )
                    )
                continue
            known = self.by_key.get(ref.key)
            if known is not None:
                answers.append(
                    SubmissionAccepted(target_id=ref.target_id, attempt=ref.attempt, fence=ref.fence, task_id=known)
                )
                continue
            if ref.bar:
                self.barred.add(ref.key)
            answers.append(
                SubmissionAbsent(
                    target_id=ref.target_id,
                    attempt=ref.attempt,
                    fence=ref.fence,
                    barred=ref.bar,
                    looked_at=looked_at,
                )
            )
        return answers

    def cancel(self, ref: TaskRef) -> list[Observation]:
        task = self.tasks.get(ref.task_id)
        if task is None or task.forgotten or not task.live:
            return []
        if task.stubborn and not task.cancel_asked:
            task.cancel_asked = True
            return [CancellationRefused(target_id=ref.target_id, task_id=ref.task_id, message="not now")]
        task.cancel_asked = True
        task.status = TaskStatus.TERMINATED
        return []
