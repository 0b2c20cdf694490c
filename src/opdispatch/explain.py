"""Explain: what keeps a run, or one of its targets, from going on now, and who can do something about it.

Every reason is told and not only the first, with a code of a closed list, since when and until when where that is
known, and the command that clears it.  Pure functions of what a store shows to a reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum, unique
from typing import Final

from .holds import failed_attempts, next_phase, standing_holds
from .ports import Overview
from .run import StatusReason
from .tally import Tallies, tallies_at
from .target import FAILURES, Blocked, Claimed, Pending, Settled, Stray, Submitted, Target

LATE: Final = timedelta(seconds=30)
"""So long after it was due a run is not served by anybody: a service lease of the dispatcher's defaults."""


@unique
class Code(StrEnum):
    """Why something does not go on: a closed list of codes, never renamed."""

    ENDED = "ended"
    """The run has ended; nothing more starts."""
    DRAINING = "draining"
    """The run has ended, and tasks of it have not."""
    QUARANTINED = "quarantined"
    """It could not be served too often in a row, and is left alone."""
    TROUBLED = "troubled"
    """It could not be served, and is tried again."""
    NOT_SERVED = "not_served"
    """It is due, and no dispatcher took it."""
    OPERATOR_HOLD = "operator_hold"
    CONFLICT_HOLD = "conflict_hold"
    SAFETY_GATE = "safety_gate"
    PHASE_GATE = "phase_gate"
    QUOTA = "quota"
    """All slots are in use."""
    STRAYS = "strays"
    """Tasks of settled targets that are not over hold slots, or keep a target from being retried."""
    CONFLICT = "conflict"
    """The rack is busy with other work."""
    UNANSWERED = "unanswered"
    """A submission was made, and its lease runs."""
    LOOK_UP = "look_up"
    """A submission was not answered within its lease; its key is looked up."""
    MISSING = "missing"
    """The task manager does not know the task; a grace time runs."""
    IN_FLIGHT = "in_flight"
    """A task is at work."""
    PHASE_NOT_OPEN = "phase_not_open"
    """The target's phase was not opened yet."""
    RETURNED = "returned"
    """The run went back to an earlier phase for a retry."""
    TURN = "turn"
    """Others of its phase come before it."""
    SETTLED = "settled"
    """The target has its outcome."""


@unique
class Clears(StrEnum):
    """Who can clear a reason."""

    NOBODY = "nobody"
    TIME = "time"
    TASKS = "tasks"
    """The task manager: a task ends, or an answer comes."""
    OPERATOR = "operator"
    DISPATCHER = "dispatcher"
    """Whoever runs dispatchers: one must be running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asks:
    """The command that clears a reason: its name, and what to say with it."""

    command: str
    accept_failures: int | None = None
    expected_phase: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One thing that stands in the way.

    ``evidence`` is a sentence with what was found; ``since`` and ``until`` are None where nothing tells, or only an
    event ends it; ``asks`` is the command that clears it, where one does.
    """

    code: Code
    evidence: str
    clears: Clears
    since: datetime | None = None
    until: datetime | None = None
    asks: Asks | None = None


def explain_run(overview: Overview, now: datetime) -> tuple[Reason, ...]:
    """Everything that keeps a run from starting more, the weightiest first; empty when its next tick goes on.

    ``now`` is the store's clock, or near it.  A run from which nothing is held back waits for its tasks, or for its
    dispatcher.
    """
    return tuple(_of_run(overview, now))


def explain_target(
    overview: Overview, target: Target, now: datetime, *, ahead: int = 0, strays: Sequence[Stray] = ()
) -> tuple[Reason, ...]:
    """Everything that keeps one target from its outcome, its own reasons first; never empty.

    ``ahead`` counts the pending and due targets of its phase that come before it, ``strays`` are those of the run.
    """
    own = tuple(_of_target(overview, target, now, ahead))
    mine = [stray for stray in strays if stray.is_open and stray.target_id == target.id]
    if mine:
        evidence = f"{_many(len(mine), 'task')} of it, {', '.join(s.task_id for s in mine)}, not over yet"
        own = (*own, Reason(code=Code.STRAYS, evidence=evidence, clears=Clears.TASKS))
    if isinstance(target.state, Settled | Submitted) or overview.run.status.is_terminal:
        return own
    rest = (reason for reason in _of_run(overview, now) if reason.code not in _OF_THE_RUN_ALONE)
    return (*own, *rest)


_OF_THE_RUN_ALONE: Final = frozenset({Code.IN_FLIGHT, Code.CONFLICT, Code.UNANSWERED})
"""Reasons of a run that say nothing of a target which has its own state."""


# -- runs --


def _of_run(overview: Overview, now: datetime) -> Iterator[Reason]:
    run = overview.run
    tallies = tallies_at(overview.phases, run.phase, run.opened)
    flying = tallies.everything.in_flight + overview.open_strays
    yield from _trouble(overview, now)
    if run.status.is_terminal:
        ended = f"it is {run.status}: {run.status_message}"
        yield Reason(code=Code.ENDED, evidence=ended, clears=Clears.NOBODY, since=run.finished_at)
        if flying:
            evidence = f"{_many(flying, 'task')} of it not over yet"
            yield Reason(code=Code.DRAINING, evidence=evidence, clears=Clears.TASKS, until=overview.wake_at)
        return
    yield from _holds(overview, tallies)
    quota = run.rollout.max_concurrent_targets
    waiting = tallies.current.pending + tallies.current.blocked
    if waiting and flying >= quota:
        evidence = f"{flying} of {quota} slots are in use, and {_many(waiting, 'target')} of phase {run.phase} waiting"
        yield Reason(code=Code.QUOTA, evidence=evidence, clears=Clears.TASKS)
    if overview.open_strays:
        evidence = f"{_many(overview.open_strays, 'task')} of settled targets not over yet, each with a slot"
        yield Reason(code=Code.STRAYS, evidence=evidence, clears=Clears.TASKS)
    if tallies.current.blocked:
        evidence = f"{_many(tallies.current.blocked, 'target')} of phase {run.phase} waiting for busy racks"
        yield Reason(code=Code.CONFLICT, evidence=evidence, clears=Clears.TIME, until=overview.wake_at)
    if tallies.everything.claimed:
        evidence = f"{_many(tallies.everything.claimed, 'submission')} without an answer yet"
        yield Reason(code=Code.UNANSWERED, evidence=evidence, clears=Clears.TASKS, until=overview.wake_at)
    if tallies.everything.submitted:
        evidence = f"{_many(tallies.everything.submitted, 'task')} at work"
        yield Reason(code=Code.IN_FLIGHT, evidence=evidence, clears=Clears.TASKS, until=overview.wake_at)


def _trouble(overview: Overview, now: datetime) -> Iterator[Reason]:
    trouble, due = overview.trouble, overview.wake_at
    if trouble is not None and trouble.quarantined_at is not None:
        evidence = f"{_many(trouble.count, 'error')} in a row, the last: {trouble.message}"
        release = Asks(command="release")
        yield Reason(
            code=Code.QUARANTINED,
            evidence=evidence,
            clears=Clears.OPERATOR,
            since=trouble.quarantined_at,
            asks=release,
        )
        return
    if trouble is not None:
        evidence = f"{_many(trouble.count, 'error')} in a row, the last: {trouble.message}"
        yield Reason(code=Code.TROUBLED, evidence=evidence, clears=Clears.TIME, since=trouble.at, until=due)
    if due is not None and now - due > LATE:
        evidence = f"it was due {_seconds(now - due)} ago, and nobody serves it"
        yield Reason(code=Code.NOT_SERVED, evidence=evidence, clears=Clears.DISPATCHER, since=due)


_HOLDS: Final = {
    StatusReason.OPERATOR_PAUSED: Code.OPERATOR_HOLD,
    StatusReason.CONFLICT_RETRY_TIMEOUT: Code.CONFLICT_HOLD,
    StatusReason.SAFETY_GATE: Code.SAFETY_GATE,
    StatusReason.PHASE_GATE: Code.PHASE_GATE,
}


def _holds(overview: Overview, tallies: Tallies) -> Iterator[Reason]:
    run = overview.run
    holds = standing_holds(run, tallies)
    tripped = any(hold.reason is StatusReason.SAFETY_GATE for hold in holds)
    resume = Asks(command="resume", accept_failures=failed_attempts(tallies) if tripped else None)
    for hold in holds:
        asks = resume
        if hold.reason is StatusReason.PHASE_GATE:
            asks = Asks(command="advance", expected_phase=next_phase(run, tallies))
        yield Reason(
            code=_HOLDS[hold.reason],
            evidence=hold.message,
            clears=Clears.OPERATOR,
            since=run.decided_at if hold.reason is run.status_reason else None,
            asks=asks,
        )


# -- targets --


def _of_target(overview: Overview, target: Target, now: datetime, ahead: int) -> Iterator[Reason]:
    run, state = overview.run, target.state
    match state:
        case Settled(status=status):
            evidence = f"it is {status} (attempt {target.attempt})" + (f": {target.message}" if target.message else "")
            asks = None
            if status in FAILURES and not run.status.is_terminal:
                asks = Asks(command="retry")
            yield Reason(
                code=Code.SETTLED,
                evidence=evidence,
                clears=Clears.NOBODY if asks is None else Clears.OPERATOR,
                asks=asks,
            )
        case Submitted(missing_since=since) if since is not None:
            evidence = f"the task manager does not know task {state.task_id}"
            yield Reason(
                code=Code.MISSING,
                evidence=evidence,
                clears=Clears.TIME,
                since=since,
                asks=Asks(command="settle"),
            )
        case Submitted(task_id=task_id):
            evidence = f"task {task_id} is at work" + (f": {target.message}" if target.message else "")
            yield Reason(code=Code.IN_FLIGHT, evidence=evidence, clears=Clears.TASKS, asks=Asks(command="settle"))
        case Claimed(lease_until=until) if until > now:
            evidence = f"attempt {target.attempt} was submitted, and is not answered yet"
            yield Reason(code=Code.UNANSWERED, evidence=evidence, clears=Clears.TASKS, until=until)
        case Claimed(lease_until=until):
            evidence = f"nobody answered attempt {target.attempt}; its key is looked up before anything else"
            yield Reason(code=Code.LOOK_UP, evidence=evidence, clears=Clears.TASKS, since=until)
        case _ if run.status.is_terminal:
            evidence = f"the run is {run.status}; it never starts"
            yield Reason(code=Code.ENDED, evidence=evidence, clears=Clears.NOBODY, since=run.finished_at)
        case _:
            yield from _of_waiting(overview, target, ahead)


def _of_waiting(overview: Overview, target: Target, ahead: int) -> Iterator[Reason]:
    run, state = overview.run, target.state
    if isinstance(state, Blocked):
        conflict = target.conflict
        refused = "" if conflict is None else f" ({_many(conflict.count, 'refusal')})"
        yield Reason(
            code=Code.CONFLICT,
            evidence=f"the rack is busy{refused}: {target.message}",
            clears=Clears.TIME,
            since=None if conflict is None else conflict.since,
            until=state.retry_at,
        )
    if target.phase > run.opened:
        evidence = f"it is in phase {target.phase}, and phase {run.phase} of {run.phases} is at work"
        yield Reason(code=Code.PHASE_NOT_OPEN, evidence=evidence, clears=Clears.TASKS)
    elif target.phase != run.phase:
        evidence = f"it is in phase {target.phase}; the run went back to phase {run.phase} for a retry"
        yield Reason(code=Code.RETURNED, evidence=evidence, clears=Clears.TASKS)
    elif ahead or isinstance(state, Pending):
        evidence = f"{_many(ahead, 'target')} of its phase before it" if ahead else "it is the next of its phase"
        yield Reason(code=Code.TURN, evidence=evidence, clears=Clears.TASKS)


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _seconds(wait: timedelta) -> str:
    return f"{int(wait.total_seconds())} s"
