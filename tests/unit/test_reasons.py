"""Every step of a decision says why, whatever is held back says what it waits for, and a refusal says what stood in
the way: the very words that an operator reads."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from opdispatch.action import (
    AcceptFailures,
    AnnotateRun,
    BlockTarget,
    CancelTask,
    ClaimTarget,
    ContinueRun,
    Decision,
    FinishRun,
    NoteTarget,
    OpenPhase,
    PauseRun,
    RearmBlocked,
    RecordStray,
    RecordTask,
    ReleaseHolds,
    RetryTarget,
    ReturnToPhase,
    SetConflictHold,
    SetOperatorHold,
    SettleTarget,
    SkipUnstarted,
    StartRun,
    SubmitTask,
    UpdateStray,
    Wait,
)
from opdispatch.command import Advance, Cancel, Command, Pause, Resume, Retry, Settle
from opdispatch.control import control
from opdispatch.decide import decide
from opdispatch.identity import CommandId
from opdispatch.observation import Observation
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.run import RunStatus, StatusReason
from opdispatch.state import Limits, RunState
from opdispatch.target import TargetStatus
from opdispatch.task import TaskStatus
from tests.unit.builders import (
    RUN_ID,
    a_paused_run,
    a_run,
    a_state,
    a_stray,
    a_whole,
    absent,
    accepted,
    at,
    blocked,
    claimed,
    completed,
    conflicted,
    failed,
    failure_count,
    held,
    missing,
    not_cancelled,
    pending,
    refused,
    seen,
    skipped,
    submitted,
    target_id,
    unknown,
)

CANCELLED = a_run(RunStatus.CANCELLED)
HELD = a_paused_run(StatusReason.OPERATOR_PAUSED, "operation run paused by operator", operator_hold=True)
ID = CommandId("c1")


def reasons(decision: Decision, kind: type) -> set[str]:
    """Why each action of this kind is done."""
    return {step.because for step in decision.steps if isinstance(step.action, kind)}


def after(*observations: Observation, of: Any = None, **fields: Any) -> RunState:
    """The state of one submitted target, unless told otherwise, with these observations."""
    return a_state(submitted() if of is None else of, observations=observations, **fields)


def of_a_stray(*observations: Observation, **stray: Any) -> RunState:
    return after(*observations, strays=[a_stray("stray", **stray)])


@pytest.mark.parametrize(
    ("state", "kind", "because"),
    [
        (of_a_stray(due=0), UpdateStray, "the stray is asked to end"),
        (of_a_stray(due=0), CancelTask, "a stray is cancelled until it is seen to be over"),
        (after(run=CANCELLED), NoteTarget, "its task is asked to end"),
        (after(run=CANCELLED), CancelTask, "the run has ended; its tasks are cancelled until they are over"),
        (after(of=pending(), run=CANCELLED), SkipUnstarted, "the run has ended"),
        (a_state(), SkipUnstarted, "the run fails"),
        (a_state(), FinishRun, "its plan cannot be carried out"),
        (a_state(completed()), FinishRun, "every target is settled"),
        (a_state(completed(), run=a_run(RunStatus.PENDING)), StartRun, "it ends at its first decision"),
        (a_state(pending(), operator_hold=True), PauseRun, "held by operator"),
        (a_state(failed(), pending(), gates=(failure_count(1),)), PauseRun, "held by safety_gate"),
        (a_state(completed(), pending(phase=1), auto_advance=True), OpenPhase, "the current phase is settled"),
        (a_state(pending(), run=a_run(RunStatus.PENDING)), StartRun, "its first decision"),
        (a_state(pending(), run=a_paused_run(StatusReason.SAFETY_GATE)), ContinueRun, "no hold stands any more"),
        (a_state(pending()), AnnotateRun, "it waits for something else than it says"),
        (a_state(pending()), ClaimTarget, "a slot is free and it is next"),
        (a_state(pending()), SubmitTask, "a slot is free and it is next"),
        (after(absent(0), of=claimed(lease=-1)), ClaimTarget, "its key was looked up and not found"),
        (after(absent(0), of=claimed(lease=-1)), SubmitTask, "its key was looked up and not found"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_step_says_why_it_is_taken(state: RunState, kind: type, because: str) -> None:
    assert reasons(decide(state), kind) == {because}


SHORT = ConflictRetry(window=timedelta(seconds=10))


@pytest.mark.parametrize(
    ("state", "kind", "because"),
    [
        (after(seen(0, TaskStatus.COMPLETED)), SettleTarget, "its task is completed"),
        (after(seen(0, TaskStatus.FAILED)), SettleTarget, "its task is failed"),
        (after(seen(0, message="half way")), NoteTarget, "its task is running"),
        (of_a_stray(seen(0, TaskStatus.FAILED, task="stray")), UpdateStray, "the stray is failed"),
        (of_a_stray(seen(0, task="stray"), missing_since=at(-9)), UpdateStray, "the stray was seen again"),
        (after(missing(0)), NoteTarget, "its task is missing at a first look"),
        (
            after(missing(0), of=submitted(missing_since=-300)),
            SettleTarget,
            "its task is missing at two looks a grace time apart",
        ),
        (of_a_stray(missing(0, task="stray")), UpdateStray, "the stray is missing at a first look"),
        (
            of_a_stray(missing(0, task="stray"), missing_since=at(-300)),
            UpdateStray,
            "the stray is missing at two looks a grace time apart",
        ),
        (after(accepted(0), of=claimed()), RecordTask, "its submission was accepted"),
        (
            after(accepted(0, task="late"), of=completed(attempt=2)),
            RecordStray,
            "it belongs to attempt 1; the target is completed at attempt 2",
        ),
        (
            after(refused(0), of=claimed(), run=CANCELLED),
            SettleTarget,
            "the run has ended, and nothing was begun for its claim",
        ),
        (
            after(conflicted(0, fence=2), of=claimed(fence=2, conflict=blocked(since=-10).conflict), conflict=SHORT),
            SetConflictHold,
            "a refusal came at or after the end of the conflict window",
        ),
        (after(conflicted(0), of=claimed()), BlockTarget, "its rack is busy, refusal 1"),
        (
            after(conflicted(0), of=claimed(conflict=blocked(count=3).conflict)),
            BlockTarget,
            "its rack is busy, refusal 4",
        ),
        (after(refused(0), of=claimed()), SettleTarget, "the task manager refused it for good"),
        (after(unknown(0), of=claimed()), NoteTarget, "nobody knows whether its task began"),
        (after(not_cancelled(0)), NoteTarget, "its task would not be cancelled"),
        (of_a_stray(not_cancelled(0, task="stray")), UpdateStray, "the stray would not be cancelled"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_an_observation_changes_says_why(state: RunState, kind: type, because: str) -> None:
    assert reasons(decide(state), kind) == {because}


PAUSE = Pause(command_id=ID, actor="ana")
RESUME = Resume(command_id=ID, actor="ana", accept_failures=2)
ADVANCE = Advance(command_id=ID, actor="ana", expected_phase=1)
CANCEL = Cancel(command_id=ID, actor="ana", why="enough")
RETRY = Retry(command_id=ID, actor="ana", targets=(target_id(0),))
SETTLE = Settle(command_id=ID, actor="ana", target=target_id(0), status=TargetStatus.FAILED, why="it hangs")
TWO_PHASES = completed(), pending(phase=1)


@pytest.mark.parametrize(
    ("state", "command", "kind", "because"),
    [
        (a_whole(pending()), PAUSE, SetOperatorHold, "the operator asked for it"),
        (a_whole(pending()), PAUSE, PauseRun, "the operator asked for it"),
        (a_whole(pending(), run=HELD), RESUME, ReleaseHolds, "the operator resumes"),
        (a_whole(pending(), run=HELD), RESUME, ContinueRun, "no hold stands any more"),
        (a_whole(pending(), operator_hold=True), RESUME, AnnotateRun, "the hold is gone before it was shown"),
        (a_whole(*TWO_PHASES, operator_hold=True), RESUME, PauseRun, "another hold still stands"),
        (
            a_whole(failed(), failed(), pending(), gates=(failure_count(1),)),
            RESUME,
            AcceptFailures,
            "the operator accepts 2 failed attempts",
        ),
        (a_whole(blocked(), conflict_hold="busy"), RESUME, RearmBlocked, "a resumed conflict is tried at once"),
        (a_whole(*TWO_PHASES), ADVANCE, OpenPhase, "the operator advances"),
        (a_whole(pending()), CANCEL, SkipUnstarted, "the operator cancels"),
        (a_whole(pending()), CANCEL, FinishRun, "the operator cancels"),
        (a_whole(failed(), pending()), RETRY, RetryTarget, "the operator asks for a new attempt"),
        (a_whole(failed(), pending(phase=1), phase=1), RETRY, ReturnToPhase, "a target of this phase has work again"),
        (a_whole(submitted()), SETTLE, SettleTarget, "the operator declares its outcome"),
        (a_whole(submitted()), SETTLE, RecordStray, "an operator settled its target: it hangs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_command_changes_says_why(state: RunState, command: Command, kind: type, because: str) -> None:
    assert reasons(control(state, command), kind) == {because}


@pytest.mark.parametrize(
    ("state", "wait", "message"),
    [
        (a_state(pending(), operator_hold=True), Wait.OPERATOR, "operation run paused by operator"),
        (a_state(*TWO_PHASES), Wait.PHASE_GATE, "waiting for phase advance"),
        (a_state(pending(), conflict_hold="rack r7 is busy"), Wait.CONFLICT_WINDOW, "rack r7 is busy"),
        (a_state(pending(), limits=Limits(claims=0)), Wait.CAPACITY, "the task manager can begin no more at once"),
        (a_state(blocked()), Wait.CONFLICT, "the racks are busy with other work"),
        (a_state(claimed()), Wait.ANSWER, "their submissions are not answered yet"),
        (a_state(submitted()), Wait.IN_FLIGHT, "their tasks have not ended yet"),
        (after(run=CANCELLED), Wait.DRAINING, "the run has ended; its tasks are ending"),
    ],
    ids=lambda value: str(value) if isinstance(value, Wait) else "",
)
def test_whatever_is_held_back_says_what_it_waits_for(state: RunState, wait: Wait, message: str) -> None:
    assert held(decide(state), wait).message == message


NAME = f"target {target_id(0)} (rack r0)"
UNANSWERED = (
    f"{NAME} has a submission without an answer; it can be settled once its key was looked up and no task was found, "
    "which can be no earlier than the end of its lease"
)
TRIPPED = (
    "failure_count safety gate tripped for current_phase: 1/2 targets failed (threshold 1); "
    "1 failed attempt in the whole run"
)


@pytest.mark.parametrize(
    ("state", "command", "message"),
    [
        (a_whole(skipped(), run=CANCELLED), PAUSE, f"cannot pause run {RUN_ID}: it is cancelled, which is final"),
        (a_whole(skipped(), run=CANCELLED), RESUME, f"cannot resume run {RUN_ID}: it is cancelled, which is final"),
        (a_whole(skipped(), run=CANCELLED), ADVANCE, f"cannot advance run {RUN_ID}: it is cancelled, which is final"),
        (a_whole(skipped(), run=CANCELLED), RETRY, f"cannot retry in run {RUN_ID}: it is cancelled, which is final"),
        (a_whole(skipped(), run=CANCELLED), CANCEL, "operation run is cancelled already; nothing to do"),
        (
            a_whole(pending(), pending(phase=1)),
            ADVANCE,
            f"run {RUN_ID} is running in phase 0 of 2 and waits for no advance",
        ),
        (
            a_whole(submitted(), observations=[seen(0, TaskStatus.COMPLETED)]),
            SETTLE,
            f"{NAME} needs no settling: its task task-0 is completed, which the next tick records",
        ),
        (
            a_whole(claimed(), observations=[accepted(0)]),
            SETTLE,
            f"{NAME} has a task after all, task-0, which the next tick records; settle it then",
        ),
        (
            a_whole(claimed()),
            SETTLE,
            UNANSWERED,
        ),
        (a_whole(pending()), SETTLE, f"{NAME} is pending and has no outcome; settle it as skipped"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_command_that_does_nothing_says_what_stood_in_the_way(
    state: RunState, command: Command, message: str
) -> None:
    reply = control(state, command).reply

    assert reply is not None
    assert reply.message == message


@pytest.mark.parametrize(
    ("state", "command", "message"),
    [
        (a_whole(pending()), CANCEL, "operation run cancelled: enough"),
        (a_whole(pending()), replace(SETTLE, status=TargetStatus.SKIPPED), f"{NAME} is settled as skipped"),
        (a_whole(claimed(lease=-1), observations=[absent(0)]), SETTLE, f"{NAME} is settled as failed"),
    ],
    ids=["cancel", "settle what has not started", "settle what was claimed"],
)
def test_a_command_that_is_carried_out_says_what_it_did(state: RunState, command: Command, message: str) -> None:
    reply = control(state, command).reply

    assert reply is not None
    assert reply.message == message


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            Resume(command_id=ID, actor="ana"),
            f"{TRIPPED}; to go on all the same, resume and accept 1 of them",
        ),
        (
            Resume(command_id=ID, actor="ana", accept_failures=0),
            "1 attempts have failed by now, and 0 would be accepted; look again, then accept 1",
        ),
        (ADVANCE, f"a safety hold stands, resume it first: {TRIPPED}"),
        (RETRY, f"a safety hold stands, accept its failures first: {TRIPPED}"),
    ],
    ids=["resume", "resume that accepts none", "advance", "retry"],
)
def test_a_command_that_a_tripped_gate_stops_says_how_to_go_on(command: Command, message: str) -> None:
    reply = control(a_whole(failed(), pending(), gates=(failure_count(1),)), command).reply

    assert reply is not None
    assert reply.message == message


def test_what_is_skipped_in_a_run_that_had_ended_says_so() -> None:
    decision = decide(after(of=pending(), run=CANCELLED))

    assert [action.message for action in decision.changes if isinstance(action, SkipUnstarted)] == [
        "skipped: the run had ended before it started"
    ]
