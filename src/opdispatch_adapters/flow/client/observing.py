"""Looking at tasks in batches, though one id that Flow does not know fails the whole call (flow-grpc, 6.5)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final

import grpc

from opdispatch.observation import Observation, TaskMissing, TaskObserved
from opdispatch.task import TaskRef, TaskStatus

from ..enums import TASK_STATUSES
from ..fields import parsed, uuid_or_none
from ..wire import flow_pb2 as wire
from .channel import CallRefused, FlowChannel, NoAnswer

_LOG: Final = logging.getLogger("opdispatch.flow")
NO_ROWS: Final = "sql: no rows in result set"
"""What Flow says, under INTERNAL, when there is no such task."""

Describe = Callable[[TaskRef, wire.Task], str]
"""The message of a task, with what else is to be told of it."""


class TaskLooks:
    """Looks at recorded tasks.  Safe for threads."""

    def __init__(self, channel: FlowChannel, describe: Describe) -> None:
        self._channel = channel
        self._describe = describe

    def observe(self, refs: Sequence[TaskRef], looked_at: datetime) -> Iterator[Observation]:
        """What is known of these tasks.  What cannot be read now is left out."""
        readable = []
        for ref in refs:
            if isinstance(parsed(ref.task_id), str):
                # Nothing that Flow named: it can have no such task.
                yield TaskMissing(target_id=ref.target_id, task_id=ref.task_id, looked_at=looked_at)
            else:
                readable.append(ref)
        size = self._channel.settings.page
        for start in range(0, len(readable), size):
            yield from self._some(readable[start : start + size], looked_at)

    def _some(self, refs: Sequence[TaskRef], looked_at: datetime) -> Iterator[Observation]:
        request = wire.GetTasksByIDsRequest(task_ids=[wire.UUID(id=ref.task_id) for ref in refs])
        try:
            reply: wire.GetTasksByIDsResponse = self._channel.read("GetTasksByIDs", request)
        except NoAnswer as error:
            _LOG.debug("%d tasks cannot be looked at: %s", len(refs), error)
            return
        except CallRefused as error:
            if error.code is not grpc.StatusCode.INTERNAL or error.text != NO_ROWS:
                _LOG.warning("%d tasks cannot be looked at: %s", len(refs), error)
            elif len(refs) == 1:
                yield TaskMissing(target_id=refs[0].target_id, task_id=refs[0].task_id, looked_at=looked_at)
            else:
                middle = len(refs) // 2
                yield from self._some(refs[:middle], looked_at)
                yield from self._some(refs[middle:], looked_at)
            return
        # By their ids, and not by their places: an answer that says something else of its task is not believed.
        known = {str(found): task for task in reply.tasks if (found := uuid_or_none(task.id)) is not None}
        for ref in refs:
            task = known.get(str(parsed(ref.task_id)))
            if task is not None:
                yield TaskObserved(
                    target_id=ref.target_id,
                    task_id=ref.task_id,
                    status=TASK_STATUSES.get(task.status, TaskStatus.UNKNOWN),
                    message=self._describe(ref, task),
                    looked_at=looked_at,
                )
