"""The stand-in's calls that tell of racks, components and domains, in Flow's words (flow-grpc, section 7)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final
from uuid import UUID

import grpc

from ..enums import COMPONENT_TYPES
from ..fields import NIL, uuid_message, uuid_or_none
from ..target_spec import BadSpec, spec_from
from ..wire import flow_pb2 as wire
from .answering import Answering, page_of
from .messages import component_message, rack_message
from .resolve import Refused, resolve, unknown
from .site import Part, SiteRack


class InventoryCalls(Answering):
    """The calls on the inventory."""

    def GetListOfRacks(self, request: wire.GetListOfRacksRequest, context: grpc.ServicerContext) -> Any:
        def listed(_: object) -> wire.GetListOfRacksResponse:
            offset, limit = page_of(request)
            fits = _rack_filters(request.filters)
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
        order = request.order_by
        if order.WhichOneof("field") is None or order.rack_field == wire.RACK_ORDER_BY_FIELD_UNSPECIFIED:
            return self.shuffled(found)
        if order.direction not in ("ASC", "DESC"):
            raise unknown("invalid order by: direction must be ASC or DESC")
        if order.rack_field == wire.RACK_ORDER_BY_FIELD_MODEL:
            raise unknown("ERROR: column \"description->>'model'\" does not exist (SQLSTATE=42703)")
        name = "name" if order.rack_field == wire.RACK_ORDER_BY_FIELD_NAME else "manufacturer"
        return sorted(found, key=lambda rack: getattr(rack, name), reverse=order.direction == "DESC")

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
            parts = list(self.site.parts.values())
            if request.HasField("target_spec"):
                parts = self._spelled(request.target_spec)
            fits = _component_filters(request.filters)
            found = [part for part in parts if all(fit(part) for fit in fits)]
            return wire.GetComponentsResponse(
                components=(component_message(self.site, part) for part in found[offset : offset + limit]),
                total=len(found),
            )

        return self.answered("GetComponents", context, (), listed)

    def _spelled(self, message: wire.OperationTargetSpec) -> list[Part]:
        """The components of a spec, refused in the words of this call (flow-grpc, 7.2)."""
        extract = "failed to extract components from target_spec:"
        try:
            spec = spec_from(message)
            for component in spec.components:
                if not isinstance(component, UUID):
                    part = self.site.by_external(component.id)
                    if part is None:
                        raise unknown(f"{extract} component with external id {component.id} not found")
                    if part.type != component.type:
                        text = f"component with external id {component.id} and type {component.type} not found"
                        raise unknown(f"{extract} {text}")
                elif component not in self.site.parts:
                    raise Refused(
                        grpc.StatusCode.INTERNAL,
                        f"{extract} failed to get component by uuid {component}: rpc error: code = Internal desc = "
                        f"rpc error: code = NotFound desc = component [id: {component}] is not found",
                    )
            for rack in spec.racks:
                if rack.id is not None and rack.id not in self.site.racks:
                    raise Refused(
                        grpc.StatusCode.NOT_FOUND, f"{extract} rpc error: code = NotFound desc = rack not found"
                    )
        except BadSpec as error:
            raise unknown(f"{extract} {error.text}") from error
        return [part for parts in resolve(self.site, message).values() for part in parts]

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
        if with_rack:
            message.rack.CopyFrom(rack_message(self.site, self.site.racks[part.rack_id], with_components=False))
        return message

    def GetListOfNVLDomains(self, request: wire.GetListOfNVLDomainsRequest, context: grpc.ServicerContext) -> Any:
        def listed(_: object) -> wire.GetListOfNVLDomainsResponse:
            if not request.HasField("info"):
                raise unknown("info is required")
            offset, limit = page_of(request)
            fits = _pattern(request.info)
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


def _pattern(info: wire.StringQueryInfo) -> Callable[[str], bool]:
    patterns = list(info.patterns)
    if not patterns:
        return lambda text: True
    if not info.is_wildcard:
        return lambda text: text in patterns
    tests = [_like(pattern) for pattern in patterns]
    return lambda text: (any if info.use_or else all)(test.fullmatch(text) is not None for test in tests)


def _like(pattern: str) -> re.Pattern[str]:
    wrapped = pattern if pattern.startswith("%") or pattern.endswith("%") else f"%{pattern}%"
    parts = ({"%": ".*", "_": "."}.get(character, re.escape(character)) for character in wrapped)
    return re.compile("".join(parts), re.DOTALL)


def _rack_filters(filters: Iterable[wire.Filter]) -> list[Callable[[SiteRack], bool]]:
    by_field: dict[str, Callable[[SiteRack], bool]] = {}
    for message in filters:
        field = _field(message)
        if not message.HasField("query_info"):
            continue
        if field not in ("name", "manufacturer", "model"):
            raise unknown(f"unsupported filter field: {field}")
        fits = _pattern(message.query_info)
        by_field[field] = lambda rack, fits=fits, field=field: fits(getattr(rack, field, ""))  # type: ignore[misc]
    return list(by_field.values())


def _component_filters(filters: Iterable[wire.Filter]) -> list[Callable[[Part], bool]]:
    by_field: dict[str, Callable[[Part], bool]] = {}
    for message in filters:
        field = _field(message)
        if not message.HasField("query_info"):
            continue
        if field == "type":
            known = {text.lower(): text for text in COMPONENT_TYPES.values()}
            for text in message.query_info.patterns:
                if text.lower() not in known:
                    raise unknown(f"unsupported component type filter: {text}")
            wanted = {known[text.lower()] for text in message.query_info.patterns}
            by_field[field] = lambda part, wanted=wanted: not wanted or part.type in wanted  # type: ignore[misc]
        else:
            fits = _pattern(message.query_info)
            by_field[field] = lambda part, fits=fits, field=field: fits(getattr(part, field, ""))  # type: ignore[misc]
    return list(by_field.values())


_FIELDS: Final = {
    ("rack_field", wire.RACK_FILTER_FIELD_NAME): "name",
    ("rack_field", wire.RACK_FILTER_FIELD_MANUFACTURER): "manufacturer",
    ("rack_field", wire.RACK_FILTER_FIELD_MODEL): "model",
    ("component_field", wire.COMPONENT_FILTER_FIELD_NAME): "name",
    ("component_field", wire.COMPONENT_FILTER_FIELD_MANUFACTURER): "manufacturer",
    ("component_field", wire.COMPONENT_FILTER_FIELD_MODEL): "model",
    ("component_field", wire.COMPONENT_FILTER_FIELD_TYPE): "type",
}


def _field(message: wire.Filter) -> str:
    which = message.WhichOneof("field")
    found = None if which is None else _FIELDS.get((which, getattr(message, which)))
    if found is None:
        raise unknown("invalid filter: filter field not set: either rack_field or component_field must be set")
    return found
