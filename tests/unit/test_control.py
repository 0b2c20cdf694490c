"""What each command does, when it is refused and what the reply says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from opdispatch.action import (
    AcceptFailures,
    AnnotateRun,
    ContinueRun,
    FinishRun,
    OpenPhase,
    PauseRun,
    RearmBlocked,
    RecordStray,
    ReleaseHolds,
    RetryTarget,
    ReturnToPhase,
    SetOperatorHold,
    SettleTarget,
    SkipUnstarted,
)
from opdispatch.command import Advance, Cancel, Command, Pause, Refusal, Reply, Resume, Retry, Settle
from opdispatch.control import control
from opdispatch.decide import decide
from opdispatch.evolve import evolve, window
from opdispatch.identity import CommandId
from opdispatch.observation import Observation
from opdispatch.policy.gates import GateScope
from opdispatch.run import TERMINAL, Accepted, Run, RunStatus, StatusReason
from opdispatch.state import RunState
from opdispatch.target import Target, TargetStatus
from opdispatch.task import TaskStatus
from tests.unit.builders import (
    LIMITS,
    NOW,
    RUN_ID,
    a_paused_run,
    a_record,
    a_run,
    a_stray,
    a_whole,
    absent,
    accepted,
    actions,
    all_of,
    at,
    blocked,
    cancelling,
    claimed,
    claims,
    completed,
    conflicted,
    failed,
    failure_count,
    missing,
    pending,
    seen,
    skipped,
    submitted,
    target_id,
    task_id,
    terminated,
    the,
    unknown,
)

ID = CommandId("c1")
PAUSED_BY_OPERATOR = "operation run paused by operator"


def pause(**fields: Any) -> Pause:
    return Pause(command_id=ID, actor="ana", **fields)


def resume(accept: int | None = None) -> Resume:
    return Resume(command_id=ID, actor="ana", accept_failures=accept)


def advance(phase: int = 1) -> Advance:
    return Advance(command_id=ID, actor="ana", expected_phase=phase)


def cancel(why: str = "") -> Cancel:
    return Cancel(command_id=ID, actor="ana", why=why)


def retry(*numbers: int) -> Retry:
    return Retry(command_id=ID, actor="ana", targets=tuple(target_id(number) for number in numbers or (0,)))


def settle(number: int = 0, status: TargetStatus = TargetStatus.FAILED, why: str = "it hangs") -> Settle:
    return Settle(command_id=ID, actor="ana", target=target_id(number), status=status, why=why)


ALL_COMMANDS: list[Command] = [pause(), resume(), advance(), cancel(), retry(), settle()]


def _verb(value: object) -> str:
    return type(value).__name__.lower()


def reply_to(state: RunState, command: Command) -> Reply:
    reply = control(state, command).reply
    assert reply is not None
    return reply


def refusal_of(state: RunState, command: Command) -> Refusal | None:
    """Why it was refused; a refused command must do nothing."""
    decision = control(state, command)
    assert decision.reply is not None
    assert (decision.steps == ()) or decision.reply.accepted
    return decision.reply.refusal


# -- every command --


@pytest.mark.parametrize("command", ALL_COMMANDS, ids=_verb)
def test_a_command_is_answered_on_its_own_id_and_its_run_is_due_at_once(command: Command) -> None:
    decision = control(a_whole(submitted(), pending()), command)

    assert decision.command == command
    assert decision.reply is not None
    assert decision.reply.command_id == ID
    assert (decision.run_id, decision.at, decision.wake_at) == (RUN_ID, NOW, NOW)
    assert decision.effects == ()


@pytest.mark.parametrize("command", ALL_COMMANDS, ids=_verb)
def test_a_command_that_was_decided_on_an_older_look_is_refused(command: Command) -> None:
    reply = reply_to(a_whole(submitted(), revision=7), replace(command, expected_revision=6))

    assert reply.refusal is Refusal.STALE_REVISION
    assert reply.message == ("the run is at revision 7, and the command expects 6; look at it again, then decide")
    assert reply.revision == 7


def test_a_command_that_was_decided_on_this_very_look_takes_effect_and_raises_the_revision() -> None:
    reply = reply_to(a_whole(pending(), revision=7), pause(expected_revision=7))

    assert (reply.accepted, reply.revision) == (True, 8)


def test_a_command_that_changes_nothing_leaves_the_revision() -> None:
    reply = reply_to(a_whole(pending(), revision=7, operator_hold=True), pause())

    assert (reply.accepted, reply.revision) == (True, 7)


def test_a_refused_command_leaves_the_revision() -> None:
    assert reply_to(a_whole(pending(), revision=7), resume()).revision == 7


@pytest.mark.parametrize("command", [pause(), cancel()], ids=_verb)
def test_the_reply_tells_how_many_submissions_may_still_begin(command: Command) -> None:
    assert reply_to(a_whole(claimed(), claimed(), submitted(), pending()), command).open_claims == 2


def test_the_reply_tells_how_the_run_stands_after_the_command() -> None:
    state = a_whole(pending(), decided_at=at(-9))

    carried_out, refused = reply_to(state, pause()).after, reply_to(state, resume()).after

    assert carried_out is not None
    assert (carried_out.status, carried_out.reason, carried_out.updated_at) == (
        RunStatus.PAUSED,
        StatusReason.OPERATOR_PAUSED,
        NOW,
    )
    assert refused == state.run.standing
    assert state.run.standing.updated_at == at(-9)


@pytest.mark.parametrize("status", sorted(TERMINAL), ids=str)
@pytest.mark.parametrize("command", [pause(), resume(), advance(), retry()], ids=_verb)
def test_a_run_that_ended_takes_no_command_that_goes_on_with_it(status: RunStatus, command: Command) -> None:
    reply = reply_to(a_whole(completed(), run=a_run(status)), command)

    assert reply.refusal is Refusal.RUN_ENDED
    assert reply.message.endswith(f"it is {status}, which is final")


# -- pause --


@pytest.mark.parametrize("status", [RunStatus.PENDING, RunStatus.RUNNING], ids=str)
def test_a_pause_holds_the_run_and_shows_it_at_once(status: RunStatus) -> None:
    decision = control(a_whole(pending(), run=a_run(status)), pause())

    assert actions(decision) == [
        SetOperatorHold(),
        PauseRun(reason=StatusReason.OPERATOR_PAUSED, message=PAUSED_BY_OPERATOR),
    ]
    assert decision.reply is not None
    assert decision.reply.message == PAUSED_BY_OPERATOR


def test_a_pause_of_a_run_that_something_else_holds_is_kept_and_shown_first() -> None:
    run = a_paused_run(StatusReason.PHASE_GATE, phases=2)

    decision = control(a_whole(completed(), pending(phase=1), run=run), pause())

    assert the(decision, PauseRun).reason is StatusReason.OPERATOR_PAUSED


def test_a_second_pause_does_nothing_and_says_so() -> None:
    reply = reply_to(a_whole(pending(), operator_hold=True), pause())

    assert reply.accepted
    assert reply.message == "operation run paused by operator before; nothing to do"


# -- resume --


def test_a_resume_releases_the_operator_hold_and_lets_the_run_go_on() -> None:
    run = a_paused_run(StatusReason.OPERATOR_PAUSED, operator_hold=True)

    decision = control(a_whole(pending(), run=run), resume())

    assert actions(decision) == [ReleaseHolds(at=NOW), ContinueRun(at=NOW, message="operation run resumed")]
    assert decision.reply is not None
    assert decision.reply.message == "operation run resumed"


def test_a_resume_of_a_run_that_was_paused_before_it_started_starts_it() -> None:
    run = a_paused_run(StatusReason.OPERATOR_PAUSED, operator_hold=True, started_at=None)
    record = a_record(pending(), run=run)

    resumed = evolve(record, control(a_whole(pending(), run=run), resume()))

    assert (resumed.run.status, resumed.run.started_at) == (RunStatus.RUNNING, NOW)


def test_a_resume_from_a_conflict_hold_rearms_every_blocked_target() -> None:
    run = a_paused_run(StatusReason.CONFLICT_RETRY_TIMEOUT, conflict_hold="busy")

    decision = control(a_whole(blocked(), run=run), resume())

    assert actions(decision) == [
        ReleaseHolds(at=NOW),
        RearmBlocked(at=NOW),
        ContinueRun(at=NOW, message="operation run resumed"),
    ]


def test_a_resume_from_an_operator_hold_rearms_nothing() -> None:
    state = a_whole(blocked(), run=a_paused_run(StatusReason.OPERATOR_PAUSED, operator_hold=True))

    assert all_of(control(state, resume()), RearmBlocked) == []


def test_a_resume_releases_both_stored_holds() -> None:
    run = a_paused_run(StatusReason.OPERATOR_PAUSED, operator_hold=True, conflict_hold="busy")

    resumed = evolve(a_record(blocked(), run=run), control(a_whole(blocked(), run=run), resume())).run

    assert (resumed.operator_hold, resumed.conflict_hold, resumed.resumed_at) == (False, None, NOW)
    assert resumed.status is RunStatus.RUNNING


def test_a_resume_before_the_hold_was_shown_keeps_the_run_running() -> None:
    gates = (failure_count(1),)

    decision = control(a_whole(failed(), pending(), gates=gates), resume(1))

    assert the(decision, AnnotateRun).message == "operation run resumed"


def test_a_resume_with_a_tripped_gate_must_accept_its_failures_and_is_told_how_many() -> None:
    run = a_paused_run(StatusReason.SAFETY_GATE, gates=(failure_count(1),))

    reply = reply_to(a_whole(failed(), terminated(), pending(), run=run), resume())

    assert reply.refusal is Refusal.GATE_TRIPPED
    assert reply.message == (
        "failure_count safety gate tripped for current_phase: 2/3 targets failed (threshold 1); "
        "2 failed attempts in the whole run; to go on all the same, resume and accept 2 of them"
    )


def test_an_operator_hold_over_a_tripped_gate_is_not_released_without_accepting() -> None:
    state = a_whole(failed(), pending(), gates=(failure_count(1),), operator_hold=True)

    assert refusal_of(state, resume()) is Refusal.GATE_TRIPPED


@pytest.mark.parametrize("accept", [-1, 0, 1])
def test_a_resume_that_accepts_too_few_is_refused_with_the_new_number(accept: int) -> None:
    reply = reply_to(a_whole(failed(), failed(), pending(), gates=(failure_count(1),)), resume(accept))

    assert reply.refusal is Refusal.MORE_FAILURES
    assert reply.message == (
        f"2 attempts have failed by now, and {accept} would be accepted; look again, then accept 2"
    )


@pytest.mark.parametrize("accept", [2, 3])
def test_each_tripped_gate_accepts_what_it_counts_itself(accept: int) -> None:
    gates = failure_count(1), failure_count(3, GateScope.CUMULATIVE_RUN), failure_count(2, GateScope.CUMULATIVE_RUN)
    state = a_whole(failed(phase=0), failed(phase=1), pending(phase=1), phase=1, gates=gates)

    decision = control(state, resume(accept))

    assert the(decision, AcceptFailures).accepted == (
        Accepted(gate=0, phase=1, failures=1),
        Accepted(gate=2, phase=None, failures=2),
    )


def test_a_run_whose_failures_were_accepted_claims_again_at_the_next_decision() -> None:
    run = a_paused_run(StatusReason.SAFETY_GATE, gates=(failure_count(1),))
    record = a_record(failed(), pending(), run=run)

    record = evolve(record, control(a_whole(failed(), pending(), run=run), resume(1)))
    decision = decide(window(record, observations=(), limits=LIMITS, now=NOW))

    assert claims(decision) == [1]


def test_accepting_where_no_gate_trips_only_resumes() -> None:
    state = a_whole(failed(), pending(), run=a_paused_run(StatusReason.OPERATOR_PAUSED, operator_hold=True))

    assert all_of(control(state, resume(5)), AcceptFailures) == []


def test_a_resume_shows_the_phase_gate_that_stands_behind_the_hold() -> None:
    run = a_paused_run(StatusReason.OPERATOR_PAUSED, operator_hold=True, phases=2)

    decision = control(a_whole(completed(phase=0), pending(phase=1), run=run), resume())

    assert the(decision, PauseRun).reason is StatusReason.PHASE_GATE
    assert decision.reply is not None
    assert (decision.reply.accepted, decision.reply.message) == (True, "waiting for phase advance")


def test_a_resume_of_a_run_held_by_its_phase_gate_alone_is_refused() -> None:
    reply = reply_to(a_whole(completed(phase=0), pending(phase=1)), resume())

    assert reply.refusal is Refusal.PHASE_GATE
    assert reply.message == f"run {RUN_ID} waits at a phase gate; advance it to phase 1"


def test_a_resume_of_a_run_that_nothing_holds_is_refused() -> None:
    reply = reply_to(a_whole(pending()), resume())

    assert reply.refusal is Refusal.NOT_PAUSED
    assert reply.message == f"cannot resume run {RUN_ID}: it is running, and nothing holds it"


# -- advance --


def at_a_phase_gate(**fields: Any) -> Run:
    return a_paused_run(StatusReason.PHASE_GATE, "waiting for phase advance", **{"phases": 2, **fields})


TWO_PHASES = completed(phase=0), pending(phase=1)


def test_an_advance_opens_the_phase_and_lets_the_run_go_on() -> None:
    decision = control(a_whole(*TWO_PHASES, run=at_a_phase_gate()), advance(1))

    assert actions(decision) == [OpenPhase(phase=1), ContinueRun(at=NOW, message="advanced to phase 1")]
    assert decision.reply is not None
    assert decision.reply.message == "advanced to phase 1"


def test_an_advance_before_the_phase_gate_was_shown_keeps_the_run_running() -> None:
    assert the(control(a_whole(*TWO_PHASES), advance(1)), AnnotateRun).message == "advanced to phase 1"


def test_an_advance_under_an_operator_hold_opens_the_phase_and_the_run_stays_paused() -> None:
    run = a_paused_run(StatusReason.OPERATOR_PAUSED, PAUSED_BY_OPERATOR, operator_hold=True, phases=2)

    decision = control(a_whole(*TWO_PHASES, run=run), advance(1))

    assert actions(decision) == [OpenPhase(phase=1)]


@pytest.mark.parametrize("phase", [-1, 0, 2])
def test_an_advance_to_another_phase_than_the_next_is_refused(phase: int) -> None:
    reply = reply_to(a_whole(*TWO_PHASES), advance(phase))

    assert reply.refusal is Refusal.UNEXPECTED_PHASE
    assert reply.message == f"expected phase {phase}, next phase is 1; look again, then advance to it"


@pytest.mark.parametrize(
    ("targets", "fields"),
    [
        ([pending(phase=0), pending(phase=1)], {}),
        ([completed(phase=0), pending(phase=1)], {"auto_advance": True}),
        ([completed(phase=0), pending(phase=1)], {"phase": 0, "opened": 1}),
        ([completed(phase=0)], {}),
    ],
    ids=["work left", "automatic", "opened before", "last phase"],
)
def test_an_advance_of_a_run_that_waits_for_none_is_refused(targets: list[Target], fields: dict[str, Any]) -> None:
    assert refusal_of(a_whole(*targets, **fields), advance(1)) is Refusal.NOT_AT_PHASE_GATE


def test_an_advance_past_a_tripped_gate_is_refused_and_names_it() -> None:
    reply = reply_to(a_whole(failed(phase=0), pending(phase=1), gates=(failure_count(1),)), advance(1))

    assert reply.refusal is Refusal.GATE_TRIPPED
    assert reply.message.startswith("a safety hold stands, resume it first: failure_count safety gate tripped")


def test_an_advance_past_a_conflict_hold_is_refused_and_names_it() -> None:
    reply = reply_to(a_whole(*TWO_PHASES, conflict_hold="rack r0 is busy"), advance(1))

    assert reply.refusal is Refusal.CONFLICT_HOLD
    assert reply.message == "a conflict hold stands, resume it first: rack r0 is busy"


# -- cancel --


@pytest.mark.parametrize("run", [a_run(RunStatus.PENDING), a_run(), at_a_phase_gate()], ids=lambda r: str(r.status))
def test_a_cancel_ends_the_run_at_once_and_skips_what_has_not_started(run: Run) -> None:
    decision = control(a_whole(pending(), submitted(), pending(phase=1), run=run), cancel())

    assert actions(decision) == [
        SkipUnstarted(message="skipped: operation run cancelled"),
        FinishRun(status=RunStatus.CANCELLED, at=NOW, message="operation run cancelled"),
    ]


@pytest.mark.parametrize(
    ("why", "message"),
    [
        ("wrong image", "operation run cancelled: wrong image"),
        ("  wrong image\n", "operation run cancelled: wrong image"),
        ("   ", "operation run cancelled"),
    ],
    ids=["a reason", "a reason with blanks", "blanks"],
)
def test_a_cancel_keeps_its_reason(why: str, message: str) -> None:
    assert the(control(a_whole(pending()), cancel(why)), FinishRun).message == message


@pytest.mark.parametrize("status", sorted(TERMINAL), ids=str)
def test_a_cancel_of_a_run_that_ended_is_no_error(status: RunStatus) -> None:
    decision = control(a_whole(completed(), run=a_run(status)), cancel())

    assert decision.steps == ()
    assert decision.reply is not None
    assert decision.reply.accepted
    assert decision.reply.message == f"operation run is {status} already; nothing to do"


# -- retry --


@pytest.mark.parametrize("target", [completed(), failed(), terminated(), skipped()], ids=lambda t: str(t.status))
def test_a_settled_target_gets_a_new_attempt(target: Target) -> None:
    decision = control(a_whole(target, pending()), retry(0))

    assert actions(decision) == [
        RetryTarget(target_id=target_id(0)),
        AnnotateRun(message="targets are retried"),
    ]
    assert decision.reply is not None
    assert decision.reply.message == "1 target gets a new attempt"


def test_several_targets_are_retried_together() -> None:
    assert reply_to(a_whole(failed(), failed(), pending()), retry(1, 0)).message == "2 targets get a new attempt"


def test_a_retry_moves_the_pointer_back_to_the_earliest_phase_that_has_work_again() -> None:
    targets = failed(phase=0), failed(phase=1), pending(phase=2)
    record = a_record(*targets, phase=2)

    decision = control(a_whole(*targets, phase=2), retry(1, 0))

    assert the(decision, ReturnToPhase).phase == 0
    after = evolve(record, decision).run
    assert (after.phase, after.opened) == (0, 2)


def test_a_retry_in_the_current_phase_leaves_the_pointer() -> None:
    assert all_of(control(a_whole(failed(), pending()), retry(0)), ReturnToPhase) == []


def test_a_retry_in_a_phase_that_was_opened_before_leaves_the_pointer() -> None:
    state = a_whole(pending(phase=0), failed(phase=1), phase=0, opened=1)

    assert all_of(control(state, retry(1)), ReturnToPhase) == []


def test_a_retry_at_a_phase_gate_gives_the_phase_work_again() -> None:
    decision = control(a_whole(failed(phase=0), pending(phase=1), run=at_a_phase_gate()), retry(0))

    assert the(decision, ContinueRun) == ContinueRun(at=NOW, message="targets are retried")


def test_a_retry_of_a_target_behind_a_phase_gate_leaves_the_run_at_the_gate() -> None:
    state = a_whole(completed(phase=0), skipped(phase=1), pending(phase=1), run=at_a_phase_gate())

    decision = control(state, retry(1))

    assert the(decision, RetryTarget).target_id == target_id(1)
    assert all_of(decision, ContinueRun) == []


@pytest.mark.parametrize(
    "run",
    [
        a_paused_run(StatusReason.OPERATOR_PAUSED, operator_hold=True),
        a_paused_run(StatusReason.CONFLICT_RETRY_TIMEOUT, conflict_hold="busy"),
    ],
    ids=lambda run: str(run.status_reason),
)
def test_a_retry_under_a_stored_hold_leaves_the_run_paused(run: Run) -> None:
    assert actions(control(a_whole(failed(), pending(), run=run), retry(0))) == [RetryTarget(target_id=target_id(0))]


def test_a_retry_while_a_gate_is_tripped_is_refused_because_its_failures_must_be_accepted_first() -> None:
    reply = reply_to(a_whole(failed(), pending(), gates=(failure_count(1),)), retry(0))

    assert reply.refusal is Refusal.GATE_TRIPPED
    assert reply.message.startswith("a safety hold stands, accept its failures first: failure_count safety gate")


@pytest.mark.parametrize("target", [pending(), claimed(), blocked(), submitted()], ids=lambda t: str(t.status))
def test_a_retry_of_a_target_with_work_left_is_refused_and_retries_no_other(target: Target) -> None:
    state = a_whole(failed(), target)

    assert refusal_of(state, retry(0, 1)) is Refusal.NOT_SETTLED
    assert reply_to(state, retry(1)).message == f"target {target_id(1)} (rack r1) is {target.status}, not settled"


def test_a_retry_of_a_target_whose_stray_is_not_over_is_refused() -> None:
    reply = reply_to(a_whole(failed(), pending(), strays=[a_stray("stray", target=0)]), retry(0))

    assert reply.refusal is Refusal.OPEN_STRAY
    assert reply.message == f"a task of target {target_id(0)} (rack r0) is not over yet; wait until it is"


@pytest.mark.parametrize(
    "stray", [a_stray("stray", target=0, is_open=False), a_stray("stray", target=1)], ids=["over", "of another"]
)
def test_a_stray_that_is_over_or_another_targets_hinders_no_retry(stray: Any) -> None:
    assert refusal_of(a_whole(failed(), completed(), pending(), strays=[stray]), retry(0)) is None


@pytest.mark.parametrize("command", [retry(7), settle(7)], ids=_verb)
def test_a_target_that_the_run_does_not_have_is_refused(command: Command) -> None:
    reply = reply_to(a_whole(pending()), command)

    assert reply.refusal is Refusal.NO_SUCH_TARGET
    assert reply.message == f"run {RUN_ID} has no such target"


# -- settle --


def test_a_submitted_target_is_settled_and_its_task_becomes_a_stray() -> None:
    decision = control(a_whole(submitted()), settle(0, TargetStatus.FAILED, "it hangs"))

    assert the(decision, SettleTarget) == SettleTarget(
        target_id=target_id(0), status=TargetStatus.FAILED, message="settled as failed by ana: it hangs"
    )
    stray = the(decision, RecordStray).stray
    assert (stray.task_id, stray.is_open, stray.cancelling) == (task_id(0), True, cancelling(due=0))
    assert decision.reply is not None
    assert (
        decision.reply.message == f"target {target_id(0)} (rack r0) is settled as failed; its task task-0 is cancelled"
    )


def test_a_target_whose_task_is_seen_to_be_over_needs_no_settling() -> None:
    state = a_whole(submitted(), observations=[seen(0, TaskStatus.COMPLETED)])

    reply = reply_to(state, settle(0))

    assert reply.refusal is Refusal.ALREADY_SETTLED
    assert "its task task-0 is completed, which the next tick records" in reply.message


def test_a_target_whose_task_still_runs_is_settled_whatever_a_look_says() -> None:
    state = a_whole(submitted(), observations=[seen(0, TaskStatus.RUNNING), seen(0, TaskStatus.FAILED, task="other")])

    assert refusal_of(state, settle(0)) is None


def test_a_target_whose_task_is_missing_at_a_look_is_settled() -> None:
    assert refusal_of(a_whole(submitted(), observations=[missing(0)]), settle(0)) is None


@pytest.mark.parametrize(
    "other",
    [accepted(1, attempt=2), accepted(0, attempt=1, task="of the first attempt")],
    ids=["of another target", "of an older attempt"],
)
def test_a_claimed_target_is_settled_whatever_other_task_was_found(other: Observation) -> None:
    state = a_whole(claimed(lease=-1, attempt=2), claimed(), observations=[other, absent(0, attempt=2)])

    assert refusal_of(state, settle(0)) is None


def test_a_claimed_target_whose_task_was_found_is_settled_only_once_it_is_adopted() -> None:
    reply = reply_to(a_whole(claimed(fence=1), observations=[accepted(0)]), settle(0))

    assert reply.refusal is Refusal.ANSWER_OPEN
    assert "has a task after all, task-0, which the next tick records; settle it then" in reply.message


@pytest.mark.parametrize("status", [s for s in TargetStatus if s.is_settled], ids=str)
def test_a_submitted_target_can_be_settled_as_anything(status: TargetStatus) -> None:
    assert the(control(a_whole(submitted()), settle(0, status)), SettleTarget).status is status


@pytest.mark.parametrize("status", [s for s in TargetStatus if s.is_settled], ids=str)
def test_a_claimed_target_whose_key_was_looked_up_can_be_settled_as_anything(status: TargetStatus) -> None:
    state = a_whole(claimed(lease=-1), observations=[absent(0)])

    decision = control(state, settle(0, status))

    assert [type(action) for action in actions(decision)] == [SettleTarget]
    assert the(decision, SettleTarget).status is status


@pytest.mark.parametrize(
    "observations",
    [[], [absent(0, fence=9)], [absent(0, looked=-2)], [absent(1)], [accepted(0)], [unknown(0)], [conflicted(0)]],
    ids=[
        "no look",
        "an older fence",
        "a look before the lease was over",
        "another target",
        "a task was found",
        "no answer",
        "a busy rack",
    ],
)
def test_a_claimed_target_whose_answer_is_open_cannot_be_settled(observations: list[Any]) -> None:
    state = a_whole(claimed(lease=-1), claimed(lease=-1), observations=observations)

    assert refusal_of(state, settle(0)) is Refusal.ANSWER_OPEN


@pytest.mark.parametrize("target", [pending(), blocked()], ids=lambda t: str(t.status))
def test_a_target_that_has_not_started_can_only_be_skipped(target: Target) -> None:
    assert refusal_of(a_whole(target), settle(0, TargetStatus.COMPLETED)) is Refusal.NOT_STARTED
    assert the(control(a_whole(target), settle(0, TargetStatus.SKIPPED)), SettleTarget).status is TargetStatus.SKIPPED


@pytest.mark.parametrize("target", [completed(), failed(), terminated(), skipped()], ids=lambda t: str(t.status))
def test_a_settled_target_cannot_be_settled_again(target: Target) -> None:
    reply = reply_to(a_whole(target), settle(0))

    assert reply.refusal is Refusal.ALREADY_SETTLED
    assert reply.message == f"target {target_id(0)} (rack r0) is {target.status} already; to do it again, retry it"


def test_a_target_that_hangs_in_a_run_that_ended_can_be_settled() -> None:
    assert refusal_of(a_whole(submitted(), run=a_run(RunStatus.CANCELLED)), settle(0)) is None


# -- the values --


def test_the_number_that_a_refusal_names_is_the_one_that_is_accepted_next() -> None:
    run = a_paused_run(StatusReason.SAFETY_GATE, gates=(failure_count(1),), phases=2, phase=1)
    state = a_whole(failed(phase=0), failed(phase=1), pending(phase=1), failed_before={0: 3}, run=run)

    reply = reply_to(state, resume())

    assert reply.message.endswith("accept 5 of them")
    assert refusal_of(state, resume(5)) is None


def test_every_refusal_is_given_by_some_command() -> None:
    gates = (failure_count(1),)
    given = {
        refusal_of(a_whole(completed(), run=a_run(RunStatus.COMPLETED)), pause()),
        refusal_of(a_whole(pending()), pause(expected_revision=5)),
        refusal_of(a_whole(pending()), resume()),
        refusal_of(a_whole(failed(), pending(), gates=gates), resume()),
        refusal_of(a_whole(failed(), pending(), gates=gates), resume(0)),
        refusal_of(a_whole(*TWO_PHASES), resume()),
        refusal_of(a_whole(pending()), advance()),
        refusal_of(a_whole(*TWO_PHASES), advance(5)),
        refusal_of(a_whole(*TWO_PHASES, conflict_hold="busy"), advance()),
        refusal_of(a_whole(pending()), retry(9)),
        refusal_of(a_whole(pending()), retry(0)),
        refusal_of(a_whole(completed()), settle(0)),
        refusal_of(a_whole(failed(), strays=[a_stray()]), retry(0)),
        refusal_of(a_whole(claimed()), settle(0)),
        refusal_of(a_whole(pending()), settle(0)),
    }

    assert given == set(Refusal)


def test_a_run_that_is_cancelled_is_so_at_the_clock_of_the_store() -> None:
    run = a_run(decided_at=at(5))

    decision = control(a_whole(pending(), run=run), cancel())

    assert the(decision, FinishRun).at == at(5)
