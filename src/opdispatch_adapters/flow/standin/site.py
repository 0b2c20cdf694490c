"""The racks of the stand-in: what its inventory calls tell, and how a target spec is resolved on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final
from uuid import UUID, uuid5

import attrs

from opdispatch.candidate import Candidate

_DOMAINS: Final = UUID("5d0c8f5e-1d57-5b0e-9a64-3e2b7c1f9d10")


@attrs.frozen(kw_only=True)
class Part:
    """One component; one that is in no rack has no ``rack_id``."""

    id: UUID
    type: str
    name: str
    rack_id: UUID | None
    external_id: str
    manufacturer: str
    serial: str
    model: str = ""


@attrs.frozen(kw_only=True)
class SiteRack:
    """One rack."""

    id: UUID
    name: str
    region: str
    datacenter: str
    room: str
    position: str
    manufacturer: str
    serial: str
    domain: UUID | None
    parts: tuple[Part, ...]
    model: str = ""


class Site:
    """The racks, by id and by name; domains, by id and by name; ``loose`` are components that are in no rack."""

    def __init__(self, racks: Iterable[SiteRack], domains: Mapping[UUID, str], loose: Iterable[Part] = ()) -> None:
        self.racks: Final = {rack.id: rack for rack in racks}
        self.parts: Final = {part.id: part for rack in self.racks.values() for part in rack.parts}
        self.parts.update((part.id, part) for part in loose)
        self.domains: Final = dict(domains)
        self.names: Final[defaultdict[str, list[SiteRack]]] = defaultdict(list)
        for rack in self.racks.values():
            self.names[rack.name].append(rack)

    def in_domain(self, domain: UUID) -> Sequence[SiteRack]:
        """The racks of a domain."""
        return [rack for rack in self.racks.values() if rack.domain == domain]

    def by_external(self, external_id: str) -> Part | None:
        """The first component with this id of the core service."""
        return next((part for part in self.parts.values() if part.external_id == external_id), None)


def site_of(
    candidates: Iterable[Candidate], flow_type: Callable[[str], str], *, domain_label: str | None = None
) -> Site:
    """The site that an inventory makes; the values of ``domain_label`` are its NVLink domains.

    Raises InvalidInput for a component type that stands for none of Flow's.
    """
    domains: dict[UUID, str] = {}
    racks = []
    for candidate in candidates:
        labels = candidate.labels.get(domain_label, ()) if domain_label is not None else ()
        domain = uuid5(_DOMAINS, labels[0]) if labels else None
        if domain is not None:
            domains[domain] = labels[0]
        racks.append(
            SiteRack(
                id=UUID(str(candidate.id)),
                name=candidate.name,
                region="",
                datacenter=candidate.site or "",
                room=candidate.room or "",
                position="/".join(text for text in (candidate.row, candidate.position) if text),
                manufacturer="stand-in",
                serial=f"rack-{candidate.name}",
                domain=domain,
                parts=tuple(_parts(candidate, flow_type)),
            )
        )
    return Site(racks, domains)


def _parts(candidate: Candidate, flow_type: Callable[[str], str]) -> Iterator[Part]:
    for kind, ids in candidate.components.items():
        flow = flow_type(kind)
        for index, component in enumerate(ids):
            yield Part(
                id=UUID(str(component)),
                type=flow,
                name=f"{candidate.name}-{flow.lower()}-{index}",
                rack_id=UUID(str(candidate.id)),
                external_id=f"core-{component}",
                manufacturer="stand-in",
                serial=str(component),
            )
