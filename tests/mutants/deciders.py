"""Deciders that break one rule each: the real ``decide``, with what goes in or what comes out spoiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final

from opdispatch.action import (
    Action,
    BlockTarget,
    CancelTask,
    ClaimTarget,
    Decision,
    FinishRun,
    NoteTarget,
    OpenPhase,
    RecordStray,
    RecordTask,
    SetConflictHold,
    SettleTarget,
    SkipUnstarted,
    Step,
    SubmitTask,
    UpdateStray,
)
from opdispatch.decide import decide
from opdispatch.observation import (
    Observation,
    SubmissionAbsent,
    SubmissionAccepted,
    SubmissionConflicted,
    SubmissionRefused,
    SubmissionUnknown,
    TaskMissing,
    TaskObserved,
)
from opdispatch.policy.gates import FailureCountGate
from opdispatch.rollout import Rollout
from opdispatch.run import RunStatus
from opdispatch.state import RunState
from opdispatch.target import Blocked, Claimed, Submitted, Target, TargetStatus

from .mutant import Mutant, with_actions


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


def _lease_is_over_at_once(state: RunState) -> Decision:
    def short(action: Action) -> Action:
        return replace(action, lease_until=state.now) if isinstance(action, ClaimTarget) else action

    return with_actions(decide(state), short)


def _own_tasks_are_left(state: RunState) -> Decision:
    strays = {stray.task_id for stray in state.strays}

    def only_strays(action: Action) -> Action | None:
        return None if isinstance(action, CancelTask) and action.ref.task_id not in strays else action

    return with_actions(decide(state), only_strays)


def _asks_to_end_once(state: RunState) -> Decision:
    far = state.now + timedelta(days=9999)

    def once(action: Action) -> Action:
        if isinstance(action, NoteTarget) and action.cancelling is not None:
            return replace(action, cancelling=replace(action.cancelling, due=far))
        if isinstance(action, UpdateStray):
            stray = action.stray
            return replace(action, stray=replace(stray, cancelling=replace(stray.cancelling, due=far)))
        return action

    return with_actions(decide(state), once)


def _paused_runs_are_not_reconciled(state: RunState) -> Decision:
    return decide(replace(state, observations=()) if state.run.status is RunStatus.PAUSED else state)


def _ended_runs_are_not_reconciled(state: RunState) -> Decision:
    return decide(replace(state, observations=()) if state.run.status.is_terminal else state)


def _terminated_counts_not(state: RunState) -> Decision:
    gates = tuple(replace(gate, outcomes=frozenset({TargetStatus.FAILED})) for gate in state.run.rollout.gates)
    return decide(_with_rollout(state, replace(state.run.rollout, gates=gates)))


def _gate_one_too_late(state: RunState) -> Decision:
    gates = tuple(
        replace(gate, threshold_count=gate.threshold_count + 1) if isinstance(gate, FailureCountGate) else gate
        for gate in state.run.rollout.gates
    )
    return decide(_with_rollout(state, replace(state.run.rollout, gates=gates)))


def _acceptance_is_forgotten(state: RunState) -> Decision:
    return decide(replace(state, run=replace(state.run, accepted=())))


def _one_missing_task_hides_all(state: RunState) -> Decision:
    missing = any(isinstance(observation, TaskMissing) for observation in state.observations)
    return decide(replace(state, observations=()) if missing else state)


def _missing_is_for_ever(state: RunState) -> Decision:
    def kept(action: Action) -> Action:
        if isinstance(action, NoteTarget) and action.missing_since is None:
            target = state.target(action.target_id)
            if target is not None and isinstance(target.state, Submitted):
                return replace(action, missing_since=target.state.missing_since)
        return action

    return with_actions(decide(state), kept)


def _never_wakes(state: RunState) -> Decision:
    return replace(decide(state), wake_at=None)


def _wakes_too_late(state: RunState) -> Decision:
    decision = decide(state)
    return replace(decision, wake_at=None if decision.wake_at is None else decision.wake_at + timedelta(hours=1))


def _opens_the_next_phase_early(state: RunState) -> Decision:
    decision = decide(state)
    run = state.run
    if run.status is not RunStatus.RUNNING or run.phase + 1 >= run.phases or decision.steps:
        return decision
    return replace(decision, steps=(Step(action=OpenPhase(phase=run.phase + 1), because="early"),), outcome=None)


def _passes_one_over(state: RunState) -> Decision:
    return decide(replace(state, ready=state.ready[1:]) if len(state.ready) > 1 else state)


def _tries_again_at_once(state: RunState) -> Decision:
    def at_once(action: Action) -> Action:
        return replace(action, retry_at=state.now) if isinstance(action, BlockTarget) else action

    return with_actions(decide(state), at_once)


def _never_tries_again(state: RunState) -> Decision:
    ready = tuple(target for target in state.ready if not isinstance(target.state, Blocked))
    return decide(replace(state, ready=ready))


def _keeps_no_observations(state: RunState) -> Decision:
    return replace(decide(state), observations=())


def _ends_with_work_in_flight(state: RunState) -> Decision:
    decision = decide(state)
    waiting = state.tallies.everything.pending + state.tallies.everything.blocked
    if state.run.status is not RunStatus.RUNNING or waiting or decision.steps:
        return decision
    done = FinishRun(status=RunStatus.COMPLETED, at=state.now, message="done")
    return replace(decision, steps=(Step(action=done, because="nothing waits"),), outcome=None)


def _always_completed(state: RunState) -> Decision:
    def completed(action: Action) -> Action:
        return replace(action, status=RunStatus.COMPLETED) if isinstance(action, FinishRun) else action

    return with_actions(decide(state), completed)


def _refused_is_skipped(state: RunState) -> Decision:
    def skipped(action: Action) -> Action:
        if isinstance(action, SettleTarget) and action.status is TargetStatus.FAILED:
            return replace(action, status=TargetStatus.SKIPPED)
        return action

    return with_actions(decide(state), skipped)


def _strays_take_no_slot(state: RunState) -> Decision:
    rollout = state.run.rollout
    more = rollout.max_concurrent_targets + sum(stray.is_open for stray in state.strays)
    return decide(_with_rollout(state, replace(rollout, max_concurrent_targets=more)))


def _waiting_holds_the_run(state: RunState) -> Decision:
    decision = decide(state)
    waits = any(isinstance(target.state, Blocked) for target in state.ready)
    if not waits or state.run.conflict_hold is not None or state.run.status is not RunStatus.RUNNING:
        return decision
    hold = Step(action=SetConflictHold(message="it has waited for long"), because="time has passed")
    return replace(decision, steps=(hold, *decision.steps), outcome=None)


def _an_older_look_misses(state: RunState) -> Decision:
    decided = state.run.decided_at

    def fresh(observation: Observation) -> Observation:
        if isinstance(observation, TaskMissing) and decided is not None:
            return replace(observation, looked_at=max(observation.looked_at, decided))
        return observation

    return decide(replace(state, observations=tuple(map(fresh, state.observations))))


def _an_unknown_is_no(state: RunState) -> Decision:
    """The claim is let go as if its rack had been busy: its slot is free while the call may still land."""

    def busy(observation: Observation) -> Observation:
        if not isinstance(observation, SubmissionUnknown):
            return observation
        return SubmissionConflicted(
            target_id=observation.target_id,
            attempt=observation.attempt,
            fence=observation.fence,
            message=observation.message,
        )

    return decide(replace(state, observations=tuple(map(busy, state.observations))))


def _absent_is_failed(state: RunState) -> Decision:
    def refused(observation: Observation) -> Observation:
        if not isinstance(observation, SubmissionAbsent):
            return observation
        return SubmissionRefused(
            target_id=observation.target_id,
            attempt=observation.attempt,
            fence=observation.fence,
            message="it was never begun",
        )

    return decide(replace(state, observations=tuple(map(refused, state.observations))))


def _another_key(state: RunState) -> Decision:
    """Each claim has a key of its own, so a claim made anew may begin a second task."""

    def drawn(action: Action) -> Action:
        if not isinstance(action, SubmitTask):
            return action
        request = action.request
        return replace(action, request=replace(request, key=type(request.key)(f"{request.key}/{request.fence}")))

    return with_actions(decide(state), drawn)


def _never_looked_at_ends(state: RunState) -> Decision:
    ends = tuple(o for o in state.observations if not isinstance(o, TaskObserved) or o.status.value != "terminated")
    return decide(replace(state, observations=ends))


def _leaves_what_never_started(state: RunState) -> Decision:
    def kept(action: Action) -> Action | None:
        skips = isinstance(action, SettleTarget) and action.status is TargetStatus.SKIPPED
        return None if skips or isinstance(action, SkipUnstarted) else action

    return with_actions(decide(state), kept)


def _adopts_without_a_record(state: RunState) -> Decision:
    def dropped(action: Action) -> Action | None:
        return None if isinstance(action, RecordTask) else action

    return with_actions(decide(state), dropped)


def _ends_as(status: RunStatus) -> Callable[[RunState], Decision]:
    def decided(state: RunState) -> Decision:
        def other(action: Action) -> Action:
            return replace(action, status=status) if isinstance(action, FinishRun) else action

        return with_actions(decide(state), other)

    return decided


DECIDERS: Final = (
    Mutant(name="one slot too many", rule="quota", decider=_one_slot_too_many),
    Mutant(name="gates are ignored", rule="gates", decider=_no_gate),
    Mutant(name="the phase gate is ignored", rule="phases", decider=_no_phase_gate),
    Mutant(name="the operator's hold is ignored", rule="pause", decider=_no_operator_hold),
    Mutant(name="the conflict hold is ignored", rule="pause", decider=_no_conflict_hold),
    Mutant(name="any fence will do", rule="fence", decider=_any_fence),
    Mutant(name="any attempt will do", rule="attempt", decider=_any_attempt),
    Mutant(name="a claim forgets the refusals", rule="backoff lasts", decider=_reset_backoff),
    Mutant(name="the conflict window never ends", rule="backoff lasts", decider=_no_window),
    Mutant(name="strays are forgotten", rule="strays", decider=_without_strays),
    Mutant(name="nothing is cancelled", rule="cancel drains", decider=_never_cancels),
    Mutant(name="unknown is failed", rule="unknown is not failed", decider=_unknown_is_failed),
    Mutant(name="missing is failed at once", rule="missing is not forgotten", decider=_missing_is_failed_at_once),
    Mutant(name="a lease that is over needs no look", rule="unknown is not failed", decider=_unknown_frees_the_slot),
    Mutant(name="an early look counts", rule="unknown is not failed", decider=_early_look_counts),
    Mutant(name="a retried failure counts no more", rule="accepted failures", decider=_only_the_latest_attempt_counts),
    Mutant(name="capacity is ignored", rule="quota", decider=_ignores_capacity),
    Mutant(name="the lease is over at once", rule="a claim is a permit", decider=_lease_is_over_at_once),
    Mutant(name="an ended run leaves its tasks", rule="cancel drains", decider=_own_tasks_are_left),
    Mutant(name="a task is asked to end once", rule="cancel drains", decider=_asks_to_end_once),
    Mutant(name="paused runs are not reconciled", rule="pause", decider=_paused_runs_are_not_reconciled),
    Mutant(name="ended runs are not reconciled", rule="cancel drains", decider=_ended_runs_are_not_reconciled),
    Mutant(name="terminated counts as nothing", rule="gates", decider=_terminated_counts_not),
    Mutant(name="a gate trips one too late", rule="gates", decider=_gate_one_too_late),
    Mutant(name="what was accepted is forgotten", rule="resume is possible", decider=_acceptance_is_forgotten),
    Mutant(name="one missing task hides all", rule="isolation", decider=_one_missing_task_hides_all),
    Mutant(name="missing once, missing for ever", rule="missing is not forgotten", decider=_missing_is_for_ever),
    Mutant(name="nobody looks again", rule="progress", decider=_never_wakes),
    Mutant(name="it looks again too late", rule="progress", decider=_wakes_too_late),
    Mutant(name="the next phase opens early", rule="order", decider=_opens_the_next_phase_early),
    Mutant(name="a target is passed over", rule="order", decider=_passes_one_over),
    Mutant(name="a busy rack is tried at once", rule="backoff lasts", decider=_tries_again_at_once),
    Mutant(name="a busy rack is never tried again", rule="progress", decider=_never_tries_again),
    Mutant(name="the journal keeps no observations", rule="replay", decider=_keeps_no_observations),
    Mutant(name="a run ends with work in flight", rule="totals", decider=_ends_with_work_in_flight),
    Mutant(name="every run is completed", rule="outcomes", decider=_always_completed),
    Mutant(name="every end is a failure", rule="outcomes", decider=_ends_as(RunStatus.FAILED)),
    Mutant(name="every end has failures", rule="outcomes", decider=_ends_as(RunStatus.COMPLETED_WITH_FAILURES)),
    Mutant(name="what failed is skipped", rule="outcomes", decider=_refused_is_skipped),
    Mutant(name="strays take no slot", rule="quota", decider=_strays_take_no_slot),
    Mutant(name="waiting alone holds the run", rule="backoff lasts", decider=_waiting_holds_the_run),
    Mutant(name="an older look misses a task", rule="missing is not forgotten", decider=_an_older_look_misses),
    Mutant(name="unknown frees the slot", rule="quota", decider=_an_unknown_is_no),
    Mutant(name="absent is failed", rule="unknown is not failed", decider=_absent_is_failed),
    Mutant(name="each claim has its own key", rule="once", decider=_another_key),
    Mutant(name="a terminated task is not seen", rule="outcomes", decider=_never_looked_at_ends),
    Mutant(name="an ended run leaves targets open", rule="cancel drains", decider=_leaves_what_never_started),
    Mutant(name="an accepted task is not written down", rule="once", decider=_adopts_without_a_record),
)
