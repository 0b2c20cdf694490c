"""Holds: what keeps a run from starting anything new, in the order in which they are shown.

The operator and the conflict hold are stored in the run; the safety and the phase hold follow from its counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from .action import Wait
from .policy.gates import Gate, GateScope
from .run import Accepted, Run, StatusReason
from .tally import Tallies
from .target import FAILURES


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One reason to start nothing new."""

    reason: StatusReason
    wait: Wait
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrippedGate:
    """A gate that trips beyond what was accepted.

    ``index`` is its place in the rollout; ``phase`` the current phase for a gate of that scope, else None;
    ``failures`` all that it counts, ``accepted`` how many of them were accepted, ``targets`` its denominator.
    """

    index: int
    gate: Gate
    phase: int | None
    failures: int
    accepted: int
    targets: int

    def describe(self) -> str:
        """Gate, scope, counts, threshold and what was accepted."""
        text = self.gate.describe(self.failures, self.targets)
        return f"{text}; {self.accepted} accepted before" if self.accepted else text

    def acceptance(self) -> Accepted:
        """The acceptance of everything that this gate counts now."""
        return Accepted(gate=self.index, phase=self.phase, failures=self.failures)


def failed_attempts(tallies: Tallies) -> int:
    """The failed attempts of the whole run: the number that a resume accepts."""
    return tallies.everything.failures(FAILURES)


def tripped_gates(run: Run, tallies: Tallies) -> tuple[TrippedGate, ...]:
    """Every gate that is tripped, in the rollout's order."""
    tripped = []
    for index, gate in enumerate(run.rollout.gates):
        cumulative = gate.scope is GateScope.CUMULATIVE_RUN
        scope = tallies.opened if cumulative else tallies.current
        phase = None if cumulative else run.phase
        failures, accepted = scope.failures(gate.outcomes), run.accepted_failures(index, phase)
        if gate.trips(failures - accepted, scope.total):
            tripped.append(
                TrippedGate(
                    index=index, gate=gate, phase=phase, failures=failures, accepted=accepted, targets=scope.total
                )
            )
    return tuple(tripped)


def safety_message(tripped: tuple[TrippedGate, ...], tallies: Tallies) -> str:
    """The message of a safety hold: the first gate that tripped, and the number that a resume must accept."""
    attempts = failed_attempts(tallies)
    noun = "failed attempt" if attempts == 1 else "failed attempts"
    return f"{tripped[0].describe()}; {attempts} {noun} in the whole run"


def next_phase(run: Run, tallies: Tallies) -> int | None:
    """The phase that follows a settled current phase; None while it is not settled, or when it is the last."""
    if tallies.current.unsettled or run.phase + 1 >= run.phases:
        return None
    return run.phase + 1


def waits_for_advance(run: Run, tallies: Tallies) -> bool:
    """True when the next phase was never opened and only an operator's advance opens it."""
    return next_phase(run, tallies) is not None and run.phase == run.opened and not run.rollout.auto_advance


def standing_holds(run: Run, tallies: Tallies) -> tuple[Hold, ...]:
    """Every hold that stands; the first gives the run its status reason."""
    holds = []
    if run.operator_hold:
        message = "operation run paused by operator"
        holds.append(Hold(reason=StatusReason.OPERATOR_PAUSED, wait=Wait.OPERATOR, message=message))
    if run.conflict_hold is not None:
        holds.append(
            Hold(reason=StatusReason.CONFLICT_RETRY_TIMEOUT, wait=Wait.CONFLICT_WINDOW, message=run.conflict_hold)
        )
    tripped = tripped_gates(run, tallies)
    if tripped:
        message = safety_message(tripped, tallies)
        holds.append(Hold(reason=StatusReason.SAFETY_GATE, wait=Wait.SAFETY_GATE, message=message))
    if waits_for_advance(run, tallies):
        message = "waiting for phase advance"
        holds.append(Hold(reason=StatusReason.PHASE_GATE, wait=Wait.PHASE_GATE, message=message))
    return tuple(holds)
