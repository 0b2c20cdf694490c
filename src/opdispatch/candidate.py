"""A candidate: a rack that could become a target, as an inventory tells of it, and the scope that chooses racks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from .errors import InvalidInput, Problem
from .identity import RackId, RunId
from .task import Components, frozen_components


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One rack.  ``None`` means that the inventory does not say; nothing is filled in by guess.

    ``labels`` gives every value of each label (a rack may sit in several power domains), values ascending.
    """

    id: RackId
    name: str
    components: Components
    site: str | None = None
    room: str | None = None
    row: str | None = None
    position: str | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "components", frozen_components(self.components))
        labels = {key: tuple(sorted(set(self.labels[key]))) for key in sorted(self.labels)}
        object.__setattr__(self, "labels", MappingProxyType(labels))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which racks, and which of their components, a rollout is about.  An empty field does not narrow.

    ``racks`` names racks by name or by id; ``labels`` asks for one of the given values of each label;
    ``excluded_runs`` are earlier runs whose targets' components are left out.
    """

    racks: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    rooms: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    component_types: tuple[str, ...] = ()
    excluded_runs: tuple[RunId, ...] = ()

    def __post_init__(self) -> None:
        wrong = [
            Problem(
                place=f"$.scope.labels.{key}",
                found="no value is given",
                remedy="give one, or leave the label out",
            )
            for key, values in self.labels.items()
            if not values
        ]
        if wrong:
            raise InvalidInput(wrong)
        object.__setattr__(self, "labels", MappingProxyType(dict(self.labels)))

    def holds(self, candidate: Candidate) -> bool:
        """True when the rack is in scope; its component types are narrowed by the plan, not here."""
        return any(True for _ in self.of([candidate]))

    def of(self, candidates: Iterable[Candidate]) -> Iterator[Candidate]:
        """Those of the candidates that are in scope, in their order.  Naming many racks costs no more than one."""
        named = frozenset(self.racks)
        return (
            candidate
            for candidate in candidates
            if (not named or candidate.name in named or str(candidate.id) in named) and self._places(candidate)
        )

    def _places(self, candidate: Candidate) -> bool:
        return (
            (not self.sites or candidate.site in self.sites)
            and (not self.rooms or candidate.room in self.rooms)
            and (not self.rows or candidate.row in self.rows)
            and all(not set(values).isdisjoint(candidate.labels.get(key, ())) for key, values in self.labels.items())
        )
