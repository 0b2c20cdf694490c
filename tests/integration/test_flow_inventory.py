"""Flow as an inventory: racks in a stable order from pages that have none, and what is asked of the service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final
from uuid import UUID

import grpc
import pytest

from opdispatch.candidate import Scope
from opdispatch.errors import InvalidInput, Unavailable
from opdispatch_adapters.flow.client import FlowInventory, FlowSettings, FlowTasks
from opdispatch_adapters.flow.client.channel import CallRefused, FlowChannel
from opdispatch_adapters.flow.client.inventory import Place
from opdispatch_adapters.flow.component_types import ComponentTypes
from opdispatch_adapters.flow.standin import Fault, FaultKind, Faults, StandIn, site_of
from opdispatch_adapters.flow.wire import flow_pb2 as wire
from opdispatch_adapters.flow.wire import flow_pb2_grpc
from tests.racks import component, rack, rack_id

TYPES: Final = ComponentTypes({"compute": "Compute"})
Change = Callable[[str, Any, Any], None]


@pytest.fixture
def standin() -> Iterator[StandIn]:
    known = [
        rack(
            n,
            {"compute": (component(n), component(100 + n))},
            site="dc",
            room="hall",
            row="A",
            position=str(n),
            labels={"pod": (f"pod-{n % 10}",)},
        )
        for n in range(1, 31)
    ]
    with StandIn(site_of(known, TYPES.flow_type, domain_label="pod"), faults=Faults()) as started:
        yield started


@pytest.fixture
def channel(standin: StandIn) -> Iterator[FlowChannel]:
    with FlowTasks(FlowSettings(address=standin.address, page=7)) as tasks:
        yield tasks.channel


@pytest.fixture
def asked(channel: FlowChannel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What the service was asked for, in order."""
    found: list[tuple[str, Any]] = []
    _changed(channel, monkeypatch, lambda method, request, reply: found.append((method, request)))
    return found


def _changed(channel: FlowChannel, monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """Let a test see each reply, and change it, before the inventory does."""
    read = channel.read

    def through(method: str, request: Any, until: float | None = None) -> Any:
        reply = read(method, request, until)
        change(method, request, reply)
        return reply

    monkeypatch.setattr(channel, "read", through)


def test_racks_come_in_order_whatever_the_pages_are(channel: FlowChannel) -> None:
    racks = FlowInventory(channel, Place(pattern=r"(?P<row>\w+)/(?P<position>\d+)"))

    found = racks.candidates(Scope())

    assert [one.id for one in found] == sorted((rack_id(n) for n in range(1, 31)), key=str)
    first = found[0]
    assert (first.name, first.site, first.room, first.row, first.position) == ("r1", "dc", "hall", "A", "1")
    assert dict(first.components) == {"Compute": (component(1), component(101))}
    assert racks.candidates(Scope(rows=("B",))) == []


def test_the_whole_text_is_the_position_where_no_pattern_is_given(channel: FlowChannel) -> None:
    first = FlowInventory(channel).candidates(Scope())[0]

    assert (first.row, first.position) == (None, "A/1")
    assert first.labels["manufacturer"] == ("stand-in",)


def test_the_service_cuts_the_list_where_nothing_narrows_it(channel: FlowChannel, asked: list[tuple[str, Any]]) -> None:
    # The service knows no order by id: the first three are those by name.
    assert [one.name for one in FlowInventory(channel).candidates(Scope(), limit=3)] == ["r1", "r10", "r11"]
    assert [method for method, _ in asked].count("GetListOfRacks") == 1
    # A scope that the service does not know may be met by the last rack alone.
    placed = FlowInventory(channel, Place(pattern=r"(?P<row>\w/9)"))
    assert [one.name for one in placed.candidates(Scope(rows=("A/9",)), limit=1)] == ["r9"]


def test_racks_that_are_named_are_asked_for_alone(channel: FlowChannel, asked: list[tuple[str, Any]]) -> None:
    named = Scope(racks=("r7", str(rack_id(2)), "nowhere", str(UUID(int=404))))

    assert [one.name for one in FlowInventory(channel).candidates(named)] == ["r2", "r7"]
    (listed,) = (request for method, request in asked if method == "GetListOfRacks")
    assert list(listed.filters[0].query_info.patterns) == ["r7", "nowhere"]


def test_a_rack_that_is_named_more_than_once_comes_once(channel: FlowChannel) -> None:
    twice = Scope(racks=("r2", str(rack_id(2)), "r7", str(rack_id(2))))

    assert [one.name for one in FlowInventory(channel).candidates(twice)] == ["r2", "r7"]


def test_a_domain_is_a_label_by_its_name_and_by_its_id(channel: FlowChannel) -> None:
    racks = FlowInventory(channel)

    by_name = racks.candidates(Scope(labels={"nvl_domain": ("pod-1",)}))

    assert [one.name for one in by_name] == ["r1", "r11", "r21"]
    domain_id, name = by_name[0].labels["nvl_domain"]
    assert name == "pod-1"
    assert racks.candidates(Scope(labels={"nvl_domain": (domain_id,)})) == by_name


def test_a_page_that_missed_some_is_made_up_for(channel: FlowChannel, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = {"GetListOfNVLDomains": 1, "GetListOfRacks": 1}

    def missing(method: str, request: Any, reply: Any) -> None:
        if cut.get(method, 0) > 0:
            cut[method] -= 1
            del (reply.nvl_domains if method == "GetListOfNVLDomains" else reply.racks)[:3]

    _changed(channel, monkeypatch, missing)

    found = FlowInventory(channel).candidates(Scope())

    assert len(found) == 30
    assert {one.labels["nvl_domain"][1] for one in found} == {f"pod-{n}" for n in range(10)}
    assert cut == {"GetListOfNVLDomains": 0, "GetListOfRacks": 0}


@pytest.mark.parametrize(
    ("method", "told"), [("GetListOfNVLDomains", "10 NVLink domains"), ("GetListOfRacks", "30 racks")]
)
def test_a_list_that_never_comes_to_its_total_is_not_believed(
    channel: FlowChannel, monkeypatch: pytest.MonkeyPatch, method: str, told: str
) -> None:
    def more(called: str, request: Any, reply: Any) -> None:
        if called == method:
            reply.total += 1

    _changed(channel, monkeypatch, more)

    with pytest.raises(Unavailable, match=f"it lists {told} and says that there are more"):
        FlowInventory(channel).candidates(Scope())


def test_a_rack_of_a_type_that_nobody_knows_is_refused(channel: FlowChannel, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(method: str, request: Any, reply: Any) -> None:
        if method == "GetListOfRacks":
            reply.racks[0].components[1].type = 77

    _changed(channel, monkeypatch, odd)

    with pytest.raises(InvalidInput, match=r"components\[1\]: its type 77 is unknown"):
        FlowInventory(channel).candidates(Scope())


def test_a_component_is_found_by_the_id_of_the_core_service(channel: FlowChannel, standin: StandIn) -> None:
    racks = FlowInventory(channel)

    assert racks.component_of("Compute", f"core-{component(2)}") == component(2)
    assert racks.component_of("Compute", "core-0") is None
    assert racks.component_of("CDU", f"core-{component(2)}") is None
    with pytest.raises(InvalidInput, match=r"external\.type: 'lamp' is no type of Flow; use one of Compute, "):
        racks.component_of("lamp", "core-0")
    standin.faults.set([Fault(kind=FaultKind.TWICE, methods="*")])
    assert racks.component_of("Compute", f"core-{component(2)}") == component(2)
    standin.faults.set([Fault(kind=FaultKind.REFUSE, methods="*", code="INTERNAL", text="database is down")])
    with pytest.raises(Unavailable, match="database is down") as raised:
        racks.component_of("Compute", f"core-{component(2)}")
    assert isinstance(raised.value.__cause__, CallRefused)


def test_an_inventory_that_is_gone_is_unavailable(channel: FlowChannel, standin: StandIn) -> None:
    standin.stop()

    with pytest.raises(Unavailable, match="the inventory of Flow is not available"):
        FlowInventory(channel).candidates(Scope())


def test_the_service_tells_its_version(standin: StandIn) -> None:
    with grpc.insecure_channel(standin.address) as plain:
        assert flow_pb2_grpc.FlowStub(plain).Version(wire.VersionRequest()).version == "stand-in"
