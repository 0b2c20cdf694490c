"""Whole runs from their start to their end: targets per second, and the memory of those who serve them.

    python -m benchmarks.throughput [--check] [--targets 100000] [--concurrency 100] [--dispatchers 4] [--runs 40]

First one dispatcher serves one run of so many targets, then several serve as many targets in many runs.  Each
dispatcher is a process with a loop in a thread, as in production, and a task manager that costs nothing and tells at
once that its tasks have ended; so nothing waits for a poll.  Making the runs is timed apart.  The resident memory of
each process is looked at all the while: what it holds must not grow with what it has done.  ``--check`` exits with 1
when it does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.inprocess import Maker, Telling
from benchmarks.ours import OpenStore, postgres_store, reopened
from benchmarks.server import server
from opdispatch.query import RunQuery
from opdispatch.run import RunStatus
from opdispatch_adapters.dispatcher import Dispatcher, Settings

_LIVE: Final = RunQuery.in_statuses([RunStatus.PENDING, RunStatus.RUNNING])
_LOOK_SECONDS: Final = 0.05
FLAT: Final = 1.15
"""What a dispatcher may hold in the last tenth of its time at most, in what it held in the first."""


@dataclass
class Worker:
    """A process that dispatches until its input ends, and its resident memory in bytes, look by look."""

    process: subprocess.Popen[str]
    resident: list[int] = field(default_factory=list)

    @classmethod
    def made(cls, url: str) -> Worker:
        """A worker that waits to be told to begin."""
        command = [sys.executable, "-m", "benchmarks.throughput", "--worker", url]
        made = cls(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert made.process.stdout is not None
        if made.process.stdout.readline() != "ready\n":
            raise RuntimeError("a worker did not start")
        return made

    def begin(self) -> None:
        """Start its loop."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def look(self) -> None:
        """Note its resident memory now."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        self.resident.append(int(pages) * os.sysconf("SC_PAGE_SIZE"))

    def end(self) -> None:
        """Stop its loop and wait for its end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.wait() != 0:
            raise RuntimeError("a worker failed")

    def growth(self) -> float:
        """The last tenth's median memory divided by the first's."""
        tenth = max(1, len(self.resident) // 10)
        return statistics.median(self.resident[-tenth:]) / statistics.median(self.resident[:tenth])


def work(url: str) -> None:
    """What a worker does."""
    with closing(reopened(url)) as store:
        dispatcher = Dispatcher(store, Telling(), Settings(), listen=store.listening)
        print("ready", flush=True)
        sys.stdin.readline()
        with dispatcher:
            sys.stdin.read()


def create(store: OpenStore, runs: int, targets: int, concurrency: int) -> float:
    """The seconds that storing so many runs of so many targets each took."""
    maker = Maker(targets, concurrency)
    seconds = 0.0
    for _ in range(runs):
        new = maker.run()
        began = time.perf_counter()
        store.create(new)
        seconds += time.perf_counter() - began
    return seconds


def served(store: OpenStore, workers: list[Worker]) -> float:
    """The seconds until no run is left."""
    began = time.perf_counter()
    for worker in workers:
        worker.begin()
    while store.list(_LIVE, limit=1):
        for worker in workers:
            worker.look()
        time.sleep(_LOOK_SECONDS)
    return time.perf_counter() - began


def measure(url: str, *, dispatchers: int, runs: int, targets: int, concurrency: int) -> float:
    """Print one row; how much the memory of a dispatcher has grown."""
    with closing(postgres_store(url)) as store:
        created = create(store, runs, targets, concurrency)
        workers = [Worker.made(url) for _ in range(dispatchers)]
        try:
            seconds = served(store, workers)
        finally:
            for worker in workers:
                worker.end()
        odd = [listed.status for listed in store.list(limit=runs) if listed.status is not RunStatus.COMPLETED]
    if odd:
        raise RuntimeError(f"runs ended otherwise: {odd}")
    total = runs * targets
    peak = max(max(worker.resident) for worker in workers) / 2**20
    growth = max(worker.growth() for worker in workers)
    print(
        f"| {dispatchers} | {runs} | {targets} | {concurrency} | {created:.1f} | {seconds:.1f} "
        f"| {total / seconds:.0f} | {peak:.0f} | {growth:.2f} |",
        flush=True,
    )
    return growth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=100_000, help="of all runs together")
    parser.add_argument("--concurrency", type=int, default=100, help="of each run")
    parser.add_argument("--dispatchers", type=int, default=4)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a dispatcher's memory grows")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return
    grown: list[float] = []
    with server() as running:
        print(f"{running.about()}\n")
        print(
            "| dispatchers | runs | targets each | in flight each | create, s | serve, s | targets/s "
            "| memory, MiB (peak) | last tenth ÷ first |"
        )
        print("| ---: " * 9 + "|")
        for dispatchers, runs in ((1, 1), (1, options.runs), (options.dispatchers, options.runs)):
            with running.database() as url:
                growth = measure(
                    url,
                    dispatchers=dispatchers,
                    runs=runs,
                    targets=options.targets // runs,
                    concurrency=options.concurrency,
                )
                grown.append(growth)
    if options.check and max(grown) > FLAT:
        sys.exit(f"\nmissed: a dispatcher's memory has grown to {max(grown):.2f} times what it was, more than {FLAT}")


if __name__ == "__main__":
    main()
