"""The journal: what each decision knew, what it changed and why, so that a run can be told and decided again.

An entry keeps the inputs that nothing else keeps: the observations that were taken into account, the limits, the
command, the instant.  The rest of the state follows from the entries before it; ``digest`` is a short sum of that rest,
by which a replay sees that it stands where the decision stood.  Effects are not kept: they follow from the changes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from datetime import datetime
from hashlib import blake2b

from .action import EFFECTS, Decision, HeldBack, Step
from .command import Command, Reply
from .identity import RunId
from .observation import Observation
from .state import Limits, RunState
from .target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One decision as it was recorded: number (from 1, without gaps within a run), who, when, what and why.

    ``steps`` are the changes in order.  ``limits`` and ``digest`` are None in an entry that was written before they
    were kept.
    """

    run_id: RunId
    number: int
    at: datetime
    actor: str
    command: Command | None
    reply: Reply | None
    limits: Limits | None
    digest: str | None
    observations: tuple[Observation, ...]
    steps: tuple[Step, ...]
    held_back: tuple[HeldBack, ...]


def needs_entry(decision: Decision) -> bool:
    """True when the decision changed something or answered somebody; any other one leaves no trace."""
    return bool(decision.steps) or decision.reply is not None


def entry_of(state: RunState, decision: Decision, *, actor: str, number: int) -> JournalEntry:
    """The entry of a decision that was made on this state."""
    return JournalEntry(
        run_id=decision.run_id,
        number=number,
        at=decision.at,
        actor=actor,
        command=decision.command,
        reply=decision.reply,
        limits=state.limits,
        digest=digest_of(state),
        observations=decision.observations,
        steps=tuple(step for step in decision.steps if not isinstance(step.action, EFFECTS)),
        held_back=decision.held_back,
    )


def digest_of(state: RunState) -> str:
    """32 hexadecimal digits over the run, the counts, the targets and the strays of a state.

    Of a target in flight it takes place, attempt and fence: these tell two histories apart, and cost little for a
    thousand of them.  What an observation brings into the window is left out, and so are observations, limits and the
    instant: the entry keeps only those that were taken into account.
    """
    run = state.run
    told = (
        *(run.status.value, run.status_reason.value, run.status_message, run.phase, run.opened, run.revision),
        *(run.operator_hold, run.conflict_hold, tuple(astuple(accepted) for accepted in run.accepted)),
        *(_instant(run.resumed_at), _instant(run.decided_at), _instant(run.started_at), _instant(run.finished_at)),
        *(_instant(state.next_retry), tuple(stray.task_id for stray in state.strays if stray.is_open)),
    )
    total = blake2b(repr(told).encode("utf-8", "surrogatepass"), digest_size=16)
    tallies = state.tallies
    for tally in (tallies.earlier, tallies.current, tallies.ahead, tallies.later):
        total.update(array("q", tally.numbers).tobytes())
    total.update(_places(state.in_flight))
    return total.hexdigest()


def _instant(at: datetime | None) -> str | None:
    return None if at is None else str(int(at.timestamp() * 1_000_000))


def _places(targets: Iterable[Target]) -> bytes:
    numbers = array("q")
    for target in targets:
        numbers.extend((target.sequence, target.attempt, target.fence))
    return len(numbers).to_bytes(4, "little") + numbers.tobytes()
