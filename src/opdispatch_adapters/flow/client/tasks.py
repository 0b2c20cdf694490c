"""Flow as a task manager: one task per target, found again by the marker in its description."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Self, TypeVar

import grpc

from opdispatch.identity import ComponentId, IdempotencyKey, RackId, RunId, TaskId
from opdispatch.observation import (
    CancellationRefused,
    Observation,
    SubmissionAbsent,
    SubmissionAccepted,
    SubmissionUnknown,
)
from opdispatch.task import ClaimRef, Ref, SubmissionRequest, TaskRef

from ..component_types import ComponentTypes
from ..fields import uuid_or_none
from ..seal import Sealer
from ..wire import flow_pb2 as wire
from .channel import CallRefused, FlowChannel, NoAnswer
from .lookup import RackLookup
from .observing import NO_ROWS, TaskLooks
from .settings import FlowSettings
from .submission import Submitter

_LOG: Final = logging.getLogger("opdispatch.flow")
_PER_THREAD: Final = 4
"""How many submissions one thread begins within a call deadline, when calls take their usual time."""
_REMEMBERED: Final = 100_000
_T = TypeVar("_T")
_K = TypeVar("_K")


class FlowTasks:
    """A task manager that is a Flow service.  Safe for threads.

    It keeps nothing that matters: what it remembers of keys and components only spares a warning or a wait.

    Args:
        settings: where the service is, and how patient to be.
        sealer: opens the credentials of templates; None refuses templates that have one.
        types: the component types of the inventory and of Flow.
        monotonic: the clock that bounds the calls.
    """

    def __init__(
        self,
        settings: FlowSettings,
        *,
        sealer: Sealer | None = None,
        types: ComponentTypes | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.channel = FlowChannel(settings, monotonic)
        self._lookup = RackLookup(self.channel)
        flow_type = (types if types is not None else ComponentTypes()).flow_type
        self._submitter = Submitter(self.channel, self._lookup, sealer, flow_type)
        self._looks = TaskLooks(self.channel, self._described)
        self._threads = ThreadPoolExecutor(settings.parallelism, thread_name_prefix="flow")
        self._asked: _Recent[TaskId, tuple[RackId, frozenset[ComponentId]]] = _Recent(_REMEMBERED)
        self._absent: _Recent[IdempotencyKey, datetime] = _Recent(_REMEMBERED)
        self._told: _Recent[TaskId, bool] = _Recent(_REMEMBERED)

    def close(self) -> None:
        """Give the channel up.  A call in flight gets no answer: whether it began a task is looked up later."""
        # The channel first: it ends the calls, and those that wait for a thread are then not made, but answered.
        self.channel.close()
        self._threads.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def capacity(self) -> int | None:
        """See the port."""
        return self.settings.parallelism * _PER_THREAD

    def submit(self, requests: Sequence[SubmissionRequest], deadline: timedelta) -> Sequence[Observation]:
        """See the port.  No call begins later than a deadline from now, and each ends within a deadline of its own."""
        seconds = deadline.total_seconds()
        begin_until = self.channel.after(seconds)

        def unknown(request: SubmissionRequest, why: str) -> tuple[Observation, ...]:
            told = SubmissionUnknown(
                target_id=request.target_id, attempt=request.attempt, fence=request.fence, message=why
            )
            return (told,)

        def one(request: SubmissionRequest) -> tuple[Observation, ...]:
            if self.channel.left(begin_until) <= 0:
                return unknown(request, "its turn did not come within the deadline; it was not called")
            try:
                found = self._submitter.submit(request, self.channel.after(seconds))
            except Exception as error:
                # It may have been begun.  The answers of the others must not be lost with it.
                _LOG.exception("rack %s: a submission came to nothing that was foreseen", request.rack_name)
                return unknown(request, f"its submission failed here: {error}")
            if isinstance(found[0], SubmissionAccepted):
                ids = frozenset(one for group in request.components.values() for one in group)
                self._asked.put(found[0].task_id, (request.rack_id, ids))
            return found

        return [answer for found in self._each(one, requests) for answer in found]

    def observe(self, refs: Sequence[Ref], looked_at: datetime) -> Sequence[Observation]:
        """See the port."""
        tasks = [ref for ref in refs if isinstance(ref, TaskRef)]
        claims = [ref for ref in refs if isinstance(ref, ClaimRef)]
        found: list[Observation] = list(self._looks.observe(tasks, looked_at))
        # The time for the keys begins after the tasks: however slow those are, keys get their turn.
        until = self.channel.after(self.settings.read_deadline.total_seconds())

        def claim(ref: ClaimRef) -> Observation | None:
            return self._claim(ref, looked_at, until)

        found.extend(one for one in self._each(claim, claims) if one is not None)
        return found

    def cancel(self, refs: Sequence[TaskRef]) -> Sequence[Observation]:
        """See the port."""
        until = self.channel.after(self.settings.read_deadline.total_seconds())

        def one(ref: TaskRef) -> Observation | None:
            return self._cancelled(ref, until)

        return [found for found in self._each(one, refs) if found is not None]

    def on_change(self, callback: Callable[[RunId], None]) -> None:
        """Flow tells nobody of a change: its tasks are looked at instead."""

    def _each(self, do: Callable[[_K], _T], some: Iterable[_K]) -> list[_T]:
        return list(self._threads.map(do, some))

    def _claim(self, ref: ClaimRef, looked_at: datetime, until: float) -> Observation | None:
        try:
            found = self._lookup.by_key(ref.rack_id, ref.key, until)
        except NoAnswer as error:
            _LOG.debug("key %s cannot be looked up: %s", ref.key, error)
            return None
        except CallRefused as error:
            _LOG.warning("key %s cannot be looked up: %s", ref.key, error)
            return None
        if found.task_id is not None:
            return SubmissionAccepted(
                target_id=ref.target_id, attempt=ref.attempt, fence=ref.fence, task_id=found.task_id
            )
        first = self._absent.get(ref.key)
        if not ref.bar:
            # A submission may still follow: this look tells nothing of what comes after it.
            self._absent.pop(ref.key, None)
        elif first is None:
            self._absent.put(ref.key, looked_at)
        barred = ref.bar and first is not None and looked_at - first >= self.settings.bar_after
        return SubmissionAbsent(
            target_id=ref.target_id, attempt=ref.attempt, fence=ref.fence, barred=barred, looked_at=looked_at
        )

    def _cancelled(self, ref: TaskRef, until: float) -> Observation | None:
        request = wire.CancelTaskRequest(task_id=wire.UUID(id=ref.task_id))
        try:
            self.channel.read("CancelTask", request, until)
        except NoAnswer as error:
            _LOG.debug("task %s: no answer to its cancellation: %s", ref.task_id, error)
        except CallRefused as error:
            # That it is not known, or over already, is told by looking at it.
            is_gone = error.code is grpc.StatusCode.INTERNAL and error.text.endswith(NO_ROWS)
            if not is_gone and "cannot be cancelled (status: " not in error.text:
                return CancellationRefused(target_id=ref.target_id, task_id=ref.task_id, message=str(error))
        return None

    def _described(self, ref: TaskRef, task: wire.Task) -> str:
        """The task's message; that it is on another rack, or has other components than were asked for, is told too."""
        remembered = self._asked.get(ref.task_id)
        if remembered is None:
            return task.message
        rack_id, asked = remembered
        has = {found for message in task.component_uuids if (found := uuid_or_none(message)) is not None}
        differences = []
        if (has_rack := uuid_or_none(task.rack_id)) != rack_id:
            differences.append(f"the task is on rack {has_rack}, and was asked for rack {rack_id}")
        if has != set(asked):
            lost, more = len(asked - has), len(has - asked)
            differences.append(f"Flow left {lost} of {len(asked)} components out of the task, and put {more} others in")
        if not differences:
            return task.message
        difference = "; ".join(differences)
        if self._told.get(ref.task_id) is None:
            self._told.put(ref.task_id, True)
            _LOG.warning("task %s: %s", ref.task_id, difference)
        return f"{task.message}; {difference}" if task.message else difference


class _Recent(OrderedDict[_K, _T]):
    """What was put in last, at most so many.  Safe for threads."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._guard = threading.Lock()

    def put(self, key: _K, value: _T) -> None:
        """Remember a value, and forget the oldest when there are too many."""
        with self._guard:
            self[key] = value
            self.move_to_end(key)
            if len(self) > self._most:
                self.popitem(last=False)
