"""The laws: what must hold after every step, at every decision, and once everything has healed.

They are written from the rules, with bookkeeping of their own, and ask the core for nothing but its values.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from opdispatch.action import (
    BlockTarget,
    CancelTask,
    ClaimTarget,
    Decision,
    FinishRun,
    OpenPhase,
    PauseRun,
    RearmBlocked,
    RecordTask,
    ReleaseHolds,
    RetryTarget,
    SetConflictHold,
    SettleTarget,
    SubmitTask,
    TargetAction,
)
from opdispatch.command import Cancel, Command, Pause, Reply, Resume, Settle, named_targets
from opdispatch.evolve import Record, evolve, whole, window
from opdispatch.identity import TargetId, TaskId
from opdispatch.observation import SubmissionAbsent
from opdispatch.policy.gates import FailureRateGate, GateScope
from opdispatch.replay import beginning, difference_of, replay
from opdispatch.run import RunStatus, StatusReason
from opdispatch.state import RunState
from opdispatch.tally import Tally, counted
from opdispatch.target import Blocked, Claimed, Settled, Submitted, Target, TargetStatus
from opdispatch.task import SubmissionRequest, TaskStatus

if TYPE_CHECKING:
    from .world import World


class Violation(AssertionError):
    """A law does not hold."""


@dataclass(slots=True)
class _Ledger:
    """What the laws remember by themselves."""

    failures: set[tuple[TargetId, int]] = field(default_factory=set)
    """Failed attempts, each once."""
    outcomes: dict[tuple[TargetId, int], TargetStatus] = field(default_factory=dict)
    accepted_at: dict[tuple[int, int | None], int] = field(default_factory=dict)
    refusals: Counter[TargetId] = field(default_factory=Counter)
    last_delay: dict[TargetId, timedelta] = field(default_factory=dict)
    first_refusal: dict[TargetId, datetime] = field(default_factory=dict)
    accepted_failures_when_resumed: tuple[int, int] | None = None
    """The failed attempts and the phase at the last accepted resume."""
    resumed_at: datetime | None = None
    calls: Counter[tuple[TargetId, int, int]] = field(default_factory=Counter)
    settled_by_hand: set[TargetId] = field(default_factory=set)
    events: Counter[str] = field(default_factory=Counter)


class Laws:
    """The checker of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ledger = _Ledger()
        self._before: Record = world.record
        self._decisions = 0

    def violated(self, law: str) -> None:
        raise Violation(law)

    def _require(self, holds: bool, law: str) -> None:
        if not holds:
            self.violated(law)

    # -- after every step --

    def check(self) -> None:
        record = self.world.record
        if record is not self._before:
            self._totals(record)
            for target_id, target in record.targets.items():
                before = self._before.targets[target_id]
                if before is not target:
                    self._step_of(before, target)
            self._run_step(record)
            self._before = record
        self._tasks(record)

    def _totals(self, record: Record) -> None:
        for phase, tally in enumerate(record.phases):
            recount = counted(t for t in record.targets.values() if t.phase == phase)
            same = all(tally.of(status) == recount.of(status) for status in TargetStatus)
            self._require(same, "totals: the tallies equal the counts of the targets")

    def _step_of(self, before: Target, after: Target) -> None:
        self._require(after.fence >= before.fence, "fence: it never falls")
        if isinstance(before.state, Settled):
            retried = after.attempt == before.attempt + 1
            self._require(retried or after == before, "terminal is terminal: only a retry changes a settled target")
        else:
            self._require(after.attempt == before.attempt, "attempt: it rises only by a retry")

    def _run_step(self, record: Record) -> None:
        before, after = self._before.run, record.run
        if before.status.is_terminal:
            self._require(after.status is before.status, "terminal is terminal: a run that ended stays ended")
        if after.started_at is None:
            self._require(after.status is not RunStatus.RUNNING, "a running run has started")
        self._require(
            (after.finished_at is not None) == after.status.is_terminal, "a run has an end exactly when it ended"
        )

    def _tasks(self, record: Record) -> None:
        live_by_target: Counter[TargetId] = Counter()
        live = 0
        for task in self.world.manager.tasks.values():
            if task.live and not task.ghost and not task.ever_forgotten:
                live_by_target[task.target_id] += 1
                live += 1
        for count in live_by_target.values():
            self._require(count <= 1, "once: a target never has two live tasks")
        self._require(
            all(count == 1 for count in self.world.manager.executions.values()),
            "once: a key begins one task",
        )
        self._require(live <= self.world.setup.quota, "quota: no more live tasks than slots")

    # -- at every call --

    def on_call(self, request: SubmissionRequest) -> None:
        ident = (request.target_id, request.attempt, request.fence)
        self.ledger.calls[ident] += 1
        self._require(self.ledger.calls[ident] == 1, "a claim is a permit for one call")

    # -- at every decision --

    def replays(self) -> None:
        """The whole run, decided again from its journal, is what it is."""
        record, store, run_id = self.world.record, self.world.store, self.world.run_id
        found = replay(beginning(record.run, record.targets.values()), store.journal(run_id))
        self._require(found.difference is None, f"replay: {found.difference}")
        end = difference_of(found.record, record.run, record.targets.values())
        self._require(end is None, f"replay: {end}")
        self.ledger.events["replayed"] += found.decided

    def on_decision(self, state: RunState, decision: Decision) -> None:
        self._decisions += 1
        record = self.world.record
        self._require(
            not any(isinstance(s.action, SubmitTask | CancelTask) for s in decision.steps) or decision.command is None,
            "a command has no effect of its own: it is derived at the next tick",
        )
        if decision.command is None:
            self._window_equals_whole(state, decision, record)
            self._needs_only_what_it_took(state, decision)
            if self._decisions % 4 == 0:
                self._reaches_a_fixed_point(record, state, decision)
        self._claims(state, decision, record)
        self._adopts(decision, record)
        self._cancels(state, decision, record)
        self._conflicts(state, decision, record)
        self._outcomes(state, decision, record)
        self._pauses(state, decision, record)
        self._tells_its_outcome(decision, record)
        for change in decision.changes:
            self.ledger.events[type(change).__name__] += 1
            if isinstance(change, OpenPhase):
                one_on = change.phase == record.run.phase + 1
                here = [t for t in evolve(record, decision).targets.values() if t.phase == record.run.phase]
                self._require(one_on and all(t.status.is_settled for t in here), "order: one phase after another")
                waits = change.phase > record.run.opened and not record.run.rollout.auto_advance
                self._require(not waits or decision.command is not None, "only an advance opens a manual phase")

    def _tells_its_outcome(self, decision: Decision, record: Record) -> None:
        if decision.reply is not None:
            stands = evolve(record, decision).run.standing
            self._require(decision.reply.after == stands, "reply: how the run stands after the command")
        if decision.outcome is None:
            return
        after = evolve(record, decision)
        changed = {change.target_id for change in decision.changes if isinstance(change, TargetAction)}
        told = {target.id: target for target in decision.outcome.targets}
        self._require(told == {target_id: after.targets[target_id] for target_id in changed}, "outcome: the targets")
        counts = tuple(tally + decision.outcome.moves.get(i, Tally()) for i, tally in enumerate(record.phases))
        self._require(counts == after.phases, "outcome: the counts")

    def _window_equals_whole(self, state: RunState, decision: Decision, record: Record) -> None:
        everything = whole(record, observations=state.observations, limits=state.limits, now=state.now)
        other = self.world._decider(everything)
        self._require(other.steps == decision.steps, "the window decides as the whole does: same steps")
        self._require(other.held_back == decision.held_back, "the window decides as the whole does: same waits")
        self._require(other.wake_at == decision.wake_at, "the window decides as the whole does: same wake_at")

    def _needs_only_what_it_took(self, state: RunState, decision: Decision) -> None:
        other = self.world._decider(replace(state, observations=decision.observations))
        self._require(other.steps == decision.steps, "the journal keeps every observation that mattered")

    def _reaches_a_fixed_point(self, record: Record, state: RunState, decision: Decision) -> None:
        settled = evolve(record, decision)
        for _ in range(3 + record.run.phases):
            again = self.world._decider(window(settled, observations=(), limits=state.limits, now=state.now))
            if not again.steps:
                return
            if state.limits.claims is not None:
                # With a capacity, claims go on round by round until the slots are full.
                if not any(isinstance(s.action, ClaimTarget) for s in again.steps):
                    settled = evolve(settled, again)
                    continue
                return
            settled = evolve(settled, again)
        self.violated("a fixed point is reached: without news, decisions end")

    def _claims(self, state: RunState, decision: Decision, record: Record) -> None:
        claims = [c for c in decision.changes if isinstance(c, ClaimTarget)]
        submits = [e for e in decision.effects if isinstance(e, SubmitTask)]
        self._require(
            [c.target_id for c in claims] == [s.request.target_id for s in submits],
            "each claim is called for, in order, and nothing else is",
        )
        if not claims:
            return
        after = evolve(record, decision)
        run = after.run
        held = sum(t.status.holds_slot for t in after.targets.values())
        strays = sum(s.is_open for s in after.strays.values())
        self._require(held + strays <= self.world.setup.quota, "quota: claims never exceed the slots")
        if state.limits.claims is not None:
            self._require(len(claims) <= state.limits.claims, "capacity: no more claims than can begin at once")
        self._require(run.status is RunStatus.RUNNING, "only a running run claims")
        self._require(not run.operator_hold and run.conflict_hold is None, "pause: nothing is claimed under a hold")
        self._require(not self._tripped(after), "gates: nothing is claimed while a gate is tripped")
        fresh = []
        for claim in claims:
            target = after.targets[claim.target_id]
            self._require(isinstance(target.state, Claimed), "a claim is a claim")
            self._require(claim.lease_until > state.now, "a lease ends in the future")
            before = record.targets[claim.target_id]
            self._require(target.fence == before.fence + 1, "fence: every claim raises it by one")
            if isinstance(before.state, Claimed):
                self._looked_up(state, before, before.state)
            else:
                fresh.append(before)
        for target in fresh:
            self._require(target.phase == run.phase, "order: only the current phase is claimed")
            earlier_open = any(t.phase < target.phase and not t.status.is_settled for t in after.targets.values())
            self._require(not earlier_open, "order: no phase before an earlier one is settled")
        pending = [t.sequence for t in fresh if t.status is TargetStatus.PENDING]
        self._require(pending == sorted(pending), "order: pending targets go in sequence")
        left = [t.sequence for t in after.targets.values() if t.phase == run.phase and t.status is TargetStatus.PENDING]
        self._require(not pending or not left or max(pending) < min(left), "order: no pending target is passed over")

    def _looked_up(self, state: RunState, target: Target, claim: Claimed) -> None:
        looked = any(
            isinstance(o, SubmissionAbsent)
            and (o.target_id, o.attempt, o.fence) == (target.id, target.attempt, target.fence)
            and o.looked_at >= claim.lease_until
            for o in state.observations
        )
        self._require(looked, "unknown is not failed: a claim is made anew only after its key was looked up")

    def _adopts(self, decision: Decision, record: Record) -> None:
        for change in decision.changes:
            if isinstance(change, RecordTask):
                task = self.world.manager.tasks[change.task_id]
                target = record.targets[change.target_id]
                self._require(
                    (task.target_id, task.attempt) == (target.id, target.attempt),
                    "fence and attempt: only a task of the current attempt is adopted",
                )

    def _cancels(self, state: RunState, decision: Decision, record: Record) -> None:
        if decision.command is not None:
            return
        asked = {e.ref.task_id for e in decision.effects if isinstance(e, CancelTask)}
        after = evolve(record, decision)
        for stray in after.strays.values():
            known = record.strays.get(stray.task_id)
            due = known is None or known.cancelling.due <= state.now
            self._require(not (stray.is_open and due) or stray.task_id in asked, "a stray is cancelled when it is due")
        if record.run.status.is_terminal:
            for target in after.targets.values():
                if isinstance(target.state, Submitted):
                    before = record.targets[target.id].state
                    cancelling = before.cancelling if isinstance(before, Submitted) else None
                    due = cancelling is None or cancelling.due <= state.now
                    self._require(
                        not due or target.state.task_id in asked, "cancel drains: what is in flight is asked to end"
                    )

    def _failed(self, record: Record, gate_outcomes: frozenset[TargetStatus], phase: int | None) -> int:
        return sum(
            status in gate_outcomes and (phase is None or record.targets[target_id].phase == phase)
            for (target_id, _), status in self._failures_in(record).items()
        )

    def _failures_in(self, record: Record) -> dict[tuple[TargetId, int], TargetStatus]:
        found = dict(self.ledger.outcomes)
        for target in record.targets.values():
            if isinstance(target.state, Settled):
                found[target.id, target.attempt] = target.state.status
        return found

    def _tripped(self, record: Record) -> bool:
        run = record.run
        for index, gate in enumerate(run.rollout.gates):
            phase = run.phase if gate.scope is GateScope.CURRENT_PHASE else None
            failures = self._failed(record, gate.outcomes, phase)
            failures -= self.ledger.accepted_at.get((index, phase), 0)
            targets = [
                t for t in record.targets.values() if (t.phase == phase if phase is not None else t.phase <= run.opened)
            ]
            if isinstance(gate, FailureRateGate):
                if failures * 100 >= gate.threshold_percent * len(targets):
                    return True
            elif failures >= gate.threshold_count:
                return True
        return False

    def _conflicts(self, state: RunState, decision: Decision, record: Record) -> None:
        ledger, policy = self.ledger, state.run.rollout.conflict
        held = any(isinstance(c, SetConflictHold) for c in decision.changes)
        for change in decision.changes:
            match change:
                case BlockTarget(target_id=target_id, retry_at=retry_at, conflict=conflict):
                    ledger.refusals[target_id] += 1
                    expected = policy.initial_delay
                    if target_id in ledger.last_delay:
                        expected = min(ledger.last_delay[target_id] * 2, policy.max_delay)
                    since = ledger.first_refusal.setdefault(target_id, state.now)
                    self._require(conflict.delay == expected, "backoff lasts: each wait doubles the last")
                    self._require(conflict.count == ledger.refusals[target_id], "backoff lasts: refusals add up")
                    self._require(conflict.since == since, "backoff lasts: the first refusal stays the first")
                    ledger.last_delay[target_id] = conflict.delay
                    start = max(since, ledger.resumed_at or since)
                    end = start + policy.window
                    if state.now < end:
                        self._require(state.now < retry_at <= end, "the end of the window is always a try")
                    else:
                        stands = held or state.run.conflict_hold is not None
                        self._require(stands, "a refusal at the end of the window holds the run")
                        ledger.events["window ended"] += 1
                case RecordTask(target_id=target_id) | RetryTarget(target_id=target_id):
                    self._forget_conflicts(target_id)
                case RearmBlocked():
                    for target in record.targets.values():
                        if target.status is TargetStatus.BLOCKED:
                            self._forget_conflicts(target.id)
                case ReleaseHolds(at=at):
                    ledger.resumed_at = at
                case _:
                    pass

    def _forget_conflicts(self, target_id: TargetId) -> None:
        for memory in (self.ledger.refusals, self.ledger.last_delay, self.ledger.first_refusal):
            memory.pop(target_id, None)

    def _outcomes(self, state: RunState, decision: Decision, record: Record) -> None:
        """Unknown is not failed: every outcome has a fact behind it."""
        manager = self.world.manager
        for change in decision.changes:
            if isinstance(change, RetryTarget):
                target = record.targets[change.target_id]
                self.ledger.outcomes[target.id, target.attempt] = target.status
            if not isinstance(change, SettleTarget):
                continue
            target = record.targets[change.target_id]
            if isinstance(decision.command, Settle):
                self.ledger.settled_by_hand.add(target.id)
                continue
            if change.status is TargetStatus.SKIPPED:
                self._require(state.run.status.is_terminal, "only a run that has ended skips by itself")
                continue
            recorded = [c.task_id for c in decision.changes if isinstance(c, RecordTask) and c.target_id == target.id]
            task_id = recorded[0] if recorded else target.task_id
            if task_id is None:
                refused = (target.id, target.attempt, target.fence) in manager.refused
                self._require(refused, "unknown is not failed: without a task only a refusal fails a target")
                continue
            task = manager.tasks[task_id]
            lost = change.status is TargetStatus.FAILED and task.ever_forgotten
            self._require(lost or task.status.value == change.status.value, "an outcome is what the task manager says")
            if lost and task.status is not TaskStatus.FAILED:
                self.ledger.events["lost"] += 1
                since = target.state.missing_since if isinstance(target.state, Submitted) else None
                apart = since is not None and state.now - since >= state.limits.missing_grace
                self._require(apart, "missing is failed only after two looks a grace time apart")

    def _pauses(self, state: RunState, decision: Decision, record: Record) -> None:
        after = evolve(record, decision)
        total = self._failed(after, frozenset({TargetStatus.FAILED, TargetStatus.TERMINATED}), None)
        for change in decision.changes:
            if isinstance(change, PauseRun) and change.reason is StatusReason.SAFETY_GATE:
                self._require(self._tripped(after), "a safety hold needs a tripped gate")
                if state.run.status is RunStatus.RUNNING:
                    resumed_with = self.ledger.accepted_failures_when_resumed
                    # A gate of current-phase scope is first judged when the pointer comes to its phase.
                    self._require(
                        resumed_with is None or resumed_with != (total, after.run.phase),
                        "a resume never pauses again without new evidence",
                    )
                self._require(
                    f"{total} failed attempt" in change.message, "a safety message tells the number to accept"
                )
            if isinstance(change, FinishRun) and change.status is not RunStatus.CANCELLED:
                self._require(
                    all(t.status.is_settled for t in after.targets.values()), "a run ends when all is settled"
                )
        if isinstance(decision.command, Resume) and decision.reply is not None and decision.reply.accepted:
            if state.run.conflict_hold is not None:
                tried_at_once = all(
                    t.state.retry_at <= state.now and t.conflict is None
                    for t in after.targets.values()
                    if isinstance(t.state, Blocked)
                )
                self._require(tried_at_once, "resume is possible: a resumed conflict is tried at once")
            self.ledger.accepted_failures_when_resumed = (total, after.run.phase)
            for accepted in after.run.accepted:
                gate = after.run.rollout.gates[accepted.gate]
                counts = self._failed(after, gate.outcomes, accepted.phase)
                known = self.ledger.accepted_at.get((accepted.gate, accepted.phase), 0)
                self._require(
                    known <= accepted.failures <= counts, "an acceptance takes what the gate counts, and no more"
                )
                self.ledger.accepted_at[accepted.gate, accepted.phase] = accepted.failures
            self._require(not self._tripped(after), "a resume accepts what had tripped")

    # -- at every reply --

    def on_reply(self, asked: Command, reply: Reply) -> None:
        run = self.world.record.run
        self.ledger.events[f"{type(asked).__name__} {'accepted' if reply.accepted else 'refused'}"] += 1
        if not reply.accepted:
            return
        if isinstance(asked, Pause):
            self._require(run.status is RunStatus.PAUSED, "an accepted pause pauses")
        if isinstance(asked, Cancel):
            self._require(run.status.is_terminal, "an accepted cancel ends the run")
        for target_id in named_targets(asked):
            self._require(target_id in self.world.record.targets, "a command names targets of its run")

    # -- when everything has healed --

    def at_rest(self) -> None:
        record, manager = self.world.record, self.world.manager
        known: set[TaskId] = set(record.strays)
        known.update(task_id for t in record.targets.values() if (task_id := t.task_id) is not None)
        for task in manager.tasks.values():
            told = task.id in known
            if not task.ghost or told:
                self._require(not task.live or task.ever_forgotten, "cancel drains: no task outlives its run")
            self._require(task.ghost or told or task.attempt < self._attempt(task.target_id), "no task is orphaned")
        failed = [t for t in record.targets.values() if t.status in (TargetStatus.FAILED, TargetStatus.TERMINATED)]
        status = record.run.status
        if status is RunStatus.COMPLETED:
            self._require(not failed, "a completed run has no failed target")
        if status is RunStatus.FAILED:
            self._require(len(failed) == len(record.targets), "a failed run has no other target")
        sequence = [t.sequence for t in record.targets.values()]
        self._require(all(a < b for a, b in pairwise(sequence)), "the plan is frozen")

    def _attempt(self, target_id: TargetId) -> int:
        return self.world.record.targets[target_id].attempt
