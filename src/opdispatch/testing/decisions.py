"""What must hold of a tick's decision: claims, calls, outcomes, waits.  Written from the rules, and not from the code.

A transition whose decision is None, or was made by a command, has nothing to answer for here.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from ..action import (
    BlockTarget,
    CancelTask,
    ClaimTarget,
    Decision,
    FinishRun,
    PauseRun,
    RecordTask,
    SetConflictHold,
    SettleTarget,
    SubmitTask,
    TargetAction,
)
from ..evolve import Record
from ..identity import idempotency_key_of
from ..observation import (
    SubmissionAbsent,
    SubmissionAccepted,
    SubmissionConflicted,
    SubmissionRefused,
    TaskMissing,
    TaskObserved,
)
from ..policy.gates import FailureRateGate, GateScope
from ..run import RunStatus, StatusReason
from ..state import RunState
from ..tally import Tally
from ..target import Blocked, Claimed, Pending, Submitted, Target, TargetStatus
from .law import Law, Transition, Verdicts


def _parts(step: Transition) -> tuple[RunState, Decision] | None:
    if step.state is None or step.decision is None or step.decision.command is not None:
        return None
    return step.state, step.decision


def is_tripped(record: Record) -> bool:
    """True when a gate's failures, less what was accepted, reach its threshold: recounted from the targets."""
    run = record.run
    for index, gate in enumerate(run.rollout.gates):
        of_phase = gate.scope is GateScope.CURRENT_PHASE
        phases = (run.phase,) if of_phase else tuple(range(run.opened + 1))
        targets = [target for target in record.targets.values() if target.phase in phases]
        failures = sum(target.status in gate.outcomes for target in targets)
        for phase in phases:
            failures += record.phases[phase].failed_before * (TargetStatus.FAILED in gate.outcomes)
            failures += record.phases[phase].terminated_before * (TargetStatus.TERMINATED in gate.outcomes)
        about = run.phase if of_phase else None
        failures -= max((a.failures for a in run.accepted if (a.gate, a.phase) == (index, about)), default=0)
        if isinstance(gate, FailureRateGate):
            reached = failures * 100 >= gate.threshold_percent * len(targets)
        else:
            reached = failures >= gate.threshold_count
        if reached:
            return True
    return False


def is_open(target: Target) -> bool:
    """True when a target has work left."""
    return not target.status.is_settled


def slots_in_use(record: Record) -> int:
    """Targets in flight and strays that are not over."""
    held = sum(target.status.holds_slot for target in record.targets.values())
    return held + sum(stray.is_open for stray in record.strays.values())


def _calls(step: Transition) -> Verdicts:
    for _, decision in filter(None, [_parts(step)]):
        claims = [change for change in decision.changes if isinstance(change, ClaimTarget)]
        asked = [effect.request for effect in decision.effects if isinstance(effect, SubmitTask)]
        same = [claim.target_id for claim in claims] == [request.target_id for request in asked]
        yield same, "what is claimed is not what is called for"
        for request in asked:
            target = step.after.targets[request.target_id]
            key = idempotency_key_of(step.after.run.id, target.id, target.attempt)
            yield request.key == key, f"target {target.sequence} is called for under another key"
            told = (request.attempt, request.fence, request.rack_id, request.components)
            yield told == (target.attempt, target.fence, target.rack_id, target.components), "the request is another's"


def _quota(step: Transition) -> Verdicts:
    for state, decision in filter(None, [_parts(step)]):
        claims = sum(isinstance(change, ClaimTarget) for change in decision.changes)
        slots, quota = slots_in_use(step.after), step.after.run.rollout.max_concurrent_targets
        yield claims == 0 or slots <= quota, f"it claims {claims}, and {slots} of {quota} slots are in use then"
        capacity = state.limits.claims
        yield capacity is None or claims <= capacity, f"it claims {claims}, and only {capacity} can begin"


def _holds(step: Transition) -> Verdicts:
    for _, decision in filter(None, [_parts(step)]):
        claims = any(isinstance(change, ClaimTarget) for change in decision.changes)
        run = step.after.run
        yield run.status is RunStatus.RUNNING or not claims, f"a run that is {run.status} claims"
        yield not (claims and run.operator_hold), "it claims under an operator's hold"
        yield not (claims and run.conflict_hold is not None), "it claims under a conflict hold"
        yield not (claims and is_tripped(step.after)), "it claims while a gate is tripped"


def _order(step: Transition) -> Verdicts:
    for state, decision in filter(None, [_parts(step)]):
        claimed = [step.before.targets[c.target_id] for c in decision.changes if isinstance(c, ClaimTarget)]
        fresh = [target for target in claimed if not isinstance(target.state, Claimed)]
        for target in fresh:
            yield target.phase == step.after.run.phase, f"target {target.sequence} is claimed in another phase"
            ahead = [t.sequence for t in step.after.targets.values() if t.phase < target.phase and is_open(t)]
            yield not ahead, f"target {target.sequence} is claimed, and {ahead} of earlier phases are not settled"
            due = target.state.retry_at if isinstance(target.state, Blocked) else state.now
            yield due <= state.now, f"target {target.sequence} is tried before its time"
        pending = [target.sequence for target in fresh if isinstance(target.state, Pending)]
        yield pending == sorted(pending), f"pending targets are claimed as {pending}"
        here = [t for t in step.after.targets.values() if t.phase == step.after.run.phase]
        left = min((t.sequence for t in here if t.status is TargetStatus.PENDING), default=None)
        passed = left is not None and pending and max(pending) > left
        yield not passed, f"target {left} is passed over"


def _unknown(step: Transition) -> Verdicts:
    for state, decision in filter(None, [_parts(step)]):
        for change in decision.changes:
            if not isinstance(change, ClaimTarget):
                continue
            target = step.before.targets[change.target_id]
            yield change.lease_until > state.now, f"the lease of target {target.sequence} is over at once"
            until = target.state.lease_until if isinstance(target.state, Claimed) else None
            ident = (target.id, target.attempt, target.fence)
            looked = any(
                until is not None and (o.target_id, o.attempt, o.fence) == ident and o.looked_at >= until
                for o in state.observations
                if isinstance(o, SubmissionAbsent)
            )
            yield until is None or looked, f"target {target.sequence} is claimed anew, and its key was not looked up"


def _outcomes(step: Transition) -> Verdicts:
    for state, decision in filter(None, [_parts(step)]):
        recorded = {c.target_id: c.task_id for c in decision.changes if isinstance(c, RecordTask)}
        for change in decision.changes:
            if not isinstance(change, SettleTarget):
                continue
            target = step.before.targets[change.target_id]
            name = f"target {target.sequence} is {change.status}"
            ident = (target.id, target.attempt, target.fence)
            task_id = recorded.get(target.id, target.task_id)
            said = any(
                isinstance(o, TaskObserved) and o.task_id == task_id and o.status.value == change.status.value
                for o in state.observations
            )
            refused = any(
                isinstance(o, SubmissionRefused | SubmissionConflicted | SubmissionAbsent)
                and (o.target_id, o.attempt, o.fence) == ident
                for o in state.observations
            )
            missing = [o for o in state.observations if isinstance(o, TaskMissing) and o.task_id == task_id]
            # The first of the looks that missed it may be one of these, too: a look can come late.
            first = [o.looked_at for o in missing]
            if isinstance(target.state, Submitted) and target.state.missing_since is not None:
                first.append(target.state.missing_since)
            lost = any(o.looked_at - at >= state.limits.missing_grace for o in missing for at in first)
            if change.status is TargetStatus.SKIPPED:
                yield refused and step.before.run.status.is_terminal, f"{name} in a run that goes on, or without a no"
            elif change.status is TargetStatus.FAILED:
                no = any(
                    isinstance(o, SubmissionRefused) and (o.target_id, o.attempt, o.fence) == ident
                    for o in state.observations
                )
                yield said or lost or (no and task_id is None), f"{name}, and no fact says so"
            else:
                yield said, f"{name}, and its task was not seen so"


def _nothing_lost(step: Transition) -> Verdicts:
    for state, _ in filter(None, [_parts(step)]):
        known = {task_id for t in step.after.targets.values() if (task_id := t.task_id) is not None}
        known |= set(step.after.strays)
        for observation in state.observations:
            if isinstance(observation, SubmissionAccepted) and observation.target_id in step.after.targets:
                yield observation.task_id in known, f"task {observation.task_id} was told of, and is not on record"
            if isinstance(observation, TaskObserved) and observation.status.is_over:
                open_still = [
                    t.sequence
                    for t in step.after.targets.values()
                    if isinstance(t.state, Submitted) and t.task_id == observation.task_id
                ]
                yield not open_still, f"the task of {open_still} is over, and the target is not"
                # One that a later answer makes a stray is seen to be over at the next look.
                known_stray = observation.task_id in step.before.strays
                open_stray = known_stray and step.after.strays[observation.task_id].is_open
                yield not open_stray, f"stray {observation.task_id} is over, and stays open"
            if isinstance(observation, SubmissionConflicted | SubmissionRefused):
                target = step.before.targets.get(observation.target_id)
                if target is not None and isinstance(target.state, Claimed):
                    now = step.after.targets[target.id]
                    current = (observation.attempt, observation.fence) == (target.attempt, target.fence)
                    yield not current or now.state != target.state, f"target {target.sequence} had a no, and waits on"


def _adoption(step: Transition) -> Verdicts:
    for state, decision in filter(None, [_parts(step)]):
        for change in decision.changes:
            if isinstance(change, RecordTask):
                target = step.before.targets[change.target_id]
                told = any(
                    isinstance(o, SubmissionAccepted)
                    and (o.target_id, o.attempt, o.task_id) == (target.id, target.attempt, change.task_id)
                    for o in state.observations
                )
                yield told, f"target {target.sequence} adopts a task of another attempt"


def _cancels(step: Transition) -> Verdicts:
    for state, decision in filter(None, [_parts(step)]):
        longest = state.limits.cancel_max_delay
        asked = Counter(effect.ref.task_id for effect in decision.effects if isinstance(effect, CancelTask))
        yield all(count == 1 for count in asked.values()), "a task is asked to end twice at once"
        for stray in step.after.strays.values():
            known = step.before.strays.get(stray.task_id)
            due = known is None or known.cancelling.due <= state.now
            yield not (stray.is_open and due) or stray.task_id in asked, f"stray {stray.task_id} is not asked to end"
            soon = stray.cancelling.due <= max(state.now, known.cancelling.due if known else state.now) + longest
            yield soon or not stray.is_open, f"stray {stray.task_id} is hardly asked to end again"
        ended = step.before.run.status.is_terminal
        for target in step.after.targets.values():
            if not isinstance(target.state, Submitted):
                continue
            before = step.before.targets[target.id].state
            cancelling = before.cancelling if isinstance(before, Submitted) else None
            due = ended and (cancelling is None or cancelling.due <= state.now)
            yield not due or target.state.task_id in asked, f"target {target.sequence} drains, and is not asked to end"
            # A run that goes on ends none of its own tasks.
            yield ended or target.state.task_id not in asked, f"the task of target {target.sequence} is asked to end"
            next_ask = target.state.cancelling
            later = next_ask is not None and next_ask.due > state.now
            yield not due or later, f"target {target.sequence} is asked to end without a pause"
            soon = next_ask is None or next_ask.due <= state.now + longest
            yield soon or not due, f"target {target.sequence} is hardly asked to end again"


def _backoff(step: Transition) -> Verdicts:
    for state, decision in filter(None, [_parts(step)]):
        policy = step.before.run.rollout.conflict
        resumed = step.before.run.resumed_at
        for change in decision.changes:
            if not isinstance(change, BlockTarget):
                continue
            target, new = step.before.targets[change.target_id], change.conflict
            was = target.conflict
            name = f"target {target.sequence}"
            yield new.count > (0 if was is None else was.count), f"{name}: a refusal is forgotten"
            delay = policy.initial_delay if was is None else min(was.delay * 2, policy.max_delay)
            yield new.delay == delay, f"{name} waits {new.delay}, and it should be {delay}"
            yield new.since == (state.now if was is None else was.since), f"{name}: its first refusal moved"
            end = max(new.since, resumed or new.since) + policy.window
            if state.now < end:
                yield state.now < change.retry_at <= end, f"{name} is not tried at the end of its window"
            else:
                yield (
                    step.after.run.conflict_hold is not None,
                    f"{name} was refused after its window, and nothing holds",
                )


def _reasons(step: Transition) -> Verdicts:
    for state, decision in filter(None, [_parts(step)]):
        for change in decision.changes:
            if isinstance(change, PauseRun) and change.reason is StatusReason.SAFETY_GATE:
                yield is_tripped(step.after), "a safety hold without a tripped gate"
            if isinstance(change, SetConflictHold):
                refusals = [o for o in state.observations if isinstance(o, SubmissionConflicted)]
                yield bool(refusals), "a conflict hold without a refusal"
            if isinstance(change, FinishRun):
                open_still = sum(map(is_open, step.after.targets.values()))
                yield open_still == 0, f"the run ends, and {open_still} targets are not settled"
        run, targets = step.after.run, step.after.targets.values()
        if not run.status.is_terminal:
            done = bool(targets) and not any(map(is_open, targets))
            yield not done, "every target is settled, and the run goes on"
            # A gate of the current phase is judged when the pointer has come there: by the next decision.
            moved = run.phase != step.before.run.phase
            held = run.operator_hold or run.conflict_hold is not None or (is_tripped(step.after) and not moved)
            yield not held or run.status is RunStatus.PAUSED, f"a hold stands, and the run shows {run.status}"
        paused = run.status is RunStatus.PAUSED
        yield not paused or bool(run.status_message), "a paused run does not say why"
        yield paused or run.status_reason is StatusReason.NONE, f"{run.status}, and it gives a reason to be paused"


def _wakes(step: Transition) -> Verdicts:
    for state, decision in filter(None, [_parts(step)]):
        wake, busy = decision.wake_at, slots_in_use(step.after)
        yield wake is not None or busy == 0, f"{busy} are in flight, and nobody looks again"
        latest = state.now + max(state.limits.poll, state.limits.claim_lease)
        yield busy == 0 or wake is None or wake <= latest, f"{busy} are in flight, and it looks again at {wake}"
        run = step.after.run
        here = [t for t in step.after.targets.values() if t.phase == run.phase and is_open(t)]
        waits = run.status is RunStatus.RUNNING and bool(here)
        yield not waits or wake is not None, "a running run has work left, and nobody looks again"
        yield wake is None or wake >= state.now, "it looks again in the past"
        ended = run.status.is_terminal and busy == 0
        yield not ended or wake is None or bool(decision.changes), "a run that has ended is looked at for ever"


def _missing(step: Transition) -> Verdicts:
    for state, decision in filter(None, [_parts(step)]):
        decided = step.before.run.decided_at
        for target_id, target in step.after.targets.items():
            was = step.before.targets[target_id].state
            if not isinstance(target.state, Submitted) or not isinstance(was, Submitted):
                continue
            noted = target.state.missing_since
            sighted = any(
                isinstance(o, TaskObserved) and o.task_id == target.state.task_id and o.looked_at >= was.missing_since
                for o in state.observations
                if was.missing_since is not None
            )
            yield noted is None or noted != was.missing_since or not sighted, f"target {target.sequence} was seen again"
            if noted is None or was.missing_since == noted:
                continue
            missed = (o for o in state.observations if isinstance(o, TaskMissing))
            looks = [o.looked_at for o in missed if o.task_id == target.state.task_id]
            fresh = any(decided is None or looked_at >= decided for looked_at in looks)
            yield fresh, f"target {target.sequence} is missing, and no look since the last decision missed it"
        yield decision.at == state.now, "a decision is dated by another clock"


def _told(step: Transition) -> Verdicts:
    decision = step.decision
    outcome = decision.outcome if decision is not None else None
    # A command's decision tells it, too.
    if decision is not None and outcome is not None:
        changed = {change.target_id for change in decision.changes if isinstance(change, TargetAction)}
        expected = {target_id: step.after.targets[target_id] for target_id in changed}
        yield {target.id: target for target in outcome.targets} == expected, "the outcome tells other targets"
        counts = tuple(tally + outcome.moves.get(i, Tally()) for i, tally in enumerate(step.before.phases))
        yield counts == step.after.phases, "the outcome tells other counts"


DECISION_LAWS: Final[tuple[Law[Transition], ...]] = (
    Law(
        name="calls", rule="Each claim is called for once, under the key of its attempt; nothing else is.", check=_calls
    ),
    Law(name="quota", rule="Claims never exceed the free slots, nor what can begin at once.", check=_quota),
    Law(name="holds", rule="Only a running run claims, and never under a hold.", check=_holds),
    Law(name="order", rule="Claims are of the current phase, in sequence, each in its time.", check=_order),
    Law(name="unknown", rule="An unanswered claim is made anew only after its key was looked up.", check=_unknown),
    Law(name="outcomes", rule="An outcome is a fact of the task manager, never a guess.", check=_outcomes),
    Law(name="nothing lost", rule="What a look or an answer told is on record afterwards.", check=_nothing_lost),
    Law(name="adoption", rule="Only a task of the current attempt is adopted.", check=_adoption),
    Law(name="cancels", rule="Strays and the tasks of an ended run are asked to end when it is due.", check=_cancels),
    Law(name="backoff", rule="Refusals add up, waits double, and a window ends with a try.", check=_backoff),
    Law(name="reasons", rule="A hold has its cause, and the run shows it; all settled means ended.", check=_reasons),
    Law(name="wakes", rule="What is under way is looked at again in time.", check=_wakes),
    Law(name="missing", rule="A task is missing only at a look made since the last decision.", check=_missing),
    Law(name="told", rule="A decision tells the store what its changes come to.", check=_told),
)
