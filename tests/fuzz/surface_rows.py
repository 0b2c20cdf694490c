"""Rows: a store in a file whose columns hold what no program of ours wrote there.

A shell can write anything into SQLite, whatever a column is declared as, and nothing but a check of the table stands in
its way; the checks are off here.  One run's rows are changed, and a dispatcher serves the store.  Then

* nothing but an error of the core is met, and the listing shows every run whose row names one;
* another run is due, and is served as ever;
* of a run that could not be read nothing is changed but its error record and when it is due again.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final

from opdispatch.action import Decision
from opdispatch.decide import decide
from opdispatch.errors import NotFound, OpdispatchError
from opdispatch.identity import RunId
from opdispatch.observation import Observation, storable
from opdispatch.state import RunState
from opdispatch.task import Ref, SubmissionRequest, TaskRef
from opdispatch_adapters.dispatcher import Dispatcher, Settings
from opdispatch_adapters.dispatcher.tick import serve
from opdispatch_adapters.sql import SqliteStore, migrate

from .engine import Input, Surface
from .golden import inputs_of
from .laws import check_rejection, held
from .mutate import INSTANTS, INTEGERS, TEXTS, JsonSeed

LEASE: Final = timedelta(seconds=30)
_SETTINGS: Final = Settings(max_rounds=1)
_WHOLE_PASS: Final = 20
"""One pass in so many is a dispatcher's own; the others serve the changed run alone, which costs a third."""
LATER: Final = timedelta(hours=1)
"""After the last instant of the history every run is due."""
TABLES: Final = (
    "operation_run",
    "operation_run_target",
    "operation_run_phase",
    "operation_run_stray",
    "operation_run_journal",
)
_OWN: Final = frozenset({"error_count", "error_message", "error_at", "quarantined_at", "wake_at", "updated_at"})
"""What the record of a trouble writes."""
_NEVER: Final = frozenset({"lane"})
"""The database computes it."""


class _Silent:
    """A task manager that never answers."""

    capacity: int | None = None

    def submit(self, requests: Sequence[SubmissionRequest], deadline: timedelta) -> Sequence[Observation]:
        return ()

    def observe(self, refs: Sequence[Ref], looked_at: datetime) -> Sequence[Observation]:
        return ()

    def cancel(self, refs: Sequence[TaskRef]) -> Sequence[Observation]:
        return ()

    def on_change(self, callback: Any) -> None:
        return


class _Errors(logging.Handler):
    """Keeps what the dispatcher logs with a traceback: what is no error of the core."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.met.append(record.exc_info[1])


class Rows(Surface):
    name: ClassVar[str] = "rows"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._seeds: tuple[Input, ...] = ()
        self._errors = _Errors()
        self._log = logging.getLogger("opdispatch.dispatcher")
        self._log.addHandler(self._errors)
        self._propagated, self._log.propagate = self._log.propagate, False
        self._store: SqliteStore | None = None
        self._raw: sqlite3.Connection | None = None
        self._count = 0
        self._given: dict[str, frozenset[str]] = {}

    def close(self) -> None:
        self._log.removeHandler(self._errors)
        self._log.propagate = self._propagated
        self._forget()

    def _forget(self) -> None:
        if self._store is not None:
            self._store.close()
        if self._raw is not None:
            self._raw.close()

    def _load(self, dump: bytes) -> None:
        """A store in a file, and what it is made anew from."""
        self._forget()
        path = self.directory / "store.db"
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as old:
            old.executescript(dump.decode("utf-8"))
        migrate(path)
        self._sound = sqlite3.connect(":memory:", check_same_thread=False)
        with closing(sqlite3.connect(path)) as current:
            current.backup(self._sound)
        self._raw = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._raw.execute("PRAGMA journal_mode=WAL")
        self._raw.execute("PRAGMA synchronous=OFF")
        self._sound.backup(self._raw)
        self._raw.execute("PRAGMA ignore_check_constraints=ON")
        last = datetime.fromisoformat(self._one("SELECT max(at) FROM operation_run_journal"))
        self._now = last + LATER
        self._store = SqliteStore(path, clock=lambda: self._now)
        runs = [row[0] for row in self._raw.execute("SELECT id FROM operation_run ORDER BY created_at, id")]
        self.runs = [RunId(found.run_id) for found in self._store.list()]
        # The last run that goes on has rows of every kind, and is changed; the first is the other.
        alive = [
            row[0] for row in self._raw.execute("SELECT id FROM operation_run WHERE wake_at IS NOT NULL ORDER BY rowid")
        ]
        self._other, *_, self._changed = alive
        by_text = {str(run_id): run_id for run_id in self.runs}
        self._other_id, self._changed_id = by_text[self._other], by_text[self._changed]
        assert len(runs) == len(self.runs)
        self._columns = {
            table: [row[1] for row in self._raw.execute(f"PRAGMA table_xinfo({table})") if row[1] not in _NEVER]
            for table in TABLES
        }
        self._rowids = {
            table: [
                row[0]
                for row in self._raw.execute(f"SELECT rowid FROM {table} WHERE {_owner(table)} = ?", (self._changed,))
            ]
            for table in TABLES
        }

    def _one(self, query: str) -> Any:
        assert self._raw is not None
        return self._raw.execute(query).fetchone()[0]

    def _leave_two(self) -> None:
        """Take the runs out that are neither changed nor looked at: each of them costs every listing."""
        assert self._raw is not None
        self._sound.execute("PRAGMA foreign_keys=OFF")
        for table in reversed(TABLES):
            self._sound.execute(
                f"DELETE FROM {table} WHERE {_owner(table)} NOT IN (?, ?)", (self._other, self._changed)
            )
        self._sound.commit()
        self._sound.execute("VACUUM")
        self._sound.backup(self._raw)

    @property
    def seeds(self) -> Sequence[Input]:
        if not self._seeds:
            self._load(inputs_of(self.name)[-1].data)
            self._leave_two()
            self._documents = [JsonSeed(seed.data) for seed in inputs_of("documents")]
            # A row as it is.
            self._seeds = tuple(
                Input(table, json.dumps({"row": 0, "values": {}}).encode()) for table in TABLES if self._rowids[table]
            )
        return self._seeds

    def mutated(self, chance: Random) -> Input:
        table = chance.choice([table for table in TABLES if self._rowids[table]])
        columns = chance.sample(self._columns[table], chance.choice((1, 1, 1, 2)))
        values = {column: self._hostile(chance) for column in columns}
        given = {"row": chance.randrange(len(self._rowids[table])), "values": values}
        return Input(table, json.dumps(given).encode("ascii"))

    def _hostile(self, chance: Random) -> Any:
        match chance.randrange(10):
            case 0:
                return None
            case 1 | 2:
                return chance.choice(INTEGERS)
            case 3:
                return chance.choice((0.5, 1e300, -0.0, {"real": "inf"}, {"real": "-inf"}, 1.0))
            case 4 | 5:
                return chance.choice(INSTANTS)
            case 6:
                return {"blob": chance.randbytes(chance.choice((0, 3, 16))).hex()}
            case 7:
                # Text that is no text.
                return {"text": chance.choice(("ff", "eda080", "00", "610062", "c080")).lower()}
            case 8:
                seed = chance.choice(self._documents)
                document = seed.changed(chance, self._documents, huge=False)
                return document.decode("utf-8", "replace")
            case _:
                return chance.choice(TEXTS).encode("utf-8", "replace").decode()

    def value(self, given: Input) -> Any:
        """All that the store of a dump tells."""
        self._load(given.data)
        assert self._store is not None
        store = self._store
        return {
            str(run_id): {
                "overview": store.get(run_id),
                "targets": store.targets(run_id),
                "strays": store.strays(run_id),
                "journal": store.journal(run_id),
            }
            for run_id in self.runs
        }

    def takes(self, given: Input) -> bool:
        _ = self.seeds
        assert self._raw is not None
        assert self._store is not None
        changed = json.loads(given.data)
        rowid = self._rowids[given.kind][changed["row"]]
        self._given = {given.kind: frozenset(changed["values"])}
        try:
            if changed["values"]:
                self._change(given.kind, rowid, changed["values"])
            return self._passes(self._store)
        except sqlite3.IntegrityError:
            # No row may have no value there, or the same as another one: the file itself refuses it.
            return False
        finally:
            self._sound.backup(self._raw)

    def _change(self, table: str, rowid: int, values: Mapping[str, Any]) -> None:
        assert self._raw is not None
        parts, bound = [], []
        for column, value in values.items():
            cast = "CAST(? AS TEXT)" if isinstance(value, dict) and "text" in value else "?"
            parts.append(f"{column} = {cast}")
            bound.append(_bound(value))
        self._raw.execute(f"UPDATE {table} SET {', '.join(parts)} WHERE rowid = ?", (*bound, rowid))

    def _rows(self, *, without: frozenset[str]) -> dict[str, list[tuple[Any, ...]]]:
        """Everything that stands there of the run that is changed."""
        assert self._raw is not None
        self._raw.text_factory = bytes
        try:
            return {
                table: self._raw.execute(
                    f"SELECT {', '.join(c for c in self._columns[table] if c not in without)} FROM {table} "
                    f"WHERE {_owner(table)} = ? ORDER BY rowid",
                    (self._changed,),
                ).fetchall()
                for table in TABLES
            }
        finally:
            self._raw.text_factory = str

    def _passes(self, store: SqliteStore) -> bool:
        before = self._rows(without=_OWN)
        held(self._other_id in store.due(10, LEASE), "the other run is not due")
        self._errors.met.clear()
        self._count += 1
        if self._count % _WHOLE_PASS == 0:
            self._sound_clock()
            passed = Dispatcher(store, _Silent(), _SETTINGS, actor="d", monotonic=lambda: 0.0, jitter=lambda: 0.5)
            held(self._other_id in passed.run_once().served, "the other run was not served")
            for error in self._errors.met:
                raise error
        is_value = self._reads(store)
        decided = self._served(store)
        if not decided:
            held(self._rows(without=_OWN) == before, "something was written of a run that cannot be read")
        return is_value and decided

    def _sound_clock(self) -> None:
        """What was taken to be served is due again."""
        self._now += LEASE

    def _served(self, store: SqliteStore) -> bool:
        """Serve the changed run as a dispatcher does whose task manager is silent; False when it cannot be read."""
        decisions = 0

        def decider(state: RunState) -> Decision:
            nonlocal decisions
            decisions += 1
            return decide(state)

        tick = serve(
            store, self._changed_id, _SETTINGS, capacity=None, monotonic=lambda: 0.0, actor="d", decider=decider
        )
        try:
            next(tick)
            while True:
                tick.send(())
        except StopIteration:
            return True
        except OpdispatchError as error:
            check_rejection(error)
            if isinstance(error, NotFound):
                # Its id is what was changed.
                return False
            trouble = store.report(self._changed_id, storable(str(error)), lambda count: LEASE, 10)
            held(trouble.count >= 1, "the error was not recorded")
            return decisions > 0

    def _reads(self, store: SqliteStore) -> bool:
        """What a reader looks at; True when all of it can be read."""
        listed = {found.run_id: found for found in store.list()}
        held(listed[self._other_id].run is not None, "the other run is not listed")
        held(
            self._changed_id in listed or "id" in self._given.get("operation_run", ()), "the changed run is not listed"
        )
        is_value = True
        readers: dict[str, Callable[[RunId], object]] = {
            "operation_run_target": store.targets,
            "operation_run_stray": store.strays,
            "operation_run_journal": store.journal,
        }
        for read in (store.get, *(found for table, found in readers.items() if table in self._given)):
            try:
                read(self._changed_id)
            except OpdispatchError as error:
                check_rejection(error)
                is_value = False
        return is_value


def _owner(table: str) -> str:
    return "id" if table == "operation_run" else "operation_run_id"


def _bound(value: Any) -> Any:
    match value:
        case {"blob": text} | {"text": text}:
            return bytes.fromhex(text)
        case {"real": text}:
            return float(text)
        case int() if not -(2**63) <= value < 2**63:
            return float(value)
        case _:
            return value


def recorded(path: Path) -> bytes:
    """The store in a file, as text that makes it again."""
    with closing(sqlite3.connect(path)) as connection:
        return "\n".join(connection.iterdump()).encode("utf-8")
