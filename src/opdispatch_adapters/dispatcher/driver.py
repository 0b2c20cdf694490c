"""The driver: a loop in a thread of its own, or one bounded pass for a scheduler that brings its own loop.

It wakes at once when a local task ends or an operator acts, when a run is due, and polls otherwise.  One run's
trouble is that run's alone: it is recorded beside the run, which backs off with jitter and is quarantined after so
many errors in a row.  The driver installs no signal handler, starts no thread before ``start`` and keeps nothing that
the store does not hold: any of any number of drivers may die at any instant.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Self, TypeVar
from uuid import uuid4

import attrs

from opdispatch.action import CancelTask, SubmitTask
from opdispatch.command import Command, Reply
from opdispatch.control import control
from opdispatch.errors import InvalidInput, OpdispatchError, Unavailable
from opdispatch.identity import RunId
from opdispatch.observation import Observation, storable
from opdispatch.ports import Store, TaskManager
from opdispatch.task import Ref

from .kept import Kept
from .settings import Settings
from .tick import Call, CarryOut, Controller, Idle, Observe, Served, command, serve

Listen = Callable[[Callable[[], None]], AbstractContextManager[object]]
_LOG: Final = logging.getLogger("opdispatch.dispatcher")
_T = TypeVar("_T")
_SHORTEST: Final = 0.01
"""The shortest sleep of the loop, in seconds."""


@attrs.frozen(kw_only=True)
class Pass:
    """What one bounded pass did: the runs served, those found busy, those in trouble, and whether time ran out."""

    served: tuple[RunId, ...] = ()
    busy: tuple[RunId, ...] = ()
    failed: tuple[RunId, ...] = ()
    out_of_time: bool = False


def boottime() -> float:
    """Seconds on a clock that no one sets and that goes on while the machine sleeps, as a lease in the store does."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


def carry_out_command(
    store: Store,
    run_id: RunId,
    asked: Command,
    settings: Settings,
    look: Callable[[Sequence[Ref], datetime], Sequence[Observation]],
    *,
    controller: Controller = control,
) -> Reply:
    """Carry an operator's command out.  ``look`` is called for a settle alone; when it fails, nothing was seen.
    ``controller`` decides what it does, for a host whose commands mean something of their own.

    Raises NotFound, Unavailable (the run is locked, or the store cannot be reached), CorruptRecord.
    """
    steps = command(store, run_id, asked, settings, controller=controller)
    try:
        call = next(steps)
        while True:
            if not isinstance(call, Observe):
                raise AssertionError("a command only looks")
            seen: tuple[Observation, ...] = ()
            try:
                seen = tuple(look(call.looks.refs, call.looks.looked_at))
            except Exception as error:
                _LOG.warning("the target could not be looked at: %s", error, exc_info=_trace_of(error))
            call = steps.send(seen)
    except StopIteration as stop:
        reply: Reply = stop.value
        return reply


def _trace_of(error: Exception) -> Exception | None:
    """What to show of an error besides its sentence: nothing of one that says all."""
    return None if isinstance(error, OpdispatchError) else error


class Dispatcher:
    """Serves the due runs of a store with a task manager.

    ``only`` restricts it to one run, for a program that attends to a single one; ``actor`` names it in the journal.
    What other processes do is noticed within ``settings.glance``, by asking the store when a run is next due.  Where
    the store can do better, ``changes`` gives a number that differs whenever anybody changed it, which is asked
    instead, or ``listen`` hears of it: the loop enters ``listen(heard)``, and ``heard`` may then be called from any
    thread; what it does not hear is noticed at the next poll.  Where the block is entered as False, nothing can be
    heard, and the store is asked.
    """

    def __init__(
        self,
        store: Store,
        tasks: TaskManager,
        settings: Settings | None = None,
        *,
        only: RunId | None = None,
        changes: Callable[[], int] | None = None,
        listen: Listen | None = None,
        actor: str | None = None,
        monotonic: Callable[[], float] = boottime,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.store = store
        self.tasks = tasks
        self.settings = settings if settings is not None else Settings()
        self.actor = actor if actor is not None else f"dispatcher-{os.getpid()}-{uuid4().hex[:8]}"
        self.only = only
        self._changes = changes
        self._listen_to_store = listen
        self._monotonic = monotonic
        self._jitter = jitter
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._last_pass: float | None = None
        self._last_turn: float | None = None
        self._outage: str | None = None
        self._silent: set[str] = set()
        self._changed: set[RunId] = set()
        self._guard = threading.Lock()
        self._listens = False
        self._hears = False
        self._floor = _SHORTEST
        self._starting = threading.Lock()
        self._kept = Kept(monotonic)

    # -- one bounded pass --

    def run_once(self, budget: timedelta | None = None) -> Pass:
        """Serve what is due now; never raises for one run.

        Without a ``budget`` each due run is served once.  With one, runs that are due again are served again until
        about so long has passed; it is looked at between runs, so a pass can be longer by one run's calls.  Does
        nothing once stopped.  Safe from any number of processes at once.  Raises Unavailable when the store cannot be
        reached.
        """
        return self._pass(budget, keeps=False)

    def _pass(self, budget: timedelta | None, *, keeps: bool) -> Pass:
        """One pass; ``keeps`` runs that are idle in mind instead of giving them back to the store."""
        if self._stopping.is_set():
            return Pass()
        end = None if budget is None else self._monotonic() + budget.total_seconds()
        done: dict[RunId, Served | Idle | None] = {}
        out_of_time = False
        self._listen()
        for run_id, lease_end in self._kept.due().items():
            done[run_id] = self._serve(run_id, lease_end)
        while not self._stopping.is_set() and not out_of_time:
            self._wake_changed()
            lease_end = self._monotonic() + self.settings.service_lease.total_seconds()
            due = self.store.due(self.settings.batch, self.settings.service_lease, only=self.only)
            self._kept.drop(due)
            new = [run_id for run_id in due if run_id not in done]
            again = end is not None and any(done.get(run_id) is Served.DONE for run_id in due)
            if not new and not again:
                self._give_back(due)
                break
            for index, run_id in enumerate(due):
                out_of_time = end is not None and self._monotonic() >= end
                if out_of_time or self._stopping.is_set():
                    self._give_back(due[index:])
                    break
                done[run_id] = self._serve(run_id, lease_end if keeps else None)
            if end is None and len(due) < self.settings.batch:
                break
        self._last_pass = self._monotonic()
        return Pass(
            served=tuple(run_id for run_id, ended in done.items() if isinstance(ended, Idle) or ended is Served.DONE),
            busy=tuple(run_id for run_id, ended in done.items() if ended is Served.BUSY),
            failed=tuple(run_id for run_id, ended in done.items() if ended is None),
            out_of_time=out_of_time,
        )

    def _give_back(self, taken: Sequence[RunId]) -> None:
        """Runs that were taken and not served are due for the next dispatcher at once, not after a lease."""
        for run_id in taken:
            self.store.wake(run_id)

    def _listen(self) -> None:
        """Hear of tasks that change, from the first pass on: making a dispatcher starts nothing, so a host may fork."""
        if self._listens:
            return
        try:
            self.tasks.on_change(self._task_changed)
            self._listens = True
        except Exception as error:
            # A hint that is not given costs a poll, never an outcome; the next pass asks again.
            _LOG.warning("tasks that end are noticed at the next poll only: %s", error, exc_info=_trace_of(error))

    def _task_changed(self, run_id: RunId) -> None:
        with self._guard:
            self._changed.add(run_id)
        self._wake.set()

    def _wake_changed(self) -> None:
        while True:
            with self._guard:
                if not self._changed:
                    return
                run_id = next(iter(self._changed))
            # Forgotten only once it is written; a hint that comes meanwhile is for what the next tick looks at anyway.
            try:
                self.store.wake(run_id)
            except Unavailable:
                raise
            except OpdispatchError as error:
                _LOG.warning("a hint that a task has changed is of no use: %s", error)
            with self._guard:
                self._changed.discard(run_id)

    def _serve(self, run_id: RunId, lease_end: float | None) -> Served | Idle | None:
        """How the tick ended; None when it failed and was reported.  An idle run is kept until its ``lease_end``."""
        self._kept.drop([run_id])
        ended = self._tick(run_id, peeks=lease_end is not None)
        if isinstance(ended, Idle) and lease_end is not None:
            self._kept.keep(run_id, ended.again.total_seconds(), lease_end)
        return ended

    def _tick(self, run_id: RunId, *, peeks: bool) -> Served | Idle | None:
        try:
            tick = serve(
                self.store,
                run_id,
                self.settings,
                capacity=self._capacity(),
                monotonic=self._monotonic,
                actor=self.actor,
                stopping=self._stopping.is_set,
                peeks=peeks,
            )
            call = next(tick)
            while True:
                call = tick.send(self._answer(call))
        except StopIteration as stop:
            ended: Served | Idle = stop.value
            return ended
        except Exception as error:
            # Whatever it is, it is this run's alone; what cannot be recorded either is the store's trouble.
            self._report(run_id, error)
            return None

    def _capacity(self) -> int | None:
        # One that cannot say it now begins nothing now; what is in flight goes on.
        nothing: tuple[int | None, ...] = ()
        said = self._tolerated("does not say how much it can begin", lambda: (self.tasks.capacity,), nothing)
        if not said:
            return 0
        (capacity,) = said
        if capacity is not None and capacity < 1:
            raise InvalidInput.at("tasks.capacity", f"{capacity} is below 1", "a manager that begins nothing is none")
        return capacity

    def _backoff(self, count: int) -> timedelta:
        doublings: int = 2 ** min(count - 1, 16)
        return min(self.settings.error_delay * doublings, self.settings.error_max_delay) * (0.5 + self._jitter() / 2)

    def _report(self, run_id: RunId, error: Exception) -> None:
        trace = _trace_of(error)
        message = storable(str(error) if trace is None else f"{type(error).__name__}: {error}")
        try:
            trouble = self.store.report(run_id, message, self._backoff, self.settings.quarantine_after)
        except OpdispatchError as also:
            if isinstance(also, Unavailable):
                # Raises where it is the store that is in trouble, and no run: that is told once, and the pass ends.  A
                # store that answers has this run's row held by somebody, for too long.
                self.store.next_due()
            _LOG.warning("the trouble of run %s could not be recorded: %s", run_id, also)
            trouble = None
        _LOG.warning("run %s could not be served: %s", run_id, message, exc_info=trace)
        if trouble is None:
            return
        if trouble.quarantined_at is not None:
            _LOG.error(
                "run %s is in quarantine after %d errors in a row; release it when mended", run_id, trouble.count
            )

    # -- calls --

    def _answer(self, call: Call) -> tuple[Observation, ...]:
        match call:
            case Observe(looks=looks):
                return self._answers(lambda: self.tasks.observe(looks.refs, looks.looked_at))
            case CarryOut():
                return self._carry_out(call)

    def _carry_out(self, call: CarryOut) -> tuple[Observation, ...]:
        cancels = [effect.ref for effect in call.effects if isinstance(effect, CancelTask)]
        requests = [effect.request for effect in call.effects if isinstance(effect, SubmitTask)]
        outcomes: list[Observation] = []
        if cancels:
            outcomes.extend(self._answers(lambda: self.tasks.cancel(cancels)))
        if requests and not self._stopping.is_set() and self._monotonic() <= call.not_after:
            # No answer is an answer too: what was not called, or not answered, is looked up when its lease ends.
            deadline = self.settings.call_deadline
            outcomes.extend(self._answers(lambda: self.tasks.submit(requests, deadline)))
        return tuple(outcomes)

    def _answers(self, call: Callable[[], Iterable[Observation] | None]) -> tuple[Observation, ...]:
        # An answer may come bit by bit, and fail in the middle; who has nothing to say may say nothing.
        return self._tolerated("does not answer", lambda: tuple(call() or ()), ())

    def _tolerated(self, what: str, call: Callable[[], _T], otherwise: _T) -> _T:
        """A call to the task manager that fails says nothing about any task: nobody knows what became of it.

        So it is no trouble of the run: what is in flight keeps its slots, and is looked at again at the next tick.
        """
        try:
            answer = call()
        except Exception as error:
            if what not in self._silent:
                _LOG.warning("the task manager %s: %s", what, error, exc_info=_trace_of(error))
            self._silent.add(what)
            return otherwise
        if what in self._silent:
            self._silent.discard(what)
            _LOG.warning("the task manager answers again")
        return answer

    def command(self, run_id: RunId, asked: Command, *, controller: Controller = control) -> Reply:
        """Carry an operator's command out and let the loop act on it at once.  See ``carry_out_command``.

        Raises NotFound, Unavailable (the run is locked, or the store cannot be reached), CorruptRecord.
        """
        try:
            look = self.tasks.observe
            return carry_out_command(self.store, run_id, asked, self.settings, look, controller=controller)
        finally:
            self._wake.set()

    # -- the loop --

    def start(self) -> None:
        """Start the loop in a thread of its own.  Does nothing when it runs already; waits for one that is stopping."""
        with self._starting:
            if self._thread is not None and self._thread.is_alive():
                if not self._stopping.is_set():
                    return
                self._thread.join()
            self._pid = os.getpid()
            self._stopping.clear()
            self._thread = threading.Thread(target=self._loop, name=self.actor, daemon=True)
            self._thread.start()

    def stop(self, timeout: timedelta | None = None) -> bool:
        """Start nothing new, let the calls in flight end, and end the loop.  True when it has ended within ``timeout``
        (None: wait as long as it takes); False when a call that the loop makes asks for it, which ends after that call.
        May be repeated; what was not called is taken up by the next dispatcher."""
        self._stopping.set()
        self._wake.set()
        thread = self._thread
        if thread is None:
            return True
        if os.getpid() != self._pid:
            raise RuntimeError(
                "a dispatcher that was started before a fork cannot be used in the child; make a new one"
            )
        if thread is threading.current_thread():
            # Asked for from within a call that the loop makes: it ends after that call.
            return False
        thread.join(None if timeout is None else max(timeout.total_seconds(), 0.0))
        return not thread.is_alive()

    def wake(self) -> None:
        """Look at once instead of at the next poll: something happened."""
        self._wake.set()

    @property
    def age(self) -> timedelta | None:
        """How long ago the last pass ended; None before the first.  A loop that lives has an age below about a poll."""
        return None if self._last_pass is None else timedelta(seconds=self._monotonic() - self._last_pass)

    @property
    def turn_age(self) -> timedelta | None:
        """How long ago the loop last began a turn, whatever became of it; None before the first.

        It tells that the loop is alive, also while the store is gone.
        """
        return None if self._last_turn is None else timedelta(seconds=self._monotonic() - self._last_turn)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _loop(self) -> None:
        try:
            hearing = nullcontext(False) if self._listen_to_store is None else self._listen_to_store(self._wake.set)
            with hearing as hears:
                self._hears = hears is not False
                self._turns()
        except BaseException:
            # An exit that a task manager or a listener let through ends the thread, and nobody else would tell.
            _LOG.critical("the dispatcher %s has ended", self.actor, exc_info=True)
            raise

    def _turns(self) -> None:
        while self._goes_on():
            try:
                done = self._pass(None, keeps=True)
                self._store_is_back()
                self._sleep(did_nothing=done == Pass())
            except Unavailable as error:
                self._store_is_gone(error)
                self._wake.wait(self.settings.poll.total_seconds())
            except Exception:
                _LOG.exception("a pass failed; the next one begins after a poll")
                self._wake.wait(self.settings.poll.total_seconds())

    def _goes_on(self) -> bool:
        """False once stopped, when the runs that were kept in mind are the next dispatcher's."""
        self._last_turn = self._monotonic()
        # In this order: a stop that comes after the clearing is seen by the test or ends the sleep.
        self._wake.clear()
        if not self._stopping.is_set():
            return True
        try:
            self._give_back(self._kept.give_up())
        except OpdispatchError as error:
            _LOG.warning("runs that were in service are taken up when their lease ends: %s", error)
        return False

    def _sleep(self, *, did_nothing: bool) -> None:
        """Wait until a run is due, somebody wakes the loop, or a poll has passed."""
        # A floor keeps a run that is due again and again (busy elsewhere) from turning the loop into a spin.  It grows
        # while a run is due and cannot be had: somebody holds its row.
        self._floor = min(2 * self._floor, self.settings.glance.total_seconds()) if did_nothing else _SHORTEST
        end = self._monotonic() + self.settings.poll.total_seconds()
        while not self._wake.is_set():
            version = None if self._changes is None else self._changes()
            following = self.store.next_due(only=self.only)
            waits = [end - self._monotonic(), self._kept.next_seconds()]
            waits.append(None if following is None else following.total_seconds())
            if self._waits_out(max(min(wait for wait in waits if wait is not None), self._floor), version):
                return

    def _waits_out(self, seconds: float, version: int | None) -> bool:
        """True when the time is over or the loop was woken; False when it is to look again what is due."""
        if self._hears:
            self._wake.wait(seconds)
            return True
        end, glance = self._monotonic() + seconds, self.settings.glance.total_seconds()
        while (left := end - self._monotonic()) > 0:
            if self._wake.wait(min(left, glance)):
                return True
            if left > glance and (self._changes is None or self._changes() != version):
                return False
        return True

    def _store_is_gone(self, error: Unavailable) -> None:
        if self._outage is None:
            _LOG.warning("the store is gone; dispatching resumes by itself when it is back: %s", error)
        self._outage = str(error)

    def _store_is_back(self) -> None:
        if self._outage is not None:
            _LOG.warning("the store is back")
        self._outage = None
