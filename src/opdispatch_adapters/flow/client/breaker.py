"""A circuit breaker: while nobody answers, nothing is called but a probe now and again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Final

_LOG: Final = logging.getLogger("opdispatch.flow")


class Breaker:
    """Counts calls in a row that got no answer.  Safe for threads.

    Closed, it lets everything through.  After ``outage_after`` such calls it is open: it lets one call through every
    ``probe_every``, and the first that is answered closes it.
    """

    def __init__(self, what: str, outage_after: int, probe_every: timedelta, monotonic: Callable[[], float]) -> None:
        self._what = what
        self._outage_after = outage_after
        self._probe_seconds = probe_every.total_seconds()
        self._monotonic = monotonic
        self._guard = threading.Lock()
        self._silent = 0
        self._next_probe = 0.0

    @property
    def is_open(self) -> bool:
        """True while it lets only probes through."""
        with self._guard:
            return self._silent >= self._outage_after

    def lets_through(self) -> bool:
        """True when a call may be made now; in an outage it then is the probe."""
        with self._guard:
            if self._silent < self._outage_after:
                return True
            now = self._monotonic()
            if now < self._next_probe:
                return False
            self._next_probe = now + self._probe_seconds
            return True

    def answered(self) -> None:
        """A call was answered, whatever the answer was."""
        with self._guard:
            was_open, self._silent = self._silent >= self._outage_after, 0
        if was_open:
            _LOG.warning("%s answers again", self._what)

    def unanswered(self, why: str) -> None:
        """A call got no answer."""
        with self._guard:
            self._silent += 1
            self._next_probe = self._monotonic() + self._probe_seconds
            opens = self._silent == self._outage_after
        if opens:
            _LOG.warning("%s does not answer, and is asked only now and again until it does: %s", self._what, why)
