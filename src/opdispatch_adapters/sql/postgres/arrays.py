"""Many values as one parameter: PostgreSQL's text form of an array, quicker to make than a list is to adapt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from ..strict import instant_text


def array_of(values: Iterable[str | int | UUID | datetime | None]) -> str:
    """The array literal of these values; None is NULL."""
    return "{" + ",".join(map(_element, values)) + "}"


def texts_of(values: Sequence[str]) -> str:
    """The same for texts, which are looked through all at once for what must be told apart."""
    joined = '","'.join(values)
    if "\\" in joined or joined.count('"') != 2 * max(len(values) - 1, 0):
        return array_of(values)
    return f'{{"{joined}"}}' if values else "{}"


def numbers_of(values: Iterable[int]) -> str:
    """The same for what is known to be numbers, of which there are most."""
    return "{" + ",".join(map(str, values)) + "}"


def _element(value: str | int | UUID | datetime | None) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if value is None:
        return "NULL"
    if isinstance(value, datetime):
        return instant_text(value)
    return str(value)
