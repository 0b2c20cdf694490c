"""Builders of racks and rollouts: a test names only what it is about."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from opdispatch.candidate import Candidate, Scope
from opdispatch.errors import InvalidInput
from opdispatch.identity import ComponentId, RackId
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.policy.gates import FailureCountGate, Gate
from opdispatch.policy.ordering import Ordering, RandomOrdering
from opdispatch.policy.phases import NoPhases, PhasePolicy
from opdispatch.policy.selection import PercentageSelector
from opdispatch.rollout import Rollout
from opdispatch.task import Operation


def rack_id(number: int) -> RackId:
    """The rack ids of the contract's worked selection: ``0000000K-0000-4000-8000-00000000000K``."""
    return RackId(UUID(f"{number:08x}-0000-4000-8000-{number:012x}"))


def component(number: int) -> ComponentId:
    return ComponentId(UUID(int=number))


def rack(number: int, components: Mapping[str, tuple[ComponentId, ...]] | None = None, **more: Any) -> Candidate:
    """Rack ``rNUMBER`` with one compute component of its own, unless told otherwise."""
    default = {"compute": (component(number),)}
    return Candidate(
        id=more.pop("id", rack_id(number)),
        name=more.pop("name", f"r{number}"),
        components=default if components is None else components,
        **more,
    )


def racks(count: int) -> list[Candidate]:
    return [rack(number) for number in range(1, count + 1)]


def rollout(
    *,
    name: str = "firmware",
    percentage: int = 100,
    ordering: Ordering | None = None,
    phases: PhasePolicy | None = None,
    scope: Scope | None = None,
    gates: tuple[Gate, ...] = (FailureCountGate(threshold_count=1),),
    max_concurrent_targets: int = 1,
    seed: str = "sel-seed",
) -> Rollout:
    return Rollout(
        name=name,
        operation=Operation(type="firmware_control", code="upgrade"),
        selector=PercentageSelector(percentage=percentage, seed=seed),
        ordering=ordering or RandomOrdering(seed="ord-seed"),
        max_concurrent_targets=max_concurrent_targets,
        gates=gates,
        phases=phases or NoPhases(),
        conflict=ConflictRetry(window=timedelta(hours=1)),
        scope=scope or Scope(),
    )


def places(error: InvalidInput) -> list[str]:
    return [problem.place for problem in error.problems]
