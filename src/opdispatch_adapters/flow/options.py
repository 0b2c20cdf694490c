"""The options of a rollout as the wire tells them: gates, conflicts, order and phases."""

from __future__ import annotations

from typing import assert_never

from opdispatch.policy.gates import FailureCountGate, FailureRateGate, Gate
from opdispatch.policy.ordering import Ordering, PhysicalOrdering, RandomOrdering
from opdispatch.policy.phases import CountPhases, EqualPhases, NoPhases, PercentagePhases, PhasePolicy
from opdispatch.rollout import Rollout

from .enums import GATE_SCOPES, LOCATION_STRATEGIES
from .fields import MOST_NUMBER, duration_message
from .wire import flow_pb2 as wire


def options_message(rollout: Rollout) -> wire.OperationRunOptions:
    """The options of a rollout, its defaults filled in.

    What a gate narrows its outcomes to has no place in them, and a number that is too large for its field is told as
    the largest: more targets, or failures, than that no run has.
    """
    options = wire.OperationRunOptions(
        max_concurrent_targets=min(rollout.max_concurrent_targets, MOST_NUMBER),
        safety_policy=wire.OperationRunSafetyPolicy(gates=map(_gate, rollout.gates)),
        ordering_policy=_ordering(rollout.ordering),
        phase_policy=_phases(rollout.phases),
    )
    options.phase_policy.advance_policy.auto_advance = rollout.auto_advance
    retry = options.conflict_policy.retry
    retry.retry_timeout.CopyFrom(duration_message(rollout.conflict.window))
    retry.initial_retry_delay.CopyFrom(duration_message(rollout.conflict.initial_delay))
    retry.max_retry_delay.CopyFrom(duration_message(rollout.conflict.max_delay))
    return options


def _gate(gate: Gate) -> wire.OperationRunSafetyGate:
    scope = GATE_SCOPES.of(gate.scope)
    match gate:
        case FailureRateGate():
            return wire.OperationRunSafetyGate(
                failure_rate=wire.OperationRunFailureRateGate(
                    scope=scope, failure_threshold_percent=gate.threshold_percent
                )
            )
        case FailureCountGate():
            return wire.OperationRunSafetyGate(
                failure_count=wire.OperationRunFailureCountGate(
                    scope=scope, failure_threshold_count=min(gate.threshold_count, MOST_NUMBER)
                )
            )
        case _ as never:
            assert_never(never)


def _ordering(ordering: Ordering) -> wire.OperationRunOrderingPolicy:
    match ordering:
        case RandomOrdering(seed=seed):
            return wire.OperationRunOrderingPolicy(random=wire.OperationRunRandomOrdering(seed=seed))
        case PhysicalOrdering(strategy=strategy):
            return wire.OperationRunOrderingPolicy(
                physical_location=wire.OperationRunPhysicalLocationOrdering(strategy=LOCATION_STRATEGIES.of(strategy))
            )
        case _ as never:
            assert_never(never)


def _phases(policy: PhasePolicy) -> wire.OperationRunPhasePolicy:
    message = wire.OperationRunPhasePolicy()
    match policy:
        case NoPhases():
            message.equal.phase_count = 1
        case EqualPhases(count=count):
            message.equal.phase_count = min(count, MOST_NUMBER)
        case PercentagePhases(percentages=percentages):
            for share in percentages:
                message.percentage.phases.add(percentage=share)
        case CountPhases(counts=counts):
            for size in counts:
                message.count.phases.add(count=min(size, MOST_NUMBER))
        case _ as never:
            assert_never(never)
    return message
