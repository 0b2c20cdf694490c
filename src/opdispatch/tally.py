"""Tallies: how many targets of a group of phases are in each status, and how many attempts failed.

A store keeps one per phase and never recounts; ``counted`` is what they must equal after every transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from .target import Target, TargetStatus


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
        return Tally(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def of(self, status: TargetStatus) -> int:
        """The number of targets in this status."""
        count: int = getattr(self, status.value)
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
        if before.status is after.status:
            return self
        changes = {
            before.status.value: self.of(before.status) - 1,
            after.status.value: self.of(after.status) + 1,
        }
        if after.attempt > before.attempt:
            if before.status is TargetStatus.FAILED:
                changes["failed_before"] = self.failed_before + 1
            if before.status is TargetStatus.TERMINATED:
                changes["terminated_before"] = self.terminated_before + 1
        return replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tallies:
    """The counts of a run, split at its pointer.

    ``earlier`` counts the phases before the current one, ``current`` that one, ``ahead`` the later ones that were
    opened before a retry moved the pointer back, and ``later`` those that were never opened.
    """

    earlier: Tally = Tally()
    current: Tally = Tally()
    ahead: Tally = Tally()
    later: Tally = Tally()

    @property
    def opened(self) -> Tally:
        """Every phase opened so far."""
        return self.earlier + self.current + self.ahead

    @property
    def everything(self) -> Tally:
        """The whole run."""
        return self.opened + self.later


def tallies_at(phases: Sequence[Tally], phase: int, opened: int) -> Tallies:
    """The counts of all phases (index 0 first), split at a pointer and at the highest phase opened."""
    return Tallies(
        earlier=sum(phases[:phase], Tally()),
        current=sum(phases[phase : phase + 1], Tally()),
        ahead=sum(phases[phase + 1 : opened + 1], Tally()),
        later=sum(phases[opened + 1 :], Tally()),
    )


def counted(targets: Iterable[Target]) -> Tally:
    """The statuses of these targets, counted; attempts that failed before a retry cannot be seen on a target."""
    counts = dict.fromkeys(TargetStatus, 0)
    for target in targets:
        counts[target.status] += 1
    return Tally(**{status.value: count for status, count in counts.items()})
