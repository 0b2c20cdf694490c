"""The stores that a history can be on, with what can befall each: a private PostgreSQL, or one SQLite file."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from opdispatch_adapters.sql import PostgresStore, SqliteStore, SqlStore, migrate
from tests.integration.proxy import Fault, Moment, Proxy, is_commit
from tests.postgres import OwnServer, own_server

STORES: Final = ("postgresql", "sqlite")
AWAY_SECONDS: Final = 1.0
"""How long a server stays away at most, once it has crashed."""


class World:
    """A store, and its faults."""

    def __init__(self, store: SqlStore, source: str, chance: random.Random, done: Counter[str]) -> None:
        self.store = store
        self.source: Final = source
        """The store as a process opens it."""
        self.chance: Final = chance
        self.done: Final = done
        """How often each thing was done to it."""
        self.faults: Sequence[tuple[float, Callable[[], None]]] = ()
        """What can be done to it, with how often."""

    def way_in(self) -> str:
        """The source for the next process."""
        return self.source

    def befall(self) -> None:
        """Something of its own happens to it."""
        if self.faults:
            ((_, fault),) = self.chance.choices(self.faults, [often for often, _ in self.faults])
            fault()

    def crash(self) -> None:
        """Its server goes, and comes back."""

    def heal(self) -> None:
        """Nothing befalls it any more."""


class PostgresWorld(World):
    """A server that crashes, reached directly or through a network that fails."""

    def __init__(self, server: OwnServer, proxy: Proxy, url: str, chance: random.Random, done: Counter[str]) -> None:
        super().__init__(PostgresStore(url), url, chance, done)
        self._server = server
        self._proxy = proxy
        self._crash: threading.Thread | None = None
        self._failed: BaseException | None = None
        self._quiet: threading.Timer | None = None
        self._armed: list[Fault] = []
        self.faults = [(3, self._cut), (5, self._lose), (1, self._delay), (1, self._silence)]

    def way_in(self) -> str:
        return self._proxy.url if self.chance.random() < 0.5 else self.source

    def _cut(self) -> None:
        self.done["cut_connections"] += self._proxy.cut()

    def _lose(self) -> None:
        """The server does what it is told, and nobody hears of it; half of these are commits."""
        self._see_what_was_lost()
        matching = is_commit if self.chance.random() < 0.5 else None
        self._armed.append(self._proxy.arm(Moment.UNANSWERED, self.chance.randint(1, 5), matching=matching))

    def _see_what_was_lost(self) -> None:
        struck = [fault for fault in self._armed if fault.statement is not None]
        self.done["lost_answers"] += len(struck)
        self._armed = [fault for fault in self._armed if fault not in struck]

    def _delay(self) -> None:
        self.done["delays"] += 1
        self._proxy.delay(0.03)
        self._later(lambda: self._proxy.delay(0))

    def _silence(self) -> None:
        self.done["silences"] += 1
        self._proxy.silence()
        self._later(self._proxy.heal)

    def _later(self, end: Callable[[], None]) -> None:
        if self._quiet is not None:
            self._quiet.join()
        self._quiet = threading.Timer(self.chance.uniform(0.1, 0.5), end)
        self._quiet.start()

    def crash(self) -> None:
        if self._crash is not None and self._crash.is_alive():
            return
        self._back()
        self.done["server_crashes"] += 1
        away = self.chance.uniform(0, AWAY_SECONDS)
        self._crash = threading.Thread(target=self._crashed, args=(away,), name="crash")
        self._crash.start()

    def _crashed(self, away: float) -> None:
        try:
            self._server.crash()
            threading.Event().wait(away)
            self._server.start()
        except BaseException as error:
            self._failed = error

    def _back(self) -> None:
        if self._crash is not None:
            self._crash.join()
            self._crash = None
        if self._failed is not None:
            raise self._failed

    def heal(self) -> None:
        self._back()
        if self._quiet is not None:
            self._quiet.join()
        self._proxy.disarm()
        self._see_what_was_lost()
        self._proxy.delay(0)
        self._proxy.heal()


@contextmanager
def world(kind: str, directory: Path, chance: random.Random, done: Counter[str]) -> Iterator[World]:
    """A world with an empty store, until the block is left."""
    if kind == "sqlite":
        path = directory / "store.db"
        migrate(path)
        # Somebody may be stopped while the file is his; who wakes him must not wait for him.
        with SqliteStore(path, patience=timedelta(seconds=0.3)) as store:
            yield World(store, str(path), chance, done)
        return
    with own_server() as server:
        url = server.create()
        migrate(url)
        with Proxy(url, forgets=True) as proxy:
            made = PostgresWorld(server, proxy, url, chance, done)
            with made.store:
                try:
                    yield made
                finally:
                    made.heal()
