"""Planning: from candidates and a rollout to a frozen cohort.

The steps, each a policy of its own: merge duplicates, narrow to the component types in scope, subtract the
components of excluded runs, drop racks that are left without any, select, order, cut into phases.  What was
dropped is part of the plan.  Cost: O(n log n); no limit on n.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate

from .candidate import Candidate, Scope
from .errors import InvalidInput, Problem
from .identity import CommandId, ComponentId, RackId, RunId, run_id_of, target_id_of
from .policy.ordering import order
from .policy.phases import phase_sizes
from .policy.selection import select
from .rollout import Rollout
from .run import Run
from .target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A candidate that did not become a target, and why."""

    candidate: Candidate
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A frozen cohort: ``racks`` in sequence order, cut into phases of ``sizes`` (all >= 1, summing to len(racks)).

    ``dropped`` lists the racks in scope that were left without a component, in order of id; ``unselected`` counts
    those that the selector did not take.
    """

    rollout: Rollout
    racks: tuple[Candidate, ...]
    sizes: tuple[int, ...]
    dropped: tuple[Dropped, ...]
    unselected: int

    def phase(self, index: int) -> tuple[Candidate, ...]:
        """The racks of one phase, in sequence order."""
        ends = [0, *accumulate(self.sizes)]
        return self.racks[ends[index] : ends[index + 1]]


def _merged(candidates: Iterable[Candidate]) -> list[Candidate]:
    """One candidate per rack, the components of duplicates joined.

    Where duplicates disagree, the name and place that sort first stand: which one was met first must not matter.
    """
    by_rack: dict[RackId, Candidate] = {}
    for candidate in candidates:
        known = by_rack.setdefault(candidate.id, candidate)
        if known != candidate:
            joined: defaultdict[str, set[ComponentId]] = defaultdict(set)
            for components in (known.components, candidate.components):
                for kind, ids in components.items():
                    joined[kind].update(ids)
            by_rack[candidate.id] = replace(
                min(known, candidate, key=_name_and_place),
                components={kind: tuple(ids) for kind, ids in joined.items()},
            )
    return list(by_rack.values())


def _name_and_place(candidate: Candidate) -> tuple[str, ...]:
    place = (candidate.site, candidate.room, candidate.row, candidate.position)
    labels = (text for label, values in candidate.labels.items() for text in (label, *values))
    return (candidate.name, *(text or "" for text in place), *labels)


def _narrowed(candidate: Candidate, types: AbstractSet[str], excluded: AbstractSet[ComponentId]) -> Candidate:
    if not types and excluded.isdisjoint(c for ids in candidate.components.values() for c in ids):
        return candidate
    kept = {
        kind: left
        for kind, ids in candidate.components.items()
        if (not types or kind in types) and (left := tuple(c for c in ids if c not in excluded))
    }
    return replace(candidate, components=kept)


def _why_dropped(candidate: Candidate, types: AbstractSet[str]) -> str:
    if not candidate.components:
        return "it has no component"
    if types and types.isdisjoint(candidate.components):
        return f"it has no component of type {', '.join(sorted(types))}"
    return "all its components are in excluded runs"


def plan(
    candidates: Iterable[Candidate], rollout: Rollout, *, excluded: AbstractSet[ComponentId] = frozenset()
) -> Plan:
    """The cohort that this rollout makes of these candidates, whatever their order.

    Args:
        candidates: the racks of the inventory; a rack may be met twice, those out of scope are passed over.
        rollout: the configuration.
        excluded: the components of the targets of the runs in ``rollout.scope.excluded_runs``.

    Raises:
        InvalidInput: a named rack is not there or its name is on several, a component is in two racks,
            nothing is left to do, or a phase would get no target.
    """
    scope = rollout.scope
    in_scope = _merged(scope.of(candidates))
    misnamed = _misnamed(scope, in_scope)
    if misnamed:
        raise InvalidInput(misnamed)
    types = frozenset(scope.component_types)
    kept: list[Candidate] = []
    dropped: list[Dropped] = []
    for candidate in in_scope:
        narrowed = _narrowed(candidate, types, excluded)
        if narrowed.components:
            kept.append(narrowed)
        else:
            dropped.append(Dropped(candidate=candidate, why=_why_dropped(candidate, types)))
    _refuse_shared_components(kept)
    if not kept:
        raise InvalidInput.at(
            "$.scope",
            f"no target is left: {len(in_scope)} racks are in scope, and {len(dropped)} of them have no component left",
            "widen the scope, or look at the inventory",
        )
    selected = select(kept, rollout.selector)
    return Plan(
        rollout=rollout,
        racks=order(selected, rollout.ordering),
        sizes=phase_sizes(rollout.phases, len(selected)),
        dropped=tuple(sorted(dropped, key=lambda d: str(d.candidate.id))),
        unselected=len(kept) - len(selected),
    )


def _misnamed(scope: Scope, in_scope: Iterable[Candidate]) -> list[Problem]:
    """What is wrong with the racks that the scope names: each must mean one rack, as in the reference."""
    if not scope.racks:
        return []
    called = Counter(name for candidate in in_scope for name in {candidate.name, str(candidate.id)})
    problems: list[Problem] = []
    for index, rack in enumerate(scope.racks):
        place = f"$.scope.racks[{index}]"
        if called[rack] == 0:
            problems.append(Problem(place=place, found=f"no rack in scope is called {rack!r}"))
        if called[rack] > 1:
            found = f"{called[rack]} racks in scope are called {rack!r}"
            problems.append(Problem(place=place, found=found, remedy="use the rack's id, or name its site"))
    return problems


def _refuse_shared_components(candidates: Iterable[Candidate]) -> None:
    owner: dict[ComponentId, Candidate] = {}
    for candidate in candidates:
        for ids in candidate.components.values():
            for component in ids:
                other = owner.setdefault(component, candidate)
                if other is not candidate:
                    raise InvalidInput.at(
                        "inventory",
                        f"component {component} is in rack {other.name!r} ({other.id}) and in rack "
                        f"{candidate.name!r} ({candidate.id})",
                        "a component can be upgraded by one target alone; mend the inventory",
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run that does not exist yet: what a store creates, in one transaction, with all its targets."""

    command_id: CommandId
    actor: str
    run: Run
    targets: tuple[Target, ...]


def new_run(made: Plan, *, command_id: CommandId, actor: str, now: datetime) -> NewRun:
    """The run that this plan makes.  Its id is derived from ``command_id``: a repeated create meets its own run."""
    run_id = run_id_of(command_id)
    run = Run(id=run_id, name=made.rollout.name, rollout=made.rollout, phases=len(made.sizes), created_at=now)
    return NewRun(command_id=command_id, actor=actor, run=run, targets=_targets(run_id, made))


def require_same_rollout(known: Run, rollout: Rollout, command_id: CommandId, *, place: str = "command_id") -> None:
    """Raise InvalidInput at ``place`` unless the run that a create meets is of the rollout that it asks for."""
    if known.rollout != rollout:
        raise InvalidInput.at(
            place, f"{command_id!r} made run {known.id} of another rollout", "use a new one for a new run"
        )


def _targets(run_id: RunId, made: Plan) -> tuple[Target, ...]:
    phase_of = [phase for phase, size in enumerate(made.sizes) for _ in range(size)]
    return tuple(
        Target(
            id=target_id_of(run_id, rack.id),
            rack_id=rack.id,
            rack_name=rack.name,
            sequence=sequence,
            phase=phase,
            components=rack.components,
        )
        for sequence, (rack, phase) in enumerate(zip(made.racks, phase_of, strict=True))
    )


def components_of(targets: Iterable[Mapping[str, tuple[ComponentId, ...]]]) -> frozenset[ComponentId]:
    """Every component named in these components-by-type: what an excluded run takes away."""
    return frozenset(c for components in targets for ids in components.values() for c in ids)
