"""Records of a run as small tuples and back: what a search can keep by the million and compare.

Times are whole ticks from now, and what is past is only as far past as any rule of the model can tell; of the fence it
keeps whether a target was ever claimed, because the rules ask of an answer only whether its fence is the current one.
So a run that does the same again is in the same state, and no two states that a rule could tell apart are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final

from opdispatch.evolve import Record
from opdispatch.identity import TaskId
from opdispatch.run import Accepted, Run, RunStatus, StatusReason
from opdispatch.tally import Tally
from opdispatch.target import (
    Blocked,
    Cancelling,
    Claimed,
    Conflict,
    Pending,
    Settled,
    Stray,
    Submitted,
    Target,
    TargetStatus,
)

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
TICK: Final = timedelta(seconds=10)
OLDEST_LOOK: Final = -1
"""How old what a dispatcher has in hand may become, in ticks: then it acts, or it is dead."""
WINDOW_TICKS: Final = 3
GRACE_TICKS: Final = 2
_DUE: Final = 0
"""What is compared with now alone is no further past than now."""
_LEASE_OVER: Final = OLDEST_LOOK
"""A lease is compared with now and with looks."""
_DECIDED: Final = OLDEST_LOOK - 1
_MISSED: Final = OLDEST_LOOK - GRACE_TICKS
_REFUSED: Final = -WINDOW_TICKS
_MOST_REFUSALS: Final = 2

Small = tuple[object, ...]


def instant(number: int) -> datetime:
    """The instant so many ticks from now."""
    return NOW + number * TICK


def _ticks(at: datetime, shift: timedelta, oldest: int) -> int:
    return max((at - shift - NOW) // TICK, oldest)


def _or_none(at: datetime | None, shift: timedelta, oldest: int) -> int | None:
    return None if at is None else _ticks(at, shift, oldest)


def small_record(record: Record, passed: int = 0) -> Small:
    """A record, after so many ticks."""
    shift = passed * TICK
    sequence = {target.id: target.sequence for target in record.targets.values()}
    return (
        _small_run(record.run, shift),
        tuple(_small_target(target, shift) for target in record.targets.values()),
        tuple((tally.failed_before, tally.terminated_before) for tally in record.phases),
        tuple(_small_stray(stray, sequence[stray.target_id], shift) for _, stray in sorted(record.strays.items())),
    )


def _small_run(run: Run, shift: timedelta) -> Small:
    return (
        run.status.value,
        run.status_reason.value,
        run.status_message,
        run.phase,
        run.opened,
        run.operator_hold,
        run.conflict_hold,
        tuple((a.gate, a.phase, a.failures) for a in run.accepted),
        _or_none(run.resumed_at, shift, _REFUSED),
        _or_none(run.decided_at, shift, _DECIDED),
        run.started_at is not None,
    )


def _small_target(target: Target, shift: timedelta) -> Small:
    state, conflict = target.state, target.conflict
    kind: Small
    match state:
        case Claimed(lease_until=until):
            kind = ("c", _ticks(until, shift, _LEASE_OVER))
        case Blocked(retry_at=retry):
            kind = ("b", _ticks(retry, shift, _DUE))
        case Submitted(task_id=task, missing_since=since, cancelling=cancelling):
            asked = None if cancelling is None else _small_cancelling(cancelling, shift)
            kind = ("s", task, _or_none(since, shift, _MISSED), asked)
        case Settled(status=status, task_id=task_id):
            kind = ("e", status.value, task_id)
        case _:
            kind = ("p",)
    refused = None
    if conflict is not None:
        since_ticks = _ticks(conflict.since, shift, _REFUSED)
        refused = (since_ticks, min(conflict.count, _MOST_REFUSALS), conflict.delay // TICK)
    return (kind, target.attempt, target.fence > 0, refused, target.message)


def _small_cancelling(cancelling: Cancelling, shift: timedelta) -> Small:
    return (_ticks(cancelling.due, shift, _DUE), cancelling.delay // TICK)


def _small_stray(stray: Stray, sequence: int, shift: timedelta) -> Small:
    return (
        stray.task_id,
        sequence,
        # Nobody asks a stray that is over to end.
        _small_cancelling(stray.cancelling, shift) if stray.is_open else (0, 1),
        _or_none(stray.missing_since, shift, _MISSED) if stray.is_open else None,
        stray.is_open,
        stray.message,
    )


def record_of(small: Small, start: Record) -> Record:
    """The record that a tuple tells, with the rest from the record of the run's beginning."""
    run, targets, before, strays = small
    assert isinstance(targets, tuple)
    assert isinstance(before, tuple)
    assert isinstance(strays, tuple)
    found = [_target(one, target) for one, target in zip(targets, start.targets.values(), strict=True)]
    return Record(
        run=_run(run, start.run),
        targets=MappingProxyType({target.id: target for target in found}),
        phases=tuple(_tally(phase, found, numbers) for phase, numbers in enumerate(before)),
        strays=MappingProxyType({stray.task_id: stray for stray in (_stray(one, found) for one in strays)}),
        wake_at=NOW,
    )


def _tally(phase: int, targets: Sequence[Target], before: Sequence[int]) -> Tally:
    counts = dict.fromkeys(TargetStatus, 0)
    for target in targets:
        counts[target.status] += target.phase == phase
    failed, terminated = before
    return Tally(**{str(s): n for s, n in counts.items()}, failed_before=failed, terminated_before=terminated)


def _run(small: object, start: Run) -> Run:
    assert isinstance(small, tuple)
    status, reason, message, phase, opened, operator, conflict, accepted, resumed, decided, started = small
    return replace(
        start,
        status=RunStatus(status),
        status_reason=StatusReason(reason),
        status_message=message,
        phase=phase,
        opened=opened,
        operator_hold=operator,
        conflict_hold=conflict,
        accepted=tuple(Accepted(gate=g, phase=p, failures=f) for g, p, f in accepted),
        resumed_at=None if resumed is None else instant(resumed),
        decided_at=None if decided is None else instant(decided),
        started_at=instant(_REFUSED) if started else None,
        finished_at=instant(_REFUSED) if RunStatus(status).is_terminal else None,
    )


def _target(small: object, start: Target) -> Target:
    assert isinstance(small, tuple)
    kind, attempt, claimed, refused, message = small
    conflict = None
    if refused is not None:
        since, count, delay = refused
        conflict = Conflict(since=instant(since), count=count, delay=delay * TICK)
    return replace(start, state=_state(kind), attempt=attempt, fence=int(claimed), conflict=conflict, message=message)


def _state(kind: Sequence[object]) -> Pending | Claimed | Blocked | Submitted | Settled:
    match kind:
        case ("c", int() as until):
            return Claimed(lease_until=instant(until))
        case ("b", int() as retry):
            return Blocked(retry_at=instant(retry))
        case ("s", str() as task, since, asked):
            assert since is None or isinstance(since, int)
            missing = None if since is None else instant(since)
            cancelling = None if asked is None else _cancelling(asked)
            return Submitted(task_id=TaskId(task), missing_since=missing, cancelling=cancelling)
        case ("e", str() as status, task_id):
            assert task_id is None or isinstance(task_id, str)
            return Settled(status=TargetStatus(status), task_id=None if task_id is None else TaskId(task_id))
        case _:
            return Pending()


def _cancelling(small: object) -> Cancelling:
    assert isinstance(small, tuple)
    due, delay = small
    return Cancelling(due=instant(due), delay=delay * TICK)


def _stray(small: object, targets: Sequence[Target]) -> Stray:
    assert isinstance(small, tuple)
    task, sequence, cancelling, since, is_open, message = small
    return Stray(
        task_id=TaskId(task),
        target_id=targets[sequence].id,
        cancelling=_cancelling(cancelling),
        missing_since=None if since is None else instant(since),
        is_open=is_open,
        message=message,
    )
