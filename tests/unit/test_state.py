"""The window: its limits, what it finds, how many candidates it needs, and what is to be looked at."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from opdispatch.errors import InvalidInput
from opdispatch.identity import TaskId, idempotency_key_of
from opdispatch.observation import Observation, SubmissionConflicted, TaskObserved
from opdispatch.run import RunStatus
from opdispatch.state import Limits, ready_bound, refs_of
from opdispatch.task import ClaimRef, TaskRef, TaskStatus
from tests.racks import rack_id
from tests.unit.builders import (
    NOW,
    RUN_ID,
    a_record,
    a_run,
    a_state,
    a_stray,
    a_whole,
    absent,
    accepted,
    blocked,
    claimed,
    completed,
    everything,
    missing,
    not_cancelled,
    numbered,
    pending,
    refused,
    seen,
    submitted,
    target_id,
    task_id,
    unknown,
)


@pytest.mark.parametrize("name", ["poll", "claim_lease", "missing_grace", "cancel_delay", "cancel_max_delay"])
@pytest.mark.parametrize("seconds", [0, -1])
def test_a_wait_is_above_zero(name: str, seconds: int) -> None:
    waits: dict[str, Any] = {name: timedelta(seconds=seconds)}

    with pytest.raises(InvalidInput) as refused:
        Limits(**waits)

    assert [problem.place for problem in refused.value.problems] == [f"limits.{name}"]


def test_the_longest_wait_of_a_cancellation_may_be_the_first() -> None:
    assert Limits(cancel_delay=timedelta(seconds=10), cancel_max_delay=timedelta(seconds=10)).claims is None


def test_the_longest_wait_of_a_cancellation_is_not_below_the_first() -> None:
    with pytest.raises(InvalidInput, match="is below cancel_delay"):
        Limits(cancel_delay=timedelta(seconds=11), cancel_max_delay=timedelta(seconds=10))


def test_the_number_of_claims_is_not_below_zero() -> None:
    with pytest.raises(InvalidInput, match="-1 is below 0"):
        Limits(claims=-1)


def test_a_state_finds_its_targets_by_id_wherever_it_holds_them() -> None:
    state = a_state(submitted(), completed(), pending(), observations=[seen(1)])

    held = [state.target(target_id(number)) for number in range(3)]

    assert [target.sequence for target in held if target is not None] == [0, 1, 2]


def test_a_state_does_not_find_a_target_that_nobody_named() -> None:
    assert a_state(submitted(), completed()).target(target_id(1)) is None


def test_a_state_finds_its_strays_by_task() -> None:
    state = a_state(submitted(), strays=[a_stray("a"), a_stray("b")])

    assert state.stray(TaskId("b")) == a_stray("b")
    assert state.stray(TaskId("c")) is None


def test_two_states_are_equal_when_all_that_they_show_is() -> None:
    assert a_state(submitted(), pending()) == a_state(submitted(), pending())
    assert a_state(submitted(), pending()) != a_state(submitted(), completed())


# -- how many candidates --


_OVER = TaskObserved(target_id=target_id(0), task_id=task_id(0), status=TaskStatus.COMPLETED, message="", looked_at=NOW)
_RUNNING = replace(_OVER, status=TaskStatus.RUNNING)
_BUSY = SubmissionConflicted(target_id=target_id(0), attempt=1, fence=1, message="busy")


@pytest.mark.parametrize(
    ("claims", "used", "observations", "bound"),
    [
        (None, 0, [], 4),
        (None, 3, [], 1),
        (None, 4, [], 0),
        (None, 5, [_OVER], 0),
        (None, 4, [_OVER, _OVER], 2),
        (None, 4, [_BUSY], 1),
        (None, 4, [missing()], 1),
        (None, 4, [refused()], 1),
        (None, 4, [_RUNNING], 0),
        (None, 4, [unknown(), absent(), not_cancelled()], 0),
        (None, 4, [accepted()], 0),
        (None, 3, [accepted(), accepted()], 3),
        (2, 0, [], 3),
        (9, 0, [], 4),
        (0, 0, [], 1),
        (0, 4, [], 0),
    ],
)
def test_a_window_needs_as_many_candidates_as_slots_can_be_free_and_one_more_than_the_capacity(
    claims: int | None, used: int, observations: list[Observation], bound: int
) -> None:
    assert ready_bound(a_run(quota=4), Limits(claims=claims), observations, used) == bound


def test_a_window_does_not_grow_with_its_phase() -> None:
    assert len(a_state(*[pending()] * 100, quota=4).ready) == 4


def test_a_window_needs_no_candidate_for_the_slot_of_a_stray() -> None:
    strays = [a_stray("open"), a_stray("over", is_open=False)]

    assert len(a_state(submitted(), *[pending()] * 9, quota=4, strays=strays).ready) == 2


def test_the_state_of_everything_holds_every_candidate() -> None:
    assert len(everything(a_record(*[pending()] * 100, quota=4)).ready) == 100


# -- what to look at --


def test_tasks_of_submitted_targets_are_looked_at() -> None:
    (target,) = numbered([submitted()])

    assert refs_of(RUN_ID, [target], [], NOW, is_ended=False) == (TaskRef(target_id=target_id(0), task_id=task_id(0)),)


def test_a_claim_is_not_looked_up_before_its_lease_is_over() -> None:
    assert refs_of(RUN_ID, numbered([claimed(lease=0.001)]), [], NOW, is_ended=False) == ()


@pytest.mark.parametrize(
    ("status", "bar"), [(RunStatus.RUNNING, False), (RunStatus.PAUSED, False), (RunStatus.CANCELLED, True)], ids=str
)
def test_a_claim_whose_lease_is_over_is_looked_up_by_its_key_which_a_run_that_ended_bars(
    status: RunStatus, bar: bool
) -> None:
    (target,) = numbered([claimed(lease=0, attempt=2, fence=3)])

    assert refs_of(RUN_ID, [target], [], NOW, is_ended=status.is_terminal) == (
        ClaimRef(
            target_id=target_id(0),
            attempt=2,
            fence=3,
            key=idempotency_key_of(RUN_ID, target_id(0), 2),
            rack_id=rack_id(0),
            bar=bar,
        ),
    )


def test_a_stray_is_looked_at_until_it_is_over() -> None:
    strays = [a_stray("a"), a_stray("b", is_open=False)]

    assert refs_of(RUN_ID, [], strays, NOW, is_ended=False) == (TaskRef(target_id=target_id(0), task_id=TaskId("a")),)


def test_what_is_not_in_flight_is_not_looked_at() -> None:
    assert refs_of(RUN_ID, numbered([pending(), blocked(), completed()]), [], NOW, is_ended=False) == ()


def test_a_whole_state_and_a_window_are_of_the_same_run() -> None:
    assert a_whole(pending()).tallies == a_state(pending()).tallies
