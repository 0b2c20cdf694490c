"""Learns which run had a task end: a named pipe that every supervisor of the work directory writes to when it leaves.

So a manager hears of tasks that another one began, too, at the price of one descriptor.  It is only a hint: a
supervisor that is killed writes nothing.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from opdispatch.identity import RunId

_LOG = logging.getLogger(__name__)


class Watcher:
    """Calls back from a thread of its own, with the run, when a task of this directory ended; ``close`` stops it."""

    def __init__(self, directory: Path) -> None:
        name = f"{os.getpid()}.{os.urandom(6).hex()}"
        self._path = directory / name
        hidden = directory / f".{name}"
        os.mkfifo(hidden, 0o600)
        # Opened for both, so that it neither waits for a writer nor ends with the last one; shown once it is read.
        self._fifo = os.open(hidden, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        hidden.rename(self._path)
        self._stopped, self._stop = os.pipe()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[RunId], None]] = []
        self._thread = threading.Thread(target=self._run, name="opdispatch-commands-watch", daemon=True)
        self._thread.start()

    def add(self, callback: Callable[[RunId], None]) -> None:
        """Call this one too, from now on."""
        with self._lock:
            self._callbacks.append(callback)

    def close(self) -> None:
        """Stop calling back; returns when the thread has ended, unless it is the thread that calls."""
        os.close(self._stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._fifo, select.POLLIN)
        poll.register(self._stopped, select.POLLIN)
        rest = b""
        try:
            while self._stopped not in {fd for fd, _ in poll.poll()}:
                # One line per task, each written at one go; the last may not have been read to its end.
                *lines, rest = (rest + os.read(self._fifo, 1 << 16)).split(b"\n")
                for line in dict.fromkeys(lines):
                    self._call(RunId(UUID(line.decode("ascii"))))
        finally:
            self._path.unlink(missing_ok=True)
            os.close(self._fifo)
            os.close(self._stopped)

    def _call(self, run_id: RunId) -> None:
        with self._lock:
            callbacks = tuple(self._callbacks)
        for callback in callbacks:
            try:
                callback(run_id)
            except Exception:
                _LOG.exception("a callback for a changed task failed")
