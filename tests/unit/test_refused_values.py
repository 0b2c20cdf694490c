"""A value that cannot be is refused when it is made, with the place, what was found there, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from opdispatch.candidate import Scope
from opdispatch.command import Pause, Retry, Settle
from opdispatch.errors import InvalidInput
from opdispatch.identity import CommandId
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.policy.gates import FailureCountGate, FailureRateGate
from opdispatch.policy.ordering import RandomOrdering
from opdispatch.policy.phases import CountPhases, EqualPhases, PercentagePhases, phase_sizes
from opdispatch.policy.selection import PercentageSelector
from opdispatch.query import NamePattern, StateFilter
from opdispatch.run import Accepted
from opdispatch.state import Limits
from opdispatch.target import Conflict, Settled, TargetStatus
from opdispatch.task import Operation, frozen_components
from tests.racks import component, rollout
from tests.unit.builders import NOW, RUN_ID, a_run, pending, target_id

ID = CommandId("c1")


def seconds(number: int) -> timedelta:
    return timedelta(seconds=number)


def settle(status: TargetStatus = TargetStatus.FAILED, why: str = "it hangs") -> Settle:
    return Settle(command_id=ID, actor="ana", target=target_id(0), status=status, why=why)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Limits(poll=seconds(0)), "limits.poll: 0:00:00 is not above zero"),
        (lambda: Limits(claim_lease=seconds(-1)), "limits.claim_lease: -1 day, 23:59:59 is not above zero"),
        (lambda: Limits(cancel_max_delay=seconds(0)), "limits.cancel_max_delay: 0:00:00 is not above zero"),
        (lambda: Limits(missing_grace=seconds(0)), "limits.missing_grace: 0:00:00 is not above zero"),
        (
            lambda: Limits(cancel_delay=seconds(11), cancel_max_delay=seconds(10)),
            "limits.cancel_max_delay: 0:00:10 is below cancel_delay, 0:00:11",
        ),
        (lambda: Limits(claims=-1), "limits.claims: -1 is below 0"),
        (lambda: Settled(status=TargetStatus.PENDING), "status: pending is not a settled status"),
        (
            lambda: Conflict(since=NOW, count=0, delay=seconds(30)),
            "conflict: count 0 and delay 0:00:30 must be above zero",
        ),
        (
            lambda: Conflict(since=NOW, count=1, delay=seconds(0)),
            "conflict: count 1 and delay 0:00:00 must be above zero",
        ),
        (
            lambda: pending(phase=-1),
            f"target {target_id(0)}: one of sequence 0, phase -1, attempt 1, fence 0 is below its start",
        ),
        (
            lambda: pending(attempt=0),
            f"target {target_id(0)}: one of sequence 0, phase 0, attempt 0, fence 0 is below its start",
        ),
        (
            lambda: pending(fence=-1),
            f"target {target_id(0)}: one of sequence 0, phase 0, attempt 1, fence -1 is below its start",
        ),
        (lambda: Accepted(gate=0, phase=None, failures=0), "accepted.failures: 0 is below 1"),
        (lambda: a_run(phase=2, opened=1), f"run {RUN_ID}: phase 2 is not within 0 and opened 1"),
        (lambda: a_run(phase=-1, opened=0), f"run {RUN_ID}: phase -1 is not within 0 and opened 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_of_a_run_that_cannot_be_is_refused(make: Callable[[], object], told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        make()

    assert str(refused.value) == told


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Pause(command_id=CommandId(""), actor="ana"), "command_id: it must have 1 to 200 characters"),
        (lambda: Retry(command_id=ID, actor="ana", targets=()), "targets: no target is named; name at least one"),
        (
            lambda: Retry(command_id=ID, actor="ana", targets=(target_id(0), target_id(0))),
            "targets: a target is named twice; name each once",
        ),
        (
            lambda: settle(status=TargetStatus.PENDING),
            "status: pending is not an outcome; use completed, failed, terminated or skipped",
        ),
        (lambda: settle(why=" "), "why: no reason is given; say why; it is kept in the journal"),
        (lambda: NamePattern(text="a\0"), "name: it holds a NUL character, which no name does; leave it out"),
        (
            lambda: NamePattern(text="a\\", is_wild=True),
            r"name: the pattern 'a\\' ends in a backslash; double it",
        ),
        (lambda: StateFilter(), "state: it names neither a status nor a reason; name one, or both"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_an_operator_asks_for_is_refused_when_it_cannot_be(make: Callable[[], object], told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        make()

    assert str(refused.value) == told


COUNTS_NEITHER = "count failed, terminated, or both"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: Scope(labels={"pdu": (), "zone": ("a",), "row": ()}),
            (
                "$.scope.labels.pdu: no value is given; give one, or leave the label out\n"
                "$.scope.labels.row: no value is given; give one, or leave the label out"
            ),
        ),
        (
            lambda: frozen_components({"": (component(1),)}),
            "components['']: a component type needs a name and at least one component",
        ),
        (
            lambda: frozen_components({"compute": ()}),
            "components['compute']: a component type needs a name and at least one component",
        ),
        (
            lambda: frozen_components({"compute": (component(1),), "switch": (component(1),)}),
            f"components['switch']: component {component(1)} is named twice",
        ),
        (lambda: Operation(type="", code="c"), "$.operation.type: '' is not a name of 1 to 64 characters"),
        (
            lambda: rollout(name=" ", max_concurrent_targets=0),
            "$.name: ' ' is not a name of 1 to 255 characters\n$.max_concurrent_targets: 0 is below 1",
        ),
        (lambda: rollout(name="x" * 256), f"$.name: '{'x' * 40}' is not a name of 1 to 255 characters"),
        (
            lambda: PercentageSelector(percentage=101, seed=""),
            (
                "$.selector.percentage: 101 is not within 1 and 100\n"
                "$.selector.seed: it is empty; give any text; it decides which racks are chosen"
            ),
        ),
        (lambda: RandomOrdering(seed=""), "$.ordering.seed: it is empty; give any text; it decides the order"),
        (lambda: FailureRateGate(threshold_percent=0), "$.gates.threshold_percent: 0 is not within 1 and 100"),
        (lambda: FailureCountGate(threshold_count=0), "$.gates.threshold_count: 0 is below 1"),
        (
            lambda: FailureCountGate(threshold_count=0, outcomes=frozenset()),
            f"$.gates.threshold_count: 0 is below 1\n$.gates.outcomes: it counts none; {COUNTS_NEITHER}",
        ),
        (
            lambda: FailureCountGate(
                threshold_count=1, outcomes=frozenset({TargetStatus.SKIPPED, TargetStatus.FAILED, TargetStatus.PENDING})
            ),
            f"$.gates.outcomes: it counts failed, pending, skipped; {COUNTS_NEITHER}",
        ),
        (
            lambda: ConflictRetry(window=seconds(0), max_delay=timedelta(days=36_501)),
            (
                "$.conflict.window: 0ms is not above zero and at most 36500 days\n"
                "$.conflict.max_delay: 876024h0m0s is not above zero and at most 36500 days"
            ),
        ),
        (
            lambda: ConflictRetry(initial_delay=seconds(-1)),
            "$.conflict.initial_delay: -1000ms is not above zero and at most 36500 days",
        ),
        (
            lambda: ConflictRetry(initial_delay=seconds(30), max_delay=seconds(10)),
            "$.conflict.max_delay: 10s is below initial_delay, 30s",
        ),
        (lambda: EqualPhases(count=0), "$.phases.count: 0 is below 1"),
        (
            lambda: PercentagePhases(percentages=(0, 50, 101)),
            "$.phases.percentages[0]: 0 is not within 1 and 100\n$.phases.percentages[2]: 101 is not within 1 and 100",
        ),
        (lambda: PercentagePhases(percentages=(50, 40)), "$.phases.percentages: they sum to 90; make them sum to 100"),
        (lambda: CountPhases(counts=()), "$.phases.counts: no phase is given; give at least one count"),
        (
            lambda: CountPhases(counts=(0, 1, -1)),
            "$.phases.counts[0]: 0 is below 1\n$.phases.counts[2]: -1 is below 1",
        ),
        (
            lambda: phase_sizes(EqualPhases(count=4), 3),
            "$.phases.count: phase 4 of 4 would get none of the 3 targets; use a count of at most 3",
        ),
        (
            lambda: phase_sizes(PercentagePhases(percentages=(50, 10, 40)), 2),
            "$.phases.percentages[2]: phase 3 of 3 would get none of the 2 targets; use counts = [1, 1]",
        ),
        (
            lambda: phase_sizes(CountPhases(counts=(2, 2, 2)), 3),
            "$.phases.counts: the phases ask for 6 targets, and 3 are selected; use counts = [2, 1]",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_rollout_that_cannot_be_is_refused(make: Callable[[], object], told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        make()

    assert str(refused.value) == told
