"""Fields that many messages share: ids, instants and durations.

Ids are read as the reference reads them (flow-grpc, 1.5): hyphenated, 32 hexadecimal digits, in braces or as a URN, in
any case; they are written in lower case with hyphens.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from opdispatch.errors import InvalidInput
from opdispatch.identity import TaskId

from .wire import flow_pb2 as wire

NIL: Final = UUID(int=0)
MOST_NUMBER: Final = 2**31 - 1
"""The largest number that an int32 holds, as most numbers of the wire are."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HEX: Final = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.ASCII)
_MOST_SECONDS: Final = 315_576_000_000
"""The seconds that a Duration may hold, some ten thousand years (google/protobuf/duration.proto)."""
_NANOS: Final = 10**9


def parsed(text: str) -> UUID | str:
    """The id that a text tells, or what is wrong with it in the words of the reference."""
    # The reference counts bytes, and its answer says how many.
    size = len(text.encode(errors="surrogatepass"))
    match size:
        case 45:
            if text[:9].lower() != "urn:uuid:":
                return f'invalid urn prefix: "{text[:9]}"'
            plain = text[9:]
        case 38:
            plain = text[1:-1]
        case 36 | 32:
            plain = text
        case _:
            return f"invalid UUID length: {size}"
    plain = plain.lower()
    if not _HEX.fullmatch(plain) or plain.count("-") not in (0 if size == 32 else 4,):
        return "invalid UUID format"
    return UUID(plain)


def uuid_or_none(message: wire.UUID) -> UUID | None:
    """The id of a field; None where it is absent, nil or cannot be read, which the reference takes for absent."""
    found = parsed(message.id)
    return None if isinstance(found, str) or found == NIL else found


def uuid_at(message: wire.UUID, place: str) -> UUID:
    """The id of a field that must have one.  Raises InvalidInput at ``place``."""
    found = parsed(message.id)
    if isinstance(found, str):
        raise InvalidInput.at(place, found if message.id else "it is absent", "give a UUID")
    if found == NIL:
        raise InvalidInput.at(place, "it is the nil UUID", "give the id of something")
    return found


def uuid_message(value: UUID) -> wire.UUID:
    """An id as a field."""
    return wire.UUID(id=str(value))


def task_uuid(task_id: TaskId | None) -> wire.UUID | None:
    """A task id as a field; None for one that is no UUID, which a task manager other than Flow may give."""
    found = None if task_id is None else parsed(task_id)
    return None if found is None or isinstance(found, str) or found == NIL else uuid_message(found)


def timestamp_message(instant: datetime) -> Timestamp:
    """An aware instant as a field."""
    seconds, rest = divmod(instant - _EPOCH, timedelta(seconds=1))
    return Timestamp(seconds=seconds, nanos=rest // timedelta(microseconds=1) * 1000)


def instant_at(message: Timestamp, place: str) -> datetime:
    """The instant of a field, cut to microseconds.  Raises InvalidInput at ``place``."""
    if not 0 <= message.nanos < _NANOS:
        raise InvalidInput.at(place, f"{message.nanos} nanoseconds are not within a second", "give 0 to 999999999")
    try:
        return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)
    except OverflowError as error:
        raise InvalidInput.at(
            place, f"{message.seconds} seconds lead out of the calendar", "give a year from 1 to 9999"
        ) from error


def duration_message(wait: timedelta) -> Duration:
    """A duration as a field."""
    micros = wait // timedelta(microseconds=1)
    seconds, rest = divmod(abs(micros), 10**6)
    sign = -1 if micros < 0 else 1
    return Duration(seconds=sign * seconds, nanos=sign * rest * 1000)


def duration_at(message: Duration, place: str) -> timedelta:
    """The duration of a field.  Raises InvalidInput at ``place``.

    What is finer than a microsecond is rounded away from zero: no wait is shorter than it was meant, or nothing.
    """
    seconds, nanos = message.seconds, message.nanos
    if abs(seconds) > _MOST_SECONDS:
        raise InvalidInput.at(place, f"{seconds} seconds are out of range", f"give at most {_MOST_SECONDS}")
    if abs(nanos) >= _NANOS:
        raise InvalidInput.at(place, f"{nanos} nanoseconds are out of range", "give less than a second of them")
    if seconds * nanos < 0:
        raise InvalidInput.at(place, "its seconds and nanoseconds have different signs", "give both the same")
    total = seconds * _NANOS + nanos
    micros = -(-abs(total) // 1000)
    return timedelta(microseconds=micros if total >= 0 else -micros)
