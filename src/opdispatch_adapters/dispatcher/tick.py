"""One tick of one run, without the calls: a generator that says what to call and is sent what came back.

The store is used here, the task manager is not: every call to it is a yielded value, made outside any transaction
by whoever drives the generator.  The driver makes real calls; a simulation makes what it likes of them, crashes
between any two, and so tests this very code.

Everything that happened comes in as observations, and everything to do goes out as effects; the outcome of a
submission is an observation like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto

from opdispatch.action import Decision, Effect, SubmitTask
from opdispatch.command import Command, Reply, Settle, named_targets
from opdispatch.control import control
from opdispatch.decide import decide
from opdispatch.errors import Unavailable
from opdispatch.identity import RunId
from opdispatch.journal import needs_entry
from opdispatch.observation import Observation, TaskObserved
from opdispatch.ports import Looks, Store
from opdispatch.state import Limits, RunState

from .settings import Settings

Decider = Callable[[RunState], Decision]
Controller = Callable[[RunState, Command], Decision]
Observations = tuple[Observation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observe:
    """Look at these tasks and keys."""

    looks: Looks


@dataclass(frozen=True, slots=True, kw_only=True)
class CarryOut:
    """Carry these effects out, in parallel where that helps.

    A submission may begin only until ``not_after``, on the monotonic clock that the tick was given: later its claim
    may be over before the call is.  A submission that is not made needs no answer.
    """

    effects: tuple[Effect, ...]
    not_after: float


Call = Observe | CarryOut


class Served(Enum):
    """How a tick ended."""

    DONE = auto()
    """Nothing new is to be decided now."""
    BUSY = auto()
    """Somebody else holds the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """How a tick ended that found nothing to decide, took no lock and wrote nothing.

    In the store the run is due when the lease of whoever took it for service ends; it must be looked at ``again``,
    which is before that, so its taker keeps it in mind.
    """

    again: timedelta


def serve(
    store: Store,
    run_id: RunId,
    settings: Settings,
    *,
    capacity: int | None,
    monotonic: Callable[[], float],
    actor: str,
    stopping: Callable[[], bool] = lambda: False,
    peeks: bool = False,
    decider: Decider = decide,
) -> Generator[Call, Observations, Served | Idle]:
    """Decide on one run until nothing new is to be decided, at most ``settings.max_rounds`` times.

    Yields calls and is sent their observations.  The first round skips a run that somebody else holds; later ones
    carry the outcomes of calls that were made, so they wait for the lock.  A last round claims nothing, so that
    every outcome that is known is recorded; that round comes next once ``stopping`` says so, or when
    ``settings.run_budget`` is used up.  With ``peeks``, for a caller that keeps a run in mind, a tick whose looks tell
    nothing new first glances at the run, and ends there when nothing is to be decided.
    """
    end = monotonic() + settings.run_budget.total_seconds()
    looks = store.unsettled(run_id)
    observations: Observations = (yield Observe(looks=looks)) if looks.refs else ()
    if peeks and looks.refs and not any(map(_is_news, observations)):
        idle = _peeked(store, run_id, observations, settings.limits(capacity), decider)
        if idle is not None:
            return idle
    for number in range(settings.max_rounds + 1):
        began = monotonic()
        is_last = number == settings.max_rounds or stopping() or began >= end
        wait = settings.lock_wait if number else timedelta(0)
        with store.lock(run_id, wait) as held:
            if held is None:
                return Served.BUSY
            state = held.load(observations, settings.limits(0 if is_last else capacity))
            decision = decider(state)
            at_once = decision.wake_at is not None and decision.wake_at <= state.now
            is_last = is_last or not (decision.effects or at_once)
            held.apply(state, decision, actor=actor, served=is_last)
        observations = ()
        if decision.effects:
            # A manager that begins a batch bit by bit takes up to a deadline for that.
            spared = settings.call_deadline * (1 if capacity is None else 2)
            permit = (settings.claim_lease - spared).total_seconds()
            observations = yield CarryOut(effects=decision.effects, not_after=began + permit)
        if is_last:
            break
    return Served.DONE


def _is_news(observation: Observation) -> bool:
    """True unless it says no more than that a task is still at work."""
    return not isinstance(observation, TaskObserved) or observation.status.is_over


def _peeked(store: Store, run_id: RunId, observations: Observations, limits: Limits, decider: Decider) -> Idle | None:
    """When to look again at a run about which there is nothing to decide; None when there is, or may be."""
    seen = store.glance(run_id, observations, limits)
    if seen is None or seen.is_troubled or seen.wake_at is None:
        return None
    decision = decider(seen.state)
    if needs_entry(decision) or decision.wake_at is None or not seen.state.now < decision.wake_at <= seen.wake_at:
        return None
    return Idle(again=decision.wake_at - seen.state.now)


def command(
    store: Store,
    run_id: RunId,
    asked: Command,
    settings: Settings,
    *,
    controller: Controller = control,
) -> Generator[Call, Observations, Reply]:
    """Carry one command out, or give the reply that it got before.

    A settle looks first, because a claimed target can be settled only once its key was looked up.  Raises Unavailable
    when the run is held for longer than ``settings.lock_wait``, NotFound when there is no such run, and InvalidInput
    when the command's id named another one before.
    """
    observations: Observations = ()
    if isinstance(asked, Settle):
        looks = store.unsettled(run_id)
        refs = tuple(ref for ref in looks.refs if ref.target_id == asked.target)
        if refs:
            observations = yield Observe(looks=Looks(refs=refs, looked_at=looks.looked_at))
    with store.lock(run_id, settings.lock_wait) as held:
        if held is None:
            raise Unavailable(f"run {run_id}", f"it is locked for more than {settings.lock_wait}")
        before = held.replied(asked)
        if before is not None:
            return before
        state = held.load(observations, settings.limits(None), named=named_targets(asked))
        decision = controller(state, asked)
        held.apply(state, decision, actor=asked.actor, served=False)
    if decision.reply is None:
        raise AssertionError("control gives every command a reply")
    return decision.reply


def submissions(effects: tuple[Effect, ...]) -> tuple[SubmitTask, ...]:
    """The submissions among these effects, in order."""
    return tuple(effect for effect in effects if isinstance(effect, SubmitTask))
