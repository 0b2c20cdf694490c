"""What takes turns in a benchmark: one cycle after the other over one phase, refilled when nothing is left.

A cycle is the whole work of one tick: m finished tasks are reconciled, m new targets are claimed, and the m results of
their submissions are recorded.  Where the phase is no larger than m that cannot be; then a cycle is the mean of a tick
that claims only and one that completes only, and a target needs two of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol


class Subject(Protocol):
    """What a benchmark measures."""

    def cycle(self) -> float:
        """The seconds of one cycle; what had to be made ready first is not counted."""
        ...


class Contender(ABC):
    """A phase of ``size`` targets, ``concurrency`` of them in flight; ``size`` is a multiple of ``concurrency``."""

    def __init__(self, size: int, concurrency: int) -> None:
        if size % concurrency:
            raise ValueError(f"{size} targets are no multiple of {concurrency}")
        self.size = size
        self.concurrency = concurrency
        self._completed = self._claimed = size

    @property
    def is_paired(self) -> bool:
        """True when a cycle is the mean of two halves."""
        return self.concurrency >= self.size

    def cycle(self) -> float:
        """The seconds of one cycle."""
        if self._claimed == self.size:
            self.refill()
            self._completed = self._claimed = 0
            if not self.is_paired:
                self._advance(0, self.concurrency)
        if self.is_paired:
            return (self._advance(0, self.concurrency) + self._advance(self.concurrency, 0)) / 2
        return self._advance(self.concurrency, self.concurrency)

    def _advance(self, completes: int, claims: int) -> float:
        seconds = self.tick(completes, claims)
        self.advanced(completes, claims)
        return seconds

    def advanced(self, completes: int, claims: int) -> None:
        """Take note of a tick: from here on ``check`` expects what it must have left behind."""
        self._completed += completes
        self._claimed += claims

    def check(self) -> None:
        """Raise when the targets do not stand as the cycles so far must leave them."""
        found, expected = self.standing(), (self._completed, self._claimed - self._completed)
        if found != expected:
            raise AssertionError(f"completed and submitted are {found} and not {expected} in {self!r}")

    def rate(self, seconds: float) -> float:
        """Targets per second at so many seconds for each cycle."""
        return self.concurrency / (2 * seconds if self.is_paired else seconds)

    @abstractmethod
    def refill(self) -> None:
        """Let what is in flight end, and begin anew: nothing claimed, nothing completed."""

    @abstractmethod
    def tick(self, completes: int, claims: int) -> float:
        """The seconds of reconciling so many targets, claiming so many and recording that those were submitted."""

    @abstractmethod
    def standing(self) -> tuple[int, int]:
        """How many targets are completed and submitted, as the store has it."""

    @abstractmethod
    def close(self) -> None:
        """Give up what it holds open."""
