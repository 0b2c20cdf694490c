"""The stand-in's calls that tell of racks, components and domains, in Flow's words (flow-grpc, section 7)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import grpc

from ..fields import NIL, uuid_message, uuid_or_none
from ..target_spec import BadSpec, External, spec_from
from ..wire import flow_pb2 as wire
from .answering import Answering, page_of
from .messages import component_message, rack_message
from .queries import RACK_MODEL, component_tests, no_column, order_of, pattern, rack_tests, sorted_by
from .resolve import Refused, resolve, unknown
from .site import Part, SiteRack


class InventoryCalls(Answering):
    """The calls on the inventory."""

    def GetListOfRacks(self, request: wire.GetListOfRacksRequest, context: grpc.ServicerContext) -> Any:
        def listed(_: object) -> wire.GetListOfRacksResponse:
            offset, limit = page_of(request)
            fits = rack_tests(request.filters)
            found = [rack for rack in self.site.racks.values() if all(fit(rack) for fit in fits)]
            ordered = self._ordered_racks(found, request)
            return wire.GetListOfRacksResponse(
                racks=(
                    rack_message(self.site, rack, with_components=request.with_components)
                    for rack in ordered[offset : offset + limit]
                ),
                total=len(found),
            )

        return self.answered("GetListOfRacks", context, (), listed)

    def _ordered_racks(self, found: list[SiteRack], request: wire.GetListOfRacksRequest) -> list[SiteRack]:
        order = order_of(request.order_by)
        if order is None:
            return self.shuffled(found)
        column, descending = order
        if column not in ("name", "manufacturer"):
            raise no_column(column, grpc.StatusCode.UNKNOWN)
        return sorted_by(found, column, descending=descending)

    def GetRackInfoByID(self, request: wire.GetRackInfoByIDRequest, context: grpc.ServicerContext) -> Any:
        def found(_: object) -> wire.GetRackInfoResponse:
            rack_id = uuid_or_none(request.id)
            if rack_id is None:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "no valid rack ids specified")
            return self._rack(self.site.racks.get(rack_id), "rack not found", request.with_components)

        return self.answered("GetRackInfoByID", context, (), found)

    def GetRackInfoBySerial(self, request: wire.GetRackInfoBySerialRequest, context: grpc.ServicerContext) -> Any:
        def found(_: object) -> wire.GetRackInfoResponse:
            maker, serial = request.serial_info.manufacturer, request.serial_info.serial_number
            if not serial:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "serial number is not specfied")
            racks = (r for r in self.site.racks.values() if (r.manufacturer, r.serial) == (maker, serial))
            missing = f"rack [manufacturer: {maker}, serial: {serial}] is not found"
            return self._rack(next(racks, None), missing, request.with_components)

        return self.answered("GetRackInfoBySerial", context, (), found)

    def _rack(self, rack: SiteRack | None, missing: str, with_components: bool) -> wire.GetRackInfoResponse:
        if rack is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, missing)
        return wire.GetRackInfoResponse(rack=rack_message(self.site, rack, with_components=with_components))

    def GetComponents(self, request: wire.GetComponentsRequest, context: grpc.ServicerContext) -> Any:
        def listed(_: object) -> wire.GetComponentsResponse:
            offset, limit = page_of(request)
            is_spelled = request.HasField("target_spec")
            parts = self._spelled(request.target_spec) if is_spelled else self.shuffled(self.site.parts.values())
            fits = component_tests(request.filters, in_memory=is_spelled)
            found = [part for part in parts if all(fit(part) for fit in fits)]
            ordered = _ordered_parts(found, request.order_by, in_memory=is_spelled)
            return wire.GetComponentsResponse(
                components=(component_message(self.site, part) for part in ordered[offset : offset + limit]),
                total=len(found),
            )

        return self.answered("GetComponents", context, (), listed)

    def _spelled(self, message: wire.OperationTargetSpec) -> list[Part]:
        """The components of a spec, refused in the words of this call (flow-grpc, 7.2)."""
        extract = "failed to extract components from target_spec:"
        try:
            spec = spec_from(message)
        except BadSpec as error:
            raise unknown(f"{extract} {error.text}") from error
        if spec.components:
            return list({part.id: part for part in (self._part(one, extract) for one in spec.components)}.values())
        for rack in spec.racks:
            if rack.id is not None and rack.id not in self.site.racks:
                raise Refused(grpc.StatusCode.NOT_FOUND, f"{extract} rpc error: code = NotFound desc = rack not found")
        return [part for parts in resolve(self.site, spec).values() for part in parts]

    def _part(self, component: UUID | External, extract: str) -> Part:
        if not isinstance(component, External):
            part = self.site.parts.get(component)
            if part is None:
                raise Refused(
                    grpc.StatusCode.INTERNAL,
                    f"{extract} failed to get component by uuid {component}: rpc error: code = Internal desc = "
                    f"rpc error: code = NotFound desc = component [id: {component}] is not found",
                )
            return part
        part = self.site.by_external(component.id)
        if part is None:
            raise unknown(f"{extract} component with external id {component.id} not found")
        if part.type != component.type:
            raise unknown(f"{extract} component with external id {component.id} and type {component.type} not found")
        return part

    def GetComponentInfoByID(self, request: wire.GetComponentInfoByIDRequest, context: grpc.ServicerContext) -> Any:
        def found(_: object) -> wire.GetComponentInfoResponse:
            part_id = uuid_or_none(request.id)
            if part_id is None:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "component id is not specfied")
            missing = f"component [id: {part_id}] is not found"
            return self._component(self.site.parts.get(part_id), missing, request.with_rack)

        return self.answered("GetComponentInfoByID", context, (), found)

    def GetComponentInfoBySerial(
        self, request: wire.GetComponentInfoBySerialRequest, context: grpc.ServicerContext
    ) -> Any:
        def found(_: object) -> wire.GetComponentInfoResponse:
            maker, serial = request.serial_info.manufacturer, request.serial_info.serial_number
            if not serial:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "serial number is not specfied")
            parts = (p for p in self.site.parts.values() if (p.manufacturer, p.serial) == (maker, serial))
            missing = f"component [manufacturer: {maker}, serial: {serial}] is not found"
            return self._component(next(parts, None), missing, request.with_rack)

        return self.answered("GetComponentInfoBySerial", context, (), found)

    def _component(self, part: Part | None, missing: str, with_rack: bool) -> wire.GetComponentInfoResponse:
        if part is None:
            raise Refused(grpc.StatusCode.INTERNAL, f"rpc error: code = NotFound desc = {missing}")
        message = wire.GetComponentInfoResponse(component=component_message(self.site, part))
        if with_rack and part.rack_id is not None:
            message.rack.CopyFrom(rack_message(self.site, self.site.racks[part.rack_id], with_components=False))
        return message

    def GetListOfNVLDomains(self, request: wire.GetListOfNVLDomainsRequest, context: grpc.ServicerContext) -> Any:
        def listed(_: object) -> wire.GetListOfNVLDomainsResponse:
            if not request.HasField("info"):
                raise unknown("info is required")
            offset, limit = page_of(request)
            fits = pattern(request.info)
            found = [(one, name) for one, name in self.site.domains.items() if fits(name)]
            return wire.GetListOfNVLDomainsResponse(
                nvl_domains=(
                    wire.NVLDomain(identifier=wire.Identifier(id=uuid_message(one), name=name))
                    for one, name in found[offset : offset + limit]
                ),
                total=len(found),
            )

        return self.answered("GetListOfNVLDomains", context, (), listed)

    def GetRacksForNVLDomain(self, request: wire.GetRacksForNVLDomainRequest, context: grpc.ServicerContext) -> Any:
        def listed(_: object) -> wire.GetRacksForNVLDomainResponse:
            if not request.HasField("nvl_domain_identifier"):
                raise unknown("nvl domain identifier is required")
            domain, name = uuid_or_none(request.nvl_domain_identifier.id), request.nvl_domain_identifier.name
            if domain is None and not name:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "nvl domain id and name both are not specfied")
            if domain is None:
                domain = next((one for one, known in self.site.domains.items() if known == name), None)
                if domain is None:
                    raise Refused(grpc.StatusCode.NOT_FOUND, f"nvl domain {{ID:{NIL} Name:{name}}} is not found")
            return wire.GetRacksForNVLDomainResponse(
                racks=(rack_message(self.site, rack, with_components=False) for rack in self.site.in_domain(domain))
            )

        return self.answered("GetRacksForNVLDomain", context, (), listed)

    def Version(self, request: wire.VersionRequest, context: grpc.ServicerContext) -> Any:
        return self.answered("Version", context, (), lambda _: wire.BuildInfo(version="stand-in"))


def _ordered_parts(parts: list[Part], asked: wire.OrderBy, *, in_memory: bool) -> list[Part]:
    order = order_of(asked)
    if order is None:
        return parts
    column, descending = order
    if column == RACK_MODEL:
        if in_memory:
            raise unknown(f"failed to sort components: unsupported order by column: {column}")
        raise no_column(column, grpc.StatusCode.INTERNAL)
    return sorted_by(parts, column, descending=descending)
