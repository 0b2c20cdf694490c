"""A law: one thing that must always hold, with a name, and how it is checked.

A check yields pairs (does it hold, what it is about); a breach is a pair that does not.  So the same laws judge a unit
test, a random schedule, an exhaustive search and a store that somebody else wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..action import Decision
from ..evolve import Record
from ..state import RunState

Verdicts = Iterator[tuple[bool, str]]
"""Whether something holds, and what."""
T = TypeVar("T", contravariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One step of a run, from one record to the next.

    ``state`` is what the decision was made on and ``decision`` what it said; both are None for a step of somebody else,
    which must leave the record as it was.
    """

    before: Record
    after: Record
    state: RunState | None = None
    decision: Decision | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Law(Generic[T]):
    """A rule in one sentence, and its check.  ``name`` is short and never changes."""

    name: str
    rule: str
    check: Callable[[T], Verdicts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """A law that does not hold, and where."""

    law: str
    what: str

    def __str__(self) -> str:
        return f"{self.law}: {self.what}"


class Broken(AssertionError):
    """Laws do not hold; ``breaches`` says which."""

    def __init__(self, breaches: Iterable[Breach]) -> None:
        self.breaches = tuple(breaches)
        super().__init__("; ".join(map(str, self.breaches)))


def breaches(laws: Iterable[Law[T]], subject: T) -> tuple[Breach, ...]:
    """Every breach of these laws by this subject, in the order of the laws."""
    return tuple(Breach(law=law.name, what=what) for law in laws for holds, what in law.check(subject) if not holds)
