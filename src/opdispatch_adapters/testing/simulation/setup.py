"""What a simulated world is made of: a small run, so that everything meets everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from opdispatch.candidate import Candidate
from opdispatch.identity import CommandId, ComponentId, RackId
from opdispatch.plan import NewRun, new_run, plan
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.policy.gates import FailureCountGate, FailureRateGate, Gate, GateScope
from opdispatch.policy.ordering import RandomOrdering
from opdispatch.policy.phases import EqualPhases
from opdispatch.policy.selection import PercentageSelector
from opdispatch.rollout import Rollout
from opdispatch.target import TargetStatus
from opdispatch.task import Operation

from ...dispatcher.settings import Settings

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""When every simulation begins."""
SETTINGS: Final = Settings(
    poll=timedelta(seconds=10),
    missing_grace=timedelta(seconds=60),
    cancel_max_delay=timedelta(seconds=80),
    max_rounds=3,
)
POLICY: Final = ConflictRetry(
    window=timedelta(seconds=90), initial_delay=timedelta(seconds=15), max_delay=timedelta(seconds=60)
)
Choose = Callable[[int], int]
"""A choice among 0 .. n-1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Dispatchers (>= 1), racks (>= 1), phases (at most one per rack), slots, gates, how many calls can begin at once
    (None: as many as there are), and whether the task manager guards its racks."""

    dispatchers: int = 2
    racks: int = 6
    phases: int = 2
    quota: int = 2
    gates: tuple[Gate, ...] = (FailureCountGate(threshold_count=2, scope=GateScope.CUMULATIVE_RUN),)
    auto_advance: bool = False
    capacity: int | None = None
    guards: bool = True

    def new_run(self) -> NewRun:
        """The run that this world is about."""
        racks = [
            Candidate(
                id=RackId(UUID(int=index + 1)),
                name=f"r{index + 1}",
                components={"compute": (ComponentId(UUID(int=1000 + index)),)},
            )
            for index in range(self.racks)
        ]
        rollout = Rollout(
            name="simulated",
            operation=Operation(type="firmware_control", code="upgrade"),
            selector=PercentageSelector(percentage=100, seed="s"),
            ordering=RandomOrdering(seed="o"),
            max_concurrent_targets=self.quota,
            gates=self.gates,
            phases=EqualPhases(count=min(self.phases, self.racks)),
            auto_advance=self.auto_advance,
            conflict=POLICY,
        )
        return new_run(plan(racks, rollout), command_id=CommandId("create"), actor="operator", now=EPOCH)


def a_setup(choose: Choose) -> Setup:
    """A chosen setup."""
    gates: tuple[tuple[Gate, ...], ...] = (
        (FailureCountGate(threshold_count=2, scope=GateScope.CUMULATIVE_RUN),),
        (FailureRateGate(threshold_percent=50),),
        (
            FailureCountGate(threshold_count=1, outcomes=frozenset({TargetStatus.FAILED})),
            FailureRateGate(threshold_percent=40, scope=GateScope.CUMULATIVE_RUN),
        ),
    )
    return Setup(
        dispatchers=2 + choose(2),
        racks=3 + choose(5),
        phases=1 + choose(3),
        quota=1 + choose(3),
        gates=gates[choose(len(gates))],
        auto_advance=choose(2) == 0,
        capacity=(None, 1, 2)[choose(3)],
        guards=choose(3) != 1,
    )
