"""What a listing asks for: filters and pages (flow-grpc, 4.1, 4.4 and 5.5)."""

from __future__ import annotations

from typing import Final

import attrs

from opdispatch.query import EVERY_RUN, KindFilter, NamePattern, RunQuery, StateFilter

from ..enums import OPERATION_TYPES, RUN_STATUSES, STATUS_REASONS
from ..wire import flow_pb2 as wire
from .failure import invalid

_DEFAULT: Final = 100


@attrs.frozen(kw_only=True)
class Page:
    """Rows to skip (>= 0) and rows to show (>= 1)."""

    offset: int
    limit: int


def page_of(pagination: wire.Pagination | None, most: int) -> Page:
    """The page that is asked for, at most ``most`` rows.  As in the reference, nothing is refused: an offset below one
    skips nothing, and a limit below one is none."""
    if pagination is None:
        return Page(offset=0, limit=min(_DEFAULT, most))
    limit = pagination.limit if pagination.limit > 0 else most
    return Page(offset=max(pagination.offset, 0), limit=min(limit, most))


def query_of(filter_: wire.OperationRunFilter) -> RunQuery:
    """The runs that a filter asks for.  Raises CallFailure."""
    names, any_name = _names(filter_.name)
    query = RunQuery(
        names=names,
        any_name=any_name,
        states=tuple(map(_state, filter_.states)),
        kinds=tuple(map(_kind, filter_.operation_kinds)),
    )
    return EVERY_RUN if query == EVERY_RUN else query


def _names(info: wire.StringQueryInfo) -> tuple[tuple[NamePattern, ...], bool]:
    if not info.is_wildcard:
        return tuple(NamePattern(text=text) for text in info.patterns), True
    return tuple(NamePattern(text=_wrapped(text), is_wild=True) for text in info.patterns), info.use_or


def _wrapped(pattern: str) -> str:
    return pattern if pattern.startswith("%") or pattern.endswith("%") else f"%{pattern}%"


def _state(message: wire.OperationRunStateFilter) -> StateFilter:
    status, reason = None, None
    if message.HasField("status"):
        status = RUN_STATUSES.get(message.status)
        if status is None:
            raise invalid("unknown operation run status in filter")
    if message.HasField("reason"):
        reason = STATUS_REASONS.get(message.reason)
        if reason is None:
            raise invalid("unknown operation run status reason in filter")
    if status is None and reason is None:
        raise invalid("operation run state filter must set status, reason, or both")
    return StateFilter(status=status, reason=reason)


def _kind(message: wire.OperationKind) -> KindFilter:
    type_ = OPERATION_TYPES.get(message.type)
    if type_ is None:
        raise invalid("operation kind filter must set operation type")
    if message.HasField("code") and not message.code:
        raise invalid("operation kind filter code must not be empty")
    return KindFilter(type=type_, code=message.code if message.HasField("code") else None)
