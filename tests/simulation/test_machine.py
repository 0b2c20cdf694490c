"""The state machine under Hypothesis, with two and with three dispatchers.

``OPDISPATCH_DEEP=1`` plays 2 000 schedules of up to 200 steps for each; without it a small part of that.
"""

from __future__ import annotations

import os
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from opdispatch.testing import Broken
from opdispatch_adapters.testing.machine import world_machine
from opdispatch_adapters.testing.simulation import World
from tests.mutants import MUTANTS

DEEP: Final = os.environ.get("OPDISPATCH_DEEP") == "1"
PROFILE: Final = settings(
    max_examples=2000 if DEEP else 25,
    stateful_step_count=200 if DEEP else 100,
    deadline=None,
    derandomize=not DEEP,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)

TestTwoDispatchers = world_machine().TestCase
TestTwoDispatchers.settings = PROFILE
TestThreeDispatchers = world_machine(dispatchers=3).TestCase
TestThreeDispatchers.settings = PROFILE


def test_a_world_that_breaks_a_law_is_told() -> None:
    mutant = next(one for one in MUTANTS if one.name == "the lease is over at once")

    class Wrong(World):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, decider=mutant.decider)

    quick = settings(PROFILE, max_examples=5, report_multiple_bugs=False, phases=[Phase.generate])
    with pytest.raises(Broken, match=r"the lease of target \d is over at once"):
        run_state_machine_as_test(world_machine(make=Wrong), settings=quick)
