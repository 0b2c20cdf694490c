"""How soon something starts: from an operator's command, or from a new run, to the first claim that is submitted.

    python -m benchmarks.latency [--check] [--samples 200] [--polled-samples 40] [--glance 0.25]

The dispatcher is in a thread with a store of its own and the operator uses another one, so they share nothing but the
database; both read the same monotonic clock.  Each sample begins when the dispatcher has nothing to do, at a random
moment between two of its glances.  The time is taken from when the command is given and, in the second triple, from its
reply.  It is measured with notifications, and with glances at the store alone, which is what a dispatcher does where
notifications cannot be had.  ``--check`` exits with 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import queue
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from benchmarks.inprocess import Maker, Telling
from benchmarks.ours import postgres_store, reopened
from benchmarks.server import server
from opdispatch.command import Advance, Command, Pause, Resume
from opdispatch.identity import CommandId, RunId
from opdispatch.observation import Observation
from opdispatch.policy.phases import EqualPhases
from opdispatch.ports import Overview
from opdispatch.run import RunStatus
from opdispatch.task import SubmissionRequest
from opdispatch_adapters.dispatcher import Dispatcher, Settings
from opdispatch_adapters.sql import PostgresStore

_PATIENCE_SECONDS = 60.0
SOON_SECONDS = 0.025
"""What 95 of 100 first claims may take at most, on a server of this machine, from the call that causes them."""


class Watched(Telling):
    """Notes when each batch of submissions came."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: queue.SimpleQueue[float] = queue.SimpleQueue()

    def submit(self, requests: Sequence[SubmissionRequest], deadline: timedelta) -> Sequence[Observation]:
        self.begun.put(time.perf_counter())
        return super().submit(requests, deadline)


def dispatching(store: PostgresStore, tasks: Watched, glance: timedelta, *, notified: bool) -> Dispatcher:
    """A dispatcher that hears of what others do, or one that glances at the store now and then."""
    return Dispatcher(store, tasks, Settings(glance=glance), listen=store.listening if notified else None)


@dataclass
class Scene:
    """An operator and what the dispatcher beside them does."""

    store: PostgresStore
    tasks: Watched
    operator: Dispatcher
    pause_seconds: float

    def settled(self, run_id: RunId, when: Callable[[Overview], bool]) -> None:
        """Wait until the run stands so, and then until a random moment between two glances."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while not when(self.store.get(run_id)):
            if time.monotonic() > end:
                raise RuntimeError(f"run {run_id} does not get there: {self.store.get(run_id)}")
            time.sleep(0.005)
        time.sleep(0.05 + random.random() * self.pause_seconds)

    def sample(self, act: Callable[[], object]) -> tuple[float, float]:
        """Seconds from the call, and from its return, to the next submission."""
        while not self.tasks.begun.empty():
            self.tasks.begun.get()
        called = time.perf_counter()
        act()
        returned = time.perf_counter()
        begun = self.tasks.begun.get(timeout=_PATIENCE_SECONDS)
        return begun - called, begun - returned

    def command(self, run_id: RunId, command: Command) -> None:
        """Give a command that must be accepted."""
        reply = self.operator.command(run_id, command)
        if not reply.accepted:
            raise RuntimeError(f"refused: {reply}")


Times = list[tuple[float, float]]


def created(scene: Scene, samples: int) -> Times:
    """From a new run of one target."""
    maker, times = Maker(1, 1), []
    for _ in range(samples):
        new = maker.run()
        times.append(scene.sample(partial(scene.store.create, new)))
        scene.settled(new.run.id, lambda seen: seen.run.status.is_terminal)
    return times


def resumed(scene: Scene, samples: int) -> Times:
    """From the resume of a run that was paused with nothing in flight."""
    new, times = Maker(100 * samples, 1).run(), []
    run_id = scene.store.create(new).id
    for number in range(samples):
        scene.command(run_id, Pause(command_id=CommandId(f"pause {number}"), actor="operator"))
        scene.settled(run_id, lambda seen: not seen.phases[0].in_flight)
        resume = Resume(command_id=CommandId(f"resume {number}"), actor="operator")
        times.append(scene.sample(partial(scene.command, run_id, resume)))
    scene.command(run_id, Pause(command_id=CommandId("the end"), actor="operator"))
    return times


def advanced(scene: Scene, samples: int) -> Times:
    """From the advance of a run that waits at a phase gate."""
    new, times = Maker(samples + 1, 1, EqualPhases(count=samples + 1)).run(), []
    run_id = scene.store.create(new).id
    for number in range(samples):
        scene.settled(run_id, lambda seen: seen.run.status is RunStatus.PAUSED)
        advance = Advance(command_id=CommandId(f"advance {number}"), actor="operator", expected_phase=number + 1)
        times.append(scene.sample(partial(scene.command, run_id, advance)))
    return times


@contextmanager
def scene(url: str, glance: timedelta, *, notified: bool) -> Iterator[Scene]:
    """A dispatcher in its thread, and an operator with a store of their own."""
    tasks = Watched()
    pause_seconds = 0.05 if notified else glance.total_seconds()
    with (
        closing(postgres_store(url)) as store,
        closing(reopened(url)) as theirs,
        dispatching(theirs, tasks, glance, notified=notified),
    ):
        yield Scene(store, tasks, Dispatcher(store, tasks), pause_seconds)


def percentile(seconds: Sequence[float], share: float) -> float:
    """What so large a share did not exceed."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def percentiles(seconds: Sequence[float]) -> str:
    """Median, 95 % and 99 % in milliseconds, as cells."""
    values = (statistics.median(seconds), percentile(seconds, 0.95), percentile(seconds, 0.99))
    return " | ".join(f"{value * 1000:.1f}" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--polled-samples", type=int, default=40)
    parser.add_argument("--glance", type=float, default=0.25, help="seconds")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    options = parser.parse_args()
    glance = timedelta(seconds=options.glance)
    missed: list[str] = []
    with server() as running:
        print(f"{running.about()}; a glance every {glance.total_seconds():g} s\n")
        print("| from | hears by | from the call, ms | p95 | p99 | from the reply, ms | p95 | p99 | samples |")
        print("| --- | --- " + "| ---: " * 7 + "|")
        for notified, samples in ((True, options.samples), (False, options.polled_samples)):
            for kind in (created, resumed, advanced):
                with running.database() as url, scene(url, glance, notified=notified) as seen:
                    times = kind(seen, samples)
                hears = "notification" if notified else "glance"
                calls, replies = zip(*times, strict=True)
                print(
                    f"| {kind.__name__} | {hears} | {percentiles(calls)} | {percentiles(replies)} | {samples} |",
                    flush=True,
                )
                if notified and percentile(calls, 0.95) > SOON_SECONDS:
                    missed.append(f"{kind.__name__}: the 95th percentile is over {SOON_SECONDS * 1000:g} ms")
    if options.check and missed:
        print("\nmissed:", *missed, sep="\n", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
