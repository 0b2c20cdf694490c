"""A wrong protocol: the real one with one rule broken, at the decider, at the controller or around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from opdispatch.action import Action, Decision
from opdispatch.command import Command
from opdispatch.control import control
from opdispatch.decide import decide
from opdispatch.state import RunState
from opdispatch_adapters.testing.simulation import World

Decider = Callable[[RunState], Decision]
Controller = Callable[[RunState, Command], Decision]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One broken rule; ``rule`` is the one that it breaks, in the words of the architecture."""

    name: str
    rule: str
    decider: Decider = decide
    controller: Controller = control
    world: type[World] = World


def with_actions(decision: Decision, change: Callable[[Action], Action | None]) -> Decision:
    """A decision whose actions are changed, or dropped where there is None in their place."""
    steps = ((step, change(step.action)) for step in decision.steps)
    # What the decision tells its store is worked out from the actions, and these have changed.
    return replace(
        decision,
        steps=tuple(replace(step, action=action) for step, action in steps if action is not None),
        outcome=None,
    )
