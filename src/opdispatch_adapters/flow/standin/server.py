"""The stand-in as a server: in this process for a test, or as a program."""

from __future__ import annotations

import fnmatch
import hashlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

import attrs
import grpc

from opdispatch.errors import InvalidInput, Unavailable
from opdispatch.task import TaskStatus

from .faults import Faults
from .record import TaskRecord
from .servicer import StandInServicer, add_stand_in
from .site import Site, SiteRack
from .tasks import Fate, TaskModel

_THREADS = 64


@attrs.frozen(kw_only=True)
class Fates:
    """How tasks end: each takes ``duration``; the first on a rack whose name fits ``failing`` fails, and of the rest a
    seeded ``share`` (0 to 1)."""

    duration: timedelta = timedelta(seconds=1)
    failing: str = ""
    share: float = 0.0
    seed: int = 0

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InvalidInput.at("--fail-share", f"{self.share} is not within 0 and 1", "give a share")
        if self.duration < timedelta(0):
            raise InvalidInput.at("--duration", f"{self.duration} is below zero", "give a duration")

    def of(self, site: Site) -> Callable[[UUID, int], Fate]:
        """The fate of the task of a rack that had so many before."""

        def fate(rack_id: UUID, before: int) -> Fate:
            name = site.racks[rack_id].name
            drawn = hashlib.sha256(f"{self.seed}:{rack_id}:{before}".encode()).digest()
            unlucky = int.from_bytes(drawn[:8], "big") < self.share * 2**64
            chosen = self.failing and before == 0 and fnmatch.fnmatchcase(name, self.failing)
            if chosen or unlucky:
                text = "stand-in: this rack was chosen to fail"
                return Fate(duration=self.duration, status=TaskStatus.FAILED, message=text)
            return Fate(duration=self.duration)

        return fate


def _fate_of(site: Site, fates: Fates | Callable[[SiteRack, int], Fate]) -> Callable[[UUID, int], Fate]:
    if isinstance(fates, Fates):
        return fates.of(site)
    return lambda rack_id, before: fates(site.racks[rack_id], before)


class StandIn:
    """A stand-in for a Flow service on this host.

    Args:
        site: its racks.
        fates: how its tasks end; or a function of the rack and how many tasks it had before, for a script.
        faults: what it does wrong; None for nothing.
        rules: the operation rules that a request may name.
        address: where it listens, ``host:port``; port 0 takes a free one.
        record: the file that keeps its tasks; None forgets them with the process.
        seed: decides the order of unordered lists.
        clock: the time of its tasks.
        starts_after: how long a task is pending.
    """

    def __init__(
        self,
        site: Site,
        fates: Fates | Callable[[SiteRack, int], Fate] | None = None,
        *,
        faults: Faults | None = None,
        rules: Iterable[UUID] = (),
        address: str = "127.0.0.1:0",
        record: Path | None = None,
        seed: int = 0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        starts_after: timedelta = timedelta(0),
    ) -> None:
        self.site = site
        self.faults = faults if faults is not None else Faults()
        self._record = None if record is None else TaskRecord(record)
        write = (lambda what, task, at: None) if self._record is None else self._record.write
        fate_of = _fate_of(site, fates if fates is not None else Fates())
        self._rules = frozenset(rules)
        self.tasks = TaskModel(clock, fate_of, starts_after=starts_after, record=write)
        if self._record is not None:
            self._record.restore(self.tasks)
        self._address = address
        self._seed = seed
        self._server: grpc.Server | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._stopped = threading.Event()
        self.restarts = 0
        """How often it was restarted."""
        self._moving = threading.RLock()
        """Held while it starts or stops: a fault may ask for a restart at any time."""

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._address

    def start(self) -> None:
        """Listen.  Raises Unavailable when the address cannot be had."""
        with self._moving:
            self._stopped = threading.Event()
            threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="stand-in")
            # Nobody else may listen on the same port unseen.
            server = grpc.server(threads, options=(("grpc.so_reuseport", 0),))
            servicer = StandInServicer(
                self.site,
                self.tasks,
                self.faults,
                rules=self._rules,
                seed=self._seed,
                stopped=self._stopped,
                restart=self._ask_for_restart,
            )
            add_stand_in(server, servicer)
            host, _, _ = self._address.rpartition(":")
            try:
                port = server.add_insecure_port(self._address)
            except RuntimeError as error:
                raise Unavailable(
                    "the stand-in", f"it cannot listen on {self._address}", "choose another port"
                ) from error
            server.start()
            self._address = f"{host}:{port}"
            self._server, self._threads = server, threads

    def stop(self, grace: float | None = None) -> None:
        """Listen no more; calls that are under way have ``grace`` seconds, or are cut off.  The tasks stay."""
        with self._moving:
            server, self._server = self._server, None
            self._stopped.set()
            if server is not None:
                server.stop(grace).wait()
            threads, self._threads = self._threads, None
            if threads is not None:
                # What hangs was ended above; so nothing is done, or recorded, once this has returned.
                threads.shutdown()

    def restart(self) -> None:
        """Cut every connection, and listen again on the same port."""
        with self._moving:
            self.stop()
            self.start()
            self.restarts += 1

    def _ask_for_restart(self) -> None:
        # In a thread of its own: a stop waits for the very call that asks for it.
        threading.Thread(target=self._restart_unless_stopped, name="stand-in-restart", daemon=True).start()

    def _restart_unless_stopped(self) -> None:
        with self._moving:
            if self._server is not None:
                self.restart()

    def close(self) -> None:
        """Stop, and give the record up."""
        self.stop()
        if self._record is not None:
            self._record.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
