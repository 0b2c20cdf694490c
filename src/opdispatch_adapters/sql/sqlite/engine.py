"""The SQLite file: how it is found, opened and locked, and how its errors are told in the core's words.

A write transaction begins with ``BEGIN IMMEDIATE``: one that reads first and then writes would fail at once, whatever
its patience, when somebody else wrote in between.  Reads take a plain snapshot and disturb nobody.  WAL, and
``synchronous=FULL``: what was committed outlives a loss of power.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from weakref import WeakSet

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from opdispatch.errors import CorruptRecord, InvalidInput, OpdispatchError, Unavailable

from ..strict import Unreadable

PATIENCE: Final = timedelta(seconds=5)
"""How long to wait for the file's one write lock.  Transactions hold it for milliseconds; no call is made in one."""
_WAIT: Final = "opdispatch_wait"
_CURSORS: Final = "opdispatch_cursors"
_FILE: Final = "opdispatch_file"
_MILLISECOND: Final = timedelta(milliseconds=1)


def file_of(source: str | Path) -> Path:
    """The file that a URL (``sqlite:///path``) or a path names.  Raises InvalidInput."""
    if isinstance(source, Path) or "://" not in source:
        return Path(source)
    try:
        url = make_url(source)
    except (ArgumentError, ValueError):
        # What was found would tell the whole source, and maybe a password with it.
        raise InvalidInput.at("store", "it is not a URL", "use sqlite:///path/to/file") from None
    if url.get_backend_name() != "sqlite":
        raise InvalidInput.at(
            "store", f"{url.get_backend_name()} is not supported", "use sqlite:///path/to/file or postgresql://..."
        )
    if not url.database or url.database == ":memory:" or url.database.startswith("file:") or url.query:
        raise InvalidInput.at("store", f"{source!r} names no file", "use sqlite:///path/to/file")
    return Path(url.database)


def require_file(path: Path) -> None:
    """Refuse what cannot be a store's file.  Raises InvalidInput for a link or a directory, Unavailable for nothing."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise Unavailable(f"store {path}", "there is no such file", "run `opdispatch store migrate` first") from None
    except OSError as error:
        raise _unusable(path, error) from error
    if stat.S_ISLNK(found.st_mode):
        raise InvalidInput.at("store", f"{path} is a symbolic link", "name the file itself")
    if not stat.S_ISREG(found.st_mode):
        raise InvalidInput.at("store", f"{path} is not a regular file", "name a file")


def make_file(path: Path) -> None:
    """Create an empty file that only its owner reads (0600), and its directory (0700), where that is missing.

    Raises FileExistsError where something has that name, or a file has that of the directory.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise
    except OSError as error:
        raise _unusable(path, error) from error


def remove_file(path: Path) -> None:
    """Remove a file that was made for nothing, with what SQLite keeps beside it."""
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}-journal"):
        # A name that is too long for the file system is not there either.
        with suppress(OSError):
            path.with_name(name).unlink()


def _unusable(path: Path, error: OSError) -> Unavailable:
    return Unavailable(
        f"store {path}", f"{error.strerror}: {error.filename}", "make its directory usable, or name another"
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def uri_of(path: Path) -> str:
    """What SQLite opens this file by, if it is there, wherever the process goes meanwhile."""
    return f"file://{quote(os.fsencode(path.absolute()))}?mode=rw"


def file_there(path: Path) -> tuple[int, int] | None:
    """Which file has this name now: its device and inode; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def open_engine(path: Path) -> Engine:
    """An engine on a file that exists.  It opens nothing yet."""
    uri, path = uri_of(path), path.absolute()

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        # Bytes that are no text come out as half characters: the reader of the row refuses them, and not the driver.
        connection.text_factory = _text
        try:
            connection.execute(f"PRAGMA busy_timeout={PATIENCE // _MILLISECOND}")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def opened(_: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
        entry.info[_FILE] = file_there(path)

    def given_out(_: sqlite3.Connection, entry: ConnectionPoolEntry, _proxy: object) -> None:
        # A store that was restored from a copy is another file: the old one is nobody's any more.
        if entry.info[_FILE] != file_there(path):
            raise DisconnectionError

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)
    event.listen(engine, "connect", opened)
    event.listen(engine, "checkout", given_out)
    event.listen(engine, "begin", _begin)
    event.listen(engine, "before_cursor_execute", _remember_cursor)
    event.listen(engine, "checkin", _close_cursors)
    return engine


def use_wal(engine: Engine) -> None:
    """Let readers and a writer work side by side.  The mode stays with the file, so it is set only once it is ours."""
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        if not isinstance(driver, sqlite3.Connection):
            raise AssertionError("the engine was made for SQLite")
        driver.execute("PRAGMA journal_mode=WAL")


def _begin(connection: Connection) -> None:
    wait: int | None = connection.get_execution_options().get(_WAIT)
    if wait is None:
        connection.exec_driver_sql("BEGIN")
        return
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise AssertionError("the engine was made for SQLite")
    driver.execute(f"PRAGMA busy_timeout={wait}")
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        # An exit that interrupts the wait closes the driver's connection.
        if not connection.invalidated:
            driver.execute(f"PRAGMA busy_timeout={PATIENCE // _MILLISECOND}")


def _remember_cursor(connection: Connection, cursor: sqlite3.Cursor, *_: Any) -> None:
    open_ones: WeakSet[sqlite3.Cursor] = connection.info.setdefault(_CURSORS, WeakSet())
    open_ones.add(cursor)


def _close_cursors(driver: sqlite3.Connection | None, entry: ConnectionPoolEntry) -> None:
    """End every read with its transaction.

    A row that cannot be read leaves its cursor in the middle, and whoever keeps the error keeps the cursor, in the
    frames of its traceback.  SQLite would keep the snapshot of such a cursor for all that the connection reads later.
    """
    cursors = entry.info.pop(_CURSORS, ())
    if driver is None:
        # It was closed, and they with it.
        return
    for cursor in cursors:
        cursor.close()


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One snapshot."""
    with engine.connect() as connection, connection.begin():
        yield connection


@contextmanager
def writing(engine: Engine, wait: timedelta = PATIENCE) -> Iterator[Connection]:
    """One transaction that holds the file's write lock from its beginning; leaving with an exception undoes it."""
    options = {_WAIT: max(wait // _MILLISECOND, 0)}
    with engine.connect() as plain, plain.execution_options(**options).begin():
        yield plain


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Tell the driver's errors in the core's words, the driver's own as the cause."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise core_error(what, cause) from error
    except sqlite3.Error as error:
        raise core_error(what, error) from error
    except Unreadable as error:
        raise CorruptRecord(what, str(error)) from error
    except UnicodeEncodeError as error:
        raise InvalidInput.at(what, f"a text cannot be stored: {error}", "use Unicode text") from error


@contextmanager
def bounded(what: str) -> Iterator[None]:
    """Tell of a number that no column holds.  Around nobody's code but the store's: elsewhere it would be a fault."""
    try:
        yield
    except OverflowError as error:
        raise InvalidInput.at(what, f"a number is beyond all bounds: {error}", "use a smaller one") from error


def core_error(what: str, error: BaseException | None) -> OpdispatchError:
    """The core's error for one of the driver's."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    text = str(error)
    match code:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Unavailable(what, text)
        case sqlite3.SQLITE_FULL:
            return Unavailable(what, text, "free some space; nothing was changed")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_AUTH:
            return Unavailable(what, text, "make the file and its directory readable and writable")
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_NOMEM:
            return Unavailable(what, text, "look at the disk and its file system; nothing was changed")
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return CorruptRecord(what, text, "name a store's file, or restore it from a copy")
        case sqlite3.SQLITE_CONSTRAINT:
            return CorruptRecord(what, f"the database refused a change: {text}", "run `opdispatch store check`")
        case _:
            return Unavailable(what, text)


def is_busy(error: BaseException) -> bool:
    """True when somebody else holds the file's write lock."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
