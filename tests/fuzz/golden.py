"""Golden files: what this program wrote or was sent in real runs, kept for each version of a surface's format.

``python -m tests.fuzz.golden`` records what is missing.  A version that is kept is never written again: its files stand
for what is out there.  Beside each file stands the value that it was read to, as JSON that a reader understands.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import attrs
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from .engine import Input

ROOT: Final = Path(__file__).parents[1] / "data" / "golden"
_VALUE: Final = ".value.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """One golden file: its input, and the value that it stood for when it was recorded."""

    path: Path
    given: Input
    value: object


def kept(surface: str) -> tuple[Golden, ...]:
    """The golden files of a surface, of every version, by name.  A file is called ``kind.number.ending``."""
    found = []
    for path in sorted((ROOT / surface).glob("v*/*")):
        if path.name.endswith(_VALUE):
            continue
        kind = path.name.split(".", 1)[0]
        value = json.loads(path.with_name(path.name + _VALUE).read_text("ascii"))
        found.append(Golden(path=path, given=Input(kind, path.read_bytes()), value=value))
    return tuple(found)


def inputs_of(surface: str) -> tuple[Input, ...]:
    """The golden files of a surface as inputs.  Raises AssertionError when there is none."""
    found = tuple(golden.given for golden in kept(surface))
    assert found, f"there is no golden file of {surface}; run python -m tests.fuzz.golden"
    return found


def readable(value: Any) -> Any:
    """A value as JSON that names its classes: the same for equal values, and for no others."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, str | UUID | Path):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Message):
        return {"": value.DESCRIPTOR.name, **MessageToDict(value, preserving_proto_field_name=True)}
    if is_dataclass(value) and not isinstance(value, type):
        told = {f.name: readable(getattr(value, f.name)) for f in fields(value) if f.repr}
        return {"": type(value).__name__, **told}
    if attrs.has(type(value)):
        return {
            "": type(value).__name__,
            **{f.name: readable(getattr(value, f.name)) for f in attrs.fields(type(value))},
        }
    if isinstance(value, Mapping):
        return {str(key): readable(item) for key, item in value.items()}
    if isinstance(value, AbstractSet):
        return sorted(map(readable, value))
    if isinstance(value, Iterable):
        return [readable(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no readable form")


def main() -> int:
    """Record what is missing."""
    from .recording import RECORDINGS
    from .surfaces import SURFACES

    for (surface, version), record in RECORDINGS.items():
        directory = ROOT / surface / f"v{version}"
        if directory.exists():
            print(f"{surface} v{version} is kept")
            continue
        recorded = list(record())
        with tempfile.TemporaryDirectory() as scratch, SURFACES[surface](Path(scratch)) as reader:
            files: dict[str, bytes] = {}
            numbers: dict[str, int] = {}
            reader.use([Input(kind, data) for kind, _, data in recorded])
            for kind, ending, data in recorded:
                numbers[kind] = number = numbers.get(kind, 0) + 1
                name = f"{kind}.{number}.{ending}"
                told = json.dumps(readable(reader.value(Input(kind, data))), indent=1, ensure_ascii=True)
                files |= {name: data, name + _VALUE: (told + "\n").encode("ascii")}
        directory.mkdir(parents=True)
        for name, data in files.items():
            (directory / name).write_bytes(data)
        print(f"{surface} v{version}: {len(files) // 2} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
