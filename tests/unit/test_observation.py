"""Which tasks a set of observations is about."""

from __future__ import annotations

import pytest

from opdispatch.observation import Observation, named_tasks
from tests.unit.builders import absent, accepted, conflicted, missing, not_cancelled, refused, seen, unknown


def test_observations_of_a_task_name_it() -> None:
    observations: list[Observation] = [
        seen(0, task="seen"),
        missing(0, task="missing"),
        accepted(0, task="accepted"),
        not_cancelled(0, task="not cancelled"),
    ]

    assert named_tasks(observations) == {"seen", "missing", "accepted", "not cancelled"}


def test_answers_without_a_task_name_none() -> None:
    assert named_tasks([conflicted(), refused(), unknown(), absent()]) == frozenset()


@pytest.mark.parametrize(
    ("told", "kept"),
    [("flashing", "flashing"), ("caf\udce9", "caf\\udce9"), ("a\0b", "a\\x00b"), ("ünïcode ✓", "ünïcode ✓")],
)
def test_words_that_no_database_takes_are_kept_as_escapes(told: str, kept: str) -> None:
    assert seen(message=told).message == kept
    assert conflicted(message=told).message == kept
