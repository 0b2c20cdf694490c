"""Runs and targets as replies tell them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import reduce
from operator import add
from typing import Any, Final

from opdispatch.errors import InvalidInput
from opdispatch.ports import Listed, Overview
from opdispatch.rollout import Rollout
from opdispatch.run import Run, Standing
from opdispatch.tally import Tally
from opdispatch.target import Target
from opdispatch.task import Operation

from ..enums import (
    COMPONENT_TYPES,
    OPERATION_TYPES,
    RUN_STATUSES,
    STATUS_REASONS,
    TARGET_STATUSES,
)
from ..fields import task_uuid, timestamp_message
from ..options import options_message
from ..target_spec import spec_in, spec_message
from ..wire import flow_pb2 as wire

_QUEUE: Final = 1
MakeTemplate = Callable[[Operation], wire.UpgradeFirmwareRequest | None]
"""The template of an operation; None for one that the wire has no member for."""


# -- runs --


def summary(run: Run, standing: Standing | None = None) -> wire.OperationRunSummary:
    """A run as it stands, or as it stood."""
    stands = run.standing if standing is None else standing
    operation = run.rollout.operation
    message = wire.OperationRunSummary(
        id=wire.UUID(id=str(run.id)),
        name=run.name,
        description=run.rollout.description,
        operation_kind=wire.OperationKind(type=OPERATION_TYPES.number(operation.type) or wire.OPERATION_TYPE_UNKNOWN),
        state=wire.OperationRunState(status=RUN_STATUSES.of(stands.status), reason=STATUS_REASONS.of(stands.reason)),
        status_message=stands.message,
        total_phases=run.phases,
        created_at=timestamp_message(run.created_at),
        updated_at=timestamp_message(stands.updated_at or run.created_at),
    )
    message.operation_kind.code = operation.code
    for name, instant in (("started_at", stands.started_at), ("finished_at", stands.finished_at)):
        if instant is not None:
            getattr(message, name).CopyFrom(timestamp_message(instant))
    return message


def listed(found: Listed) -> wire.OperationRunSummary:
    """A line of a listing.  Of a run that cannot be read it tells what is known, and what the trouble is."""
    if found.run is not None:
        return summary(found.run)
    return wire.OperationRunSummary(
        id=wire.UUID(id=str(found.run_id)),
        name=found.name,
        state=wire.OperationRunState(status=RUN_STATUSES.of(found.status)),
        status_message="" if found.trouble is None else found.trouble.message,
        created_at=timestamp_message(found.created_at),
    )


def operation_run(run: Run, template_of: MakeTemplate, standing: Standing | None = None) -> wire.OperationRun:
    """A run with its configuration, and without its statistics."""
    return wire.OperationRun(summary=summary(run, standing), configuration=configuration(run.rollout, template_of))


def stats(overview: Overview) -> wire.OperationRunStats:
    """The outcomes in the current phase, and in all phases up to it."""
    index = overview.run.phase
    upto = overview.phases[: index + 1]
    current = upto[-1] if upto else Tally()
    return wire.OperationRunStats(
        current_phase_stats=_phase_stats(index, current),
        cumulative_phase_stats=_phase_stats(index, reduce(add, upto, Tally())),
    )


def _phase_stats(index: int, tally: Tally) -> wire.OperationRunPhaseStats:
    return wire.OperationRunPhaseStats(
        phase_index=index,
        selected_targets=tally.total,
        outcome_counts=wire.OperationRunTargetOutcomeCounts(
            completed=tally.completed, failed=tally.failed, terminated=tally.terminated, skipped=tally.skipped
        ),
    )


# -- targets --


def target(run: Run, found: Target, updated_at: datetime, flow_type: Callable[[str], str]) -> wire.OperationRunTarget:
    """One target.  ``flow_type`` gives the type of Flow that one of the inventory is."""
    message = wire.OperationRunTarget(
        id=wire.UUID(id=str(found.id)),
        operation_run_id=wire.UUID(id=str(run.id)),
        rack_id=wire.UUID(id=str(found.rack_id)),
        sequence_index=found.sequence,
        phase_index=found.phase,
        status=TARGET_STATUSES.of(found.status),
        message=found.message,
        created_at=timestamp_message(run.created_at),
        updated_at=timestamp_message(updated_at),
    )
    task = task_uuid(found.task_id)
    if task is not None:
        message.task_id.CopyFrom(task)
    groups: dict[str, list[str]] = {}
    for kind, ids in found.components.items():
        groups.setdefault(_type_or_same(flow_type, kind), []).extend(map(str, ids))
    for kind in sorted(groups):
        message.components_by_type.groups.append(
            wire.ComponentsForType(
                type=_type_number(kind),
                component_ids=[wire.UUID(id=one) for one in sorted(groups[kind])],
            )
        )
    return message


def _type_number(text: str) -> wire.ComponentType.ValueType:
    return COMPONENT_TYPES.number(text) or wire.COMPONENT_TYPE_UNKNOWN


def _type_or_same(flow_type: Callable[[str], str], kind: str) -> str:
    """A run that was made by another program may hold types that are not mapped here: they are told as unknown."""
    try:
        return flow_type(kind)
    except InvalidInput:
        return kind


# -- the configuration --


def configuration(rollout: Rollout, template_of: MakeTemplate) -> wire.OperationRunConfiguration:
    """The configuration that a run was made from, its defaults and seeds filled in."""
    message = wire.OperationRunConfiguration()
    message.selector.percentage.percentage = rollout.selector.percentage
    message.selector.percentage.seed = rollout.selector.seed
    message.options.CopyFrom(options_message(rollout))
    template = template_of(rollout.operation)
    annex = _annex(rollout)
    if template is not None:
        spec, queue = annex.get("target_spec"), annex.get("queue_options")
        if spec is not None:
            template.target_spec.CopyFrom(spec_message(spec_in(spec)))
        if queue is not None:
            is_queued = queue.get("conflict_strategy") == _QUEUE
            template.queue_options.conflict_strategy = (
                wire.CONFLICT_STRATEGY_QUEUE if is_queued else wire.CONFLICT_STRATEGY_REJECT
            )
            template.queue_options.queue_timeout_seconds = queue.get("queue_timeout_seconds", 0)
        message.operation.upgrade_firmware.CopyFrom(template)
    message.operation.target_scope.CopyFrom(_target_scope(rollout, annex))
    return message


def _annex(rollout: Rollout) -> Mapping[str, Any]:
    try:
        annex = json.loads(rollout.annex)
    except ValueError:
        return {}
    return annex if isinstance(annex, dict) else {}


def _target_scope(rollout: Rollout, annex: Mapping[str, Any]) -> wire.OperationRunTargetScope:
    scope = wire.OperationRunTargetScope(
        exclude_operation_run_ids=[wire.UUID(id=str(run_id)) for run_id in rollout.scope.excluded_runs]
    )
    chosen = annex.get("default_scope_component_filter", {})
    match chosen.get("kind"):
        case "components":
            for component in chosen.get("components", ()):
                scope.default_scope_component_filter.components.targets.add().id.id = component
        case "types":
            types = map(_type_number, chosen.get("types", ()))
            scope.default_scope_component_filter.types.types.extend(types)
        case _:
            if rollout.scope.component_types:
                types = map(_type_number, rollout.scope.component_types)
                scope.default_scope_component_filter.types.types.extend(types)
    return scope
