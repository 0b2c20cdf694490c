"""Safety gates: when the failures say stop.

A gate counts failed *attempts* (a failure that was retried goes on counting, so the count never falls), less
what was accepted, and compares with its threshold; the denominator is always the targets of its scope.
Failed and terminated both count unless the gate narrows its outcomes; the reference counts failed alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique

from ..errors import InvalidInput
from ..target import FAILURES, TargetStatus


@unique
class GateScope(StrEnum):
    """Whose failures count: those of the current phase, or of every phase opened so far."""

    CURRENT_PHASE = "current_phase"
    CUMULATIVE_RUN = "cumulative_run"


def _check_outcomes(outcomes: frozenset[TargetStatus]) -> None:
    if not outcomes or not outcomes <= FAILURES:
        found = ", ".join(sorted(outcomes)) or "none"
        raise InvalidInput.at("$.gates.outcomes", f"it counts {found}", "count failed, terminated, or both")


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRateGate:
    """Trips when failures * 100 >= ``threshold_percent`` (1 to 100) * targets."""

    threshold_percent: int
    scope: GateScope = GateScope.CURRENT_PHASE
    outcomes: frozenset[TargetStatus] = FAILURES

    def __post_init__(self) -> None:
        _check_outcomes(self.outcomes)
        if not 1 <= self.threshold_percent <= 100:
            raise InvalidInput.at(
                "$.gates.threshold_percent", f"{self.threshold_percent} is not within 1 and 100"
            )

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
        _check_outcomes(self.outcomes)
        if self.threshold_count < 1:
            raise InvalidInput.at("$.gates.threshold_count", f"{self.threshold_count} is below 1")

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
