"""Conflict: what to do when a rack is busy.

The target waits and is tried again; the wait doubles from ``initial_delay`` to ``max_delay``, and the history
survives claims, pauses and restarts.  When a try is refused at or after ``window`` since the first refusal (or
since the last resume, whichever is later) the run is held.  The end of the window is always a try.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from ..errors import InvalidInput
from ..target import Conflict


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictRetry:
    """Retry with backoff.  Defaults as in the reference (behaviour contract, rule 1.7)."""

    window: timedelta = timedelta(hours=1)
    initial_delay: timedelta = timedelta(seconds=30)
    max_delay: timedelta = timedelta(minutes=5)

    def __post_init__(self) -> None:
        for name in ("window", "initial_delay", "max_delay"):
            if getattr(self, name) <= timedelta(0):
                raise InvalidInput.at(f"$.conflict.{name}", f"{getattr(self, name)} is not above zero")
        if self.max_delay < self.initial_delay:
            raise InvalidInput.at(
                "$.conflict.max_delay", f"{self.max_delay} is below initial_delay, {self.initial_delay}"
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
