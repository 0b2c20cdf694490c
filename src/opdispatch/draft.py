"""A draft: the working copy of a state while one decision is being made.

It is the one mutable thing of the core.  It is made from a state and turned into a decision within one call, so no
caller ever sees it change.  Each change is applied to the copy as it is written down, by the same functions that
``evolve`` uses, so a later rule of the same decision sees what an earlier one did.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import get_args

from .action import (
    CohortAction,
    Decision,
    Effect,
    HeldBack,
    Outcome,
    RecordStray,
    RunAction,
    SkipUnstarted,
    Step,
    StrayAction,
    TargetAction,
    UpdateStray,
    changed_run,
    changed_target,
)
from .command import Command, Reply
from .identity import TargetId, TaskId
from .observation import Observation
from .run import Run
from .state import RunState
from .tally import NOTHING, Moves, Tallies, Tally
from .target import Stray, Target

_RUN_ACTIONS = frozenset(get_args(RunAction))
_TARGET_ACTIONS = frozenset(get_args(TargetAction))


class Draft:
    """One decision in the making."""

    def __init__(self, state: RunState) -> None:
        self.state = state
        self.run: Run = state.run
        self._tallies: Tallies = state.tallies
        self._pending = Moves()
        self._moves: dict[int, Tally] = {}
        self._standing = state.by_number()
        self._targets: dict[int, Target] = {}
        self._in_flight: tuple[Target, ...] | None = None
        self._changes_many = False
        self._strays: dict[TaskId, Stray] = {stray.task_id: stray for stray in state.strays}
        self._steps: list[Step] = []
        self._taken: dict[int, Observation] = {}
        self._held_back: list[HeldBack] = []

    @property
    def now(self) -> datetime:
        """The state's clock."""
        return self.state.now

    @property
    def tallies(self) -> Tallies:
        """The counts as they stand in this draft."""
        if self._pending:
            self._tallies = self._counted()
            self._pending = Moves()
        return self._tallies

    def _counted(self) -> Tallies:
        groups = dict.fromkeys(("earlier", "current", "ahead", "later"), NOTHING)
        for phase, change in self._pending.items():
            name = self._group_of(phase)
            groups[name] = groups[name] + change
            self._moves[phase] = self._moves.get(phase, NOTHING) + change
        return Tallies(**{name: getattr(self._tallies, name) + change for name, change in groups.items()})

    def _group_of(self, phase: int) -> str:
        if phase < self.run.phase:
            return "earlier"
        if phase == self.run.phase:
            return "current"
        return "ahead" if phase <= self.run.opened else "later"

    def target(self, target_id: TargetId) -> Target | None:
        """The target as it stands in this draft; None when the window does not hold it."""
        return self._standing.get(target_id.int)

    def stray(self, task_id: TaskId) -> Stray | None:
        """The stray as it stands in this draft."""
        return self._strays.get(task_id)

    @property
    def open_strays(self) -> tuple[Stray, ...]:
        """Strays not yet seen to be over."""
        return tuple(stray for stray in self._strays.values() if stray.is_open)

    @property
    def has_changes(self) -> bool:
        """True when anything was written down."""
        return bool(self._steps)

    @property
    def length(self) -> int:
        """How many steps were written down."""
        return len(self._steps)

    @property
    def changed(self) -> tuple[Target, ...]:
        """The targets that this draft changed, in the order of their first change."""
        return tuple(self._targets.values())

    @property
    def in_flight(self) -> tuple[Target, ...]:
        """Every target that holds a slot now, by sequence."""
        if self._in_flight is None:
            held = {t.id.int: t for t in self.state.in_flight} | self._targets
            flying = (t for t in held.values() if t.state.status.holds_slot)
            self._in_flight = tuple(sorted(flying, key=lambda t: t.sequence))
        return self._in_flight

    @property
    def slots_used(self) -> int:
        """Slots in use: claimed and submitted targets, and strays not yet over."""
        return self.tallies.everything.in_flight + len(self.open_strays)

    def change(self, change: RunAction | TargetAction | CohortAction | StrayAction, because: str) -> None:
        """Write a change down and apply it to the copy."""
        kind = type(change)
        if kind in _TARGET_ACTIONS:
            self._change_target(change)  # type: ignore[arg-type]  # its type was looked up
        elif kind in _RUN_ACTIONS:
            # What was counted so far was counted by where the pointer was.
            self._tallies = self.tallies
            self.run = changed_run(self.run, change)  # type: ignore[arg-type]
        elif isinstance(change, RecordStray | UpdateStray):
            self._strays[change.stray.task_id] = change.stray
        else:
            self._changes_many = True
            if isinstance(change, SkipUnstarted):
                self._tallies = _skipped(self.tallies)
        self._steps.append(Step(action=change, because=because))

    def _change_target(self, change: TargetAction) -> None:
        number = change.target_id.int
        before = self._standing.get(number)
        if before is None:
            raise LookupError(f"target {change.target_id} is not in the window")
        after = changed_target(before, change)
        self._standing[number] = self._targets[number] = after
        self._pending.note(before, after)
        self._in_flight = None

    def effect(self, effect: Effect, because: str) -> None:
        """Write an effect down."""
        self._steps.append(Step(action=effect, because=because))

    def take(self, index: int) -> None:
        """Note that the observation at this index of the state was taken into account."""
        self._taken[index] = self.state.observations[index]

    def hold_back(self, held: HeldBack) -> None:
        """Say what was not done, and why."""
        self._held_back.append(held)

    def decision(
        self, wake_at: datetime | None, *, command: Command | None = None, reply: Reply | None = None
    ) -> Decision:
        """The decision that this draft amounts to."""
        outcome = None
        # What many targets at once become is known to whoever holds them all.
        if not self._changes_many:
            self._tallies = self.tallies
            outcome = Outcome(targets=self.changed, moves=self._moves)
        return Decision(
            run_id=self.run.id,
            at=self.now,
            steps=tuple(self._steps),
            held_back=tuple(self._held_back),
            wake_at=wake_at,
            observations=tuple(self._taken[index] for index in sorted(self._taken)),
            command=command,
            reply=reply,
            outcome=outcome,
        )


def _skipped(tallies: Tallies) -> Tallies:
    return Tallies(
        earlier=skipped_tally(tallies.earlier),
        current=skipped_tally(tallies.current),
        ahead=skipped_tally(tallies.ahead),
        later=skipped_tally(tallies.later),
    )


def skipped_tally(tally: Tally) -> Tally:
    """The counts after everything that has not started is skipped."""
    return replace(tally, pending=0, blocked=0, skipped=tally.skipped + tally.pending + tally.blocked)
