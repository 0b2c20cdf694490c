"""Flow's racks as an inventory: paged, filtered by the service where it can, in a stable order.

Flow lists in no order unless it is asked for one, and pages that overlap repeat or miss a rack.  So pages are asked for
by name, what comes twice is taken once, and a list that does not come to its own total is read again.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import attrs
import grpc

from opdispatch.candidate import Candidate, Scope
from opdispatch.errors import InvalidInput, Unavailable
from opdispatch.identity import ComponentId, RackId

from ..enums import COMPONENT_TYPES
from ..fields import NIL, parsed, uuid_at, uuid_or_none
from ..wire import flow_pb2 as wire
from .channel import CallRefused, FlowChannel, NoAnswer

DOMAIN: Final = "nvl_domain"
_SWEEPS: Final = 4
_WHAT: Final = "the inventory of Flow"


@attrs.frozen(kw_only=True)
class Place:
    """How a rack's place is read from Flow's one text for it.

    ``pattern`` is a regular expression over ``Location.position`` with the groups ``row`` and ``position``; without one
    the whole text is the position, and nothing is said of a row.  Raises InvalidInput for one that is none.
    """

    pattern: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.pattern is None:
            return
        try:
            groups = re.compile(self.pattern).groupindex
        except re.error as error:
            raise InvalidInput.at("flow.place", f"{self.pattern!r} is no regular expression: {error}") from error
        if "row" not in groups:
            raise InvalidInput.at("flow.place", f"{self.pattern!r} has no group called row", "write (?P<row>...)")

    def read(self, text: str) -> tuple[str | None, str | None]:
        """The row and the position that a text tells; None for what it does not."""
        if self.pattern is None:
            return None, text or None
        found = re.fullmatch(self.pattern, text)
        groups = {} if found is None else found.groupdict()
        return groups.get("row") or None, groups.get("position") or None


class FlowInventory:
    """The racks that a Flow service knows.  Raises Unavailable when it cannot be asked."""

    def __init__(self, channel: FlowChannel, place: Place | None = None) -> None:
        self._channel = channel
        self._place = place if place is not None else Place()

    def candidates(self, scope: Scope, limit: int | None = None) -> Sequence[Candidate]:
        """The racks in scope, by id; at most ``limit``, which then are the first by name, as Flow can tell them."""
        domains = self._domains()
        racks = (self._candidate(rack, domains) for rack in self._racks(scope, limit, domains))
        # A scope may name a rack more than once, by its name and by its id.
        found = {candidate.id: candidate for candidate in racks}
        in_scope = sorted(scope.of(found.values()), key=lambda candidate: str(candidate.id))
        return in_scope[:limit]

    def component_of(self, type: str, external_id: str) -> ComponentId | None:
        """The component of this type of Flow with this id of the core service; None where there is none.

        Raises InvalidInput for a type that Flow does not have, and Unavailable.
        """
        number = COMPONENT_TYPES.number(type)
        if number is None:
            raise InvalidInput.at(
                "external.type", f"{type!r} is no type of Flow", f"use one of {', '.join(COMPONENT_TYPES.values())}"
            )
        external = wire.ExternalRef(type=number, id=external_id)
        spec = wire.OperationTargetSpec(
            components=wire.ComponentTargets(targets=[wire.ComponentTarget(external=external)])
        )
        try:
            reply = self._channel.read("GetComponents", wire.GetComponentsRequest(target_spec=spec))
        except CallRefused as error:
            if "not found" in error.text:
                return None
            raise Unavailable(_WHAT, str(error)) from error
        except NoAnswer as error:
            raise Unavailable(_WHAT, str(error)) from error
        ids = {uuid_or_none(component.info.id) for component in reply.components}
        found = ids.pop() if len(ids) == 1 else None
        return None if found is None else ComponentId(found)

    # -- what is asked for --

    def _ask(self, method: str, request: Any) -> Any:
        try:
            return self._channel.read(method, request)
        except (CallRefused, NoAnswer) as error:
            raise Unavailable(_WHAT, str(error)) from error

    def _domains(self) -> Mapping[UUID, str]:
        known: dict[str, wire.NVLDomain] = {}
        for _ in range(_SWEEPS):
            if len(known) >= self._sweep_domains(known):
                return {
                    domain_id: domain.identifier.name
                    for domain in known.values()
                    if (domain_id := uuid_or_none(domain.identifier.id)) is not None
                }
        # A domain without its name would hide its racks from a scope that names it.
        raise Unavailable(_WHAT, f"it lists {len(known)} NVLink domains and says that there are more")

    def _sweep_domains(self, known: dict[str, wire.NVLDomain]) -> int:
        size, offset = self._channel.settings.page, 0
        met: set[str] = set()
        while True:
            request = wire.GetListOfNVLDomainsRequest(
                info=wire.StringQueryInfo(), pagination=wire.Pagination(offset=offset, limit=size)
            )
            page: wire.GetListOfNVLDomainsResponse = self._ask("GetListOfNVLDomains", request)
            known.update((domain.identifier.id.id, domain) for domain in page.nvl_domains)
            offset += size
            before = len(met)
            met.update(domain.identifier.id.id for domain in page.nvl_domains)
            # A page with nothing new ends the sweep: else one that is always answered would be read without an end.
            if offset >= page.total or len(met) == before:
                return page.total

    def _racks(self, scope: Scope, limit: int | None, domains: Mapping[UUID, str]) -> Iterator[wire.Rack]:
        ids = [parsed(text) for text in scope.racks]
        by_id = [one for one in ids if not isinstance(one, str) and one != NIL]
        names = [text for text, one in zip(scope.racks, ids, strict=True) if isinstance(one, str)]
        if scope.racks:
            yield from self._named(by_id, names)
            return
        # Only where nothing else narrows may the service cut the list: it does not know the rest of the scope.
        yield from self._listed((), limit if scope == Scope(excluded_runs=scope.excluded_runs) else None)

    def _named(self, ids: Sequence[UUID], names: Sequence[str]) -> Iterator[wire.Rack]:
        for rack_id in ids:
            request = wire.GetRackInfoByIDRequest(id=wire.UUID(id=str(rack_id)), with_components=True)
            try:
                reply: wire.GetRackInfoResponse = self._channel.read("GetRackInfoByID", request)
            except CallRefused as error:
                if error.code is grpc.StatusCode.NOT_FOUND:
                    continue
                raise Unavailable(_WHAT, str(error)) from error
            except NoAnswer as error:
                raise Unavailable(_WHAT, str(error)) from error
            yield reply.rack
        if names:
            info = wire.StringQueryInfo(patterns=names)
            yield from self._listed((wire.Filter(rack_field=wire.RACK_FILTER_FIELD_NAME, query_info=info),), None)

    def _listed(self, filters: Sequence[wire.Filter], limit: int | None) -> Iterator[wire.Rack]:
        known: dict[str, wire.Rack] = {}
        for _ in range(_SWEEPS):
            total = self._sweep(filters, known, limit)
            if len(known) >= (total if limit is None else min(total, limit)):
                yield from known.values()
                return
        raise Unavailable(_WHAT, f"it lists {len(known)} racks and says that there are more")

    def _sweep(self, filters: Sequence[wire.Filter], known: dict[str, wire.Rack], limit: int | None) -> int:
        size, offset = self._channel.settings.page, 0
        met: set[str] = set()
        while True:
            request = wire.GetListOfRacksRequest(
                filters=filters,
                with_components=True,
                pagination=wire.Pagination(offset=offset, limit=size),
                order_by=wire.OrderBy(rack_field=wire.RACK_ORDER_BY_FIELD_NAME, direction="ASC"),
            )
            page: wire.GetListOfRacksResponse = self._ask("GetListOfRacks", request)
            known.update((rack.info.id.id, rack) for rack in page.racks)
            offset += size
            before = len(met)
            met.update(rack.info.id.id for rack in page.racks)
            if offset >= page.total or len(met) == before or (limit is not None and len(known) >= limit):
                return page.total

    # -- what comes back --

    def _candidate(self, rack: wire.Rack, domains: Mapping[UUID, str]) -> Candidate:
        name = rack.info.name
        components: defaultdict[str, list[ComponentId]] = defaultdict(list)
        for index, component in enumerate(rack.components):
            kind = COMPONENT_TYPES.get(component.type)
            place = f"rack {name!r}, components[{index}]"
            if kind is None:
                raise InvalidInput.at(
                    place, f"its type {component.type} is unknown", "mend it in Flow, or upgrade this program"
                )
            components[kind].append(ComponentId(uuid_at(component.info.id, f"{place}.info.id")))
        row, position = self._place.read(rack.location.position)
        labels = {
            "region": (rack.location.region,),
            "manufacturer": (rack.info.manufacturer,),
            "model": (rack.info.model,),
            DOMAIN: tuple(
                text
                for message in rack.nvl_domain_ids
                if (domain := uuid_or_none(message)) is not None
                for text in (str(domain), domains.get(domain, ""))
                if text
            ),
        }
        return Candidate(
            id=RackId(uuid_at(rack.info.id, f"rack {name!r}, info.id")),
            name=name,
            components={kind: tuple(dict.fromkeys(ids)) for kind, ids in components.items()},
            site=rack.location.datacenter or None,
            room=rack.location.room or None,
            row=row,
            position=position,
            labels={label: values for label, values in labels.items() if any(values)},
        )
