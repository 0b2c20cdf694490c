"""Seeded schedules, many and fast, and what they must have met."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from opdispatch.command import Retry, Settle
from opdispatch.identity import CommandId
from opdispatch.policy.gates import FailureCountGate
from opdispatch.run import RunStatus
from opdispatch.target import TargetStatus
from opdispatch_adapters.testing.simulation import RARE, Operators, Setup, World, heal, play

DEEP: Final = os.environ.get("OPDISPATCH_DEEP") == "1"
SCHEDULES: Final = 6000 if DEEP else 500
STEPS: Final = 200
BATCHES: Final = 10
RAREST: Final = frozenset({"older attempt's answer dropped", "retry refused: OPEN_STRAY"})
"""What a hundred schedules need not meet; ten thousand must, as ``python -m tests.simulation`` says."""
ROOT: Final = Path(__file__).parents[2]


@pytest.mark.parametrize("batch", range(BATCHES))
def test_no_schedule_breaks_a_law_and_each_ends_once_healed(batch: int) -> None:
    each = SCHEDULES // BATCHES
    events: Counter[str] = Counter()

    for seed in range(batch * each, (batch + 1) * each):
        events += play(seed, STEPS).events

    assert events["decision replayed"] >= each * 10


def test_the_rare_events_do_happen() -> None:
    events: Counter[str] = Counter()

    for seed in range(100_000, 100_300):
        events += play(seed, STEPS).events

    assert {event for event in RARE if not events[event]} <= RAREST


def test_a_stray_that_was_lost_but_lives_on_keeps_its_rack_busy_and_the_run_waits_for_it() -> None:
    world = World(Setup(dispatchers=1, racks=2, phases=1, quota=2, gates=(FailureCountGate(threshold_count=9),)))
    operators = Operators(world)
    a_tick(world)
    target = next(t for t in world.record.targets.values() if t.task_id is not None)
    assert target.task_id is not None
    task = world.manager.tasks[target.task_id]
    operators.give(
        Settle(command_id=CommandId("s"), actor="op", target=target.id, status=TargetStatus.FAILED, why="it hangs")
    )
    task.forgotten = task.ever_forgotten = task.stubborn = True
    while any(stray.is_open for stray in world.record.strays.values()):
        world.now += timedelta(seconds=20)
        a_tick(world)

    operators.give(Retry(command_id=CommandId("r"), actor="op", targets=(target.id,)))
    a_tick(world)
    waiting = world.record.targets[target.id].status
    heal(world, operators)

    assert waiting is TargetStatus.BLOCKED
    assert world.record.run.status is RunStatus.COMPLETED


def a_tick(world: World) -> None:
    """One whole tick of the only dispatcher, without faults."""
    world.step(0, lambda _: 0)
    while world.hands[0].tick is not None:
        world.step(0, lambda _: 0)


def test_a_schedule_plays_the_same_in_another_process_with_another_hash_seed() -> None:
    program = "from opdispatch_adapters.testing.simulation import play; print(play(7, 200).stamp)"

    def played(hash_seed: str) -> str:
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, cwd=ROOT
        )
        return done.stdout.strip()

    assert played("1") == played("2") == play(7, 200).stamp
    assert play(8, 200).stamp != play(7, 200).stamp
