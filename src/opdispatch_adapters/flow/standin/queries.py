"""Filters and orders of the inventory calls, in Flow's words (flow-grpc, 4.1, 7.1 and 7.2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

import grpc

from ..enums import COMPONENT_TYPES
from ..wire import flow_pb2 as wire
from .resolve import Refused, unknown

RACK_MODEL: Final = "description->>'model'"
"""The column of a rack's model: an expression, which no order and no component has."""
_ATTRIBUTES: Final = {"name": "name", "manufacturer": "manufacturer", "model": "model", RACK_MODEL: "model"}
_FILTERS: Final[Mapping[tuple[str, int], str]] = {
    ("rack_field", wire.RACK_FILTER_FIELD_NAME): "name",
    ("rack_field", wire.RACK_FILTER_FIELD_MANUFACTURER): "manufacturer",
    ("rack_field", wire.RACK_FILTER_FIELD_MODEL): RACK_MODEL,
    ("component_field", wire.COMPONENT_FILTER_FIELD_NAME): "name",
    ("component_field", wire.COMPONENT_FILTER_FIELD_MANUFACTURER): "manufacturer",
    ("component_field", wire.COMPONENT_FILTER_FIELD_MODEL): "model",
    ("component_field", wire.COMPONENT_FILTER_FIELD_TYPE): "type",
}
_ORDERS: Final[Mapping[tuple[str, int], str]] = {
    ("rack_field", wire.RACK_ORDER_BY_FIELD_NAME): "name",
    ("rack_field", wire.RACK_ORDER_BY_FIELD_MANUFACTURER): "manufacturer",
    ("rack_field", wire.RACK_ORDER_BY_FIELD_MODEL): RACK_MODEL,
    ("component_field", wire.COMPONENT_ORDER_BY_FIELD_NAME): "name",
    ("component_field", wire.COMPONENT_ORDER_BY_FIELD_MANUFACTURER): "manufacturer",
    ("component_field", wire.COMPONENT_ORDER_BY_FIELD_MODEL): "model",
    ("component_field", wire.COMPONENT_ORDER_BY_FIELD_TYPE): "type",
}


class Described(Protocol):
    """A rack or a component."""

    @property
    def name(self) -> str: ...
    @property
    def manufacturer(self) -> str: ...
    @property
    def model(self) -> str: ...


D = TypeVar("D", bound=Described)
Test = Callable[[Described], bool]


def pattern(info: wire.StringQueryInfo, *, in_memory: bool = False) -> Callable[[str], bool]:
    """What a query finds.  Of wildcards that are tried in memory, those that look for a part ignore case."""
    patterns = list(info.patterns)
    if not patterns:
        return lambda text: True
    if not info.is_wildcard:
        return lambda text: text in patterns
    tests = [_like(one, in_memory=in_memory) for one in patterns]
    return lambda text: (any if info.use_or else all)(test.fullmatch(text) is not None for test in tests)


def _like(text: str, *, in_memory: bool) -> re.Pattern[str]:
    wrapped = text if text.startswith("%") or text.endswith("%") else f"%{text}%"
    parts = ({"%": ".*", "_": "."}.get(character, re.escape(character)) for character in wrapped)
    is_part = wrapped.startswith("%") and wrapped.endswith("%")
    return re.compile("".join(parts), re.DOTALL | (re.IGNORECASE if in_memory and is_part else 0))


def rack_tests(filters: Iterable[wire.Filter]) -> Sequence[Test]:
    """What a rack must fulfil; the last filter of a column counts.  Raises Refused."""
    found: dict[str, Test] = {}
    for column, info in _asked(filters):
        if column not in ("name", "manufacturer", RACK_MODEL):
            raise unknown(f"unsupported filter field: {column}")
        if column == RACK_MODEL and len(info.patterns) > 1:
            info = wire.StringQueryInfo(patterns=info.patterns)
        found[column] = _test(column, pattern(info))
    return list(found.values())


def component_tests(filters: Iterable[wire.Filter], *, in_memory: bool) -> Sequence[Test]:
    """What a component must fulfil; the last filter of a column counts.  Raises Refused."""
    known = {text.lower(): text for text in COMPONENT_TYPES.values()}
    found: dict[str, Test] = {}
    for column, info in _asked(filters):
        if column != "type":
            found[column] = _test(column, pattern(info, in_memory=in_memory))
            continue
        for text in info.patterns:
            if text.lower() not in known:
                raise unknown(f"unsupported component type filter: {text}")
        found[column] = _type_test({known[text.lower()] for text in info.patterns})
    return list(found.values())


def _asked(filters: Iterable[wire.Filter]) -> Iterable[tuple[str, wire.StringQueryInfo]]:
    for message in filters:
        which = message.WhichOneof("field")
        column = None if which is None else _FILTERS.get((which, getattr(message, which)))
        if column is None:
            raise unknown("invalid filter: filter field not set: either rack_field or component_field must be set")
        if message.HasField("query_info"):
            yield column, message.query_info


def _test(column: str, fits: Callable[[str], bool]) -> Test:
    return lambda one: fits(str(getattr(one, _ATTRIBUTES[column])))


def _type_test(wanted: set[str]) -> Test:
    return lambda one: not wanted or getattr(one, "type", "") in wanted


def order_of(order: wire.OrderBy) -> tuple[str, bool] | None:
    """The column of an order, and whether it descends; None where none is asked for.  Raises Refused."""
    which = order.WhichOneof("field")
    column = None if which is None else _ORDERS.get((which, getattr(order, which)))
    if column is None:
        return None
    if order.direction not in ("ASC", "DESC"):
        raise unknown("invalid order by: direction must be ASC or DESC")
    return column, order.direction == "DESC"


def sorted_by(some: Iterable[D], column: str, *, descending: bool) -> list[D]:
    """These in order of a column that they have."""
    return sorted(some, key=lambda one: str(getattr(one, column)), reverse=descending)


def no_column(column: str, code: grpc.StatusCode) -> Refused:
    """What the database answers to a column that there is not."""
    return Refused(code, f'ERROR: column "{column}" does not exist (SQLSTATE=42703)')
