"""Ids in bulk: what is done to each of them costs more than all the rest, so it is done to all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_LENGTH: Final = 36
_DASHES: Final = (8, 13, 18, 23)


def bytes_of_uuids(texts: Sequence[str]) -> bytes | None:
    """The bytes of these UUIDs, one after the other; None when one of the texts is not a UUID as ``str`` writes it."""
    joined, count = "".join(texts), len(texts)
    if set(map(len, texts)) != {_LENGTH} or any(joined[at::_LENGTH] != "-" * count for at in _DASHES):
        return None
    digits = joined.replace("-", "")
    try:
        found = bytes.fromhex(digits)
    except ValueError:
        return None
    # Capitals and spaces are read as well, and are not what is written.
    return found if found.hex() == digits else None
