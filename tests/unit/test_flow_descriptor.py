"""The wire is Flow's: every message, field, enum and call against a table of them, and the bytes of either read by the
other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory, timestamp_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from opdispatch_adapters.flow import enums
from opdispatch_adapters.flow.wire import flow_pb2 as wire

TABLE: Final = Path(__file__).parents[1] / "data" / "flow_wire.txt"
_SCALARS: Final = {
    "string": FieldDescriptor.TYPE_STRING,
    "int32": FieldDescriptor.TYPE_INT32,
    "bool": FieldDescriptor.TYPE_BOOL,
}


def _rows() -> Iterator[tuple[str, str, list[list[str]]]]:
    """Each entry of the table: its kind, its name, and its lines."""
    kind, name, lines = "", "", []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        if line.startswith("  "):
            lines.append(line.split())
            continue
        if kind in ("enum", "message"):
            yield kind, name, lines
        words = line.split()
        kind, name, lines = words[0], words[1], []
        if kind == "rpc":
            yield kind, name, [words[2:]]


ENTRIES: Final = list(_rows())


def _from_the_table() -> descriptor_pool.DescriptorPool:
    """A pool of its own that has what the table says, and nothing of ours."""
    file = descriptor_pb2.FileDescriptorProto(name="table.proto", package="v1", syntax="proto3")
    names = {name for kind, name, _ in ENTRIES if kind == "enum"}
    for known in (duration_pb2, timestamp_pb2):
        file.dependency.append(known.DESCRIPTOR.name)
    for kind, name, lines in ENTRIES:
        if kind == "enum" and "." not in name:
            _add_enum(file.enum_type.add(), name, lines)
        elif kind == "message":
            message = file.message_type.add(name=name)
            for inner in (one for one in names if one.startswith(f"{name}.")):
                values = next(rows for k, n, rows in ENTRIES if (k, n) == ("enum", inner))
                _add_enum(message.enum_type.add(), inner.split(".")[1], values)
            _add_fields(message, lines, names)
    pool = descriptor_pool.DescriptorPool()
    for known in (duration_pb2, timestamp_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return pool


def _add_enum(enum: descriptor_pb2.EnumDescriptorProto, name: str, lines: list[list[str]]) -> None:
    enum.name = name
    for value, number in sorted(lines, key=lambda line: int(line[1])):
        enum.value.add(name=value, number=int(number))


def _add_fields(message: descriptor_pb2.DescriptorProto, lines: list[list[str]], enums_: set[str]) -> None:
    for name, number, type_, *label in lines:
        field = message.field.add(name=name, number=int(number), label=FieldDescriptor.LABEL_OPTIONAL)
        if type_ in _SCALARS:
            field.type = _SCALARS[type_]  # type: ignore[assignment]
        else:
            field.type = FieldDescriptor.TYPE_ENUM if type_ in enums_ else FieldDescriptor.TYPE_MESSAGE  # type: ignore[assignment]
            field.type_name = f".{type_}" if type_.startswith("google.") else f".v1.{type_}"
        if label == ["rep"]:
            field.label = FieldDescriptor.LABEL_REPEATED  # type: ignore[assignment]
        elif label and label != ["opt"]:
            known = [one.name for one in message.oneof_decl]
            if label[0] not in known:
                message.oneof_decl.add(name=label[0])
            field.oneof_index = [one.name for one in message.oneof_decl].index(label[0])
        elif label == ["opt"]:
            field.proto3_optional = True
    # Those that only track presence come last, as the compiler has them.
    for field in message.field:
        if field.proto3_optional:
            message.oneof_decl.add(name=f"_{field.name}")
            field.oneof_index = len(message.oneof_decl) - 1


POOL: Final = _from_the_table()


def _told(field: FieldDescriptor) -> tuple[Any, ...]:
    other = field.message_type or field.enum_type
    oneof = field.containing_oneof
    return (
        *(field.name, field.number, field.type, field.is_repeated, field.has_presence),
        *(None if other is None else other.full_name, None if oneof is None else oneof.name),
    )


@pytest.mark.parametrize("name", [name for kind, name, _ in ENTRIES if kind == "message"])
def test_every_message_has_the_fields_of_the_table(name: str) -> None:
    ours = wire.DESCRIPTOR.message_types_by_name[name]
    theirs = POOL.FindMessageTypeByName(f"v1.{name}")

    assert [_told(field) for field in sorted(ours.fields, key=lambda f: f.number)] == [
        _told(field) for field in sorted(theirs.fields, key=lambda f: f.number)
    ]


@pytest.mark.parametrize("name", [name for kind, name, _ in ENTRIES if kind == "enum"])
def test_every_enum_has_the_numbers_of_the_table(name: str) -> None:
    theirs = POOL.FindEnumTypeByName(f"v1.{name}")
    outer, _, inner = name.partition(".")
    ours = (
        wire.DESCRIPTOR.message_types_by_name[outer].enum_types_by_name[inner]
        if inner
        else wire.DESCRIPTOR.enum_types_by_name[outer]
    )

    assert {v.name: v.number for v in ours.values} == {v.name: v.number for v in theirs.values}


def test_every_call_is_that_of_the_table_and_there_is_no_other() -> None:
    service = wire.DESCRIPTOR.services_by_name["Flow"]
    ours = {method.name: [method.input_type.name, method.output_type.name] for method in service.methods}

    assert service.full_name == "v1.Flow"
    assert ours == {name: lines[0] for kind, name, lines in ENTRIES if kind == "rpc"}


def test_nothing_is_spoken_that_the_table_does_not_have() -> None:
    listed = {name for kind, name, _ in ENTRIES if kind == "message"}
    assert set(wire.DESCRIPTOR.message_types_by_name) == listed
    assert set(wire.DESCRIPTOR.enum_types_by_name) == {n for k, n, _ in ENTRIES if k == "enum" and "." not in n}


def _filled(message: Message, draw: st.DataObject, depth: int = 3) -> None:
    for field in message.DESCRIPTOR.fields:
        if not draw.draw(st.booleans()):
            continue
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if depth:
                inner = getattr(message, field.name)
                _filled(inner.add() if field.is_repeated else inner, draw, depth - 1)
            continue
        value: Any = {
            FieldDescriptor.TYPE_STRING: st.text(max_size=5),
            FieldDescriptor.TYPE_BOOL: st.booleans(),
        }.get(field.type, st.integers(0, 9))
        drawn = draw.draw(value)
        if field.is_repeated:
            getattr(message, field.name).append(drawn)
        else:
            setattr(message, field.name, drawn)


@settings(max_examples=50, deadline=None)
@given(
    data=st.data(),
    name=st.sampled_from(["CreateOperationRunRequest", "OperationRun", "Task", "UpgradeFirmwareRequest", "Rack"]),
)
def test_either_reads_the_bytes_of_the_other(data: st.DataObject, name: str) -> None:
    theirs = message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"v1.{name}"))
    ours = getattr(wire, name)
    written = ours()
    _filled(written, data)

    read = theirs.FromString(written.SerializeToString(deterministic=True))
    back = ours.FromString(read.SerializeToString(deterministic=True))

    assert back == written
    assert not _unknown(read)


def _unknown(message: Message) -> bool:
    before = message.SerializeToString(deterministic=True)
    message.DiscardUnknownFields()
    return message.SerializeToString(deterministic=True) != before


@pytest.mark.parametrize(
    ("table", "enum"),
    [
        (enums.RUN_STATUSES, wire.OperationRunStatus),
        (enums.STATUS_REASONS, wire.OperationRunStatusReason),
        (enums.TARGET_STATUSES, wire.OperationRunTargetStatus),
        (enums.GATE_SCOPES, wire.OperationRunSafetyGateScope),
        (enums.LOCATION_STRATEGIES, wire.OperationRunPhysicalLocationOrdering.Strategy),
        (enums.OPERATION_TYPES, wire.OperationType),
        (enums.COMPONENT_TYPES, wire.ComponentType),
        (enums.TASK_STATUSES, wire.TaskStatus),
    ],
)
def test_every_table_is_total_and_one_to_one(table: enums.Table[Any, Any], enum: Any) -> None:
    known = set(enum.values())

    # A task of unknown status is a status; anywhere else zero means that nothing was said.
    assert set(table) == (known if table is enums.TASK_STATUSES else known - {0})
    assert len(set(table.values())) == len(table)
    assert all(table[table.of(value)] == value for value in table.values())


def test_every_value_of_the_core_has_a_number() -> None:
    from opdispatch.policy.gates import GateScope
    from opdispatch.policy.ordering import LocationStrategy
    from opdispatch.run import RunStatus, StatusReason
    from opdispatch.target import TargetStatus
    from opdispatch.task import TaskStatus

    pairs: list[tuple[Any, Any]] = [
        (enums.RUN_STATUSES, RunStatus),
        (enums.STATUS_REASONS, StatusReason),
        (enums.TARGET_STATUSES, TargetStatus),
        (enums.GATE_SCOPES, GateScope),
        (enums.LOCATION_STRATEGIES, LocationStrategy),
        (enums.TASK_STATUSES, TaskStatus),
    ]
    for table, kind in pairs:
        assert {value for value in kind if table.number(value) is None} == set()
