"""Replay: decide a run again from its journal, and compare each decision with what was recorded.

The journal keeps every input of a decision that nothing else keeps, and the decisions are pure, so a run can be told
from its beginning: what differs was changed afterwards, was decided by other rules, or was written by somebody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from .action import EFFECTS, Decision
from .command import Reply, named_targets
from .control import control
from .decide import decide
from .errors import OpdispatchError
from .evolve import Record, evolve, new_record, window
from .journal import JournalEntry, digest_of
from .run import Run
from .state import Limits
from .target import Stray, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first place where what is decided now is not what was recorded.

    ``number`` is the entry (from 1), or 0 for how the run stands in the end; ``place`` a path in it, such as
    ``steps[2].lease_until``; the rest are the two values as text.
    """

    number: int
    place: str
    recorded: str
    decided: str

    def __str__(self) -> str:
        where = f"entry {self.number}" if self.number else "the end"
        return f"{where}, {self.place}: recorded is {self.recorded}, and decided is {self.decided}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What came of a replay: how many decisions were made again, the first difference, and the record then.

    ``unknown`` counts entries that were written before limits were kept: their changes are taken as they stand.
    """

    decided: int
    unknown: int
    difference: Difference | None
    record: Record


def beginning(run: Run, targets: Iterable[Target]) -> Record:
    """The record as it was when the run was created, from how it stands now."""
    fresh = Run(id=run.id, name=run.name, rollout=run.rollout, phases=run.phases, created_at=run.created_at)
    unstarted = (
        Target(
            id=target.id,
            rack_id=target.rack_id,
            rack_name=target.rack_name,
            sequence=target.sequence,
            phase=target.phase,
            components=target.components,
        )
        for target in targets
    )
    return new_record(fresh, tuple(unstarted))


def replay(record: Record, entries: Sequence[JournalEntry]) -> Replayed:
    """Decide again what these entries record, in order, from this record on; ends at the first difference."""
    decided = unknown = 0
    for place, entry in enumerate(entries):
        expected = entries[0].number + place
        if entry.number != expected:
            gap = Difference(number=entry.number, place="number", recorded=str(entry.number), decided=str(expected))
            return Replayed(decided=decided, unknown=unknown, difference=gap, record=record)
        if entry.limits is None or entry.digest is None:
            record = evolve(record, _taken(record, entry))
            unknown += 1
            continue
        found, decision = _again(record, entry, entry.limits)
        if found is not None or decision is None:
            return Replayed(decided=decided, unknown=unknown, difference=found, record=record)
        record = evolve(record, decision)
        decided += 1
    return Replayed(decided=decided, unknown=unknown, difference=None, record=record)


def difference_of(record: Record, run: Run, targets: Iterable[Target], strays: Iterable[Stray]) -> Difference | None:
    """Where the record of a replay and the run as it is stored differ; None when they are the same.

    ``targets`` and ``strays`` are all that are stored of the run, closed strays too.
    """
    found = _difference(0, "run", run, record.run)
    if found is not None:
        return found
    for target in targets:
        found = _difference(0, f"target {target.id}", target, record.targets.get(target.id))
        if found is not None:
            return found
    stored = {stray.task_id: stray for stray in strays}
    for task_id in sorted(stored.keys() | record.strays.keys()):
        found = _difference(0, f"stray {task_id}", stored.get(task_id), record.strays.get(task_id))
        if found is not None:
            return found
    return None


def _taken(record: Record, entry: JournalEntry) -> Decision:
    """The decision that an entry tells, unexamined."""
    return Decision(
        run_id=entry.run_id, at=entry.at, steps=entry.steps, held_back=entry.held_back, wake_at=record.wake_at
    )


def _again(record: Record, entry: JournalEntry, limits: Limits) -> tuple[Difference | None, Decision | None]:
    command = entry.command
    named = () if command is None else named_targets(command)
    state = window(record, observations=entry.observations, limits=limits, now=entry.at, named=named)
    seen = digest_of(state)
    if seen != entry.digest:
        return Difference(number=entry.number, place="digest", recorded=str(entry.digest), decided=seen), None
    try:
        decision = decide(state) if command is None else control(state, command)
    except (OpdispatchError, LookupError, ValueError) as error:
        told = f"{type(error).__name__}: {error}"
        return Difference(number=entry.number, place="decision", recorded="a decision", decided=told), None
    changes = tuple(step for step in decision.steps if not isinstance(step.action, EFFECTS))
    compared: tuple[tuple[str, Any, Any], ...] = (
        ("run_id", entry.run_id, decision.run_id),
        ("at", entry.at, decision.at),
        ("actor", entry.actor, entry.actor if command is None else command.actor),
        ("observations", entry.observations, decision.observations),
        ("steps", entry.steps, changes),
        ("held_back", entry.held_back, decision.held_back),
        ("reply", entry.reply, _told_then(entry, decision)),
    )
    for place, recorded, decided in compared:
        found = _difference(entry.number, place, recorded, decided)
        if found is not None:
            return found, None
    return None, decision


def _told_then(entry: JournalEntry, decision: Decision) -> Reply | None:
    """The reply; without how the run stood after the command, where that was not kept yet."""
    reply = decision.reply
    if reply is None or entry.reply is None or entry.reply.after is not None:
        return reply
    return replace(reply, after=None)


def _difference(number: int, place: str, recorded: Any, decided: Any) -> Difference | None:
    """The innermost place at which two values differ."""
    if recorded == decided:
        return None
    inner: Iterable[tuple[str, Any, Any]] = ()
    here = (repr(recorded), repr(decided))
    if isinstance(recorded, tuple) and isinstance(decided, tuple):
        pairs = enumerate(zip(recorded, decided, strict=False))
        inner = ((f"{place}[{index}]", one, other) for index, (one, other) in pairs)
        here = (f"{len(recorded)} of them", str(len(decided)))
    elif type(recorded) is type(decided) and is_dataclass(recorded):
        names = [field.name for field in fields(recorded) if field.compare]
        # A step is told as its action: what is wrong with it is at its own place.
        inner = (
            (place if name == "action" else f"{place}.{name}", getattr(recorded, name), getattr(decided, name))
            for name in names
        )
    deeper = (_difference(number, where, one, other) for where, one, other in inner)
    otherwise = Difference(number=number, place=place, recorded=here[0], decided=here[1])
    return next((found for found in deeper if found is not None), otherwise)
