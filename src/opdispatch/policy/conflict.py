"""Conflict: what to do when a rack is busy.

The target waits and is tried again; the wait doubles from ``initial_delay`` to ``max_delay``, and the history
survives claims, pauses and restarts.  When a try is refused at or after ``window`` since the first refusal (or
since the last resume, whichever is later) the run is held.  The end of the window is always a try.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from ..errors import InvalidInput, Problem
from ..target import Conflict

LONGEST: Final = timedelta(days=36_500)
"""A century: longer than any wait that is meant, and short enough that no instant it leads to overflows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictRetry:
    """Retry with backoff.  Defaults as in the reference (behaviour contract, rule 1.7)."""

    window: timedelta = timedelta(hours=1)
    initial_delay: timedelta = timedelta(seconds=30)
    max_delay: timedelta = timedelta(minutes=5)

    def __post_init__(self) -> None:
        waits = {
            "window": self.window,
            "initial_delay": self.initial_delay,
            "max_delay": self.max_delay,
        }
        wrong = [
            Problem(
                place=f"$.conflict.{name}",
                found=f"{spelled(wait)} is not above zero and at most {LONGEST.days} days",
            )
            for name, wait in waits.items()
            if not timedelta(0) < wait <= LONGEST
        ]
        if wrong:
            raise InvalidInput(wrong)
        if self.max_delay < self.initial_delay:
            raise InvalidInput.at(
                "$.conflict.max_delay",
                f"{spelled(self.max_delay)} is below initial_delay, {spelled(self.initial_delay)}",
            )

    def after_refusal(self, history: Conflict | None, now: datetime) -> Conflict:
        """The history with one more refusal: the first wait, or twice the last one up to the longest."""
        if history is None:
            return Conflict(since=now, count=1, delay=self.initial_delay)
        delay = min(history.delay * 2, self.max_delay)
        return Conflict(since=history.since, count=history.count + 1, delay=delay)

    def window_end(self, history: Conflict, resumed_at: datetime | None) -> datetime:
        """The instant from which a refusal holds the run."""
        start = history.since if resumed_at is None else max(history.since, resumed_at)
        return start + self.window


def spelled(duration: timedelta) -> str:
    """A duration as the reference writes it (behaviour contract, 10.1): ``1h0m0s``, ``1m30s``, ``1.5s``, ``500ms``."""
    microseconds = duration // timedelta(microseconds=1)
    if microseconds < 1_000_000:
        return f"{microseconds / 1000:g}ms"
    minutes, rest = divmod(microseconds, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest // 1_000_000}.{rest % 1_000_000:06d}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds
