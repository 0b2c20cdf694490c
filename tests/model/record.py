"""Records of a run as small tuples and back: what a search can keep by the hundred thousand and compare.

Times are whole ticks from now, and what is long past is as long past as matters; fences are renamed to the smallest
that keep their order.  So a run that does the same again is in the same state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
LONG_PAST: Final = -4
"""Ticks before now that are as good as any before them: more than every wait of the model."""
_LONG_AGO: Final = NOW + LONG_PAST * TICK
_MOST_REFUSALS: Final = 2

Small = tuple[object, ...]


def ticks(instant: datetime | None) -> int | None:
    """So many ticks from now; what is long past is no longer past than matters."""
    return None if instant is None else max((instant - NOW) // TICK, LONG_PAST)


def instant(number: int | None) -> datetime | None:
    """The instant so many ticks from now."""
    return None if number is None else NOW + number * TICK


def _at(number: object) -> datetime:
    assert isinstance(number, int)
    return NOW + number * TICK


def small_record(record: Record, passed: int, fences: Mapping[int, Mapping[int, int]]) -> Small:
    """A record after so many ticks, its fences renamed."""
    shift = passed * TICK
    return (
        _small_run(record.run, shift),
        tuple(
            _small_target(target, shift, fences[target.sequence][target.fence]) for target in record.targets.values()
        ),
        tuple(_numbers(tally) for tally in record.phases),
        tuple(_small_stray(stray, shift) for _, stray in sorted(record.strays.items())),
        None if record.wake_at is None else ticks(record.wake_at - shift),
    )


def _numbers(tally: Tally) -> tuple[int, ...]:
    return tally.numbers


def _past(instant_: datetime | None, shift: timedelta) -> int | None:
    return None if instant_ is None else ticks(instant_ - shift)


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
        _past(run.resumed_at, shift),
        _past(run.decided_at, shift),
        run.started_at is not None,
        run.finished_at is not None,
    )


def _small_target(target: Target, shift: timedelta, fence: int) -> Small:
    state, conflict = target.state, target.conflict
    kind: Small
    match state:
        case Claimed(lease_until=until):
            kind = ("c", ticks(until - shift))
        case Blocked(retry_at=retry):
            kind = ("b", ticks(retry - shift))
        case Submitted(task_id=task, missing_since=since, cancelling=cancelling):
            kind = ("s", task, _past(since, shift), _small_cancelling(cancelling, shift))
        case Settled(status=status, task_id=task_id):
            kind = ("e", status.value, task_id)
        case _:
            kind = ("p",)
    refused = (
        None
        if conflict is None
        else (ticks(conflict.since - shift), min(conflict.count, _MOST_REFUSALS), conflict.delay // TICK)
    )
    return (kind, target.attempt, fence, refused, target.message)


def _small_cancelling(cancelling: Cancelling | None, shift: timedelta) -> Small | None:
    return None if cancelling is None else (ticks(cancelling.due - shift), cancelling.delay // TICK)


def _small_stray(stray: Stray, shift: timedelta) -> Small:
    return (
        stray.task_id,
        stray.target_id,
        _small_cancelling(stray.cancelling, shift),
        _past(stray.missing_since, shift),
        stray.is_open,
        stray.message,
    )


def record_of(small: Small, start: Record) -> Record:
    """The record that a tuple tells, with the rest from the record of the run's beginning."""
    run, targets, phases, strays, wake_at = small
    assert isinstance(targets, tuple)
    assert isinstance(phases, tuple)
    assert isinstance(strays, tuple)
    assert wake_at is None or isinstance(wake_at, int)
    found = [_target(one, target) for one, target in zip(targets, start.targets.values(), strict=True)]
    return Record(
        run=_run(run, start.run),
        targets=MappingProxyType({target.id: target for target in found}),
        phases=tuple(_tally(numbers) for numbers in phases),
        strays=MappingProxyType({stray.task_id: stray for stray in map(_stray, strays)}),
        wake_at=instant(wake_at),
    )


def _tally(numbers: Sequence[int]) -> Tally:
    return Tally(**dict(zip(Tally.__slots__, numbers, strict=True)))


def _run(small: object, start: Run) -> Run:
    assert isinstance(small, tuple)
    status, reason, message, phase, opened, operator, conflict, accepted, resumed, decided, started, finished = small
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
        resumed_at=instant(resumed),
        decided_at=instant(decided),
        started_at=_LONG_AGO if started else None,
        finished_at=_LONG_AGO if finished else None,
    )


def _target(small: object, start: Target) -> Target:
    assert isinstance(small, tuple)
    kind, attempt, fence, refused, message = small
    conflict = None
    if refused is not None:
        since, count, delay = refused
        conflict = Conflict(since=_at(since), count=count, delay=delay * TICK)
    return replace(start, state=_state(kind), attempt=attempt, fence=fence, conflict=conflict, message=message)


def _state(kind: Sequence[object]) -> Pending | Claimed | Blocked | Submitted | Settled:
    match kind:
        case ("c", until):
            return Claimed(lease_until=_at(until))
        case ("b", retry):
            return Blocked(retry_at=_at(retry))
        case ("s", str() as task, since, cancelling):
            assert since is None or isinstance(since, int)
            return Submitted(
                task_id=TaskId(task), missing_since=instant(since), cancelling=_cancelling_or_none(cancelling)
            )
        case ("e", str() as status, task_id):
            assert task_id is None or isinstance(task_id, str)
            return Settled(status=TargetStatus(status), task_id=None if task_id is None else TaskId(task_id))
        case _:
            return Pending()


def _cancelling_or_none(small: object) -> Cancelling | None:
    return None if small is None else _cancelling(small)


def _cancelling(small: object) -> Cancelling:
    assert isinstance(small, tuple)
    due, delay = small
    return Cancelling(due=_at(due), delay=delay * TICK)


def _stray(small: object) -> Stray:
    assert isinstance(small, tuple)
    task, target, cancelling, since, is_open, message = small
    return Stray(
        task_id=task,
        target_id=target,
        cancelling=_cancelling(cancelling),
        missing_since=instant(since),
        is_open=is_open,
        message=message,
    )


def renamed(used: Iterable[tuple[int, int]]) -> dict[int, dict[int, int]]:
    """For each target the smallest fences that keep the order of those in use; none stays none."""
    by_target: dict[int, set[int]] = {}
    for sequence, fence in used:
        by_target.setdefault(sequence, set()).add(fence)
    found = {}
    for sequence, fences in by_target.items():
        start = 0 if 0 in fences else 1
        found[sequence] = {fence: start + index for index, fence in enumerate(sorted(fences))}
    return found
