"""The machine of a target: every pair of status and change, and what each change keeps and drops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest

from opdispatch.errors import InvalidInput, RefusedTransition
from opdispatch.identity import TaskId
from opdispatch.target import (
    SETTLED,
    SETTLING,
    TRANSITIONS,
    Blocked,
    Cancelling,
    Claimed,
    Conflict,
    Pending,
    Settled,
    Submitted,
    Target,
    TargetChange,
    TargetStatus,
)
from tests.unit.builders import (
    NOW,
    a_target,
    at,
    blocked,
    cancelling,
    claimed,
    completed,
    failed,
    numbered,
    pending,
    skipped,
    submitted,
    terminated,
)

HISTORY = Conflict(since=at(-60), count=2, delay=timedelta(seconds=60))

TARGETS: dict[TargetStatus, Target] = {
    TargetStatus.PENDING: pending(),
    TargetStatus.CLAIMED: claimed(),
    TargetStatus.BLOCKED: blocked(),
    TargetStatus.SUBMITTED: submitted(task="task-0"),
    TargetStatus.COMPLETED: completed(task="task-0"),
    TargetStatus.FAILED: failed(task="task-0"),
    TargetStatus.TERMINATED: terminated(task="task-0"),
    TargetStatus.SKIPPED: skipped(),
}
CHANGES: dict[TargetChange, Callable[[Target], Target]] = {
    TargetChange.CLAIM: lambda target: target.claimed(at(30)),
    TargetChange.SUBMIT: lambda target: target.submitted(TaskId("task-1")),
    TargetChange.BLOCK: lambda target: target.blocked(at(30), HISTORY, "busy"),
    TargetChange.REARM: lambda target: target.rearmed(NOW),
    TargetChange.NOTE: lambda target: target.noted("noted", None, None),
    TargetChange.COMPLETE: lambda target: target.settled(TargetStatus.COMPLETED, "done"),
    TargetChange.FAIL: lambda target: target.settled(TargetStatus.FAILED, "broken"),
    TargetChange.TERMINATE: lambda target: target.settled(TargetStatus.TERMINATED, "ended"),
    TargetChange.SKIP: lambda target: target.settled(TargetStatus.SKIPPED, "left out"),
    TargetChange.RETRY: Target.retried,
}
PAIRS = list(product(TargetStatus, TargetChange))


def _name(value: object) -> str:
    return str(value)


@pytest.mark.parametrize(("status", "change"), sorted(TRANSITIONS), ids=_name)
def test_a_change_in_the_table_leads_where_the_table_says(status: TargetStatus, change: TargetChange) -> None:
    target = TARGETS[status]

    after = CHANGES[change](target)

    assert after.status is TRANSITIONS[status, change]
    assert (after.id, after.sequence, after.phase) == (target.id, target.sequence, target.phase)


@pytest.mark.parametrize(("status", "change"), [pair for pair in PAIRS if pair not in TRANSITIONS], ids=_name)
def test_a_change_that_is_not_in_the_table_is_refused_and_changes_nothing(
    status: TargetStatus, change: TargetChange
) -> None:
    target = TARGETS[status]
    before = replace(target)

    with pytest.raises(RefusedTransition) as refused:
        CHANGES[change](target)

    assert (refused.value.subject, refused.value.status, refused.value.change) == (
        f"target {target.id}",
        status,
        change,
    )
    assert target == before


def test_every_status_has_a_target_and_every_change_a_call() -> None:
    assert [target.status for target in TARGETS.values()] == list(TargetStatus)
    assert list(CHANGES) == list(TargetChange)


def test_only_a_retry_leads_on_from_a_settled_target() -> None:
    assert {change for status, change in TRANSITIONS if status.is_settled} == {TargetChange.RETRY}


def test_every_settled_status_has_the_change_that_leads_to_it() -> None:
    assert {status: TRANSITIONS[TargetStatus.SUBMITTED, change] for status, change in SETTLING.items()} == {
        status: status for status in SETTLED
    }


@pytest.mark.parametrize("status", TargetStatus, ids=_name)
def test_only_a_claimed_or_submitted_target_holds_a_slot(status: TargetStatus) -> None:
    assert status.holds_slot == (status in {TargetStatus.CLAIMED, TargetStatus.SUBMITTED})


@pytest.mark.parametrize("status", TargetStatus, ids=_name)
def test_a_settled_target_is_completed_failed_terminated_or_skipped(status: TargetStatus) -> None:
    expected = {TargetStatus.COMPLETED, TargetStatus.FAILED, TargetStatus.TERMINATED, TargetStatus.SKIPPED}

    assert status.is_settled == (status in expected)


def test_a_claim_raises_the_fence_and_keeps_attempt_and_history() -> None:
    target = blocked(fence=4, attempt=2, conflict=HISTORY)

    after = target.claimed(at(30))

    assert (after.fence, after.attempt, after.conflict) == (5, 2, HISTORY)
    assert after.state == Claimed(lease_until=at(30))
    assert after.message == "claimed for submission"


def test_a_second_claim_of_the_same_attempt_has_a_fence_of_its_own() -> None:
    assert claimed(fence=1).claimed(at(30)).fence == 2


@pytest.mark.parametrize("target", [claimed(conflict=HISTORY), blocked(conflict=HISTORY)], ids=lambda t: str(t.status))
def test_an_accepted_submission_clears_the_history_of_refusals(target: Target) -> None:
    after = target.submitted(TaskId("task-9"))

    assert after.conflict is None
    assert after.state == Submitted(task_id=TaskId("task-9"))
    assert after.message == "submitted"


def test_a_blocked_target_keeps_when_and_why_it_waits() -> None:
    after = claimed().blocked(at(60), HISTORY, "rack is busy")

    assert (after.state, after.conflict, after.message) == (Blocked(retry_at=at(60)), HISTORY, "rack is busy")


def test_a_rearmed_target_forgets_its_refusals_and_keeps_what_it_says() -> None:
    after = blocked(conflict=HISTORY, message="busy").rearmed(NOW)

    assert (after.state, after.conflict, after.message) == (Blocked(retry_at=NOW), None, "busy")


def test_a_note_on_a_submitted_target_replaces_all_that_is_known_besides_its_task() -> None:
    again = cancelling(due=10)

    after = submitted(task="task-0").noted("gone?", at(-5), again)

    assert after.state == Submitted(task_id=TaskId("task-0"), missing_since=at(-5), cancelling=again)
    assert after.message == "gone?"


def test_a_note_on_a_claimed_target_changes_its_message_alone() -> None:
    target = claimed()

    after = target.noted("no answer", at(-5), Cancelling(due=NOW, delay=timedelta(seconds=1)))

    assert after == replace(target, message="no answer")


def test_the_task_of_a_settled_target_stays_on_record() -> None:
    after = submitted(task="task-7").settled(TargetStatus.FAILED, "broken")

    assert (after.task_id, after.message) == ("task-7", "broken")


def test_a_settled_target_keeps_attempt_fence_and_history() -> None:
    after = claimed(attempt=2, fence=5, conflict=HISTORY).settled(TargetStatus.FAILED, "broken")

    assert (after.attempt, after.fence, after.conflict) == (2, 5, HISTORY)


def test_a_target_that_never_had_a_task_settles_without_one() -> None:
    assert claimed().settled(TargetStatus.SKIPPED, "").task_id is None


def test_a_retry_is_a_new_attempt_from_the_start_whose_late_answers_stay_late() -> None:
    after = failed(attempt=2, fence=5, conflict=HISTORY, message="broken").retried()

    assert (after.state, after.attempt, after.fence, after.conflict) == (Pending(), 3, 5, None)
    assert after.message == ""


@pytest.mark.parametrize("target", [pending(), claimed(), blocked()], ids=lambda t: str(t.status))
def test_a_target_without_a_task_has_no_task_id(target: Target) -> None:
    assert target.task_id is None


@pytest.mark.parametrize("status", [s for s in TargetStatus if not s.is_settled], ids=_name)
def test_a_status_with_work_left_cannot_be_that_of_a_settled_state(status: TargetStatus) -> None:
    with pytest.raises(InvalidInput, match="is not a settled status"):
        Settled(status=status)


@pytest.mark.parametrize(
    ("count", "delay"), [(0, timedelta(seconds=1)), (1, timedelta(0))], ids=["no refusal", "no wait"]
)
def test_a_history_has_a_refusal_and_a_wait(count: int, delay: timedelta) -> None:
    with pytest.raises(InvalidInput, match="must be above zero"):
        Conflict(since=NOW, count=count, delay=delay)


@pytest.mark.parametrize("field", ["phase", "attempt", "fence"])
def test_a_number_below_its_start_is_refused(field: str) -> None:
    with pytest.raises(InvalidInput, match="is below its start"):
        a_target(0, **{field: -1})


def test_a_sequence_below_zero_is_refused() -> None:
    (target,) = numbered([pending()])

    with pytest.raises(InvalidInput, match="is below its start"):
        replace(target, sequence=-1)
