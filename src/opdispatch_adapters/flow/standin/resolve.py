"""A target spec on the stand-in's racks, refused in Flow's words (flow-grpc, 6.2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import grpc

from ..target_spec import BadSpec, External, Named, TargetSpec, spec_from
from ..wire import flow_pb2 as wire
from .site import Part, Site, SiteRack

Resolved = Mapping[UUID, tuple[Part, ...]]
NIL: Final = UUID(int=0)


class Refused(Exception):
    """Ends a call with a code and a text."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(code, text)


def unknown(text: str) -> Refused:
    """What Flow answers to most mistakes of a caller."""
    return Refused(grpc.StatusCode.UNKNOWN, text)


def converted(message: wire.OperationTargetSpec) -> TargetSpec:
    """The spec of a submission.  Raises Refused for one that names nothing, or in no way that can be read."""
    try:
        return spec_from(message)
    except BadSpec as error:
        raise unknown(f"invalid target spec: {error.text}" if error.late else error.text) from error


def resolve(site: Site, spec: TargetSpec) -> Resolved:
    """The components of each rack that a spec is about.  Raises Refused."""
    if spec.racks:
        found = [(_rack(site, rack), rack.types) for rack in spec.racks]
    elif spec.domains:
        found = [
            (rack, domain.types) for index, domain in enumerate(spec.domains) for rack in _domain(site, domain, index)
        ]
    else:
        return _components(site, spec.components)
    if not found:
        raise unknown("no valid racks found for request")
    resolved: dict[UUID, dict[UUID, Part]] = {}
    for rack, types in found:
        chosen = resolved.setdefault(rack.id, {})
        chosen.update((part.id, part) for part in rack.parts if not types or part.type in types)
    return {rack: tuple(parts.values()) for rack, parts in resolved.items()}


def _rack(site: Site, named: Named) -> SiteRack:
    resolving = "failed to resolve rack target: failed to get rack by identifier"
    if named.id is not None:
        rack = site.racks.get(named.id)
        if rack is None:
            raise Refused(
                grpc.StatusCode.NOT_FOUND,
                f"{resolving} {{ID:{named.id} Name:}}: rpc error: code = NotFound desc = "
                f"rack [id: {named.id}] is not found",
            )
        return rack
    found = site.names.get(named.name, [])
    prefix = f"{resolving} {{ID:{NIL} Name:{named.name}}}: rpc error: code ="
    if not found:
        raise Refused(grpc.StatusCode.NOT_FOUND, f"{prefix} NotFound desc = rack {named.name}")
    if len(found) > 1:
        text = f'rack name "{named.name}" matches multiple racks; use rack id'
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"{prefix} InvalidArgument desc = {text}")
    return found[0]


def _domain(site: Site, named: Named, index: int) -> Sequence[SiteRack]:
    if named.id is not None:
        return site.in_domain(named.id)
    domain = next((one for one, name in site.domains.items() if name == named.name), None)
    if domain is None:
        raise Refused(
            grpc.StatusCode.NOT_FOUND,
            f"failed to resolve NVLink domain targets: NVLink domain target {index}: rpc error: code = NotFound desc = "
            f"nvl domain {{ID:{NIL} Name:{named.name}}} is not found",
        )
    return site.in_domain(domain)


def _components(site: Site, components: Sequence[UUID | External]) -> Resolved:
    found: defaultdict[UUID, dict[UUID, Part]] = defaultdict(dict)
    for component in components:
        if isinstance(component, External):
            part = site.by_external(component.id)
            if part is None:
                raise unknown(
                    f"failed to get component target external_id={component.id}: "
                    f"component with external id {component.id} not found"
                )
        else:
            part = site.parts.get(component)
            if part is None:
                raise Refused(
                    grpc.StatusCode.INTERNAL,
                    f"failed to get component target uuid={component}: rpc error: code = Internal desc = "
                    f"rpc error: code = NotFound desc = component [id: {component}] is not found",
                )
        if part.rack_id is None:
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"failed to get rack by id {NIL}: rpc error: code = InvalidArgument desc = "
                "rack id and name both are not specfied",
            )
        found[part.rack_id][part.id] = part
    return {rack: tuple(parts.values()) for rack, parts in found.items()}
