"""Worlds whose driver, store or looks break one rule each; the core in them is the real one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from opdispatch.action import Action, Decision, SettleTarget
from opdispatch.command import Command, Reply
from opdispatch.identity import RunId
from opdispatch.observation import Observation, SubmissionAbsent
from opdispatch.ports import Looks
from opdispatch.state import Limits, RunState
from opdispatch.target import TargetStatus
from opdispatch.task import TaskRef
from opdispatch_adapters.dispatcher.tick import CarryOut, Observe
from opdispatch_adapters.testing.simulation import World

from .mutant import Mutant, with_actions


class _Store:
    """A store that passes everything on."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def lock(self, run_id: RunId, wait: timedelta) -> Iterator[Any]:
        with self._store.lock(run_id, wait) as held:
            yield None if held is None else self.held(held)

    def held(self, held: Any) -> Any:
        """The locked run, as this store gives it."""
        return held


class _Held:
    def __init__(self, held: Any) -> None:
        self._held = held

    def __getattr__(self, name: str) -> Any:
        return getattr(self._held, name)


class _ForgetsReplies(_Store):
    def held(self, held: Any) -> Any:
        class Forgetful(_Held):
            def replied(self, asked: Command) -> Reply | None:
                return None

        return Forgetful(held)


class _CountsWrongly(_Store):
    """It counts the current phase twice."""

    def held(self, held: Any) -> Any:
        class Lazy(_Held):
            def load(self, observations: Sequence[Observation], limits: Limits, **more: Any) -> RunState:
                state: RunState = self._held.load(observations, limits, **more)
                return replace(state, tallies=replace(state.tallies, earlier=state.tallies.current))

        return Lazy(held)


class _NarrowWindow(_Store):
    """It loads fewer of what is in flight than there are."""

    def held(self, held: Any) -> Any:
        class Narrow(_Held):
            def load(self, observations: Sequence[Observation], limits: Limits, **more: Any) -> RunState:
                state: RunState = self._held.load(observations, limits, **more)
                return replace(state, in_flight=state.in_flight[:1])

        return Narrow(held)


class _LosesSteps(_Store):
    """It journals what was decided, and writes only the first change."""

    def held(self, held: Any) -> Any:
        class Lossy(_Held):
            def apply(self, state: RunState, decision: Decision, **more: Any) -> None:
                self._held.apply(state, replace(decision, steps=decision.steps[:1]), **more)

        return Lossy(held)


class _WritesAnotherOutcome(_Store):
    """It writes, and journals, that what failed was skipped."""

    def held(self, held: Any) -> Any:
        def softened(action: Action) -> Action:
            if isinstance(action, SettleTarget) and action.status is TargetStatus.FAILED:
                return replace(action, status=TargetStatus.SKIPPED)
            return action

        class Kind(_Held):
            def apply(self, state: RunState, decision: Decision, **more: Any) -> None:
                self._held.apply(state, with_actions(decision, softened), **more)

        return Kind(held)


class _LooksUpNothing(_Store):
    def unsettled(self, run_id: RunId) -> Looks:
        looks: Looks = self._store.unsettled(run_id)
        return replace(looks, refs=tuple(ref for ref in looks.refs if isinstance(ref, TaskRef)))


class ForgetsReplies(World):
    """A repeated command is carried out again."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.store = _ForgetsReplies(self.memory)


class WrongCounts(World):
    """The store counts wrongly."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.store = _CountsWrongly(self.memory)


class NarrowWindow(World):
    """The store's window is too small."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.store = _NarrowWindow(self.memory)


class LosesSteps(World):
    """The store writes half of a decision."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.store = _LosesSteps(self.memory)


class WritesAnotherOutcome(World):
    """The store writes another decision than was made."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.store = _WritesAnotherOutcome(self.memory)


class LooksUpNothing(World):
    """Keys of claims whose lease is over are not looked up."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.store = _LooksUpNothing(self.memory)


class CallsWithoutPermit(World):
    """Calls are made however late it is."""

    def may_begin(self, call: CarryOut) -> bool:
        return True


class EarlyAbsence(World):
    """Every claim is looked up, lease or no lease, and what is not there counts as looked for in time."""

    def look(self, call: Observe) -> list[Observation]:
        later = self.now + timedelta(minutes=1)
        claimed = [target for target in self.record.targets.values() if target.status.value == "claimed"]
        told = [
            SubmissionAbsent(
                target_id=target.id, attempt=target.attempt, fence=target.fence, barred=False, looked_at=later
            )
            for target in claimed
        ]
        return [*told, *super().look(call)]


WORLDS: Final = (
    Mutant(name="a repeated command acts again", rule="repeated", world=ForgetsReplies),
    Mutant(name="the store counts wrongly", rule="totals", world=WrongCounts),
    Mutant(name="the store's window is too small", rule="window", world=NarrowWindow),
    Mutant(name="the store writes half a decision", rule="atomic", world=LosesSteps),
    Mutant(name="the store writes another outcome", rule="atomic", world=WritesAnotherOutcome),
    Mutant(name="keys are never looked up", rule="progress", world=LooksUpNothing),
    Mutant(name="calls are made without a permit", rule="a claim is a permit", world=CallsWithoutPermit),
    Mutant(name="a claim in flight is given up", rule="once", world=EarlyAbsence),
)
