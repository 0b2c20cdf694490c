"""The parts of Flow's wire: ids, instants, durations, seals, operations, certificates, markers and types."""

from __future__ import annotations

import base64
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from opdispatch.errors import InvalidInput
from opdispatch.identity import IdempotencyKey
from opdispatch.task import Operation
from opdispatch_adapters.flow.certificates import find
from opdispatch_adapters.flow.component_types import ComponentTypes
from opdispatch_adapters.flow.fields import (
    duration_at,
    duration_message,
    instant_at,
    parsed,
    timestamp_message,
    uuid_at,
    uuid_or_none,
)
from opdispatch_adapters.flow.marker import is_marked, marked
from opdispatch_adapters.flow.operations import call_of, firmware_operation, firmware_template, same_but_for_sealing
from opdispatch_adapters.flow.seal import Sealer
from opdispatch_adapters.flow.wire import flow_pb2 as wire
from tests.integration.certificates import Authority

ID: Final = UUID("6f1d2c3b-0000-4000-8000-00000000000a")


@pytest.mark.parametrize(
    "text", [str(ID), str(ID).upper(), ID.hex, f"{{{ID}}}", f"urn:uuid:{ID}", f"URN:UUID:{str(ID).upper()}"]
)
def test_an_id_is_read_in_every_form(text: str) -> None:
    assert parsed(text) == ID


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "invalid UUID length: 0"),
        ("6f1d2c3b", "invalid UUID length: 8"),
        ("x" * 36, "invalid UUID format"),
        (str(ID).replace("-", "_"), "invalid UUID format"),
        ("6f1d2c3b-0000-4000-80000-0000000000a", "invalid UUID format"),
        (f"urn-uuid-{ID}", 'invalid urn prefix: "urn-uuid-"'),
        # Lengths are told in bytes, and no other script has digits for an id.
        ("é" * 16, "invalid UUID format"),
        ("é" * 36, "invalid UUID length: 72"),
        (f"é{ID}", "invalid UUID format"),
        (f"{str(ID)[:-1]}\u0661", "invalid UUID length: 37"),
        (f"{{{ID.hex}}}", "invalid UUID length: 34"),
        (f"urn:uuid:{ID.hex}", "invalid UUID length: 41"),
    ],
)
def test_what_is_no_id_is_told_in_the_words_of_the_reference(text: str, told: str) -> None:
    assert parsed(text) == told


def test_an_absent_id_is_none_and_a_needed_one_names_its_place() -> None:
    for text in ("", "x", str(UUID(int=0))):
        assert uuid_or_none(wire.UUID(id=text)) is None
        with pytest.raises(InvalidInput, match=r"task.id: "):
            uuid_at(wire.UUID(id=text), "task.id")
    assert uuid_at(wire.UUID(id=str(ID)), "task.id") == ID


@given(st.datetimes(timezones=st.just(UTC)))
def test_an_instant_comes_back(instant: datetime) -> None:
    assert instant_at(timestamp_message(instant), "at") == instant


@given(st.timedeltas(min_value=timedelta(days=-3_000_000), max_value=timedelta(days=3_000_000)))
def test_a_duration_comes_back(wait: timedelta) -> None:
    assert duration_at(duration_message(wait), "wait") == wait


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (Duration(seconds=315_576_000_001), "out of range"),
        (Duration(nanos=10**9), "out of range"),
        (Duration(seconds=1, nanos=-1), "different signs"),
    ],
)
def test_a_duration_out_of_range_is_refused(message: Duration, told: str) -> None:
    with pytest.raises(InvalidInput, match=f"wait: .*{told}"):
        duration_at(message, "wait")


def test_a_wait_finer_than_a_microsecond_is_never_nothing() -> None:
    assert duration_at(Duration(nanos=1), "wait") == timedelta(microseconds=1)
    assert duration_at(Duration(nanos=-1), "wait") == timedelta(microseconds=-1)


@pytest.mark.parametrize("message", [Timestamp(seconds=10**15), Timestamp(nanos=-1)])
def test_an_instant_out_of_the_calendar_is_refused(message: Timestamp) -> None:
    with pytest.raises(InvalidInput, match="at: "):
        instant_at(message, "at")


# -- seals --

KEY: Final = bytes(range(32))


def test_what_is_sealed_is_opened_and_never_shown() -> None:
    sealer = Sealer(KEY)
    sealed = sealer.seal(b"s3cret")

    assert sealer.open(json.loads(json.dumps(sealed))) == b"s3cret"
    assert sealed["key_id"] == sealer.key_id
    assert len(base64.b64decode(sealed["ciphertext"])) == 12 + 6 + 16
    assert "s3cret" not in f"{sealed}{sealer!r}"
    assert sealer.seal(b"s3cret") != sealed


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": 2}, "it is sealed in version 2"),
        ({"key_id": "other"}, "sealed with another key"),
        ({"ciphertext": base64.b64encode(bytes(40)).decode()}, "it was changed since"),
        ({"ciphertext": "*"}, "it was changed since"),
    ],
)
def test_a_seal_that_was_touched_is_not_opened(changes: dict[str, Any], told: str) -> None:
    sealer = Sealer(KEY)

    with pytest.raises(InvalidInput, match=told):
        sealer.open({**sealer.seal(b"s3cret"), **changes})


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"***", "it is not base64"), (base64.b64encode(b"short"), "it has 5 bytes; give 32"), (None, "cannot be read")],
)
def test_a_key_file_that_cannot_be_used_is_named_and_not_shown(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(InvalidInput, match=told):
        Sealer.from_file(path)


def test_a_key_file_holds_base64(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(base64.b64encode(KEY) + b"\n")

    assert Sealer.from_file(path).key_id == Sealer(KEY).key_id


# -- operations --


def _template(secret: str = "") -> wire.UpgradeFirmwareRequest:
    template = wire.UpgradeFirmwareRequest(
        target_version="2.4.1", description="spring", sub_targets=["bmc"], override_readiness_check=True
    )
    template.rule_id.id = str(ID)
    template.start_time.seconds, template.end_time.seconds = 1_790_000_000, 1_790_000_060
    if secret:
        template.authentication_data.per_component.compute = secret
    return template


def test_a_template_comes_back_from_its_operation() -> None:
    operation = firmware_operation(_template(), None)

    assert json.loads(operation.payload) == {
        "operation": 1,
        "target_version": "2.4.1",
        "start_time": 1_790_000_000,
        "end_time": 1_790_000_060,
        "rule_id": str(ID),
        "sub_targets": ["bmc"],
        "override_readiness_check": True,
    }
    assert firmware_template(operation) == _template()


def test_a_sealed_credential_is_opened_for_the_call_alone() -> None:
    sealer = Sealer(KEY)
    operation = firmware_operation(_template("s3cret"), sealer)

    request = call_of(operation, sealer).request

    assert isinstance(request, wire.UpgradeFirmwareRequest)
    assert request.authentication_data.per_component.compute == "s3cret"
    told = firmware_template(operation)
    assert told is not None
    assert not told.HasField("authentication_data")
    with pytest.raises(InvalidInput, match="this service has no key"):
        call_of(operation, None)
    again = firmware_operation(_template("s3cret"), sealer)
    assert operation != again
    assert same_but_for_sealing(operation, again, sealer)
    assert not same_but_for_sealing(operation, firmware_operation(_template("other"), sealer), sealer)


def test_an_empty_credential_is_none() -> None:
    template = _template()
    template.authentication_data.shared = ""

    assert "authentication_data" not in firmware_operation(template, None).payload


@pytest.mark.parametrize(
    ("type_", "code", "method", "fields"),
    [
        ("firmware_control", "upgrade", "UpgradeFirmware", {}),
        ("power_control", "power_on", "PowerOnRack", {}),
        ("power_control", "power_off", "PowerOffRack", {"forced": False}),
        ("power_control", "force_power_off", "PowerOffRack", {"forced": True}),
        ("power_control", "restart", "PowerResetRack", {"forced": False}),
        ("power_control", "force_restart", "PowerResetRack", {"forced": True}),
        ("bring_up", "bring_up", "BringUpRack", {}),
        ("bring_up", "ingest", "IngestRack", {}),
        ("decommission", "decommission", "DecommissionRack", {}),
    ],
)
def test_every_kind_of_operation_has_its_call(type_: str, code: str, method: str, fields: dict[str, object]) -> None:
    call = call_of(Operation(type=type_, code=code, payload=json.dumps({"rule_id": str(ID)})), None)

    assert call.method == method
    assert call.request.rule_id.id == str(ID)
    assert {name: getattr(call.request, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ("[", "it is not JSON"),
        ("[]", "it is not a JSON object"),
        ('{"target_version": 3}', "payload.target_version: 3 is not text"),
        ('{"start_time": true}', "payload.start_time: True is not a number"),
        ('{"start_time": 1e99}', "payload.start_time"),
        ('{"end_time": 99999999999999}', "payload.end_time: 99999999999999 is out of range"),
        ('{"sub_targets": [1]}', "are not names"),
        ('{"rule_id": "x"}', "payload.rule_id: 'x': invalid UUID length: 1"),
        ('{"operation": 3}', "3 is no upgrade"),
        ('{"operation": true}', "payload.operation: True is no upgrade"),
        pytest.param('{"sub_targets": ' + "[" * 100_000, "it is nested too deeply", id="deep"),
        ('{"override_readiness_check": 1}', "1 is not true or false"),
    ],
)
def test_a_payload_that_fits_no_upgrade_names_the_place(payload: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        call_of(Operation(type="firmware_control", code="upgrade", payload=payload), None)


def _stored(sealed: object) -> Operation:
    payload = json.dumps({"authentication_data": sealed})
    return Operation(type="firmware_control", code="upgrade", payload=payload)


@pytest.mark.parametrize(
    ("sealed", "told"),
    [
        ("s3cret", "it is not sealed"),
        (["s3cret"], "it is not sealed"),
        ({}, "it is sealed in version None"),
        (Sealer(KEY).seal(b"\xff\xffs3cret"), "what was sealed is no credential"),
    ],
)
def test_a_stored_credential_that_is_none_is_refused_and_not_shown(sealed: object, told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as raised:
        call_of(_stored(sealed), Sealer(KEY))
    assert "s3cret" not in str(raised.value)


def test_text_that_no_call_can_carry_is_refused_and_a_description_is_spelled() -> None:
    with pytest.raises(InvalidInput, match="holds a lone surrogate, which no call can carry; take it out"):
        call_of(Operation(type="firmware_control", code="upgrade", payload='{"target_version": "\\ud800"}'), None)
    told = firmware_template(Operation(type="firmware_control", code="upgrade", description="a\ud800\0"))
    assert told is not None
    assert told.description == "a\\ud800\\x00"


def test_an_operation_that_flow_does_not_know_lists_those_that_it_does() -> None:
    with pytest.raises(InvalidInput, match="no call for paint/red; use one of firmware_control/upgrade, "):
        call_of(Operation(type="paint", code="red"), None)
    assert firmware_template(Operation(type="paint", code="red")) is None


# -- the rest --


def test_a_marker_is_the_end_of_a_description() -> None:
    key, other = IdempotencyKey("run.target.1"), IdempotencyKey("run.target.10")

    assert is_marked(marked("spring", key), key)
    assert marked("", key) == "[opdispatch run.target.1]"
    assert not is_marked(marked("spring", other), key)
    assert not is_marked(f"{marked('spring', key)} and more", key)
    assert is_marked(marked(marked("spring", other), key), key)


def test_types_are_mapped_and_what_nobody_mapped_is_refused() -> None:
    types = ComponentTypes({"server": "compute", "blade": "Compute", "NVSwitch": "UMS"})

    assert [types.flow_type(text) for text in ("server", "blade", "cdu", "Compute", "NVSwitch")] == [
        *("Compute", "Compute", "CDU", "Compute", "UMS")
    ]
    assert types.types_of("Compute") == ("Compute", "server", "blade")
    assert types.types_of("NVSwitch") == ()
    with pytest.raises(InvalidInput, match="the component type 'lamp' stands for none of Flow's"):
        types.flow_type("lamp")
    with pytest.raises(InvalidInput, match="'Lamp' is no component type of Flow"):
        ComponentTypes({"lamp": "Lamp"})


def test_certificates_are_named_all_or_none(tmp_path: Path) -> None:
    ours = Authority(tmp_path).issue("service")

    assert find(ours.ca, ours.cert, ours.key, {}) == ours
    with pytest.raises(InvalidInput, match="--tls-key: only some of the certificates are named"):
        find(ours.ca, ours.cert, None, {})


def test_certificates_are_found_in_a_directory(tmp_path: Path) -> None:
    ours = Authority(tmp_path / "made").issue("service")
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(InvalidInput, match=r"CERTDIR: .* holds none of ca.crt, tls.crt, tls.key"):
        find(None, None, None, {"CERTDIR": str(place)})
    for source, name in ((ours.ca, "ca.crt"), (ours.cert, "tls.crt")):
        os.link(source, place / name)
    with pytest.raises(InvalidInput, match=r"tls.key is not there; put all three there"):
        find(None, None, None, {"CERTDIR": str(place)})
    os.link(ours.key, place / "tls.key")

    found = find(None, None, None, {"CERTDIR": str(place)})

    assert found is not None
    assert found.read() == ours.read()
    assert str(ours.key) not in repr(ours)


def test_a_key_that_is_not_the_certificates_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours = authority.issue("service")
    ours.key.write_bytes(authority.issue("other").key.read_bytes())

    with pytest.raises(InvalidInput, match="it is not the key of"):
        ours.read()
    ours.key.write_text("nothing")
    with pytest.raises(InvalidInput, match="it holds no key that can be used"):
        ours.read()
    ours.cert.unlink()
    with pytest.raises(InvalidInput, match="it cannot be read"):
        ours.read()
