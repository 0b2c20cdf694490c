"""The state machine under Hypothesis: any dispatcher, operator or fault at any time, every law after every step.

Two and three dispatchers.  ``OPDISPATCH_DEEP=1`` plays 2 000 schedules of up to 200 steps for each; without it a small
part of that.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from opdispatch_adapters.testing.simulation import Operators, World, a_setup, heal

DEEP: Final = os.environ.get("OPDISPATCH_DEEP") == "1"
PROFILE: Final = settings(
    max_examples=2000 if DEEP else 25,
    stateful_step_count=200 if DEEP else 100,
    deadline=None,
    derandomize=not DEEP,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
_DATA = st.data()


def _choose(data: Any) -> Any:
    return lambda n: data.draw(st.integers(0, n - 1)) if n > 1 else 0


class Dispatching(RuleBasedStateMachine):
    """The rules are what the world can do; the laws are checked by the world itself."""

    dispatchers = 2
    world: World
    operators: Operators

    @initialize(data=_DATA)
    def begin(self, data: Any) -> None:
        setup = a_setup(_choose(data))
        self.world = World(replace(setup, dispatchers=self.dispatchers))
        self.operators = Operators(self.world)

    @rule(data=_DATA)
    def a_dispatcher_steps(self, data: Any) -> None:
        choose = _choose(data)
        self.world.step(choose(self.dispatchers), choose)

    @rule(data=_DATA)
    def a_dispatcher_goes_through_a_tick(self, data: Any) -> None:
        choose = _choose(data)
        index = choose(self.dispatchers)
        for _ in range(12):
            self.world.step(index, choose)
            if self.world.hands[index].tick is None:
                break

    @rule(data=_DATA)
    def a_dispatcher_crashes(self, data: Any) -> None:
        self.world.crash(_choose(data)(self.dispatchers))

    @rule(data=_DATA)
    def time_passes(self, data: Any) -> None:
        self.world.pass_time(_choose(data))

    @precondition(lambda self: any(task.live for task in self.world.manager.tasks.values()))
    @rule(data=_DATA)
    def a_task_ends(self, data: Any) -> None:
        self.world.task_ends(_choose(data))

    @precondition(lambda self: self.world.network)
    @rule(data=_DATA)
    def a_request_arrives_late(self, data: Any) -> None:
        self.world.late_delivery(_choose(data))

    @precondition(lambda self: self.world.echoes)
    @rule(data=_DATA)
    def an_answer_arrives_late_or_twice(self, data: Any) -> None:
        self.world.echo(_choose(data))

    @precondition(lambda self: self.world.manager.tasks)
    @rule(data=_DATA)
    def the_task_manager_acts_up(self, data: Any) -> None:
        self.world.manager_acts_up(_choose(data))

    @rule(data=_DATA)
    def other_work_takes_or_leaves_a_rack(self, data: Any) -> None:
        self.world.foreign_work(_choose(data))

    @rule(data=_DATA)
    def an_operator_commands(self, data: Any) -> None:
        self.operators.operate(_choose(data))

    @precondition(lambda self: self.operators.given)
    @rule(data=_DATA)
    def a_command_is_repeated(self, data: Any) -> None:
        self.operators.repeat(_choose(data))

    def teardown(self) -> None:
        """Then everything heals, and must come to an end."""
        if hasattr(self, "world"):
            heal(self.world, self.operators)


class ThreeDispatching(Dispatching):
    """The same with three dispatchers."""

    dispatchers = 3


TestTwoDispatchers = Dispatching.TestCase
TestTwoDispatchers.settings = PROFILE
TestThreeDispatchers = ThreeDispatching.TestCase
TestThreeDispatchers.settings = PROFILE
