"""Operations of a run and the calls of Flow that begin them.

An operation's payload is the object that the reference stores for it (flow-storage, 5.3).  A firmware template comes
from a request and goes back into replies; every kind becomes the request of one task.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import attrs
from google.protobuf.message import DecodeError

from opdispatch.errors import InvalidInput
from opdispatch.observation import storable
from opdispatch.task import Operation

from .fields import NIL, parsed, timestamp_message
from .seal import Sealer
from .wire import flow_pb2 as wire

FIRMWARE: Final = ("firmware_control", "upgrade")
FIRMWARE_KEYS: Final = frozenset(
    {
        *("operation", "target_version", "start_time", "end_time", "rule_id", "sub_targets"),
        *("override_readiness_check", "authentication_data"),
    }
)
"""What a firmware payload may hold (flow-storage, 5.3); a reader passes over what else is in it."""
_UPGRADE: Final = 1
_READY: Final = "override_readiness_check"
_NO_KEY: Final = "this service has no key to seal it with; start it with one, or leave the credential out"
_PART: Final = ("compute", "nvswitch", "powershelf")

Request: TypeAlias = (
    wire.UpgradeFirmwareRequest
    | wire.PowerOnRackRequest
    | wire.PowerOffRackRequest
    | wire.PowerResetRackRequest
    | wire.BringUpRackRequest
    | wire.IngestRackRequest
    | wire.DecommissionRackRequest
)


@attrs.frozen(kw_only=True)
class Call:
    """One call that begins a task: the method of the service, and its request without targets and description."""

    method: str
    request: Request


# -- the template of a run --


def firmware_operation(template: wire.UpgradeFirmwareRequest, sealer: Sealer | None) -> Operation:
    """The operation of a firmware template, its credential sealed.

    Raises InvalidInput for a credential that is not one, and where there is no key to seal it with.
    """
    payload: dict[str, Any] = {"operation": _UPGRADE}
    if template.target_version:
        payload["target_version"] = template.target_version
    for name in ("start_time", "end_time"):
        if template.HasField(name):
            payload[name] = getattr(template, name).seconds
    rule = parsed(template.rule_id.id)
    if not isinstance(rule, str) and rule != NIL:
        payload["rule_id"] = str(rule)
    if template.sub_targets:
        payload["sub_targets"] = list(template.sub_targets)
    if template.override_readiness_check:
        payload["override_readiness_check"] = True
    if template.HasField("authentication_data"):
        clear = _credential(template)
        if clear is not None:
            if sealer is None:
                raise InvalidInput.at("authentication_data", "it cannot be stored", _NO_KEY)
            payload["authentication_data"] = sealer.seal(clear)
    type_, code = FIRMWARE
    text = json.dumps(payload, separators=(",", ":"))
    return Operation(type=type_, code=code, description=template.description, payload=text)


def _credential(template: wire.UpgradeFirmwareRequest) -> bytes | None:
    """The credential as it is sealed; None where nothing is in it."""
    given = template.authentication_data
    match given.WhichOneof("value"):
        case "shared":
            is_empty = not given.shared
        case "per_component":
            is_empty = not any(getattr(given.per_component, part) for part in _PART)
        case _:
            raise InvalidInput.at("", "authentication data value is required")
    if is_empty:
        return None
    if template.sub_targets and all(part == "dpu" for part in template.sub_targets):
        raise InvalidInput.at("", "dpu-only firmware updates do not support authentication data")
    return given.SerializeToString(deterministic=True)


def firmware_template(operation: Operation) -> wire.UpgradeFirmwareRequest | None:
    """The template of an operation as a reply tells it: without targets, and never with a credential.

    None for an operation of another kind, which a reply has no place for.
    """
    if (operation.type, operation.code) != FIRMWARE:
        return None
    return _firmware(operation, payload_of(operation))


def same_but_for_sealing(one: Operation, other: Operation, sealer: Sealer | None) -> bool:
    """True when two operations are one: sealing a credential twice gives two texts."""
    return (one.type, one.code, one.description) == (other.type, other.code, other.description) and (
        _unsealed(one, sealer) == _unsealed(other, sealer)
    )


def _unsealed(operation: Operation, sealer: Sealer | None) -> tuple[dict[str, Any], bytes | None]:
    payload = dict(payload_of(operation))
    sealed = payload.pop("authentication_data", None)
    return payload, None if sealed is None or sealer is None else sealer.open(sealed)


# -- the call of a task --


def call_of(operation: Operation, sealer: Sealer | None) -> Call:
    """The call that begins a task of this operation, its credential opened.

    Raises InvalidInput for an operation that Flow has no call for, and for a payload that does not fit it.
    """
    make = _CALLS.get((operation.type, operation.code))
    if make is None:
        known = ", ".join(f"{type_}/{code}" for type_, code in _CALLS)
        raise InvalidInput.at(
            "$.operation", f"Flow has no call for {operation.type}/{operation.code}", f"use one of {known}"
        )
    payload = payload_of(operation)
    try:
        call = make(operation, payload)
    except UnicodeEncodeError as error:
        raise InvalidInput.at(
            "$.operation.payload", f"{error.object!r} holds a lone surrogate, which no call can carry", "take it out"
        ) from error
    sealed = payload.get("authentication_data")
    if sealed is not None and isinstance(call.request, wire.UpgradeFirmwareRequest):
        _unseal(sealed, call.request.authentication_data, sealer)
    return call


def _unseal(sealed: object, into: wire.FirmwareAuthenticationData, sealer: Sealer | None) -> None:
    # What cannot be used is not shown: it may be a credential that somebody forgot to seal.
    if not isinstance(sealed, dict):
        raise InvalidInput.at("authentication_data", "it is not sealed", "give the credential in a request")
    if sealer is None:
        raise InvalidInput.at(
            "authentication_data", "it is sealed, and this service has no key", "start it with the key"
        )
    try:
        into.ParseFromString(sealer.open(sealed))
    except DecodeError as error:
        raise InvalidInput.at("authentication_data", "what was sealed is no credential", "give it anew") from error


def payload_of(operation: Operation) -> Mapping[str, Any]:
    """The object in an operation's payload.  Raises InvalidInput where there is none."""
    try:
        payload = json.loads(operation.payload)
    except ValueError as error:
        raise InvalidInput.at("$.operation.payload", f"it is not JSON: {error}", "give an object") from error
    except RecursionError as error:
        raise InvalidInput.at("$.operation.payload", "it is nested too deeply", "give a flat object") from error
    if not isinstance(payload, dict):
        raise InvalidInput.at("$.operation.payload", "it is not a JSON object", "give an object")
    return payload


def _take(payload: Mapping[str, Any], key: str, kind: type | tuple[type, ...], what: str) -> Any:
    value = payload.get(key)
    if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
        raise InvalidInput.at(f"$.operation.payload.{key}", f"{value!r} is not {what}", f"give {what}, or leave it out")
    return value


def _flag(payload: Mapping[str, Any], key: str) -> bool:
    return bool(_take(payload, key, bool, "true or false"))


def _rule(payload: Mapping[str, Any]) -> wire.UUID | None:
    text = _take(payload, "rule_id", str, "a UUID")
    if text is None:
        return None
    found = parsed(text)
    if isinstance(found, str):
        raise InvalidInput.at("$.operation.payload.rule_id", f"{text!r}: {found}", "give a UUID, or leave it out")
    return None if found == NIL else wire.UUID(id=str(found))


def _firmware(operation: Operation, payload: Mapping[str, Any]) -> wire.UpgradeFirmwareRequest:
    asked = payload.get("operation", _UPGRADE)
    # To Python true is 1, and in JSON it is not.
    if asked != _UPGRADE or isinstance(asked, bool):
        raise InvalidInput.at("$.operation.payload.operation", f"{asked!r} is no upgrade", "use 1")
    parts = _take(payload, "sub_targets", list, "a list of names") or []
    if not all(isinstance(part, str) for part in parts):
        raise InvalidInput.at("$.operation.payload.sub_targets", f"{parts!r} are not names", "give a list of names")
    request = wire.UpgradeFirmwareRequest(
        description=storable(operation.description),
        rule_id=_rule(payload),
        sub_targets=parts,
        override_readiness_check=_flag(payload, _READY),
    )
    version = _take(payload, "target_version", str, "text")
    if version is not None:
        request.target_version = version
    for name in ("start_time", "end_time"):
        seconds = _take(payload, name, int, "a number of seconds since 1970")
        if seconds is not None:
            try:
                instant = datetime.fromtimestamp(seconds, UTC)
            except (OverflowError, OSError, ValueError) as error:
                raise InvalidInput.at(
                    f"$.operation.payload.{name}", f"{seconds} is out of range", "give seconds since 1970"
                ) from error
            getattr(request, name).CopyFrom(timestamp_message(instant))
    return request


def _upgrade(operation: Operation, payload: Mapping[str, Any]) -> Call:
    return Call(method="UpgradeFirmware", request=_firmware(operation, payload))


def _of_rack(method: str, request: Callable[..., Request], *fields: str) -> _MakeCall:
    """A call whose request has these fields beside the rule; ``forced`` is told by the operation's code."""

    def make(operation: Operation, payload: Mapping[str, Any]) -> Call:
        told: dict[str, object] = {"rule_id": _rule(payload)}
        if "forced" in fields:
            told["forced"] = operation.code.startswith("force_")
        if _READY in fields:
            told[_READY] = _flag(payload, _READY)
        return Call(method=method, request=request(**told))

    return make


_MakeCall: TypeAlias = Callable[[Operation, Mapping[str, Any]], Call]
_POWER_OFF: Final = _of_rack("PowerOffRack", wire.PowerOffRackRequest, "forced", _READY)
_POWER_RESET: Final = _of_rack("PowerResetRack", wire.PowerResetRackRequest, "forced", _READY)
_CALLS: Final[Mapping[tuple[str, str], _MakeCall]] = {
    FIRMWARE: _upgrade,
    ("power_control", "power_on"): _of_rack("PowerOnRack", wire.PowerOnRackRequest, _READY),
    ("power_control", "power_off"): _POWER_OFF,
    ("power_control", "force_power_off"): _POWER_OFF,
    ("power_control", "restart"): _POWER_RESET,
    ("power_control", "force_restart"): _POWER_RESET,
    ("bring_up", "bring_up"): _of_rack("BringUpRack", wire.BringUpRackRequest, _READY),
    ("bring_up", "ingest"): _of_rack("IngestRack", wire.IngestRackRequest),
    ("decommission", "decommission"): _of_rack("DecommissionRack", wire.DecommissionRackRequest),
}
"""Every operation that Flow has a call for, by type and code (flow-grpc, 6.1)."""
