"""The statements of a tick, given to the driver itself.

Their texts are made once and their rows are read as they come.  SQLAlchemy would describe every column of every result
anew, and the driver would look through every text again for its parameters: for a few targets that is a third of what
a tick costs this process.  Connections, transactions and what becomes of a connection that is lost stay SQLAlchemy's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import psycopg
from psycopg import RawCursor
from sqlalchemy import Connection

Rows = Sequence[Sequence[Any]]
Fetch = Callable[[Connection, str, Mapping[str, Any]], Rows]
_PARAMETER: Final = re.compile(r"%\((\w+)\)s")


@lru_cache(maxsize=256)
def _numbered(sql: str) -> tuple[bytes, tuple[str, ...]]:
    """A statement with numbers in place of the names of its parameters, and the names in that order."""
    names = tuple(dict.fromkeys(_PARAMETER.findall(sql)))
    numbers = {name: f"${number}" for number, name in enumerate(names, 1)}
    return _PARAMETER.sub(lambda found: numbers[found[1]], sql).encode(), names


def fetch(connection: Connection, sql: str, parameters: Mapping[str, Any]) -> Rows:
    """Carry a statement out in the transaction of this connection; its rows, if it has any."""
    text, names = _numbered(sql)
    driver: Any = connection.connection.driver_connection
    try:
        with RawCursor(driver) as cursor:
            cursor.execute(text, [parameters[name] for name in names])
            return cursor.fetchall() if cursor.pgresult is not None and cursor.pgresult.nfields else ()
    except psycopg.Error as error:
        if driver.closed:
            # As SQLAlchemy does: the pool must not give it out again.
            connection.invalidate(error)
        raise


def fetch_seen(connection: Connection, sql: str, parameters: Mapping[str, Any]) -> Rows:
    """The same by SQLAlchemy, for who listens to its events."""
    return connection.exec_driver_sql(sql, dict(parameters)).all()
