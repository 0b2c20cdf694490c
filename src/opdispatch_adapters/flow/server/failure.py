"""What a call is refused with: a status code and a text, and which of ours each error of the core becomes.

No text of a database or of a library ever leaves the process: what is not an error of the core is logged here, and the
caller is told that it was.
"""

from __future__ import annotations

import logging
from typing import Final

import grpc

from opdispatch.errors import CorruptRecord, InvalidInput, NotFound, OpdispatchError, Unavailable

_LOG: Final = logging.getLogger("opdispatch.flow.server")
_MOST_BYTES: Final = 6_000
"""A text travels in the metadata of a reply, with each byte that is no printable ASCII as three; a client drops a reply
whose metadata has more than 8 KiB, and then its caller learns nothing."""
_WIDEST: Final = 12
"""Bytes that one character can come to there."""


class CallFailure(Exception):
    """Ends a call with a status code and a text for the caller, cut where it is too long to travel."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        self.code = code
        self.text = _cut(text)
        super().__init__(code, self.text)


def _cut(text: str) -> str:
    left = _MOST_BYTES
    if len(text) * _WIDEST <= left:
        return text
    for index, character in enumerate(text):
        is_plain = " " <= character <= "~" and character != "%"
        left -= 1 if is_plain else 3 * len(character.encode("utf-8", "surrogatepass"))
        if left < 0:
            return f"{text[:index]}..."
    return text


def invalid(text: str) -> CallFailure:
    """The caller must change its request."""
    return CallFailure(grpc.StatusCode.INVALID_ARGUMENT, text)


def not_found(text: str) -> CallFailure:
    """There is no such thing."""
    return CallFailure(grpc.StatusCode.NOT_FOUND, text)


def forgotten(text: str) -> CallFailure:
    """The store does not know any more what the request did before."""
    return CallFailure(grpc.StatusCode.FAILED_PRECONDITION, text)


def wrong_state(detail: str) -> CallFailure:
    """The run is not in a state in which it could be done."""
    return CallFailure(
        grpc.StatusCode.FAILED_PRECONDITION,
        f"operation run is not in a valid state for the requested operation: {detail}",
    )


def failure_of(error: Exception, method: str) -> CallFailure:
    """What the caller of ``method`` is told of an error."""
    match error:
        case CallFailure():
            return error
        case InvalidInput():
            return invalid(str(error))
        case NotFound(kind="run"):
            return not_found(f"operation run not found: {error.name}")
        case NotFound():
            return not_found(str(error))
        case Unavailable():
            # The detail may tell of hosts and drivers; who looks after this service finds it in the log.
            _LOG.warning("%s: %s", method, error)
            return CallFailure(grpc.StatusCode.UNAVAILABLE, f"{error.what} is not available now; {error.remedy}")
        case CorruptRecord():
            _LOG.error("%s: %s", method, error)
            return CallFailure(grpc.StatusCode.INTERNAL, f"{error.what} cannot be read; {error.remedy}")
        case OpdispatchError():
            _LOG.error("%s: %s", method, error)
            return CallFailure(grpc.StatusCode.INTERNAL, "the call failed; the log of the service says why")
        case _:
            _LOG.error("%s failed", method, exc_info=error)
            return CallFailure(grpc.StatusCode.INTERNAL, "internal server error")
