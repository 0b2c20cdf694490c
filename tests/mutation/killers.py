"""Tests that only the mutation runs: seeded schedules, few enough to be run for every mutant that nothing else kills.

The same schedules by the hundred are in tests/simulation, the laws of planning in tests/property.
"""

from __future__ import annotations

from typing import Final

import pytest

from opdispatch_adapters.testing.simulation import play

SEEDS: Final = 30
STEPS: Final = 200


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_schedule_breaks_a_law_and_the_run_ends_once_healed(seed: int) -> None:
    assert play(seed, STEPS).events["FinishRun"] <= 1
