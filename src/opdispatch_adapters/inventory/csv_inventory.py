"""An inventory in a directory of CSV files, of one common shape:

* ``racks.csv``: rack_uuid, rack_id, name, site, room, row, position, group, status, u_height
* ``devices.csv``: device_uuid, device_id, rack_uuid, rack_id, name, type, source_type, position, source_position,
  height_u, status
* ``power.csv``, which may be absent: rack_uuid, rack_id, device_id, feed, domain, role

Every column must be there; an empty cell means that the source does not say.  Ids, names, places, ``group``,
rack ``status``, ``type`` and ``domain`` are read and checked; the other columns are not looked into.  A rack's
components are its devices, by ``type``, whatever the types are; its labels are ``group``, ``status`` and
``power_domain``, the last with every domain of the rack and of its devices.

A record that cannot be used is an error, never a gap: a rack that silently lost a device would be a target
that is half done.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final
from uuid import UUID

from opdispatch.candidate import Candidate, Scope
from opdispatch.errors import InvalidInput
from opdispatch.identity import ComponentId, RackId

from .table import Problems, Record, read_table

RACKS: Final = ("rack_uuid", "rack_id", "name", "site", "room", "row", "position", "group", "status", "u_height")
DEVICES: Final = (
    "device_uuid",
    "device_id",
    "rack_uuid",
    "rack_id",
    "name",
    "type",
    "source_type",
    "position",
    "source_position",
    "height_u",
    "status",
)
POWER: Final = ("rack_uuid", "rack_id", "device_id", "feed", "domain", "role")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What an inventory holds.  Counts are >= 0; texts are in text order."""

    racks: int
    devices: Mapping[str, int]
    """Devices by type."""
    sites: tuple[str, ...]
    rows: int
    """Rows that hold a rack; a row is a site, room and row together."""
    power_domains: tuple[str, ...]
    racks_without_row: int
    racks_without_components: int


@dataclass(slots=True, kw_only=True)
class _Rack:
    """A rack while its files are read."""

    id: RackId
    source_id: str
    name: str
    site: str | None
    room: str | None
    row: str | None
    position: str | None
    labels: dict[str, tuple[str, ...]]
    components: defaultdict[str, list[ComponentId]] = field(default_factory=lambda: defaultdict(list))

    def candidate(self) -> Candidate:
        return Candidate(
            id=self.id,
            name=self.name,
            components={kind: tuple(ids) for kind, ids in self.components.items()},
            site=self.site,
            room=self.room,
            row=self.row,
            position=self.position,
            labels=self.labels,
        )


class CsvInventory:
    """``opdispatch.ports.Inventory`` over a directory.  Every call reads the files as they are then.

    Each method raises InvalidInput with all that is wrong with the files (past a cap, with the count of the
    rest).  Cost: linear in the size of the files, which are held in memory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def candidates(self, scope: Scope, limit: int | None = None) -> Sequence[Candidate]:
        """The racks in scope, by id; at most ``limit`` (>= 0).  Racks without devices have no components."""
        if limit is not None and limit < 0:
            raise InvalidInput.at("limit", f"{limit} is below 0")
        return tuple(sorted(scope.of(self._read()), key=lambda candidate: str(candidate.id))[:limit])

    def check(self) -> Summary:
        """Read everything and tell what is there."""
        racks = self._read()
        devices: Counter[str] = Counter()
        for rack in racks:
            devices.update({kind: len(ids) for kind, ids in rack.components.items()})
        return Summary(
            racks=len(racks),
            devices=MappingProxyType(dict(sorted(devices.items()))),
            sites=tuple(sorted({rack.site for rack in racks if rack.site is not None})),
            rows=len({(rack.site, rack.room, rack.row) for rack in racks if rack.row is not None}),
            power_domains=tuple(sorted({d for rack in racks for d in rack.labels.get("power_domain", ())})),
            racks_without_row=sum(rack.row is None for rack in racks),
            racks_without_components=sum(not rack.components for rack in racks),
        )

    def _read(self) -> list[Candidate]:
        try:
            is_there = self._directory.is_dir()
        except OSError as error:
            # A directory above it that cannot be entered.
            raise InvalidInput.at(str(self._directory), f"it cannot be read: {error.strerror}", "mend it") from error
        if not is_there:
            raise InvalidInput.at(str(self._directory), "there is no such inventory directory")
        reading = _Reading(self._directory)
        reading.racks()
        reading.devices()
        reading.power()
        reading.problems.raise_if_any()
        if not reading.by_id:
            raise InvalidInput.at("racks.csv", "the inventory has no rack", "add one line for each rack")
        return [rack.candidate() for rack in reading.by_id.values()]


class _Reading:
    """One pass over the files: racks first, because the others refer to them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.problems = Problems()
        self.by_id: dict[UUID, _Rack] = {}
        self._by_source_id: dict[str, _Rack] = {}
        self._by_texts: dict[tuple[str, str], _Rack] = {}
        """Racks by both ids as they were written in a sound reference: most references are repeated."""
        self._rack_lines: dict[UUID, int] = {}
        self._complete = True
        """False once a rack could not be read: then an unknown rack is a consequence, not a second error."""
        self._device_lines: dict[UUID, int] = {}
        self._device_racks: dict[str, _Rack] | None = {}

    def racks(self) -> None:
        records = read_table(self._directory / "racks.csv", RACKS, self.problems)
        before = self.problems.count
        for record in records or ():
            self._rack(record)
        self._complete = records is not None and self.problems.count == before

    def _rack(self, record: Record) -> None:
        rack_id = record.uuid("rack_uuid")
        labels = {name: record.known(name) for name in ("group", "status")}
        rack = _Rack(
            id=RackId(rack_id or UUID(int=0)),
            source_id=record.text("rack_id"),
            name=record.text("name"),
            site=record.known("site"),
            room=record.known("room"),
            row=record.known("row"),
            position=record.known("position"),
            labels={name: (text,) for name, text in labels.items() if text is not None},
        )
        if rack_id is None:
            return
        if rack_id in self.by_id:
            first = self._rack_lines[rack_id]
            record.refuse("rack_uuid", f"{rack_id} is on line {first} too", "describe each rack on one line")
            return
        if rack.source_id and rack.source_id in self._by_source_id:
            other = self._by_source_id[rack.source_id].id
            record.refuse("rack_id", f"{rack.source_id!r} is also the rack_id of rack {other}", "make them differ")
        self._rack_lines[rack_id] = record.line
        self.by_id[rack_id] = rack
        self._by_source_id[rack.source_id] = rack

    def _rack_of(self, record: Record) -> _Rack | None:
        """The rack that a record refers to, by both of its ids; None, and a problem, when there is none."""
        texts = (record.raw("rack_uuid"), record.raw("rack_id"))
        if texts in self._by_texts:
            return self._by_texts[texts]
        rack_id, source_id = record.uuid("rack_uuid"), record.text("rack_id")
        if rack_id is None:
            return None
        rack = self.by_id.get(rack_id)
        if rack is None:
            if self._complete:
                record.refuse("rack_uuid", f"racks.csv has no rack {rack_id}", "add the rack, or correct the id")
            return None
        if source_id and rack.source_id != source_id:
            found = f"{source_id!r}, but rack {rack_id} is {rack.source_id!r} in racks.csv"
            record.refuse("rack_id", found, "correct one of the two")
            return None
        if source_id:
            self._by_texts[texts] = rack
        return rack

    def devices(self) -> None:
        records = read_table(self._directory / "devices.csv", DEVICES, self.problems)
        if records is None:
            self._device_racks = None
            return
        before = self.problems.count
        known: dict[str, _Rack] = {}
        for record in records:
            self._device(record, known)
        self._device_racks = known if self.problems.count == before and self._complete else None

    def _device(self, record: Record, known: dict[str, _Rack]) -> None:
        device_id, source_id = record.uuid("device_uuid"), record.text("device_id")
        kind = record.text("type")
        rack = self._rack_of(record)
        if device_id is not None:
            first = self._device_lines.setdefault(device_id, record.line)
            if first != record.line:
                found = f"{device_id} is on line {first} too"
                record.refuse("device_uuid", found, "describe each device on one line")
        if source_id in known:
            record.refuse("device_id", f"{source_id!r} is another device's too", "make them differ")
        if rack is not None and device_id is not None and record.is_sound:
            rack.components[kind].append(ComponentId(device_id))
            known[source_id] = rack

    def power(self) -> None:
        path = self._directory / "power.csv"
        if not path.exists():
            return
        domains: defaultdict[UUID, set[str]] = defaultdict(set)
        for record in read_table(path, POWER, self.problems) or ():
            rack, domain, device = self._rack_of(record), record.known("domain"), record.known("device_id")
            if rack is None:
                continue
            if device is not None and self._device_racks is not None:
                found = self._device_racks.get(device)
                if found is None:
                    record.refuse("device_id", f"devices.csv has no device {device!r}", "correct the id")
                elif found is not rack:
                    where = f"device {device!r} is in rack {found.source_id!r}"
                    record.refuse("device_id", where, "correct one of the two")
            if domain is not None:
                domains[rack.id].add(domain)
        for rack_id, names in domains.items():
            self.by_id[rack_id].labels["power_domain"] = tuple(sorted(names))
