"""Runs, targets and rollouts from and to the messages of an operation-run server, as its client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from opdispatch.candidate import Scope
from opdispatch.errors import InvalidInput
from opdispatch.holds import tripped_gates
from opdispatch.identity import ComponentId, RackId, RunId, TargetId, TaskId
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.policy.gates import FailureCountGate, FailureRateGate, Gate, GateScope
from opdispatch.policy.ordering import Ordering, PhysicalOrdering, RandomOrdering
from opdispatch.policy.phases import CountPhases, EqualPhases, NoPhases, PercentagePhases, PhasePolicy
from opdispatch.policy.selection import PercentageSelector
from opdispatch.ports import Listed
from opdispatch.rollout import Rollout
from opdispatch.run import Run, RunStatus, StatusReason
from opdispatch.tally import Tally, tallies_at
from opdispatch.target import FAILURES, Blocked, Claimed, Pending, Settled, Submitted, Target, TargetState, TargetStatus
from opdispatch.task import Operation

from ..enums import (
    COMPONENT_TYPES,
    GATE_SCOPES,
    LOCATION_STRATEGIES,
    OPERATION_TYPES,
    RUN_STATUSES,
    STATUS_REASONS,
    TARGET_STATUSES,
)
from ..fields import MOST_NUMBER, duration_at, instant_at, parsed, uuid_at, uuid_or_none
from ..operations import FIRMWARE, FIRMWARE_KEYS, firmware_operation, firmware_template, payload_of
from ..options import options_message
from ..target_spec import Named, TargetSpec, spec_message
from ..wire import flow_pb2 as wire

_CREDENTIAL: Final = "authentication_data"
_NEVER: Final = datetime.max.replace(tzinfo=UTC)
"""Stands for an instant that the wire does not tell: the end of a lease, the next try."""

# -- from messages --


def listed_from(message: wire.OperationRunSummary) -> Listed:
    """A line of a listing."""
    run = run_from(wire.OperationRun(summary=message), ())
    return Listed(run_id=run.id, name=run.name, status=run.status, created_at=run.created_at, run=run, trouble=None)


def run_from(message: wire.OperationRun, phases: Sequence[Tally]) -> Run:
    """A run; of its holds the wire tells the first, and of its accepted failures nothing.

    So the failures of a run that no safety gate holds count as accepted: else a gate that somebody accepted would be
    shown as tripped.
    """
    summary = message.summary
    status, reason = _member(RUN_STATUSES, summary.state.status, "status"), StatusReason.NONE
    if summary.state.reason:
        reason = _member(STATUS_REASONS, summary.state.reason, "reason")
    index = message.stats.current_phase_stats.phase_index
    run = Run(
        id=RunId(uuid_at(summary.id, "summary.id")),
        name=summary.name,
        rollout=_rollout(message),
        phases=summary.total_phases,
        created_at=instant_at(summary.created_at, "summary.created_at"),
        status=status,
        status_reason=reason,
        status_message=summary.status_message,
        phase=index,
        opened=index,
        operator_hold=reason is StatusReason.OPERATOR_PAUSED,
        conflict_hold=summary.status_message if reason is StatusReason.CONFLICT_RETRY_TIMEOUT else None,
        started_at=_instant(summary, "started_at"),
        finished_at=_instant(summary, "finished_at"),
        decided_at=_instant(summary, "updated_at"),
    )
    if status is RunStatus.PAUSED and reason is StatusReason.SAFETY_GATE:
        return run
    tripped = tripped_gates(run, tallies_at(phases, index, index))
    accepted = tuple(gate.acceptance() for gate in tripped)
    return replace(run, accepted=accepted)


def _member(table: Any, number: int, what: str) -> Any:
    found = table.get(number)
    if found is None:
        raise InvalidInput.at(f"summary.state.{what}", f"{number} is not known", "use a later version of this program")
    return found


def _instant(summary: wire.OperationRunSummary, name: str) -> datetime | None:
    if not summary.HasField(name):  # type: ignore[arg-type]  # one of its instants
        return None
    return instant_at(getattr(summary, name), f"summary.{name}")


def _rollout(message: wire.OperationRun) -> Rollout:
    configuration, summary = message.configuration, message.summary
    options = configuration.options
    if configuration.operation.HasField("upgrade_firmware"):
        operation = firmware_operation(configuration.operation.upgrade_firmware, None)
    else:
        kind = summary.operation_kind
        operation = Operation(type=OPERATION_TYPES.get(kind.type, "unknown"), code=kind.code or "unknown")
    retry = options.conflict_policy.retry
    chosen = configuration.selector.percentage
    return Rollout(
        name=summary.name,
        description=summary.description,
        operation=operation,
        selector=PercentageSelector(percentage=chosen.percentage or 100, seed=chosen.seed or "not told"),
        ordering=_ordering_from(options.ordering_policy),
        max_concurrent_targets=max(options.max_concurrent_targets, 1),
        gates=tuple(gate for one in options.safety_policy.gates if (gate := _gate_from(one)) is not None),
        phases=_phases_from(options.phase_policy),
        auto_advance=options.phase_policy.advance_policy.auto_advance,
        conflict=ConflictRetry(
            window=_wait(retry, "retry_timeout", ConflictRetry().window),
            initial_delay=_wait(retry, "initial_retry_delay", ConflictRetry().initial_delay),
            max_delay=_wait(retry, "max_retry_delay", ConflictRetry().max_delay),
        ),
    )


def _wait(retry: wire.OperationRunConflictRetryPolicy, name: str, otherwise: timedelta) -> timedelta:
    if not retry.HasField(name):  # type: ignore[arg-type]  # one of its waits
        return otherwise
    return duration_at(getattr(retry, name), f"conflict_policy.retry.{name}")


def _ordering_from(policy: wire.OperationRunOrderingPolicy) -> Ordering:
    strategy = LOCATION_STRATEGIES.get(policy.physical_location.strategy)
    if policy.WhichOneof("ordering") == "physical_location" and strategy is not None:
        return PhysicalOrdering(strategy=strategy)
    return RandomOrdering(seed=policy.random.seed or "not told")


def _gate_from(message: wire.OperationRunSafetyGate) -> Gate | None:
    match message.WhichOneof("gate"):
        case "failure_rate":
            rate = message.failure_rate
            scope = GATE_SCOPES.get(rate.scope, GateScope.CURRENT_PHASE)
            return FailureRateGate(threshold_percent=rate.failure_threshold_percent, scope=scope)
        case "failure_count":
            number = message.failure_count
            scope = GATE_SCOPES.get(number.scope, GateScope.CURRENT_PHASE)
            return FailureCountGate(threshold_count=number.failure_threshold_count, scope=scope)
        case _:
            return None


def _phases_from(policy: wire.OperationRunPhasePolicy) -> PhasePolicy:
    match policy.WhichOneof("plan"):
        case "equal" if policy.equal.phase_count > 1:
            return EqualPhases(count=policy.equal.phase_count)
        case "percentage":
            return PercentagePhases(percentages=tuple(phase.percentage for phase in policy.percentage.phases))
        case "count":
            return CountPhases(counts=tuple(phase.count for phase in policy.count.phases))
        case _:
            return NoPhases()


def status_number(status: TargetStatus | None) -> wire.OperationRunTargetStatus.ValueType:
    """A status in a request; None asks for any."""
    return wire.OPERATION_RUN_TARGET_STATUS_UNKNOWN if status is None else TARGET_STATUSES.of(status)


def target_from(message: wire.OperationRunTarget) -> Target:
    """A target.  The wire has no name of its rack, so its id stands for it; nor attempts, fences and leases."""
    rack = uuid_at(message.rack_id, "target.rack_id")
    components: dict[str, tuple[ComponentId, ...]] = {}
    for group in message.components_by_type.groups:
        ids = tuple(ComponentId(uuid_at(one, "target.components_by_type")) for one in group.component_ids)
        components[COMPONENT_TYPES.get(group.type, "unknown")] = ids
    return Target(
        id=TargetId(uuid_at(message.id, "target.id")),
        rack_id=RackId(rack),
        rack_name=str(rack),
        sequence=message.sequence_index,
        phase=message.phase_index,
        components=components,
        state=_state_from(message),
        message=message.message,
    )


def _state_from(message: wire.OperationRunTarget) -> TargetState:
    status = TARGET_STATUSES.get(message.status)
    task = uuid_or_none(message.task_id)
    task_id = None if task is None else TaskId(str(task))
    match status:
        case None:
            raise InvalidInput.at("target.status", f"{message.status} is not known", "use a later version")
        case TargetStatus.PENDING:
            return Pending()
        case TargetStatus.CLAIMED:
            return Claimed(lease_until=_NEVER)
        case TargetStatus.BLOCKED:
            return Blocked(retry_at=_NEVER)
        case TargetStatus.SUBMITTED:
            return Submitted(task_id=task_id or TaskId("not told"))
        case _:
            return Settled(status=status, task_id=task_id)


# -- to messages --


def create_request(rollout: Rollout) -> wire.CreateOperationRunRequest:
    """The request for a run.  Raises InvalidInput, which names the place, for what the wire has no words for."""
    request = wire.CreateOperationRunRequest(name=rollout.name, description=rollout.description)
    configuration = request.configuration
    configuration.selector.percentage.percentage = rollout.selector.percentage
    configuration.selector.percentage.seed = rollout.selector.seed
    if not rollout.gates:
        raise InvalidInput.at("$.gates", "there is none, and a server asks for one", "add a gate")
    for index, gate in enumerate(rollout.gates):
        if gate.outcomes != FAILURES:
            raise InvalidInput.at(
                f"$.gates[{index}].outcomes", "the calls of a server do not narrow them", "leave it out"
            )
    for place, number in _numbers(rollout):
        require_number(place, number)
    configuration.options.CopyFrom(options_message(rollout))
    if (rollout.operation.type, rollout.operation.code) != FIRMWARE:
        raise InvalidInput.at(
            "$.operation", f"a server runs {'/'.join(FIRMWARE)} alone", "use --store for other operations"
        )
    payload = payload_of(rollout.operation)
    if payload.get(_CREDENTIAL) is not None:
        # Sealed or not, what a file holds is no credential that a request could carry.
        raise InvalidInput.at(
            f"$.operation.payload.{_CREDENTIAL}",
            "a credential in a rollout is not sent to a server",
            "leave it out, and give it in a request of your own",
        )
    for key in payload.keys() - FIRMWARE_KEYS:
        raise InvalidInput.at(
            f"$.operation.payload.{key}",
            "a firmware upgrade has no such key",
            f"use {', '.join(sorted(FIRMWARE_KEYS - {_CREDENTIAL}))}",
        )
    template = firmware_template(rollout.operation)
    if template is not None:
        configuration.operation.upgrade_firmware.CopyFrom(template)
    _add_scope(configuration.operation, rollout.scope)
    return request


def require_number(place: str, number: int) -> None:
    """Raises InvalidInput at ``place`` for a number that no field can hold."""
    if number > MOST_NUMBER:
        raise InvalidInput.at(place, f"{number} is more than a server can be told", f"give at most {MOST_NUMBER}")


def _numbers(rollout: Rollout) -> Iterator[tuple[str, int]]:
    """The numbers of a rollout that may be too large for their fields, each with its place."""
    yield "$.max_concurrent_targets", rollout.max_concurrent_targets
    for index, gate in enumerate(rollout.gates):
        if isinstance(gate, FailureCountGate):
            yield f"$.gates[{index}].threshold_count", gate.threshold_count
    match rollout.phases:
        case EqualPhases(count=count):
            yield "$.phases.count", count
        case CountPhases(counts=counts):
            for index, count in enumerate(counts):
                yield f"$.phases.counts[{index}]", count


def _add_scope(operation: wire.OperationRunOperation, scope: Scope) -> None:
    for place, given in (
        ("sites", scope.sites),
        ("rooms", scope.rooms),
        ("rows", scope.rows),
        ("labels", scope.labels),
    ):
        if given:
            raise InvalidInput.at(
                f"$.scope.{place}", "the calls of a server have no words for it", "name the racks instead"
            )
    for run_id in scope.excluded_runs:
        operation.target_scope.exclude_operation_run_ids.add(id=str(run_id))
    types = []
    for text in scope.component_types:
        if text not in COMPONENT_TYPES.values():
            raise InvalidInput.at(
                "$.scope.component_types",
                f"{text!r} is no component type of Flow",
                f"use {', '.join(COMPONENT_TYPES.values())}",
            )
        types.append(text)
    if scope.racks:
        racks = []
        for text in scope.racks:
            found = parsed(text)
            named = (
                Named(name=text, types=tuple(types)) if isinstance(found, str) else Named(id=found, types=tuple(types))
            )
            racks.append(named)
        operation.upgrade_firmware.target_spec.CopyFrom(spec_message(TargetSpec(racks=tuple(racks))))
    elif types:
        filtered = operation.target_scope.default_scope_component_filter.types
        filtered.types.extend(COMPONENT_TYPES.of(text) for text in types)
