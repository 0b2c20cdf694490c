"""Runs in a database: SQLAlchemy Core on SQLite, the tables as the reference has them, migrations by Alembic."""

from .migrate import check, migrate
from .store import SqlStore

__all__ = ["SqlStore", "check", "migrate"]
