"""The runs that a loop keeps in mind: taken for service, idle, and to be looked at again before the lease ends.

In the store such a run is due when the lease of its taker ends, so an idle run costs a write per lease, and not one
per look.  A loop that dies forgets it; the store then offers it to whoever asks, as it does after any crash.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from opdispatch.identity import RunId


@attrs.frozen
class _Turn:
    """When to look at a run, and when it is no longer ours, on the monotonic clock of the loop."""

    again: float
    lease_end: float


class Kept:
    """The kept runs of one loop, in the order in which they came.  Safe for threads: a pass may run beside it."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic: Final = monotonic
        self._guard: Final = threading.Lock()
        self._turns: dict[RunId, _Turn] = {}

    def keep(self, run_id: RunId, seconds: float, lease_end: float) -> None:
        """Look at a run again in so many seconds."""
        with self._guard:
            self._turns[run_id] = _Turn(self._monotonic() + seconds, lease_end)

    def drop(self, runs: Iterable[RunId]) -> None:
        """Keep these no longer; some may not have been kept."""
        with self._guard:
            for run_id in runs:
                self._turns.pop(run_id, None)

    def due(self) -> dict[RunId, float]:
        """The runs to look at now, each with the end of its lease.  One whose lease is over is forgotten."""
        now = self._monotonic()
        with self._guard:
            self._turns = {run_id: turn for run_id, turn in self._turns.items() if now < turn.lease_end}
            return {run_id: turn.lease_end for run_id, turn in self._turns.items() if turn.again <= now}

    def next_seconds(self) -> float | None:
        """How long until one is to be looked at; None when none is kept."""
        with self._guard:
            again = min((turn.again for turn in self._turns.values()), default=None)
        return None if again is None else max(again - self._monotonic(), 0.0)

    def give_up(self) -> tuple[RunId, ...]:
        """Forget them all, and tell which they were."""
        with self._guard:
            runs, self._turns = tuple(self._turns), {}
        return runs
