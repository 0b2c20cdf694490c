"""Hearing of runs at once: one connection of its own that listens, and opens anew when it is lost.

A notification is a hint, as everything that wakes a dispatcher is: one that is lost costs a poll.  Whoever hears may
have missed some while the connection was gone, so it is told once more when it is back.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg
from sqlalchemy import URL

from .engine import connect_arguments
from .settings import CHANNEL, PostgresSettings

_LOG: Final = logging.getLogger("opdispatch.store")
_LOOK_SECONDS: Final = 5.0
"""How long to hear nothing before the connection is tried."""
_PAUSE_SECONDS: Final = 0.01
"""The least time between two calls."""
_RETRY_SECONDS: Final = (0.2, 1.0, 5.0)
"""The waits before it is opened anew; the last one repeats."""
_LEAVE_SECONDS: Final = 1.0
"""How long to wait for the thread: an attempt to connect cannot be called off, and is left to its time-out."""


class Listener:
    """Calls ``heard`` from a thread of its own whenever a run was announced; several at once are one call."""

    def __init__(self, url: URL, settings: PostgresSettings, heard: Callable[[], None]) -> None:
        self._arguments = connect_arguments(url, settings, "listener")
        self._heard = heard
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        self._is_lost = False
        self._thread = threading.Thread(target=self._listen, name="opdispatch-listener", daemon=True)
        self.ready = threading.Event()
        """Set while it listens."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, at once; ``heard`` is not called any more."""
        self._stopping.set()
        with self._guard:
            if self._connection is not None:
                # The thread reads from it: taking the way to the server away ends the read.
                with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self._connection.fileno())) as way:
                    way.shutdown(socket.SHUT_RDWR)
        self._thread.join(_LEAVE_SECONDS)

    def _listen(self) -> None:
        tries = 0
        while not self._stopping.is_set():
            try:
                with (
                    psycopg.connect(**self._arguments, autocommit=True, prepare_threshold=None) as connection,
                    self._in_use(connection),
                ):
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._is_back()
                    tries = 0
                    self._hear(connection)
            except (psycopg.Error, OSError) as error:
                if not self._stopping.is_set():
                    self._is_gone(error)
            if self._stopping.wait(_RETRY_SECONDS[min(tries, len(_RETRY_SECONDS) - 1)]):
                return
            tries += 1

    @contextmanager
    def _in_use(self, connection: psycopg.Connection[Any]) -> Iterator[None]:
        """While ``stop`` may reach for the connection: never when its socket is closed and may be somebody else's."""
        with self._guard:
            self._connection = connection
        try:
            yield
        finally:
            self.ready.clear()
            with self._guard:
                self._connection = None

    def _hear(self, connection: psycopg.Connection[Any]) -> None:
        while not self._stopping.is_set():
            heard = False
            for _ in connection.notifies(timeout=_LOOK_SECONDS, stop_after=1):
                heard = True
            if heard:
                self._tell()
                # What is announced meanwhile is one call together, so that many new runs are not as many looks.
                self._stopping.wait(_PAUSE_SECONDS)
            elif not self._stopping.is_set():
                # A connection that a firewall forgot hears nothing and says nothing.
                connection.execute("SELECT 1")

    def _tell(self) -> None:
        if self._stopping.is_set():
            return
        try:
            self._heard()
        except Exception:
            # It is told again at the next notification.
            _LOG.exception("a notification was heard, and could not be passed on")

    def _is_back(self) -> None:
        self.ready.set()
        if self._is_lost:
            _LOG.info("notifications of new runs and commands are heard again")
            self._is_lost = False
        self._tell()

    def _is_gone(self, error: Exception) -> None:
        if not self._is_lost:
            said = " ".join(str(error).split())
            _LOG.info(
                "notifications are not heard, so new runs and commands are noticed at the next poll only: %s", said
            )
        self._is_lost = True
