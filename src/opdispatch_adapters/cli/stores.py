"""Where a store is, how a command line names it, and what lies beside it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from opdispatch.errors import InvalidInput, NotFound, Unavailable
from opdispatch.identity import RunId
from opdispatch.query import RunQuery
from opdispatch.run import RunStatus
from opdispatch.target import TargetStatus

if TYPE_CHECKING:
    from sqlalchemy import URL

    from opdispatch_adapters.sql import SqlStore

_SCHEMES: Final = ("postgresql:", "postgresql+psycopg:", "postgres:")
SERVER: Final = "--server "
"""How the text of a store begins that is a server."""
_SECRETS: Final = ("password", "sslpassword", "oauth_client_secret")
_SERVED: Final = RunQuery.in_statuses(status for status in RunStatus if not status.is_terminal)
_IN_FLIGHT: Final = frozenset(status for status in TargetStatus if status.holds_slot)
_MOST: Final = 100_000
_LONGEST: Final = 150
"""The characters of a directory's name that tell people which store it belongs to; a digest tells them apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A store as somebody named it."""

    source: Path | str
    """The file, absolute, or the URL with everything that is in it: never shown."""
    text: str
    """How a command line names it: never with a password."""
    tasks: Path
    """The directory of the tasks and programs of this host."""

    @property
    def file(self) -> Path | None:
        """The file; None for a database on a server."""
        return self.source if isinstance(self.source, Path) else None


def locate(option: str) -> Place:
    """The place that an option names.  Raises InvalidInput for what no store can be in."""
    if not option or "\0" in option:
        raise InvalidInput.at(
            "--store", f"{option!r} names no file", "give a path, sqlite:///path, or postgresql://user@host/database"
        )
    if is_url(option):
        return _database(option)
    if option.lower().startswith("postgres") and "@" in option:
        # Shown as a file that is not there, it would show a password.
        raise InvalidInput.at("--store", "it is not a URL of a database", "give postgresql://user@host/database")
    path = _file(option)
    return Place(source=path, text=str(path), tasks=path.with_name(f"{path.name}.tasks"))


def _file(option: str) -> Path:
    if "://" in option:
        from opdispatch_adapters.sql.sqlite.engine import file_of

        option = str(file_of(option))
    path = Path(os.path.abspath(Path(option).expanduser()))
    # The directory by its real name: two ways to one store must lead to one directory of tasks.
    path = Path(os.path.realpath(path.parent)) / path.name
    if not path.name or path.is_dir():
        raise InvalidInput.at("--store", f"{path} is a directory", "name a file in it, such as opdispatch.db")
    if path.is_symlink():
        raise InvalidInput.at("--store", f"{path} is a symbolic link", "name the file itself")
    return path


def _database(option: str) -> Place:
    from sqlalchemy import make_url

    from opdispatch_adapters.sql.postgres.settings import url_of

    url, _ = url_of(option)
    public = make_url(option).difference_update_query(_SECRETS)._replace(password=None)
    return Place(source=option, text=public.render_as_string(), tasks=_state() / f"{_named(url)}.tasks")


def _state() -> Path:
    """Where this user's programs keep what outlives them."""
    given = os.environ.get("XDG_STATE_HOME", "")
    base = Path(given) if os.path.isabs(given) else Path("~/.local/state").expanduser()
    return base / "opdispatch"


def _named(url: URL) -> str:
    """A name for a database: who connects, and how, does not count."""

    def told(given: object, query: str, variable: str, otherwise: str) -> str:
        asked = url.query.get(query, ())
        texts = (asked,) if isinstance(asked, str) else asked
        return ",".join(texts) or str(given or os.environ.get(variable) or otherwise)

    host = told(url.host, "host", "PGHOST", "local")
    port = told(url.port, "port", "PGPORT", "5432")
    database = told(url.database, "dbname", "PGDATABASE", "")
    readable = "-".join(quote(part, safe="") for part in (host, port, database))
    digest = hashlib.sha256("\0".join((host, port, database)).encode()).hexdigest()
    return f"{readable[:_LONGEST]}-{digest[:8]}"


def make_parent(tasks: Path) -> None:
    """Make the directory that holds the directories of tasks, for its owner alone.  Raises Unavailable."""
    try:
        tasks.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(
            "the directory of the tasks", f"{tasks.parent}: {error.strerror}", "name another with --tasks"
        ) from error


def require_store(place: Place) -> None:
    """Refuse a file that is not there; whether a database is, its server knows."""
    if place.file is not None and not os.path.lexists(place.file):
        raise InvalidInput.at(
            f"store {place.file}",
            "there is no such file",
            "name the store with --store, or make one with `opdispatch run FILE` or `opdispatch store migrate`",
        )


def require_tasks(store: SqlStore, tasks: Path, only: RunId | None) -> None:
    """Refuse to dispatch with a directory that was never used, while tasks are in flight that must be in another one.

    Whoever looked for them here would take them for lost, and begin some once more.  Raises Unavailable.
    """
    if os.path.lexists(tasks / "tasks"):
        return
    runs = [run.run_id for run in store.list(_SERVED, limit=_MOST)] if only is None else [only]
    for run_id in runs:
        try:
            found = store.targets(run_id, statuses=_IN_FLIGHT, limit=1)
        except NotFound:
            # It is about to be made.
            continue
        if found:
            raise Unavailable(
                f"the task manager of {store.name}",
                f"run {run_id} has tasks in flight, and {tasks} knows of none",
                "dispatch on the host where they run, or name their directory with --tasks",
            )


def new_store(path: Path) -> bool:
    """Make an empty store, whole or not at all; False when somebody else made it meanwhile."""
    from opdispatch_adapters.sql import migrate
    from opdispatch_adapters.sql.standing import BASE

    return migrate(path)[0] == BASE


def is_of_environment(text: str) -> bool:
    """True when the environment names this database: then no command line needs to, and its password stays there."""
    given = os.environ.get("OPDISPATCH_STORE", "")
    return is_url(text) and is_url(given) and locate(given).text == text


def is_url(text: str) -> bool:
    """True for a database on a server.  As ``is_postgres`` has it, without loading that: most stores are files."""
    return text.startswith(_SCHEMES)
