"""Controllers that break one rule each: the real ``control``, with what goes in or what comes out spoiled."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Final

from opdispatch.action import (
    AcceptFailures,
    Action,
    Decision,
    RearmBlocked,
    RecordStray,
    ReleaseHolds,
    ReturnToPhase,
    SetOperatorHold,
    SkipUnstarted,
    Step,
)
from opdispatch.command import Advance, Command, Pause, Resume, Retry
from opdispatch.control import control
from opdispatch.run import StatusReason
from opdispatch.state import RunState

from .mutant import Mutant, with_actions


def _accepts_nothing(state: RunState, command: Command) -> Decision:
    decision = control(state, command)
    return replace(decision, steps=tuple(s for s in decision.steps if not isinstance(s.action, AcceptFailures)))


def _rearms_nothing(state: RunState, command: Command) -> Decision:
    decision = control(state, command)
    return replace(decision, steps=tuple(s for s in decision.steps if not isinstance(s.action, RearmBlocked)))


def _without(kind: type, state: RunState, command: Command) -> Decision:
    return with_actions(control(state, command), lambda action: None if isinstance(action, kind) else action)


def _cancel_skips_nothing(state: RunState, command: Command) -> Decision:
    return _without(SkipUnstarted, state, command)


def _settle_forgets_the_task(state: RunState, command: Command) -> Decision:
    return _without(RecordStray, state, command)


def _retry_leaves_the_pointer(state: RunState, command: Command) -> Decision:
    return _without(ReturnToPhase, state, command)


def _resume_keeps_the_holds(state: RunState, command: Command) -> Decision:
    return _without(ReleaseHolds, state, command)


def _pause_stores_no_hold(state: RunState, command: Command) -> Decision:
    return _without(SetOperatorHold, state, command)


def _resume_is_dated_back(state: RunState, command: Command) -> Decision:
    def dated(action: Action) -> Action:
        return replace(action, at=action.at - timedelta(days=1)) if isinstance(action, ReleaseHolds) else action

    return with_actions(control(state, command), dated)


def _any_phase_will_do(state: RunState, command: Command) -> Decision:
    if isinstance(command, Advance):
        return replace(control(state, replace(command, expected_phase=state.run.phase + 1)), command=command)
    return control(state, command)


def _advance_releases_the_operator(state: RunState, command: Command) -> Decision:
    decision = control(state, command)
    if isinstance(command, Advance) and decision.steps and state.run.operator_hold:
        release = Step(action=ReleaseHolds(at=state.now), because="it goes on")
        return replace(decision, steps=(*decision.steps, release), outcome=None)
    return decision


def _pause_at_a_phase_gate_is_lost(state: RunState, command: Command) -> Decision:
    decision = control(state, command)
    if isinstance(command, Pause) and state.run.status_reason is StatusReason.PHASE_GATE:
        return replace(decision, steps=(), outcome=None)
    return decision


def _accepts_whatever_failed(state: RunState, command: Command) -> Decision:
    if isinstance(command, Resume) and command.accept_failures is not None:
        return replace(control(state, replace(command, accept_failures=1_000_000)), command=command)
    return control(state, command)


def _accepts_what_will_fail(state: RunState, command: Command) -> Decision:
    def more(action: Action) -> Action:
        if not isinstance(action, AcceptFailures):
            return action
        return replace(action, accepted=tuple(replace(a, failures=a.failures + 5) for a in action.accepted))

    return with_actions(control(state, command), more)


def _retry_beside_a_stray(state: RunState, command: Command) -> Decision:
    return control(replace(state, strays=()) if isinstance(command, Retry) else state, command)


def _retry_under_a_gate(state: RunState, command: Command) -> Decision:
    if not isinstance(command, Retry):
        return control(state, command)
    rollout = replace(state.run.rollout, gates=())
    return control(replace(state, run=replace(state.run, rollout=rollout)), command)


def _reply_tells_another_revision(state: RunState, command: Command) -> Decision:
    decision = control(state, command)
    reply = decision.reply
    return decision if reply is None else replace(decision, reply=replace(reply, revision=reply.revision + 1))


CONTROLLERS: Final = (
    Mutant(name="resume accepts nothing", rule="resume is possible", controller=_accepts_nothing),
    Mutant(name="resume re-arms nothing", rule="resume is possible", controller=_rearms_nothing),
    Mutant(name="cancel skips nothing", rule="cancel drains", controller=_cancel_skips_nothing),
    Mutant(name="settle forgets the task", rule="once", controller=_settle_forgets_the_task),
    Mutant(name="retry leaves the pointer", rule="order", controller=_retry_leaves_the_pointer),
    Mutant(name="resume keeps the holds", rule="resume is possible", controller=_resume_keeps_the_holds),
    Mutant(name="pause stores no hold", rule="pause", controller=_pause_stores_no_hold),
    Mutant(name="a resume is dated back", rule="resume is possible", controller=_resume_is_dated_back),
    Mutant(name="advance takes any phase", rule="phases", controller=_any_phase_will_do),
    Mutant(name="advance releases the operator's hold", rule="pause", controller=_advance_releases_the_operator),
    Mutant(name="a pause at a phase gate is lost", rule="pause", controller=_pause_at_a_phase_gate_is_lost),
    Mutant(name="resume accepts whatever failed", rule="accepted failures", controller=_accepts_whatever_failed),
    Mutant(name="resume accepts what will fail", rule="accepted failures", controller=_accepts_what_will_fail),
    Mutant(name="retry beside a stray", rule="once", controller=_retry_beside_a_stray),
    Mutant(name="retry under a tripped gate", rule="gates", controller=_retry_under_a_gate),
    Mutant(name="a reply tells another revision", rule="repeated", controller=_reply_tells_another_revision),
)
