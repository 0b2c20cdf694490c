"""What an answer to a hostile input may be: an error of the core that names the place, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from opdispatch.errors import CorruptRecord, InvalidInput, NotFound, OpdispatchError, RefusedTransition, Unavailable

T = TypeVar("T")
MOST_TEXT: Final = 32_768
"""No message is longer: it is kept in a row, and shown on a screen."""


class Broken(AssertionError):
    """A law that does not hold."""


def held(condition: object, what: str) -> None:
    """Raise Broken with these words unless the condition holds."""
    if not condition:
        raise Broken(what)


def check_rejection(error: OpdispatchError) -> None:
    """An error is one of those in docs/reference/errors.md, says where, and its text can be kept and shown."""
    match error:
        case InvalidInput():
            held(error.problems, "no problem is told")
            for problem in error.problems[:-1] or error.problems:
                held(problem.place, f"a problem has no place: {problem.found}")
        case CorruptRecord():
            held(error.what and error.detail, "what cannot be read is not told")
        case NotFound() | Unavailable() | RefusedTransition():
            pass
        case _:
            raise Broken(f"{type(error).__name__} is not among the documented errors")
    text = str(error)
    held(len(text) <= MOST_TEXT, f"the message has {len(text)} characters: {text[:200]}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Broken(f"the message cannot be shown: {text[:200]!r}") from None
    held("\0" not in text, f"the message holds a NUL: {text[:200]!r}")


def value_or_rejection(call: Callable[[], T]) -> tuple[T] | None:
    """What a call gives, in a tuple; None where it was rejected as it should be."""
    try:
        return (call(),)
    except OpdispatchError as error:
        check_rejection(error)
        return None
