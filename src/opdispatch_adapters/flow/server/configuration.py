"""What a request to create a run says, checked in the order and in the words of the reference (flow-grpc, 5.2)."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import attrs

from opdispatch.candidate import Scope
from opdispatch.errors import InvalidInput
from opdispatch.identity import ComponentId, RunId
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.policy.gates import FailureCountGate, FailureRateGate, Gate, GateScope
from opdispatch.policy.ordering import Ordering, PhysicalOrdering, RandomOrdering
from opdispatch.policy.phases import CountPhases, EqualPhases, PercentagePhases, PhasePolicy
from opdispatch.policy.selection import PercentageSelector
from opdispatch.rollout import Rollout
from opdispatch.task import Operation

from ..enums import COMPONENT_TYPES, GATE_SCOPES, LOCATION_STRATEGIES
from ..fields import duration_at, parsed
from ..target_spec import NIL, BadSpec, TargetSpec, spec_document, spec_from
from ..wire import flow_pb2 as wire
from .failure import invalid

_NAME: Final = 255
_QUEUE: Final = 1
"""``conflict_strategy`` in a stored document: 0 reject, 1 queue (flow-storage, 5.3)."""

MakeOperation = Callable[[wire.UpgradeFirmwareRequest], Operation]


@attrs.frozen(kw_only=True)
class Asked:
    """A request that can be planned.  ``spec`` names the racks, or is None for the default scope; ``picked`` are the
    components that the default scope is narrowed to, or None."""

    rollout: Rollout
    spec: TargetSpec | None
    picked: frozenset[ComponentId] | None


def asked_from(
    request: wire.CreateOperationRunRequest,
    *,
    seed: Callable[[str], str],
    operation_of: MakeOperation,
    types_of: Callable[[str], tuple[str, ...]],
) -> Asked:
    """What a request asks for.

    Args:
        request: the request.
        seed: makes the seed of a use (``selector``, ``ordering``) for which the request gives none.
        operation_of: makes the operation of its template.
        types_of: the inventory's component types that a type of Flow stands for.

    Raises:
        CallFailure: INVALID_ARGUMENT, with the first thing that is wrong.
    """
    template = request.configuration.operation.upgrade_firmware
    try:
        # First of all, as in the reference: a credential that cannot be kept is told before anything else.
        operation = operation_of(template)
    except InvalidInput as error:
        raise invalid(str(error)) from error
    name = request.name.strip()
    if not name:
        raise invalid("name is required")
    if len(name) > _NAME:
        raise invalid(f"name has {len(name)} characters; at most {_NAME} are stored")
    if not request.HasField("configuration"):
        raise invalid("configuration is required")
    configuration = request.configuration
    if configuration.operation.WhichOneof("operation") is None:
        raise invalid("operation is required")
    scope, picked, narrowed = _target_scope(configuration.operation, types_of)
    spec = _target_spec(template, is_narrowed=narrowed is not None)
    _check_filter(narrowed)
    selector = _selector(configuration, seed)
    options = _options(configuration)
    try:
        rollout = Rollout(
            name=name,
            description=request.description,
            operation=operation,
            selector=selector,
            max_concurrent_targets=options.max_concurrent_targets,
            gates=_gates(options),
            conflict=_conflict(options),
            ordering=_ordering(options, seed),
            phases=_phases(options),
            auto_advance=options.phase_policy.advance_policy.auto_advance,
            scope=scope,
            annex=_annex(template, spec, narrowed),
        )
    except InvalidInput as error:
        raise invalid(str(error)) from error
    return Asked(rollout=rollout, spec=spec, picked=picked)


# -- the operation --


def _target_scope(
    operation: wire.OperationRunOperation, types_of: Callable[[str], tuple[str, ...]]
) -> tuple[Scope, frozenset[ComponentId] | None, wire.ComponentFilter | None]:
    said, place = operation.target_scope, "target_scope"
    excluded = []
    for index, message in enumerate(said.exclude_operation_run_ids):
        run_id = parsed(message.id)
        if isinstance(run_id, str) or run_id == NIL:
            raise invalid(f"{place}.exclude_operation_run_ids[{index}] must be a valid UUID")
        excluded.append(RunId(run_id))
    place = f"{place}.default_scope_component_filter"
    types: list[str] = []
    picked: list[UUID] = []
    kind = said.default_scope_component_filter.WhichOneof("filter")
    for index, number in enumerate(said.default_scope_component_filter.types.types):
        text = COMPONENT_TYPES.get(number)
        if text is None:
            raise invalid(f"{place}.types[{index}] is unknown")
        types.extend(types_of(text))
    for index, target in enumerate(said.default_scope_component_filter.components.targets):
        if target.WhichOneof("identifier") != "id":
            raise invalid(f"{place}.components[{index}] must use component UUID")
        component = parsed(target.id.id)
        if isinstance(component, str) or component == NIL:
            raise invalid(f"{place}.components[{index}] must be a valid UUID")
        picked.append(component)
    scope = Scope(component_types=tuple(dict.fromkeys(types)), excluded_runs=tuple(excluded))
    chosen = frozenset(map(ComponentId, picked)) if kind == "components" else None
    return scope, chosen, None if kind is None else said.default_scope_component_filter


def _target_spec(template: wire.UpgradeFirmwareRequest, *, is_narrowed: bool) -> TargetSpec | None:
    if not template.HasField("target_spec"):
        return None
    try:
        spec = spec_from(template.target_spec)
    except BadSpec as error:
        said = "validate operation: target_spec: " if error.late else "invalid upgrade_firmware.target_spec: "
        raise invalid(f"{said}{error.text}") from error
    if is_narrowed:
        raise invalid(
            "validate operation: target_scope.default_scope_component_filter requires target_spec to be omitted"
        )
    return spec


def _check_filter(narrowed: wire.ComponentFilter | None) -> None:
    if narrowed is None:
        return
    kind = narrowed.WhichOneof("filter")
    if not (narrowed.types.types if kind == "types" else narrowed.components.targets):
        one = "type" if kind == "types" else "component"
        raise invalid(
            "validate operation: target_scope: default_scope_component_filter: "
            f'component filter kind "{kind}" requires at least one {one}'
        )


def _annex(
    template: wire.UpgradeFirmwareRequest, spec: TargetSpec | None, narrowed: wire.ComponentFilter | None
) -> str:
    """What the rollout itself has no place for, as the reference stores it."""
    annex: dict[str, Any] = {}
    if spec is not None:
        annex["target_spec"] = spec_document(spec)
    if template.HasField("queue_options"):
        queue = template.queue_options
        is_queued = queue.conflict_strategy == wire.CONFLICT_STRATEGY_QUEUE
        annex["queue_options"] = {"conflict_strategy": _QUEUE if is_queued else 0}
        if queue.queue_timeout_seconds:
            annex["queue_options"]["queue_timeout_seconds"] = queue.queue_timeout_seconds
    if narrowed is not None and narrowed.WhichOneof("filter") == "types":
        # In the types of Flow: those of the inventory, which the scope has, may be others.
        types = [COMPONENT_TYPES[number] for number in narrowed.types.types]
        annex["default_scope_component_filter"] = {"kind": "types", "types": types}
    elif narrowed is not None:
        components = [str(parsed(target.id.id)) for target in narrowed.components.targets]
        annex["default_scope_component_filter"] = {"kind": "components", "components": components}
    return json.dumps(annex, sort_keys=True, separators=(",", ":"))


# -- the selector and the options --


def _selector(configuration: wire.OperationRunConfiguration, seed: Callable[[str], str]) -> PercentageSelector:
    if not configuration.HasField("selector") or configuration.selector.WhichOneof("selector") is None:
        raise invalid("selector is required")
    said = configuration.selector.percentage
    if not 1 <= said.percentage <= 100:
        raise invalid("percentage selector must be between 1 and 100")
    return PercentageSelector(percentage=said.percentage, seed=said.seed or seed("selector"))


def _options(configuration: wire.OperationRunConfiguration) -> wire.OperationRunOptions:
    if not configuration.HasField("options"):
        raise invalid("options are required")
    options = configuration.options
    if options.max_concurrent_targets < 1:
        raise invalid("options.max_concurrent_targets must be greater than 0")
    return options


def _gates(options: wire.OperationRunOptions) -> tuple[Gate, ...]:
    if not options.HasField("safety_policy"):
        raise invalid("options.safety_policy is required")
    if not options.safety_policy.gates:
        raise invalid("safety_policy must contain at least one gate")
    return tuple(_gate(index, gate) for index, gate in enumerate(options.safety_policy.gates))


def _gate(index: int, message: wire.OperationRunSafetyGate) -> Gate:
    place = f"safety_policy.gates[{index}]"
    match message.WhichOneof("gate"):
        case "failure_rate":
            scope = _gate_scope(message.failure_rate.scope, f"{place}: failure_rate.scope")
            percent = message.failure_rate.failure_threshold_percent
            if not 1 <= percent <= 100:
                raise invalid(f"{place}: failure_rate.failure_threshold_percent must be between 1 and 100")
            return FailureRateGate(threshold_percent=percent, scope=scope)
        case "failure_count":
            scope = _gate_scope(message.failure_count.scope, f"{place}: failure_count.scope")
            count = message.failure_count.failure_threshold_count
            if count < 1:
                raise invalid(f"{place}: failure_count.failure_threshold_count must be greater than 0")
            return FailureCountGate(threshold_count=count, scope=scope)
        case _:
            raise invalid(f"{place}: unsupported safety gate")


def _gate_scope(number: int, place: str) -> GateScope:
    if number == wire.OPERATION_RUN_SAFETY_GATE_SCOPE_UNKNOWN:
        return GateScope.CURRENT_PHASE
    scope = GATE_SCOPES.get(number)
    if scope is None:
        raise invalid(f"{place} is unsupported")
    return scope


def _conflict(options: wire.OperationRunOptions) -> ConflictRetry:
    said, default = options.conflict_policy.retry, ConflictRetry()

    def wait(field: str, otherwise: timedelta) -> timedelta:
        if not said.HasField(field):  # type: ignore[arg-type]  # one of the three below
            return otherwise
        try:
            return duration_at(getattr(said, field), f"conflict_policy.retry.{field}")
        except InvalidInput as error:
            problem = error.problems[0]
            raise invalid(f"{problem.place} is invalid: {problem.found}") from error

    window = wait("retry_timeout", default.window)
    initial = wait("initial_retry_delay", default.initial_delay)
    longest = wait("max_retry_delay", default.max_delay)
    place = "conflict_policy.retry"
    for field, value in (("retry_timeout", window), ("initial_retry_delay", initial), ("max_retry_delay", longest)):
        if value <= timedelta(0):
            raise invalid(f"{place}: {field} must be greater than 0")
    if longest < initial:
        raise invalid(f"{place}: max_retry_delay must be greater than or equal to initial_retry_delay")
    return ConflictRetry(window=window, initial_delay=initial, max_delay=longest)


def _ordering(options: wire.OperationRunOptions, seed: Callable[[str], str]) -> Ordering:
    if options.ordering_policy.WhichOneof("ordering") == "physical_location":
        strategy = LOCATION_STRATEGIES.get(options.ordering_policy.physical_location.strategy)
        if strategy is None:
            raise invalid("ordering_policy.physical_location.strategy is unsupported")
        return PhysicalOrdering(strategy=strategy)
    return RandomOrdering(seed=options.ordering_policy.random.seed or seed("ordering"))


def _phases(options: wire.OperationRunOptions) -> PhasePolicy:
    policy = options.phase_policy
    match policy.WhichOneof("plan"):
        case "equal":
            if policy.equal.phase_count < 1:
                raise invalid("equal phase_count must be greater than 0")
            return EqualPhases(count=policy.equal.phase_count)
        case "percentage":
            shares = [phase.percentage for phase in policy.percentage.phases]
            if not shares:
                raise invalid("percentage phase policy must include at least one phase")
            if not all(1 <= share <= 100 for share in shares):
                raise invalid("percentage phase percentages must be between 1 and 100")
            if sum(shares) != 100:
                raise invalid("percentage phase percentages must sum to 100")
            return PercentagePhases(percentages=tuple(shares))
        case "count":
            counts = [phase.count for phase in policy.count.phases]
            if not counts:
                raise invalid("count phase policy must include at least one phase")
            if not all(count > 0 for count in counts):
                raise invalid("count phase counts must be greater than 0")
            return CountPhases(counts=tuple(counts))
        case _:
            return EqualPhases(count=1)
