"""The stand-in's calls that begin, look at and end tasks, with Flow's texts and codes (flow-grpc, section 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import grpc

from ..fields import NIL, parsed, uuid_message, uuid_or_none
from ..wire import flow_pb2 as wire
from .answering import Answering, page_of
from .faults import FaultKind
from .messages import task_message
from .resolve import Refused, converted, resolve, unknown
from .site import Part
from .tasks import BRING_UP, FIRMWARE, POWER, QUEUE_TIMEOUT, Asked, StandInTask

NO_ROWS: Final = "sql: no rows in result set"


class TaskCalls(Answering):
    """The calls on tasks."""

    # -- submissions --

    def UpgradeFirmware(self, request: wire.UpgradeFirmwareRequest, context: grpc.ServicerContext) -> Any:
        def begin() -> tuple[str, str]:
            if request.HasField("authentication_data"):
                if request.authentication_data.WhichOneof("value") is None:
                    raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "authentication data value is required")
                if _has_secret(request.authentication_data) and set(request.sub_targets) == {"dpu"}:
                    raise Refused(
                        grpc.StatusCode.INVALID_ARGUMENT, "dpu-only firmware updates do not support authentication data"
                    )
            return FIRMWARE, f"FirmwareUpgrade, target version {request.target_version}"

        return self._submitted("UpgradeFirmware", request, context, begin)

    def PowerOnRack(self, request: wire.PowerOnRackRequest, context: grpc.ServicerContext) -> Any:
        return self._submitted("PowerOnRack", request, context, lambda: (POWER, "PowerOn, forced false"))

    def PowerOffRack(self, request: wire.PowerOffRackRequest, context: grpc.ServicerContext) -> Any:
        phrase = "ForcePowerOff, forced true" if request.forced else "PowerOff, forced false"
        return self._submitted("PowerOffRack", request, context, lambda: (POWER, phrase))

    def PowerResetRack(self, request: wire.PowerResetRackRequest, context: grpc.ServicerContext) -> Any:
        phrase = "ForceRestart, forced true" if request.forced else "Restart, forced false"
        return self._submitted("PowerResetRack", request, context, lambda: (POWER, phrase))

    def BringUpRack(self, request: wire.BringUpRackRequest, context: grpc.ServicerContext) -> Any:
        return self._submitted("BringUpRack", request, context, lambda: (BRING_UP, "rack bring-up"))

    def IngestRack(self, request: wire.IngestRackRequest, context: grpc.ServicerContext) -> Any:
        return self._submitted("IngestRack", request, context, lambda: (BRING_UP, "rack bring-up"))

    def DecommissionRack(self, request: wire.DecommissionRackRequest, context: grpc.ServicerContext) -> Any:
        def refuse(_: object) -> wire.SubmitTaskResponse:
            raise Refused(
                grpc.StatusCode.UNIMPLEMENTED,
                "decommission is not yet available: Core decommission RPCs are pending",
            )

        return self.answered("DecommissionRack", context, self._racks_of(request), refuse)

    def _submitted(
        self, method: str, request: Any, context: grpc.ServicerContext, begin: Callable[[], tuple[str, str]]
    ) -> Any:
        return self.answered(method, context, self._racks_of(request), lambda hit: self._begun(request, begin, hit))

    def _racks_of(self, request: Any) -> list[str]:
        """The names of the racks that a request is about, for the faults."""
        try:
            return [self.site.racks[rack].name for rack in resolve(self.site, converted(request.target_spec))]
        except Refused:
            return []

    def _begun(
        self, request: Any, begin: Callable[[], tuple[str, str]], hit: Mapping[FaultKind, object]
    ) -> wire.SubmitTaskResponse:
        if not request.HasField("target_spec"):
            raise unknown("target_spec is required")
        type_, phrase = begin()
        spec = converted(request.target_spec)
        rule = uuid_or_none(request.rule_id)
        if rule is not None and rule not in self.rules:
            raise Refused(
                grpc.StatusCode.NOT_FOUND,
                f"requested rule_id {rule}: rpc error: code = NotFound desc = operation rule not found",
            )
        resolved = resolve(self.site, spec)
        queue = getattr(request, "queue_options", None)
        made: list[StandInTask] = []
        for rack, parts in resolved.items():
            kept = _one_per_serial(parts)
            if FaultKind.WRONG_COMPONENTS in hit:
                kept = kept[1:]
            seconds = 0 if queue is None else queue.queue_timeout_seconds
            asked = Asked(
                type=type_,
                phrase=phrase,
                rack_id=rack,
                components={kind: tuple(p.id for p in kept if p.type == kind) for kind in {p.type for p in kept}},
                description=request.description,
                queued=queue is not None and queue.conflict_strategy == wire.CONFLICT_STRATEGY_QUEUE,
                queue_timeout=timedelta(seconds=seconds) if seconds > 0 else QUEUE_TIMEOUT,
            )
            task = self.tasks.submit(asked, uuid4())
            if task is not None and kept:
                made.append(task)
        if not made:
            raise unknown("failed to create any tasks")
        if FaultKind.FORGET in hit:
            for task in made:
                self.tasks.forget(task.id)
        return wire.SubmitTaskResponse(task_ids=[uuid_message(task.id) for task in self.shuffled(made)])

    # -- tasks --

    def ListTasks(self, request: wire.ListTasksRequest, context: grpc.ServicerContext) -> Any:
        def listed(hit: Mapping[FaultKind, object]) -> wire.ListTasksResponse:
            offset, limit = page_of(request)
            rack = uuid_or_none(request.rack_id)
            component = uuid_or_none(request.component_id)
            found = [
                task
                for task in self.tasks.all(rack)
                if not (request.active_only and task.status.is_over)
                and (component is None or component in task.component_ids)
            ]
            later = FaultKind.UNKNOWN_STATUS in hit
            page = self.shuffled(found)[offset : offset + limit]
            return wire.ListTasksResponse(
                tasks=(task_message(task, with_report=request.with_report, later_status=later) for task in page),
                total=len(found),
            )

        return self.answered("ListTasks", context, (), listed)

    def GetTasksByIDs(self, request: wire.GetTasksByIDsRequest, context: grpc.ServicerContext) -> Any:
        def found(hit: Mapping[FaultKind, object]) -> wire.GetTasksByIDsResponse:
            messages = []
            for wanted in request.task_ids:
                task_id = uuid_or_none(wanted)
                if task_id is None:
                    messages.append(wire.Task())
                    continue
                if FaultKind.FORGET in hit and not messages:
                    self.tasks.forget(task_id)
                task = self.tasks.get(task_id)
                if task is None:
                    raise Refused(grpc.StatusCode.INTERNAL, NO_ROWS)
                later = FaultKind.UNKNOWN_STATUS in hit
                messages.append(task_message(task, with_report=True, later_status=later))
            return wire.GetTasksByIDsResponse(tasks=messages)

        return self.answered("GetTasksByIDs", context, (), found)

    def CancelTask(self, request: wire.CancelTaskRequest, context: grpc.ServicerContext) -> Any:
        def cancelled(hit: Mapping[FaultKind, object]) -> wire.CancelTaskResponse:
            task_id = parsed(request.task_id.id)
            if isinstance(task_id, str):
                raise unknown(f"invalid task ID: {task_id}")
            prefix = f"failed to get task {task_id}: rpc error: code = Internal desc ="
            if task_id == NIL:
                raise Refused(grpc.StatusCode.INTERNAL, f"{prefix} task UUID is required")
            before = self.tasks.get(task_id)
            if before is None:
                raise Refused(grpc.StatusCode.INTERNAL, f"{prefix} {NO_ROWS}")
            if before.status.value in ("completed", "failed"):
                raise unknown(f"task {task_id} cannot be cancelled (status: {before.status.value})")
            task = self.tasks.cancel(task_id)
            if task is None:
                return wire.CancelTaskResponse()
            later = FaultKind.UNKNOWN_STATUS in hit
            return wire.CancelTaskResponse(task=task_message(task, with_report=True, later_status=later))

        return self.answered("CancelTask", context, (), cancelled)


def _has_secret(data: wire.FirmwareAuthenticationData) -> bool:
    per = data.per_component
    return any((data.shared, per.compute, per.nvswitch, per.powershelf))


def _one_per_serial(parts: Sequence[Part]) -> list[Part]:
    """Of the components that share maker and serial number only the first is in a task (flow-grpc, 6.4)."""
    kept: dict[tuple[str, str], Part] = {}
    for part in parts:
        kept.setdefault((part.manufacturer, part.serial), part)
    return list(kept.values())
