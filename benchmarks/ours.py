"""The library itself, through its public interface: a store, a dispatcher, and a task manager that costs nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import psycopg
import sqlalchemy

from benchmarks.contender import Contender
from benchmarks.inprocess import InProcess, Maker
from opdispatch.identity import RunId
from opdispatch.ports import Store
from opdispatch_adapters.dispatcher import Dispatcher, Settings
from opdispatch_adapters.sql import PostgresStore, SqliteStore, migrate
from opdispatch_adapters.sql.postgres import driver


class OpenStore(Store, Protocol):
    """A store that can be given up."""

    def close(self) -> None: ...


S = TypeVar("S", bound=OpenStore)


def postgres_store(url: str) -> PostgresStore:
    """A store in a fresh database."""
    migrate(url)
    return PostgresStore(url)


def reopened(url: str) -> PostgresStore:
    """Another store on a database that one was made in: another process's, or another thread's."""
    return PostgresStore(url)


def sqlite_store(path: Path) -> SqliteStore:
    """A store in a fresh file."""
    migrate(path)
    return SqliteStore(path)


class _Counted:
    """How many statements were carried out, in which way ever: SQLAlchemy tells of its own, the driver's are counted as
    they are given to it."""

    count = 0

    @classmethod
    def one(cls, *_: object) -> None:
        """One more."""
        cls.count += 1


sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", _Counted.one)


class _RawCursor(psycopg.RawCursor[Any]):
    def execute(self, *given: Any, **options: Any) -> Self:
        _Counted.one()
        return super().execute(*given, **options)


vars(driver)["RawCursor"] = _RawCursor


class Ours(Contender, Generic[S]):
    """One run of one phase at a time in a store, served by ``run_once``.

    ``statements`` is how many statements the last tick took, its BEGINs and COMMITs not counted; ``created_seconds``
    is how long the last run took to store.
    """

    def __init__(self, store: S, size: int, concurrency: int) -> None:
        super().__init__(size, concurrency)
        self.store = store
        self.statements = 0
        self.created_seconds = 0.0
        self._dispatcher = Dispatcher(store, InProcess(), Settings())
        self._maker = Maker(size, concurrency)
        self._run_id: RunId | None = None

    def refill(self) -> None:
        while not self.is_over:
            self.tick(0, 0)
        new = self._maker.run()
        began = time.perf_counter()
        self._run_id = self.store.create(new).id
        self.created_seconds = time.perf_counter() - began

    @property
    def is_over(self) -> bool:
        """True while there is no run that has work left."""
        return self._run_id is None or self.store.get(self._run_id).run.status.is_terminal

    def make_due(self) -> None:
        """What makes the run due again, a hint or the time, comes from outside and is no part of a tick."""
        assert self._run_id is not None
        self.store.wake(self._run_id)

    def serve(self) -> None:
        """One tick of the run, which must be due."""
        done = self._dispatcher.run_once()
        if done.served != (self._run_id,):
            raise RuntimeError(f"the run was not served: {done}")

    def tick(self, completes: int, claims: int) -> float:
        self.make_due()
        before, began = _Counted.count, time.perf_counter()
        self.serve()
        seconds = time.perf_counter() - began
        self.statements = _Counted.count - before
        return seconds

    def standing(self) -> tuple[int, int]:
        assert self._run_id is not None
        counted = self.store.get(self._run_id).phases[0]
        return counted.completed, counted.submitted

    def close(self) -> None:
        """Give the store up."""
        self.store.close()
