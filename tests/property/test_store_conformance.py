"""The stores in a database mean what the memory store means, after every step."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import timedelta
from pathlib import Path
from typing import Final

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from opdispatch.identity import RunId
from opdispatch.ports import Store
from opdispatch.target import Stray, Target, TargetStatus
from opdispatch_adapters.memory import MemoryStore
from opdispatch_adapters.sql import PostgresSettings, PostgresStore, SqliteStore, migrate
from opdispatch_adapters.testing.stores import Clock, store_machine

_DEEP: Final = os.environ.get("OPDISPATCH_DEEP") == "1"
_SETTINGS: Final = settings(
    max_examples=1500 if _DEEP else 25,
    stateful_step_count=80 if _DEEP else 40,
    deadline=None,
    derandomize=not _DEEP,
    suppress_health_check=[HealthCheck.too_slow],
)
"""Modest by default; OPDISPATCH_DEEP=1 looks longer, and elsewhere each time."""
_ROOM: Final = tempfile.TemporaryDirectory(prefix="opdispatch-conformance-")


class _Bench:
    """Fresh stores from one migrated file: migrating each would take longer than the test."""

    def __init__(self, room: Path) -> None:
        self._room = room
        self._template = room / "template.db"
        self._clocks: dict[Path, Clock] = {}

    def make(self, clock: Clock) -> Store:
        if not self._template.exists():
            migrate(self._template)
        path = self._room / f"{len(self._clocks)}.db"
        shutil.copy(self._template, path)
        self._clocks[path] = clock
        return SqliteStore(path, clock=clock)

    def reopen(self, store: SqliteStore) -> Store:
        store.close()
        return SqliteStore(store.path, clock=self._clocks[store.path])

    def close(self, store: SqliteStore) -> None:
        store.close()
        store.path.unlink()


_BENCH: Final = _Bench(Path(_ROOM.name))

TestSqlite = store_machine(_BENCH.make, reopen=_BENCH.reopen, close=_BENCH.close, audit=SqliteStore.check).TestCase
TestSqlite.settings = _SETTINGS


class _PostgresBench:
    """Stores one after the other in one database, which is emptied between them."""

    def __init__(self, url: str, settings: PostgresSettings) -> None:
        self._url = url
        self._settings = settings
        self._clock: Clock | None = None

    def make(self, clock: Clock) -> Store:
        self._clock = clock
        return PostgresStore(self._url, clock=clock, settings=self._settings)

    def reopen(self, store: PostgresStore) -> Store:
        store.close()
        return PostgresStore(self._url, clock=self._clock, settings=self._settings)

    def close(self, store: PostgresStore) -> None:
        store.close()
        # The guards let nobody else empty a table.
        with psycopg.connect(self._url, options="-c opdispatch.writer=on") as connection:
            connection.execute("TRUNCATE operation_run CASCADE")


@pytest.mark.parametrize(
    "ways",
    [PostgresSettings(), PostgresSettings(pool_size=1, known=1), PostgresSettings(pooler=True)],
    ids=["pool of five", "pool of one", "behind a pooler"],
)
def test_postgres(postgres_url: str, ways: PostgresSettings) -> None:
    bench = _PostgresBench(postgres_url, ways)
    machine = store_machine(bench.make, reopen=bench.reopen, close=bench.close, audit=PostgresStore.check)

    # The statements are the same; the ways differ in what a connection is, which fewer histories tell.
    is_usual = ways == PostgresSettings()
    most = _SETTINGS.max_examples if is_usual or _DEEP else 10
    run_state_machine_as_test(machine, settings=settings(_SETTINGS, max_examples=most))


TestMemoryAgainstItself = store_machine(lambda clock: MemoryStore(clock=clock)).TestCase
TestMemoryAgainstItself.settings = settings(_SETTINGS, max_examples=20)


# -- the suite is tested too: a store with one fault must be found out --


class _NeverMovesOn(MemoryStore):
    def due(self, limit: int, lease: timedelta, *, only: RunId | None = None) -> Sequence[RunId]:
        return super().due(limit, timedelta(0), only=only)


class _ForgetsClosedStrays(MemoryStore):
    def strays(self, run_id: RunId) -> Sequence[Stray]:
        return tuple(stray for stray in super().strays(run_id) if stray.is_open)


class _WakesTheTroubled(MemoryStore):
    def wake(self, run_id: RunId) -> None:
        self.release(run_id)


class _KeepsNoSequence(MemoryStore):
    def targets(
        self,
        run_id: RunId,
        *,
        statuses: AbstractSet[TargetStatus] = frozenset(),
        phases: AbstractSet[int] = frozenset(),
        limit: int | None = None,
        offset: int = 0,
    ) -> Sequence[Target]:
        found = super().targets(run_id, statuses=statuses, phases=phases, limit=limit, offset=offset)
        return tuple(sorted(found, key=lambda target: str(target.id)))


@pytest.mark.parametrize("broken", [_NeverMovesOn, _ForgetsClosedStrays, _WakesTheTroubled, _KeepsNoSequence])
def test_a_store_with_a_fault_is_found_out(broken: type[MemoryStore]) -> None:
    machine = store_machine(lambda clock: broken(clock=clock))
    hunt = settings(_SETTINGS, max_examples=400, phases=[Phase.generate], database=None)

    with pytest.raises(AssertionError, match="the memory store says"):
        run_state_machine_as_test(machine, settings=hunt)
