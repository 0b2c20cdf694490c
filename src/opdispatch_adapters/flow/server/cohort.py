"""Which racks a request is about: its words, looked up in an inventory.

The texts and the codes are those of the reference (flow-grpc, 5.2 and 5.3), but that whatever the caller can mend is
told as such: what the reference reports as INTERNAL for an unknown component is NOT_FOUND here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final, Protocol
from uuid import UUID

from opdispatch.candidate import Candidate, Scope
from opdispatch.identity import ComponentId, RackId
from opdispatch.ports import Inventory

from ..target_spec import External, Named, TargetSpec
from .failure import CallFailure, invalid, not_found

DOMAIN: Final = "nvl_domain"
"""The label of a candidate that tells its NVLink domains, by id and by name."""

TypesOf = Callable[[str], tuple[str, ...]]
"""The types of the inventory that a type of Flow stands for."""


class Externals(Protocol):
    """An inventory that knows components by the ids of the core service."""

    def component_of(self, type: str, external_id: str) -> ComponentId | None:
        """The component of this type (one of Flow's) with this id; None where there is none."""
        ...


def whole_cohort(inventory: Inventory, scope: Scope, picked: frozenset[ComponentId] | None) -> Sequence[Candidate]:
    """The default scope: every rack, narrowed to ``picked`` components where that is not None."""
    candidates = inventory.candidates(scope)
    if picked is None:
        return candidates
    return [_kept(candidate, picked) for candidate in candidates]


def named_cohort(
    inventory: Inventory, spec: TargetSpec, types_of: TypesOf, externals: Externals | None
) -> Sequence[Candidate]:
    """The racks that a spec names, each with the components that it asks for.  Raises CallFailure."""
    if spec.racks:
        return _racks(inventory, spec.racks, types_of)
    if spec.domains:
        return _domains(inventory, spec.domains, types_of)
    return _components(inventory, spec.components, externals)


def _refused(kind: str, index: int, told: CallFailure) -> CallFailure:
    return CallFailure(
        told.code, f"plan operation run targets: build target_spec scope: {kind} target {index}: {told.text}"
    )


def _racks(inventory: Inventory, racks: Iterable[Named], types_of: TypesOf) -> Sequence[Candidate]:
    names = tuple(str(rack.id) if rack.id is not None else rack.name for rack in racks)
    by_name: defaultdict[str, list[Candidate]] = defaultdict(list)
    for candidate in inventory.candidates(Scope(racks=names)):
        by_name[candidate.name].append(candidate)
        if str(candidate.id) != candidate.name:
            by_name[str(candidate.id)].append(candidate)
    kept = []
    for index, rack in enumerate(racks):
        if rack.id is not None:
            found = [one for one in by_name[str(rack.id)] if one.id == rack.id]
        else:
            found = [one for one in by_name[rack.name] if one.name == rack.name]
        if not found:
            text = f"rack [id: {rack.id}] is not found" if rack.id is not None else f"rack {rack.name}"
            raise _refused("rack", index, not_found(f"rpc error: code = NotFound desc = {text}"))
        if len(found) > 1:
            text = f'rack name "{rack.name}" matches multiple racks; use rack id'
            raise _refused("rack", index, invalid(f"rpc error: code = InvalidArgument desc = {text}"))
        kept.append(_narrowed(found[0], rack.types, types_of))
    return kept


def _domains(inventory: Inventory, domains: Iterable[Named], types_of: TypesOf) -> Sequence[Candidate]:
    kept: list[Candidate] = []
    for index, domain in enumerate(domains):
        called = str(domain.id) if domain.id is not None else domain.name
        found = inventory.candidates(Scope(labels={DOMAIN: (called,)}))
        if not found and domain.id is None:
            nil = UUID(int=0)
            text = f"nvl domain {{ID:{nil} Name:{domain.name}}} is not found"
            raise _refused("NVLink domain", index, not_found(f"rpc error: code = NotFound desc = {text}"))
        kept.extend(_narrowed(candidate, domain.types, types_of) for candidate in found)
    return kept


def _components(
    inventory: Inventory, components: Sequence[UUID | External], externals: Externals | None
) -> Sequence[Candidate]:
    owners = {
        component: candidate
        for candidate in inventory.candidates(Scope())
        for ids in candidate.components.values()
        for component in ids
    }
    asked: defaultdict[RackId, set[ComponentId]] = defaultdict(set)
    racks: dict[RackId, Candidate] = {}
    for index, component in enumerate(components):
        if isinstance(component, External):
            known = externals.component_of(component.type, component.id) if externals is not None else None
            if known is None:
                raise _refused("component", index, not_found(f"component external_id={component.id} not found"))
        else:
            known = ComponentId(component)
        owner = owners.get(known)
        if owner is None:
            text = f"component [id: {known}] is not found, or is not assigned to a rack"
            raise _refused("component", index, not_found(text))
        asked[owner.id].add(known)
        racks[owner.id] = owner
    return [_kept(racks[rack], frozenset(ids)) for rack, ids in asked.items()]


def _narrowed(candidate: Candidate, types: Iterable[str], types_of: TypesOf) -> Candidate:
    kept = {ours for text in types for ours in types_of(text)}
    if not kept and not tuple(types):
        return candidate
    return replace(candidate, components={kind: ids for kind, ids in candidate.components.items() if kind in kept})


def _kept(candidate: Candidate, picked: frozenset[ComponentId]) -> Candidate:
    kept = {kind: left for kind, ids in candidate.components.items() if (left := tuple(c for c in ids if c in picked))}
    return replace(candidate, components=kept)
