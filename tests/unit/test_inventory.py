"""The CSV inventory: what it reads, and that it refuses everything else with its place."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import pytest

from opdispatch.candidate import Scope
from opdispatch.errors import InvalidInput
from opdispatch.ports import Inventory
from opdispatch_adapters.inventory import CsvInventory
from tests.racks import component, places, rack_id

EXAMPLES = Path(__file__).parents[2] / "examples" / "inventory"

RACKS = "rack_uuid,rack_id,name,site,room,row,position,group,status,u_height\n"
DEVICES = "device_uuid,device_id,rack_uuid,rack_id,name,type,source_type,position,source_position,height_u,status\n"
POWER = "rack_uuid,rack_id,device_id,feed,domain,role\n"


def rack_line(number: int, rest: str = "site,room,1,7,cell 1,active,42") -> str:
    return f"{rack_id(number)},{number},r{number},{rest}\n"


def device_line(number: int, in_rack: int, kind: str = "compute") -> str:
    return f"{component(number)},d{number},{rack_id(in_rack)},{in_rack},,{kind},,,,,\n"


def power_line(in_rack: int, domain: str, device: str = "") -> str:
    return f"{rack_id(in_rack)},{in_rack},{device},,{domain},\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Two racks in one row, one device each, and power for the first."""
    write(tmp_path, "racks", RACKS + rack_line(1) + rack_line(2))
    write(tmp_path, "devices", DEVICES + device_line(1, 1) + device_line(2, 2))
    write(tmp_path, "power", POWER + power_line(1, "A"))
    return tmp_path


def write(directory: Path, file: str, content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (directory / f"{file}.csv").write_bytes(data)


def problems(directory: Path) -> list[str]:
    with pytest.raises(InvalidInput) as error:
        CsvInventory(directory).check()
    return [str(problem) for problem in error.value.problems]


def test_it_is_an_inventory(directory: Path) -> None:
    inventory: Inventory = CsvInventory(directory)

    assert len(inventory.candidates(Scope())) == 2


def test_a_rack_is_read_with_its_place(directory: Path) -> None:
    found = CsvInventory(directory).candidates(Scope())[0]

    assert (found.id, found.name, found.site, found.room, found.row, found.position) == (
        rack_id(1),
        "r1",
        "site",
        "room",
        "1",
        "7",
    )


def test_devices_are_components_by_type(directory: Path) -> None:
    write(directory, "devices", DEVICES + device_line(1, 1) + device_line(3, 1, "switch") + device_line(2, 1))

    assert CsvInventory(directory).candidates(Scope())[0].components == {
        "compute": (component(1), component(2)),
        "switch": (component(3),),
    }


def test_group_status_and_power_domain_are_labels(directory: Path) -> None:
    assert CsvInventory(directory).candidates(Scope())[0].labels == {
        "group": ("cell 1",),
        "power_domain": ("A",),
        "status": ("active",),
    }


def test_a_rack_has_every_power_domain_of_its_own_and_of_its_devices(directory: Path) -> None:
    write(directory, "power", POWER + power_line(1, "B") + power_line(1, "A", "d1") + power_line(1, "B"))

    assert CsvInventory(directory).candidates(Scope())[0].labels["power_domain"] == ("A", "B")


def test_a_power_line_without_a_domain_says_nothing(directory: Path) -> None:
    write(directory, "power", POWER + power_line(1, ""))

    assert "power_domain" not in CsvInventory(directory).candidates(Scope())[0].labels


def test_an_empty_cell_is_none(directory: Path) -> None:
    write(directory, "racks", RACKS + rack_line(1, ",,,,,,") + rack_line(2))

    found = CsvInventory(directory).candidates(Scope())[0]

    assert (found.site, found.room, found.row, found.position, "group" in found.labels) == (
        None,
        None,
        None,
        None,
        False,
    )


def test_racks_come_in_order_of_id(directory: Path) -> None:
    write(directory, "racks", RACKS + rack_line(2) + rack_line(1))

    assert [found.name for found in CsvInventory(directory).candidates(Scope())] == ["r1", "r2"]


def test_only_racks_in_scope_come(directory: Path) -> None:
    scope = Scope(labels={"power_domain": ("A",)})

    assert [found.name for found in CsvInventory(directory).candidates(scope)] == ["r1"]


def test_component_types_are_not_narrowed(directory: Path) -> None:
    assert len(CsvInventory(directory).candidates(Scope(component_types=("switch",)))) == 2


@pytest.mark.parametrize(("limit", "count"), [(0, 0), (1, 1), (9, 2)])
def test_at_most_so_many_racks_come(directory: Path, limit: int, count: int) -> None:
    assert len(CsvInventory(directory).candidates(Scope(), limit)) == count


def test_a_limit_below_zero_is_refused(directory: Path) -> None:
    with pytest.raises(InvalidInput, match="limit: -1 is below 0"):
        CsvInventory(directory).candidates(Scope(), -1)


def test_a_rack_without_devices_is_a_candidate_without_components(directory: Path) -> None:
    write(directory, "devices", DEVICES)

    assert [dict(found.components) for found in CsvInventory(directory).candidates(Scope())] == [{}, {}]


def test_power_may_be_absent(directory: Path) -> None:
    (directory / "power.csv").unlink()

    assert CsvInventory(directory).check().power_domains == ()


def test_columns_may_come_in_any_order(directory: Path) -> None:
    write(
        directory,
        "power",
        f"domain,role,feed,device_id,rack_id,rack_uuid\nZ,,,,1,{rack_id(1)}\n",
    )

    assert CsvInventory(directory).check().power_domains == ("Z",)


def test_a_byte_order_mark_is_accepted(directory: Path) -> None:
    write(directory, "racks", b"\xef\xbb\xbf" + (RACKS + rack_line(1) + rack_line(2)).encode())

    assert CsvInventory(directory).check().racks == 2


def test_line_ends_may_be_those_of_other_systems(directory: Path) -> None:
    write(directory, "racks", (RACKS + rack_line(1) + rack_line(2)).replace("\n", "\r\n"))

    assert CsvInventory(directory).check().racks == 2


def test_files_are_read_anew_at_each_call(directory: Path) -> None:
    inventory = CsvInventory(directory)
    before = inventory.check().racks

    write(directory, "racks", RACKS + rack_line(1) + rack_line(2) + rack_line(3))

    assert (before, inventory.check().racks) == (2, 3)


def test_a_check_tells_what_is_there(directory: Path) -> None:
    write(directory, "racks", RACKS + rack_line(1) + rack_line(2, ",,,,,,") + rack_line(3))
    write(directory, "devices", DEVICES + device_line(1, 1) + device_line(2, 2, "switch") + device_line(3, 2))

    summary = CsvInventory(directory).check()

    assert (summary.racks, summary.devices, summary.sites, summary.rows) == (
        3,
        {"compute": 2, "switch": 1},
        ("site",),
        1,
    )
    assert (summary.power_domains, summary.racks_without_row, summary.racks_without_components) == (("A",), 1, 1)


def test_a_real_inventory_has_its_published_counts() -> None:
    summary = CsvInventory(EXAMPLES / "leonardo").check()

    assert (summary.racks, summary.devices, summary.rows, len(summary.power_domains)) == (
        138,
        {"compute": 4992, "switch": 392},
        8,
        13,
    )


def test_the_first_rack_of_the_real_inventory_has_its_published_id() -> None:
    found = CsvInventory(EXAMPLES / "leonardo").candidates(Scope(racks=("1",)))[0]

    assert found.id == UUID("b1a53285-7c3d-5570-9fe5-89a84ecd5760")


def test_the_demonstration_inventory_has_its_published_counts() -> None:
    summary = CsvInventory(EXAMPLES / "netbox-demo").check()

    assert (summary.racks, sum(summary.devices.values()), len(summary.sites)) == (42, 72, 17)
    assert (summary.racks_without_row, summary.racks_without_components) == (18, 18)


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert problems(tmp_path / "gone") == [f"{tmp_path / 'gone'}: there is no such inventory directory"]


def test_an_inventory_without_racks_is_refused(directory: Path) -> None:
    for file, header in (("racks", RACKS), ("devices", DEVICES), ("power", POWER)):
        write(directory, file, header)

    assert problems(directory) == ["racks.csv: the inventory has no rack; add one line for each rack"]


@pytest.mark.parametrize("file", ["racks", "devices"])
def test_a_file_that_is_missing_is_told(directory: Path, file: str) -> None:
    (directory / f"{file}.csv").unlink()

    assert problems(directory) == [f"{file}.csv: there is no such file in {str(directory)!r}"]


def test_a_directory_in_place_of_a_file_is_told(directory: Path) -> None:
    (directory / "power.csv").unlink()
    (directory / "power.csv").mkdir()

    assert problems(directory) == ["power.csv: it cannot be read: Is a directory"]


def test_a_directory_that_cannot_be_entered_is_told(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuses)

    assert problems(directory) == [f"{directory}: it cannot be read: Permission denied; mend it"]


def test_an_empty_file_is_told(directory: Path) -> None:
    write(directory, "power", "")

    assert problems(directory) == [
        "power.csv:1: the file has no header; begin it with rack_uuid,rack_id,device_id,feed,domain,role"
    ]


def test_missing_unknown_and_doubled_columns_are_all_told(directory: Path) -> None:
    write(directory, "power", "rack_uuid,rack_id,device_id,role,role,colour\n")

    assert problems(directory) == [
        "power.csv:1:feed: the column is missing; add it; its cells may be empty",
        "power.csv:1:domain: the column is missing; add it; its cells may be empty",
        "power.csv:1:role: the column is there 2 times; keep one",
        "power.csv:1:colour: there is no such column; known: rack_uuid, rack_id, device_id, feed, domain, role",
    ]


def test_a_line_with_too_few_cells_is_told(directory: Path) -> None:
    write(directory, "power", POWER + f"{rack_id(1)},1\n")

    assert problems(directory) == ["power.csv:2: 2 cells, and the header has 6 columns"]


def test_an_empty_line_is_told(directory: Path) -> None:
    write(directory, "power", POWER + power_line(1, "A") + "\n" + power_line(2, "A"))

    assert problems(directory) == ["power.csv:3: the line is empty; remove it"]


def test_the_line_is_that_on_which_the_record_starts(directory: Path) -> None:
    write(directory, "racks", RACKS + rack_line(1, '"two\nlines",,,,,,') + rack_line(2) + 'x,3,"r\n3",,,,,,,\n')

    assert problems(directory)[0].startswith("racks.csv:5:rack_uuid: 'x' is not a UUID")


def test_a_quote_that_is_never_closed_is_told_where_its_record_starts(directory: Path) -> None:
    write(directory, "racks", RACKS + rack_line(1) + '"' + rack_line(2))

    assert problems(directory) == [
        "racks.csv:3: it is not CSV: unexpected end of data; what follows was not read; look for a quote"
    ]


def test_a_header_that_is_not_csv_is_told(directory: Path) -> None:
    write(directory, "power", '"a"b\n')

    assert problems(directory) == ["power.csv:1: it is not CSV: ',' expected after '\"'"]


def test_a_byte_that_is_not_utf_8_is_told_with_its_line(directory: Path) -> None:
    write(directory, "racks", RACKS.encode() + rack_line(1).encode() + b"caf\xe9\n")

    assert problems(directory) == ["racks.csv:3: it is not UTF-8: byte 0xe9; save the file as UTF-8"]


def test_a_nul_is_told_with_its_line(directory: Path) -> None:
    write(directory, "racks", RACKS + rack_line(1) + "\0\n")

    assert problems(directory) == ["racks.csv:3: it holds a NUL byte; save the file as UTF-8 text"]


@pytest.mark.parametrize(
    "text", ["", "x", "{00000001-0000-4000-8000-000000000001}", "00000001000040008000000000000001"]
)
def test_what_is_not_a_uuid_is_told(directory: Path, text: str) -> None:
    write(directory, "power", POWER + f"{text},1,,,,\n")

    assert problems(directory) == [
        f"power.csv:2:rack_uuid: {text!r} is not a UUID; write it as 8-4-4-4-12 hexadecimal digits"
    ]


@pytest.mark.parametrize(
    ("line", "column"),
    [(f"{rack_id(3)},,r3,,,,,,,\n", "rack_id"), (f"{rack_id(3)},3,,,,,,,,\n", "name")],
    ids=["rack_id", "name"],
)
def test_a_rack_needs_an_id_and_a_name(directory: Path, line: str, column: str) -> None:
    write(directory, "racks", RACKS + rack_line(1) + rack_line(2) + line)

    assert problems(directory) == [f"racks.csv:4:{column}: it is empty; every record needs one"]


def test_a_device_needs_a_type(directory: Path) -> None:
    write(directory, "devices", DEVICES + device_line(1, 1, ""))

    assert problems(directory) == ["devices.csv:2:type: it is empty; every record needs one"]


def test_a_blank_that_cannot_be_seen_is_told(directory: Path) -> None:
    write(directory, "racks", RACKS + rack_line(1, ",,1 ,,,,") + rack_line(2))

    assert problems(directory) == ["racks.csv:2:row: '1 ' begins or ends with a blank; remove the blank"]


def test_a_rack_on_two_lines_is_told(directory: Path) -> None:
    write(directory, "racks", RACKS + rack_line(1) + rack_line(2) + rack_line(1))

    assert problems(directory) == [
        f"racks.csv:4:rack_uuid: {rack_id(1)} is on line 2 too; describe each rack on one line"
    ]


def test_a_rack_id_on_two_racks_is_told(directory: Path) -> None:
    write(directory, "racks", RACKS + rack_line(1) + rack_line(2) + f"{rack_id(3)},1,r3,,,,,,,\n")

    assert problems(directory) == [
        f"racks.csv:4:rack_id: '1' is also the rack_id of rack {rack_id(1)}; make them differ"
    ]


def test_a_device_on_two_lines_is_told(directory: Path) -> None:
    write(directory, "devices", DEVICES + device_line(1, 1) + device_line(1, 2).replace("d1", "d9"))

    assert f"devices.csv:3:device_uuid: {component(1)} is on line 2 too; describe each device on one line" in (
        problems(directory)
    )


def test_a_device_id_on_two_devices_is_told(directory: Path) -> None:
    write(directory, "devices", DEVICES + device_line(1, 1) + device_line(2, 2).replace("d2", "d1"))

    assert problems(directory) == ["devices.csv:3:device_id: 'd1' is another device's too; make them differ"]


def test_a_device_without_a_uuid_is_told(directory: Path) -> None:
    write(directory, "devices", DEVICES + device_line(1, 1).replace(str(component(1)), ""))

    assert places_of(directory) == ["devices.csv:2:device_uuid"]


def test_a_device_in_a_rack_that_is_not_there_is_told(directory: Path) -> None:
    write(directory, "devices", DEVICES + device_line(1, 7))

    assert problems(directory) == [
        f"devices.csv:2:rack_uuid: racks.csv has no rack {rack_id(7)}; add the rack, or correct the id"
    ]


def test_ids_of_two_racks_in_one_record_are_told(directory: Path) -> None:
    write(directory, "devices", DEVICES + device_line(1, 1).replace(",1,,compute", ",2,,compute"))

    assert problems(directory) == [
        f"devices.csv:2:rack_id: '2', but rack {rack_id(1)} is '1' in racks.csv; correct one of the two"
    ]


def test_power_for_a_rack_that_is_not_there_is_told(directory: Path) -> None:
    write(directory, "power", POWER + power_line(7, "A"))

    assert places_of(directory) == ["power.csv:2:rack_uuid"]


def test_power_for_a_device_that_is_not_there_is_told(directory: Path) -> None:
    write(directory, "power", POWER + power_line(1, "A", "d9"))

    assert problems(directory) == ["power.csv:2:device_id: devices.csv has no device 'd9'; correct the id"]


def test_power_for_a_device_in_another_rack_is_told(directory: Path) -> None:
    write(directory, "power", POWER + power_line(1, "A", "d2"))

    assert problems(directory) == ["power.csv:2:device_id: device 'd2' is in rack '2'; correct one of the two"]


def test_a_rack_that_could_not_be_read_does_not_make_its_devices_wrong(directory: Path) -> None:
    write(directory, "racks", RACKS + rack_line(1) + rack_line(2).replace(str(rack_id(2)), "x"))

    assert places_of(directory) == ["racks.csv:3:rack_uuid"]


def test_devices_that_could_not_be_read_do_not_make_power_wrong(directory: Path) -> None:
    (directory / "devices.csv").unlink()
    write(directory, "power", POWER + power_line(1, "A", "d1"))

    assert places_of(directory) == ["devices.csv"]


def test_the_problems_of_all_files_are_told_at_once(directory: Path) -> None:
    write(directory, "racks", RACKS + rack_line(1) + rack_line(2, ",, ,,,,"))
    write(directory, "devices", DEVICES + device_line(1, 1, "") + "x\n")
    write(directory, "power", POWER + power_line(1, "A").replace("1,,,", ",,,"))

    assert places_of(directory) == [
        "racks.csv:3:row",
        "devices.csv:2:type",
        "devices.csv:3",
        "power.csv:2:rack_id",
    ]


def test_past_a_screenful_problems_are_counted(directory: Path) -> None:
    write(directory, "power", POWER + "x\n" * 60)

    told = problems(directory)

    assert (len(told), told[-1]) == (51, "and 10 more problems; mend these first")


def places_of(directory: Path) -> list[str]:
    with pytest.raises(InvalidInput) as error:
        CsvInventory(directory).check()
    return places(error.value)


def test_a_pipe_in_the_place_of_a_table_is_refused_and_not_waited_for(directory: Path) -> None:
    (directory / "racks.csv").unlink()
    os.mkfifo(directory / "racks.csv")

    assert problems(directory) == ["racks.csv: it is not a regular file; put the table there"]
