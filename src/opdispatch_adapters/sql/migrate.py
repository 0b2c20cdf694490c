"""Migrations: bring a store's tables to a revision, or say why they cannot be used.

Nothing migrates by itself: opening a store that is behind is refused, with the command that mends it.  A migration is
one transaction, so a reader sees the old tables or the new ones; another migration waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from sqlalchemy import Connection, text

from opdispatch.errors import InvalidInput, Unavailable

from .locate import is_postgres, require_driver
from .sqlite.engine import (
    file_of,
    make_file,
    open_engine,
    reading,
    remove_file,
    require_file,
    translated,
    use_wal,
    writing,
)
from .standing import BASE, REVISIONS, VERSION_TABLE, NotAdopted, is_reference, require_current, revision_of

HEAD: Final = "head"
_ORDER: Final = (BASE, *REVISIONS)


def migrate(source: str | Path, revision: str = HEAD) -> tuple[str, str]:
    """Bring the store's tables to ``revision``: ``head``, ``base`` or one of ``REVISIONS``.

    Going down drops what the older revision does not know; ``base`` drops every run, or gives an adopted database back
    to the reference with its runs.  A missing file is created (0600), with its directory (0700).

    Returns:
        The revisions before and after.

    Raises:
        InvalidInput: no such revision, or the source cannot be a store's.
        CorruptRecord: not a database, not ours, or written by a newer version.
        Unavailable: the database cannot be used now, or waits to be adopted.
    """
    wanted = {HEAD: REVISIONS[-1]}.get(revision, revision)
    if wanted not in _ORDER:
        raise InvalidInput.at("revision", f"{revision!r} is not known", f"use {HEAD} or one of {', '.join(_ORDER)}")
    if not is_postgres(source) and _made(file_of(source), wanted):
        return BASE, wanted
    return _migrated(_changing(source), wanted)


def _migrated(changing: AbstractContextManager[tuple[Connection, str]], wanted: str) -> tuple[str, str]:
    with changing as (connection, what):
        found = revision_of(connection, what)
        if is_reference(connection):
            raise NotAdopted(what)
        if found != wanted:
            _run(connection, wanted, up=_ORDER.index(wanted) > _ORDER.index(found))
            if wanted == BASE and is_reference(connection):
                connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))
    return found, wanted


def _made(path: Path, wanted: str) -> bool:
    """Make a file that is missing, whole or not at all; False when it is there, also when somebody else was quicker.

    It is migrated under another name and linked to its own.  So a full disk leaves no half-made store behind, and
    nobody who fails can take away what another process has made of the same name, and uses.
    """
    if os.path.lexists(path):
        return False
    what, draft = f"store {path}", path.with_name(f".{path.name}.{uuid4().hex[:12]}")
    try:
        make_file(draft)
        _migrated(_changing_file(draft), wanted)
        os.link(draft, path)
    except FileExistsError:
        return False
    except Unavailable as error:
        raise Unavailable(what, error.detail.replace(str(draft), str(path)), error.remedy) from error
    except OSError as error:
        raise Unavailable(what, str(error.strerror), "name a file on a file system of its own") from error
    finally:
        remove_file(draft)
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """What an adoption found and did.

    ``state`` is the last of the reference's own migrations; ``before`` and ``after`` are our revisions; ``healed`` says
    what did not fit in the rows and was changed, with the number of rows (empty: nothing).
    """

    state: str
    before: str
    after: str
    runs: int
    targets: int
    healed: Mapping[str, int]


def adopt(source: str | Path, *, dry_run: bool = False) -> Adoption:
    """Take over a PostgreSQL database that the reference made: all or nothing.  Of an adopted one, tell what was done.

    ``migrate(source, "base")`` gives it back.  ``dry_run`` does all of it and then undoes it: its tables are locked
    for as long.

    Raises:
        InvalidInput: it is no PostgreSQL database, or the reference made no tables in it.
        CorruptRecord: its tables are of no state that is known, or hold a run that cannot be carried on.
        Unavailable: the database cannot be used now, or the reference is submitting a task.
    """
    if not is_postgres(source):
        raise InvalidInput.at("store", "only a PostgreSQL database can be adopted", "give its URL: postgresql://...")
    require_driver()
    from .postgres.adopt import act_as_owner, adoption_of

    with _changing(source) as (connection, what):
        before = revision_of(connection, what)
        if is_reference(connection):
            act_as_owner(connection)
            _run(connection, REVISIONS[-1], up=True, adopting=True)
        found = adoption_of(connection)
        if found is None:
            raise InvalidInput.at(
                what, "the reference made no tables in it", "use it as it is, or run `opdispatch store migrate`"
            )
        done = Adoption(**found, before=before, after=revision_of(connection, what))
        if dry_run:
            connection.rollback()
        return done


@contextmanager
def _changing(source: str | Path) -> Iterator[tuple[Connection, str]]:
    if is_postgres(source):
        require_driver()
        from .postgres.engine import changing_tables

        with changing_tables(str(source)) as found:
            yield found
        return
    with _changing_file(file_of(source)) as opened:
        yield opened


@contextmanager
def _changing_file(path: Path) -> Iterator[tuple[Connection, str]]:
    require_file(path)
    what = f"store {path}"
    engine = open_engine(path)
    try:
        with translated(what), writing(engine) as connection:
            yield connection, what
        with translated(what):
            use_wal(engine)
    finally:
        engine.dispose()


def _run(connection: Connection, revision: str, *, up: bool, adopting: bool = False) -> None:
    # Loaded here alone: Alembic takes a third of a second, and only a migration needs it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    scripts = Path(__file__).with_name("migrations")
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    config.attributes["adopt"] = adopting
    step = command.upgrade if up else command.downgrade
    step(config, revision)


def check(source: str | Path) -> None:
    """Say nothing when the store can be opened; raise what stands against it otherwise."""
    if is_postgres(source):
        require_driver()
        from .postgres.store import PostgresStore

        PostgresStore(str(source)).close()
        return
    path = file_of(source)
    require_file(path)
    what = f"store {path}"
    engine = open_engine(path)
    try:
        with translated(what), reading(engine) as connection:
            require_current(connection, what)
    finally:
        engine.dispose()
