"""The connections to a PostgreSQL database: how they are opened and set, and how errors are told in the core's words.

Every session is made safe against what hangs (time-outs) and against plans that were made for other sizes: a plan is
made once and for any parameters, and an index is always better than reading the whole table, because every statement
here is bounded by one.  Behind a pooler the same is said anew in each transaction.
"""

from __future__ import annotations

import re
import select
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

import attrs
import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.types.string import TextLoader
from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from opdispatch.errors import CorruptRecord, InvalidInput, OpdispatchError, Unavailable

from ..strict import Unreadable
from .settings import PostgresSettings, shown, url_of

_MILLISECOND: Final = timedelta(milliseconds=1)
_LONG: Final = timedelta(hours=4)
_PATIENCE: Final = timedelta(seconds=60)
"""How long a migration may take, and how long it waits for a table that is in use."""
WRITER: Final = "opdispatch.writer"
"""The setting by which our transactions tell the guards who they are."""


def session_settings(settings: PostgresSettings) -> dict[str, str]:
    """What every session, or behind a pooler every transaction, is told."""
    return {
        WRITER: "on",
        "lock_timeout": _milliseconds(settings.lock_timeout),
        "statement_timeout": _milliseconds(settings.statement_timeout),
        "idle_in_transaction_session_timeout": _milliseconds(settings.idle_in_transaction_timeout),
        "plan_cache_mode": "force_generic_plan",
        "enable_seqscan": "off",
        "enable_nestloop": "off",
        "jit": "off",
        "timezone": "UTC",
        # As they are everywhere, unless somebody set the database or the role otherwise.
        "default_transaction_isolation": "read committed",
        "datestyle": "ISO",
    }


def session_options(settings: PostgresSettings) -> str:
    """The same as a connection's ``options``."""
    told = (f"{name}={value}" for name, value in session_settings(settings).items())
    return " ".join("-c " + one.replace(" ", r"\ ") for one in told)


def _milliseconds(wait: timedelta) -> str:
    return str(max(wait // _MILLISECOND, 1))


def connect_arguments(url: URL, settings: PostgresSettings, role: str) -> dict[str, Any]:
    """What the driver is given for one connection; ``role`` says in the server's lists what it is for."""
    arguments: dict[str, Any] = {
        "connect_timeout": max(int(settings.connect_timeout.total_seconds()), 1),
        "application_name": f"opdispatch {role}",
        # A connection whose other end is gone is noticed within half a minute, and not after hours.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
        "host": url.host,
        "port": url.port,
        "user": url.username,
        "password": url.password,
        "dbname": url.database,
        "client_encoding": "utf8",
    }
    # What the query says counts, and several hosts are several values of one name there.
    arguments |= {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    if not settings.pooler:
        arguments["options"] = f"{arguments.get('options', '')} {session_options(settings)}".strip()
    return {name: value for name, value in arguments.items() if value is not None}


def open_engine(url: URL, settings: PostgresSettings) -> Engine:
    """An engine on a database.  It opens nothing yet.  Raises InvalidInput for an option that there is not."""
    arguments = connect_arguments(url, settings, "store")
    try:
        make_conninfo(**arguments)
    except psycopg.ProgrammingError as error:
        raise InvalidInput.at("store", " ".join(str(error).split()), "mend the query of the URL") from error

    def connect() -> psycopg.Connection[Any]:
        connection = psycopg.connect(**arguments, prepare_threshold=None if settings.pooler else 5)
        # A document is parsed once, by the strict reader.
        for name in ("json", "jsonb"):
            connection.adapters.register_loader(name, TextLoader)
        return connection

    engine = create_engine(
        "postgresql+psycopg://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_wait.total_seconds(),
        use_native_hstore=False,
        hide_parameters=True,
        # Behind a pooler no session is ours to set, so each transaction says it.
        **({"isolation_level": "READ COMMITTED"} if settings.pooler else {}),
    )
    event.listen(engine, "checkout", _require_silence)
    if settings.pooler:
        told = session_settings(settings)
        prelude = text(
            "SELECT " + ", ".join(f"set_config('{name}', :v{index}, true)" for index, name in enumerate(told))
        )
        values = {f"v{index}": value for index, value in enumerate(told.values())}

        def begun(connection: Connection) -> None:
            connection.execute(prelude, values)

        event.listen(engine, "begin", begun)
    return engine


def _require_silence(connection: psycopg.Connection[Any], *_: object) -> None:
    """Let the pool open another connection in place of one that the server has ended, before anybody uses it.

    A server says nothing on a connection that nobody uses, except that it ends it: looking costs no round trip.
    """
    heard = select.poll()
    heard.register(connection.fileno(), select.POLLIN)
    if heard.poll(0):
        raise DisconnectionError


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Tell the driver's errors in the core's words, the driver's own as the cause."""
    try:
        yield
    except PoolTimeout as error:
        remedy = "raise pool_size, or try again later"
        raise Unavailable(what, "all its connections are in use", remedy) from error
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise core_error(what, cause) from error
    except psycopg.Error as error:
        raise core_error(what, error) from error
    except Unreadable as error:
        raise CorruptRecord(what, str(error)) from error
    except UnicodeEncodeError as error:
        raise InvalidInput.at(what, f"a text cannot be stored: {error}", "use Unicode text") from error


_LATER: Final = "try again later"
_BY_STATE: Final = {
    "42501": "grant the role what it needs; see `opdispatch store roles`",
    "28P01": "check user and password",
    "28000": "check user and password, and what the server lets in",
    "3D000": "create the database, or name another",
    "53100": "free some space on the server; nothing was changed",
    "53300": "lower pool_size, or let the server take more connections",
    "57P03": "it is starting or stopping; try again later",
}
_SAYINGS: Final = (
    (re.compile(r'database ".*" does not exist'), _BY_STATE["3D000"]),
    (re.compile(r"password authentication failed|no password supplied"), _BY_STATE["28P01"]),
    (re.compile(r'no pg_hba\.conf entry|role ".*" (does not exist|is not permitted)'), _BY_STATE["28000"]),
    (re.compile(r"permission denied for database"), "grant the role CONNECT on the database"),
    (re.compile(r"too many (clients|connections)|remaining connection slots"), _BY_STATE["53300"]),
    (re.compile(r"the database system is "), _BY_STATE["57P03"]),
    (re.compile(r"Connection refused|No such file|resolve host"), "check host and port, and that the server runs"),
    (re.compile(r"invalid \w+ value"), "mend the query of the URL"),
)
"""The remedies for a connection that is refused: the driver has no SQLSTATE for it, only what the server said.  A
server that says it in another language gets the general remedy."""


def _remedy(state: str, said: str) -> str:
    if state:
        return _BY_STATE.get(state, _LATER)
    return next((remedy for saying, remedy in _SAYINGS if saying.search(said)), _LATER)


def core_error(what: str, error: BaseException | None) -> OpdispatchError:
    """The core's error for one of the driver's, by its SQLSTATE.

    One without is of the driver itself: a connection that is lost or was not had, or a value that it does not send.
    """
    state = getattr(error, "sqlstate", None) or ""
    said = " ".join(str(error).split())
    match state[:2]:
        case "23":
            return CorruptRecord(what, f"the database refused a change: {said}", "run `opdispatch store check`")
        case "" if isinstance(error, psycopg.DataError):
            if "NUL" in said:
                return InvalidInput.at(what, f"a value cannot be stored: {said}")
            return CorruptRecord(what, f"a value cannot be read: {said}", "run `opdispatch store check`")
        case "22":
            return InvalidInput.at(what, f"a value cannot be stored: {said}")
        case "XX":
            return CorruptRecord(what, said, "look at the server's log; restore the database from a copy")
        case "42" if state in ("42P01", "42703"):
            return CorruptRecord(
                what, f"its tables are not those of this version: {said}", "run `opdispatch store check`"
            )
        case _:
            return Unavailable(what, said, _remedy(state, said))


def is_lock_timeout(error: BaseException) -> bool:
    """True when a row was held by somebody else for too long."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) == "55P03"


@contextmanager
def changing_tables(source: str) -> Iterator[tuple[Connection, str]]:
    """One transaction for a migration, and the database as a message names it.  Another migration waits for it."""
    url, settings = url_of(source)
    what = f"store {shown(url)}"
    patient = attrs.evolve(settings, statement_timeout=_LONG, idle_in_transaction_timeout=_LONG, lock_timeout=_PATIENCE)
    engine = open_engine(url, patient)
    try:
        with translated(what), engine.connect() as connection, connection.begin():
            connection.execute(text("SELECT set_config('enable_seqscan', 'on', true)"))
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('opdispatch migration', 0))"))
            yield connection, what
    finally:
        engine.dispose()
