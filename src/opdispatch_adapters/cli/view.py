"""A run as the program shows it, whatever the form: numbers and sentences that follow from an overview.

Nothing is decided here.  Holds, gates and their texts are the core's; what is added is which command an operator
types next.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from opdispatch.holds import Hold, failed_attempts, next_phase, standing_holds
from opdispatch.policy.gates import FailureRateGate, Gate, GateScope
from opdispatch.ports import Overview, Trouble
from opdispatch.run import Run, RunStatus, StatusReason
from opdispatch.tally import Tallies, Tally, tallies_at

from .exits import ENDED_EXITS, Exit, exit_of_holds
from .render import counted, instant
from .stores import SERVER, is_of_environment, is_url


@dataclass(frozen=True, slots=True, kw_only=True)
class GateView:
    """One gate and what it counts now."""

    gate: Gate
    failures: int
    accepted: int
    targets: int
    tripped: bool

    @property
    def kind(self) -> str:
        """The kind, as in a rollout file."""
        return "failure_rate" if isinstance(self.gate, FailureRateGate) else "failure_count"

    @property
    def threshold(self) -> int:
        """Percent for a rate, attempts for a count."""
        return self.gate.threshold_percent if isinstance(self.gate, FailureRateGate) else self.gate.threshold_count

    def __str__(self) -> str:
        unit = "%" if isinstance(self.gate, FailureRateGate) else ""
        accepted = f", {self.accepted} accepted" if self.accepted else ""
        state = "TRIPPED" if self.tripped else "open"
        return (
            f"{state}: {self.kind} {self.gate.scope}: {self.failures}/{self.targets} failed{accepted}, "
            f"trips at {self.threshold}{unit}"
        )


def tallies_of(overview: Overview) -> Tallies:
    """The counts split at the run's pointer."""
    return tallies_at(overview.phases, overview.run.phase, overview.run.opened)


def holds_of(overview: Overview) -> tuple[Hold, ...]:
    """Every hold that stands; none for a run that has ended."""
    run = overview.run
    return () if run.status.is_terminal else standing_holds(run, tallies_of(overview))


def gates_of(overview: Overview) -> tuple[GateView, ...]:
    """Every gate of the run, in its order, with what it counts."""
    run, tallies = overview.run, tallies_of(overview)
    views = []
    for index, gate in enumerate(run.rollout.gates):
        cumulative = gate.scope is GateScope.CUMULATIVE_RUN
        scope = tallies.opened if cumulative else tallies.current
        accepted = run.accepted_failures(index, None if cumulative else run.phase)
        failures = scope.failures(gate.outcomes)
        tripped = gate.trips(failures - accepted, scope.total)
        views.append(GateView(gate=gate, failures=failures, accepted=accepted, targets=scope.total, tripped=tripped))
    return tuple(views)


def phase_state(overview: Overview, index: int) -> str:
    """``done``, ``running``, ``held``, ``open`` or ``waiting``; of a run that has ended also ``ended``."""
    run, tally = overview.run, overview.phases[index]
    if index > run.opened:
        return "ended" if run.status.is_terminal else "waiting"
    if not tally.unsettled:
        return "done"
    if run.status.is_terminal:
        return "ending"
    if index == run.phase:
        return "held" if run.status is RunStatus.PAUSED else "running"
    return "open"


def total(overview: Overview) -> Tally:
    """The counts of the whole run."""
    return sum(overview.phases, Tally())


def elapsed(overview: Overview, now: datetime) -> timedelta:
    """From the first start to the end, or until now."""
    run = overview.run
    if run.started_at is None:
        return timedelta(0)
    return max((run.finished_at or now) - run.started_at, timedelta(0))


def is_over(overview: Overview) -> bool:
    """True when the run has ended and nothing of it runs any more."""
    return overview.run.status.is_terminal and not total(overview).in_flight and not overview.open_strays


def is_held(overview: Overview) -> bool:
    """True when nothing new starts without somebody: a hold is shown, or the run is in quarantine."""
    return overview.run.status is RunStatus.PAUSED or is_quarantined(overview)


def is_quarantined(overview: Overview) -> bool:
    """True when the run is served no more until it is released."""
    return overview.trouble is not None and overview.trouble.quarantined_at is not None


def exit_of(overview: Overview) -> Exit:
    """What a program that attended to this run ends with."""
    ended = ENDED_EXITS.get(overview.run.status)
    return exit_of_holds(holds_of(overview)) if ended is None else ended


def waits_for(overview: Overview) -> str:
    """One sentence: what the run waits for, or how it ended."""
    run = overview.run
    if is_quarantined(overview) and overview.trouble is not None:
        return f"in quarantine after {counted(overview.trouble.count, 'error')} in a row: {overview.trouble.message}"
    if overview.trouble is not None:
        return f"it could not be served, and is tried again: {overview.trouble.message}"
    return run.status_message or ("a dispatcher" if run.status is RunStatus.PENDING else "")


def trouble_of(trouble: Trouble) -> str:
    """One sentence: how often a run could not be served, since when it is left alone, and why."""
    count = f"{counted(trouble.count, 'error')} in a row"
    if trouble.quarantined_at is None:
        return f"tried again after {count}, the last at {instant(trouble.at)}: {trouble.message}"
    return f"in quarantine since {instant(trouble.quarantined_at)} after {count}: {trouble.message}"


def program(store: str) -> str:
    """How the program is called for this store, or server."""
    if store.startswith(SERVER):
        return f"opdispatch {store}"
    is_default = os.path.abspath("opdispatch.db") == store or is_of_environment(store)
    return "opdispatch" if is_default else f"opdispatch --store {shlex.quote(_shortest(store))}"


def _shortest(path: str) -> str:
    if is_url(path):
        return path
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def next_commands(overview: Overview, store: str) -> tuple[str, ...]:
    """What an operator types to let a held run go on, in order; empty when nothing holds it."""
    run, call = overview.run, program(store)
    short = short_id(run)
    if is_quarantined(overview):
        return (f"{call} release {short}",)
    reasons = {hold.reason for hold in holds_of(overview)}
    tallies = tallies_of(overview)
    commands = []
    if StatusReason.SAFETY_GATE in reasons:
        commands.append(f"{call} resume {short} --accept-failures {failed_attempts(tallies)}")
    elif reasons & {StatusReason.OPERATOR_PAUSED, StatusReason.CONFLICT_RETRY_TIMEOUT}:
        commands.append(f"{call} resume {short}")
    if StatusReason.PHASE_GATE in reasons:
        commands.append(f"{call} advance {short} --expect {next_phase(run, tallies)}")
    if store.startswith(SERVER):
        # Whoever dispatches is behind the server; nobody needs to attach.
        return tuple(commands)
    return (*commands, f"{call} attach {short}") if commands else ()


def short_id(run: Run) -> str:
    """Enough of the id for one person's store; a prefix that is not unique is refused where it is used."""
    return str(run.id)[:8]


def racks(names: Sequence[str], most: int) -> str:
    """Some names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
