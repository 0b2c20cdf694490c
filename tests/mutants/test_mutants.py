"""Each broken rule is noticed: most by a few random schedules, the others by the exhaustive search."""

from __future__ import annotations

from typing import Final

import pytest

from tests.model.configurations import BY_NAME

from . import MUTANTS, Mutant
from .hunt import by_model, by_simulation

SCHEDULES: Final = 160
HARD: Final = {
    "any attempt will do": ("a retry", 12_000),
    "advance releases the operator's hold": ("two phases", 6_000),
    "missing once, missing for ever": ("lost tasks", 9_000),
    "retry beside a stray": ("an operator who settles", 6_000),
}
"""Those that take more schedules, with the configuration and the states that find them."""


@pytest.mark.parametrize("mutant", [one for one in MUTANTS if one.name not in HARD], ids=lambda one: one.name)
def test_a_broken_rule_is_noticed_by_a_random_schedule(mutant: Mutant) -> None:
    assert by_simulation(mutant, SCHEDULES) is not None


@pytest.mark.parametrize("name", HARD)
def test_a_rule_that_random_schedules_hardly_meet_is_noticed_state_by_state(name: str) -> None:
    (mutant,) = (one for one in MUTANTS if one.name == name)
    configuration, states = HARD[name]

    assert by_model(mutant, (BY_NAME[configuration],), states) is not None


def test_there_are_many_and_each_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 40
