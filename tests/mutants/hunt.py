"""Hunt a mutant: by random schedules from seed 0 on, and state by state through the small configurations."""

from __future__ import annotations

from dataclasses import dataclass

from opdispatch.errors import OpdispatchError
from opdispatch.testing import Broken
from opdispatch_adapters.testing.simulation import World, play
from tests.model.search import Broken as ModelBroken
from tests.model.search import search
from tests.model.world import Configuration

from .mutant import Mutant

STEPS = 200
"""Steps of a schedule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caught:
    """What noticed a mutant: which law, and after how many schedules or states."""

    by: str
    after: int


def by_simulation(mutant: Mutant, most: int) -> Caught | None:
    """The first of so many schedules that breaks a law; None when none does."""
    for seed in range(most):
        try:
            play(seed, STEPS, decider=mutant.decider, controller=mutant.controller, make=mutant.world)
        except Broken as broken:
            return Caught(by=broken.breaches[0].law, after=seed + 1)
        except (OpdispatchError, LookupError) as error:
            # The core's own values refuse it: a transition that is none, a target that is not there.
            return Caught(by=f"refused: {type(error).__name__}", after=seed + 1)
    return None


def by_model(mutant: Mutant, configurations: tuple[Configuration, ...], most: int) -> Caught | None:
    """The first configuration that breaks a law within so many states each; None when none does, or when the mutant is
    in what is around the core."""
    if mutant.world is not World:
        return None
    states = 0
    for configuration in configurations:
        try:
            found = search(configuration, most, decider=mutant.decider, controller=mutant.controller)
            states += found.states
        except ModelBroken as broken:
            return Caught(by=broken.what.split(":")[0], after=states + broken.states)
    return None
