"""Safety gates: when the failures say stop.

A gate counts failed *attempts* (a failure that was retried goes on counting, so the count never falls), less
what was accepted, and compares with its threshold; the denominator is always the targets of its scope.
Failed and terminated both count unless the gate narrows its outcomes; the reference counts failed alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique

from ..errors import InvalidInput, Problem
from ..target import FAILURES, TargetStatus


@unique
class GateScope(StrEnum):
    """Whose failures count: those of the current phase, or of every phase opened so far."""

    CURRENT_PHASE = "current_phase"
    CUMULATIVE_RUN = "cumulative_run"


def _refuse(name: str, wrong: str, outcomes: frozenset[TargetStatus]) -> None:
    """Raise what is wrong with a threshold (empty: nothing) and with the outcomes that a gate counts, if anything."""
    problems = [Problem(place=f"$.gates.{name}", found=wrong)] if wrong else []
    if not outcomes or not outcomes <= FAILURES:
        found = f"it counts {', '.join(sorted(outcomes)) or 'none'}"
        problems.append(Problem(place="$.gates.outcomes", found=found, remedy="count failed, terminated, or both"))
    if problems:
        raise InvalidInput(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRateGate:
    """Trips when failures * 100 >= ``threshold_percent`` (1 to 100) * targets."""

    threshold_percent: int
    scope: GateScope = GateScope.CURRENT_PHASE
    outcomes: frozenset[TargetStatus] = FAILURES

    def __post_init__(self) -> None:
        fits = 1 <= self.threshold_percent <= 100
        wrong = "" if fits else f"{self.threshold_percent} is not within 1 and 100"
        _refuse("threshold_percent", wrong, self.outcomes)

    def trips(self, failures: int, targets: int) -> bool:
        """Whether so many failures (accepted ones already subtracted) among so many targets are too many."""
        return targets > 0 and failures * 100 >= self.threshold_percent * targets

    def describe(self, failures: int, targets: int) -> str:
        """What tripped, with counts and threshold; the percentage is rounded down."""
        percent = failures * 100 // targets if targets else 0
        return (
            f"failure_rate safety gate tripped for {self.scope}: {failures}/{targets} targets failed "
            f"({percent}%, threshold {self.threshold_percent}%)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCountGate:
    """Trips when failures >= ``threshold_count`` (>= 1)."""

    threshold_count: int
    scope: GateScope = GateScope.CURRENT_PHASE
    outcomes: frozenset[TargetStatus] = FAILURES

    def __post_init__(self) -> None:
        wrong = "" if self.threshold_count >= 1 else f"{self.threshold_count} is below 1"
        _refuse("threshold_count", wrong, self.outcomes)

    def trips(self, failures: int, targets: int) -> bool:
        """Whether so many failures (accepted ones already subtracted) are too many."""
        return targets > 0 and failures >= self.threshold_count

    def describe(self, failures: int, targets: int) -> str:
        """What tripped, with counts and threshold."""
        return (
            f"failure_count safety gate tripped for {self.scope}: {failures}/{targets} targets failed "
            f"(threshold {self.threshold_count})"
        )


Gate = FailureRateGate | FailureCountGate
