"""The tasks of the stand-in: what Flow does with a rack's work (flow-grpc, 6.3 to 6.8), as a machine over a clock.

Nothing runs: a task's life follows from when it was made and how long it is to take, and is worked out whenever it is
looked at.  So a record of what was asked for is enough to go on after a crash.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import attrs

from opdispatch.task import TaskStatus

FIRMWARE, POWER, BRING_UP = "firmware_control", "power_control", "bring_up"
MOST_WAITING: Final = 5
QUEUE_TIMEOUT: Final = timedelta(hours=1)
_LONGEST_MESSAGE: Final = 512
"""The bytes that a task's message has at most (flow-grpc, 6.8)."""
PENDING_TEXT: Final = "Pending"
WAITING_TEXT: Final = "Queued: waiting for rack to become available"
EMPTY_TEXT: Final = "rack has no component"
_SHELF: Final = "PowerShelf"
_ACTIVE: Final = (TaskStatus.PENDING, TaskStatus.RUNNING)

Components = Mapping[str, tuple[UUID, ...]]


@attrs.frozen(kw_only=True)
class Fate:
    """How a task ends: after so long at work, as ``completed`` or ``failed``, with a message."""

    duration: timedelta
    status: TaskStatus = TaskStatus.COMPLETED
    message: str = "Succeeded"


@attrs.define(kw_only=True)
class StandInTask:
    """One task, as it stood when it was last looked at."""

    id: UUID
    type: str
    phrase: str
    rack_id: UUID
    components: Components
    description: str
    created_at: datetime
    fate: Fate
    status: TaskStatus = TaskStatus.PENDING
    message: str = PENDING_TEXT
    began_at: datetime | None = None
    """When its work began to count: when it was made, or left the queue."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    queue_expires_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def component_ids(self) -> frozenset[UUID]:
        """All its components."""
        return frozenset(one for ids in self.components.values() for one in ids)


@attrs.frozen(kw_only=True)
class Asked:
    """What is asked for on one rack."""

    type: str
    phrase: str
    rack_id: UUID
    components: Components
    description: str
    queued: bool = False
    queue_timeout: timedelta = QUEUE_TIMEOUT


@attrs.frozen(kw_only=True)
class Tally:
    """What the proofs count."""

    created: int
    """Tasks ever made."""
    by_description: Mapping[str, int]
    """Tasks ever made with each description."""
    most_alive: Mapping[str, int]
    """The most tasks with one description that were at work at the same time."""


def conflicts(type_: str, components: Components, other: StandInTask) -> bool:
    """True when two tasks on one rack cannot both be active (flow-grpc, 6.7)."""
    return _conflicts(type_, components, other.type, other.components) or _conflicts(
        other.type, other.components, type_, components
    )


def _conflicts(one: str, ones: Components, other: str, others: Components) -> bool:
    shared = {i for ids in ones.values() for i in ids} & {i for ids in others.values() for i in ids}
    if one not in (FIRMWARE, POWER):
        return True
    if one == FIRMWARE:
        return other == FIRMWARE and bool(shared)
    if ones.get(_SHELF) and other in (FIRMWARE, POWER):
        return True
    for kind in ("Compute", "NVSwitch"):
        if ones.get(kind) and (other in (POWER, FIRMWARE)) and others.get(kind) and shared:
            return True
    return False


class TaskModel:
    """All tasks.  Safe for threads.

    ``fate_of`` says how the task of a rack ends, given how many the rack had before; ``starts_after`` is how long it is
    pending first.  ``record`` is told what must outlive the process.
    """

    def __init__(
        self,
        clock: Callable[[], datetime],
        fate_of: Callable[[UUID, int], Fate],
        *,
        starts_after: timedelta = timedelta(0),
        record: Callable[[str, StandInTask, datetime], None] = lambda what, task, at: None,
    ) -> None:
        self._clock = clock
        self._fate_of = fate_of
        self._starts_after = starts_after
        self._record = record
        self._guard = threading.RLock()
        self._tasks: dict[UUID, StandInTask] = {}
        self._by_rack: defaultdict[UUID, list[StandInTask]] = defaultdict(list)
        self._made: Counter[str] = Counter()
        self._most: Counter[str] = Counter()

    def submit(self, asked: Asked, task_id: UUID) -> StandInTask | None:
        """The new task; None when the rack is busy, or its queue is full."""
        with self._guard:
            now = self._clock()
            self._look(asked.rack_id, now)
            on_rack = self._by_rack[asked.rack_id]
            busy = any(t.status in _ACTIVE and conflicts(asked.type, asked.components, t) for t in on_rack)
            if busy and (not asked.queued or sum(t.status is TaskStatus.WAITING for t in on_rack) >= MOST_WAITING):
                return None
            task = StandInTask(
                id=task_id,
                type=asked.type,
                phrase=asked.phrase,
                rack_id=asked.rack_id,
                components=asked.components,
                description=asked.description,
                created_at=now,
                updated_at=now,
                fate=self._fate_of(asked.rack_id, len(on_rack)),
            )
            if not any(asked.components.values()):
                task.status, task.message, task.finished_at = TaskStatus.FAILED, EMPTY_TEXT, now
            elif busy:
                task.status, task.message = TaskStatus.WAITING, WAITING_TEXT
                task.queue_expires_at = now + asked.queue_timeout
            else:
                task.began_at = now
            self._record("made", task, now)
            self._keep(task)
            return task

    def restore(self, task: StandInTask) -> None:
        """Take a task back that a record tells of; it goes on from when it was made."""
        with self._guard:
            # Else an earlier task would be counted as alive at once with this one, though it had ended.
            self._look(task.rack_id, task.created_at)
            self._keep(task)

    def restore_cancelled(self, task_id: UUID, at: datetime) -> None:
        """Cancel a task that a record tells of, at the time of the record: what waited for it began then."""
        with self._guard:
            self._cancel(task_id, at)

    def restore_forgotten(self, task_id: UUID, at: datetime) -> None:
        """Drop a task that a record tells of, at the time of the record."""
        with self._guard:
            self._forget(task_id, at)

    def _keep(self, task: StandInTask) -> None:
        self._tasks[task.id] = task
        self._by_rack[task.rack_id].append(task)
        self._made[task.description] += 1
        alive = sum(not t.status.is_over for t in self._by_rack[task.rack_id] if t.description == task.description)
        self._most[task.description] = max(self._most[task.description], alive)

    def forget(self, task_id: UUID) -> None:
        """Drop a task, as if it had never been; what was counted stays counted."""
        with self._guard:
            now = self._clock()
            task = self._forget(task_id, now)
            if task is not None:
                self._record("forgotten", task, now)

    def _forget(self, task_id: UUID, at: datetime) -> StandInTask | None:
        task = self._tasks.get(task_id)
        if task is None:
            return None
        self._look(task.rack_id, at)
        del self._tasks[task_id]
        on_rack = self._by_rack[task.rack_id]
        on_rack.remove(task)
        # Nothing else happens on the rack that would let the next one begin.
        self._promote(on_rack, at)
        return task

    def get(self, task_id: UUID) -> StandInTask | None:
        """A task as it stands now."""
        with self._guard:
            task = self._tasks.get(task_id)
            if task is not None:
                self._look(task.rack_id, self._clock())
            return task

    def all(self, rack_id: UUID | None = None) -> list[StandInTask]:
        """Every task, or those of a rack, as they stand now, in the order in which they were made."""
        with self._guard:
            now = self._clock()
            for one in list(self._by_rack) if rack_id is None else [rack_id]:
                self._look(one, now)
            return [t for t in self._tasks.values() if rack_id in (None, t.rack_id)]

    def cancel(self, task_id: UUID) -> StandInTask | None:
        """End a task that is not over.  Returns it as it then stands; None when there is no such task."""
        with self._guard:
            now = self._clock()
            if self._cancel(task_id, now):
                self._record("cancelled", self._tasks[task_id], now)
            return self._tasks.get(task_id)

    def _cancel(self, task_id: UUID, at: datetime) -> bool:
        """True when it ended a task."""
        task = self._tasks.get(task_id)
        if task is None:
            return False
        self._look(task.rack_id, at)
        if task.status.is_over:
            return False
        _end(task, TaskStatus.TERMINATED, "Cancelled by user", at)
        self._promote(self._by_rack[task.rack_id], at)
        return True

    def tally(self) -> Tally:
        """What was counted."""
        with self._guard:
            return Tally(created=sum(self._made.values()), by_description=dict(self._made), most_alive=dict(self._most))

    # -- time --

    def _look(self, rack_id: UUID, now: datetime) -> None:
        """Bring the tasks of a rack up to now, event by event: an end may let a waiting task begin in the past."""
        on_rack = self._by_rack.get(rack_id, [])
        while True:
            events = sorted(
                ((at, index, change) for index, task in enumerate(on_rack) for at, change in self._next(task)),
                key=lambda event: event[:2],
            )
            if not events or events[0][0] > now:
                return
            at, index, change = events[0]
            change(on_rack[index], at)
            self._promote(on_rack, at)

    def _next(self, task: StandInTask) -> Iterator[tuple[datetime, Callable[[StandInTask, datetime], None]]]:
        if task.status is TaskStatus.PENDING and task.began_at is not None:
            yield task.began_at + self._starts_after, _start
        elif task.status is TaskStatus.RUNNING and task.started_at is not None:
            yield task.started_at + task.fate.duration, _finish
        elif task.status is TaskStatus.WAITING and task.queue_expires_at is not None:
            yield task.queue_expires_at, _expire

    def _promote(self, on_rack: Iterable[StandInTask], now: datetime) -> None:
        """The oldest waiting task begins once nothing that conflicts with it is active."""
        tasks = list(on_rack)
        for task in tasks:
            if task.status is not TaskStatus.WAITING:
                continue
            if any(t.status in _ACTIVE and conflicts(task.type, task.components, t) for t in tasks):
                return
            task.status, task.message = TaskStatus.PENDING, "Promoted: no conflicting active tasks"
            task.began_at = task.updated_at = now


def _start(task: StandInTask, at: datetime) -> None:
    task.status, task.message, task.started_at, task.updated_at = TaskStatus.RUNNING, "Running", at, at


def _finish(task: StandInTask, at: datetime) -> None:
    message = task.fate.message
    if task.fate.status is TaskStatus.FAILED:
        first = message.splitlines()[0] if message else ""
        message = first.encode()[:_LONGEST_MESSAGE].decode(errors="ignore") or "Failed"
    _end(task, task.fate.status, message, at)


def _expire(task: StandInTask, at: datetime) -> None:
    _end(task, TaskStatus.TERMINATED, "Expired: queue timeout reached", at)


def _end(task: StandInTask, status: TaskStatus, message: str, at: datetime) -> None:
    task.status, task.message, task.finished_at, task.updated_at = status, message, at, at
