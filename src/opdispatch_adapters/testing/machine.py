"""The simulated world under Hypothesis: any dispatcher, operator or fault at any time, every law after every step.

    TestMyWorld = world_machine(make=MyWorld).TestCase
    TestMyWorld.settings = settings(max_examples=100, stateful_step_count=100, deadline=None)

A failing example is shrunk to the fewest steps that break a law.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from .simulation import Choose, Operators, Setup, World, a_setup, heal

_DATA = st.data()


def chooser(data: st.DataObject) -> Choose:
    """Choices among 0 .. n-1, drawn by Hypothesis, the first being the simplest."""

    def choose(n: int) -> int:
        return data.draw(st.integers(0, n - 1)) if n > 1 else 0

    return choose


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    """What a world is made of."""
    return a_setup(lambda n: draw(st.integers(0, n - 1)))


class WorldMachine(RuleBasedStateMachine):
    """The rules are what the world can do; the laws are checked by the world itself, and at the end it must heal."""

    make: type[World] = World
    dispatchers = 2
    world: World
    operators: Operators

    @initialize(setup=setups())
    def begin(self, setup: Setup) -> None:
        self.world = self.make(replace(setup, dispatchers=self.dispatchers))
        self.operators = Operators(self.world)

    @rule(data=_DATA)
    def a_dispatcher_steps(self, data: Any) -> None:
        choose = chooser(data)
        self.world.step(choose(self.dispatchers), choose)

    @rule(data=_DATA)
    def a_dispatcher_goes_through_a_tick(self, data: Any) -> None:
        choose = chooser(data)
        index = choose(self.dispatchers)
        for _ in range(12):
            self.world.step(index, choose)
            if self.world.hands[index].tick is None:
                break

    @rule(data=_DATA)
    def a_dispatcher_crashes(self, data: Any) -> None:
        self.world.crash(chooser(data)(self.dispatchers))

    @rule(data=_DATA)
    def time_passes(self, data: Any) -> None:
        self.world.pass_time(chooser(data))

    @precondition(lambda self: any(task.live for task in self.world.manager.tasks.values()))
    @rule(data=_DATA)
    def a_task_ends(self, data: Any) -> None:
        self.world.task_ends(chooser(data))

    @precondition(lambda self: self.world.network)
    @rule(data=_DATA)
    def a_request_arrives_late(self, data: Any) -> None:
        self.world.late_delivery(chooser(data))

    @precondition(lambda self: self.world.echoes)
    @rule(data=_DATA)
    def an_answer_arrives_late_or_twice(self, data: Any) -> None:
        self.world.echo(chooser(data))

    @precondition(lambda self: self.world.manager.tasks)
    @rule(data=_DATA)
    def the_task_manager_acts_up(self, data: Any) -> None:
        self.world.manager_acts_up(chooser(data))

    @rule(data=_DATA)
    def other_work_takes_or_leaves_a_rack(self, data: Any) -> None:
        self.world.foreign_work(chooser(data))

    @rule(data=_DATA)
    def an_operator_commands(self, data: Any) -> None:
        self.operators.operate(chooser(data))

    @precondition(lambda self: self.operators.given)
    @rule(data=_DATA)
    def a_command_is_repeated(self, data: Any) -> None:
        self.operators.repeat(chooser(data))

    def teardown(self) -> None:
        """Then everything heals, and must come to an end."""
        if hasattr(self, "world"):
            heal(self.world, self.operators)


def world_machine(*, make: type[World] = World, dispatchers: int = 2) -> type[WorldMachine]:
    """A machine of so many dispatchers (>= 1) in worlds of this kind."""
    return type("WorldMachine", (WorldMachine,), {"make": make, "dispatchers": dispatchers})
