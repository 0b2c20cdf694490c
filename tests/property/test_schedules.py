"""Seeded schedules, many and fast; the broken deciders that prove the laws can fail; and laws of single values."""

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

from .broken import BROKEN, Broken
from .laws import Violation
from .schedules import play
from .world import Setup, World

DEEP: Final = os.environ.get("OPDISPATCH_DEEP") == "1"
SCHEDULES: Final = 6000 if DEEP else 240
STEPS: Final = 200
BATCHES: Final = 8
RARE: Final = (
    "window ended",
    "lost",
    "RearmBlocked",
    "RecordStray",
    "UpdateStray",
    "ReturnToPhase",
    "RetryTarget",
    "SkipUnstarted",
    "AcceptFailures",
    "Settle accepted",
    "Advance accepted",
    "Cancel accepted",
)
"""What must have happened somewhere, or the schedules prove less than they seem to."""
ROOT: Final = Path(__file__).parents[2]


@pytest.mark.parametrize("batch", range(BATCHES))
def test_no_schedule_breaks_a_law_and_each_ends_once_healed(batch: int) -> None:
    each = SCHEDULES // BATCHES
    events: Counter[str] = Counter()

    for seed in range(batch * each, (batch + 1) * each):
        events += play(seed, STEPS)

    assert events["FinishRun"] >= each * 0.99


def test_the_rare_events_do_happen() -> None:
    events: Counter[str] = Counter()

    for seed in range(100_000, 100_150):
        events += play(seed, STEPS)

    assert [event for event in RARE if not events[event]] == []


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_each_broken_rule_is_caught(broken: Broken) -> None:
    with pytest.raises(Violation):
        for seed in range(1500):
            play(seed, STEPS, decider=broken.decider, controller=broken.controller)


def test_a_stray_that_was_lost_but_lives_on_keeps_its_rack_busy_and_the_run_waits_for_it() -> None:
    world = World(Setup(dispatchers=1, racks=2, phases=1, quota=2, gates=(FailureCountGate(threshold_count=9),)))
    a_tick(world)
    target = next(t for t in world.record.targets.values() if t.task_id is not None)
    assert target.task_id is not None
    task = world.manager.tasks[target.task_id]
    world.give(
        Settle(command_id=CommandId("s"), actor="op", target=target.id, status=TargetStatus.FAILED, why="it hangs")
    )
    task.forgotten = task.ever_forgotten = task.stubborn = True
    while any(stray.is_open for stray in world.record.strays.values()):
        world.now += timedelta(seconds=20)
        a_tick(world)

    world.give(Retry(command_id=CommandId("r"), actor="op", targets=(target.id,)))
    a_tick(world)
    waiting = world.record.targets[target.id].status
    world.heal()

    assert waiting is TargetStatus.BLOCKED
    assert world.record.run.status is RunStatus.COMPLETED


def a_tick(world: World) -> None:
    """One whole tick of the only dispatcher, without faults."""
    world.step(0, lambda _: 0)
    while world.hands[0].tick is not None:
        world.step(0, lambda _: 0)


def test_a_schedule_plays_the_same_in_another_process_with_another_hash_seed() -> None:
    program = "from tests.property.schedules import play; print(sorted(play(7, 200).items()))"

    def played(hash_seed: str) -> str:
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, cwd=ROOT
        )
        return done.stdout

    assert played("1") == played("2") == f"{sorted(play(7, 200).items())}\n"
