"""The runs that a query asks for, as conditions on their rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import ColumnElement, and_, or_, true

from opdispatch.query import KindFilter, NamePattern, RunQuery, StateFilter, Wild

from .schema import run

_LIKE: Final = {Wild.ANY: "%", Wild.ONE: "_"}
_GLOB: Final = {Wild.ANY: "*", Wild.ONE: "?"}


def clauses(where: RunQuery, dialect: str) -> Iterator[ColumnElement[bool]]:
    """Conditions that hold all together, in the words of a database (``sqlite`` or ``postgresql``)."""
    if where.names:
        named = [_called(name, dialect) for name in where.names]
        yield or_(*named) if where.any_name else and_(*named)
    if where.states:
        yield or_(*map(_in_state, where.states))
    if where.kinds:
        yield or_(*map(_of_kind, where.kinds))


def _called(name: NamePattern, dialect: str) -> ColumnElement[bool]:
    if not name.is_wild:
        return run.c.name == name.text
    parts = name.parts()
    if dialect == "sqlite":
        # Its LIKE takes no notice of case; its GLOB does.
        glob = (_GLOB[part] if isinstance(part, Wild) else f"[{part}]" if part in "*?[" else part for part in parts)
        return run.c.name.op("GLOB", is_comparison=True)("".join(glob))
    like = (_LIKE[part] if isinstance(part, Wild) else f"\\{part}" if part in "%_\\" else part for part in parts)
    return run.c.name.like("".join(like))


def _in_state(state: StateFilter) -> ColumnElement[bool]:
    c = run.c
    return and_(
        true() if state.status is None else c.status == state.status.value,
        true() if state.reason is None else c.status_reason == state.reason.value,
    )


def _of_kind(kind: KindFilter) -> ColumnElement[bool]:
    c = run.c
    return and_(c.operation_type == kind.type, true() if kind.code is None else c.operation_code == kind.code)
