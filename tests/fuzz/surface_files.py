"""Files that people write or export: rollout files, in TOML and YAML, and inventories, in CSV."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final

from opdispatch.candidate import Scope
from opdispatch.errors import InvalidInput
from opdispatch_adapters.cli.document import MAX_BYTES
from opdispatch_adapters.cli.rollout_file import load_rollout
from opdispatch_adapters.inventory import CsvInventory

from .engine import Input, Surface
from .golden import inputs_of, kept
from .laws import check_rejection, held
from .mutate import INSTANTS, INTEGERS, TEXTS, changed_bytes, hostile_json, in_another_encoding, raw_bytes

_HUGE: Final = 20_000


def _changed_words(data: bytes, chance: Random, hostile: Sequence[str], breaks: bytes) -> bytes:
    """The text with one to three of its words, which stand between ``breaks``, made hostile."""
    words: list[bytes] = []
    start = 0
    for index, byte in enumerate(data):
        if byte in breaks:
            words += [data[start:index], data[index : index + 1]]
            start = index + 1
    words.append(data[start:])
    for _ in range(chance.choice((1, 1, 2, 3))):
        words[2 * chance.randrange((len(words) + 1) // 2)] = chance.choice(hostile).encode("utf-8", "surrogatepass")
    return b"".join(words)


class _Files(Surface):
    """What the two have in common: a file is changed, and read from a directory."""

    _breaks: ClassVar[bytes]
    _hostile: ClassVar[tuple[str, ...]]

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._seeds: tuple[Input, ...] = ()

    @property
    def seeds(self) -> Sequence[Input]:
        if not self._seeds:
            self._seeds = inputs_of(self.name)
            self._bytes = {
                kind: [s.data for s in self._seeds if s.kind == kind] for kind in {s.kind for s in self._seeds}
            }
        return self._seeds

    def _huge(self, chance: Random) -> bytes:
        raise NotImplementedError

    def mutated(self, chance: Random) -> Input:
        seed = chance.choice(self._seeds)
        others = self._bytes[seed.kind]
        match chance.randrange(24):
            case 0:
                data = raw_bytes(chance)
            case 1:
                data = in_another_encoding(seed.data, chance)
            case 2:
                lines = seed.data.splitlines(keepends=True)
                chance.shuffle(lines)
                data = b"".join(lines)
            case 3 | 4 | 5:
                lines = seed.data.splitlines(keepends=True)
                index = chance.randrange(len(lines))
                lines[index : index + 1] = chance.choice(([], [lines[index]] * 2, [chance.choice(lines)]))
                data = b"".join(lines)
            case 6 | 7 | 8 | 9 | 10 | 11 | 12 | 13 | 14 | 15 | 16 | 17:
                data = _changed_words(seed.data, chance, (*self._hostile, hostile_json(chance)), self._breaks)
            case 18 if chance.randrange(_HUGE // 24) == 0:
                data = self._huge(chance)
            case _:
                data = changed_bytes(seed.data, chance, others)
        return Input(seed.kind, data)


class RolloutFiles(_Files):
    """Rollout files.  What is read is a rollout, whose place in a store is the matter of another surface."""

    name: ClassVar[str] = "rollout_files"
    _breaks: ClassVar[bytes] = b" \n=,[]{}:\"'"
    _hostile: ClassVar[tuple[str, ...]] = (
        *map(str, INTEGERS),
        *INSTANTS,
        *(json.dumps(text) for text in TEXTS),
        *(
            "nan",
            "inf",
            "-inf",
            "1e400",
            "0x10",
            "0o7",
            "1_000",
            "'''",
            '"""',
            "[[",
            "]]",
            "a.b.c",
            "a.a",
            "*x",
            "&x",
            "<<",
        ),
        *(
            "!!python/object:os.system",
            "!!binary",
            "!!timestamp",
            "? ",
            "- ",
            "--- ",
            "...",
            "|",
            ">",
            "%YAML 9.9",
            "~",
        ),
        *(
            "1d",
            "1h30m",
            "999999999d",
            "-1s",
            "1.5s",
            "07:32:00",
            "1979-05-27T07:32:00Z",
            "\ud800",
            "\x00",
            "\x7f",
            "y",
        ),
        *(
            "1:30",
            "0b1",
            "yes",
            "off",
            "=",
            "2026-01-01",
            ".inf",
            ".NaN",
            "!!set",
            "!!omap",
            "!!int",
            "!!float",
            "\u2028",
        ),
    )

    def _huge(self, chance: Random) -> bytes:
        match chance.randrange(4):
            case 0:
                return b"a = " + b"[" * 10_000
            case 1:
                return b"- " * 10_000
            case 2:
                return b"x" * (MAX_BYTES + 1)
            case _:
                return b"".join(b"k%d = 1\n" % number for number in range(50_000))

    def _path(self, given: Input) -> Path:
        path = self.directory / f"rollout.{given.kind}"
        path.write_bytes(given.data)
        return path

    def value(self, given: Input) -> Any:
        found = load_rollout(self._path(given))
        return {"rollout": found.rollout, "inventory": found.inventory.name, "command": found.command}

    def takes(self, given: Input) -> bool:
        path = self._path(given)
        try:
            found = load_rollout(path)
        except InvalidInput as error:
            check_rejection(error)
            held(
                all(p.place.startswith(path.name) for p in error.problems if p.place), f"a place is not in it: {error}"
            )
            return False
        text = f"{found.rollout}{found.command}"
        text.encode()
        held("\0" not in text, "a NUL came through")
        return True


class Inventories(_Files):
    """Inventories.  One of the three files is changed; the others are as they were exported."""

    name: ClassVar[str] = "inventories"
    _breaks: ClassVar[bytes] = b"\n,"
    _hostile: ClassVar[tuple[str, ...]] = (
        *map(str, INTEGERS),
        *TEXTS,
        *('"', '""', '"x', 'x"y', '"a\nb"', "\r", "a\rb", " x", "x ", ",", ",,,,", "\x1a", "=1+1", "'"),
        *("00000001-0000-4000-8000-00000000000A", "{00000001-0000-4000-8000-000000000001}", "0" * 36, "\u00a0"),
        "x" * 200_000,
    )

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._inventory = CsvInventory(directory)

    @property
    def seeds(self) -> Sequence[Input]:
        is_new = not self._seeds
        found = super().seeds
        if is_new:
            self._sound = {seed.kind: seed.data for seed in found}
            for kind in self._sound:
                self._restore(kind)
        return found

    def _restore(self, kind: str) -> None:
        (self.directory / f"{kind}.csv").write_bytes(self._sound[kind])

    def _huge(self, chance: Random) -> bytes:
        match chance.randrange(3):
            case 0:
                return b"," * 1_000_000
            case 1:
                return b"rack_uuid\n" + b"x\n" * 200_000
            case _:
                return b'"' + b"\n" * 1_000_000

    def value(self, given: Input) -> Any:
        # The others are those that were kept with it; where nothing is kept yet, those that would be.
        others = {golden.given.kind: golden.given.data for golden in kept(self.name)} or exported()
        for kind, data in {**others, given.kind: given.data}.items():
            (self.directory / f"{kind}.csv").write_bytes(data)
        return {"summary": self._inventory.check(), "candidates": self._inventory.candidates(Scope())}

    def takes(self, given: Input) -> bool:
        _ = self.seeds
        (self.directory / f"{given.kind}.csv").write_bytes(given.data)
        try:
            found = self._inventory.candidates(Scope())
        except InvalidInput as error:
            check_rejection(error)
            held(all(".csv" in p.place for p in error.problems if p.place), f"a place is in no file: {error}")
            return False
        finally:
            self._restore(given.kind)
        for candidate in found:
            text = f"{candidate}"
            text.encode()
            held("\0" not in text, "a NUL came through")
        again = self._inventory.candidates(Scope())
        held(len({candidate.id for candidate in found}) == len(found) and again, "a rack is there twice")
        return True


_EXAMPLES: Final = Path(__file__).parents[2] / "examples"
_RACKS: Final = 6


def exported() -> dict[str, bytes]:
    """The first racks of the example's inventory, with their devices and feeds."""
    directory = _EXAMPLES / "inventory" / "leonardo"
    racks = (directory / "racks.csv").read_bytes().splitlines(keepends=True)[: _RACKS + 1]
    ids = [line.split(b",", 1)[0] for line in racks[1:]]
    found = {"racks": b"".join(racks)}
    for kind in ("devices", "power"):
        header, *lines = (directory / f"{kind}.csv").read_bytes().splitlines(keepends=True)
        kept: list[bytes] = []
        for rack in ids:
            kept += [line for line in lines if rack in line][:2]
        found[kind] = header + b"".join(kept)
    return found


_YAML: Final = """\
name: "fw-2.14"
description: BMC firmware 2.14
inventory: inventory/leonardo
max_concurrent_targets: 12
operation: {type: firmware_control, code: upgrade, payload: {version: "2.14", force: false}}
scope:
  racks: [r1, r2]
  labels: {group: [a, b]}
selector: {percentage: 50}
ordering:
  kind: physical_location
  strategy: row_by_row
phases: {kind: percentage, percentages: [20, 80], auto_advance: true}
gates:
- kind: failure_rate
  threshold_percent: 10
- kind: failure_count
  threshold_count: 3
  outcomes: [failed]
conflict: {window: 5m, initial_delay: 2s, max_delay: 30s}
"""
_TOML: Final = """\
name = "fw"
inventory = "inventory"
max_concurrent_targets = 1
operation = { type = "a", code = "b", payload = { n = 1, f = 1.5, l = [1, "x", {}], t = true } }
scope = { sites = ["s"], rooms = ["r"], rows = ["w"], component_types = ["compute"], labels = { group = ["a"] } }
selector = { percentage = 5, seed = "s" }
phases = { kind = "equal", count = 2 }
gates = [{ kind = "failure_count", threshold_count = 1, scope = "cumulative_run", outcomes = ["terminated"] }]
command = { argv = ["true", "{rack_id}"], timeout = 90, cancel_grace = "5s", max_output_bytes = 10, env = { A = "b" } }
"""


def recorded_rollouts() -> list[tuple[str, bytes]]:
    """Rollout files as people write them."""
    files = [_EXAMPLES / name for name in ("firmware.toml", "gate-trips.toml", "flow.toml")]
    return [*(("toml", path.read_bytes()) for path in files), ("toml", _TOML.encode()), ("yaml", _YAML.encode())]
