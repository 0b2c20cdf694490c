"""A store in memory: ``evolve`` over a dict.  It defines what a store means; every other one must equal it.

For tests, simulations and trying things out: it forgets everything with the process.  Safe for threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import Lock, RLock

from opdispatch.action import Decision
from opdispatch.command import Command, Reply, require_repeat
from opdispatch.errors import NotFound
from opdispatch.evolve import Record, evolve, new_record, window
from opdispatch.identity import CommandId, RunId, TargetId
from opdispatch.journal import JournalEntry, entry_of, needs_entry
from opdispatch.observation import Observation
from opdispatch.plan import NewRun, require_same_rollout
from opdispatch.ports import Glance, Listed, Looks, Overview, Trouble
from opdispatch.query import EVERY_RUN, RunQuery
from opdispatch.run import Run
from opdispatch.state import Limits, RunState, refs_of
from opdispatch.target import Stray, Target, TargetStatus


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class _Row:
    record: Record
    command_id: CommandId
    trouble: Trouble | None = None
    journal: list[JournalEntry] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)
    is_woken: bool = False
    """Somebody woke the run while it was held: it is due after the commit, whatever that says."""


class MemoryStore:
    """The store of the oracle.  ``clock`` gives the store's time: aware instants that never fall."""

    def __init__(self, clock: Callable[[], datetime] = _utc_now) -> None:
        self._clock = clock
        self._rows: dict[RunId, _Row] = {}
        self._guard = RLock()

    def _row(self, run_id: RunId) -> _Row:
        try:
            return self._rows[run_id]
        except KeyError:
            raise NotFound("run", str(run_id)) from None

    def create(self, new: NewRun) -> Run:
        with self._guard:
            known = self._rows.get(new.run.id)
            if known is None:
                record = replace(new_record(new.run, new.targets), wake_at=self._clock())
                self._rows[new.run.id] = _Row(record=record, command_id=new.command_id)
                return new.run
            require_same_rollout(known.record.run, new.run.rollout, new.command_id)
            return known.record.run

    def due(self, limit: int, lease: timedelta, *, only: RunId | None = None) -> Sequence[RunId]:
        with self._guard:
            now = self._clock()
            due = sorted((at, run_id) for at, run_id in self._wakes(only) if at <= now)[:limit]
            for _, run_id in due:
                row = self._rows[run_id]
                row.record = replace(row.record, wake_at=now + lease)
            return tuple(run_id for _, run_id in due)

    def _wakes(self, only: RunId | None) -> Iterator[tuple[datetime, RunId]]:
        for run_id, row in self._rows.items():
            quarantined = row.trouble is not None and row.trouble.quarantined_at is not None
            if row.record.wake_at is not None and not quarantined and only in (None, run_id):
                yield row.record.wake_at, run_id

    def next_due(self, *, only: RunId | None = None) -> timedelta | None:
        with self._guard:
            first = min((at for at, _ in self._wakes(only)), default=None)
            return None if first is None else max(first - self._clock(), timedelta(0))

    def wake(self, run_id: RunId) -> None:
        with self._guard:
            row, now = self._rows.get(run_id), self._clock()
            if row is None or row.trouble is not None:
                return
            row.is_woken = True
            if row.record.wake_at is None or row.record.wake_at > now:
                row.record = replace(row.record, wake_at=now)

    def unsettled(self, run_id: RunId) -> Looks:
        with self._guard:
            record, now = self._row(run_id).record, self._clock()
            strays = (stray for _, stray in sorted(record.strays.items()))
            is_ended = record.run.status.is_terminal
            refs = refs_of(run_id, record.targets.values(), strays, now, is_ended=is_ended)
            return Looks(refs=refs, looked_at=now)

    def glance(self, run_id: RunId, observations: Sequence[Observation], limits: Limits) -> Glance | None:
        with self._guard:
            row = self._row(run_id)
            return Glance(
                state=window(row.record, observations=observations, limits=limits, now=self._clock()),
                wake_at=row.record.wake_at,
                is_troubled=row.trouble is not None,
            )

    @contextmanager
    def lock(self, run_id: RunId, wait: timedelta) -> Iterator[_HeldRow | None]:
        row = self._row(run_id)
        if not row.lock.acquire(timeout=max(wait.total_seconds(), 0.0)):
            yield None
            return
        try:
            row.is_woken = False
            held = _HeldRow(row, self._clock)
            yield held
            with self._guard:
                held.commit()
        finally:
            row.lock.release()

    def get(self, run_id: RunId) -> Overview:
        with self._guard:
            row = self._row(run_id)
            return Overview(
                run=row.record.run,
                phases=row.record.phases,
                open_strays=sum(stray.is_open for stray in row.record.strays.values()),
                trouble=row.trouble,
                wake_at=row.record.wake_at,
            )

    def list(self, where: RunQuery = EVERY_RUN, *, limit: int = 100, offset: int = 0) -> Sequence[Listed]:
        with self._guard:
            rows = [row for row in self._rows.values() if _asked_for(row.record.run, where)]
            rows.sort(key=lambda row: row.record.run.id)
            rows.sort(key=lambda row: row.record.run.created_at, reverse=True)
            return tuple(
                Listed(
                    run_id=row.record.run.id,
                    name=row.record.run.name,
                    status=row.record.run.status,
                    created_at=row.record.run.created_at,
                    run=row.record.run,
                    trouble=row.trouble,
                )
                for row in rows[offset : offset + limit]
            )

    def count(self, where: RunQuery = EVERY_RUN) -> int:
        with self._guard:
            return sum(_asked_for(row.record.run, where) for row in self._rows.values())

    def targets(
        self,
        run_id: RunId,
        *,
        statuses: AbstractSet[TargetStatus] = frozenset(),
        phases: AbstractSet[int] = frozenset(),
        limit: int | None = None,
        offset: int = 0,
    ) -> Sequence[Target]:
        with self._guard:
            found = [
                target
                for target in self._row(run_id).record.targets.values()
                if (not statuses or target.status in statuses) and (not phases or target.phase in phases)
            ]
            return tuple(found[offset : None if limit is None else offset + limit])

    def strays(self, run_id: RunId) -> Sequence[Stray]:
        with self._guard:
            return tuple(stray for _, stray in sorted(self._row(run_id).record.strays.items()))

    def journal(self, run_id: RunId, *, after: int = 0, limit: int | None = None) -> Sequence[JournalEntry]:
        with self._guard:
            return tuple(self._row(run_id).journal[after : None if limit is None else after + limit])

    def report(
        self, run_id: RunId, message: str, retry_in: Callable[[int], timedelta], quarantine_after: int
    ) -> Trouble:
        with self._guard:
            row, now = self._row(run_id), self._clock()
            before = row.trouble
            count = 1 if before is None else before.count + 1
            quarantined_at = None if before is None else before.quarantined_at
            if quarantined_at is None and count >= quarantine_after:
                quarantined_at = now
            row.trouble = Trouble(message=message, count=count, at=now, quarantined_at=quarantined_at)
            row.record = replace(row.record, wake_at=now + retry_in(count))
            return row.trouble

    def release(self, run_id: RunId) -> bool:
        with self._guard:
            row = self._row(run_id)
            if row.trouble is None:
                return False
            row.trouble = None
            row.record = replace(row.record, wake_at=self._clock())
            return True

    def record(self, run_id: RunId) -> Record:
        """The whole record, for tests and simulations."""
        with self._guard:
            return self._row(run_id).record


def _asked_for(run: Run, where: RunQuery) -> bool:
    operation = run.rollout.operation
    return where.matches(
        name=run.name, status=run.status, reason=run.status_reason, type=operation.type, code=operation.code
    )


class _HeldRow:
    """A run under its lock; what is applied is staged and shows only when the block is left normally."""

    def __init__(self, row: _Row, clock: Callable[[], datetime]) -> None:
        self._row = row
        self._clock = clock
        self._record = row.record
        self._journal: list[JournalEntry] = []
        self._applied = False
        self._served = False

    def load(self, observations: Sequence[Observation], limits: Limits, *, named: Iterable[TargetId] = ()) -> RunState:
        return window(self._record, observations=observations, limits=limits, now=self._clock(), named=named)

    def replied(self, asked: Command) -> Reply | None:
        for entry in (*self._row.journal, *self._journal):
            if entry.command is not None and entry.command.command_id == asked.command_id:
                require_repeat(entry.command, asked)
                return entry.reply
        return None

    def apply(self, state: RunState, decision: Decision, *, actor: str, served: bool) -> None:
        self._served = self._served or served
        self._record = evolve(self._record, decision)
        self._applied = True
        if needs_entry(decision):
            number = len(self._row.journal) + len(self._journal) + 1
            self._journal.append(entry_of(state, decision, actor=actor, number=number))

    def commit(self) -> None:
        """Show what was staged."""
        if not self._applied:
            return
        row = self._row
        row.record = replace(self._record, wake_at=self._clock()) if row.is_woken else self._record
        row.journal.extend(self._journal)
        if self._served and row.trouble is not None and row.trouble.quarantined_at is None:
            row.trouble = None
