"""Safety gates: integer arithmetic at its borders, and what a tripped gate says."""

from __future__ import annotations

import pytest

from opdispatch.errors import InvalidInput
from opdispatch.policy.gates import FailureCountGate, FailureRateGate, GateScope
from opdispatch.target import FAILURES, TargetStatus
from tests.racks import places


@pytest.mark.parametrize(
    ("percent", "failures", "targets", "trips"),
    [
        (10, 1, 10, True),
        (10, 1, 11, False),
        (10, 2, 20, True),
        (10, 1, 20, False),
        (100, 9, 10, False),
        (100, 10, 10, True),
        (1, 1, 100, True),
        (1, 1, 101, False),
        (33, 1, 3, True),
        (34, 1, 3, False),
        (1, 0, 100, False),
        (1, 0, 0, False),
        (1, 1, 0, False),
        (1, -1, 10, False),
        (50, 10**18, 2 * 10**18, True),
        (50, 10**18 - 1, 2 * 10**18, False),
    ],
)
def test_a_rate_gate_trips_at_its_share_and_not_below(percent: int, failures: int, targets: int, trips: bool) -> None:
    assert FailureRateGate(threshold_percent=percent).trips(failures, targets) is trips


@pytest.mark.parametrize(
    ("threshold", "failures", "targets", "trips"),
    [(1, 0, 10, False), (1, 1, 10, True), (3, 2, 10, False), (3, 3, 10, True), (3, 4, 10, True), (1, 1, 0, False)],
)
def test_a_count_gate_trips_at_its_count_and_not_below(
    threshold: int, failures: int, targets: int, trips: bool
) -> None:
    assert FailureCountGate(threshold_count=threshold).trips(failures, targets) is trips


def test_a_rate_gate_tells_counts_percentage_rounded_down_and_threshold() -> None:
    gate = FailureRateGate(threshold_percent=33)

    assert (
        gate.describe(1, 3)
        == "failure_rate safety gate tripped for current_phase: 1/3 targets failed (33%, threshold 33%)"
    )


def test_a_rate_gate_can_tell_that_all_failed() -> None:
    assert "2/2 targets failed (100%" in FailureRateGate(threshold_percent=33).describe(2, 2)


def test_a_rate_gate_can_tell_of_no_targets() -> None:
    assert "0/0 targets failed (0%" in FailureRateGate(threshold_percent=33).describe(0, 0)


def test_a_count_gate_tells_scope_counts_and_threshold() -> None:
    gate = FailureCountGate(threshold_count=2, scope=GateScope.CUMULATIVE_RUN)

    assert (
        gate.describe(2, 9) == "failure_count safety gate tripped for cumulative_run: 2/9 targets failed (threshold 2)"
    )


def test_a_gate_counts_both_failed_and_terminated_unless_told_otherwise() -> None:
    assert FailureCountGate(threshold_count=1).outcomes == FAILURES


def test_a_gate_is_about_the_current_phase_unless_told_otherwise() -> None:
    assert FailureRateGate(threshold_percent=1).scope is GateScope.CURRENT_PHASE


@pytest.mark.parametrize("percent", [1, 100])
def test_a_rate_may_be_at_its_border(percent: int) -> None:
    assert FailureRateGate(threshold_percent=percent).threshold_percent == percent


@pytest.mark.parametrize("percent", [0, 101])
def test_a_rate_beyond_its_border_is_refused(percent: int) -> None:
    with pytest.raises(InvalidInput, match=rf"\$\.gates\.threshold_percent: {percent} is not within 1 and 100"):
        FailureRateGate(threshold_percent=percent)


def test_a_count_below_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"\$\.gates\.threshold_count: 0 is below 1"):
        FailureCountGate(threshold_count=0)


def test_a_gate_that_counts_nothing_is_refused() -> None:
    with pytest.raises(InvalidInput, match="it counts none; count failed, terminated, or both"):
        FailureCountGate(threshold_count=1, outcomes=frozenset())


def test_a_gate_that_counts_successes_is_refused() -> None:
    with pytest.raises(InvalidInput, match="it counts completed"):
        FailureCountGate(threshold_count=1, outcomes=frozenset({TargetStatus.COMPLETED}))


def test_everything_that_is_wrong_with_a_gate_is_told() -> None:
    with pytest.raises(InvalidInput) as error:
        FailureRateGate(threshold_percent=0, outcomes=frozenset())

    assert places(error.value) == ["$.gates.threshold_percent", "$.gates.outcomes"]
