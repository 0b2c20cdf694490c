"""What a database is to us: empty, ours at some revision, or somebody else's.

Kept apart from the migrations, so that opening a store does not load the tool that migrates it.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, inspect, text

from opdispatch.errors import CorruptRecord, Unavailable

VERSION_TABLE: Final = "opdispatch_revision"
REVISIONS: Final = ("0001", "0002", "0003")
"""Every revision that this program knows, oldest first."""
RUNS: Final = "operation_run"
"""The table that the reference and we have in common."""
BASE: Final = "base"
"""The revision of a database without any table of ours."""


def revision_of(connection: Connection, what: str) -> str:
    """The revision of this database; ``base`` for an empty one.

    Raises CorruptRecord when it holds other people's tables, or was written by a newer version.
    """
    tables = set(inspect(connection).get_table_names())
    if VERSION_TABLE not in tables:
        # A file is one program's alone; a PostgreSQL database may hold tables of others beside ours.
        if tables and connection.dialect.name == "sqlite":
            found = ", ".join(sorted(tables)[:3])
            raise CorruptRecord(what, f"it holds other tables ({found}) and none of ours", "name a file of its own")
        return BASE
    revision = _version(connection)
    if revision is None:
        return BASE
    if revision not in REVISIONS:
        raise CorruptRecord(
            what, f"it was written by a newer version (revision {revision!r})", "use that version of opdispatch"
        )
    return revision


class NotAdopted(Unavailable):
    """The reference made the tables; they can be read, and not written before they are adopted."""

    def __init__(
        self,
        what: str,
        detail: str = "the reference made its tables, and they are not adopted",
        remedy: str = "run `opdispatch store adopt`",
    ) -> None:
        super().__init__(what, detail, remedy)


def is_reference(connection: Connection) -> bool:
    """True for a database with the reference's tables that is not adopted."""
    if connection.dialect.name != "postgresql":
        return False
    found = inspect(connection)
    if not found.has_table(RUNS):
        return False
    return not found.has_table(VERSION_TABLE) or _version(connection) is None


def _version(connection: Connection) -> str | None:
    row = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).first()  # noqa: S608  # a constant
    return None if row is None else str(row[0])


def require_current(connection: Connection, what: str) -> None:
    """Raises what ``revision_of`` raises, and Unavailable for a store that must be migrated first."""
    revision = revision_of(connection, what)
    if is_reference(connection):
        raise NotAdopted(what)
    if revision != REVISIONS[-1]:
        raise Unavailable(
            what,
            f"its tables are at revision {revision}, and this version needs {REVISIONS[-1]}",
            "run `opdispatch store migrate` while no dispatcher is running",
        )
