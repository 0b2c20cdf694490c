"""How fast tasks are begun over the wire, and what a settled target costs in calls.

    python -m benchmarks.submissions [--targets 400] [--turns 3]

A stand-in for Flow runs in a process of its own on the loopback, so that client and service share no interpreter; the
parallelisms take turns.  The second table dispatches a run through the real dispatcher and counts every call that the
client made, by method.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from opdispatch.candidate import Candidate, Scope
from opdispatch.identity import CommandId, IdempotencyKey, RunId, TargetId
from opdispatch.observation import SubmissionAccepted
from opdispatch.plan import new_run, plan
from opdispatch.policy.ordering import RandomOrdering
from opdispatch.policy.selection import PercentageSelector
from opdispatch.rollout import Rollout
from opdispatch.task import Operation, SubmissionRequest
from opdispatch_adapters.dispatcher import Dispatcher, Settings
from opdispatch_adapters.flow.client import FlowInventory, FlowSettings, FlowTasks
from opdispatch_adapters.memory import MemoryStore

PARALLELISM: Final = (1, 8, 32)
INVENTORY: Final = Path(__file__).parents[1] / "examples" / "inventory" / "leonardo"
_DEADLINE: Final = timedelta(seconds=30)
_UPGRADE: Final = Operation(type="firmware_control", code="upgrade")


@contextmanager
def standin(duration: str) -> Iterator[str]:
    """The address of a stand-in in a process of its own, over the racks of Leonardo."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "opdispatch_adapters.cli", "flow-standin", "--listen", "127.0.0.1:0"),
            *("--inventory", str(INVENTORY), "--component-type", "compute=Compute"),
            *("--component-type", "switch=NVSwitch", "--duration", duration),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        if process.stdout is None:
            raise AssertionError("its output was asked for")
        yield process.stdout.readline().split(" on ")[1].split(",")[0]
    finally:
        process.terminate()
        process.wait()


def submitted(tasks: FlowTasks, racks: Sequence[Candidate], turn: str, targets: int) -> float:
    """Tasks begun per second; each rack's task has ended before its next one is asked for, or the rack is skipped."""
    requests = [_request(racks[number % len(racks)], f"{turn}-{number}", number) for number in range(targets)]
    began, accepted = time.perf_counter(), 0
    for start in range(0, targets, len(racks)):
        found = tasks.submit(requests[start : start + len(racks)], _DEADLINE)
        accepted += sum(isinstance(one, SubmissionAccepted) for one in found)
    seconds = time.perf_counter() - began
    if accepted < targets:
        raise AssertionError(f"{targets - accepted} of {targets} submissions were not accepted")
    return targets / seconds


def _request(rack: Candidate, key: str, number: int) -> SubmissionRequest:
    return SubmissionRequest(
        key=IdempotencyKey(key),
        run_id=RunId(UUID(int=1)),
        target_id=TargetId(UUID(int=number + 1)),
        attempt=1,
        fence=1,
        rack_id=rack.id,
        rack_name=rack.name,
        components=rack.components,
        operation=_UPGRADE,
        resubmission=False,
    )


def calls_of_a_run(address: str, parallelism: int) -> tuple[Counter[str], int, float]:
    """The calls of a whole run by method, its settled targets, and its seconds."""
    with FlowTasks(FlowSettings(address=address, parallelism=parallelism)) as tasks:
        racks = FlowInventory(tasks.channel).candidates(Scope())
        calls: Counter[str] = Counter()
        call = tasks.channel.call

        def counted(method: str, *arguments: Any) -> Any:
            calls[method] += 1
            return call(method, *arguments)

        tasks.channel.call = counted  # type: ignore[method-assign,assignment]
        store = MemoryStore()
        rollout = Rollout(
            name="calls",
            operation=_UPGRADE,
            selector=PercentageSelector(percentage=100, seed="s"),
            ordering=RandomOrdering(seed="o"),
            max_concurrent_targets=32,
            gates=(),
        )
        new = new_run(plan(racks, rollout), command_id=CommandId("c"), actor="benchmark", now=datetime.now(UTC))
        run_id = store.create(new).id
        began = time.perf_counter()
        dispatcher = Dispatcher(store, tasks, Settings(poll=timedelta(seconds=1)))
        while not store.get(run_id).run.status.is_terminal:
            dispatcher.run_once()
            following = store.next_due()
            time.sleep(0.0 if following is None else min(following.total_seconds(), 1.0))
        return calls, store.get(run_id).phases[0].settled, time.perf_counter() - began


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--targets", type=int, default=414)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    rates: dict[int, list[float]] = {parallelism: [] for parallelism in PARALLELISM}
    with standin("0.01s") as address:
        for turn in range(given.turns):
            for parallelism in PARALLELISM:
                with FlowTasks(FlowSettings(address=address, parallelism=parallelism)) as tasks:
                    racks = FlowInventory(tasks.channel).candidates(Scope())
                    rates[parallelism].append(submitted(tasks, racks, f"{turn}-{parallelism}", given.targets))
    print("| parallelism | submissions/s (median) | ratio to 1 |\n| ---: | ---: | ---: |")
    single = statistics.median(rates[1])
    for parallelism, found in rates.items():
        rate = statistics.median(found)
        print(f"| {parallelism} | {rate:.0f} | {rate / single:.2f} |")
    with standin("2s") as address:
        calls, settled, seconds = calls_of_a_run(address, 8)
    print(f"\n{settled} targets settled in {seconds:.1f} s\n")
    print("| call | calls | per settled target |\n| --- | ---: | ---: |")
    for method, count in (*calls.most_common(), ("all", calls.total())):
        print(f"| {method} | {count} | {count / settled:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
