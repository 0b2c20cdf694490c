"""What the search finds: nothing that does not hold, and as many states and steps as ever, so that a part of it that is
lost shows; and rules that are broken on purpose, with the shortest way to what they break."""

from __future__ import annotations

import os
from typing import Final

import pytest

from tests.property.broken import BROKEN

from .configurations import CONFIGURATIONS
from .search import Broken, search
from .world import Configuration, Model

IS_DEEP: Final = bool(os.environ.get("OPDISPATCH_DEEP"))
MOST: Final = 60_000 if IS_DEEP else 1_000
BY_NAME: Final = {configuration.name: configuration for configuration in CONFIGURATIONS}
PINNED: Final = {
    "two phases": (1000, 3753),
    "automatic phases": (1000, 3399),
    "a gate": (1000, 3999),
    "a gate over phases": (1000, 3379),
    "a busy rack": (1000, 4849),
    "lost answers": (1000, 3810),
    "two dispatchers": (1000, 4923),
    "a cancel in the middle": (1000, 5380),
    "a manager that cannot bar": (1000, 4069),
    "a retry": (1000, 2916),
    "a lost task": (1000, 4203),
}
"""(states, steps) of the first thousand states."""
CAUGHT: Final = (
    ("gate ignored", "a gate", "it claims though it is held by safety_gate"),
    ("phase gate ignored", "two phases", "it opens phase 1, and nobody advanced"),
    ("operator hold ignored", "two phases", "it claims though it is held by operator_paused"),
    ("attempt ignored", "a retry", "target 0 is settled while its task is at work"),
)
"""Broken rules, where they are caught, and what they break."""


@pytest.mark.timeout(7200 if IS_DEEP else 300)
@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda one: one.name)
def test_whatever_happens_the_rules_hold(configuration: Configuration) -> None:
    found = search(configuration, MOST)

    assert found.wedged == 0
    if not IS_DEEP:
        assert (found.states, found.edges) == PINNED[configuration.name]


def test_a_state_is_the_same_however_it_is_come_by() -> None:
    model = Model(BY_NAME["two dispatchers"])
    first = model.first()
    (one,) = (edge.after for edge in model.edges(first) if edge.name == "0 looks")
    (other,) = (edge.after for edge in model.edges(first) if edge.name == "1 looks")
    (both,) = (edge.after for edge in model.edges(one) if edge.name == "1 looks")
    (same,) = (edge.after for edge in model.edges(other) if edge.name == "0 looks")

    assert one != other
    assert both == same
    assert model.record(both) == model.record(first)


@pytest.mark.parametrize(("name", "configuration", "told"), CAUGHT, ids=[row[0] for row in CAUGHT])
def test_a_broken_rule_is_caught_with_the_shortest_way_to_it(name: str, configuration: str, told: str) -> None:
    broken = next(one for one in BROKEN if one.name == name)

    with pytest.raises(Broken, match=told) as caught:
        search(BY_NAME[configuration], 12_000, decider=broken.decider, controller=broken.controller)

    first, *way = str(caught.value).splitlines()
    assert first.endswith("the shortest way there:")
    assert way[0] == "    '0 looks',"
