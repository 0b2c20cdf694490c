"""What must hold between a run and the task manager, for whoever can see both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ..action import RecordTask, SettleTarget
from ..command import Settle
from ..evolve import Record
from ..identity import TargetId, TaskId
from ..target import TargetStatus
from ..task import TaskStatus
from .law import Law, Transition, Verdicts


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTask:
    """A task as it is, whoever knows of it.

    ``forgotten`` is True for one that the manager could not be asked about, now or before; ``invented`` for one that
    no request began.
    """

    task_id: TaskId
    target_id: TargetId
    attempt: int
    status: TaskStatus
    forgotten: bool = False
    invented: bool = False

    @property
    def is_alive(self) -> bool:
        """True while it is at work."""
        return not self.status.is_over


@dataclass(frozen=True, slots=True, kw_only=True)
class WithTasks:
    """A step, and the tasks that exist after it."""

    step: Transition
    tasks: tuple[KnownTask, ...]


def _proper(tasks: Iterable[KnownTask]) -> Iterator[KnownTask]:
    """Those that a manager that keeps its word has at work."""
    return (task for task in tasks if task.is_alive and not task.forgotten and not task.invented)


def _once(seen: WithTasks) -> Verdicts:
    alive = Counter(task.target_id for task in _proper(seen.tasks))
    yield all(count == 1 for count in alive.values()), "a target has two tasks at work"
    begun = Counter((t.target_id, t.attempt) for t in seen.tasks if not t.invented)
    yield all(count == 1 for count in begun.values()), "an attempt began two tasks"


def _slots(seen: WithTasks) -> Verdicts:
    alive, quota = sum(1 for _ in _proper(seen.tasks)), seen.step.after.run.rollout.max_concurrent_targets
    yield alive <= quota, f"{alive} tasks are at work, and there are {quota} slots"


def _settled(seen: WithTasks) -> Verdicts:
    decision = seen.step.decision
    if decision is None or isinstance(decision.command, Settle):
        return
    by_attempt = {(t.target_id, t.attempt): t for t in seen.tasks if not t.invented}
    for change in decision.changes:
        if isinstance(change, SettleTarget):
            target = seen.step.before.targets[change.target_id]
            task = by_attempt.get((target.id, target.attempt))
            over = task is None or not task.is_alive or task.forgotten
            yield over, f"target {target.sequence} is settled, and its task is at work"
            true = task is None or task.forgotten or task.status.value == change.status.value
            skipped = change.status is TargetStatus.SKIPPED and task is None
            yield true or skipped, f"target {target.sequence} is {change.status}, and its task is not"
        if isinstance(change, RecordTask):
            found = [t for t in seen.tasks if t.task_id == change.task_id]
            theirs = [(t.target_id, t.attempt) for t in found]
            target = seen.step.before.targets[change.target_id]
            yield theirs in ([(target.id, target.attempt)], []), f"target {target.sequence} adopts another's task"


TASK_LAWS: Final[tuple[Law[WithTasks], ...]] = (
    Law(name="once", rule="A target never has two tasks at work, and an attempt begins one.", check=_once),
    Law(name="slots", rule="No more tasks are at work than there are slots.", check=_slots),
    Law(name="settled", rule="A target is settled as its task ended, and never while it is at work.", check=_settled),
)


def orphans(record: Record, tasks: Iterable[KnownTask]) -> tuple[KnownTask, ...]:
    """The tasks at work that a run at rest does not know of: there must be none."""
    known = set(record.strays) | {task_id for t in record.targets.values() if (task_id := t.task_id) is not None}
    return tuple(task for task in tasks if task.is_alive and task.task_id not in known)
