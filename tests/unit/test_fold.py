"""What each observation means: for the target that it is about, for a stray, and when it comes late or twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from opdispatch.action import (
    BlockTarget,
    Change,
    NoteTarget,
    RecordStray,
    RecordTask,
    SetConflictHold,
    SettleTarget,
    UpdateStray,
)
from opdispatch.draft import Draft
from opdispatch.fold import doubled, fold
from opdispatch.identity import TaskId
from opdispatch.observation import Observation
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.run import Run, RunStatus
from opdispatch.state import RunState
from opdispatch.target import Conflict, Target, TargetStatus
from opdispatch.task import TaskStatus
from tests.unit.builders import (
    a_run,
    a_stray,
    a_whole,
    absent,
    accepted,
    at,
    blocked,
    cancelling,
    claimed,
    completed,
    conflicted,
    failed,
    missing,
    not_cancelled,
    pending,
    refused,
    seen,
    skipped,
    submitted,
    target_id,
    task_id,
    unknown,
)

CANCELLED = a_run(RunStatus.CANCELLED)
OUTCOMES = {
    TaskStatus.COMPLETED: TargetStatus.COMPLETED,
    TaskStatus.FAILED: TargetStatus.FAILED,
    TaskStatus.TERMINATED: TargetStatus.TERMINATED,
}
RETRY = ConflictRetry(
    window=timedelta(seconds=100), initial_delay=timedelta(seconds=30), max_delay=timedelta(seconds=70)
)


def folded(state: RunState, *observations: Observation) -> list[Change]:
    """What these observations change."""
    draft = Draft(state)
    for observation in observations:
        fold(draft, observation)
    return list(draft.decision(None).changes)


def only(changes: list[Change]) -> Change:
    (change,) = changes
    return change


# -- a task was seen --


@pytest.mark.parametrize(("status", "outcome"), OUTCOMES.items(), ids=str)
def test_a_task_that_is_over_settles_its_target(status: TaskStatus, outcome: TargetStatus) -> None:
    changes = folded(a_whole(submitted()), seen(0, status, "the task's own words"))

    assert changes == [SettleTarget(target_id=target_id(0), status=outcome, message="the task's own words")]


@pytest.mark.parametrize("status", [status for status in TaskStatus if not status.is_over], ids=str)
def test_a_task_that_is_not_over_gives_its_target_its_message(status: TaskStatus) -> None:
    changes = folded(a_whole(submitted()), seen(0, status, "half way"))

    assert changes == [NoteTarget(target_id=target_id(0), message="half way", missing_since=None, cancelling=None)]


def test_an_empty_message_replaces_the_one_that_stands() -> None:
    change = only(folded(a_whole(submitted(message="half way")), seen(0, message="")))

    assert change == NoteTarget(target_id=target_id(0), message="", missing_since=None, cancelling=None)


def test_a_sighting_that_says_nothing_new_changes_nothing() -> None:
    assert folded(a_whole(submitted(message="half way")), seen(0, message="half way")) == []


def test_a_sighting_keeps_the_next_cancellation() -> None:
    again = cancelling(due=5)

    change = only(folded(a_whole(submitted(cancelling=again), run=CANCELLED), seen(0, message="ending")))

    assert change == NoteTarget(target_id=target_id(0), message="ending", missing_since=None, cancelling=again)


def test_the_end_of_a_task_is_taken_from_a_look_however_old() -> None:
    state = a_whole(submitted(), decided_at=at(-1))

    assert folded(state, seen(0, TaskStatus.FAILED, looked=-3600)) != []


@pytest.mark.parametrize(
    "target", [pending(), claimed(), blocked(), completed(), skipped()], ids=lambda t: str(t.status)
)
def test_a_sighting_of_a_task_that_is_not_its_targets_changes_nothing(target: Target) -> None:
    assert folded(a_whole(target, submitted()), seen(0, TaskStatus.FAILED, task="other")) == []


def test_a_sighting_of_an_older_task_of_a_submitted_target_changes_nothing() -> None:
    assert folded(a_whole(submitted()), seen(0, TaskStatus.FAILED, task="older")) == []


def test_an_observation_of_an_unknown_target_changes_nothing() -> None:
    looks: list[Observation] = [
        seen(7),
        missing(7),
        accepted(7),
        conflicted(7),
        refused(7),
        unknown(7),
        absent(7),
        not_cancelled(7),
    ]

    assert folded(a_whole(submitted()), *looks) == []


def test_a_second_end_of_a_task_changes_nothing() -> None:
    changes = folded(a_whole(submitted()), seen(0, TaskStatus.COMPLETED), seen(0, TaskStatus.FAILED))

    assert [type(change) for change in changes] == [SettleTarget]


# -- a task is missing --


def test_a_first_look_that_misses_a_task_fails_nothing_and_says_when_it_will() -> None:
    assert only(folded(a_whole(submitted()), missing(0, looked=-1))) == NoteTarget(
        target_id=target_id(0),
        message="the task manager does not know task task-0; it fails the target if it still does not after 5m0s",
        missing_since=at(-1),
        cancelling=None,
    )


def test_a_second_look_within_the_grace_time_fails_nothing() -> None:
    assert folded(a_whole(submitted(missing_since=-300)), missing(0, looked=-0.001)) == []


def test_two_looks_a_grace_time_apart_fail_the_target_and_do_not_try_it_again() -> None:
    assert only(folded(a_whole(submitted(missing_since=-300)), missing(0))) == SettleTarget(
        target_id=target_id(0),
        status=TargetStatus.FAILED,
        message="lost: the task manager has not known task task-0 for 5m0s",
    )


def test_a_sighting_between_two_looks_begins_the_grace_time_anew() -> None:
    state = a_whole(submitted(missing_since=-400))

    changes = folded(state, seen(0, looked=-200), missing(0))

    assert [change.missing_since for change in changes if isinstance(change, NoteTarget)] == [None, at(0)]


def test_a_sighting_from_before_the_first_miss_does_not_end_the_series() -> None:
    change = only(folded(a_whole(submitted(missing_since=-100)), seen(0, message="old news", looked=-101)))

    assert change == NoteTarget(target_id=target_id(0), message="old news", missing_since=at(-100), cancelling=None)


def test_a_sighting_at_the_very_instant_of_the_first_miss_ends_the_series() -> None:
    change = only(folded(a_whole(submitted(missing_since=-20)), seen(0, looked=-20)))

    assert isinstance(change, NoteTarget)
    assert change.missing_since is None


@pytest.mark.parametrize(("looked", "counts"), [(-10.001, False), (-10, True)], ids=["before", "after"])
def test_a_miss_counts_only_when_it_was_looked_after_the_last_decision(looked: float, counts: bool) -> None:
    changes = folded(a_whole(submitted(), decided_at=at(-10)), missing(0, looked=looked))

    assert bool(changes) == counts


def test_a_miss_keeps_the_next_cancellation() -> None:
    again = cancelling(due=5)

    change = only(folded(a_whole(submitted(cancelling=again), run=CANCELLED), missing(0)))

    assert isinstance(change, NoteTarget)
    assert change.cancelling == again


def test_a_task_that_is_missing_in_a_run_that_ended_settles_its_target_too() -> None:
    change = only(folded(a_whole(submitted(missing_since=-300), run=CANCELLED), missing(0)))

    assert isinstance(change, SettleTarget)


def test_a_miss_of_a_task_that_is_not_its_targets_changes_nothing() -> None:
    assert folded(a_whole(submitted(), claimed()), missing(0, task="other"), missing(1)) == []


# -- a submission was accepted --


@pytest.mark.parametrize("target", [claimed(fence=3), blocked(count=3)], ids=lambda t: str(t.status))
@pytest.mark.parametrize("fence", [1, 3], ids=["older fence", "current fence"])
def test_an_acceptance_of_the_current_attempt_is_adopted_whatever_its_fence(target: Target, fence: int) -> None:
    changes = folded(a_whole(target), accepted(0, fence=fence))

    assert changes == [RecordTask(target_id=target_id(0), task_id=task_id(0))]


def test_an_acceptance_is_adopted_in_a_run_that_ended() -> None:
    assert folded(a_whole(claimed(), run=CANCELLED), accepted(0)) == [
        RecordTask(target_id=target_id(0), task_id=task_id(0))
    ]


@pytest.mark.parametrize(
    ("target", "attempt"),
    [
        (submitted(), 1),
        (completed(), 1),
        (failed(), 1),
        (skipped(), 1),
        (pending(attempt=2, fence=1), 1),
        (claimed(attempt=2, fence=2), 1),
        (blocked(attempt=2), 1),
    ],
    ids=[
        "submitted as another",
        "completed",
        "failed",
        "skipped",
        "retried",
        "retried and claimed",
        "retried and blocked",
    ],
)
def test_any_other_task_is_a_stray_that_is_due_to_be_cancelled(target: Target, attempt: int) -> None:
    change = only(folded(a_whole(target), accepted(0, attempt=attempt, task="other")))

    assert isinstance(change, RecordStray)
    assert (change.stray.task_id, change.stray.target_id) == ("other", target_id(0))
    assert change.stray.is_open
    assert change.stray.cancelling == cancelling(due=0)
    assert change.stray.message.startswith(f"it belongs to attempt {attempt}; the target is {target.status}")


def test_two_tasks_for_one_claim_are_its_task_and_a_stray() -> None:
    changes = folded(a_whole(claimed()), accepted(0, task="first"), accepted(0, task="second"))

    assert [type(change) for change in changes] == [RecordTask, RecordStray]


@pytest.mark.parametrize("target", [submitted(), completed(), failed()], ids=lambda t: str(t.status))
def test_a_doubled_acceptance_changes_nothing(target: Target) -> None:
    assert folded(a_whole(target), accepted(0)) == []


@pytest.mark.parametrize("is_open", [True, False], ids=["open", "over"])
def test_a_stray_is_not_recorded_twice(is_open: bool) -> None:
    observation = accepted(0, task="stray")
    state = a_whole(submitted(), strays=[a_stray("stray", is_open=is_open)], observations=[observation])

    assert folded(state, observation) == []


# -- the rack was busy --


def test_a_first_conflict_blocks_for_the_first_wait() -> None:
    state = a_whole(claimed(), conflict=RETRY)

    assert folded(state, conflicted(0, message="rack is busy")) == [
        BlockTarget(
            target_id=target_id(0),
            retry_at=at(30),
            conflict=Conflict(since=at(0), count=1, delay=timedelta(seconds=30)),
            message="rack is busy",
        )
    ]


def a_history(*, since: float, count: int = 1, delay: float = 30) -> Conflict:
    return Conflict(since=at(since), count=count, delay=timedelta(seconds=delay))


def test_each_further_conflict_doubles_the_wait_and_keeps_since_when() -> None:
    state = a_whole(claimed(conflict=a_history(since=-30)), conflict=RETRY)

    change = only(folded(state, conflicted(0)))

    assert isinstance(change, BlockTarget)
    assert change.conflict == a_history(since=-30, count=2, delay=60)
    assert change.retry_at == at(60)


def test_the_wait_has_an_end() -> None:
    state = a_whole(claimed(conflict=a_history(since=-20, count=2, delay=60)), conflict=RETRY)

    change = only(folded(state, conflicted(0)))

    assert isinstance(change, BlockTarget)
    assert change.conflict.delay == timedelta(seconds=70)


def test_the_end_of_the_window_is_always_a_try() -> None:
    state = a_whole(claimed(conflict=a_history(since=-90, delay=60)), conflict=RETRY)

    change = only(folded(state, conflicted(0)))

    assert isinstance(change, BlockTarget)
    assert change.retry_at == at(10)


def test_a_conflict_before_the_end_of_the_window_holds_nothing() -> None:
    state = a_whole(claimed(conflict=a_history(since=-99.999)), conflict=RETRY)

    assert [type(change) for change in folded(state, conflicted(0))] == [BlockTarget]


def test_a_conflict_at_the_end_of_the_window_holds_the_run_and_says_where() -> None:
    state = a_whole(claimed(conflict=a_history(since=-100, count=2, delay=60)), conflict=RETRY)

    hold, block = folded(state, conflicted(0, message="rack is busy"))

    assert hold == SetConflictHold(
        message=f"target {target_id(0)} blocked by rack conflict for 1m40s (rack r0, 3 refusals): rack is busy"
    )
    assert isinstance(block, BlockTarget)
    assert block.retry_at == at(70)


def test_a_conflict_hold_that_stands_keeps_its_first_message() -> None:
    state = a_whole(claimed(conflict=a_history(since=-500)), conflict=RETRY, conflict_hold="the first")

    assert [type(change) for change in folded(state, conflicted(0))] == [BlockTarget]


def test_a_resume_starts_the_window_anew() -> None:
    state = a_whole(claimed(conflict=a_history(since=-500)), conflict=RETRY, resumed_at=at(-50))

    change = only(folded(state, conflicted(0)))

    assert isinstance(change, BlockTarget)
    assert change.retry_at == at(50)


def test_the_mere_passing_of_time_sets_no_conflict_hold() -> None:
    state = a_whole(blocked(since=-9999, retry=-9000), claimed(conflict=a_history(since=-9999)), conflict=RETRY)

    assert folded(state) == []


# -- a refusal for good, no answer, no task --


def test_a_refusal_for_good_fails_the_target() -> None:
    assert folded(a_whole(claimed()), refused(0, message="no such rule")) == [
        SettleTarget(target_id=target_id(0), status=TargetStatus.FAILED, message="no such rule")
    ]


def test_a_submission_that_nobody_answered_stays_claimed() -> None:
    change = only(folded(a_whole(claimed()), unknown(0, message="timed out")))

    assert change == NoteTarget(
        target_id=target_id(0),
        message="no answer to the submission (timed out); its key is looked up when the lease ends",
        missing_since=None,
        cancelling=None,
    )


def test_a_second_silence_changes_nothing() -> None:
    assert len(folded(a_whole(claimed()), unknown(0), unknown(0))) == 1


@pytest.mark.parametrize("barred", [True, False], ids=["barred", "not barred"])
def test_a_key_without_a_task_changes_nothing_by_itself_while_the_run_goes_on(barred: bool) -> None:
    assert folded(a_whole(claimed(lease=-1)), absent(0, barred=barred)) == []


@pytest.mark.parametrize(
    "answer",
    [
        conflicted(0, fence=1),
        conflicted(0, fence=2, attempt=1),
        refused(0, fence=1),
        refused(0, fence=2, attempt=1),
        unknown(0, fence=1),
        unknown(0, fence=2, attempt=1),
        absent(0, fence=1, barred=True),
        absent(0, fence=2, attempt=1, barred=True),
        absent(0, fence=2, attempt=2, barred=True, looked=-1.001),
    ],
    ids=lambda o: f"{type(o).__name__}-{o.attempt}-{o.fence}",
)
@pytest.mark.parametrize("run", [a_run(), CANCELLED], ids=lambda run: str(run.status))
def test_an_answer_counts_only_for_the_current_fence_of_the_current_attempt(answer: Observation, run: Run) -> None:
    assert folded(a_whole(claimed(lease=-1, attempt=2, fence=2), run=run), answer) == []


@pytest.mark.parametrize(
    "answer", [conflicted(0), refused(0), unknown(0), absent(0, barred=True)], ids=lambda o: type(o).__name__
)
@pytest.mark.parametrize("target", [pending(fence=1), blocked(), submitted(), completed()], ids=lambda t: str(t.status))
def test_an_answer_counts_only_for_a_claimed_target(answer: Observation, target: Target) -> None:
    assert folded(a_whole(target), answer) == []


# -- in a run that has ended --


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (conflicted(0, message="rack is busy"), "rack is busy"),
        (refused(0, message="no such rule"), "no such rule"),
        (absent(0, barred=True), "no task was begun, and none can begin any more"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_a_definite_no_skips_the_target_of_a_run_that_ended(answer: Observation, why: str) -> None:
    assert folded(a_whole(claimed(lease=-1), run=CANCELLED), answer) == [
        SettleTarget(
            target_id=target_id(0),
            status=TargetStatus.SKIPPED,
            message=f"skipped: the run had ended before it could start ({why})",
        )
    ]


def test_a_key_that_was_not_barred_skips_nothing() -> None:
    assert folded(a_whole(claimed(lease=-1), run=CANCELLED), absent(0, barred=False)) == []


def test_silence_skips_nothing() -> None:
    (change,) = folded(a_whole(claimed(), run=CANCELLED), unknown(0))

    assert isinstance(change, NoteTarget)


# -- a cancellation was refused --


def test_a_refused_cancellation_is_told_and_changes_no_status() -> None:
    again = cancelling(due=20)
    state = a_whole(submitted(missing_since=-5, cancelling=again), run=CANCELLED)

    assert folded(state, not_cancelled(0, message="not now")) == [
        NoteTarget(
            target_id=target_id(0),
            message="cancellation refused: not now",
            missing_since=at(-5),
            cancelling=again,
        )
    ]


def test_a_refused_cancellation_that_is_told_already_changes_nothing() -> None:
    assert folded(a_whole(submitted()), not_cancelled(0), not_cancelled(0))[1:] == []


def test_a_refused_cancellation_of_a_settled_target_changes_nothing() -> None:
    assert folded(a_whole(completed()), not_cancelled(0)) == []


# -- strays --


def of_a_stray(*observations: Observation, **fields: Any) -> list[Change]:
    stray = replace(a_stray("stray"), **fields)
    return folded(a_whole(submitted(), strays=[stray], observations=observations), *observations)


@pytest.mark.parametrize("status", OUTCOMES, ids=str)
def test_a_stray_that_is_over_is_closed(status: TaskStatus) -> None:
    change = only(of_a_stray(seen(0, status, "ended", task="stray")))

    assert change == UpdateStray(stray=replace(a_stray("stray"), is_open=False, message="ended"))


def test_a_stray_that_goes_on_changes_nothing() -> None:
    assert of_a_stray(seen(0, task="stray")) == []


def test_a_stray_is_missing_at_a_first_look() -> None:
    change = only(of_a_stray(missing(0, task="stray", looked=-1)))

    assert change == UpdateStray(stray=a_stray("stray", missing_since=at(-1)))


def test_a_stray_that_is_missing_within_the_grace_time_stays_open() -> None:
    assert of_a_stray(missing(0, task="stray", looked=-0.001), missing_since=at(-300)) == []


def test_a_stray_that_is_missing_at_two_looks_a_grace_time_apart_is_closed() -> None:
    change = only(of_a_stray(missing(0, task="stray"), missing_since=at(-300)))

    assert isinstance(change, UpdateStray)
    assert not change.stray.is_open
    assert change.stray.message == "lost: the task manager does not know it any more"


def test_a_sighting_ends_the_series_of_looks_that_missed_a_stray() -> None:
    change = only(of_a_stray(seen(0, task="stray"), missing_since=at(-300)))

    assert change == UpdateStray(stray=a_stray("stray"))


def test_a_sighting_from_before_the_first_miss_of_a_stray_does_not_end_the_series() -> None:
    assert of_a_stray(seen(0, task="stray", looked=-301), missing_since=at(-300)) == []


def test_a_miss_of_a_stray_counts_only_when_it_was_looked_after_the_last_decision() -> None:
    state = a_whole(submitted(), strays=[a_stray("stray")], decided_at=at(-1))

    assert folded(state, missing(0, task="stray", looked=-2)) == []


def test_a_refused_cancellation_of_a_stray_is_told_once() -> None:
    observation = not_cancelled(0, task="stray", message="not now")

    change = only(of_a_stray(observation, observation))

    assert change == UpdateStray(stray=a_stray("stray", message="cancellation refused: not now"))


@pytest.mark.parametrize(
    "observation",
    [
        seen(0, TaskStatus.COMPLETED, task="stray"),
        missing(0, task="stray"),
        not_cancelled(0, task="stray"),
        accepted(0, task="stray"),
    ],
    ids=lambda o: type(o).__name__,
)
def test_nothing_reopens_a_stray_that_is_over(observation: Observation) -> None:
    assert of_a_stray(observation, is_open=False, missing_since=at(-300)) == []


def test_a_stray_of_another_target_is_no_task_of_this_one() -> None:
    state = a_whole(submitted(task="mine"), completed(), strays=[a_stray("other", target=1)])

    change = only(folded(state, seen(1, TaskStatus.COMPLETED, task="other")))

    assert isinstance(change, UpdateStray)


# -- backoff --


@pytest.mark.parametrize(("delay", "expected"), [(10, 20), (150, 300), (200, 300), (300, 300)])
def test_a_wait_doubles_up_to_the_longest(delay: int, expected: int) -> None:
    assert doubled(timedelta(seconds=delay), timedelta(seconds=300)) == timedelta(seconds=expected)


def test_task_ids_are_opaque_text() -> None:
    assert only(folded(a_whole(claimed()), accepted(0, task="Ü/1 2"))) == RecordTask(
        target_id=target_id(0), task_id=TaskId("Ü/1 2")
    )
