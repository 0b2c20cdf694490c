"""Healing: no more faults, and everything must come to an end, by itself or by the command that a hold asks for."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from opdispatch.command import Advance, Resume
from opdispatch.evolve import Record
from opdispatch.holds import failed_attempts
from opdispatch.identity import CommandId
from opdispatch.run import RunStatus, StatusReason
from opdispatch.tally import tallies_at
from opdispatch.task import TaskStatus

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
            # Every task ends by itself sooner or later, but one that is known as an open stray must be cancelled.
            stray = world.record.strays.get(task.id)
            if task.live and (stray is None or not stray.is_open):
                task.status = TaskStatus.COMPLETED
        if _is_at_rest(world.record):
            world.ledger.at_rest()
            return
        _act_as_the_hold_asks(world, operators, turn)
        world.now += timedelta(seconds=7)
    run = world.record.run
    world.ledger.violated("progress", f"none after healing: {run.status}/{run.status_reason}: {run.status_message}")


def _is_at_rest(record: Record) -> bool:
    return (
        record.run.status.is_terminal
        and all(target.status.is_settled for target in record.targets.values())
        and not any(stray.is_open for stray in record.strays.values())
    )


def _act_as_the_hold_asks(world: World, operators: Operators, turn: int) -> None:
    record = world.record
    run = record.run
    if run.status is not RunStatus.PAUSED:
        return
    ident = CommandId(f"heal{turn}")
    if run.status_reason is StatusReason.PHASE_GATE:
        operators.give(Advance(command_id=ident, actor="op", expected_phase=run.phase + 1))
        return
    attempts = failed_attempts(tallies_at(record.phases, run.phase, run.opened))
    operators.give(Resume(command_id=ident, actor="op", accept_failures=attempts))
