"""One submission: the call that begins a task, and what its answer means.

Flow says of most failures only that no task was created, and a reply can be lost after the task was made.  So whatever
is not a definite yes or no is followed by a look at the rack: our marker there is a yes, another task that explains the
refusal is a conflict, and anything else stays unknown.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Final
from uuid import UUID

import grpc

from opdispatch.errors import InvalidInput
from opdispatch.identity import ComponentId, TaskId
from opdispatch.observation import (
    Observation,
    SubmissionAccepted,
    SubmissionConflicted,
    SubmissionRefused,
    SubmissionUnknown,
    storable,
)
from opdispatch.task import Components, SubmissionRequest

from ..fields import uuid_or_none
from ..marker import marked
from ..operations import Call, call_of
from ..seal import Sealer
from ..wire import flow_pb2 as wire
from .channel import CallRefused, FlowChannel, NoAnswer
from .conflicts import may_conflict
from .lookup import OnRack, RackLookup

_LOG: Final = logging.getLogger("opdispatch.flow")
NO_TASK: Final = "failed to create any tasks"
"""The text of a rack conflict, and of every other failure at rack level (flow-grpc, 6.3)."""
_DEFINITE_CODES: Final = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
)
"""A caller that is not let in, or a call that the service does not know, is mended by whoever runs them, and says
nothing of the target: that is no refusal."""
_DEFINITE_TEXTS: Final = re.compile(
    r"target_spec is required|target_spec must have one of|\w+\.targets must have at least one entry"
    r"|convert (rack|component|NVLink domain) target: |invalid target spec: "
    r"|failed to get component target (uuid|external_id)=.*(not found|is not found)"
    r"|no valid racks found for request|decommission is not yet available",
    re.DOTALL,
)
"""Texts of refusals that come before any rack is touched (flow-grpc, 6.2), under codes that tell nothing."""


class Submitter:
    """Makes submissions.  Safe for threads; ``flow_type`` gives the type of Flow that one of the inventory is."""

    def __init__(
        self, channel: FlowChannel, lookup: RackLookup, sealer: Sealer | None, flow_type: Callable[[str], str]
    ) -> None:
        self._channel = channel
        self._lookup = lookup
        self._sealer = sealer
        self._flow_type = flow_type

    def submit(self, request: SubmissionRequest, until: float) -> tuple[Observation, ...]:
        """Begin one task and tell what became of it, before ``until`` on the channel's monotonic clock.

        The first answer is the request's.  Each that follows names a task more that was begun in its name, so that it
        is recorded as a stray and cancelled.  Expected failures are answers.
        """
        try:
            call, components = self._call(request)
        except InvalidInput as error:
            return (_refused(request, str(error)),)
        if request.resubmission:
            found = self._looked_up(request, until)
            if isinstance(found, NoAnswer | CallRefused):
                return (_unknown(request, f"it was asked for before, and the rack cannot be looked at: {found}"),)
            if found.task_id is not None:
                return (_accepted(request, found.task_id),)
        try:
            reply = self._channel.call(call.method, call.request, self._channel.left(until))
        except NoAnswer as error:
            met = self._looked_up(request, until) if error.was_called else error
            if isinstance(met, OnRack) and met.task_id is not None:
                return (_accepted(request, met.task_id),)
            return (_unknown(request, str(error)),)
        except CallRefused as error:
            return (self._judged(request, components, error, until),)
        return self._taken(request, reply, until)

    def _looked_up(self, request: SubmissionRequest, until: float) -> OnRack | NoAnswer | CallRefused:
        try:
            return self._lookup.by_key(request.rack_id, request.key, until)
        except (NoAnswer, CallRefused) as error:
            return error

    def _call(self, request: SubmissionRequest) -> tuple[Call, Components]:
        call = call_of(request.operation, self._sealer)
        components: dict[str, tuple[ComponentId, ...]] = {}
        for kind, ids in request.components.items():
            flow = self._flow_type(kind)
            components[flow] = (*components.get(flow, ()), *ids)
        message = call.request
        message.description = marked(storable(request.operation.description), request.key)
        for ids in components.values():
            for one in ids:
                message.target_spec.components.targets.add().id.id = str(one)
        if not isinstance(message, wire.BringUpRackRequest | wire.IngestRackRequest):
            message.queue_options.conflict_strategy = wire.CONFLICT_STRATEGY_REJECT
        return call, components

    def _taken(
        self, request: SubmissionRequest, reply: wire.SubmitTaskResponse, until: float
    ) -> tuple[Observation, ...]:
        begun = {TaskId(str(one)) for message in reply.task_ids if (one := uuid_or_none(message)) is not None}
        if len(begun) == 1:
            return (_accepted(request, begun.pop()),)
        # None, or several because components have moved between racks: the one on our rack is ours.
        _LOG.warning("rack %s: a submission was answered with tasks %s", request.rack_name, sorted(begun) or "none")
        found = self._looked_up(request, until)
        if isinstance(found, NoAnswer | CallRefused):
            return (_unknown(request, f"{len(begun)} tasks were answered, and the rack cannot be looked at: {found}"),)
        if found.task_id is None and not begun:
            return (_unknown(request, f"no task was answered, and none is on rack {request.rack_name}"),)
        # With none on our rack one of the others is taken: were none, all would be begun again once they are over.
        ours = found.task_id if found.task_id is not None else min(begun)
        return tuple(_accepted(request, one) for one in (ours, *sorted(begun - {ours})))

    def _judged(
        self, request: SubmissionRequest, components: Components, error: CallRefused, until: float
    ) -> Observation:
        if error.code in _DEFINITE_CODES or _DEFINITE_TEXTS.match(error.text):
            return _refused(request, str(error))
        found = self._looked_up(request, until)
        if isinstance(found, NoAnswer | CallRefused):
            return _unknown(request, f"{error}; the rack cannot be looked at: {found}")
        if found.task_id is not None:
            return _accepted(request, found.task_id)
        if error.text == NO_TASK:
            busy = _in_the_way(request, components, found)
            if busy is not None:
                return SubmissionConflicted(
                    target_id=request.target_id,
                    attempt=request.attempt,
                    fence=request.fence,
                    message=f"rack {request.rack_name} already has a conflicting task: {busy}",
                )
        return _unknown(request, str(error))


def _in_the_way(request: SubmissionRequest, components: Components, found: OnRack) -> str | None:
    for task in found.others:
        if task.status not in (wire.TASK_STATUS_PENDING, wire.TASK_STATUS_RUNNING):
            continue
        theirs: set[UUID] = {one for message in task.component_uuids if (one := uuid_or_none(message)) is not None}
        if may_conflict(request.operation, components, task.operation, theirs):
            return f"{task.id.id} ({task.operation or 'of an unknown kind'})"
    return None


def _accepted(request: SubmissionRequest, task_id: TaskId) -> SubmissionAccepted:
    return SubmissionAccepted(
        target_id=request.target_id, attempt=request.attempt, fence=request.fence, task_id=task_id
    )


def _refused(request: SubmissionRequest, message: str) -> SubmissionRefused:
    return SubmissionRefused(target_id=request.target_id, attempt=request.attempt, fence=request.fence, message=message)


def _unknown(request: SubmissionRequest, message: str) -> SubmissionUnknown:
    return SubmissionUnknown(target_id=request.target_id, attempt=request.attempt, fence=request.fence, message=message)
