"""Evolve: what the actions mean for a whole run, and the two views that a decision can be made on.

A ``Record`` is all that a store keeps of one run.  ``evolve`` applies a decision to it; every store must end up
with the same.  ``window`` is the small view that a store loads; ``whole`` is the view of everything, on which the
same decision must come out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from .action import (
    Decision,
    RearmBlocked,
    RecordStray,
    SkipUnstarted,
    TargetAction,
    UpdateStray,
    changed_run,
    changed_target,
)
from .draft import skipped_tally
from .identity import TargetId, TaskId
from .observation import Observation, named_tasks
from .run import Run
from .state import Limits, RunState, ready_bound
from .tally import Tally, counted, tallies_at
from .target import Blocked, Pending, Stray, Target, TargetStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One run with all its targets (by id, in sequence order), the counts of each phase, its strays by task, and
    when it is due."""

    run: Run
    targets: Mapping[TargetId, Target]
    phases: tuple[Tally, ...]
    strays: Mapping[TaskId, Stray]
    wake_at: datetime | None


def new_record(run: Run, targets: Sequence[Target]) -> Record:
    """The record of a run that was just created, due at once."""
    in_order = sorted(targets, key=lambda target: target.sequence)
    return Record(
        run=run,
        targets=MappingProxyType({target.id: target for target in in_order}),
        phases=tuple(counted(t for t in in_order if t.phase == phase) for phase in range(run.phases)),
        strays=MappingProxyType({}),
        wake_at=run.created_at,
    )


def evolve(record: Record, decision: Decision) -> Record:
    """The record after this decision.  A decision without changes moves ``wake_at`` alone."""
    run, targets, phases, strays = record.run, dict(record.targets), list(record.phases), dict(record.strays)
    for change in decision.changes:
        if isinstance(change, TargetAction):
            before = targets[change.target_id]
            after = targets[change.target_id] = changed_target(before, change)
            phases[after.phase] = phases[after.phase].moved(before, after)
        elif isinstance(change, RecordStray | UpdateStray):
            strays[change.stray.task_id] = change.stray
        elif isinstance(change, RearmBlocked):
            for target in list(targets.values()):
                if isinstance(target.state, Blocked):
                    targets[target.id] = target.rearmed(change.at)
        elif isinstance(change, SkipUnstarted):
            for target in list(targets.values()):
                if isinstance(target.state, Pending | Blocked):
                    targets[target.id] = target.settled(TargetStatus.SKIPPED, change.message)
            phases = [skipped_tally(tally) for tally in phases]
        else:
            run = changed_run(run, change)
    if decision.changes:
        run = replace(run, decided_at=decision.at, revision=run.revision + 1)
    return Record(
        run=run,
        targets=MappingProxyType(targets),
        phases=tuple(phases),
        strays=MappingProxyType(strays),
        wake_at=decision.wake_at,
    )


def whole(
    record: Record,
    *,
    observations: Sequence[Observation],
    limits: Limits,
    now: datetime,
    named: Iterable[TargetId] = (),
) -> RunState:
    """The state that holds everything: every candidate, every target, every stray."""
    return _view(record, observations, limits, now, is_whole=True, names=frozenset(record.targets) | frozenset(named))


def window(
    record: Record,
    *,
    observations: Sequence[Observation],
    limits: Limits,
    now: datetime,
    named: Iterable[TargetId] = (),
) -> RunState:
    """The state that a store loads: its size follows the concurrency limit and not the size of a phase.

    ``named`` are the targets that a command names; those of the observations are added.  The clock of the state is
    never below the run's last decision.
    """
    names = frozenset(named) | {observation.target_id for observation in observations}
    return _view(record, observations, limits, now, is_whole=False, names=names)


def _view(
    record: Record,
    observations: Sequence[Observation],
    limits: Limits,
    now: datetime,
    *,
    is_whole: bool,
    names: frozenset[TargetId],
) -> RunState:
    run = record.run
    clock = now if run.decided_at is None else max(now, run.decided_at)
    tallies = tallies_at(record.phases, run.phase, run.opened)
    slots_used = tallies.everything.in_flight + sum(stray.is_open for stray in record.strays.values())
    bound = None if is_whole else ready_bound(run, limits, observations, slots_used)
    here = [target for target in record.targets.values() if target.phase == run.phase]
    ready = tuple(t for t in here if _is_candidate(t, clock))[:bound]
    in_flight = tuple(t for t in record.targets.values() if t.status.holds_slot)
    held = {target.id for target in (*ready, *in_flight)}
    tasks = named_tasks(observations)
    retries = [t.state.retry_at for t in here if isinstance(t.state, Blocked) and t.state.retry_at > clock]
    return RunState(
        run=run,
        tallies=tallies,
        in_flight=in_flight,
        named=tuple(t for t in record.targets.values() if t.id in names - held),
        ready=ready,
        next_retry=min(retries, default=None),
        strays=tuple(
            stray for _, stray in sorted(record.strays.items()) if stray.is_open or is_whole or stray.task_id in tasks
        ),
        observations=tuple(observations),
        limits=limits,
        now=clock,
    )


def _is_candidate(target: Target, now: datetime) -> bool:
    return isinstance(target.state, Pending) or (isinstance(target.state, Blocked) and target.state.retry_at <= now)
