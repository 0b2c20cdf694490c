"""Random schedules: one seed decides the world and every step in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from opdispatch.action import Decision
from opdispatch.command import Command
from opdispatch.control import control
from opdispatch.decide import decide
from opdispatch.state import RunState

from .world import World, a_setup


def play(
    seed: int,
    steps: int,
    *,
    decider: Callable[[RunState], Decision] = decide,
    controller: Callable[[RunState, Command], Decision] = control,
) -> Counter[str]:
    """One schedule: chaos for so many steps, then healing.  Returns how often each event happened.

    Raises laws.Violation when a law does not hold.  Faults are swarmed: each seed switches some kinds off, so that
    others come to matter.
    """
    random = Random(seed)

    def choose(n: int) -> int:
        return random.randrange(n)

    world = World(a_setup(choose), decider=decider, controller=controller)
    kinds: list[tuple[int, Callable[[], None]]] = [
        (40, lambda: world.step(choose(len(world.hands)), choose)),
        (14, lambda: world.pass_time(choose)),
        (10, lambda: world.task_ends(choose)),
        (2, lambda: world.crash(choose(len(world.hands)))),
        (4, lambda: world.late_delivery(choose)),
        (6, lambda: world.echo(choose)),
        (2, lambda: world.manager_acts_up(choose)),
        (6, lambda: world.foreign_work(choose)),
        (7, lambda: world.operate(choose)),
        (1, lambda: world.repeat(choose)),
    ]
    weights = [weight if index < 3 or choose(4) else 0 for index, (weight, _) in enumerate(kinds)]
    acts = [act for _, act in kinds]
    for act in random.choices(acts, weights, k=steps):
        act()
    world.heal()
    if decider is decide and controller is control:
        world.laws.replays()
    return world.laws.ledger.events
