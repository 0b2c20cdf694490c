"""Deliberately broken deciders and controllers: each breaks one rule, and some law must catch each.

A test of the tests: a law that never fails proves nothing.  Each takes the real ``decide`` or ``control`` and spoils
what goes in or what comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from opdispatch.action import AcceptFailures, CancelTask, Decision, RearmBlocked, RecordStray, UpdateStray
from opdispatch.command import Command
from opdispatch.control import control
from opdispatch.decide import decide
from opdispatch.observation import (
    Observation,
    SubmissionAbsent,
    SubmissionAccepted,
    SubmissionConflicted,
    SubmissionRefused,
    SubmissionUnknown,
)
from opdispatch.rollout import Rollout
from opdispatch.state import RunState
from opdispatch.target import Claimed, Target

Decider = Callable[[RunState], Decision]
Controller = Callable[[RunState, Command], Decision]


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """One broken rule."""

    name: str
    decider: Decider = decide
    controller: Controller = control


def _with_rollout(state: RunState, rollout: Rollout) -> RunState:
    return replace(state, run=replace(state.run, rollout=rollout))


def _one_slot_too_many(state: RunState) -> Decision:
    rollout = state.run.rollout
    return decide(_with_rollout(state, replace(rollout, max_concurrent_targets=rollout.max_concurrent_targets + 1)))


def _no_gate(state: RunState) -> Decision:
    return decide(_with_rollout(state, replace(state.run.rollout, gates=())))


def _no_phase_gate(state: RunState) -> Decision:
    return decide(_with_rollout(state, replace(state.run.rollout, auto_advance=True)))


def _no_operator_hold(state: RunState) -> Decision:
    return decide(replace(state, run=replace(state.run, operator_hold=False)))


def _no_conflict_hold(state: RunState) -> Decision:
    return decide(replace(state, run=replace(state.run, conflict_hold=None)))


def _any_fence(state: RunState) -> Decision:
    def current(observation: Observation) -> Observation:
        target = state.target(observation.target_id)
        if target is None or not isinstance(observation, SubmissionConflicted | SubmissionRefused | SubmissionAbsent):
            return observation
        return replace(observation, fence=target.fence)

    return decide(replace(state, observations=tuple(current(o) for o in state.observations)))


def _any_attempt(state: RunState) -> Decision:
    def current(observation: Observation) -> Observation:
        target = state.target(observation.target_id)
        if target is None or not isinstance(observation, SubmissionAccepted):
            return observation
        return replace(observation, attempt=target.attempt)

    return decide(replace(state, observations=tuple(current(o) for o in state.observations)))


def _reset_backoff(state: RunState) -> Decision:
    def reset(targets: tuple[Target, ...]) -> tuple[Target, ...]:
        return tuple(replace(target, conflict=None) for target in targets)

    return decide(replace(state, in_flight=reset(state.in_flight), named=reset(state.named)))


def _no_window(state: RunState) -> Decision:
    policy = replace(state.run.rollout.conflict, window=timedelta(days=999))
    return decide(_with_rollout(state, replace(state.run.rollout, conflict=policy)))


def _without_strays(state: RunState) -> Decision:
    decision = decide(replace(state, strays=()))
    return replace(
        decision,
        steps=tuple(s for s in decision.steps if not isinstance(s.action, RecordStray | UpdateStray)),
    )


def _never_cancels(state: RunState) -> Decision:
    decision = decide(state)
    return replace(decision, steps=tuple(s for s in decision.steps if not isinstance(s.action, CancelTask)))


def _unknown_is_failed(state: RunState) -> Decision:
    def failed(observation: Observation) -> Observation:
        if not isinstance(observation, SubmissionUnknown):
            return observation
        return SubmissionRefused(
            target_id=observation.target_id,
            attempt=observation.attempt,
            fence=observation.fence,
            message=observation.message,
        )

    return decide(replace(state, observations=tuple(failed(o) for o in state.observations)))


def _missing_is_failed_at_once(state: RunState) -> Decision:
    return decide(replace(state, limits=replace(state.limits, missing_grace=timedelta(microseconds=1))))


def _unknown_frees_the_slot(state: RunState) -> Decision:
    """The lease is over: the target is claimed again without a look, and a target of its own accord."""
    absent = tuple(
        SubmissionAbsent(
            target_id=target.id, attempt=target.attempt, fence=target.fence, barred=False, looked_at=state.now
        )
        for target in state.in_flight
        if isinstance(target.state, Claimed) and target.state.lease_until <= state.now
    )
    return decide(replace(state, observations=(*absent, *state.observations)))


def _early_look_counts(state: RunState) -> Decision:
    def late(observation: Observation) -> Observation:
        if isinstance(observation, SubmissionAbsent):
            return replace(observation, looked_at=max(observation.looked_at, state.now))
        return observation

    absent = tuple(
        SubmissionAbsent(
            target_id=observation.target_id,
            attempt=observation.attempt,
            fence=observation.fence,
            barred=True,
            looked_at=state.now + timedelta(days=1),
        )
        for observation in state.observations
        if isinstance(observation, SubmissionUnknown)
    )
    return decide(replace(state, observations=(*(late(o) for o in state.observations), *absent)))


def _accepts_nothing(state: RunState, command: Command) -> Decision:
    decision = control(state, command)
    return replace(decision, steps=tuple(s for s in decision.steps if not isinstance(s.action, AcceptFailures)))


def _rearms_nothing(state: RunState, command: Command) -> Decision:
    decision = control(state, command)
    return replace(decision, steps=tuple(s for s in decision.steps if not isinstance(s.action, RearmBlocked)))


def _only_the_latest_attempt_counts(state: RunState) -> Decision:
    tallies = state.tallies
    return decide(
        replace(
            state,
            tallies=replace(
                tallies,
                earlier=replace(tallies.earlier, failed_before=0, terminated_before=0),
                current=replace(tallies.current, failed_before=0, terminated_before=0),
                ahead=replace(tallies.ahead, failed_before=0, terminated_before=0),
            ),
        )
    )


def _ignores_capacity(state: RunState) -> Decision:
    return decide(replace(state, limits=replace(state.limits, claims=None)))


BROKEN: Final = (
    Broken(name="limit off by one", decider=_one_slot_too_many),
    Broken(name="gate ignored", decider=_no_gate),
    Broken(name="phase gate ignored", decider=_no_phase_gate),
    Broken(name="operator hold ignored", decider=_no_operator_hold),
    Broken(name="conflict hold ignored", decider=_no_conflict_hold),
    Broken(name="fence ignored", decider=_any_fence),
    Broken(name="attempt ignored", decider=_any_attempt),
    Broken(name="backoff reset", decider=_reset_backoff),
    Broken(name="conflict window never ends", decider=_no_window),
    Broken(name="strays forgotten", decider=_without_strays),
    Broken(name="nothing is cancelled", decider=_never_cancels),
    Broken(name="unknown is failed", decider=_unknown_is_failed),
    Broken(name="missing is failed at once", decider=_missing_is_failed_at_once),
    Broken(name="an expired lease needs no look", decider=_unknown_frees_the_slot),
    Broken(name="an early look counts", decider=_early_look_counts),
    Broken(name="a retried failure counts no more", decider=_only_the_latest_attempt_counts),
    Broken(name="capacity ignored", decider=_ignores_capacity),
    Broken(name="resume that does not accept", controller=_accepts_nothing),
    Broken(name="resume that does not re-arm", controller=_rearms_nothing),
)
