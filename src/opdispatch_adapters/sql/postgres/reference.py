"""A database that the reference made and that is not adopted: read, and never written.

The queries are those of every store.  Before each stand expressions under the names of our tables, which tell our
columns from the reference's; so whoever reads cannot tell the difference, and nothing is made in the database.  What
the reference does not keep is empty: strays, the journal, when a run is due.  Every write is refused.
"""

# ruff: noqa: S608  (every part of a statement here is a constant)
from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, NoReturn

from sqlalchemy import Connection, Dialect, Table, event, func, select, text

from opdispatch.identity import RunId
from opdispatch.target import Target, TargetStatus

from .. import schema
from ..rollout_documents import conflict_from
from ..standing import NotAdopted, is_reference, require_current
from ..store import SqlStore
from . import reference_tables as tables
from .driver import fetch_seen
from .engine import open_engine, translated
from .guards import phases
from .reads import PostgresReads
from .settings import PostgresSettings, shown, url_of
from .writes import PostgresWrites

_RUN: Final = {
    "accepted": f"'{schema.NOTHING_ACCEPTED}'::jsonb",
    "operator_hold": f"({tables.OPERATOR_HOLD})",
    "conflict_hold": tables.CONFLICT_HOLD,
    "revision": "0",
    "error_count": "0",
}
_TARGET: Final = {
    "attempt": "1",
    "fence": tables.FENCE,
    "lease_until": "CASE status WHEN 'claimed' THEN coalesce(retry_after, updated_at) END",
    "retry_at": "CASE status WHEN 'blocked' THEN coalesce(retry_after, updated_at) END",
    # A submitted target whose task was deleted is still submitted to the reference.
    "task_ref": f"CASE WHEN {tables.MAY_HAVE_TASK} THEN coalesce(task_id::text,"
    " CASE status WHEN 'submitted' THEN '' END) END",
    "lane": "CASE status WHEN 'blocked' THEN 1 END",
}
"""What stands for our columns; all others are null."""


class ReferenceStore(SqlStore):
    """The runs of a database that the reference made, as they are.  Safe for threads.

    Raises what ``PostgresStore`` raises, and NotAdopted (an Unavailable) from everything that writes.
    """

    def __init__(self, source: str, *, settings: PostgresSettings | None = None) -> None:
        url, self.settings = url_of(source, settings)
        # Nothing is kept in mind: the rows change, and no revision tells.
        super().__init__(f"store {shown(url)}", None, PostgresReads(fetch_seen), PostgresWrites(), known=0)
        self._engine = open_engine(url, self.settings)
        self._snapshots = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        try:
            with self._reading() as connection:
                if not is_reference(connection):
                    require_current(connection, self._what)
                self._names = _names(connection)
        except BaseException:
            self._engine.dispose()
            raise
        event.listen(self._engine, "before_cursor_execute", self._named, retval=True)

    def close(self) -> None:
        self._engine.dispose()

    def _named(self, *given: Any) -> tuple[str, Any]:
        statement, parameters = given[2].lstrip(), given[3]
        rest = f", {statement.removeprefix('WITH ')}" if statement.startswith("WITH ") else f" {statement}"
        return f"{self._names}{rest}", parameters

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with translated(self._what), self._snapshots.connect() as connection, connection.begin():
            yield connection

    def _looking(self) -> AbstractContextManager[Connection]:
        return self._reading()

    def _database_clock(self) -> Any:
        return func.clock_timestamp()

    def _writing(self) -> NoReturn:
        raise NotAdopted(self._what, "it can only be read: the reference made its tables, and they are not adopted")

    def lock(self, run_id: RunId, wait: timedelta) -> NoReturn:
        self._writing()

    def due(self, limit: int, lease: timedelta, *, only: RunId | None = None) -> NoReturn:
        self._writing()

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
        blocked = [target.id for target in found if target.status is TargetStatus.BLOCKED]
        if not blocked:
            return found
        c = schema.target.c
        with self._reading() as connection:
            states = {
                row[0]: row[1] for row in connection.execute(select(c.id, c.retry_state).where(c.id.in_(blocked)))
            }
        return tuple(
            replace(target, conflict=conflict_from(states.get(target.id))) if target.id in states else target
            for target in found
        )


def _names(connection: Connection) -> str:
    """The expressions under the names of our tables, of the columns that this state of the reference's tables has."""
    run = {f"{name}": f"r.{name}" for name in _columns(connection, "operation_run")}
    run = {
        "current_phase_index": tables.POINTER,
        "total_phases": f"coalesce({tables.LAST_PHASE} + 1, 0)",
        **run,
        **_RUN,
    }
    run["opened_phase"] = run["current_phase_index"]
    target = {name: name for name in _columns(connection, "operation_run_target")}
    target = {"components_by_type": "component_filter", **target, **_TARGET}
    dialect, has_racks = connection.dialect, bool(connection.scalar(text("SELECT to_regclass('rack') IS NOT NULL")))
    target["rack_name"] = tables.rack_name("t", has_racks=has_racks)
    return (
        f"WITH operation_run AS (SELECT {_selected(dialect, schema.run, run)} FROM operation_run r),"
        f" operation_run_target AS (SELECT {_selected(dialect, schema.target, target)} FROM operation_run_target t),"
        f" operation_run_phase AS ({phases()}),"
        f" operation_run_stray AS (SELECT {_selected(dialect, schema.stray, {})} WHERE false),"
        f" operation_run_journal AS (SELECT {_selected(dialect, schema.journal, {})} WHERE false)"
    )


def _columns(connection: Connection, table: str) -> Sequence[str]:
    query = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped"
    return connection.scalars(text(query), {"table": table}).all()


def _selected(dialect: Dialect, table: Table, known: dict[str, str]) -> str:
    return ", ".join(
        f"{known.get(column.name, f'NULL::{column.type.compile(dialect)}')} AS {column.name}" for column in table.c
    )
