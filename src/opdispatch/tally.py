"""Tallies: how many targets of a group of phases are in each status, and how many attempts failed.

A store keeps one per phase and never recounts; ``counted`` is what they must equal after every transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from .target import FAILURES, Target, TargetStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts (>= 0) of targets by status.

    ``failed_before`` and ``terminated_before`` count the attempts that ended so in targets that were retried:
    they keep a gate's count from falling.
    """

    pending: int = 0
    claimed: int = 0
    blocked: int = 0
    submitted: int = 0
    completed: int = 0
    failed: int = 0
    terminated: int = 0
    skipped: int = 0
    failed_before: int = 0
    terminated_before: int = 0

    def __add__(self, other: Tally) -> Tally:
        # Most of what is added is nothing, and a tally takes long to make.
        if other is NOTHING:
            return self
        if self is NOTHING:
            return other
        return Tally(
            pending=self.pending + other.pending,
            claimed=self.claimed + other.claimed,
            blocked=self.blocked + other.blocked,
            submitted=self.submitted + other.submitted,
            completed=self.completed + other.completed,
            failed=self.failed + other.failed,
            terminated=self.terminated + other.terminated,
            skipped=self.skipped + other.skipped,
            failed_before=self.failed_before + other.failed_before,
            terminated_before=self.terminated_before + other.terminated_before,
        )

    @property
    def numbers(self) -> tuple[int, ...]:
        """All counts, in the order of the fields."""
        return (
            *(self.pending, self.claimed, self.blocked, self.submitted),
            *(self.completed, self.failed, self.terminated, self.skipped),
            *(self.failed_before, self.terminated_before),
        )

    def of(self, status: TargetStatus) -> int:
        """The number of targets in this status."""
        count: int = getattr(self, status)
        return count

    @property
    def total(self) -> int:
        """The number of targets."""
        return self.unsettled + self.settled

    @property
    def settled(self) -> int:
        """The number of targets with no work left."""
        return self.completed + self.failed + self.terminated + self.skipped

    @property
    def unsettled(self) -> int:
        """The number of targets that still have work left."""
        return self.pending + self.claimed + self.blocked + self.submitted

    @property
    def in_flight(self) -> int:
        """The number of targets that hold a slot."""
        return self.claimed + self.submitted

    def failures(self, outcomes: frozenset[TargetStatus]) -> int:
        """The failed attempts that ended in one of ``outcomes``, retried ones included."""
        count = 0
        if TargetStatus.FAILED in outcomes:
            count += self.failed + self.failed_before
        if TargetStatus.TERMINATED in outcomes:
            count += self.terminated + self.terminated_before
        return count

    def moved(self, before: Target, after: Target) -> Tally:
        """The tally after one target changed; a retried failure goes on counting as a failed attempt."""
        moves = Moves()
        moves.note(before, after)
        return self + moves.of(after.phase) if moves else self


NOTHING: Final = Tally()
"""The counts of no target."""


class Moves:
    """What the changes of targets amount to in each phase, gathered one by one: a working copy, to be read at the end.

    Cheap where many targets change, because a tally is made once and not for each of them.
    """

    def __init__(self) -> None:
        self._phases: dict[int, dict[str, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._phases)

    def note(self, before: Target, after: Target) -> None:
        """One target changed; a retried failure goes on counting as a failed attempt."""
        was, became = before.state.status, after.state.status
        if was is became:
            return
        counts = self._phases.get(after.phase)
        if counts is None:
            counts = self._phases[after.phase] = {}
        counts[was] = counts.get(was, 0) - 1
        counts[became] = counts.get(became, 0) + 1
        if after.attempt > before.attempt and was in FAILURES:
            name = f"{was}_before"
            counts[name] = counts.get(name, 0) + 1

    def of(self, phase: int) -> Tally:
        """How the counts of this phase changed: what is to be added to them, which may be below zero."""
        return Tally(**{str(name): change for name, change in self._phases.get(phase, {}).items()})

    def items(self) -> Iterator[tuple[int, Tally]]:
        """Each phase whose counts changed, with what is to be added to them."""
        return ((phase, self.of(phase)) for phase in self._phases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tallies:
    """The counts of a run, split at its pointer.

    ``earlier`` counts the phases before the current one, ``current`` that one, ``ahead`` the later ones that were
    opened before a retry moved the pointer back, and ``later`` those that were never opened.
    """

    earlier: Tally = NOTHING
    current: Tally = NOTHING
    ahead: Tally = NOTHING
    later: Tally = NOTHING
    opened: Tally = field(init=False, repr=False, compare=False)
    """Every phase opened so far."""
    everything: Tally = field(init=False, repr=False, compare=False)
    """The whole run."""

    def __post_init__(self) -> None:
        # Once, because every decision asks for them many times.
        opened = self.earlier + self.current + self.ahead
        object.__setattr__(self, "opened", opened)
        object.__setattr__(self, "everything", opened + self.later)


def tallies_at(phases: Sequence[Tally], phase: int, opened: int) -> Tallies:
    """The counts of all phases (index 0 first), split at a pointer and at the highest phase opened."""
    return Tallies(
        earlier=sum(phases[:phase], NOTHING),
        current=sum(phases[phase : phase + 1], NOTHING),
        ahead=sum(phases[phase + 1 : opened + 1], NOTHING),
        later=sum(phases[opened + 1 :], NOTHING),
    )


def counted(targets: Iterable[Target]) -> Tally:
    """The statuses of these targets, counted; attempts that failed before a retry cannot be seen on a target."""
    counts = dict.fromkeys(TargetStatus, 0)
    for target in targets:
        counts[target.status] += 1
    return Tally(**{status.value: count for status, count in counts.items()})
