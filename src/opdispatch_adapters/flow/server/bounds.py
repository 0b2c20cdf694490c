"""How large a request may be, looked at before anything is done with it."""

from __future__ import annotations

from typing import Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from .failure import invalid

MOST_TEXT: Final = 16_384
"""Characters of one text."""
MOST_MEMBERS: Final = 100_000
"""Members of all lists of a request together."""

MOST_BYTES: Final = MOST_MEMBERS * 320
"""Bytes of a request, 32 million: every member may be a name of 300 characters, or an id, which takes 42 bytes.  The
library takes 4 MiB where it is told nothing, and as many ids need more.  It reads a request before anybody can say who
sent it, so the limit is no larger."""


def check(request: Message) -> None:
    """Raises CallFailure (INVALID_ARGUMENT) for a text that is too long or holds a NUL character, which no database
    takes, and for a request with too many members; it names the field."""
    _check(request, "", [MOST_MEMBERS])


def _check(message: Message, path: str, left: list[int]) -> None:
    for field, value in message.ListFields():
        place = f"{path}{field.name}"
        values = list(value) if field.is_repeated else [value]
        if field.is_repeated:
            left[0] -= len(values)
            if left[0] < 0:
                raise invalid(f"{place}: the request has more than {MOST_MEMBERS} members")
        for index, one in enumerate(values):
            where = f"{place}[{index}]" if field.is_repeated else place
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                _check(one, f"{where}.", left)
            elif field.type == FieldDescriptor.TYPE_STRING:
                if len(one) > MOST_TEXT:
                    raise invalid(f"{where} has {len(one)} characters; at most {MOST_TEXT} are taken")
                if "\0" in one:
                    raise invalid(f"{where} holds a NUL character")
