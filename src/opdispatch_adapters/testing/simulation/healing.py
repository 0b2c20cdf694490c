"""Healing: no more faults, and everything must come to an end, by itself or by the command that a hold asks for."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from opdispatch.evolve import Record
from opdispatch.identity import CommandId
from opdispatch.task import TaskStatus
from opdispatch.testing.manager import SimulatedTask

from .operators import Operators
from .world import World

_TURNS: Final = 400
"""Far more than a healthy run of this size needs."""
_STEPS: Final = 60


def _calm(_: int) -> int:
    return 0


def heal(world: World, operators: Operators) -> None:
    """Raises Broken when the run does not come to rest, or leaves something behind."""
    world.network.clear()
    world.manager.foreign.clear()
    for index in range(len(world.hands)):
        world.crash(index)
    for task in world.manager.tasks.values():
        task.forgotten, task.stubborn = False, False
    for turn in range(_TURNS):
        for index, _ in enumerate(world.hands):
            for _ in range(_STEPS):
                world.step(index, _calm)
                if world.hands[index].tick is None:
                    break
        for task in world.manager.tasks.values():
            if task.live and _ends_by_itself(world.record, task):
                task.status = TaskStatus.COMPLETED
        if _is_at_rest(world.record):
            world.ledger.at_rest()
            return
        operators.do_as_the_hold_asks(CommandId(f"heal{turn}"))
        world.now += timedelta(seconds=7)
    run = world.record.run
    world.ledger.violated("progress", f"none after healing: {run.status}/{run.status_reason}: {run.status_message}")


def _is_at_rest(record: Record) -> bool:
    return (
        record.run.status.is_terminal
        and all(target.status.is_settled for target in record.targets.values())
        and not any(stray.is_open for stray in record.strays.values())
    )


def _ends_by_itself(record: Record, task: SimulatedTask) -> bool:
    """The task of a target of a run that goes on.  One that nobody wants must be cancelled by who knows of it; of one
    that was made up, or lost, perhaps nobody does."""
    stray = record.strays.get(task.id)
    if stray is not None and stray.is_open:
        return False
    is_current = record.targets[task.target_id].task_id == task.id
    return task.ghost or task.ever_forgotten or (is_current and not record.run.status.is_terminal)
