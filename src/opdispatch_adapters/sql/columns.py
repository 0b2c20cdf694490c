"""Column types that mean the same on every database.

On SQLite an instant is text that sorts in the order of time, an id is UUID text, a document is JSON text; on
PostgreSQL they are ``timestamptz``, ``uuid`` and ``jsonb``.  Python sees the same values on both.

SQLite keeps whatever a shell writes, so what cannot be read comes out as ``strict.Unread``, and the readers of rows
(``rows``) refuse it where they know whose it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Dialect, Integer, Text, TypeDecorator, Uuid
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP
from sqlalchemy.types import TypeEngine, UserDefinedType

from . import strict

_POSTGRESQL = "postgresql"
_MICROSECOND = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """An aware instant, to the microsecond."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        native = dialect.name == _POSTGRESQL
        return dialect.type_descriptor(TIMESTAMP(timezone=True) if native else Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == _POSTGRESQL:
            return value
        return strict.instant_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name == _POSTGRESQL:
            found: datetime | None = value
            return found
        try:
            return strict.instant_from(value)
        except strict.Unreadable as error:
            unread: Any = strict.Unread(str(error))
            return unread  # type: ignore[no-any-return]


class Id(TypeDecorator[UUID]):
    """A UUID; on SQLite its text, so that a shell shows what the commands take."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Uuid() if dialect.name == _POSTGRESQL else Text())

    def process_bind_param(self, value: UUID | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == _POSTGRESQL else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> UUID | None:
        if value is None or isinstance(value, UUID):
            return value
        try:
            return strict.uuid_from(value)
        except strict.Unreadable as error:
            unread: Any = strict.Unread(str(error))
            return unread  # type: ignore[no-any-return]


class Jsonb(UserDefinedType[str]):
    """PostgreSQL's ``jsonb`` as text: it is parsed once, by the strict reader, and not before by the driver.

    A connection must hand such a column over as text (``postgres.engine``).
    """

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "JSONB"


class Document(TypeDecorator[str]):
    """A JSON document as its text.  What it says is settled by the reader, so that one bad document spoils no list."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Jsonb() if dialect.name == _POSTGRESQL else Text())


class Numbers(TypeDecorator[Sequence[int]]):
    """Whole numbers in their order; on SQLite as a JSON list."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(ARRAY(Integer) if dialect.name == _POSTGRESQL else Text())

    def process_bind_param(self, value: Sequence[int] | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == _POSTGRESQL:
            return None if value is None else list(value)
        return json.dumps(list(value), separators=(",", ":"))

    def process_result_value(self, value: Any, dialect: Dialect) -> Sequence[int] | None:
        return None if value is None else strict.numbers_from(value) if isinstance(value, str) else tuple(value)


class Microseconds(TypeDecorator[timedelta]):
    """A wait, as a whole number of microseconds: what Python can tell apart, the column can."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: timedelta | None, dialect: Dialect) -> int | None:
        return None if value is None else value // _MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> timedelta | None:
        try:
            return None if value is None else timedelta(microseconds=value)
        except (TypeError, OverflowError) as error:
            unread: Any = strict.Unread(f"{strict.shown(value)} is not a wait: {error}")
            return unread  # type: ignore[no-any-return]
