"""From what is on record to what is wrong: reads a run that is over, and lets the checkers judge it."""

from __future__ import annotations

import random
import string
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select

from opdispatch.action import (
    BlockTarget,
    ClaimTarget,
    FinishRun,
    RecordStray,
    RecordTask,
    ReleaseHolds,
    RetryTarget,
    SetOperatorHold,
    SettleTarget,
    SkipUnstarted,
    Step,
)
from opdispatch.command import command_name
from opdispatch.errors import CorruptRecord
from opdispatch.identity import RunId
from opdispatch.journal import JournalEntry
from opdispatch.ports import Overview
from opdispatch.replay import beginning, difference_of, replay
from opdispatch.target import Stray, Target
from opdispatch_adapters.cli import json_output
from opdispatch_adapters.flow.operations import firmware_template
from opdispatch_adapters.flow.server import replies
from opdispatch_adapters.sql import SqlStore, rows, schema
from tests.integration.recorded_tasks import RecordedTasks

from .checkers import Finding, findings
from .history import Asked, Call, Change, Entry, Kind, Row, RunHistory, Task
from .lines import now
from .processes import reply_text, wire_text

_PRECISION_SECONDS: Final = 0.001
"""How much is lost when an instant of one clock is told on another."""
_TEXTS: Final = ("steps", "held_back", "reply", "digest")
"""The columns of an entry that say what was decided, and on what state: no byte of them can be altered.  What was only
looked at (an instant of an observation, say) may have made no difference."""


class Clocks:
    """What the machine's wall clock, which stores tell the time by, is ahead of the clock of the histories."""

    def __init__(self) -> None:
        self._ahead = self._lowest = self._highest = time.time() - now()

    def look(self) -> None:
        """See how the clocks stand to each other now."""
        self._ahead = time.time() - now()
        self._lowest = min(self._lowest, self._ahead)
        self._highest = max(self._highest, self._ahead)

    @property
    def slack(self) -> float:
        """By how much an instant that is told may be wrong."""
        return self._highest - self._lowest + _PRECISION_SECONDS

    def told(self, at: datetime) -> float:
        return at.timestamp() - self._ahead


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What was found in one run."""

    history: RunHistory
    findings: tuple[Finding, ...]
    decisions: int
    """How many decisions were made again."""
    is_altered_refused: bool | None
    """Whether a journal with one altered byte was refused, with its place; None where nothing was altered."""


def judge(
    store: SqlStore, tasks: RecordedTasks, run_id: RunId, calls: Sequence[Call], clocks: Clocks, chance: random.Random
) -> Judged:
    """Read one run that is over, and judge it."""
    clocks.look()
    overview, targets, journal = _read(store, run_id)
    history = _history(overview, targets, journal, tasks, calls, clocks)
    found = list(findings(history))
    decisions, difference = _replayed(overview, targets, store.strays(run_id), journal)
    if difference:
        found.append(Finding(checker="unreplayed", run=str(run_id), text=difference))
    refused, accepted = _altered(store, run_id, overview, targets, journal, chance)
    if accepted:
        found.append(Finding(checker="altered_accepted", run=str(run_id), text=accepted))
    return Judged(history=history, findings=tuple(found), decisions=decisions, is_altered_refused=refused)


def _read(store: SqlStore, run_id: RunId) -> tuple[Overview, Sequence[Target], Sequence[JournalEntry]]:
    """A run, of one moment: somebody may still be about to refuse a command for it."""
    while True:
        journal = store.journal(run_id)
        overview, targets = store.get(run_id), store.targets(run_id)
        if len(store.journal(run_id, after=len(journal))) == 0:
            return overview, targets, journal


def _history(
    overview: Overview,
    targets: Sequence[Target],
    journal: Sequence[JournalEntry],
    tasks: RecordedTasks,
    calls: Sequence[Call],
    clocks: Clocks,
) -> RunHistory:
    run = overview.run
    name = str(run.id)
    return RunHistory(
        run=name,
        quota=run.rollout.max_concurrent_targets,
        status=run.status.value,
        revision=run.revision,
        trouble="" if overview.trouble is None else f"{overview.trouble}, and it is due at {overview.wake_at}",
        open_strays=overview.open_strays,
        slack=clocks.slack,
        rows=tuple(
            Row(
                id=str(target.id),
                phase=target.phase,
                status=target.status.value,
                attempt=target.attempt,
                fence=target.fence,
                task=target.task_id or "",
            )
            for target in targets
        ),
        tasks=tuple(
            Task(
                key=task.key,
                target=task.target,
                attempt=task.attempt,
                fence=task.fence,
                began=task.began,
                until=task.until,
                ends=task.ends,
                status=task.status.value,
            )
            for task in tasks.begun(name)
        ),
        requests=tuple(
            Asked(key=one.key, target=one.target, attempt=one.attempt, fence=one.fence, at=one.at)
            for one in tasks.requests(name)
        ),
        entries=tuple(_entry(overview, entry, clocks) for entry in journal),
        calls=tuple(calls),
    )


def _entry(overview: Overview, entry: JournalEntry, clocks: Clocks) -> Entry:
    changes = tuple(change for step in entry.steps if (change := _change(step, clocks)) is not None)
    if entry.command is None or entry.reply is None:
        return Entry(number=entry.number, at=clocks.told(entry.at), changes=changes)
    told = {"cli": reply_text(json_output.reply(entry.reply, str(entry.run_id)))}
    if entry.reply.accepted:
        told["grpc"] = wire_text(replies.operation_run(overview.run, firmware_template, entry.reply.after))
    return Entry(
        number=entry.number,
        at=clocks.told(entry.at),
        revision=entry.reply.revision,
        command=entry.command.command_id,
        verb=command_name(entry.command),
        accepted=entry.reply.accepted,
        replies=told,
        changes=changes,
    )


def _change(step: Step, clocks: Clocks) -> Change | None:
    match step.action:
        case ClaimTarget(target_id=target, lease_until=until):
            return Change(kind=Kind.CLAIM, target=str(target), lease_until=clocks.told(until))
        case RecordTask(target_id=target, task_id=task):
            return Change(kind=Kind.RECORD, target=str(target), task=task)
        case BlockTarget(target_id=target):
            return Change(kind=Kind.BLOCK, target=str(target))
        case RecordStray(stray=stray):
            return Change(kind=Kind.STRAY, target=str(stray.target_id), task=stray.task_id)
        case SettleTarget(target_id=target, status=status):
            return Change(kind=Kind.SETTLE, target=str(target), status=status.value)
        case RetryTarget(target_id=target):
            return Change(kind=Kind.RETRY, target=str(target))
        case SkipUnstarted():
            return Change(kind=Kind.SKIP_REST)
        case SetOperatorHold():
            return Change(kind=Kind.HOLD)
        case ReleaseHolds():
            return Change(kind=Kind.RELEASE)
        case FinishRun(status=status):
            return Change(kind=Kind.FINISH, status=status.value)
        case _:
            return None


def _replayed(
    overview: Overview, targets: Sequence[Target], strays: Sequence[Stray], journal: Sequence[JournalEntry]
) -> tuple[int, str]:
    """How many decisions were made again, and where the run differs from them."""
    found = replay(beginning(overview.run, targets), journal)
    if found.difference is not None:
        return found.decided, str(found.difference)
    if found.unknown:
        return found.decided, f"{found.unknown} entries cannot be decided again"
    end = difference_of(found.record, overview.run, targets, strays)
    if end is not None:
        return found.decided, str(end)
    if found.record.phases != overview.phases:
        return found.decided, f"the counts are {overview.phases}, and should be {found.record.phases}"
    changed = sum(bool(entry.steps) for entry in journal)
    if changed != overview.run.revision:
        return found.decided, f"the run is at revision {overview.run.revision} after {changed} changes"
    return found.decided, ""


def _altered(
    store: SqlStore,
    run_id: RunId,
    overview: Overview,
    targets: Sequence[Target],
    journal: Sequence[JournalEntry],
    chance: random.Random,
) -> tuple[bool | None, str]:
    """Alter one byte of one entry as it is stored; whether it was refused, and what was altered where it was not."""
    if not journal:
        return None, ""
    chosen = chance.choice(journal)
    c = schema.journal.c
    with store._reading() as connection:
        query = select(schema.journal).where(c.operation_run_id == run_id, c.number == chosen.number)
        row: dict[Any, Any] = dict(connection.execute(query).mappings().one())
    column = chance.choice([name for name in _TEXTS if _letters(row[name])])
    text: str = row[column]
    place = chance.choice(_letters(text))
    new = chance.choice([letter for letter in _alike(text[place]) if letter.lower() != text[place].lower()])
    row[column] = text[:place] + new + text[place + 1 :]
    try:
        entry = rows.entry_from(row)  # type: ignore[arg-type]  # it reads it by name, too
    except CorruptRecord as error:
        is_told = f"journal entry {chosen.number}, column {column}" in str(error)
        return is_told, "" if is_told else f"entry {chosen.number}, {column}: refused without its place: {error}"
    entries = [entry if one.number == chosen.number else one for one in journal[: chosen.number]]
    found = replay(beginning(overview.run, targets), entries).difference
    if found is None or found.number != chosen.number or not found.place:
        return False, f"entry {chosen.number}, {column}, byte {place}: {text[place]!r} became {new!r} in {text}"
    return True, ""


def _letters(text: object) -> list[int]:
    """The places of a text that hold a letter or a digit."""
    return [index for index, one in enumerate(text) if one in _LETTERS] if isinstance(text, str) else []


_LETTERS: Final = string.ascii_letters + string.digits


def _alike(letter: str) -> str:
    return string.digits if letter in string.digits else string.ascii_lowercase


def tell(history: RunHistory) -> Iterable[str]:
    """The lines of a history, merged, in order of their instants."""
    lines: list[tuple[float, str]] = []
    for call in history.calls:
        if call.what == "read":
            continue
        lines.append((call.began, f"{call.process} invoke {call.way} {call.what} {call.command}"))
        lines.append((call.ended, f"{call.process} {call.outcome} {call.way} {call.what} {call.command} {call.reply}"))
    lines.extend((one.at, f"the manager is asked for {one.key}, fence {one.fence}") for one in history.requests)
    for task in history.tasks:
        lines.append((task.began, f"the manager begins {task.key}, fence {task.fence}, until {task.until:.3f}"))
        lines.append((task.ends, f"the manager ends {task.key}: {task.status}"))
    for entry in history.entries:
        said = "; ".join(_said(change) for change in entry.changes)
        verb = f"{entry.verb} {entry.command} {'accepted' if entry.accepted else 'refused'}; " if entry.verb else ""
        lines.append((entry.at, f"entry {entry.number}: {verb}{said}"))
    first = min((at for at, _ in lines), default=0.0)
    for at, text in sorted(lines):
        yield f"{at - first:10.4f}  {text}"
    for row in history.rows:
        yield f"       end  target {row.id}, phase {row.phase}, attempt {row.attempt}, fence {row.fence}: {row.status}"


def _said(change: Change) -> str:
    return " ".join(part for part in (change.kind.value, change.target, change.task, change.status) if part)
