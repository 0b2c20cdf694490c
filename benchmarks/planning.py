"""How long planning takes, and how much memory, for growing inventories.

Run ``python benchmarks/planning.py``.  Time is the best of several runs without any tracing; the peak is traced
by ``tracemalloc`` in a run of its own, because tracing makes a run several times slower; the resident set is
that of a fresh process which generates the racks and plans once.  The racks are generated, ten components each,
and their making is not timed.  The ratio compares a size with the one before it: ten times the racks should
cost little more than ten times as much.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
import tracemalloc
from datetime import UTC, datetime
from uuid import UUID, uuid5

from opdispatch.candidate import Candidate
from opdispatch.identity import CommandId, ComponentId, RackId
from opdispatch.plan import Plan, new_run, plan
from opdispatch.policy.gates import FailureRateGate
from opdispatch.policy.ordering import LocationStrategy, PhysicalOrdering
from opdispatch.policy.phases import PercentagePhases
from opdispatch.policy.selection import PercentageSelector
from opdispatch.rollout import Rollout
from opdispatch.task import Operation

SIZES = (1_000, 10_000, 100_000)
NAMESPACE = UUID(int=1)
ROLLOUT = Rollout(
    name="benchmark",
    operation=Operation(type="firmware_control", code="upgrade"),
    selector=PercentageSelector(percentage=90, seed="benchmark"),
    ordering=PhysicalOrdering(strategy=LocationStrategy.ONE_PER_ROW_ROUND_ROBIN),
    max_concurrent_targets=50,
    gates=(FailureRateGate(threshold_percent=5),),
    phases=PercentagePhases(percentages=(1, 9, 90)),
)


def generated(count: int) -> list[Candidate]:
    """Racks in rows of twenty, ten rows to a room: nine compute devices and a switch each."""
    return [
        Candidate(
            id=RackId(uuid5(NAMESPACE, str(number))),
            name=f"rack-{number}",
            components={
                "compute": tuple(ComponentId(UUID(int=number * 16 + device)) for device in range(1, 10)),
                "switch": (ComponentId(UUID(int=number * 16 + 10)),),
            },
            site="site",
            room=f"room {number // 200}",
            row=f"row {number // 20 % 10}",
            position=str(number % 20),
        )
        for number in range(count)
    ]


def best_time(racks: list[Candidate], runs: int) -> float:
    """Seconds of the fastest of so many runs."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        plan(racks, ROLLOUT)
        times.append(time.perf_counter() - start)
    return min(times)


def run_time(made: Plan) -> float:
    """Seconds to make the run and its targets from a plan."""
    start = time.perf_counter()
    new_run(made, command_id=CommandId("benchmark"), actor="benchmark", now=datetime(2031, 1, 1, tzinfo=UTC))
    return time.perf_counter() - start


def traced_peak(racks: list[Candidate]) -> int:
    """Bytes that planning holds at its peak, the plan included and the racks not."""
    tracemalloc.start()
    plan(racks, ROLLOUT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def resident(count: int) -> tuple[float, float]:
    """MiB that a fresh process held at most with the racks alone, and after planning."""
    done = subprocess.run(
        [sys.executable, __file__, "--resident", str(count)], check=True, capture_output=True, text=True
    )
    before, after = done.stdout.split()
    return int(before) / 1024, int(after) / 1024


def tell_resident(count: int) -> None:
    """Print the largest resident set in KiB (the unit of Linux) before and after planning."""
    racks = generated(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan(racks, ROLLOUT)
    print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    """Print the table, or answer for one size in a process of its own."""
    parser = argparse.ArgumentParser(description="Planning time and memory by inventory size.")
    parser.add_argument("--runs", type=int, default=3, help="timed runs for each size; the best counts")
    parser.add_argument("--resident", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.resident is not None:
        tell_resident(options.resident)
        return
    # Before anything is held here: on Linux a new process starts with the largest resident set of its parent.
    residents = [resident(count) for count in SIZES]
    print(f"Python {sys.version.split()[0]}, best of {options.runs}")
    print(
        "| racks | components | plan s | ratio | new run s | us/rack | peak MiB | ratio | RSS racks MiB | RSS all MiB |"
    )
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    before: tuple[float, float] | None = None
    for count, (alone, planned) in zip(SIZES, residents, strict=True):
        racks = generated(count)
        seconds = best_time(racks, options.runs)
        making = run_time(plan(racks, ROLLOUT))
        peak = traced_peak(racks) / 2**20
        time_ratio, peak_ratio = (f"{seconds / before[0]:.1f}", f"{peak / before[1]:.1f}") if before else ("", "")
        before = seconds, peak
        print(
            f"| {count:,} | {count * 10:,} | {seconds:.3f} | {time_ratio} | {making:.3f} | {seconds / count * 1e6:.1f} "
            f"| {peak:.1f} | {peak_ratio} | {alone:.0f} | {planned:.0f} |"
        )


if __name__ == "__main__":
    main()
