"""The stand-in's tasks and racks as messages."""

from __future__ import annotations

import json

from ..enums import COMPONENT_TYPES, TASK_STATUSES
from ..fields import timestamp_message, uuid_message
from ..wire import flow_pb2 as wire
from .site import Part, Site, SiteRack
from .tasks import StandInTask

_LATER_STATUS = 99
"""A task status that no version knows yet."""


def task_message(task: StandInTask, *, with_report: bool, later_status: bool = False) -> wire.Task:
    """A task as the calls tell it."""
    message = wire.Task(
        id=uuid_message(task.id),
        operation=task.phrase,
        rack_id=uuid_message(task.rack_id),
        component_uuids=[uuid_message(one) for one in sorted(task.component_ids, key=str)],
        description=task.description,
        status=_LATER_STATUS if later_status else TASK_STATUSES.of(task.status),  # type: ignore[arg-type]
        message=task.message,
        created_at=timestamp_message(task.created_at),
        updated_at=timestamp_message(task.updated_at or task.created_at),
    )
    if task.began_at is not None:
        message.executor_type = wire.TASK_EXECUTOR_TYPE_TEMPORAL
        message.execution_id = json.dumps({"workflow_id": str(task.id), "run_id": str(task.id)})
    for name in ("started_at", "finished_at", "queue_expires_at"):
        instant = getattr(task, name)
        if instant is not None:
            getattr(message, name).CopyFrom(timestamp_message(instant))
    if with_report:
        message.report = json.dumps({"version": 1, "stages": []})
    return message


def rack_message(site: Site, rack: SiteRack, *, with_components: bool) -> wire.Rack:
    """A rack as the calls tell it."""
    message = wire.Rack(
        info=wire.DeviceInfo(
            id=uuid_message(rack.id), name=rack.name, manufacturer=rack.manufacturer, serial_number=rack.serial
        ),
        location=wire.Location(region=rack.region, datacenter=rack.datacenter, room=rack.room, position=rack.position),
    )
    if rack.model:
        message.info.model = rack.model
    if rack.domain is not None:
        message.nvl_domain_ids.append(uuid_message(rack.domain))
    if with_components:
        message.components.extend(component_message(site, part) for part in rack.parts)
    return message


def component_message(site: Site, part: Part) -> wire.Component:
    """A component as the calls tell it."""
    message = wire.Component(
        type=COMPONENT_TYPES.of(part.type),
        info=wire.DeviceInfo(
            id=uuid_message(part.id), name=part.name, manufacturer=part.manufacturer, serial_number=part.serial
        ),
        component_id=part.external_id,
        power_state="on",
    )
    if part.model:
        message.info.model = part.model
    if part.rack_id is not None:
        message.rack_id.CopyFrom(uuid_message(part.rack_id))
        domain = site.racks[part.rack_id].domain
        if domain is not None:
            message.nvl_domain_id.CopyFrom(uuid_message(domain))
    return message
