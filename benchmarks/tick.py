"""The cost of one tick on SQLite, by the size of the phase: it must not grow with it.

    python benchmarks/tick.py [--sizes 100,1000,10000] [--concurrency 10] [--ticks 60]

A task manager in this process ends every task at once, so a tick is the store's work and the core's: look, lock, load
a window, decide, apply, record the outcomes.  The sizes take turns tick by tick, so that a noisy machine is noisy for
all; the medians are comparable, and their ratio to the smallest size is the result.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import sqlalchemy

from opdispatch.candidate import Candidate
from opdispatch.identity import CommandId, ComponentId, RackId, RunId, TaskId
from opdispatch.observation import Observation, SubmissionAccepted, TaskObserved
from opdispatch.plan import new_run, plan
from opdispatch.policy.ordering import RandomOrdering
from opdispatch.policy.selection import PercentageSelector
from opdispatch.rollout import Rollout
from opdispatch.task import Operation, Ref, SubmissionRequest, TaskRef, TaskStatus
from opdispatch_adapters.dispatcher import Dispatcher, Settings
from opdispatch_adapters.sql import SqliteStore, migrate


class InProcess:
    """Accepts everything, and every task is over by the next look."""

    capacity: int | None = None

    def submit(self, requests: Sequence[SubmissionRequest], deadline: timedelta) -> Sequence[Observation]:
        return [
            SubmissionAccepted(target_id=r.target_id, attempt=r.attempt, fence=r.fence, task_id=TaskId(r.key))
            for r in requests
        ]

    def observe(self, refs: Sequence[Ref], looked_at: datetime) -> Sequence[Observation]:
        done = TaskStatus.COMPLETED
        return [
            TaskObserved(target_id=r.target_id, task_id=r.task_id, status=done, message="done", looked_at=looked_at)
            for r in refs
            if isinstance(r, TaskRef)
        ]

    def cancel(self, refs: Sequence[TaskRef]) -> Sequence[Observation]:
        return []

    def on_change(self, callback: Callable[[RunId], None]) -> None:
        return


class Site:
    """One store with one run of one phase."""

    def __init__(self, directory: Path, size: int, concurrency: int) -> None:
        path = directory / f"{size}.db"
        migrate(path)
        self.store = SqliteStore(path)
        candidates = [
            Candidate(
                id=RackId(UUID(int=index + 1)),
                name=f"rack {index}",
                components={"compute": (ComponentId(UUID(int=10**9 + index)),)},
            )
            for index in range(size)
        ]
        rollout = Rollout(
            name=f"{size} targets",
            operation=Operation(type="benchmark", code="tick"),
            selector=PercentageSelector(percentage=100, seed="s"),
            ordering=RandomOrdering(seed="o"),
            max_concurrent_targets=concurrency,
            gates=(),
        )
        new = new_run(plan(candidates, rollout), command_id=CommandId(str(size)), actor="b", now=datetime.now(UTC))
        began = time.perf_counter()
        self.run_id = self.store.create(new).id
        self.created_seconds = time.perf_counter() - began
        self.dispatcher = Dispatcher(self.store, InProcess(), Settings())
        self.statements = 0
        sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", self._count)

    def _count(self, *_: object) -> None:
        self.statements += 1

    def tick(self) -> tuple[float, int]:
        """Seconds and statements of one tick of the run."""
        self.store.wake(self.run_id)
        self.statements = 0
        began = time.perf_counter()
        done = self.dispatcher.run_once()
        seconds = time.perf_counter() - began
        if done.served != (self.run_id,):
            raise RuntimeError(f"the run was not served: {done}")
        return seconds, self.statements


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--concurrency", type=int, default=10)
    parser.add_argument("--ticks", type=int, default=0, help="0: as many as half of the smallest phase lasts")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    ticks = options.ticks or max(3, min(sizes) // options.concurrency - 2)
    with tempfile.TemporaryDirectory() as directory:
        sites = [Site(Path(directory), size, options.concurrency) for size in sizes]
        took: list[list[tuple[float, int]]] = [[] for _ in sites]
        for site in sites:
            site.tick()
        for _ in range(ticks):
            for site, measured in zip(sites, took, strict=True):
                measured.append(site.tick())
        print(f"concurrency {options.concurrency}, {ticks} ticks of each size, taking turns")
        print("| targets in the phase | create, s | tick, ms (median) | p90 | ratio | statements |")
        print("| ---: | ---: | ---: | ---: | ---: | ---: |")
        smallest = statistics.median(seconds for seconds, _ in took[0])
        for size, site, measured in zip(sizes, sites, took, strict=True):
            seconds = sorted(s for s, _ in measured)
            median, p90 = statistics.median(seconds), seconds[int(len(seconds) * 0.9)]
            counts = sorted({n for _, n in measured})
            print(
                f"| {size} | {site.created_seconds:.2f} | {median * 1000:.2f} | {p90 * 1000:.2f} "
                f"| {median / smallest:.2f} | {'-'.join(map(str, counts))} |"
            )


if __name__ == "__main__":
    main()
