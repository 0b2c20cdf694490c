"""Runs in a database: SQLAlchemy Core on SQLite or PostgreSQL, the tables as the reference has them, migrations by
Alembic.  The driver of PostgreSQL is imported when a PostgreSQL store is named, and not before."""

from typing import TYPE_CHECKING, Any

from .locate import is_postgres, open_store
from .migrate import Adoption, adopt, check, migrate
from .sqlite.store import SqliteStore
from .store import SqlStore

if TYPE_CHECKING:
    from .postgres.settings import PostgresSettings
    from .postgres.store import PostgresStore

__all__ = [
    "Adoption",
    "PostgresSettings",
    "PostgresStore",
    "SqlStore",
    "SqliteStore",
    "adopt",
    "check",
    "is_postgres",
    "migrate",
    "open_store",
]


def __getattr__(name: str) -> Any:
    if name == "PostgresStore":
        from .postgres.store import PostgresStore

        return PostgresStore
    if name == "PostgresSettings":
        from .postgres.settings import PostgresSettings

        return PostgresSettings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
