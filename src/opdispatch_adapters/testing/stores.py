"""The conformance suite of stores: the same history on the memory store and on the store under test, step by step.

After every step everything that either can tell must be equal: overviews, targets, strays, journals, looks, listings,
what is due and when, and every window that a decision was made on.  The decisions are the core's own, so the suite
also shows that a store's window is the one that the decision was written for.

A store under test is given a clock that the suite moves; it must take every instant from it.  Nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from opdispatch.action import Decision
from opdispatch.candidate import Candidate
from opdispatch.command import Advance, Cancel, Command, Pause, Resume, Retry, Settle, named_targets
from opdispatch.control import control
from opdispatch.decide import decide
from opdispatch.errors import InvalidInput, NotFound, OpdispatchError
from opdispatch.holds import failed_attempts
from opdispatch.identity import CommandId, RunId, TaskId
from opdispatch.observation import (
    CancellationRefused,
    Observation,
    SubmissionAbsent,
    SubmissionAccepted,
    SubmissionConflicted,
    SubmissionRefused,
    SubmissionUnknown,
    TaskMissing,
    TaskObserved,
)
from opdispatch.plan import NewRun, new_run, plan
from opdispatch.ports import Store
from opdispatch.rollout import Rollout
from opdispatch.run import StatusReason
from opdispatch.state import Limits, RunState
from opdispatch.tally import tallies_at
from opdispatch.target import SETTLED, Claimed, Settled, Submitted, Target, TargetStatus
from opdispatch.task import TaskStatus
from opdispatch_adapters.memory import MemoryStore

from .strategies import LIKELY, LIMITS, MESSAGES, SECONDS, queries, rollouts

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_T = TypeVar("_T")


class Clock:
    """The time of both stores: stands still until the suite moves it."""

    def __init__(self) -> None:
        self.now = EPOCH

    def __call__(self) -> datetime:
        return self.now


MakeStore = Callable[[Clock], Store]


class _Abandoned(Exception):
    """Raised inside a lock, to see that nothing of it stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What a call came to: a value, or the kind of error."""

    value: Any = None
    error: type[OpdispatchError] | None = None
    message: str = field(default="", compare=False)


def _outcome(call: Callable[[], object]) -> _Outcome:
    try:
        return _Outcome(value=call())
    except OpdispatchError as error:
        return _Outcome(error=type(error), message=str(error))


def store_machine(
    make_store: MakeStore,
    *,
    reopen: Callable[[Any], Store] | None = None,
    close: Callable[[Any], None] | None = None,
    audit: Callable[[Any], Sequence[object]] | None = None,
) -> type[RuleBasedStateMachine]:
    """A state machine of Hypothesis that compares a store with the memory store.

    Args:
        make_store: makes a store that is empty and takes its time from the clock given.
        reopen: gives up a store and opens what it kept anew, with the same clock; None where that means nothing.
        close: gives up a store at the end of an example.
        audit: the store's own check of itself; it must find nothing, whenever it is asked.

    Returns:
        A class whose ``TestCase`` a test runner collects.
    """

    class StoreMachine(_StoreMachine):
        def __init__(self) -> None:
            super().__init__(make_store)

        @precondition(lambda self: reopen is not None)
        @rule()
        def the_store_is_reopened(self) -> None:
            if reopen is not None:
                self.tested = reopen(self.tested)

        @precondition(lambda self: audit is not None)
        @rule()
        def the_store_checks_itself(self) -> None:
            found = () if audit is None else tuple(audit(self.tested))
            if found:
                raise AssertionError(f"the store's own check found: {found}")

        def teardown(self) -> None:
            try:
                self.the_store_checks_itself()
                self.everything_is_compared()
            finally:
                if close is not None:
                    close(self.tested)

    return StoreMachine


class _StoreMachine(RuleBasedStateMachine):
    """One history, two stores."""

    tested: Store

    def __init__(self, make_store: MakeStore) -> None:
        super().__init__()
        self.clock = Clock()
        self.model = MemoryStore(clock=self.clock)
        self.tested = make_store(self.clock)
        self.made: list[NewRun] = []
        self.given: list[tuple[RunId, Command]] = []
        self.compared: dict[RunId, int] = {}
        """How many entries of each journal were found equal."""

    # -- helpers --

    def both(self, what: str, call: Callable[[Store], object]) -> Any:
        """The same call on both; what it comes to must be equal."""
        expected = _outcome(lambda: call(self.model))
        found = _outcome(lambda: call(self.tested))
        _equal(what, expected, found)
        return expected.value

    def chosen(self, data: st.DataObject) -> RunId:
        return data.draw(st.sampled_from(self.made)).run.id

    def decided(
        self,
        run_id: RunId,
        observations: Sequence[Observation],
        limits: Limits,
        decider: Callable[[RunState], Decision],
        *,
        command: Command | None = None,
        actor: str = "dispatcher",
        abandon: bool = False,
    ) -> None:
        """Lock both, load both, decide once, apply to both; ``abandon`` leaves both with an exception."""
        named = () if command is None else named_targets(command)
        try:
            with ExitStack() as stack:
                held = [stack.enter_context(_locked(store, run_id)) for store in (self.model, self.tested)]
                replies = []
                states = []
                for one in held:
                    if one is None:
                        raise AssertionError("a run that nobody holds could not be locked")
                    replies.append(None if command is None else one.replied(command))
                    states.append(one.load(observations, limits, named=named))
                _equal("Held.replied", replies[0], replies[1])
                _equal("Held.load", states[0], states[1])
                if replies[0] is not None:
                    return
                decision = decider(states[0])
                note(f"{decision}")
                for one, state in zip(held, states, strict=True):
                    if one is not None:
                        one.apply(state, decision, actor=actor, served=decision.command is None)
                if abandon:
                    raise _Abandoned
        except _Abandoned:
            pass

    # -- runs come to be --

    @initialize(made=rollouts())
    def a_run_is_there(self, made: tuple[Rollout, list[Candidate]]) -> None:
        self.create(made)

    @precondition(lambda self: len(self.made) < 2)
    @rule(made=rollouts())
    def a_run_is_created(self, made: tuple[Rollout, list[Candidate]]) -> None:
        self.create(made)

    def create(self, made: tuple[Rollout, list[Candidate]]) -> None:
        rollout, candidates = made
        command_id = CommandId(f"create-{len(self.made)}")
        new = new_run(plan(candidates, rollout), command_id=command_id, actor="operator", now=self.clock.now)
        self.both("create", lambda store: store.create(new))
        self.made.append(new)

    @rule(data=st.data())
    def a_create_is_repeated(self, data: st.DataObject) -> None:
        """The same run again; and never another one under the same command."""
        new = data.draw(st.sampled_from(self.made))
        self.both("a repeated create", lambda store: store.create(new))
        other = replace(new.run, rollout=replace(new.run.rollout, description="another"))
        for store in (self.model, self.tested):
            found = _outcome(lambda: store.create(replace(new, run=other)))  # noqa: B023  # called at once
            _equal("a create of another rollout", _Outcome(error=InvalidInput), found)

    # -- time and waking --

    @rule(seconds=SECONDS, microseconds=st.integers(0, 3))
    def time_passes(self, seconds: int, microseconds: int) -> None:
        self.clock.now += timedelta(seconds=seconds, microseconds=microseconds)

    @rule(data=st.data())
    def time_passes_to_the_instant(self, data: st.DataObject) -> None:
        """To the very microsecond at which something is due."""
        instants = [
            instant
            for target in self.model.targets(self.chosen(data))
            for instant in (getattr(target.state, "retry_at", None), getattr(target.state, "lease_until", None))
            if instant is not None and instant > self.clock.now
        ]
        self.clock.now = min(instants, default=self.clock.now)

    @rule(seconds=st.sampled_from((1, 40)))
    def the_clock_is_set_back(self, seconds: int) -> None:
        self.clock.now -= timedelta(seconds=seconds)

    @rule(data=st.data(), limit=st.integers(1, 3), lease=SECONDS, alone=st.booleans())
    def due_runs_are_taken(self, data: st.DataObject, limit: int, lease: int, alone: bool) -> None:
        only = self.chosen(data) if alone else None
        self.both("due", lambda store: tuple(store.due(limit, timedelta(seconds=lease), only=only)))

    @rule(
        data=st.data(),
        what=st.sampled_from(("wake", "report", "release")),
        message=MESSAGES,
        quarantine_after=st.integers(1, 3),
    )
    def something_befalls_a_run(self, data: st.DataObject, what: str, message: str, quarantine_after: int) -> None:
        run_id = self.chosen(data)

        def retry_in(count: int) -> timedelta:
            return timedelta(seconds=5 * count)

        match what:
            case "wake":
                self.both("wake", lambda store: store.wake(run_id))
            case "report":
                self.both("report", lambda store: store.report(run_id, message, retry_in, quarantine_after))
            case _:
                self.both("release", lambda store: store.release(run_id))

    # -- decisions --

    @rule(data=st.data(), limits=LIMITS)
    def a_round_is_decided(self, data: st.DataObject, limits: Limits) -> None:
        run_id = self.chosen(data)
        self.decided(run_id, self.observations(data, run_id), limits, decide)

    @rule(data=st.data(), rounds=st.integers(2, 6), calm=st.booleans())
    def a_run_goes_on(self, data: st.DataObject, rounds: int, calm: bool) -> None:
        """Everything in flight is answered, a few times over; ``calm``: as everybody hopes."""
        run_id = self.chosen(data)
        for _ in range(rounds):
            flying = [found for found in self.model.targets(run_id) if found.status.holds_slot]
            answers = [self.hoped_for(found) if calm else self.answer(data, found) for found in flying]
            self.decided(run_id, answers, Limits(), decide)

    @rule(data=st.data())
    def racks_stay_busy(self, data: st.DataObject) -> None:
        """Every claim meets a conflict, until the window of the first one is over."""
        run_id = self.chosen(data)
        for _ in range(4):
            self.decided(run_id, (), Limits(), decide)
            claimed = [found for found in self.model.targets(run_id) if isinstance(found.state, Claimed)]
            busy = [
                SubmissionConflicted(target_id=found.id, attempt=found.attempt, fence=found.fence, message="busy")
                for found in claimed
            ]
            self.decided(run_id, busy, Limits(claims=0), decide)
            self.clock.now += timedelta(seconds=41)

    @rule(data=st.data())
    def a_stray_comes_and_goes(self, data: st.DataObject) -> None:
        """A second task of a target is told of, is over, and is told of again."""
        run_id = self.chosen(data)
        begun = [found for found in self.model.targets(run_id) if isinstance(found.state, Submitted | Settled)]
        if not begun:
            return
        about, now = data.draw(st.sampled_from(begun)), self.clock.now
        ident: dict[str, Any] = {"target_id": about.id, "task_id": TaskId(f"second of {about.rack_name}")}
        told = SubmissionAccepted(**ident, attempt=about.attempt, fence=about.fence)
        over = TaskObserved(**ident, status=TaskStatus.COMPLETED, message="over", looked_at=now)
        for seen in (told, over, told):
            self.decided(run_id, [seen], Limits(claims=0), decide)

    @rule(data=st.data())
    def an_operator_does_what_helps(self, data: st.DataObject) -> None:
        """Resume, advance or retry: whatever this run waits for."""
        run_id = self.chosen(data)
        record = self.model.record(run_id)
        run = record.run
        settled = [found.id for found in record.targets.values() if found.status.is_settled]
        who: dict[str, Any] = {"command_id": CommandId(f"c{len(self.given)}"), "actor": "ada"}
        asked: Command
        if run.operator_hold or run.conflict_hold or run.status_reason is StatusReason.SAFETY_GATE:
            asked = Resume(**who, accept_failures=failed_attempts(tallies_at(record.phases, run.phase, run.opened)))
        elif run.status_reason is StatusReason.PHASE_GATE:
            asked = Advance(**who, expected_phase=run.phase + 1)
        elif settled:
            asked = Retry(**who, targets=(data.draw(st.sampled_from(settled)),))
        else:
            return
        self.given.append((run_id, asked))
        self.decided(run_id, (), Limits(), lambda s: control(s, asked), command=asked, actor=asked.actor)

    @rule(data=st.data())
    def an_operator_commands(self, data: st.DataObject) -> None:
        run_id = self.chosen(data)
        asked = self.command(data, run_id)
        self.given.append((run_id, asked))
        looks = self.absences(run_id) if data.draw(st.booleans()) else ()
        self.decided(run_id, looks, Limits(), lambda s: control(s, asked), command=asked, actor=asked.actor)

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def a_command_is_repeated(self, data: st.DataObject) -> None:
        run_id, asked = data.draw(st.sampled_from(self.given))
        self.decided(run_id, (), Limits(), lambda s: control(s, asked), command=asked, actor=asked.actor)

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def the_id_of_a_command_names_another(self, data: st.DataObject) -> None:
        """Of the same run, which is refused; or of another one, where it was never heard."""
        run_id, asked = data.draw(st.sampled_from(self.given))
        kind = Cancel if isinstance(asked, Pause) else Pause
        other = kind(command_id=asked.command_id, actor="bob")
        for store in (self.model, self.tested):
            with _locked(store, run_id) as held:
                found = _outcome(lambda: None if held is None else held.replied(other))  # called at once
                _equal("the id of another command", _Outcome(error=InvalidInput), found)
            for new in self.made:
                if new.run.id != run_id:
                    with _locked(store, new.run.id) as held:
                        _equal("a command of another run", None, None if held is None else held.replied(asked))

    @rule(data=st.data(), limits=LIMITS)
    def a_run_is_glanced_at(self, data: st.DataObject, limits: Limits) -> None:
        run_id = self.chosen(data)
        seen = self.observations(data, run_id)
        self.both("glance", lambda store: store.glance(run_id, seen, limits))

    @rule(data=st.data(), limits=LIMITS)
    def a_decision_is_abandoned(self, data: st.DataObject, limits: Limits) -> None:
        """An exception inside the lock: nothing of it stays."""
        run_id = self.chosen(data)
        self.decided(run_id, self.observations(data, run_id), limits, decide, abandon=True)

    @rule(data=st.data())
    def a_held_run_is_locked_again(self, data: st.DataObject) -> None:
        run_id = self.chosen(data)

        def second(store: Store) -> bool:
            with _locked(store, run_id) as first, _locked(store, run_id) as again:
                return first is not None and again is None

        if not self.both("a second lock", second):
            raise AssertionError("a run was locked twice, or not at all")

    @initialize()
    def a_run_that_is_not_there_is_asked_for(self) -> None:
        nobody = RunId(UUID(int=7))
        calls: tuple[tuple[str, Callable[[Store], object]], ...] = (
            ("get", lambda store: store.get(nobody)),
            ("targets", lambda store: store.targets(nobody)),
            ("strays", lambda store: store.strays(nobody)),
            ("journal", lambda store: store.journal(nobody)),
            ("release", lambda store: store.release(nobody)),
            ("unsettled", lambda store: store.unsettled(nobody)),
            ("glance", lambda store: store.glance(nobody, (), Limits())),
            ("report", lambda store: store.report(nobody, "trouble", lambda _: timedelta(seconds=1), 3)),
            ("lock", lambda store: _locked(store, nobody).__enter__()),
        )
        for what, call in calls:
            for store in (self.model, self.tested):
                _equal(f"{what} of a run that is not there", _Outcome(error=NotFound), _outcome(lambda: call(store)))  # noqa: B023  # called at once
        self.both("wake of a run that is not there", lambda store: store.wake(nobody))

    # -- what happens outside --

    def observations(self, data: st.DataObject, run_id: RunId) -> list[Observation]:
        """Likely and unlikely, late and doubled."""
        targets = tuple(self.model.targets(run_id))
        count = data.draw(st.integers(0, 3))
        found: list[Observation] = []
        for _ in range(count):
            flying = [target for target in targets if target.status.holds_slot]
            about = data.draw(st.sampled_from(flying or targets))
            if data.draw(st.integers(0, 3)):
                found.append(self.answer(data, about))
            else:
                found.append(self.oddity(data, run_id, about))
        return found

    def hoped_for(self, about: Target) -> Observation:
        """The answer that brings a target on."""
        if isinstance(about.state, Submitted):
            return TaskObserved(
                target_id=about.id,
                task_id=about.state.task_id,
                status=TaskStatus.COMPLETED,
                message="done",
                looked_at=self.clock.now,
            )
        task_id = _task(about, about.attempt)
        return SubmissionAccepted(target_id=about.id, attempt=about.attempt, fence=about.fence, task_id=task_id)

    def answer(self, data: st.DataObject, about: Target) -> Observation:
        """Something that could be true of this target now."""
        message = data.draw(MESSAGES)
        if isinstance(about.state, Submitted):
            task_id = about.state.task_id
            if data.draw(st.integers(0, 4)) == 0:
                return TaskMissing(target_id=about.id, task_id=task_id, looked_at=self.clock.now)
            status = data.draw(LIKELY)
            return TaskObserved(
                target_id=about.id, task_id=task_id, status=status, message=message, looked_at=self.clock.now
            )
        claim: dict[str, Any] = {"target_id": about.id, "attempt": about.attempt, "fence": about.fence}
        match data.draw(st.sampled_from("aaaaccrux")):
            case "a":
                return SubmissionAccepted(**claim, task_id=_task(about, about.attempt))
            case "c":
                return SubmissionConflicted(**claim, message=message)
            case "r":
                return SubmissionRefused(**claim, message=message)
            case "u":
                return SubmissionUnknown(**claim, message=message)
            case _:
                return SubmissionAbsent(**claim, barred=data.draw(st.booleans()), looked_at=self.clock.now)

    def oddity(self, data: st.DataObject, run_id: RunId, about: Target) -> Observation:
        """Something late, or about another attempt, claim or task."""
        attempt = max(1, about.attempt - data.draw(st.integers(0, 1)))
        fence = max(0, about.fence - data.draw(st.integers(0, 1)))
        looked_at = self.clock.now - timedelta(seconds=data.draw(SECONDS))
        tasks = [stray.task_id for stray in self.model.strays(run_id)]
        task_id = data.draw(st.sampled_from([*tasks, _task(about, attempt), TaskId(f"ghost of {about.rack_name}")]))
        match data.draw(st.integers(0, 4)):
            case 0:
                return SubmissionAccepted(target_id=about.id, attempt=attempt, fence=fence, task_id=task_id)
            case 1:
                return SubmissionConflicted(target_id=about.id, attempt=attempt, fence=fence, message="late")
            case 2:
                return TaskMissing(target_id=about.id, task_id=task_id, looked_at=looked_at)
            case 3:
                return CancellationRefused(target_id=about.id, task_id=task_id, message="not now")
            case _:
                status = data.draw(st.sampled_from(TaskStatus))
                return TaskObserved(
                    target_id=about.id, task_id=task_id, status=status, message="late", looked_at=looked_at
                )

    def absences(self, run_id: RunId) -> list[Observation]:
        """The keys of all claims were looked up, and nothing is there."""
        return [
            SubmissionAbsent(
                target_id=found.id, attempt=found.attempt, fence=found.fence, barred=True, looked_at=self.clock.now
            )
            for found in self.model.targets(run_id)
            if isinstance(found.state, Claimed)
        ]

    def command(self, data: st.DataObject, run_id: RunId) -> Command:
        """Any command."""
        record = self.model.record(run_id)
        run, targets = record.run, list(record.targets)
        attempts = failed_attempts(tallies_at(record.phases, run.phase, run.opened))
        who: dict[str, Any] = {
            "command_id": CommandId(f"c{len(self.given)}"),
            "actor": data.draw(st.sampled_from(("ada", "bob"))),
            "expected_revision": data.draw(st.sampled_from((None, None, None, run.revision, run.revision + 1))),
        }
        match data.draw(st.sampled_from("prrraattttssc")):
            case "p":
                return Pause(**who)
            case "r":
                return Resume(**who, accept_failures=data.draw(st.sampled_from((attempts, attempts, None, 0))))
            case "a":
                return Advance(**who, expected_phase=run.phase + data.draw(st.sampled_from((1, 1, 0))))
            case "t":
                chosen = data.draw(st.lists(st.sampled_from(targets), min_size=1, max_size=2, unique=True))
                return Retry(**who, targets=tuple(chosen))
            case "s":
                status = data.draw(st.sampled_from(SETTLED))
                return Settle(**who, target=data.draw(st.sampled_from(targets)), status=status, why="it hangs")
            case _:
                return Cancel(**who, why="enough")

    # -- what must be equal --

    @invariant()
    def both_tell_the_same(self) -> None:
        self.both("next_due", lambda store: store.next_due())
        self.both("list", lambda store: tuple(store.list()))
        for new in self.made:
            run_id = new.run.id
            self.both("get", lambda store: store.get(run_id))  # noqa: B023  # called at once, here and below
            self.both("targets", lambda store: tuple(store.targets(run_id)))  # noqa: B023
            self.both("strays", lambda store: tuple(store.strays(run_id)))  # noqa: B023
            self.both("unsettled", lambda store: store.unsettled(run_id))  # noqa: B023
            known = self.compared.get(run_id, 0)
            new_entries = self.both("journal", lambda store: tuple(store.journal(run_id, after=known)))  # noqa: B023
            self.compared[run_id] = known + len(new_entries)

    @rule(data=st.data(), limit=st.integers(0, 3), offset=st.integers(0, 3))
    def a_part_is_asked_for(self, data: st.DataObject, limit: int, offset: int) -> None:
        run_id = self.chosen(data)
        statuses = data.draw(st.frozensets(st.sampled_from(TargetStatus), max_size=3))
        phases = data.draw(st.frozensets(st.integers(0, 3), max_size=2))
        self.both(
            "targets of some",
            lambda store: tuple(
                store.targets(run_id, statuses=statuses, phases=phases, limit=limit or None, offset=offset)
            ),
        )
        self.both("journal of some", lambda store: tuple(store.journal(run_id, after=offset, limit=limit or None)))
        where = data.draw(queries())
        self.both("list of some", lambda store: tuple(store.list(where, limit=limit, offset=offset)))
        self.both("count of some", lambda store: store.count(where))
        self.both("next_due of one", lambda store: store.next_due(only=run_id))

    def everything_is_compared(self) -> None:
        """The whole journals too, once, at the end."""
        self.compared.clear()
        self.both_tell_the_same()


def _locked(store: Store, run_id: RunId) -> AbstractContextManager[Any]:
    return store.lock(run_id, timedelta(0))


def _task(about: Target, attempt: int) -> TaskId:
    """The task of an attempt: every other one is a UUID, as some managers name theirs."""
    if about.sequence % 2:
        return TaskId(str(UUID(int=about.sequence * 1000 + attempt)))
    return TaskId(f"task-{about.rack_name}-{attempt}")


def _equal(what: str, expected: object, found: object) -> None:
    if expected != found:
        raise AssertionError(f"{what}: the memory store says\n  {expected}\nand the store under test\n  {found}")
