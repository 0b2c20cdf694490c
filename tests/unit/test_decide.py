"""The order of one decision, rule by rule, and every two neighbouring rules in conflict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from opdispatch.action import (
    AnnotateRun,
    CancelTask,
    ClaimTarget,
    ContinueRun,
    FinishRun,
    NoteTarget,
    OpenPhase,
    PauseRun,
    RunAction,
    SettleTarget,
    SkipUnstarted,
    StartRun,
    SubmitTask,
    UpdateStray,
    Wait,
    changed_run,
)
from opdispatch.decide import decide
from opdispatch.evolve import evolve
from opdispatch.identity import TaskId, idempotency_key_of
from opdispatch.observation import Observation
from opdispatch.policy.gates import GateScope
from opdispatch.run import Accepted, Run, RunStatus, StatusReason
from opdispatch.state import Limits, RunState
from opdispatch.target import Stray, Target, TargetStatus
from opdispatch.task import SubmissionRequest, TaskRef, TaskStatus
from tests.racks import rack, rack_id
from tests.unit.builders import (
    LIMITS,
    NOW,
    POLL,
    RUN_ID,
    a_paused_run,
    a_record,
    a_run,
    a_state,
    a_stray,
    absent,
    accepted,
    actions,
    all_of,
    at,
    blocked,
    cancelling,
    cancels,
    claimed,
    claims,
    completed,
    conflicted,
    everything,
    failed,
    failure_count,
    held,
    note,
    pause,
    pending,
    refused,
    seen,
    skipped,
    submissions,
    submitted,
    target_id,
    task_id,
    terminated,
    the,
    waits,
)

DONE = TaskStatus.COMPLETED
BROKEN = TaskStatus.FAILED
BUSY_RACK = "rack is busy"


def message_of(state: RunState) -> str:
    """What the run says after the decision."""
    run = state.run
    for action in decide(state).changes:
        if isinstance(action, RunAction):
            run = changed_run(run, action)
    return run.status_message


# -- rule 1: observations first --


def test_an_outcome_that_is_observed_frees_its_slot_in_the_same_decision() -> None:
    state = a_state(submitted(), pending(), quota=1, observations=[seen(0, DONE)])

    assert claims(decide(state)) == [1]


def test_a_failure_that_is_observed_trips_its_gate_before_anything_is_claimed() -> None:
    state = a_state(submitted(), pending(), gates=(failure_count(1),), observations=[seen(0, BROKEN)])

    decision = decide(state)

    assert claims(decision) == []
    assert pause(decision).reason is StatusReason.SAFETY_GATE


def test_a_refusal_for_good_trips_its_gate_before_anything_is_claimed() -> None:
    state = a_state(claimed(), pending(), gates=(failure_count(1),), observations=[refused(0)])

    assert claims(decide(state)) == []


def test_observations_are_folded_in_the_order_in_which_they_came() -> None:
    state = a_state(claimed(), observations=[accepted(0), seen(0, DONE)])

    assert the(decide(state), SettleTarget).status is TargetStatus.COMPLETED


# -- rule 2: cancellations, whatever the run's status --


@pytest.mark.parametrize(
    "run",
    [
        a_run(),
        a_run(RunStatus.PENDING),
        a_paused_run(StatusReason.OPERATOR_PAUSED, operator_hold=True),
        a_run(RunStatus.CANCELLED),
        a_run(RunStatus.COMPLETED),
    ],
    ids=lambda run: str(run.status),
)
def test_a_stray_that_is_due_is_cancelled_whatever_the_status_of_the_run(run: Run) -> None:
    target = completed() if run.status.is_terminal else pending()
    state = a_state(target, run=run, strays=[a_stray("stray", due=0)])

    assert cancels(decide(state)) == ["stray"]


def test_a_stray_that_is_not_due_is_left_alone() -> None:
    state = a_state(submitted(), strays=[a_stray("stray", due=0.001)])

    assert cancels(decide(state)) == []


def test_a_stray_that_is_over_is_left_alone() -> None:
    record = a_record(submitted(), strays=[a_stray("stray", due=-5, is_open=False)])

    assert cancels(decide(everything(record))) == []


def test_each_cancellation_of_a_stray_is_asked_for_again_after_twice_the_wait() -> None:
    state = a_state(submitted(), strays=[a_stray("stray", due=0, delay=40)])

    assert the(decide(state), UpdateStray).stray.cancelling == cancelling(due=40, delay=80)


def test_the_wait_between_cancellations_has_an_end() -> None:
    state = a_state(submitted(), strays=[a_stray("stray", due=0, delay=200)])

    assert the(decide(state), UpdateStray).stray.cancelling == cancelling(due=200, delay=300)


def test_strays_are_cancelled_in_the_order_of_their_tasks() -> None:
    state = a_state(submitted(), strays=[a_stray("b", due=0), a_stray("a", due=-5)])

    assert cancels(decide(state)) == ["a", "b"]


def test_a_stray_that_comes_to_light_is_cancelled_in_its_place() -> None:
    state = a_state(completed(), pending(), strays=[a_stray("z", due=0)], observations=[accepted(0, task="other")])

    assert cancels(decide(state)) == ["other", "z"]


def test_a_cancellation_names_the_target_that_the_task_was_begun_for() -> None:
    of_a_stray = decide(a_state(completed(), submitted(), strays=[a_stray("stray", target=0, due=0)]))
    of_a_task = decide(a_state(skipped(), submitted(), run=a_run(RunStatus.CANCELLED)))

    assert the(of_a_stray, CancelTask).ref == TaskRef(target_id=target_id(0), task_id=TaskId("stray"))
    assert the(of_a_task, CancelTask).ref == TaskRef(target_id=target_id(1), task_id=task_id(1))


def test_every_task_of_a_run_that_ended_is_cancelled_whatever_is_claimed_before_it() -> None:
    state = a_state(submitted(), claimed(), submitted(), run=a_run(RunStatus.CANCELLED))

    assert cancels(decide(state)) == [task_id(0), task_id(2)]


def test_a_stray_that_comes_to_light_is_cancelled_in_the_same_decision() -> None:
    state = a_state(completed(), pending(), observations=[accepted(0, task="other")])

    assert cancels(decide(state)) == ["other"]


def test_a_stray_that_is_seen_to_be_over_is_not_cancelled_once_more() -> None:
    state = a_state(submitted(), strays=[a_stray("stray", due=0)], observations=[seen(0, DONE, task="stray")])

    assert cancels(decide(state)) == []


def test_tasks_of_a_run_that_ended_are_cancelled() -> None:
    state = a_state(submitted(message="Running"), run=a_run(RunStatus.CANCELLED))

    decision = decide(state)

    assert cancels(decision) == [task_id(0)]
    assert note(decision) == NoteTarget(
        target_id=target_id(0), message="Running", missing_since=None, cancelling=cancelling(due=10, delay=20)
    )


def test_tasks_of_a_run_that_ended_are_cancelled_again_when_that_is_due() -> None:
    again = cancelling(due=0, delay=20)
    state = a_state(submitted(cancelling=again), run=a_run(RunStatus.CANCELLED))

    decision = decide(state)

    assert cancels(decision) == [task_id(0)]
    assert note(decision).cancelling == cancelling(due=20, delay=40)


def test_tasks_of_a_run_that_ended_are_not_cancelled_before_that_is_due() -> None:
    state = a_state(submitted(cancelling=cancelling(due=1)), run=a_run(RunStatus.CANCELLED))

    assert decide(state).steps == ()


def test_a_cancellation_keeps_since_when_the_task_is_missing() -> None:
    state = a_state(submitted(missing_since=-20), run=a_run(RunStatus.CANCELLED))

    assert note(decide(state)).missing_since == at(-20)


def test_a_task_of_a_run_that_goes_on_is_never_cancelled() -> None:
    assert cancels(decide(a_state(submitted()))) == []


def test_a_task_that_is_adopted_by_a_run_that_ended_is_cancelled_in_the_same_decision() -> None:
    state = a_state(claimed(), run=a_run(RunStatus.CANCELLED), observations=[accepted(0)])

    assert cancels(decide(state)) == [task_id(0)]


def test_a_run_that_ended_claims_nothing_and_stays_as_it_is() -> None:
    record = a_record(skipped(), completed(), run=a_run(RunStatus.CANCELLED))

    decision = decide(everything(record))

    assert actions(decision) == []
    assert decision.wake_at is None


def test_what_never_started_in_a_run_that_somebody_else_ended_is_skipped() -> None:
    record = a_record(pending(), blocked(), completed(), submitted(), run=a_run(RunStatus.CANCELLED))

    decision = decide(everything(record))

    assert [type(action) for action in decision.changes] == [NoteTarget, SkipUnstarted]
    assert [t.status for t in evolve(record, decision).targets.values()] == [
        "skipped",
        "skipped",
        "completed",
        "submitted",
    ]


def test_a_claim_of_a_run_that_ended_is_not_made_anew() -> None:
    state = a_state(claimed(lease=-1), run=a_run(RunStatus.CANCELLED), observations=[absent(0)])

    assert submissions(decide(state)) == []


def test_a_run_that_ended_says_how_many_tasks_are_still_ending() -> None:
    state = a_state(
        submitted(), claimed(), completed(), run=a_run(RunStatus.CANCELLED), strays=[a_stray("stray", due=5)]
    )

    assert held(decide(state), Wait.DRAINING).count == 3


# rules 2 and 3 in conflict
def test_a_run_that_ended_does_not_fail_for_its_plan() -> None:
    state = a_state(run=a_run(RunStatus.COMPLETED))

    assert actions(decide(state)) == []


def test_strays_of_a_run_whose_plan_cannot_be_are_cancelled() -> None:
    state = a_state(strays=[a_stray("stray", due=0)])

    decision = decide(state)

    assert cancels(decision) == ["stray"]
    assert the(decision, FinishRun).status is RunStatus.FAILED


# -- rule 3: a plan that cannot be --


def test_a_run_without_targets_fails() -> None:
    decision = decide(a_state())

    assert the(decision, FinishRun) == FinishRun(
        status=RunStatus.FAILED, at=NOW, message="operation run has no targets"
    )
    assert decision.wake_at == NOW


def test_a_run_that_never_started_can_fail() -> None:
    decision = decide(a_state(run=a_run(RunStatus.PENDING)))

    assert the(decision, FinishRun).status is RunStatus.FAILED
    assert all_of(decision, StartRun) == []


def test_a_run_whose_current_phase_is_empty_fails_and_skips_what_has_not_started() -> None:
    state = a_state(completed(phase=0), pending(phase=2), phase=1)
    message = "operation run phase 1 has no targets; persisted phase plan is invalid"

    decision = decide(state)

    assert the(decision, FinishRun).message == message
    assert the(decision, SkipUnstarted).message == f"skipped: {message}"


# rules 3 and 4 in conflict
def test_an_empty_current_phase_fails_a_run_whose_targets_are_all_settled() -> None:
    state = a_state(completed(phase=0), completed(phase=2), phase=1)

    assert the(decide(state), FinishRun).status is RunStatus.FAILED


# rules 3 and 5 in conflict
def test_a_plan_that_cannot_be_fails_a_run_that_is_held() -> None:
    state = a_state(pending(phase=1), operator_hold=True)

    assert the(decide(state), FinishRun).status is RunStatus.FAILED


# -- rule 4: the end --


@pytest.mark.parametrize(
    ("targets", "status", "message"),
    [
        ([completed(), completed()], RunStatus.COMPLETED, "operation run completed"),
        ([completed(), skipped()], RunStatus.COMPLETED, "operation run completed"),
        ([skipped(), skipped()], RunStatus.COMPLETED, "operation run completed"),
        (
            [completed(), failed()],
            RunStatus.COMPLETED_WITH_FAILURES,
            "operation run completed with failed targets",
        ),
        (
            [skipped(), terminated()],
            RunStatus.COMPLETED_WITH_FAILURES,
            "operation run completed with failed targets",
        ),
        ([failed(), terminated()], RunStatus.FAILED, "operation run failed"),
        ([failed()], RunStatus.FAILED, "operation run failed"),
    ],
    ids=["all completed", "some skipped", "all skipped", "one failed", "one terminated", "all bad", "one of one"],
)
def test_a_run_ends_by_what_its_targets_came_to(targets: list[Target], status: RunStatus, message: str) -> None:
    decision = decide(a_state(*targets))

    assert the(decision, FinishRun) == FinishRun(status=status, at=NOW, message=message)
    assert decision.wake_at is None


def test_the_end_counts_every_phase() -> None:
    state = a_state(failed(phase=0), completed(phase=1), completed(phase=2), phase=2)

    assert the(decide(state), FinishRun).status is RunStatus.COMPLETED_WITH_FAILURES


def test_a_run_that_ends_at_its_first_decision_has_started() -> None:
    decision = decide(a_state(skipped(), run=a_run(RunStatus.PENDING)))

    assert actions(decision) == [
        StartRun(at=NOW, message=""),
        FinishRun(status=RunStatus.COMPLETED, at=NOW, message="operation run completed"),
    ]


def test_a_run_whose_later_phases_are_settled_too_ends_in_its_first_phase() -> None:
    assert the(decide(a_state(completed(phase=0), skipped(phase=1))), FinishRun).status is RunStatus.COMPLETED


def test_a_run_that_ends_with_a_stray_wakes_for_it() -> None:
    state = a_state(completed(), strays=[a_stray("stray", due=4)])

    assert decide(state).wake_at == at(4)


# rules 4 and 5 in conflict
def test_the_end_wins_over_a_gate_that_trips_in_the_same_decision() -> None:
    state = a_state(completed(), submitted(), gates=(failure_count(1),), observations=[seen(1, BROKEN)])

    decision = decide(state)

    assert the(decision, FinishRun).status is RunStatus.COMPLETED_WITH_FAILURES
    assert all_of(decision, PauseRun) == []


@pytest.mark.parametrize(
    "run",
    [
        a_paused_run(StatusReason.OPERATOR_PAUSED, operator_hold=True),
        a_paused_run(StatusReason.CONFLICT_RETRY_TIMEOUT, conflict_hold=BUSY_RACK),
        a_paused_run(StatusReason.SAFETY_GATE, gates=(failure_count(1),)),
    ],
    ids=lambda run: str(run.status_reason),
)
def test_a_run_ends_whatever_holds_it(run: Run) -> None:
    state = a_state(failed(), submitted(), run=run, observations=[seen(1, DONE)])

    assert the(decide(state), FinishRun).status is RunStatus.COMPLETED_WITH_FAILURES


# rules 4 and 6 in conflict
def test_a_settled_phase_with_nothing_left_behind_it_opens_no_other() -> None:
    state = a_state(completed(phase=0), skipped(phase=1), auto_advance=True)

    assert all_of(decide(state), OpenPhase) == []


# -- rule 5: holds --


def test_an_operator_hold_pauses() -> None:
    decision = decide(a_state(pending(), operator_hold=True))

    assert actions(decision) == [
        PauseRun(reason=StatusReason.OPERATOR_PAUSED, message="operation run paused by operator")
    ]
    assert waits(decision) == [Wait.OPERATOR]


def test_a_conflict_hold_pauses() -> None:
    decision = decide(a_state(blocked(), conflict_hold="rack r0 is busy"))

    assert pause(decision) == PauseRun(reason=StatusReason.CONFLICT_RETRY_TIMEOUT, message="rack r0 is busy")
    assert waits(decision) == [Wait.CONFLICT_WINDOW]


def test_a_tripped_gate_pauses_and_says_what_a_resume_must_accept() -> None:
    decision = decide(a_state(failed(), pending(), gates=(failure_count(1),)))

    assert pause(decision) == PauseRun(
        reason=StatusReason.SAFETY_GATE,
        message=(
            "failure_count safety gate tripped for current_phase: 1/2 targets failed (threshold 1); "
            "1 failed attempt in the whole run"
        ),
    )
    assert waits(decision) == [Wait.SAFETY_GATE]


def test_a_settled_phase_waits_for_an_advance_where_advances_are_manual() -> None:
    decision = decide(a_state(completed(phase=0), pending(phase=1)))

    assert actions(decision) == [PauseRun(reason=StatusReason.PHASE_GATE, message="waiting for phase advance")]
    assert waits(decision) == [Wait.PHASE_GATE]


def test_a_run_can_be_held_before_it_starts() -> None:
    decision = decide(a_state(pending(), run=a_run(RunStatus.PENDING, operator_hold=True)))

    assert actions(decision) == [
        PauseRun(reason=StatusReason.OPERATOR_PAUSED, message="operation run paused by operator")
    ]


ALL_HOLDS = [StatusReason.OPERATOR_PAUSED, StatusReason.CONFLICT_RETRY_TIMEOUT, StatusReason.SAFETY_GATE]


@pytest.mark.parametrize("first", range(4), ids=["operator", "conflict", "safety", "phase"])
def test_of_several_holds_the_first_is_shown_and_all_are_told(first: int) -> None:
    state = a_state(
        failed(phase=0),
        pending(phase=1),
        operator_hold=first < 1,
        conflict_hold=BUSY_RACK if first < 2 else None,
        gates=(failure_count(1),) if first < 3 else (),
    )
    codes = [Wait.OPERATOR, Wait.CONFLICT_WINDOW, Wait.SAFETY_GATE, Wait.PHASE_GATE]

    decision = decide(state)

    assert pause(decision).reason is [*ALL_HOLDS, StatusReason.PHASE_GATE][first]
    assert waits(decision) == codes[first:]


def test_a_hold_tells_how_many_targets_it_keeps_from_starting() -> None:
    state = a_state(completed(), blocked(), pending(), submitted(), pending(phase=1), operator_hold=True)

    assert held(decide(state), Wait.OPERATOR).count == 3


def test_a_hold_that_is_shown_already_is_not_written_again() -> None:
    run = a_paused_run(StatusReason.OPERATOR_PAUSED, "operation run paused by operator", operator_hold=True)

    assert decide(a_state(pending(), run=run)).steps == ()


def test_what_a_hold_says_follows_what_it_counts() -> None:
    gates = (failure_count(1),)
    run = a_paused_run(StatusReason.SAFETY_GATE, "an older count", gates=gates)

    assert "1/2 targets failed" in pause(decide(a_state(failed(), pending(), run=run))).message


def test_a_held_run_waits_for_what_is_in_flight_too() -> None:
    state = a_state(claimed(lease=7), submitted(), operator_hold=True)

    decision = decide(state)

    assert waits(decision) == [Wait.OPERATOR, Wait.ANSWER, Wait.IN_FLIGHT]
    assert decision.wake_at == at(7)


def test_what_is_in_flight_goes_on_being_observed_under_a_hold() -> None:
    state = a_state(submitted(), pending(), operator_hold=True, observations=[seen(0, DONE)])

    assert the(decide(state), SettleTarget).status is TargetStatus.COMPLETED


def test_a_claim_that_was_looked_up_is_not_made_anew_under_a_hold() -> None:
    state = a_state(claimed(lease=-1), operator_hold=True, observations=[absent(0)])

    decision = decide(state)

    assert submissions(decision) == []
    assert decision.wake_at == POLL


def test_a_found_task_is_adopted_under_a_hold() -> None:
    state = a_state(claimed(lease=-1), operator_hold=True, observations=[accepted(0)])

    assert evolve(a_record(claimed(lease=-1)), decide(state)).targets[target_id(0)].status is TargetStatus.SUBMITTED


# rules 5 and 6 in conflict
def test_a_settled_phase_that_trips_a_gate_pauses_for_safety_and_does_not_advance() -> None:
    state = a_state(failed(phase=0), pending(phase=1), gates=(failure_count(1),), auto_advance=True)

    decision = decide(state)

    assert pause(decision).reason is StatusReason.SAFETY_GATE
    assert all_of(decision, OpenPhase) == []


def test_a_settled_phase_that_trips_a_gate_shows_the_gate_before_the_phase() -> None:
    state = a_state(failed(phase=0), pending(phase=1), gates=(failure_count(1),))

    assert pause(decide(state)).reason is StatusReason.SAFETY_GATE


def test_an_operator_hold_keeps_a_settled_phase_from_advancing() -> None:
    state = a_state(completed(phase=0), pending(phase=1), auto_advance=True, operator_hold=True)

    assert all_of(decide(state), OpenPhase) == []


# rules 5 and 7 in conflict
@pytest.mark.parametrize(
    "hold",
    [{"operator_hold": True}, {"conflict_hold": BUSY_RACK}, {"gates": (failure_count(1),)}],
    ids=["operator", "conflict", "safety"],
)
def test_nothing_is_claimed_under_a_hold(hold: dict[str, Any]) -> None:
    assert claims(decide(a_state(failed(), pending(), blocked(retry=0), **hold))) == []


# -- rule 6: the next phase --


def test_a_settled_phase_opens_the_next_and_claims_nothing_in_the_same_decision() -> None:
    decision = decide(a_state(completed(phase=0), pending(phase=1), auto_advance=True))

    assert actions(decision) == [OpenPhase(phase=1), AnnotateRun(message="advanced to next phase")]
    assert decision.wake_at == NOW


def test_a_phase_whose_targets_all_failed_opens_the_next_where_no_gate_trips() -> None:
    assert the(decide(a_state(failed(phase=0), pending(phase=1), auto_advance=True)), OpenPhase).phase == 1


def test_a_run_that_returns_to_an_opened_phase_needs_no_advance() -> None:
    state = a_state(completed(phase=0), pending(phase=1), phase=0, opened=1)

    assert actions(decide(state)) == [OpenPhase(phase=1), AnnotateRun(message="returned to phase 1")]


def test_a_run_that_was_held_goes_on_when_its_phase_opens() -> None:
    run = a_paused_run(StatusReason.SAFETY_GATE, phases=2, auto_advance=True)

    decision = decide(a_state(completed(phase=0), pending(phase=1), run=run))

    assert the(decision, ContinueRun) == ContinueRun(at=NOW, message="advanced to next phase")


def test_a_run_whose_first_phase_was_skipped_starts_in_the_next() -> None:
    run = a_run(RunStatus.PENDING, phases=2, auto_advance=True)

    decision = decide(a_state(skipped(phase=0), pending(phase=1), run=run))

    assert actions(decision) == [OpenPhase(phase=1), StartRun(at=NOW, message="advanced to next phase")]


# rules 6 and 7 in conflict
@pytest.mark.parametrize("target", [claimed(), blocked(), submitted(), pending()], ids=lambda t: str(t.status))
def test_a_phase_with_work_left_opens_no_other(target: Target) -> None:
    state = a_state(completed(phase=0), target, pending(phase=1), auto_advance=True)

    decision = decide(state)

    assert all_of(decision, OpenPhase) == []
    assert 2 not in claims(decision)


# -- rule 7: claims --


def test_pending_targets_are_claimed_in_sequence_up_to_the_free_slots() -> None:
    state = a_state(submitted(), pending(), pending(), pending(), quota=3)

    decision = decide(state)

    assert claims(decision) == [1, 2]
    assert submissions(decision) == [1, 2]


def test_a_claim_holds_until_its_lease_ends() -> None:
    assert the(decide(a_state(pending())), ClaimTarget).lease_until == NOW + LIMITS.claim_lease


def test_a_submission_carries_all_that_a_task_manager_needs() -> None:
    state = a_state(pending(attempt=2, fence=4))

    (submit,) = all_of(decide(state), SubmitTask)

    assert submit.request == SubmissionRequest(
        key=idempotency_key_of(RUN_ID, target_id(0), 2),
        run_id=RUN_ID,
        target_id=target_id(0),
        attempt=2,
        fence=5,
        rack_id=rack_id(0),
        rack_name="r0",
        components=rack(0).components,
        operation=state.run.rollout.operation,
        resubmission=False,
    )


def test_a_blocked_target_whose_wait_is_over_is_claimed_in_its_place() -> None:
    state = a_state(pending(), blocked(retry=0), pending(), quota=2)

    assert claims(decide(state)) == [0, 1]


def test_a_blocked_target_whose_wait_is_not_over_is_passed_over() -> None:
    state = a_state(blocked(retry=0.001), pending(), quota=1)

    assert claims(decide(state)) == [1]


def test_a_target_of_a_later_phase_is_not_claimed() -> None:
    assert claims(decide(a_state(pending(phase=0), pending(phase=1)))) == [0]


def test_blocked_targets_use_no_slot() -> None:
    assert claims(decide(a_state(blocked(), pending(), quota=1))) == [1]


def test_a_claim_whose_lease_is_over_uses_its_slot() -> None:
    assert claims(decide(a_state(claimed(lease=-60), pending(), quota=1))) == []


def test_a_stray_that_is_not_over_uses_a_slot() -> None:
    assert claims(decide(a_state(completed(), pending(), quota=1, strays=[a_stray("stray")]))) == []


def test_more_strays_than_slots_claim_nothing() -> None:
    state = a_state(
        claimed(lease=-1), pending(), quota=1, strays=[a_stray("a"), a_stray("b")], observations=[absent(0)]
    )

    assert claims(decide(state)) == []


def test_what_is_in_flight_in_other_phases_uses_slots_too() -> None:
    state = a_state(pending(phase=0), submitted(phase=1), quota=1, phase=0, opened=1)

    assert claims(decide(state)) == []


def test_a_claim_that_was_looked_up_and_not_found_is_made_anew_in_its_own_slot() -> None:
    state = a_state(claimed(lease=0, fence=3), pending(), quota=1, observations=[absent(0, fence=3)])

    (submit,) = all_of(decide(state), SubmitTask)

    assert (submit.request.target_id, submit.request.fence, submit.request.attempt) == (target_id(0), 4, 1)
    assert submit.request.resubmission


def test_claims_that_are_made_anew_come_before_new_ones() -> None:
    state = a_state(pending(), claimed(lease=-1), claimed(lease=-1), observations=[absent(2), absent(1)], quota=3)

    assert claims(decide(state)) == [1, 2, 0]


def test_a_claim_in_a_later_phase_is_made_anew_though_the_pointer_moved_back() -> None:
    state = a_state(pending(phase=0), claimed(phase=1, lease=-1), phase=0, opened=1, observations=[absent(1)])

    assert claims(decide(state)) == [1, 0]


def test_two_looks_at_one_claim_make_it_anew_once() -> None:
    state = a_state(claimed(lease=-1), observations=[absent(0), absent(0)])

    assert submissions(decide(state)) == [0]


def test_a_claim_that_was_found_after_all_is_not_made_anew() -> None:
    state = a_state(claimed(lease=-1), observations=[absent(0), accepted(0)])

    assert submissions(decide(state)) == []


@pytest.mark.parametrize(
    "look",
    [absent(0, fence=1), absent(0, fence=2, attempt=2), absent(0, fence=2, looked=-1.001), absent(1, fence=2)],
    ids=["older fence", "other attempt", "before the lease was over", "other target"],
)
def test_a_claim_is_not_made_anew_for_a_look_that_does_not_fit(look: Observation) -> None:
    state = a_state(claimed(lease=-1, fence=2), completed(), observations=[look])

    assert submissions(decide(state)) == []


def test_no_more_is_claimed_than_the_task_manager_can_begin() -> None:
    state = a_state(*[pending()] * 5, limits=Limits(claims=2))

    decision = decide(state)

    assert claims(decision) == [0, 1]
    assert held(decision, Wait.CAPACITY).count == 3
    assert decision.wake_at == NOW


def test_claims_made_anew_count_against_what_can_begin() -> None:
    state = a_state(claimed(lease=-1), pending(), limits=Limits(claims=1), observations=[absent(0)])

    assert claims(decide(state)) == [0]


def test_a_round_that_may_claim_nothing_records_what_is_known_and_comes_back_at_once() -> None:
    state = a_state(
        submitted(), pending(), limits=Limits(claims=0), observations=[seen(0, DONE)], status_message="submitted 1"
    )

    decision = decide(state)

    assert [type(action) for action in actions(decision)] == [SettleTarget]
    assert decision.wake_at == NOW


def test_capacity_holds_nothing_back_when_no_slot_is_free() -> None:
    decision = decide(a_state(submitted(), pending(), quota=1, limits=Limits(claims=0)))

    assert waits(decision) == [Wait.QUOTA, Wait.IN_FLIGHT]
    assert decision.wake_at == POLL


def test_an_adopted_candidate_is_not_claimed() -> None:
    state = a_state(blocked(retry=0), pending(), quota=1, observations=[accepted(0)])

    decision = decide(state)

    assert claims(decision) == []


def test_an_adopted_candidate_leaves_its_place_to_the_next() -> None:
    state = a_state(blocked(retry=0), pending(), pending(), quota=2, observations=[accepted(0)])

    assert claims(decide(state)) == [1]


def test_the_order_in_which_candidates_are_given_does_not_matter() -> None:
    state = a_state(pending(), blocked(retry=0), pending(), quota=2)

    assert decide(replace(state, ready=state.ready[::-1])) == decide(state)


def test_a_target_that_was_refused_in_this_decision_waits() -> None:
    state = a_state(claimed(), pending(), quota=1, observations=[conflicted(0)])

    assert claims(decide(state)) == [1]


# -- the status that follows --


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (a_run(RunStatus.PENDING), StartRun),
        (a_paused_run(StatusReason.OPERATOR_PAUSED), ContinueRun),
        (a_run(), AnnotateRun),
    ],
    ids=["pending", "paused", "running"],
)
def test_a_run_that_claims_is_running(run: Run, kind: type) -> None:
    decision = decide(a_state(pending(), run=run))

    assert the(decision, kind).message == "submitted 1 operation run target"
    assert evolve(a_record(pending(), run=run), decision).run.status is RunStatus.RUNNING


@pytest.mark.parametrize(
    ("targets", "fields", "message"),
    [
        ([pending()], {}, "submitted 1 operation run target"),
        ([pending(), pending(), pending()], {}, "submitted 3 operation run targets"),
        ([blocked()], {}, "1 target waiting on rack conflicts"),
        ([blocked(), blocked()], {}, "2 targets waiting on rack conflicts"),
        ([blocked(), submitted()], {}, "1 target waiting on rack conflicts"),
        ([pending(), blocked()], {}, "submitted 1 operation run target; 1 target waiting on rack conflicts"),
        (
            [pending(), pending(), blocked(), blocked()],
            {},
            "submitted 2 operation run targets; 2 targets waiting on rack conflicts",
        ),
        (
            [pending(), blocked()],
            {"quota": 1},
            "submitted 1 operation run target; 1 target waiting on rack conflicts",
        ),
        ([submitted(), pending()], {"quota": 1}, "waiting for active targets quota"),
        ([submitted(), blocked()], {"quota": 1}, "waiting for active targets quota"),
        ([submitted(), pending(), blocked()], {"quota": 1}, "waiting for active targets quota"),
        ([pending(), pending()], {"limits": Limits(claims=1)}, "submitted 1 operation run target"),
        ([submitted()], {}, "waiting for 1 target in flight"),
        ([submitted(), claimed(), completed()], {}, "waiting for 2 targets in flight"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_running_run_says_in_the_words_of_the_reference_what_it_waits_for(
    targets: list[Target], fields: dict[str, Any], message: str
) -> None:
    assert message_of(a_state(*targets, **fields)) == message


def test_what_a_run_says_is_not_written_again() -> None:
    state = a_state(submitted(), status_message="waiting for 1 target in flight")

    assert decide(state).steps == ()


# -- what is held back --


def test_waiting_targets_are_held_back_by_the_quota() -> None:
    decision = decide(a_state(submitted(), pending(), blocked(), pending(phase=1), quota=1))

    assert held(decision, Wait.QUOTA).count == 2


def test_waiting_targets_are_not_held_back_by_free_slots() -> None:
    assert waits(decide(a_state(submitted(), blocked()))) == [Wait.CONFLICT, Wait.IN_FLIGHT]


def test_nothing_is_held_back_by_the_quota_where_nothing_waits() -> None:
    assert waits(decide(a_state(submitted(), pending(phase=1), quota=1))) == [Wait.IN_FLIGHT]


def test_a_conflict_tells_when_a_target_that_was_blocked_in_this_decision_may_be_tried_if_that_is_next() -> None:
    decision = decide(a_state(blocked(retry=40), claimed(), observations=[conflicted(1)]))

    assert held(decision, Wait.CONFLICT).until == at(30)


def test_a_conflict_tells_when_the_next_target_may_be_tried() -> None:
    decision = decide(a_state(blocked(retry=40), blocked(retry=20), pending()))

    assert (held(decision, Wait.CONFLICT).count, held(decision, Wait.CONFLICT).until) == (2, at(20))


def test_a_submission_without_an_answer_tells_when_it_is_looked_up() -> None:
    decision = decide(a_state(claimed(lease=12), claimed(lease=7)))

    assert (held(decision, Wait.ANSWER).count, held(decision, Wait.ANSWER).until) == (2, at(7))


def test_a_lease_that_is_over_is_no_time_at_which_a_wait_can_end() -> None:
    late = decide(a_state(claimed(lease=-3), claimed(lease=7)))
    too_late = decide(a_state(claimed(lease=-3), claimed(lease=0)))

    assert (held(late, Wait.ANSWER).count, held(late, Wait.ANSWER).until) == (2, at(7))
    assert held(too_late, Wait.ANSWER).until is None


@pytest.mark.parametrize(
    ("strays", "message"),
    [
        ([], "all 2 slots are in use"),
        ([a_stray("a")], "all 2 slots are in use; open strays use 1"),
        ([a_stray("a"), a_stray("b")], "all 2 slots are in use; open strays use 2"),
    ],
    ids=["none", "one", "two"],
)
def test_slots_that_strays_use_are_told(strays: list[Stray], message: str) -> None:
    targets = [submitted()] * (2 - len(strays))

    assert held(decide(a_state(*targets, pending(), quota=2, strays=strays)), Wait.QUOTA).message == message


def test_tasks_that_have_not_ended_are_told() -> None:
    assert held(decide(a_state(submitted(), submitted())), Wait.IN_FLIGHT).count == 2


def test_every_code_of_a_wait_is_told_by_some_decision() -> None:
    states = [
        a_state(failed(), pending(phase=1), operator_hold=True, conflict_hold=BUSY_RACK, gates=(failure_count(1),)),
        a_state(submitted(), claimed(), blocked(), quota=2),
        a_state(pending(), limits=Limits(claims=0)),
        a_state(submitted(), run=a_run(RunStatus.CANCELLED)),
    ]

    assert {wait for state in states for wait in waits(decide(state))} == set(Wait)


# -- when to look again --


@pytest.mark.parametrize(
    ("state", "wake_at"),
    [
        (a_state(submitted()), POLL),
        (a_state(claimed(lease=7)), at(7)),
        (a_state(claimed(lease=60)), at(60)),
        (a_state(claimed(lease=0)), POLL),
        (a_state(claimed(lease=-9)), POLL),
        (a_state(blocked(retry=40)), at(40)),
        (a_state(blocked(retry=4), submitted()), at(4)),
        (a_state(blocked(retry=40), submitted()), POLL),
        (a_state(pending()), at(30)),
        (a_state(submitted(), strays=[a_stray("stray", due=3)]), at(3)),
        (a_state(submitted(), strays=[a_stray("stray", due=300)]), POLL),
        (a_state(completed(), strays=[a_stray("stray", due=300)]), POLL),
        (a_state(blocked(retry=4), operator_hold=True), None),
        (a_state(completed(phase=0), pending(phase=1)), None),
        (a_state(submitted(), operator_hold=True), POLL),
        (a_state(submitted(cancelling=cancelling(due=3)), run=a_run(RunStatus.CANCELLED)), at(3)),
        (a_state(submitted(cancelling=cancelling(due=300)), run=a_run(RunStatus.CANCELLED)), POLL),
        (a_state(claimed(lease=-9), run=a_run(RunStatus.CANCELLED)), POLL),
        (a_state(completed(), run=a_run(RunStatus.COMPLETED)), None),
        (a_state(completed()), None),
        (a_state(blocked(retry=0), submitted(), quota=1), POLL),
    ],
    ids=[
        "a task is polled",
        "a lease ends",
        "a lease ends later than a poll",
        "a lease ends now",
        "a lease is over",
        "a blocked target may be tried",
        "a retry before a poll",
        "a retry after a poll",
        "a target was just claimed",
        "a stray is to be cancelled",
        "a stray is polled",
        "a stray of a run that ends is polled",
        "a hold needs a command",
        "a phase gate needs a command",
        "a task is polled under a hold",
        "a task is to be cancelled",
        "a task that is being cancelled is polled",
        "a key is looked up in a run that ended",
        "a run that ended is never due",
        "a run that ends is never due",
        "a due retry without a slot waits for a slot",
    ],
)
def test_a_run_is_looked_at_again_when_something_could_be_new(state: RunState, wake_at: datetime | None) -> None:
    assert decide(state).wake_at == wake_at


def test_a_target_that_was_blocked_in_this_decision_is_tried_when_its_wait_is_over() -> None:
    assert decide(a_state(claimed(), observations=[conflicted(0)])).wake_at == at(30)


def test_a_refusal_in_a_phase_that_is_not_current_wakes_nobody() -> None:
    state = a_state(blocked(phase=0, retry=50), claimed(phase=1), phase=0, opened=1, observations=[conflicted(1)])

    assert decide(state).wake_at == at(50)


def test_a_run_is_never_due_before_now() -> None:
    state = a_state(claimed(lease=-5), strays=[a_stray("stray", due=-5)], observations=[])

    wake_at = decide(state).wake_at

    assert wake_at is not None
    assert wake_at > NOW


# -- gates --


@pytest.mark.parametrize("target", [failed(), terminated()], ids=lambda t: str(t.status))
def test_failed_and_terminated_targets_both_trip_a_gate(target: Target) -> None:
    state = a_state(target, pending(), gates=(failure_count(1),))

    assert pause(decide(state)).reason is StatusReason.SAFETY_GATE


def test_accepted_failures_trip_no_gate() -> None:
    state = a_state(failed(), pending(), gates=(failure_count(1),), accepted=(Accepted(gate=0, phase=0, failures=1),))

    assert claims(decide(state)) == [1]


def test_one_failure_more_than_accepted_trips_the_gate_again_and_says_so() -> None:
    state = a_state(
        failed(), failed(), pending(), gates=(failure_count(1),), accepted=(Accepted(gate=0, phase=0, failures=1),)
    )

    assert pause(decide(state)).message.endswith("; 1 accepted before; 2 failed attempts in the whole run")


def test_a_retried_failure_goes_on_counting() -> None:
    state = a_state(pending(attempt=2, fence=1), failed_before={0: 1}, gates=(failure_count(1),))

    assert pause(decide(state)).reason is StatusReason.SAFETY_GATE


def test_failures_of_earlier_phases_trip_a_cumulative_gate_alone() -> None:
    targets = failed(phase=0), pending(phase=1)
    cumulative = (failure_count(1, GateScope.CUMULATIVE_RUN),)

    assert claims(decide(a_state(*targets, phase=1, gates=(failure_count(1),)))) == [1]
    assert claims(decide(a_state(*targets, phase=1, gates=cumulative))) == []


# -- laws of the whole --


def _world() -> RunState:
    return a_state(
        claimed(lease=-1),
        blocked(retry=0),
        submitted(),
        failed(),
        pending(),
        pending(phase=1),
        quota=3,
        strays=[a_stray("stray", due=0)],
        observations=[absent(0), seen(2, DONE), accepted(3, task="other"), conflicted(1)],
    )


def test_equal_states_give_equal_decisions() -> None:
    assert decide(_world()) == decide(_world())


def test_a_decision_on_the_window_is_the_one_on_the_whole_record() -> None:
    record = a_record(
        claimed(lease=-1), *[pending()] * 30, submitted(phase=1), quota=2, phase=0, strays=[a_stray("a"), a_stray("b")]
    )
    looks: list[Observation] = [absent(0), accepted(3, task="late")]

    whole = decide(everything(record, *looks))

    state = a_state(
        claimed(lease=-1),
        *[pending()] * 30,
        submitted(phase=1),
        quota=2,
        strays=[a_stray("a"), a_stray("b")],
        observations=looks,
    )
    assert len(state.ready) < 30
    assert decide(state) == whole


@pytest.mark.parametrize(
    "changes",
    [lambda state: state, lambda state: replace(state, now=state.now + timedelta(seconds=1))],
    ids=["at once", "a second later"],
)
def test_without_news_nothing_more_is_decided(changes: Callable[[RunState], RunState]) -> None:
    record = a_record(pending(), pending(), blocked(), quota=1)

    for _ in range(2):
        record = evolve(record, decide(everything(record)))

    assert decide(changes(everything(record))).steps == ()


def test_every_step_gives_its_reason() -> None:
    steps = decide(_world()).steps

    assert all(step.because for step in steps)
    assert any(isinstance(step.action, CancelTask) for step in steps)


def test_a_decision_carries_the_observations_that_it_took_into_account_and_no_others() -> None:
    changing, unchanged = seen(0, TaskStatus.COMPLETED), seen(1, message="Running")
    state = a_state(submitted(), submitted(message="Running"), observations=[unchanged, changing])

    assert decide(state).observations == (changing,)
