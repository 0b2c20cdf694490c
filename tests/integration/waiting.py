"""Waiting for what another process does: a bounded look, again and again, and never a guess how long it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

PATIENCE_SECONDS: Final = 30.0
"""How long to look before the test fails: far more than any step needs on a busy machine."""


def eventually(
    look: Callable[[], T],
    *,
    until: Callable[[T], object] = bool,
    what: str = "",
    patience_seconds: float = PATIENCE_SECONDS,
) -> T:
    """What ``look`` returns, once it satisfies ``until``; fails when it does not within ``patience_seconds``."""
    end = time.monotonic() + patience_seconds
    pause = threading.Event()
    while True:
        found = look()
        if until(found):
            return found
        if time.monotonic() > end:
            raise AssertionError(f"{what or look} did not come; the last look found {found!r}")
        pause.wait(0.01)
