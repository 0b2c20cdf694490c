"""The checkers: from the history of a run to what is wrong in it.  Pure functions of plain values.

Each says one thing that must hold, whatever the processes suffered.  The truth about tasks is the manager's record,
which no dispatcher keeps; the truth about commands is what their callers were told.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

from .history import Call, Change, Entry, Kind, Outcome, RunHistory, Task

SETTLED: Final = frozenset({"completed", "failed", "terminated", "skipped"})
TERMINAL: Final = frozenset({"completed", "completed_with_failures", "cancelled", "failed"})
BY_TASK: Final = frozenset({"completed", "failed", "terminated"})
"""The outcomes that a task has, too; a target of such a status has a task of that status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that must not be."""

    checker: str
    run: str
    text: str

    def __str__(self) -> str:
        return f"{self.checker}: run {self.run}: {self.text}"


Checker = Callable[[RunHistory], Iterator[str]]


# -- the tasks --


def lost(history: RunHistory) -> Iterator[str]:
    """Every target is settled, and one that a task settled has a task that ended so."""
    tasks = {task.key: task for task in history.tasks}
    by_hand = _settled_by_hand(history.entries)
    for row in history.rows:
        if row.status not in SETTLED:
            yield f"target {row.id} is {row.status}"
        elif row.status in BY_TASK and (row.id, row.attempt) not in by_hand:
            task = tasks.get(row.task)
            if task is None:
                yield f"target {row.id} is {row.status}, and the manager never began its task {row.task or '(none)'}"
            elif (task.target, task.attempt) != (row.id, row.attempt):
                yield f"target {row.id} has the task of target {task.target}, attempt {task.attempt}"
            elif task.status != row.status:
                yield f"target {row.id} is {row.status}, and its task {task.key} {task.status}"


def duplicated(history: RunHistory) -> Iterator[str]:
    """A key began one task at most, an attempt one task at most, and no two tasks of a target were alive at once."""
    by_key: defaultdict[str, list[Task]] = defaultdict(list)
    by_attempt: defaultdict[tuple[str, int], list[Task]] = defaultdict(list)
    by_target: defaultdict[str, list[Task]] = defaultdict(list)
    for task in history.tasks:
        by_key[task.key].append(task)
        by_attempt[task.target, task.attempt].append(task)
        by_target[task.target].append(task)
    for key, found in by_key.items():
        if len(found) > 1:
            yield f"key {key} began {len(found)} tasks"
    for (target, attempt), found in by_attempt.items():
        if len({task.key for task in found}) > 1:
            yield f"attempt {attempt} of target {target} began tasks {', '.join(task.key for task in found)}"
    for target, found in by_target.items():
        found.sort(key=lambda task: task.began)
        for before, after in pairwise(found):
            if after.began < before.ends:
                yield f"target {target}: task {after.key} began while {before.key} was alive"


def orphaned(history: RunHistory) -> Iterator[str]:
    """Every task that the manager began is known to its run: recorded for its target, or as a stray."""
    targets = {row.id for row in history.rows}
    known = {
        change.task for entry in history.entries for change in entry.changes if change.kind in (Kind.RECORD, Kind.STRAY)
    }
    for task in history.tasks:
        if task.target not in targets:
            yield f"task {task.key} is of target {task.target}, which the run does not have"
        elif task.key not in known:
            yield f"task {task.key} is in no entry of the journal"
    if history.open_strays:
        yield f"{history.open_strays} strays are open"


def over_quota(history: RunHistory) -> Iterator[str]:
    """When a task began, no more were alive than the quota, but those whose targets an operator had settled."""
    by_hand = _settled_by_hand(history.entries)
    counted = [task for task in history.tasks if (task.target, task.attempt) not in by_hand]
    for task in history.tasks:
        others = [other for other in counted if other is not task and other.began <= task.began < other.ends]
        if len(others) + 1 > history.quota:
            keys = ", ".join(other.key for other in others)
            yield f"task {task.key} began while {len(others)} others were alive, and {history.quota} may be: {keys}"


def unclaimed(history: RunHistory) -> Iterator[str]:
    """Each request was made for a claim that was there before it, and each task began in time and within its claim."""
    claims = _claims(history)
    for asked in history.requests:
        claim = claims.get((asked.target, asked.attempt, asked.fence))
        if claim is None:
            yield f"key {asked.key}, fence {asked.fence}, was asked for without a claim"
        elif asked.at < claim.entry.at - history.slack:
            yield f"key {asked.key}, fence {asked.fence}, was asked for before entry {claim.entry.number} claimed it"
    for task in history.tasks:
        claim = claims.get((task.target, task.attempt, task.fence))
        if claim is None:
            yield f"task {task.key} began for fence {task.fence}, which nobody claimed"
        elif task.began > task.until:
            yield f"task {task.key} began {task.began - task.until:.3f} s after its deadline"


# -- holds and phases --


def begun_while_held(history: RunHistory) -> Iterator[str]:
    """Nothing is claimed while an operator's hold stands or after the end of the run; and nothing begins after an
    acknowledged pause or cancel but what was claimed before, and that within its claim's lease."""
    held = ended = 0
    releases: list[int] = []
    for entry in history.entries:
        for change in entry.changes:
            match change.kind:
                case Kind.HOLD:
                    held = entry.number
                case Kind.RELEASE:
                    held = 0
                    releases.append(entry.number)
                case Kind.FINISH:
                    ended = entry.number
                case Kind.CLAIM if held or ended:
                    yield f"entry {entry.number} claims target {change.target} after entry {held or ended} held the run"
    claims, known = _claims(history), _known_at(history.calls)
    for stop in history.entries:
        if not stop.accepted or stop.verb not in ("pause", "cancel") or stop.command not in known:
            continue
        for task in history.tasks:
            claim = claims.get((task.target, task.attempt, task.fence))
            if claim is None or task.began <= known[stop.command]:
                continue
            told = f"after {stop.verb} {stop.command} was answered"
            if claim.entry.number < stop.number:
                if task.began > claim.change.lease_until + history.slack:
                    yield f"task {task.key} began after its lease, and {told}"
            elif stop.verb == "cancel" or not any(stop.number < one < claim.entry.number for one in releases):
                yield f"task {task.key} was claimed and begun {told}"


def phases_early(history: RunHistory) -> Iterator[str]:
    """Nothing of a phase is claimed, and no task of it begins, before all earlier phases are settled.

    A retry may open an earlier phase anew; what was claimed before that stays claimed, and its claim is renewed.
    """
    phases = {row.id: row.phase for row in history.rows}
    unsettled: defaultdict[int, set[str]] = defaultdict(set)
    for row in history.rows:
        unsettled[row.phase].add(row.id)
    claimed: set[str] = set()
    for entry in history.entries:
        for change in entry.changes:
            target, phase = change.target, phases.get(change.target, -1)
            if change.kind is Kind.CLAIM and target not in claimed:
                early = [one for earlier in range(phase) for one in sorted(unsettled[earlier])]
                if early:
                    yield (
                        f"entry {entry.number} claims target {target} of phase {phase} "
                        f"while {early[0]} of phase {phases[early[0]]} is not settled"
                    )
            match change.kind:
                case Kind.CLAIM:
                    claimed.add(target)
                case Kind.SETTLE:
                    unsettled[phase].discard(target)
                case Kind.RETRY:
                    unsettled[phase].add(target)
                case _:
                    pass
            if change.kind in (Kind.RECORD, Kind.BLOCK, Kind.SETTLE, Kind.RETRY):
                claimed.discard(target)
    claims, by_hand = _claims(history), _settled_by_hand(history.entries)
    for task in history.tasks:
        mine = claims.get((task.target, task.attempt, task.fence))
        for other in history.tasks:
            its = claims.get((other.target, other.attempt, other.fence))
            if mine is None or its is None or (other.target, other.attempt) in by_hand:
                continue
            is_earlier = phases.get(other.target, 0) < phases.get(task.target, 0)
            was_first = its.first.number < mine.first.number
            if is_earlier and was_first and task.began < other.ends:
                yield f"task {task.key} of a later phase began while {other.key} was alive"


# -- the commands --


def unacknowledged(history: RunHistory) -> Iterator[str]:
    """A command that was answered is in the journal, once, and all its answers are the same and are what it says;
    one that was refused before anybody decided on it is not there; a read shows all that was answered before it."""
    entries: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in history.entries:
        if entry.command:
            entries[entry.command].append(entry)
    for command, found in entries.items():
        if len(found) > 1:
            yield f"command {command} is in entries {', '.join(str(entry.number) for entry in found)}"
    asked = _by_command(history.calls)
    for command, calls in asked.items():
        found = entries.get(command, [])
        answered = [call for call in calls if call.is_answered]
        if answered and not found:
            yield f"{answered[0].what} {command} was answered, and the journal does not have it"
        if not found and not answered:
            continue
        if not answered and all(call.outcome is Outcome.FAIL for call in calls):
            yield f"{calls[0].what} {command} was refused at once, and entry {found[0].number} has it"
        for call in answered:
            if found and (call.outcome is Outcome.OK) != found[0].accepted:
                yield f"{call.what} {command} is {call.outcome} for {call.process}, and entry {found[0].number} differs"
            told = found[0].replies.get(call.way, "") if found else ""
            if told and call.reply != told:
                yield f"{call.process} was told {call.reply} for {command}; the journal says {told}"
            first = next(one for one in answered if one.way == call.way)
            if call.reply != first.reply:
                yield f"{call.process} was told {call.reply} for {command}; {first.process} was told {first.reply}"
    for command in entries.keys() - asked.keys():
        yield f"command {command} is in the journal, and nobody asked for it"


def disordered(history: RunHistory) -> Iterator[str]:
    """The order of the journal agrees with real time: an entry lies within the first call for its command and the
    first answer to it, so that of two calls one after the other the first is decided first; and no read goes back."""
    asked = _by_command(history.calls)
    known = _known_at(history.calls)
    entries = {entry.command: entry for entry in history.entries if entry.command}
    for before, after in zip(history.entries, history.entries[1:], strict=False):
        if after.number != before.number + 1:
            yield f"entry {after.number} follows entry {before.number}"
        if after.at < before.at:
            yield f"entry {after.number} is older than entry {before.number}"
    for command, entry in entries.items():
        began = min((call.began for call in asked.get(command, ())), default=entry.at)
        if not began - history.slack <= entry.at <= known.get(command, entry.at) + history.slack:
            yield f"entry {entry.number} was decided outside the calls for its command {command}"
    # The earliest answer of what is decided later must not lie before the first call of what is decided earlier.
    earliest = float("inf")
    for entry in reversed([entry for entry in history.entries if entry.command in asked]):
        began = min(call.began for call in asked[entry.command])
        if earliest < began:
            yield f"command {entry.command} began after a later entry was answered, and is entry {entry.number}"
        earliest = min(earliest, known.get(entry.command, earliest))
    yield from _reads_go_back(history)


def _reads_go_back(history: RunHistory) -> Iterator[str]:
    """A read shows at least the revision that any earlier answer or read told."""
    known = _known_at(history.calls)
    answers = [(known[entry.command], entry.revision) for entry in history.entries if entry.command in known]
    reads = [call for call in history.calls if call.what == "read" and call.outcome is Outcome.OK]
    told = sorted([*answers, *((call.ended, int(call.reply)) for call in reads)])
    instants = [at for at, _ in told]
    highest = list(accumulate((revision for _, revision in told), max))
    for call in reads:
        before = bisect_left(instants, call.began)
        if before and int(call.reply) < highest[before - 1]:
            yield f"{call.process} read revision {call.reply} after somebody was told {highest[before - 1]}"
        if int(call.reply) > history.revision:
            yield f"{call.process} read revision {call.reply}, and the run is at {history.revision}"


# -- the end --


def unended(history: RunHistory) -> Iterator[str]:
    """The run has ended, and is in no trouble."""
    if history.status not in TERMINAL:
        yield f"it is {history.status}"
    if history.trouble:
        yield f"it is in trouble: {history.trouble}"


CHECKERS: Final[Mapping[str, Checker]] = {
    "lost": lost,
    "duplicated": duplicated,
    "orphaned": orphaned,
    "over_quota": over_quota,
    "unclaimed": unclaimed,
    "begun_while_held": begun_while_held,
    "phases_early": phases_early,
    "unacknowledged": unacknowledged,
    "disordered": disordered,
    "unended": unended,
}
"""Every checker, by what it counts."""


def findings(history: RunHistory) -> Sequence[Finding]:
    """All that is wrong in the history of a run."""
    return [
        Finding(checker=name, run=history.run, text=text)
        for name, checker in CHECKERS.items()
        for text in checker(history)
    ]


# -- what several ask --


@dataclass(frozen=True, slots=True)
class _Claim:
    """A claim, and the entry of the first of those that it renews: itself, where it renews none."""

    entry: Entry
    change: Change
    first: Entry


def _claims(history: RunHistory) -> Mapping[tuple[str, int, int], _Claim]:
    """The claims by target, attempt and fence: a claim raises the fence by one, a retry the attempt."""
    fences: defaultdict[str, int] = defaultdict(int)
    attempts: defaultdict[str, int] = defaultdict(lambda: 1)
    first: dict[str, Entry] = {}
    found = {}
    for entry in history.entries:
        for change in entry.changes:
            target = change.target
            if change.kind is Kind.CLAIM:
                fences[target] += 1
                first.setdefault(target, entry)
                found[target, attempts[target], fences[target]] = _Claim(entry, change, first[target])
            elif change.kind in (Kind.RECORD, Kind.BLOCK, Kind.SETTLE, Kind.RETRY):
                first.pop(target, None)
                attempts[target] += change.kind is Kind.RETRY
    return found


def _settled_by_hand(entries: Iterable[Entry]) -> frozenset[tuple[str, int]]:
    """The targets, with the attempt, that an operator settled."""
    attempts: defaultdict[str, int] = defaultdict(lambda: 1)
    found = set()
    for entry in entries:
        for change in entry.changes:
            if change.kind is Kind.RETRY:
                attempts[change.target] += 1
            elif change.kind is Kind.SETTLE and entry.verb == "settle" and entry.accepted:
                found.add((change.target, attempts[change.target]))
    return frozenset(found)


def _by_command(calls: Iterable[Call]) -> Mapping[str, list[Call]]:
    found: defaultdict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if call.command:
            found[call.command].append(call)
    return found


def _known_at(calls: Iterable[Call]) -> Mapping[str, float]:
    """When somebody first had an answer to each command; without those that nobody had one to."""
    found: dict[str, float] = {}
    for call in calls:
        if call.command and call.is_answered:
            found[call.command] = min(call.ended, found.get(call.command, call.ended))
    return found
