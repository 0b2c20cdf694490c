"""Laws of planning: what holds for every inventory and every rollout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from itertools import chain, pairwise
from typing import Final

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from opdispatch.candidate import Candidate
from opdispatch.errors import InvalidInput, Problem
from opdispatch.plan import Plan, plan
from opdispatch.policy.gates import FailureRateGate
from opdispatch.policy.ordering import LocationStrategy, Ordering, PhysicalOrdering, RandomOrdering, natural, order
from opdispatch.policy.phases import CountPhases, EqualPhases, NoPhases, PercentagePhases, PhasePolicy, phase_sizes
from opdispatch.policy.selection import PercentageSelector, select
from opdispatch.rollout import Rollout
from tests.racks import component, rack, racks, rollout

DEEP: Final = "OPDISPATCH_DEEP" in os.environ
law = settings(deadline=None, derandomize=not DEEP, max_examples=2_000 if DEEP else 100)
"""The same examples each time, unless a longer search is asked for; no deadline, because machines are shared."""

SEEDS = st.text(min_size=1, max_size=8, alphabet=st.characters(codec="utf-8"))
PLACES = st.none() | st.sampled_from(["1", "2", "10", "a", "a1", "a10", "a2"])


@st.composite
def candidates(draw: st.DrawFn, *, min_size: int = 1) -> list[Candidate]:
    """Racks with distinct ids and components, at places that often coincide; some without a component."""
    numbers = draw(st.lists(st.integers(1, 60), min_size=min_size, max_size=25, unique=True))
    return [
        rack(
            number,
            {"compute": (component(number),)} if draw(st.integers(0, 5)) else {},
            name=draw(st.sampled_from(["r1", "r2", "r10", "x"])),
            site=draw(PLACES),
            room=draw(PLACES),
            row=draw(PLACES),
            position=draw(PLACES),
        )
        for number in numbers
    ]


def percentages() -> st.SearchStrategy[PercentagePhases]:
    """Cuts of a hundred: every list of shares, each 1 to 100."""
    cuts = st.sets(st.integers(1, 99), max_size=6).map(lambda inner: [0, *sorted(inner), 100])
    return cuts.map(lambda ends: PercentagePhases(percentages=tuple(b - a for a, b in pairwise(ends))))


PHASES: st.SearchStrategy[PhasePolicy] = st.one_of(
    st.just(NoPhases()),
    st.integers(1, 8).map(lambda count: EqualPhases(count=count)),
    percentages(),
    st.lists(st.integers(1, 8), min_size=1, max_size=4).map(lambda counts: CountPhases(counts=tuple(counts))),
)
ORDERINGS: st.SearchStrategy[Ordering] = st.one_of(
    SEEDS.map(lambda seed: RandomOrdering(seed=seed)),
    st.sampled_from(LocationStrategy).map(lambda strategy: PhysicalOrdering(strategy=strategy)),
)


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    return rollout(
        percentage=draw(st.integers(1, 100)), seed=draw(SEEDS), ordering=draw(ORDERINGS), phases=draw(PHASES)
    )


def planned(given_racks: Sequence[Candidate], how: Rollout) -> Plan | tuple[Problem, ...]:
    """The plan, or what is wrong with it."""
    try:
        return plan(given_racks, how)
    except InvalidInput as error:
        return error.problems


def some_have_work(given_racks: Sequence[Candidate]) -> list[Candidate]:
    live = [candidate for candidate in given_racks if candidate.components]
    assume(live)
    return live


@law
@given(candidates(), rollouts())
def test_a_plan_is_the_selected_racks_each_once_cut_in_order(given_racks: list[Candidate], how: Rollout) -> None:
    live = some_have_work(given_racks)

    made = planned(given_racks, how)

    if not isinstance(made, Plan):
        assert [(problem.place[:8], problem.remedy[:4]) for problem in made] == [("$.phases", "use ")]
        return
    chosen = select(live, how.selector)
    assert sorted(str(c.id) for c in made.racks) == sorted(str(c.id) for c in chosen)
    assert made.racks == order(chosen, how.ordering)
    assert tuple(chain.from_iterable(made.phase(index) for index in range(len(made.sizes)))) == made.racks
    assert sum(made.sizes) == len(made.racks)
    assert min(made.sizes) >= 1


@law
@given(candidates(), rollouts())
def test_every_rack_is_planned_or_dropped_or_counted_as_unselected(given_racks: list[Candidate], how: Rollout) -> None:
    some_have_work(given_racks)
    whole = rollout(percentage=how.selector.percentage, seed=how.selector.seed, ordering=how.ordering)

    made = plan(given_racks, whole)

    assert len(made.racks) + len(made.dropped) + made.unselected == len(given_racks)


@law
@given(st.data(), candidates(), rollouts())
def test_the_order_of_the_inventory_does_not_matter(
    data: st.DataObject, given_racks: list[Candidate], how: Rollout
) -> None:
    assert planned(data.draw(st.permutations(given_racks)), how) == planned(given_racks, how)


@law
@given(st.data(), candidates(), rollouts())
def test_a_rack_that_is_met_twice_changes_nothing(
    data: st.DataObject, given_racks: list[Candidate], how: Rollout
) -> None:
    some_have_work(given_racks)
    whole = rollout(percentage=how.selector.percentage, seed=how.selector.seed, ordering=how.ordering)
    twice = data.draw(st.lists(st.sampled_from(given_racks), max_size=10))

    assert plan([*given_racks, *twice], whole) == plan(given_racks, whole)


@law
@given(PHASES, st.integers(1, 200))
def test_sizes_are_above_zero_and_sum_to_the_targets_or_the_refusal_suggests(policy: PhasePolicy, targets: int) -> None:
    try:
        sizes = phase_sizes(policy, targets)
    except InvalidInput as error:
        remedy = error.problems[0].remedy
    else:
        remedy = ""

    assert remedy.startswith("use ") if remedy else (sum(sizes), min(sizes) >= 1) == (targets, True)


@law
@given(percentages(), st.integers(1, 60))
def test_a_suggested_list_of_counts_fits(policy: PercentagePhases, targets: int) -> None:
    try:
        sizes = phase_sizes(policy, targets)
    except InvalidInput as error:
        listed = error.problems[0].remedy.removeprefix("use counts = [").removesuffix("]")
        sizes = phase_sizes(CountPhases(counts=tuple(int(count) for count in listed.split(", "))), targets)

    assert sum(sizes) == targets


@law
@given(st.integers(1, 50), st.integers(1, 200))
def test_equal_phases_differ_by_one_at_most_and_the_first_is_a_larger_one(count: int, targets: int) -> None:
    assume(count <= targets)

    sizes = phase_sizes(EqualPhases(count=count), targets)

    assert (len(sizes), max(sizes) - min(sizes) <= 1, sizes[0]) == (count, True, max(sizes))


@law
@given(st.integers(1, 40), st.integers(1, 100))
def test_a_larger_share_selects_all_that_a_smaller_one_does(count: int, percentage: int) -> None:
    given_racks = racks(count)

    smaller = select(given_racks, PercentageSelector(percentage=percentage, seed="s"))
    larger = select(given_racks, PercentageSelector(percentage=min(100, percentage + 10), seed="s"))

    assert larger[: len(smaller)] == smaller


@law
@given(st.text(), st.text())
def test_texts_have_the_same_natural_key_only_when_they_are_the_same(one: str, other: str) -> None:
    assert (natural(one) == natural(other)) is (one == other)


@law
@given(st.data(), st.lists(st.text(alphabet="r019-\u00b2", max_size=6), max_size=12))
def test_natural_order_is_one_order_whatever_the_input_order(data: st.DataObject, texts: list[str]) -> None:
    shuffled = data.draw(st.permutations(texts))

    assert sorted(shuffled, key=natural) == sorted(texts, key=natural)


@law
@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_natural_order_of_numbers_is_that_of_their_values(one: int, other: int) -> None:
    assert (natural(f"r{one}") < natural(f"r{other}")) is (one < other)


@law
@given(candidates())
def test_round_robin_never_takes_two_of_a_row_while_another_row_waits(given_racks: list[Candidate]) -> None:
    taken = order(given_racks, PhysicalOrdering(strategy=LocationStrategy.ONE_PER_ROW_ROUND_ROBIN))
    rows = [None if c.row is None else (c.site or "", c.room or "", c.row) for c in taken]

    turns = [rows[:index].count(row) for index, row in enumerate(rows)]

    assert turns == sorted(turns)


@law
@given(st.integers(1, 100), st.integers(0, 1000), st.integers(1, 1000))
def test_a_rate_gate_trips_exactly_when_the_share_is_reached(percent: int, failures: int, targets: int) -> None:
    trips = FailureRateGate(threshold_percent=percent).trips(failures, targets)

    assert trips is (Fraction(failures, targets) >= Fraction(percent, 100))


@law
@given(st.integers(1, 100), st.integers(0, 1000), st.integers(1, 1000))
def test_a_gate_that_trips_trips_at_one_failure_more(percent: int, failures: int, targets: int) -> None:
    gate = FailureRateGate(threshold_percent=percent)

    assert gate.trips(failures + 1, targets) >= gate.trips(failures, targets)


@pytest.mark.parametrize("strategy", LocationStrategy)
@law
@given(given_racks=candidates())
def test_physical_order_is_a_permutation(strategy: LocationStrategy, given_racks: list[Candidate]) -> None:
    taken = order(given_racks, PhysicalOrdering(strategy=strategy))

    assert sorted(str(c.id) for c in taken) == sorted(str(c.id) for c in given_racks)
