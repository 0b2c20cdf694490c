"""What the search finds: nothing that does not hold, and as many states and steps as ever, so that a part of it that is
lost shows; and rules that are broken on purpose, with the shortest way to what they break."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

import pytest

from opdispatch.action import Decision
from opdispatch.decide import decide
from opdispatch.observation import SubmissionAbsent
from opdispatch.state import RunState
from tests.mutants import MUTANTS

from .configurations import BY_NAME, CONFIGURATIONS
from .search import Broken, search, walk
from .world import Configuration, Model

IS_DEEP: Final = bool(os.environ.get("OPDISPATCH_DEEP"))
MOST: Final = 200_000 if IS_DEEP else 12_500
PINNED: Final = {
    "two phases": 48107,
    "automatic phases": 43692,
    "a gate": 81950,
    "a gate over phases": 51677,
    "busy racks": 87283,
    "lost answers": 81409,
    "two dispatchers": 63864,
    "two dispatchers and an operator": 59014,
    "two dispatchers and a busy rack": 67258,
    "a cancel in the middle": 69520,
    "a manager that cannot bar": 70734,
    "a retry": 49889,
    "lost tasks": 56319,
    "an operator who settles": 68554,
    "refusals": 63091,
    "little capacity": 68925,
}
"""The steps from the first of them, which are so many states in each."""
CAUGHT: Final = (
    ("gates are ignored", "a gate", "reasons: a hold stands, and the run shows running"),
    ("the phase gate is ignored", "two phases", "phases: phase 1 opens, and nobody advanced"),
    ("the operator's hold is ignored", "two phases", "holds: it claims under an operator's hold"),
    ("any attempt will do", "a retry", "adoption: target 0 adopts a task of another attempt"),
)
"""Broken rules, where they are caught, and what they break."""


@pytest.mark.timeout(7200 if IS_DEEP else 600)
@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda one: one.name)
def test_whatever_happens_the_rules_hold(configuration: Configuration) -> None:
    found = search(configuration, MOST)

    if not IS_DEEP:
        assert (found.states, found.edges) == (MOST, PINNED[configuration.name])


def test_a_state_is_the_same_however_it_is_come_by_and_whichever_dispatcher_is_which() -> None:
    model = Model(BY_NAME["two dispatchers"])
    first = model.first()

    after = {name: state for name, state, _ in model.edges(first)}
    both = {state for name, state, _ in model.edges(after["0 looks"]) if name.endswith("looks")}

    assert after["0 looks"] == after["1 looks"] != first
    assert len(both) == 1
    assert model.record(both.pop()[0]) == model.record(first[0])


@pytest.mark.parametrize(("name", "configuration", "told"), CAUGHT, ids=[row[0] for row in CAUGHT])
def test_a_broken_rule_is_caught_with_the_shortest_way_to_it(name: str, configuration: str, told: str) -> None:
    mutant = next(one for one in MUTANTS if one.name == name)
    broken_core = {"decider": mutant.decider, "controller": mutant.controller}

    with pytest.raises(Broken) as caught:
        search(BY_NAME[configuration], 40_000, **broken_core)

    found = caught.value
    assert told in found.what
    assert found.steps[0] == "0 looks"
    with pytest.raises(Broken) as again:
        walk(BY_NAME[configuration], found.steps, **broken_core)
    assert again.value.what == found.what
    if told.split(":")[0] != "adoption":
        walk(BY_NAME[configuration], found.steps)
    assert f"walk(BY_NAME[{configuration!r}], [" in str(found)


def _deaf_to_absences(state: RunState) -> Decision:
    heard = tuple(one for one in state.observations if not isinstance(one, SubmissionAbsent))
    return decide(replace(state, observations=heard))


def test_a_state_without_a_way_to_an_end_is_found_also_where_the_search_ends_before_any_end() -> None:
    configuration = BY_NAME["lost answers"]

    with pytest.raises(Broken, match="wedged: no end and no hold can be reached"):
        search(configuration, 2_000, decider=_deaf_to_absences)
    assert search(configuration, 2_000).walks > 100


def test_what_the_core_raises_is_told_with_the_way_to_it() -> None:
    def refuses(state: RunState) -> Decision:
        raise LookupError("no such target")

    with pytest.raises(Broken, match=r"the core raises LookupError: no such target(?s:.*)'0 looks'"):
        search(BY_NAME["two phases"], 100, decider=refuses)


def test_a_task_that_was_lost_for_a_while_may_end_otherwise_than_its_target() -> None:
    steps = ["0 looks", "0 decides", "task of 0 begins", "accepted of 0 comes", "0 decides", "t0.1 is forgotten"]
    steps += ["0 looks", "0 decides", "time passes", "time passes", "0 looks"]

    walk(BY_NAME["lost tasks"], [*steps, "t0.1 is found again", "t0.1 is completed", "0 decides"])


def test_a_way_that_cannot_be_gone_is_said_with_what_can() -> None:
    with pytest.raises(ValueError, match=r"step 1, 'flies', cannot be made; there are \['0 looks', 'pause', "):
        walk(BY_NAME["two phases"], ["flies"])
