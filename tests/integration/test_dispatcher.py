"""The driver over the memory store: passes, the loop, isolation, and what a task manager may do to it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from opdispatch.candidate import Candidate
from opdispatch.command import Cancel, Pause, Resume, Settle
from opdispatch.decide import decide
from opdispatch.errors import CorruptRecord, InvalidInput, Unavailable
from opdispatch.identity import CommandId, ComponentId, RackId, RunId, TaskId
from opdispatch.observation import Observation, SubmissionAbsent, SubmissionAccepted, TaskObserved
from opdispatch.plan import NewRun, new_run, plan
from opdispatch.policy.gates import FailureCountGate
from opdispatch.policy.ordering import RandomOrdering
from opdispatch.policy.selection import PercentageSelector
from opdispatch.ports import Held, Trouble
from opdispatch.rollout import Rollout
from opdispatch.run import RunStatus
from opdispatch.state import Limits
from opdispatch.target import TargetStatus
from opdispatch.task import Operation, Ref, SubmissionRequest, TaskRef, TaskStatus
from opdispatch_adapters.dispatcher import Dispatcher, Pass, Settings, carry_out_command
from opdispatch_adapters.memory import MemoryStore
from opdispatch_adapters.sql import SqliteStore, migrate

from .waiting import eventually

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return (self.now - START).total_seconds()

    def passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class InstantTasks:
    """Every task completes at once; what it is asked is kept."""

    capacity: int | None = None

    def __init__(self) -> None:
        self.submitted: list[SubmissionRequest] = []
        self.status = TaskStatus.COMPLETED
        self.changed: Callable[[RunId], None] | None = None
        self.before_submit: Callable[[], object] = lambda: None

    def submit(self, requests: Sequence[SubmissionRequest], deadline: timedelta) -> Sequence[Observation]:
        self.before_submit()
        self.submitted.extend(requests)
        return [
            SubmissionAccepted(target_id=r.target_id, attempt=r.attempt, fence=r.fence, task_id=TaskId(r.key))
            for r in requests
        ]

    def observe(self, refs: Sequence[Ref], looked_at: datetime) -> Sequence[Observation]:
        return [self._look(ref, looked_at) for ref in refs]

    def _look(self, ref: Ref, looked_at: datetime) -> Observation:
        if isinstance(ref, TaskRef):
            return TaskObserved(
                target_id=ref.target_id, task_id=ref.task_id, status=self.status, message="", looked_at=looked_at
            )
        return SubmissionAbsent(
            target_id=ref.target_id, attempt=ref.attempt, fence=ref.fence, barred=ref.bar, looked_at=looked_at
        )

    def cancel(self, refs: Sequence[TaskRef]) -> Sequence[Observation]:
        return []

    def on_change(self, callback: Callable[[RunId], None]) -> None:
        self.changed = callback


def a_new_run(name: str, *, racks: int = 4, quota: int = 2) -> NewRun:
    candidates = [
        Candidate(id=RackId(UUID(int=i + 1)), name=f"r{i}", components={"compute": (ComponentId(UUID(int=100 + i)),)})
        for i in range(racks)
    ]
    rollout = Rollout(
        name=name,
        operation=Operation(type="test", code="do"),
        selector=PercentageSelector(percentage=100, seed="s"),
        ordering=RandomOrdering(seed="o"),
        max_concurrent_targets=quota,
        gates=(FailureCountGate(threshold_count=1),),
    )
    return new_run(plan(candidates, rollout), command_id=CommandId(name), actor="test", now=START)


def a_dispatcher(clock: Clock, store: MemoryStore, tasks: InstantTasks, **settings: timedelta | int) -> Dispatcher:
    return Dispatcher(
        store,
        tasks,
        Settings(**settings),  # type: ignore[arg-type]  # the tests pass each field its own type
        actor="d",
        monotonic=clock.monotonic,
        jitter=lambda: 1.0,
    )


def test_a_pass_serves_what_is_due_and_leaves_the_rest_to_the_next() -> None:
    clock, tasks = Clock(), InstantTasks()
    store = MemoryStore(clock)
    run = store.create(a_new_run("one"))
    dispatcher = a_dispatcher(clock, store, tasks)

    first = dispatcher.run_once()
    again = dispatcher.run_once()

    assert first.served == (run.id,)
    assert again.served == ()
    assert len(tasks.submitted) == 2


def test_a_run_ends_after_as_many_passes_as_it_needs() -> None:
    clock, tasks = Clock(), InstantTasks()
    store = MemoryStore(clock)
    run = store.create(a_new_run("one"))
    dispatcher = a_dispatcher(clock, store, tasks)

    for _ in range(3):
        dispatcher.run_once()
        clock.passes(10)

    assert store.get(run.id).run.status is RunStatus.COMPLETED
    assert len({request.key for request in tasks.submitted}) == 4


def test_a_hint_that_a_task_changed_makes_its_run_due_at_once() -> None:
    clock, tasks = Clock(), InstantTasks()
    store = MemoryStore(clock)
    run = store.create(a_new_run("one"))
    dispatcher = a_dispatcher(clock, store, tasks)
    dispatcher.run_once()
    assert tasks.changed is not None

    tasks.changed(run.id)
    served = dispatcher.run_once().served

    assert served == (run.id,)
    assert store.get(run.id).phases[0].completed == 2


def test_one_run_alone_is_served_when_only_one_is_asked_for() -> None:
    clock, tasks = Clock(), InstantTasks()
    store = MemoryStore(clock)
    store.create(a_new_run("other"))
    mine = store.create(a_new_run("mine"))
    dispatcher = Dispatcher(store, tasks, only=mine.id, monotonic=clock.monotonic)

    assert dispatcher.run_once().served == (mine.id,)


def test_a_claim_whose_permit_has_passed_is_not_called_for() -> None:
    clock, tasks = Clock(), InstantTasks()
    store = MemoryStore(clock)
    run = store.create(a_new_run("one"))
    now = [0.0]
    dispatcher = Dispatcher(store, tasks, monotonic=lambda: now[0], actor="d")
    locking = store.lock

    @contextmanager
    def stalls(run_id: RunId, wait: timedelta) -> Iterator[Held | None]:
        with locking(run_id, wait) as held:
            yield held
        now[0] += 25

    store.lock = stalls  # type: ignore[method-assign, assignment]

    dispatcher.run_once()

    assert tasks.submitted == []
    assert {t.status for t in store.targets(run.id, statuses={TargetStatus.CLAIMED})} == {TargetStatus.CLAIMED}


def test_a_task_manager_that_raises_fails_no_target() -> None:
    clock, tasks = Clock(), InstantTasks()
    store = MemoryStore(clock)
    run = store.create(a_new_run("one"))

    def outage() -> None:
        raise ConnectionError("connection refused")

    tasks.before_submit = outage
    served = a_dispatcher(clock, store, tasks).run_once()

    assert served.failed == ()
    assert store.get(run.id).phases[0].claimed == 2
    assert store.get(run.id).trouble is None


def test_an_outage_of_the_task_manager_is_no_trouble_of_a_run_and_fails_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, tasks = Clock(), InstantTasks()
    store = MemoryStore(clock)
    run = store.create(a_new_run("one"))
    dispatcher = a_dispatcher(clock, store, tasks)
    dispatcher.run_once()
    observe = tasks.observe

    def outage(refs: Sequence[Ref], looked_at: datetime) -> Sequence[Observation]:
        raise Unavailable("the task manager", "connection refused")

    tasks.observe = outage  # type: ignore[method-assign]  # the outage is what is under test
    for _ in range(30):
        clock.passes(60)
        dispatcher.run_once()
    during = store.get(run.id)
    tasks.observe = observe  # type: ignore[method-assign]
    for _ in range(4):
        clock.passes(10)
        dispatcher.run_once()

    assert (during.trouble, during.phases[0].submitted) == (None, 2)
    assert store.get(run.id).run.status is RunStatus.COMPLETED
    assert [r.message for r in caplog.records] == [
        "the task manager does not answer: the task manager is not available: connection refused; try again later",
        "the task manager answers again",
    ]


class OddTasks(InstantTasks):
    """What the port allows, and what nobody would write."""

    def __init__(self, odd: str) -> None:
        super().__init__()
        self.odd, self.is_down, self.status = odd, True, TaskStatus.RUNNING

    @property
    def capacity(self) -> int | None:  # type: ignore[override]  # it may be worked out
        if self.odd == "capacity" and self.is_down:
            raise ConnectionError("down")
        return None

    def observe(self, refs: Sequence[Ref], looked_at: datetime) -> Any:
        answers = super().observe(refs, looked_at)
        return self._bit_by_bit(answers) if self.odd == "observe" else answers

    def submit(self, requests: Sequence[SubmissionRequest], deadline: timedelta) -> Any:
        answers = super().submit(requests, deadline)
        return self._bit_by_bit(answers) if self.odd == "submit" else answers

    def _bit_by_bit(self, answers: Sequence[Observation]) -> Iterator[Observation]:
        yield from answers[:1]
        if self.is_down:
            raise ConnectionError("down")
        yield from answers[1:]

    def cancel(self, refs: Sequence[TaskRef]) -> Any:
        return None

    def on_change(self, callback: Callable[[RunId], None]) -> None:
        if self.odd == "on_change":
            raise NotImplementedError("no hints")


@pytest.mark.parametrize("odd", ["capacity", "observe", "submit", "cancel", "on_change"])
def test_whatever_a_task_manager_does_is_no_trouble_of_a_run(odd: str) -> None:
    clock, tasks = Clock(), OddTasks(odd)
    store = MemoryStore(clock)
    run_id = store.create(a_new_run("r")).id
    dispatcher = a_dispatcher(clock, store, tasks)
    for _ in range(12):
        assert dispatcher.run_once().failed == ()
        clock.passes(60)
    if odd == "cancel":
        dispatcher.command(run_id, Cancel(command_id=CommandId("c"), actor="ada"))
        assert dispatcher.run_once().failed == ()

    tasks.is_down, tasks.status = False, TaskStatus.COMPLETED
    for _ in range(12):
        assert dispatcher.run_once().failed == ()
        clock.passes(60)

    assert store.get(run_id).trouble is None
    assert store.get(run_id).run.status is (RunStatus.CANCELLED if odd == "cancel" else RunStatus.COMPLETED)


def test_a_settle_does_without_a_look_that_fails() -> None:
    clock, tasks = Clock(), OddTasks("cancel")
    store = MemoryStore(clock)
    run_id = store.create(a_new_run("r")).id
    dispatcher = a_dispatcher(clock, store, tasks)
    dispatcher.run_once()
    target = store.targets(run_id, statuses={TargetStatus.SUBMITTED})[0].id
    asked = Settle(command_id=CommandId("s"), actor="ada", target=target, status=TargetStatus.FAILED, why="it hangs")

    def look(refs: Sequence[Ref], looked_at: datetime) -> Sequence[Observation]:
        raise ConnectionError("down")

    assert carry_out_command(store, run_id, asked, Settings(), look).accepted


def test_a_hint_that_names_no_run_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    class Strict(MemoryStore):
        def wake(self, run_id: RunId) -> None:
            if not isinstance(run_id, UUID):
                raise InvalidInput.at("run", "it is no id")
            super().wake(run_id)

    clock, tasks = Clock(), InstantTasks()
    store = Strict(clock)
    run_id = store.create(a_new_run("r")).id
    dispatcher = a_dispatcher(clock, store, tasks)
    dispatcher.run_once()
    assert tasks.changed is not None
    tasks.changed("nonsense")  # type: ignore[arg-type]  # somebody's mistake
    tasks.changed(run_id)

    assert dispatcher.run_once().served == (run_id,)
    assert [text for text in caplog.messages if "of no use" in text] == [
        "a hint that a task has changed is of no use: run: it is no id"
    ]


def test_a_hint_that_comes_while_the_run_is_held_is_not_lost() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    run_id = store.create(a_new_run("r")).id
    with store.lock(run_id, timedelta(0)) as held:
        assert held is not None
        state = held.load((), Limits())
        store.wake(run_id)
        held.apply(state, decide(state), actor="d", served=True)

    assert store.next_due() == timedelta(0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exit_out_of_a_call_ends_the_loop_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    clock, tasks = Clock(), InstantTasks()
    store = MemoryStore(clock)
    store.create(a_new_run("r"))
    tasks.before_submit = sys.exit
    dispatcher = a_dispatcher(clock, store, tasks)
    with dispatcher:
        assert dispatcher._thread is not None
        dispatcher._thread.join()

    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("CRITICAL", "the dispatcher d has ended")
    ]


def test_a_listener_that_cannot_hear_leaves_the_loop_to_ask() -> None:
    store, tasks = MemoryStore(), InstantTasks()
    settings = Settings(poll=timedelta(hours=1), glance=timedelta(seconds=0.01))

    @contextmanager
    def deaf(heard: Callable[[], None]) -> Iterator[bool]:
        yield False

    with Dispatcher(store, tasks, settings, listen=deaf):
        store.create(a_new_run("r"))
        eventually(lambda: bool(tasks.submitted), what="a submission")


def test_a_longest_wait_below_the_first_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"dispatcher\.cancel_max_delay: 0:05:00 is below cancel_delay, 0:10:00"):
        Settings(cancel_delay=timedelta(minutes=10))


def test_who_starts_a_dispatcher_from_many_threads_starts_one_loop() -> None:
    dispatcher = Dispatcher(MemoryStore(), InstantTasks(), actor="the only one")
    starters = [threading.Thread(target=dispatcher.start) for _ in range(8)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()

    assert [thread.name for thread in threading.enumerate()].count("the only one") == 1
    assert dispatcher.stop()


class PoisonedStore(MemoryStore):
    """One run cannot be looked at."""

    poisoned: RunId | None = None
    error: Exception = CorruptRecord("the options of the run", "their version is 9")

    def unsettled(self, run_id: RunId):  # type: ignore[no-untyped-def]  # the base class says it
        if run_id == self.poisoned:
            raise self.error
        return super().unsettled(run_id)


@pytest.mark.parametrize("error", [CorruptRecord("the run", "version 9"), ZeroDivisionError("boom")])
def test_a_run_that_cannot_be_served_holds_up_no_other_and_says_why(error: Exception) -> None:
    clock, tasks = Clock(), InstantTasks()
    store = PoisonedStore(clock)
    bad, good = store.create(a_new_run("bad")), store.create(a_new_run("good"))
    store.poisoned, store.error = bad.id, error

    done = a_dispatcher(clock, store, tasks).run_once()

    assert (done.served, done.failed) == ((good.id,), (bad.id,))
    trouble = store.get(bad.id).trouble
    assert trouble is not None
    assert str(error) in trouble.message


class HeldRow(PoisonedStore):
    """Nor can the trouble be recorded: somebody holds the row."""

    def report(self, run_id: RunId, *_: Any) -> Trouble:
        raise Unavailable(f"run {run_id}", "it is locked")


def test_trouble_that_cannot_be_recorded_is_logged_and_holds_up_no_other_run(caplog: pytest.LogCaptureFixture) -> None:
    clock, tasks = Clock(), InstantTasks()
    store = HeldRow(clock)
    bad, good = store.create(a_new_run("bad")).id, store.create(a_new_run("good")).id
    store.poisoned = bad

    done = a_dispatcher(clock, store, tasks).run_once()

    assert (done.served, done.failed) == ((good,), (bad,))
    assert f"the trouble of run {bad} could not be recorded: run {bad} is not available: it is locked" in caplog.text


def test_errors_back_off_and_end_in_quarantine_until_a_release() -> None:
    clock, tasks = Clock(), InstantTasks()
    store = PoisonedStore(clock)
    run = store.create(a_new_run("bad"))
    store.poisoned = run.id
    dispatcher = a_dispatcher(clock, store, tasks, quarantine_after=3)

    waits = []
    for _ in range(3):
        assert dispatcher.run_once().failed == (run.id,)
        wake_at = store.get(run.id).wake_at
        assert wake_at is not None
        waits.append((wake_at - clock.now).total_seconds())
        clock.passes(waits[-1])
    quarantined = dispatcher.run_once()
    store.poisoned = None
    released = store.release(run.id)

    assert waits == [5.0, 10.0, 20.0]
    assert quarantined.failed == ()
    assert released
    assert dispatcher.run_once().served == (run.id,)


def test_a_budget_that_is_spent_gives_back_what_was_taken() -> None:
    clock, tasks = Clock(), InstantTasks()
    store = MemoryStore(clock)
    first, second = store.create(a_new_run("a")), store.create(a_new_run("b"))
    tasks.before_submit = lambda: clock.passes(3)
    dispatcher = a_dispatcher(clock, store, tasks)

    done = dispatcher.run_once(timedelta(seconds=2))

    assert done.out_of_time
    assert len(done.served) == 1
    left = ({first.id, second.id} - set(done.served)).pop()
    assert store.next_due(only=left) == timedelta(0)


def test_a_budget_is_used_for_runs_that_are_due_again() -> None:
    clock, tasks = Clock(), InstantTasks()
    store = MemoryStore(clock)
    run = store.create(a_new_run("one", racks=6))
    dispatcher = a_dispatcher(clock, store, tasks)

    def ends_at_once() -> None:
        assert tasks.changed is not None
        tasks.changed(run.id)

    tasks.before_submit = ends_at_once

    dispatcher.run_once(timedelta(seconds=60))

    assert store.get(run.id).run.status is RunStatus.COMPLETED


class RefusingAnswers(MemoryStore):
    """Every decision with something to carry in raises: the first round of a tick goes well, the second never."""

    def lock(self, run_id: RunId, wait: timedelta):  # type: ignore[no-untyped-def]  # the base class says it
        if wait > timedelta(0):
            raise CorruptRecord("the outcome", "it cannot be folded")
        return super().lock(run_id, wait)


def test_errors_of_a_later_round_add_up_although_the_first_one_went_well() -> None:
    clock, tasks = Clock(), InstantTasks()
    store = RefusingAnswers(clock)
    run = store.create(a_new_run("one"))
    dispatcher = a_dispatcher(clock, store, tasks, quarantine_after=3)

    counts = []
    for _ in range(3):
        tasks.changed = None
        dispatcher.run_once()
        trouble = store.get(run.id).trouble
        assert trouble is not None
        counts.append(trouble.count)
        clock.passes(60)

    assert counts == [1, 2, 3]
    assert dispatcher.run_once() == Pass()


def test_a_hint_that_cannot_be_had_costs_no_pass_and_is_asked_for_again() -> None:
    clock, tasks = Clock(), InstantTasks()
    store = MemoryStore(clock)
    run = store.create(a_new_run("one"))
    on_change, asked = tasks.on_change, []

    def fails_once(callback: Callable[[RunId], None]) -> None:
        asked.append(callback)
        if len(asked) == 1:
            raise Unavailable("the notice of ended tasks", "no space left on device")
        on_change(callback)

    tasks.on_change = fails_once  # type: ignore[method-assign]  # the refusal is what is under test
    dispatcher = a_dispatcher(clock, store, tasks)

    served = dispatcher.run_once().served
    dispatcher.run_once()
    dispatcher.run_once()

    assert served == (run.id,)
    assert len(asked) == 2
    assert tasks.changed is not None


def test_once_a_stop_is_asked_for_a_tick_claims_nothing_more_and_records_what_it_knows() -> None:
    clock, tasks = Clock(), InstantTasks()
    store = MemoryStore(clock)
    run = store.create(a_new_run("one"))
    dispatcher = a_dispatcher(clock, store, tasks)
    tasks.before_submit = dispatcher.stop

    dispatcher.run_once()

    assert len(tasks.submitted) == 2
    assert (store.get(run.id).phases[0].submitted, store.get(run.id).phases[0].claimed) == (2, 0)


def test_a_dispatcher_that_was_told_to_stop_can_be_started_before_it_has_ended() -> None:
    tasks, store = InstantTasks(), MemoryStore()
    run = store.create(a_new_run("one"))
    inside, go_on = threading.Event(), threading.Event()

    def waits() -> None:
        inside.set()
        go_on.wait(30)

    tasks.before_submit = waits
    dispatcher = Dispatcher(store, tasks, Settings(poll=timedelta(milliseconds=20)))
    dispatcher.start()
    assert inside.wait(30)
    ended = dispatcher.stop(timedelta(milliseconds=1))
    go_on.set()

    dispatcher.start()
    eventually(lambda: store.get(run.id).run.status.is_terminal)
    dispatcher.stop()

    assert not ended


def test_making_a_dispatcher_starts_nothing_and_the_first_pass_listens() -> None:
    clock, tasks = Clock(), InstantTasks()
    dispatcher = a_dispatcher(clock, MemoryStore(clock), tasks)
    before = tasks.changed

    dispatcher.run_once()

    assert before is None
    assert tasks.changed is not None


def test_a_task_manager_that_can_begin_nothing_is_refused() -> None:
    tasks = InstantTasks()
    tasks.capacity = 0

    store = MemoryStore()
    run = store.create(a_new_run("one"))
    Dispatcher(store, tasks).run_once()

    trouble = store.get(run.id).trouble
    assert trouble is not None
    assert "tasks.capacity: 0 is below 1" in trouble.message


def test_a_command_is_answered_and_repeated_with_the_same_reply() -> None:
    clock, tasks = Clock(), InstantTasks()
    store = MemoryStore(clock)
    run = store.create(a_new_run("one"))
    dispatcher = a_dispatcher(clock, store, tasks)
    pause = Pause(command_id=CommandId("p"), actor="op")

    first = dispatcher.command(run.id, pause)
    dispatcher.command(run.id, Resume(command_id=CommandId("r"), actor="op"))
    again = dispatcher.command(run.id, pause)

    assert first == again
    assert store.get(run.id).run.status is RunStatus.RUNNING


def test_a_command_on_a_locked_run_says_to_try_again() -> None:
    clock, tasks = Clock(), InstantTasks()
    store = MemoryStore(clock)
    run = store.create(a_new_run("one"))
    dispatcher = a_dispatcher(clock, store, tasks, lock_wait=timedelta(milliseconds=10))

    with store.lock(run.id, timedelta(0)), pytest.raises(Unavailable, match="locked"):
        dispatcher.command(run.id, Pause(command_id=CommandId("p"), actor="op"))


def test_a_run_that_somebody_else_holds_is_left_alone() -> None:
    clock, tasks = Clock(), InstantTasks()
    store = MemoryStore(clock)
    run = store.create(a_new_run("one"))

    with store.lock(run.id, timedelta(0)):
        done = a_dispatcher(clock, store, tasks).run_once()

    assert done.busy == (run.id,)


def test_the_loop_takes_a_run_to_its_end_and_stops() -> None:
    tasks, store = InstantTasks(), MemoryStore()
    run = store.create(a_new_run("one"))

    settings = Settings(poll=timedelta(milliseconds=20))
    with Dispatcher(store, tasks, settings) as dispatcher:
        eventually(lambda: store.get(run.id).run.status.is_terminal)
        assert store.get(run.id).run.status is RunStatus.COMPLETED
        assert dispatcher.age is not None

    assert dispatcher.stop(timedelta(seconds=5))


def test_the_loop_acts_on_what_another_process_did_long_before_the_next_poll(tmp_path: Path) -> None:
    migrate(tmp_path / "store.db")
    mine, theirs = SqliteStore(tmp_path / "store.db"), SqliteStore(tmp_path / "store.db")
    settings = Settings(poll=timedelta(hours=1), glance=timedelta(milliseconds=20))

    with Dispatcher(mine, InstantTasks(), settings, changes=mine.version) as dispatcher:
        eventually(lambda: dispatcher.age is not None, what="the first pass, which finds nothing")
        run = theirs.create(a_new_run("late", racks=2))
        eventually(lambda: theirs.get(run.id).phases[0].submitted == 2)

    mine.close()
    theirs.close()


def test_stopping_starts_nothing_new_and_may_be_repeated() -> None:
    clock, tasks = Clock(), InstantTasks()
    store = MemoryStore(clock)
    run = store.create(a_new_run("one"))
    dispatcher = a_dispatcher(clock, store, tasks)

    assert dispatcher.stop()
    assert dispatcher.stop()
    assert dispatcher.run_once().served == ()
    assert dispatcher.age is None
    assert store.next_due(only=run.id) == timedelta(0)


def test_a_claim_lease_below_three_deadlines_is_refused() -> None:
    with pytest.raises(Exception, match="three call deadlines"):
        Settings(claim_lease=timedelta(seconds=20))
