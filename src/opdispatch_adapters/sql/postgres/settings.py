"""How a PostgreSQL database is reached: from a URL to settings that check themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

import attrs
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from opdispatch.errors import InvalidInput

CHANNEL: Final = "opdispatch_run"
"""Where runs are announced; the payload is the run's id."""
_EXAMPLE: Final = "postgresql://user@host:5432/database"
_SECRETS: Final = ("password", "sslpassword", "oauth_client_secret")
"""What the driver takes from a query too, and nobody may see."""
_FLAGS: Final = {"on": True, "off": False}


def _above_zero(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value <= type(value)(0):
        raise InvalidInput.at(f"store.{attribute.name}", f"{value} is not above zero")


@attrs.frozen(kw_only=True)
class PostgresSettings:
    """How a store uses its database.  Each can stand in the URL's query, a wait in seconds, a flag as on or off."""

    pool_size: int = attrs.field(default=5, validator=_above_zero)
    """How many connections this process uses at most, the listener's aside.  One is enough for one thread."""
    pool_wait: timedelta = attrs.field(default=timedelta(seconds=10), validator=_above_zero)
    """How long to wait for one of them."""
    connect_timeout: timedelta = attrs.field(default=timedelta(seconds=10), validator=_above_zero)
    """How long the server may take to answer a new connection."""
    lock_timeout: timedelta = attrs.field(default=timedelta(seconds=5), validator=_above_zero)
    """How long a statement waits for a row that somebody else holds."""
    statement_timeout: timedelta = attrs.field(default=timedelta(seconds=30), validator=_above_zero)
    """How long a statement may take."""
    idle_in_transaction_timeout: timedelta = attrs.field(default=timedelta(seconds=60), validator=_above_zero)
    """How long the server leaves a transaction of a dispatcher that hangs; then its locks are free."""
    listen: bool = True
    """Hear at once of new runs and commands, on a connection of its own; otherwise they are noticed at a glance."""
    pooler: bool = False
    """A pooler that hands connections out per transaction stands before the server: keep nothing in a session,
    prepare nothing and do not listen."""
    known: int = attrs.field(default=256, validator=_above_zero)
    """How many runs' last snapshots are kept, so that the next tick need not read them again."""

    @property
    def listens(self) -> bool:
        """True when notifications can and shall be had."""
        return self.listen and not self.pooler


def _wait(text: str) -> timedelta:
    return timedelta(seconds=float(text))


def _flag(text: str) -> bool:
    return _FLAGS[text.lower()]


_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    **dict.fromkeys(("pool_size", "known"), int),
    **dict.fromkeys(
        ("pool_wait", "connect_timeout", "lock_timeout", "statement_timeout", "idle_in_transaction_timeout"), _wait
    ),
    **dict.fromkeys(("listen", "pooler"), _flag),
}


def shown(url: URL) -> str:
    """A URL as a message may show it: without any secret, wherever in it that stands."""
    return url.difference_update_query(_SECRETS).render_as_string(hide_password=True)


def _is_torn(source: str) -> bool:
    """True when a character of a user or password seems to end it too early."""
    before, _, query = source.partition("://")[2].partition("?")
    authority, _, path = before.partition("/")
    if "@" in authority:
        return authority.count("@") > 1
    return "@" in path or "@" in query.partition("=")[0]


def url_of(source: str, settings: PostgresSettings | None = None) -> tuple[URL, PostgresSettings]:
    """The URL of a database without our settings, and the settings that its query tells, over those given.

    Raises InvalidInput, which never shows a password.
    """
    if _is_torn(source):
        # Part of the password would be taken for the host or the database, and shown as such.
        remedy = "in a user or password write @ as %40, / as %2F, ? as %3F and # as %23"
        raise InvalidInput.at("store", "it has an @ where none can be", remedy)
    try:
        url = make_url(source)
    except (ArgumentError, ValueError):
        # What was found would tell the whole source, and the password with it.
        raise InvalidInput.at("store", "it is not a URL", f"use {_EXAMPLE}") from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise InvalidInput.at("store", f"{url.get_backend_name()} is not supported", f"use {_EXAMPLE}")
    if not url.database:
        raise InvalidInput.at("store", f"{shown(url)} names no database", f"use {_EXAMPLE}")
    given: dict[str, Any] = {}
    for name, read in _READERS.items():
        if name in url.query:
            text = url.query[name]
            try:
                given[name] = read(text if isinstance(text, str) else text[-1])
            except (ValueError, KeyError, OverflowError) as error:
                raise InvalidInput.at(f"store.{name}", f"{text!r} is not a value for it") from error
    found = attrs.evolve(settings if settings is not None else PostgresSettings(), **given)
    return url.difference_update_query(_READERS).set(drivername="postgresql"), found
