"""Phases: the reference's sizes, and refusals that suggest a plan that fits."""

from __future__ import annotations

import pytest

from opdispatch.errors import InvalidInput
from opdispatch.policy.phases import (
    CountPhases,
    EmptyPhase,
    EqualPhases,
    NoPhases,
    PercentagePhases,
    PhasePolicy,
    phase_sizes,
)
from tests.racks import places


@pytest.mark.parametrize(
    ("policy", "targets", "sizes"),
    [
        (NoPhases(), 7, (7,)),
        (EqualPhases(count=1), 7, (7,)),
        (EqualPhases(count=3), 10, (4, 3, 3)),
        (EqualPhases(count=3), 5, (2, 2, 1)),
        (EqualPhases(count=4), 7, (2, 2, 2, 1)),
        (EqualPhases(count=3), 3, (1, 1, 1)),
        (PercentagePhases(percentages=(10, 30, 60)), 10, (1, 3, 6)),
        (PercentagePhases(percentages=(50, 50)), 7, (4, 3)),
        (PercentagePhases(percentages=(5, 20, 75)), 33, (2, 7, 24)),
        (PercentagePhases(percentages=(100,)), 1, (1,)),
        (CountPhases(counts=(2, 3)), 10, (2, 3, 5)),
        (CountPhases(counts=(2, 3)), 5, (2, 3)),
        (CountPhases(counts=(1,)), 1, (1,)),
    ],
    ids=str,
)
def test_phases_have_the_references_sizes(policy: PhasePolicy, targets: int, sizes: tuple[int, ...]) -> None:
    assert phase_sizes(policy, targets) == sizes


@pytest.mark.parametrize(
    ("policy", "targets", "text"),
    [
        (
            EqualPhases(count=10),
            2,
            "$.phases.count: phase 2 of 10 would get none of the 2 targets; use a count of at most 2",
        ),
        (
            EqualPhases(count=4),
            3,
            "$.phases.count: phase 4 of 4 would get none of the 3 targets; use a count of at most 3",
        ),
        (
            PercentagePhases(percentages=(10, 30, 60)),
            2,
            "$.phases.percentages[1]: phase 2 of 3 would get none of the 2 targets; use counts = [1, 1]",
        ),
        (
            CountPhases(counts=(2, 3, 4)),
            4,
            "$.phases.counts: the phases ask for 9 targets, and 4 are selected; use counts = [2, 2]",
        ),
        (
            CountPhases(counts=(2, 3, 4)),
            2,
            "$.phases.counts: the phases ask for 9 targets, and 2 are selected; use counts = [2]",
        ),
        (
            CountPhases(counts=(2, 3, 4)),
            8,
            "$.phases.counts: the phases ask for 9 targets, and 8 are selected; use counts = [2, 3, 3]",
        ),
    ],
    ids=str,
)
def test_a_phase_without_targets_is_refused_with_a_plan_that_fits(policy: PhasePolicy, targets: int, text: str) -> None:
    with pytest.raises(InvalidInput) as error:
        phase_sizes(policy, targets)

    assert str(error.value) == text


@pytest.mark.parametrize(
    ("policy", "phase"),
    [
        (EqualPhases(count=10), 2),
        (PercentagePhases(percentages=(50, 10, 40)), 3),
        (CountPhases(counts=(2, 3)), None),
    ],
    ids=["equal", "percentage", "count"],
)
def test_a_phase_without_targets_tells_which_it_is_and_of_how_many_targets(
    policy: PhasePolicy, phase: int | None
) -> None:
    with pytest.raises(EmptyPhase) as error:
        phase_sizes(policy, 2)

    assert (error.value.phase, error.value.targets) == (phase, 2)


def test_an_absurd_number_of_phases_is_refused_without_listing_them() -> None:
    with pytest.raises(InvalidInput, match=r"phase 2 of 1000000000000 would get none"):
        phase_sizes(EqualPhases(count=10**12), 2)


def test_equal_phases_below_one_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"\$\.phases\.count: 0 is below 1"):
        EqualPhases(count=0)


def test_every_percentage_out_of_range_is_told() -> None:
    with pytest.raises(InvalidInput) as error:
        PercentagePhases(percentages=(0, 50, 101))

    assert places(error.value) == ["$.phases.percentages[0]", "$.phases.percentages[2]"]


@pytest.mark.parametrize("percentages", [(), (99,), (50, 51)])
def test_percentages_that_do_not_sum_to_a_hundred_are_refused(percentages: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match=f"they sum to {sum(percentages)}; make them sum to 100"):
        PercentagePhases(percentages=percentages)


def test_no_counts_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no phase is given; give at least one count"):
        CountPhases(counts=())


def test_every_count_below_one_is_told() -> None:
    with pytest.raises(InvalidInput) as error:
        CountPhases(counts=(0, 1, -1))

    assert places(error.value) == ["$.phases.counts[0]", "$.phases.counts[2]"]
