"""Which database a source names, and the store in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from opdispatch.errors import InvalidInput

from .sqlite.store import SqliteStore
from .standing import NotAdopted

if TYPE_CHECKING:
    from .postgres.reference import ReferenceStore
    from .postgres.store import PostgresStore

_SCHEMES = ("postgresql:", "postgresql+psycopg:", "postgres:")


def is_postgres(source: str | Path) -> bool:
    """True for the URL of a PostgreSQL database."""
    return isinstance(source, str) and source.startswith(_SCHEMES)


def require_driver() -> None:
    """Raises InvalidInput, with what to install, when the driver of PostgreSQL is not there."""
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise InvalidInput.at(
            "store", f"the driver of PostgreSQL cannot be loaded: {error}", "pip install 'opdispatch[postgres]'"
        ) from error


def open_store(source: str | Path) -> SqliteStore | PostgresStore | ReferenceStore:
    """The store that this source names: ``postgresql://...``, ``sqlite:///path`` or a path.

    A database that the reference made and that is not adopted can only be read.

    Raises what the store raises when it is opened.
    """
    if not is_postgres(source):
        return SqliteStore(source)
    require_driver()
    from .postgres.store import PostgresStore

    try:
        return PostgresStore(str(source))
    except NotAdopted:
        from .postgres.reference import ReferenceStore

        return ReferenceStore(str(source))
