"""Target specs: in which words a caller names racks, components and NVLink domains.

A spec is read from a request, kept in the rollout's annex in the shape in which the reference stores it (flow-storage,
5.3: capitalised keys, null for what is unused), and told again in replies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import attrs

from opdispatch.errors import InvalidInput

from .enums import COMPONENT_TYPES
from .fields import parsed
from .wire import flow_pb2 as wire

NIL: Final = UUID(int=0)


@attrs.frozen(kw_only=True)
class Named:
    """A rack or a domain: by ``id``, or by ``name`` where that is None; narrowed to ``types`` unless there is none."""

    id: UUID | None = None
    name: str = ""
    types: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name if self.id is None else f"[id: {self.id}]"


@attrs.frozen(kw_only=True)
class External:
    """A component by the id that the core service knows it by."""

    type: str
    id: str


@attrs.frozen(kw_only=True)
class TargetSpec:
    """Exactly one of the three holds something."""

    racks: tuple[Named, ...] = ()
    domains: tuple[Named, ...] = ()
    components: tuple[UUID | External, ...] = ()


class BadSpec(Exception):
    """What is wrong with a spec, in the words of the reference.  ``late`` is True for what it finds only when it checks
    the whole request."""

    def __init__(self, text: str, *, late: bool = False) -> None:
        self.text = text
        self.late = late
        super().__init__(text)


# -- from a request --


def spec_from(message: wire.OperationTargetSpec) -> TargetSpec:
    """The spec that a request names.  Raises BadSpec."""
    match message.WhichOneof("targets"):
        case "racks":
            _need_one(message.racks.targets, "racks")
            return TargetSpec(racks=tuple(_named(one, "rack") for one in message.racks.targets))
        case "nvl_domains":
            _need_one(message.nvl_domains.targets, "nvl_domains")
            return TargetSpec(domains=tuple(_named(one, "NVLink domain") for one in message.nvl_domains.targets))
        case "components":
            _need_one(message.components.targets, "components")
            return TargetSpec(components=tuple(map(_component, message.components.targets)))
        case _:
            raise BadSpec("target_spec must have one of racks, nvl_domains, or components set")


def _need_one(targets: Sequence[object], name: str) -> None:
    if not targets:
        raise BadSpec(f"{name}.targets must have at least one entry")


def _named(message: wire.RackTarget | wire.NVLDomainTarget, what: str) -> Named:
    convert = f"convert {what} target"
    found, name = None, ""
    match message.WhichOneof("identifier"):
        case "id":
            found = _id(message.id.id, f'{convert}: invalid {what} id "{message.id.id}"')
            if found == NIL:
                raise BadSpec(f"invalid {what} target: {what} target must have either id or name set", late=True)
        case "name":
            name = message.name
            if not name:
                raise BadSpec(f"{convert}: {what} target name must not be empty")
        case _:
            raise BadSpec(f"{convert}: {what} target must have either id or name set")
    types = []
    for number in message.component_types:
        text = COMPONENT_TYPES.get(number)
        if text is None:
            raise BadSpec(f"{convert}: unknown component type {type_name(number)} in {what} target filter")
        types.append(text)
    return Named(id=found, name=name, types=tuple(types))


def _component(message: wire.ComponentTarget) -> UUID | External:
    convert = "convert component target"
    match message.WhichOneof("identifier"):
        case "id":
            found = _id(message.id.id, f'{convert}: invalid component uuid "{message.id.id}"')
            if found == NIL:
                raise BadSpec("invalid component target: invalid external ref: external ref is nil", late=True)
            return found
        case "external":
            text = COMPONENT_TYPES.get(message.external.type)
            if text is None:
                raise BadSpec(f"{convert}: external component type must not be unknown")
            if not message.external.id:
                raise BadSpec(f"{convert}: external component id must not be empty")
            return External(type=text, id=message.external.id)
        case _:
            raise BadSpec(f"{convert}: component target must have either uuid or external set")


def _id(text: str, refusal: str) -> UUID:
    found = parsed(text)
    if isinstance(found, str):
        raise BadSpec(f"{refusal}: {found}")
    return found


def type_name(number: int) -> str:
    """A component type as its enum names it, or its number where the enum does not."""
    try:
        return wire.ComponentType.Name(wire.ComponentType.ValueType(number))
    except ValueError:
        return str(number)


# -- to a reply --


def spec_message(spec: TargetSpec) -> wire.OperationTargetSpec:
    """The spec as a reply tells it."""
    message = wire.OperationTargetSpec()
    for rack in spec.racks:
        _tell(rack, message.racks.targets.add())
    for domain in spec.domains:
        _tell(domain, message.nvl_domains.targets.add())
    for component in spec.components:
        target = message.components.targets.add()
        if isinstance(component, UUID):
            target.id.id = str(component)
        else:
            target.external.type = COMPONENT_TYPES.of(component.type)
            target.external.id = component.id
    return message


def _tell(named: Named, target: wire.RackTarget | wire.NVLDomainTarget) -> None:
    if named.id is None:
        target.name = named.name
    else:
        target.id.id = str(named.id)
    target.component_types.extend(COMPONENT_TYPES.of(text) for text in named.types)


# -- to a document and back --


def spec_document(spec: TargetSpec) -> dict[str, Any]:
    """The spec as the reference stores it."""

    def named(targets: Iterable[Named]) -> list[dict[str, Any]] | None:
        return [
            {
                "Identifier": {"id": str(one.id or NIL), "name": one.name},
                "ComponentTypes": list(one.types) or None,
            }
            for one in targets
        ] or None

    components = [
        {"UUID": str(one), "External": None}
        if isinstance(one, UUID)
        else {"UUID": str(NIL), "External": {"Type": one.type, "ID": one.id}}
        for one in spec.components
    ]
    return {"Racks": named(spec.racks), "NVLDomains": named(spec.domains), "Components": components or None}


def spec_in(document: Mapping[str, Any]) -> TargetSpec:
    """The spec that a stored document tells.  Raises InvalidInput for one that the reference would not have written."""
    try:
        return TargetSpec(
            racks=tuple(map(_named_in, document.get("Racks") or ())),
            domains=tuple(map(_named_in, document.get("NVLDomains") or ())),
            components=tuple(map(_component_in, document.get("Components") or ())),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput.at("$.target_spec", f"it cannot be read: {error!r}") from error


def _named_in(document: Mapping[str, Any]) -> Named:
    identifier = document["Identifier"]
    found = UUID(identifier["id"])
    types = tuple(str(text) for text in document.get("ComponentTypes") or ())
    return Named(id=None if found == NIL else found, name=str(identifier["name"]), types=types)


def _component_in(document: Mapping[str, Any]) -> UUID | External:
    external = document.get("External")
    if external is None:
        return UUID(document["UUID"])
    return External(type=str(external["Type"]), id=str(external["ID"]))
