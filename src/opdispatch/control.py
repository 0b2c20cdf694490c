"""Control: what an operator's command does to a run.  Pure functions from a state to a decision with a reply.

A refused command is a decision too, with a reply and no action, so that a repeated command gets the same answer.
A command changes only what it must; whatever follows from it (claims, cancellations, a gate that trips) is decided
at the next tick, which is due at once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from .action import (
    AcceptFailures,
    AnnotateRun,
    ContinueRun,
    Decision,
    FinishRun,
    OpenPhase,
    PauseRun,
    RearmBlocked,
    ReleaseHolds,
    RetryTarget,
    ReturnToPhase,
    SetOperatorHold,
    SettleTarget,
    SkipUnstarted,
)
from .command import Advance, Cancel, Command, Pause, Refusal, Reply, Resume, Retry, Settle
from .draft import Draft
from .fold import claim_of, record_stray
from .holds import failed_attempts, safety_message, standing_holds, tripped_gates, waits_for_advance
from .identity import TaskId
from .observation import SubmissionAbsent, SubmissionAccepted, TaskObserved
from .run import RunStatus, StatusReason
from .state import RunState
from .target import Blocked, Claimed, Pending, Submitted, Target, TargetStatus
from .task import TaskStatus


class _Refused(Exception):
    """Ends a command early; never leaves this module."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        self.refusal = refusal
        self.message = message
        super().__init__(refusal, message)


def control(state: RunState, command: Command) -> Decision:
    """What this command does, with its reply.

    The state must hold the targets that the command names (``named_targets``), and for ``Settle`` of a claimed target
    the observation that its key was looked up.
    """
    draft = _begun(state)
    revision, refusal = state.run.revision, None
    try:
        _check_revision(draft, command)
        message = _carry_out(draft, command)
        revision += draft.has_changes
    except _Refused as refused:
        draft = _begun(state)
        message, refusal = refused.message, refused.refusal
    standing = draft.run.standing
    reply = Reply(
        command_id=command.command_id,
        message=message,
        revision=revision,
        open_claims=state.tallies.everything.claimed,
        refusal=refusal,
        after=replace(standing, updated_at=draft.now) if draft.has_changes else standing,
    )
    return draft.decision(state.now, command=command, reply=reply)


def _begun(state: RunState) -> Draft:
    """A draft that takes every look into account: a command has few, and each may be why it is refused."""
    draft = Draft(state)
    for index in range(len(state.observations)):
        draft.take(index)
    return draft


def _carry_out(draft: Draft, command: Command) -> str:
    match command:
        case Pause():
            return _pause(draft)
        case Resume():
            return _resume(draft, command)
        case Advance():
            return _advance(draft, command)
        case Cancel():
            return _cancel(draft, command)
        case Retry():
            return _retry(draft, command)
        case Settle():
            return _settle(draft, command)
        case _:
            assert_never(command)


def _check_revision(draft: Draft, command: Command) -> None:
    expected, found = command.expected_revision, draft.run.revision
    if expected is not None and expected != found:
        raise _Refused(
            Refusal.STALE_REVISION,
            f"the run is at revision {found}, and the command expects {expected}; look at it again, then decide",
        )


def _refuse_if_ended(draft: Draft, verb: str) -> None:
    if draft.run.status.is_terminal:
        raise _Refused(Refusal.RUN_ENDED, f"cannot {verb} run {draft.run.id}: it is {draft.run.status}, which is final")


def _be_running_unless_held(draft: Draft, message: str) -> None:
    """Show the first hold that still stands, or let the run go on."""
    holds = standing_holds(draft.run, draft.tallies)
    if holds:
        draft.change(PauseRun(reason=holds[0].reason, message=holds[0].message), "another hold still stands")
    else:
        _go_on(draft, message)


def _go_on(draft: Draft, message: str) -> None:
    """Let a paused run go on.  One whose hold came up since the last tick is not shown as paused yet."""
    if draft.run.status is RunStatus.PAUSED:
        draft.change(ContinueRun(at=draft.now, message=message), "no hold stands any more")
    else:
        draft.change(AnnotateRun(message=message), "the hold is gone before it was shown")


def _pause(draft: Draft) -> str:
    _refuse_if_ended(draft, "pause")
    message = "operation run paused by operator"
    if draft.run.operator_hold:
        return f"{message} before; nothing to do"
    because = "the operator asked for it"
    draft.change(SetOperatorHold(), because)
    draft.change(PauseRun(reason=StatusReason.OPERATOR_PAUSED, message=message), because)
    return message


def _resume(draft: Draft, command: Resume) -> str:
    _refuse_if_ended(draft, "resume")
    run = draft.run
    tripped = tripped_gates(run, draft.tallies)
    stored = run.operator_hold or run.conflict_hold is not None
    if not tripped and not stored:
        if waits_for_advance(run, draft.tallies):
            raise _Refused(
                Refusal.PHASE_GATE, f"run {run.id} waits at a phase gate; advance it to phase {run.phase + 1}"
            )
        raise _Refused(Refusal.NOT_PAUSED, f"cannot resume run {run.id}: it is {run.status}, and nothing holds it")
    if tripped:
        attempts = failed_attempts(draft.tallies)
        if command.accept_failures is None:
            raise _Refused(
                Refusal.GATE_TRIPPED,
                f"{safety_message(tripped, draft.tallies)}; "
                f"to go on all the same, resume and accept {attempts} of them",
            )
        if attempts > command.accept_failures:
            raise _Refused(
                Refusal.MORE_FAILURES,
                f"{attempts} attempts have failed by now, and {command.accept_failures} would be accepted; "
                f"look again, then accept {attempts}",
            )
        accepted = tuple(gate.acceptance() for gate in tripped)
        draft.change(AcceptFailures(accepted=accepted), f"the operator accepts {attempts} failed attempts")
    had_conflict_hold = run.conflict_hold is not None
    draft.change(ReleaseHolds(at=draft.now), "the operator resumes")
    if had_conflict_hold:
        draft.change(RearmBlocked(at=draft.now), "a resumed conflict is tried at once")
    _be_running_unless_held(draft, "operation run resumed")
    return draft.run.status_message


def _advance(draft: Draft, command: Advance) -> str:
    _refuse_if_ended(draft, "advance")
    run = draft.run
    tripped = tripped_gates(run, draft.tallies)
    if run.conflict_hold is not None:
        raise _Refused(Refusal.CONFLICT_HOLD, f"a conflict hold stands, resume it first: {run.conflict_hold}")
    if tripped:
        raise _Refused(
            Refusal.GATE_TRIPPED, f"a safety hold stands, resume it first: {safety_message(tripped, draft.tallies)}"
        )
    if not waits_for_advance(run, draft.tallies):
        raise _Refused(
            Refusal.NOT_AT_PHASE_GATE,
            f"run {run.id} is {run.status} in phase {run.phase} of {run.phases} and waits for no advance",
        )
    following = run.phase + 1
    if command.expected_phase != following:
        raise _Refused(
            Refusal.UNEXPECTED_PHASE,
            f"expected phase {command.expected_phase}, next phase is {following}; look again, then advance to it",
        )
    message = f"advanced to phase {following}"
    draft.change(OpenPhase(phase=following), "the operator advances")
    if not run.operator_hold:
        _go_on(draft, message)
    return message


def _cancel(draft: Draft, command: Cancel) -> str:
    if draft.run.status.is_terminal:
        return f"operation run is {draft.run.status} already; nothing to do"
    why = command.why.strip()
    message = f"operation run cancelled: {why}" if why else "operation run cancelled"
    because = "the operator cancels"
    draft.change(SkipUnstarted(message=f"skipped: {message}"), because)
    draft.change(FinishRun(status=RunStatus.CANCELLED, at=draft.now, message=message), because)
    return message


def _known(draft: Draft, target: Target | None) -> Target:
    if target is None:
        raise _Refused(Refusal.NO_SUCH_TARGET, f"run {draft.run.id} has no such target")
    return target


def _retry(draft: Draft, command: Retry) -> str:
    _refuse_if_ended(draft, "retry in")
    run = draft.run
    tripped = tripped_gates(run, draft.tallies)
    if tripped:
        raise _Refused(
            Refusal.GATE_TRIPPED,
            f"a safety hold stands, accept its failures first: {safety_message(tripped, draft.tallies)}",
        )
    targets = [_known(draft, draft.target(target_id)) for target_id in command.targets]
    for target in targets:
        if not target.status.is_settled:
            raise _Refused(
                Refusal.NOT_SETTLED, f"target {target.id} (rack {target.rack_name}) is {target.status}, not settled"
            )
        if any(stray.target_id == target.id for stray in draft.open_strays):
            raise _Refused(
                Refusal.OPEN_STRAY,
                f"a task of target {target.id} (rack {target.rack_name}) is not over yet; wait until it is",
            )
    for target in targets:
        draft.change(RetryTarget(target_id=target.id), "the operator asks for a new attempt")
    lowest = min(target.phase for target in targets)
    if lowest < run.phase:
        draft.change(ReturnToPhase(phase=lowest), "a target of this phase has work again")
    held = run.operator_hold or run.conflict_hold is not None or waits_for_advance(draft.run, draft.tallies)
    if not held:
        _go_on(draft, "targets are retried")
    return f"{len(targets)} targets get a new attempt" if len(targets) > 1 else "1 target gets a new attempt"


def _settle(draft: Draft, command: Settle) -> str:
    target = _known(draft, draft.target(command.target))
    name = f"target {target.id} (rack {target.rack_name})"
    match target.state:
        case Submitted(task_id=task_id):
            ended = _seen_ended(draft, task_id)
            if ended is not None:
                raise _Refused(
                    Refusal.ALREADY_SETTLED,
                    f"{name} needs no settling: its task {task_id} is {ended}, which the next tick records",
                )
            _settle_as(draft, target, command)
            record_stray(draft, target, task_id, f"an operator settled its target: {command.why}")
            return f"{name} is settled as {command.status}; its task {task_id} is cancelled"
        case Claimed():
            found = _found_task(draft, target)
            if found is not None:
                raise _Refused(
                    Refusal.ANSWER_OPEN,
                    f"{name} has a task after all, {found}, which the next tick records; settle it then",
                )
            if not _was_looked_up(draft, target):
                raise _Refused(
                    Refusal.ANSWER_OPEN,
                    f"{name} has a submission without an answer; it can be settled once its key was looked up and "
                    "no task was found, which can be no earlier than the end of its lease",
                )
        case Pending() | Blocked():
            if command.status is not TargetStatus.SKIPPED:
                raise _Refused(
                    Refusal.NOT_STARTED, f"{name} is {target.status} and has no outcome; settle it as skipped"
                )
        case _:
            raise _Refused(Refusal.ALREADY_SETTLED, f"{name} is {target.status} already; to do it again, retry it")
    _settle_as(draft, target, command)
    return f"{name} is settled as {command.status}"


def _settle_as(draft: Draft, target: Target, command: Settle) -> None:
    message = f"settled as {command.status} by {command.actor}: {command.why}"
    draft.change(
        SettleTarget(target_id=target.id, status=command.status, message=message), "the operator declares its outcome"
    )


def _seen_ended(draft: Draft, task_id: TaskId) -> TaskStatus | None:
    """The status of a task that this very look found to be over."""
    seen = (o for o in draft.state.observations if isinstance(o, TaskObserved) and o.task_id == task_id)
    return next((observation.status for observation in seen if observation.status.is_over), None)


def _found_task(draft: Draft, target: Target) -> TaskId | None:
    """The task that this very look found under the key of a claimed target."""
    found = (o for o in draft.state.observations if isinstance(o, SubmissionAccepted) and o.target_id == target.id)
    return next((observation.task_id for observation in found if observation.attempt == target.attempt), None)


def _was_looked_up(draft: Draft, target: Target) -> bool:
    return any(
        isinstance(observation, SubmissionAbsent) and claim_of(draft, observation) == target
        for observation in draft.state.observations
    )
