"""The small runs that are explored, each about something that can go wrong; whole, unless the limit comes first."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from opdispatch.policy.gates import FailureCountGate, FailureRateGate, GateScope

from .world import Configuration

_OVER_PHASES: Final = FailureCountGate(threshold_count=1, scope=GateScope.CUMULATIVE_RUN)

CONFIGURATIONS: Final = (
    Configuration(
        name="two phases",
        phases=2,
        quota=1,
        failures=True,
        losses=1,
        commands=("advance", "pause", "resume"),
    ),
    Configuration(name="automatic phases", racks=3, phases=3, quota=2, auto_advance=True, losses=2),
    Configuration(
        name="a gate",
        gates=(FailureCountGate(threshold_count=1),),
        failures=True,
        losses=1,
        commands=("resume", "pause"),
    ),
    Configuration(
        name="a gate over phases",
        phases=2,
        quota=1,
        gates=(_OVER_PHASES, FailureRateGate(threshold_percent=60)),
        failures=True,
        losses=1,
        commands=("resume", "advance", "retry"),
    ),
    Configuration(name="busy racks", busy=3, commands=("resume", "pause")),
    Configuration(name="lost answers", losses=3, failures=True),
    Configuration(name="two dispatchers", dispatchers=2, quota=1, losses=2, failures=True),
    Configuration(
        name="two dispatchers and an operator", dispatchers=2, quota=1, commands=("pause", "resume", "cancel")
    ),
    Configuration(name="two dispatchers and a busy rack", dispatchers=2, racks=1, quota=1, busy=2, losses=1),
    Configuration(name="a cancel in the middle", losses=1, failures=True, commands=("cancel",)),
    Configuration(name="a manager that cannot bar", losses=2, commands=("cancel",), bars=False),
    Configuration(
        name="a retry",
        phases=2,
        quota=1,
        failures=True,
        auto_advance=True,
        losses=1,
        commands=("retry", "retry"),
    ),
    Configuration(name="lost tasks", racks=1, quota=1, forgets=2, losses=2, commands=("retry", "cancel")),
    Configuration(
        name="an operator who settles",
        racks=1,
        quota=1,
        forgets=1,
        losses=2,
        failures=True,
        commands=("settle", "retry", "cancel"),
        guards=False,
    ),
    Configuration(name="refusals", refusals=2, losses=1, gates=(_OVER_PHASES,), commands=("resume", "retry")),
    Configuration(name="little capacity", racks=3, quota=3, capacity=1, losses=1),
)

DEEPER: Final = tuple(
    replace(
        one,
        name=f"{one.name}, deeper",
        losses=one.losses + 1,
        busy=one.busy + 1,
        commands=(*one.commands, *(() if "pause" in one.commands else ("pause", "resume"))),
    )
    for one in CONFIGURATIONS
)
"""The same with more that goes wrong."""
BY_NAME: Final = {configuration.name: configuration for configuration in (*CONFIGURATIONS, *DEEPER)}
