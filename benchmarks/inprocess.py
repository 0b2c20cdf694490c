"""The other side of a benchmark: a task manager that costs next to nothing, and rollouts of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final
from uuid import UUID

from opdispatch.candidate import Candidate
from opdispatch.identity import CommandId, ComponentId, RackId, RunId, TargetId, TaskId
from opdispatch.observation import Observation, SubmissionAccepted, TaskObserved
from opdispatch.plan import NewRun, new_run, plan
from opdispatch.policy.ordering import RandomOrdering
from opdispatch.policy.phases import NoPhases, PhasePolicy
from opdispatch.policy.selection import PercentageSelector
from opdispatch.rollout import Rollout
from opdispatch.task import Operation, Ref, SubmissionRequest, TaskRef, TaskStatus

_NUMBERS: Final = count(1)
_DIGITS: Final = str.maketrans("0123456789abcdef", "f7a1d40e9b28c365")


def task_id_of(target_id: TargetId) -> TaskId:
    """The task of a target: a UUID, as the reference's are, that resembles no other id and costs little to make."""
    return TaskId(str(target_id).translate(_DIGITS))


class InProcess:
    """Accepts everything, and every task is over by the next look.

    It remembers nothing, so any number of dispatchers in any number of processes may share what it would know.
    """

    capacity: int | None = None

    def submit(self, requests: Sequence[SubmissionRequest], deadline: timedelta) -> Sequence[Observation]:
        return [
            SubmissionAccepted(target_id=r.target_id, attempt=r.attempt, fence=r.fence, task_id=task_id_of(r.target_id))
            for r in requests
        ]

    def observe(self, refs: Sequence[Ref], looked_at: datetime) -> Sequence[Observation]:
        done = TaskStatus.COMPLETED
        return [
            TaskObserved(target_id=r.target_id, task_id=r.task_id, status=done, message="done", looked_at=looked_at)
            for r in refs
            if isinstance(r, TaskRef)
        ]

    def cancel(self, refs: Sequence[TaskRef]) -> Sequence[Observation]:
        return []

    def on_change(self, callback: Callable[[RunId], None]) -> None:
        return


class Telling(InProcess):
    """The same, and it tells at once that tasks have ended, so that a loop goes on without a poll."""

    def __init__(self) -> None:
        self._changed: Callable[[RunId], None] = lambda run_id: None

    def submit(self, requests: Sequence[SubmissionRequest], deadline: timedelta) -> Sequence[Observation]:
        answers = super().submit(requests, deadline)
        for run_id in {request.run_id for request in requests}:
            self._changed(run_id)
        return answers

    def on_change(self, callback: Callable[[RunId], None]) -> None:
        self._changed = callback


class Maker:
    """Makes runs over the same racks, one component each."""

    def __init__(self, size: int, concurrency: int, phases: PhasePolicy | None = None) -> None:
        candidates = [
            Candidate(
                id=RackId(UUID(int=index + 1)),
                name=f"rack {index}",
                components={"compute": (ComponentId(UUID(int=10**9 + index)),)},
            )
            for index in range(size)
        ]
        rollout = Rollout(
            name=f"{size} targets",
            operation=Operation(type="benchmark", code="tick"),
            selector=PercentageSelector(percentage=100, seed="s"),
            ordering=RandomOrdering(seed="o"),
            max_concurrent_targets=concurrency,
            gates=(),
            phases=phases or NoPhases(),
        )
        self._plan = plan(candidates, rollout)

    def run(self) -> NewRun:
        """A run that this process did not make before."""
        command_id = CommandId(f"benchmark {next(_NUMBERS)}")
        return new_run(self._plan, command_id=command_id, actor="benchmark", now=datetime.now(UTC))
