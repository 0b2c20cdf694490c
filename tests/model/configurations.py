"""The small runs that are explored, each about something that can go wrong."""

from __future__ import annotations

from typing import Final

from opdispatch.policy.gates import FailureCountGate, GateScope

from .world import Configuration

CONFIGURATIONS: Final = (
    Configuration(name="two phases", racks=2, phases=2, quota=1, commands=("advance", "pause", "resume")),
    Configuration(name="automatic phases", racks=3, phases=3, quota=1, auto_advance=True, losses=1),
    Configuration(
        name="a gate",
        racks=2,
        quota=1,
        gates=(FailureCountGate(threshold_count=1),),
        failures=True,
        commands=("resume", "pause"),
    ),
    Configuration(
        name="a gate over phases",
        racks=2,
        phases=2,
        quota=1,
        gates=(FailureCountGate(threshold_count=1, scope=GateScope.CUMULATIVE_RUN),),
        failures=True,
        commands=("resume", "advance"),
    ),
    Configuration(name="a busy rack", racks=1, quota=1, busy=2, commands=("resume", "pause")),
    Configuration(name="lost answers", racks=1, quota=1, losses=2, failures=True),
    Configuration(name="two dispatchers", racks=2, quota=1, dispatchers=2, losses=1),
    Configuration(name="a cancel in the middle", racks=2, quota=2, losses=1, commands=("cancel",)),
    Configuration(name="a manager that cannot bar", racks=1, quota=1, losses=2, commands=("cancel",), bars=False),
    Configuration(name="a retry", racks=2, phases=2, quota=1, failures=True, auto_advance=True, commands=("retry",)),
    Configuration(name="a lost task", racks=1, quota=1, forgets=1, losses=1, commands=("retry", "cancel")),
)
