"""Looking for a task on its rack: by the marker of its key, and for what else keeps the rack busy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import attrs

from opdispatch.identity import IdempotencyKey, RackId, TaskId

from ..enums import TASK_STATUSES
from ..fields import uuid_or_none
from ..marker import is_marked
from ..wire import flow_pb2 as wire
from .channel import FlowChannel, NoAnswer

_SWEEPS: Final = 4
"""Pages come in no order and may overlap; so often the list is read before it is given up as never the same."""


@attrs.frozen(kw_only=True)
class OnRack:
    """What is on a rack: the task of the key that was looked for, or None, and the other tasks that were met."""

    task_id: TaskId | None
    others: tuple[wire.Task, ...]


class RackLookup:
    """Looks at the tasks of racks.  Safe for threads."""

    def __init__(self, channel: FlowChannel) -> None:
        self._channel = channel

    def by_key(self, rack_id: RackId, key: IdempotencyKey, until: float) -> OnRack:
        """The task with this key, active or not; the others are those that are active.

        Raises NoAnswer, CallRefused when the tasks cannot be read, or not completely, before ``until``.
        """
        active = self._tasks(rack_id, True, until, lambda task: is_marked(task.description, key))
        found = _marked(active, key)
        if found is None:
            every = self._tasks(rack_id, False, until, lambda task: is_marked(task.description, key))
            found = _marked(every, key)
        return OnRack(task_id=found, others=tuple(task for task in active if not is_marked(task.description, key)))

    def _tasks(
        self, rack_id: RackId, active_only: bool, until: float, is_wanted: Callable[[wire.Task], bool]
    ) -> list[wire.Task]:
        """All tasks, or those until one that is wanted was met."""
        known: dict[str, wire.Task] = {}
        for _ in range(_SWEEPS):
            total = 0
            for page in self._pages(rack_id, active_only, until):
                total = page.total
                for task in page.tasks:
                    # The rack is compared too: a filter that was not understood lists every rack's tasks.
                    if uuid_or_none(task.rack_id) == rack_id:
                        known[task.id.id] = task
                        if is_wanted(task):
                            return list(known.values())
            if len(known) >= total:
                return list(known.values())
        raise NoAnswer(f"the tasks of rack {rack_id} change faster than they can be read")

    def _pages(self, rack_id: RackId, active_only: bool, until: float) -> Iterator[wire.ListTasksResponse]:
        offset, size = 0, self._channel.settings.page
        met: set[str] = set()
        while True:
            request = wire.ListTasksRequest(
                rack_id=wire.UUID(id=str(rack_id)),
                active_only=active_only,
                pagination=wire.Pagination(offset=offset, limit=size),
            )
            page: wire.ListTasksResponse = self._channel.read("ListTasks", request, until)
            yield page
            offset += size
            before = len(met)
            met.update(task.id.id for task in page.tasks)
            # A page with nothing new ends the sweep: else one that is always answered would be read without an end.
            if offset >= page.total or len(met) == before:
                return


def _marked(tasks: list[wire.Task], key: IdempotencyKey) -> TaskId | None:
    """The task with this key: of several, the one that may still be at work, else the first by id."""
    found = [task for task in tasks if is_marked(task.description, key) and uuid_or_none(task.id) is not None]
    found.sort(key=lambda task: (_is_over(task), task.id.id))
    return TaskId(str(uuid_or_none(found[0].id))) if found else None


def _is_over(task: wire.Task) -> bool:
    status = TASK_STATUSES.get(task.status)
    return status is not None and status.is_over
