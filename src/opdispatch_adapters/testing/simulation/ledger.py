"""The ledger of a simulated world: it judges every step by the laws of ``opdispatch.testing``, and by those that need a
memory: what has failed since the beginning, what was accepted, how often a rack refused.

It keeps books of its own and asks the core for nothing but its values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from opdispatch.action import (
    BlockTarget,
    ClaimTarget,
    Decision,
    PauseRun,
    RearmBlocked,
    RecordTask,
    ReleaseHolds,
    RetryTarget,
    SetConflictHold,
    SettleTarget,
)
from opdispatch.command import Resume
from opdispatch.evolve import Record, evolve, whole, window
from opdispatch.identity import TargetId
from opdispatch.observation import (
    SubmissionAbsent,
    SubmissionAccepted,
    SubmissionConflicted,
    SubmissionRefused,
    SubmissionUnknown,
)
from opdispatch.policy.gates import FailureRateGate, GateScope
from opdispatch.replay import beginning, difference_of, replay
from opdispatch.run import RunStatus, StatusReason
from opdispatch.state import RunState
from opdispatch.target import FAILURES, Claimed, Settled, TargetStatus
from opdispatch.task import SubmissionRequest
from opdispatch.testing import (
    RECORD_LAWS,
    TASK_LAWS,
    TRANSITION_LAWS,
    Breach,
    Broken,
    Transition,
    WithTasks,
    breaches,
    orphans,
)

from .setup import SETTINGS

if TYPE_CHECKING:
    from .world import World


class Ledger:
    """The judge of one world.  Every check raises Broken when a law does not hold."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: Record = world.record
        self._possible: tuple[Record, ...] = (world.record,)
        """What the record may be: as it was, or as the last decision makes it."""
        self._decisions = 0
        self._outcomes: dict[tuple[TargetId, int], TargetStatus] = {}
        """How the attempts that were retried had ended."""
        self._accepted: dict[tuple[int, int | None], int] = {}
        self._refusals: Counter[TargetId] = Counter()
        self._last_delay: dict[TargetId, timedelta] = {}
        self._first_refusal: dict[TargetId, datetime] = {}
        self._resumed_at: datetime | None = None
        self._resumed_with: tuple[int, int] | None = None
        """The failed attempts and the phase at the last accepted resume."""
        self._calls: Counter[tuple[TargetId, int, int]] = Counter()
        self._nothing = Transition(before=self._seen, after=self._seen)

    def violated(self, law: str, what: str) -> None:
        """Raise Broken."""
        raise Broken([Breach(law=law, what=what)])

    def _require(self, holds: bool, law: str, what: str) -> None:
        if not holds:
            self.violated(law, what)

    @staticmethod
    def _none_of(found: Iterable[Breach]) -> None:
        broken = tuple(found)
        if broken:
            raise Broken(broken)

    # -- after every step --

    def check(self) -> None:
        """After every step, whoever made it."""
        record = self._world.record
        if record is not self._seen:
            self._comes_by_decision(record)
            self._seen, self._possible = record, (record,)
            self._none_of(breaches(RECORD_LAWS, record))
        self._none_of(breaches(TASK_LAWS, WithTasks(step=self._nothing, tasks=self._world.manager.known())))

    def _comes_by_decision(self, record: Record) -> None:
        told = any(replace(record, wake_at=one.wake_at) == one for one in self._possible)
        self._require(told, "only by decision", "the record is neither as it was nor as the last decision makes it")

    def on_call(self, request: SubmissionRequest) -> None:
        """At every submission."""
        ident = (request.target_id, request.attempt, request.fence)
        self._calls[ident] += 1
        self._require(self._calls[ident] == 1, "permit", "a claim is called for twice")
        target = self._world.record.targets[request.target_id]
        standing = isinstance(target.state, Claimed) and (target.attempt, target.fence) == ident[1:]
        self._require(standing, "permit", "a call is made for a claim that stands no more")
        if isinstance(target.state, Claimed):
            left = target.state.lease_until - self._world.now
            self._require(left >= SETTINGS.call_deadline, "permit", f"a call is made with {left} of its lease left")
        self._world.events["submission of a claim made anew"] += request.resubmission

    # -- at every decision --

    def on_decision(self, state: RunState, decision: Decision) -> None:
        """At every decision, a tick's or a command's, before it is applied."""
        self._decisions += 1
        before = self._world.record
        self._comes_by_decision(before)
        after = evolve(before, decision)
        self._possible = (before, after)
        step = Transition(before=before, after=after, state=state, decision=decision)
        self._none_of(breaches(TRANSITION_LAWS, step))
        known = self._world.manager.known()
        self._none_of(breaches(TASK_LAWS, WithTasks(step=step, tasks=known)))
        if decision.command is None:
            self._window_equals_whole(state, decision, before)
            self._needs_only_what_it_took(state, decision)
            if self._decisions % 4 == 0:
                self._reaches_a_fixed_point(after, state)
        self._note(state, decision, before)
        self._conflicts(state, decision, before)
        self._gates(decision, before, after)

    def _note(self, state: RunState, decision: Decision, before: Record) -> None:
        events = self._world.events
        for change in decision.changes:
            events[type(change).__name__] += 1
            if isinstance(change, RetryTarget):
                target = before.targets[change.target_id]
                self._outcomes[target.id, target.attempt] = target.status
        for observation in state.observations:
            found = before.targets.get(observation.target_id)
            if found is None:
                continue
            name = type(observation).__name__
            events[name] += 1
            match observation:
                case SubmissionAccepted() if isinstance(found.state, Claimed) and observation.fence < found.fence:
                    events["acceptance of an older claim"] += 1
                case SubmissionAccepted() if isinstance(found.state, Settled):
                    events["acceptance of a settled target"] += 1
                case SubmissionConflicted() | SubmissionRefused() | SubmissionAbsent() | SubmissionUnknown():
                    stale = (observation.attempt, observation.fence) != (found.attempt, found.fence)
                    events["stale answer dropped"] += stale
                    events["older attempt's answer dropped"] += observation.attempt < found.attempt
                case _:
                    pass
        if before.run.status is RunStatus.PAUSED and state.observations and decision.changes:
            events["reconciled while paused"] += 1
        if before.run.status.is_terminal and decision.changes:
            events["drained after the end"] += 1

    def _window_equals_whole(self, state: RunState, decision: Decision, record: Record) -> None:
        everything = whole(record, observations=state.observations, limits=state.limits, now=state.now)
        other = self._world.decider(everything)
        same = (other.steps, other.held_back, other.wake_at) == (decision.steps, decision.held_back, decision.wake_at)
        self._require(same, "window", "the whole record decides otherwise")

    def _needs_only_what_it_took(self, state: RunState, decision: Decision) -> None:
        if decision.observations != state.observations:
            other = self._world.decider(replace(state, observations=decision.observations))
            self._require(other.steps == decision.steps, "journal", "an observation that mattered is not kept")

    def _reaches_a_fixed_point(self, settled: Record, state: RunState) -> None:
        for _ in range(3 + settled.run.phases):
            again = self._world.decider(window(settled, observations=(), limits=state.limits, now=state.now))
            if not again.steps:
                return
            # With a capacity, claims go on round by round until the slots are full.
            claims = any(isinstance(step.action, ClaimTarget) for step in again.steps)
            if state.limits.claims is not None and claims:
                return
            settled = evolve(settled, again)
        self.violated("fixed point", "without news, decisions go on and on")

    def _failed(self, record: Record, outcomes: frozenset[TargetStatus], phase: int | None) -> int:
        ended = dict(self._outcomes)
        for target in record.targets.values():
            if isinstance(target.state, Settled):
                ended[target.id, target.attempt] = target.state.status
        return sum(
            status in outcomes and (phase is None or record.targets[target_id].phase == phase)
            for (target_id, _), status in ended.items()
        )

    def _tripped(self, record: Record) -> bool:
        run = record.run
        for index, gate in enumerate(run.rollout.gates):
            phase = run.phase if gate.scope is GateScope.CURRENT_PHASE else None
            failures = self._failed(record, gate.outcomes, phase) - self._accepted.get((index, phase), 0)
            targets = sum(
                t.phase == phase if phase is not None else t.phase <= run.opened for t in record.targets.values()
            )
            if isinstance(gate, FailureRateGate):
                if failures * 100 >= gate.threshold_percent * targets:
                    return True
            elif failures >= gate.threshold_count:
                return True
        return False

    def _conflicts(self, state: RunState, decision: Decision, record: Record) -> None:
        policy = state.run.rollout.conflict
        held = any(isinstance(c, SetConflictHold) for c in decision.changes)
        for change in decision.changes:
            match change:
                case BlockTarget(target_id=target_id, retry_at=retry_at, conflict=conflict):
                    self._refusals[target_id] += 1
                    expected = policy.initial_delay
                    if target_id in self._last_delay:
                        expected = min(self._last_delay[target_id] * 2, policy.max_delay)
                    since = self._first_refusal.setdefault(target_id, state.now)
                    told = (conflict.delay, conflict.count, conflict.since)
                    lasts = told == (expected, self._refusals[target_id], since)
                    self._require(
                        lasts, "backoff lasts", "refusals add up, waits double, and the first stays the first"
                    )
                    self._last_delay[target_id] = conflict.delay
                    end = max(since, self._resumed_at or since) + policy.window
                    if state.now < end:
                        self._require(state.now < retry_at <= end, "backoff lasts", "the end of the window is a try")
                    else:
                        stands = held or state.run.conflict_hold is not None
                        self._require(stands, "backoff lasts", "a refusal at the end of the window holds the run")
                        self._world.events["conflict window ended"] += 1
                case RecordTask(target_id=target_id) | RetryTarget(target_id=target_id):
                    self._forget_conflicts(target_id)
                case RearmBlocked():
                    for target in record.targets.values():
                        if target.status is TargetStatus.BLOCKED:
                            self._forget_conflicts(target.id)
                case ReleaseHolds(at=at):
                    self._require(at == state.now, "resume", "a resume is dated by another clock")
                    self._resumed_at = at
                case SettleTarget(target_id=target_id, status=status) if record.targets[target_id].task_id is not None:
                    target = record.targets[target_id]
                    task = self._world.manager.tasks.get(target.task_id) if target.task_id is not None else None
                    lost = task is not None and task.status.value != status.value and decision.command is None
                    self._world.events["task lost"] += lost
                case _:
                    pass

    def _forget_conflicts(self, target_id: TargetId) -> None:
        for memory in (self._refusals, self._last_delay, self._first_refusal):
            memory.pop(target_id, None)

    def _gates(self, decision: Decision, before: Record, after: Record) -> None:
        total = self._failed(after, FAILURES, None)
        claims = any(isinstance(change, ClaimTarget) for change in decision.changes)
        self._require(not (claims and self._tripped(after)), "gates", "it claims while a gate is tripped")
        for change in decision.changes:
            if isinstance(change, PauseRun) and change.reason is StatusReason.SAFETY_GATE:
                self._require(self._tripped(after), "gates", "a safety hold needs a tripped gate")
                if before.run.status is RunStatus.RUNNING:
                    # A gate of current-phase scope is first judged when the pointer comes to its phase.
                    evidence = self._resumed_with is None or self._resumed_with != (total, after.run.phase)
                    self._require(evidence, "gates", "a resume pauses again without new evidence")
                told = f"{total} failed attempt" in change.message
                self._require(told, "gates", "a safety message tells the number to accept")
        if isinstance(decision.command, Resume) and decision.reply is not None and decision.reply.accepted:
            self._resumed_with = (total, after.run.phase)
            for accepted in after.run.accepted:
                gate = after.run.rollout.gates[accepted.gate]
                counts = self._failed(after, gate.outcomes, accepted.phase)
                known = self._accepted.get((accepted.gate, accepted.phase), 0)
                fits = known <= accepted.failures <= counts
                self._require(fits, "gates", "an acceptance takes what the gate counts, and no more")
                self._accepted[accepted.gate, accepted.phase] = accepted.failures
            self._require(not self._tripped(after), "gates", "a resume accepts what had tripped")

    # -- at the end --

    def replays(self) -> None:
        """The whole run, decided again from its journal, is what it is."""
        record, world = self._world.record, self._world
        found = replay(beginning(record.run, record.targets.values()), world.store.journal(world.run_id))
        self._require(found.difference is None, "replay", f"{found.difference}")
        end = difference_of(found.record, record.run, record.targets.values(), record.strays.values())
        self._require(end is None, "replay", f"{end}")
        world.events["decision replayed"] += found.decided

    def at_rest(self) -> None:
        """When everything has healed."""
        record, manager = self._world.record, self._world.manager
        # A task that the manager made up and told nobody of, or lost, cannot be known.
        told = set(record.strays)
        for task in orphans(record, manager.known()):
            known = task.invented or task.forgotten
            self._require(known, "orphans", f"task {task.task_id} outlives its run, and nobody knows of it")
        for task in manager.known():
            gone = task.forgotten or (task.invented and task.task_id not in told)
            self._require(gone or not task.is_alive, "orphans", f"task {task.task_id} outlives its run")
