"""The loop when there is nothing to do: what it keeps in mind, how it is woken, and when a tick gives way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from opdispatch.errors import Unavailable
from opdispatch.identity import RunId
from opdispatch.observation import Observation
from opdispatch.ports import Glance, Held, Looks, Trouble
from opdispatch.run import RunStatus
from opdispatch.state import Limits
from opdispatch.target import TargetStatus
from opdispatch.task import Ref, SubmissionRequest, TaskStatus
from opdispatch_adapters.dispatcher import Dispatcher, Settings
from opdispatch_adapters.dispatcher.kept import Kept
from opdispatch_adapters.dispatcher.tick import CarryOut, Idle, Observe, Served, serve
from opdispatch_adapters.memory import MemoryStore

from .test_dispatcher import Clock, InstantTasks, a_new_run
from .waiting import eventually

A, B = RunId(a_new_run("a").run.id), RunId(a_new_run("b").run.id)
SHORT = timedelta(milliseconds=20)
LONG = timedelta(minutes=10)
POLL = Settings().poll


class CountingStore(MemoryStore):
    """Counts what would be written: locks and takings."""

    def __init__(self, clock: Callable[[], object] | None = None) -> None:
        super().__init__(clock) if clock is not None else super().__init__()  # type: ignore[arg-type]
        self.locks = 0
        self.taken = 0

    def lock(self, run_id: RunId, wait: timedelta) -> AbstractContextManager[Held | None]:  # type: ignore[override]
        self.locks += 1
        return super().lock(run_id, wait)

    def due(self, limit: int, lease: timedelta, *, only: RunId | None = None) -> Sequence[RunId]:
        found = super().due(limit, lease, only=only)
        self.taken += len(found)
        return found


class WatchedTasks(InstantTasks):
    """Tasks that stay at work until they are told to end; counts the looks."""

    def __init__(self) -> None:
        super().__init__()
        self.status = TaskStatus.RUNNING
        self.looks = 0

    def observe(self, refs: Sequence[Ref], looked_at: object) -> Sequence[Observation]:
        self.looks += 1
        return super().observe(refs, looked_at)  # type: ignore[arg-type]


# -- what is kept in mind --


def test_a_kept_run_has_its_turn_when_it_is_time_and_is_forgotten_when_its_lease_is_over() -> None:
    clock = Clock()
    kept = Kept(clock.monotonic)
    kept.keep(A, 5.0, 12.0)
    kept.keep(B, 2.0, 30.0)

    assert (kept.due(), kept.next_seconds()) == ({}, 2.0)
    clock.passes(5)
    assert (kept.due(), kept.next_seconds()) == ({A: 12.0, B: 30.0}, 0.0)
    clock.passes(7)
    assert kept.due() == {B: 30.0}
    kept.drop([A, B])
    assert (kept.due(), kept.next_seconds()) == ({}, None)


def test_what_is_given_up_is_told_once() -> None:
    kept = Kept(Clock().monotonic)
    kept.keep(A, 5.0, 12.0)

    assert kept.give_up() == (A,)
    assert kept.give_up() == ()


# -- the tick that only glances --


def a_tick(
    store: MemoryStore, run_id: RunId, clock: Clock, tasks: InstantTasks, *, peeks: bool = True
) -> Served | Idle:
    tick = serve(store, run_id, Settings(), capacity=None, monotonic=clock.monotonic, actor="d", peeks=peeks)
    try:
        call = next(tick)
        while True:
            match call:
                case Observe(looks=looks):
                    call = tick.send(tuple(tasks.observe(looks.refs, looks.looked_at)))
                case CarryOut(effects=effects):
                    requests: list[SubmissionRequest] = [effect.request for effect in effects]  # type: ignore[union-attr]
                    call = tick.send(tuple(tasks.submit(requests, LONG)))
    except StopIteration as stop:
        ended: Served | Idle = stop.value
        return ended


def a_run_at_work(store: CountingStore, clock: Clock, tasks: InstantTasks) -> RunId:
    """A run whose slots are all in use, just taken for service."""
    run_id = store.create(a_new_run("one")).id
    store.due(1, timedelta(seconds=30))
    assert a_tick(store, run_id, clock, tasks) is Served.DONE
    clock.passes(POLL.total_seconds())
    # The first look is news: the tasks are at work.
    assert a_tick(store, run_id, clock, tasks) is Served.DONE
    clock.passes(POLL.total_seconds())
    assert store.due(1, timedelta(seconds=30)) == (run_id,)
    store.locks = 0
    return run_id


def test_a_tick_that_learns_nothing_takes_no_lock_and_says_when_to_look_again() -> None:
    clock, tasks = Clock(), WatchedTasks()
    store = CountingStore(clock)
    run_id = a_run_at_work(store, clock, tasks)
    before = store.get(run_id)

    assert a_tick(store, run_id, clock, tasks) == Idle(again=POLL)

    assert store.locks == 0
    assert store.get(run_id) == before


def test_a_tick_that_nobody_would_repeat_in_time_writes_when_the_run_is_due() -> None:
    clock, tasks = Clock(), WatchedTasks()
    store = CountingStore(clock)
    run_id = a_run_at_work(store, clock, tasks)

    assert a_tick(store, run_id, clock, tasks, peeks=False) is Served.DONE

    assert store.locks == 1
    assert store.next_due() == POLL


@pytest.mark.parametrize("status", [TaskStatus.COMPLETED, TaskStatus.FAILED])
def test_news_is_decided_on_under_the_lock(status: TaskStatus) -> None:
    clock, tasks = Clock(), WatchedTasks()
    store = CountingStore(clock)
    run_id = a_run_at_work(store, clock, tasks)
    tasks.status = status

    assert a_tick(store, run_id, clock, tasks) is Served.DONE

    assert store.locks > 0


class GlancingStore(CountingStore):
    """A store whose glances a test changes."""

    def __init__(self, clock: Clock, seen: Callable[[Glance], Glance | None]) -> None:
        super().__init__(clock)
        self._seen = seen

    def glance(self, run_id: RunId, observations: Sequence[Observation], limits: Limits) -> Glance | None:
        found = super().glance(run_id, observations, limits)
        assert found is not None
        return self._seen(found)


@pytest.mark.parametrize(
    "seen",
    [
        lambda glance: None,
        lambda glance: replace(glance, is_troubled=True),
        lambda glance: replace(glance, wake_at=None),
        lambda glance: replace(glance, wake_at=glance.state.now),
    ],
    ids=["it changed meanwhile", "it has an error to forget", "it is never due", "somebody woke it"],
)
def test_a_glance_that_may_hide_something_is_followed_by_the_lock(seen: Callable[[Glance], Glance | None]) -> None:
    clock, tasks = Clock(), WatchedTasks()
    store = GlancingStore(clock, seen)
    run_id = a_run_at_work(store, clock, tasks)

    assert a_tick(store, run_id, clock, tasks) is Served.DONE

    assert store.locks == 1


def test_a_tick_whose_time_is_over_claims_nothing_more_and_records_what_it_knows() -> None:
    clock, tasks = Clock(), InstantTasks()
    store = MemoryStore(clock)
    run_id = store.create(a_new_run("one", racks=6)).id
    tasks.before_submit = lambda: clock.passes(21)

    assert a_tick(store, run_id, clock, tasks) is Served.DONE

    assert len(tasks.submitted) == 2
    assert len(store.targets(run_id, statuses={TargetStatus.SUBMITTED})) == 2


# -- the loop --


def test_an_idle_run_is_looked_at_again_and_again_without_a_write_and_goes_on_when_something_happens() -> None:
    store, tasks = CountingStore(), WatchedTasks()
    run_id = store.create(a_new_run("one")).id

    with Dispatcher(store, tasks, Settings(poll=SHORT, service_lease=LONG)):
        eventually(lambda: tasks.looks, until=lambda looks: looks > 2)
        locks, taken = store.locks, store.taken
        eventually(lambda: tasks.looks, until=lambda looks: looks > 12)
        assert (store.locks, store.taken) == (locks, taken)
        tasks.status = TaskStatus.COMPLETED
        eventually(lambda: store.get(run_id).run.status, until=lambda status: status is RunStatus.COMPLETED)


def test_an_idle_run_is_taken_anew_when_its_lease_is_over() -> None:
    store, tasks = CountingStore(), WatchedTasks()
    store.create(a_new_run("one"))

    with Dispatcher(store, tasks, Settings(poll=SHORT, service_lease=4 * SHORT)):
        eventually(lambda: store.taken, until=lambda taken: taken > 4)
        eventually(lambda: tasks.looks, until=lambda looks: looks > store.taken)


def test_a_loop_that_is_stopped_gives_back_what_it_kept() -> None:
    store, tasks = CountingStore(), WatchedTasks()
    store.create(a_new_run("one"))

    with Dispatcher(store, tasks, Settings(poll=SHORT, service_lease=LONG)):
        eventually(lambda: tasks.looks, until=lambda looks: looks > 2)
        assert store.next_due() != timedelta(0)

    assert store.next_due() == timedelta(0)


def test_a_loop_that_cannot_give_back_what_it_kept_ends_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    store, tasks = CountingStore(), WatchedTasks()
    store.create(a_new_run("one"))
    dispatcher = Dispatcher(store, tasks, Settings(poll=SHORT, service_lease=LONG))
    dispatcher.start()
    eventually(lambda: tasks.looks, until=lambda looks: looks > 2)

    def gone(run_id: RunId) -> None:
        raise Unavailable("store", "it is gone", "try again later")

    store.wake = gone  # type: ignore[method-assign]

    assert dispatcher.stop(timedelta(seconds=10))
    assert "runs that were in service are taken up when their lease ends" in caplog.text


def test_the_loop_notices_what_another_process_did_within_a_glance() -> None:
    store, tasks = MemoryStore(), InstantTasks()

    with Dispatcher(store, tasks, Settings(poll=LONG, glance=SHORT)) as dispatcher:
        eventually(lambda: dispatcher.age, until=lambda age: age is not None)
        store.create(a_new_run("one"))
        eventually(lambda: tasks.submitted, until=bool)


class Hearing:
    """What a store that notifies gives: the loop's ear, while the loop lives."""

    def __init__(self) -> None:
        self.heard: Callable[[], None] | None = None

    @contextmanager
    def __call__(self, heard: Callable[[], None]) -> Iterator[None]:
        self.heard = heard
        yield
        self.heard = None


def test_the_loop_acts_at_once_on_what_it_hears_and_asks_for_nothing_meanwhile() -> None:
    store, tasks, hearing = CountingStore(), InstantTasks(), Hearing()
    asked = threading.Event()
    looking = store.next_due

    def next_due(*, only: RunId | None = None) -> timedelta | None:
        asked.set()
        return looking(only=only)

    store.next_due = next_due  # type: ignore[method-assign]

    with Dispatcher(store, tasks, Settings(poll=LONG, glance=SHORT), listen=hearing):
        assert asked.wait(10)
        store.create(a_new_run("one"))
        assert hearing.heard is not None
        hearing.heard()
        eventually(lambda: tasks.submitted, until=bool)

    assert hearing.heard is None


class OutOfReach(MemoryStore):
    """A store that is lost in the middle of every tick, with all that could be told to it, until it is back."""

    def __init__(self) -> None:
        super().__init__()
        self.ticks = 0
        self.is_back = False

    def due(self, limit: int, lease: timedelta, *, only: RunId | None = None) -> Sequence[RunId]:
        return super().due(limit, lease if self.is_back else timedelta(0), only=only)

    def unsettled(self, run_id: RunId) -> Looks:
        self.ticks += 1
        if not self.is_back:
            raise Unavailable("store", "it is gone", "try again later")
        return super().unsettled(run_id)

    def report(
        self, run_id: RunId, message: str, retry_in: Callable[[int], timedelta], quarantine_after: int
    ) -> Trouble:
        raise Unavailable("store", "it is gone", "try again later")

    def next_due(self, *, only: RunId | None = None) -> timedelta | None:
        if not self.is_back:
            raise Unavailable("store", "it is gone", "try again later")
        return super().next_due(only=only)


def test_a_store_that_is_lost_in_a_tick_is_the_trouble_of_no_run(caplog: pytest.LogCaptureFixture) -> None:
    store = OutOfReach()
    store.create(a_new_run("one"))
    store.create(a_new_run("two"))

    with pytest.raises(Unavailable, match="it is gone"):
        Dispatcher(store, InstantTasks()).run_once()

    assert caplog.text == ""


def test_an_outage_is_told_once_when_it_begins_and_once_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    store = OutOfReach()
    store.create(a_new_run("one"))

    with Dispatcher(store, InstantTasks(), Settings(poll=SHORT)):
        eventually(lambda: store.ticks, until=lambda ticks: ticks > 5)
        store.is_back = True
        eventually(lambda: caplog.text, until=lambda text: "the store is back" in text)

    assert caplog.text.count("the store is gone") == 1
    assert caplog.text.count("the store is back") == 1
    assert "could not be served" not in caplog.text
