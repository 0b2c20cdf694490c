"""The errors of the core: who can act on each, and what it says.

Every error has typed fields first and renders its sentence from them; ``reason`` is a stable code in
UPPER_SNAKE for programs, ``retryable`` says whether the same call can succeed later without a change.
The shape of a message is: what was tried, on what, what was found, what to do.

Expected outcomes are not errors: a closed gate, a failed target, an unanswered call and a refused command
are values.  An exception means that a promise was broken or that the caller must change its input.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


class OpdispatchError(Exception):
    """The root of every error that opdispatch raises on purpose."""

    reason: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with an input: where, what, and what to do about it.

    ``place`` is a path such as ``$.phases[1].percentage`` or ``racks.csv:7:position``.
    """

    place: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.place}: {self.found}" if self.place else self.found
        return f"{text}; {self.remedy}" if self.remedy else text


class InvalidInput(OpdispatchError):
    """The caller's input cannot be used.  Carries every problem found, in the order of the input; nothing was done."""

    reason = "INVALID_INPUT"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)

    @classmethod
    def at(cls, place: str, found: str, remedy: str = "") -> InvalidInput:
        """The common case of a single problem."""
        return cls([Problem(place=place, found=found, remedy=remedy)])


class NotFound(OpdispatchError):
    """There is no such thing.  ``kind`` names what was looked for, ``name`` the one that is missing."""

    reason = "NOT_FOUND"

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        super().__init__(kind, name)

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} was not found"


class RefusedTransition(OpdispatchError):
    """A change that no row of a transition table allows.  The value it was tried on is unchanged."""

    reason = "REFUSED_TRANSITION"

    def __init__(self, subject: str, status: str, change: str) -> None:
        self.subject = subject
        self.status = status
        self.change = change
        super().__init__(subject, status, change)

    def __str__(self) -> str:
        return f"cannot {self.change} {self.subject}: it is {self.status}, and no transition leads on from there"


class Unavailable(OpdispatchError):
    """A store or task manager cannot be used now; the same call may succeed later."""

    reason = "UNAVAILABLE"
    retryable = True

    def __init__(self, what: str, detail: str, remedy: str = "try again later") -> None:
        self.what = what
        self.detail = detail
        self.remedy = remedy
        super().__init__(what, detail, remedy)

    def __str__(self) -> str:
        return f"{self.what} is not available: {self.detail}; {self.remedy}"


class CorruptRecord(OpdispatchError):
    """A stored thing that cannot be read, or was written by a newer version.  It is left as it is."""

    reason = "CORRUPT_RECORD"

    def __init__(self, what: str, detail: str, remedy: str = "use a version that knows it, or restore it") -> None:
        self.what = what
        self.detail = detail
        self.remedy = remedy
        super().__init__(what, detail, remedy)

    def __str__(self) -> str:
        return f"{self.what} cannot be read: {self.detail}; {self.remedy}"
