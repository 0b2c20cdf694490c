"""The stand-in through a real channel: Flow's errors, row by row, and its ways with racks, pages and tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid5

import grpc
import pytest

from opdispatch.candidate import Candidate
from opdispatch.errors import CorruptRecord
from opdispatch.identity import ComponentId, RackId
from opdispatch_adapters.flow.standin import Fates, Fault, FaultKind, Part, Site, SiteRack, StandIn, site_of
from opdispatch_adapters.flow.standin.site import _DOMAINS
from opdispatch_adapters.flow.wire import flow_pb2 as wire
from opdispatch_adapters.flow.wire import flow_pb2_grpc
from tests.integration.waiting import eventually

Stub = flow_pb2_grpc.FlowStub
UNKNOWN, NOT_FOUND = grpc.StatusCode.UNKNOWN, grpc.StatusCode.NOT_FOUND
INVALID, INTERNAL = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL
NOBODY, NIL = UUID(int=404), UUID(int=0)
TRAY: Final = UUID(int=11)
FAILED: Final = "failed to create any tasks"


def _racks() -> list[Candidate]:
    def one(number: int, name: str, **more: Any) -> Candidate:
        trays = {"Compute": (ComponentId(UUID(int=10 + number)),), "NVSwitch": (ComponentId(UUID(int=20 + number)),)}
        return Candidate(id=RackId(UUID(int=number)), name=name, components=more.pop("components", trays), **more)

    return [
        one(1, "r1", labels={"pod": ("pod-1",)}, site="dc", room="hall", row="A", position="1"),
        one(2, "r2", labels={"pod": ("pod-1",)}),
        one(3, "twin"),
        one(4, "twin"),
        one(5, "bare", components={}),
    ]


DOMAIN: Final = uuid5(_DOMAINS, "pod-1")


@pytest.fixture
def standin() -> Iterator[StandIn]:
    site = site_of(_racks(), lambda kind: kind, domain_label="pod")
    with StandIn(site, Fates(duration=timedelta(hours=1))) as started:
        yield started


@pytest.fixture
def stub(standin: StandIn) -> Iterator[Stub]:
    with grpc.insecure_channel(standin.address) as channel:
        yield Stub(channel)


def _told(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    found: Any = error.value
    return found.code(), found.details()


def _spec(**targets: Any) -> wire.OperationTargetSpec:
    kinds: dict[str, Any] = {
        "racks": wire.RackTargets,
        "components": wire.ComponentTargets,
        "nvl_domains": wire.NVLDomainTargets,
    }
    return wire.OperationTargetSpec(**{name: kinds[name](targets=given) for name, given in targets.items()})


def _id(value: UUID | str) -> wire.UUID:
    return wire.UUID(id=str(value))


def _upgrade(spec: wire.OperationTargetSpec | None = None, **more: Any) -> wire.UpgradeFirmwareRequest:
    return wire.UpgradeFirmwareRequest(target_spec=spec, target_version="2", **more)


RACK: Final = "convert rack target:"
COMPONENT: Final = "convert component target:"
RESOLVE: Final = "failed to resolve rack target: failed to get rack by identifier"
SUBMISSIONS: Final[list[tuple[Any, grpc.StatusCode, str]]] = [
    (None, UNKNOWN, "target_spec is required"),
    (_spec(), UNKNOWN, "target_spec must have one of racks, nvl_domains, or components set"),
    (_spec(racks=[]), UNKNOWN, "racks.targets must have at least one entry"),
    (_spec(components=[]), UNKNOWN, "components.targets must have at least one entry"),
    (_spec(nvl_domains=[]), UNKNOWN, "nvl_domains.targets must have at least one entry"),
    (
        _spec(racks=[wire.RackTarget(id=_id("r1"))]),
        UNKNOWN,
        f'{RACK} invalid rack id "r1": invalid UUID length: 2',
    ),
    (_spec(racks=[wire.RackTarget()]), UNKNOWN, f"{RACK} rack target must have either id or name set"),
    (_spec(racks=[wire.RackTarget(name="")]), UNKNOWN, f"{RACK} rack target name must not be empty"),
    (
        _spec(racks=[wire.RackTarget(name="r1", component_types=[wire.COMPONENT_TYPE_UNKNOWN])]),
        UNKNOWN,
        f"{RACK} unknown component type COMPONENT_TYPE_UNKNOWN in rack target filter",
    ),
    (
        _spec(components=[wire.ComponentTarget(id=_id("c"))]),
        UNKNOWN,
        f'{COMPONENT} invalid component uuid "c": invalid UUID length: 1',
    ),
    (
        _spec(components=[wire.ComponentTarget()]),
        UNKNOWN,
        f"{COMPONENT} component target must have either uuid or external set",
    ),
    (
        _spec(components=[wire.ComponentTarget(external=wire.ExternalRef(id="x"))]),
        UNKNOWN,
        f"{COMPONENT} external component type must not be unknown",
    ),
    (
        _spec(components=[wire.ComponentTarget(external=wire.ExternalRef(type=wire.COMPONENT_TYPE_CDU))]),
        UNKNOWN,
        f"{COMPONENT} external component id must not be empty",
    ),
    (
        _spec(racks=[wire.RackTarget(id=_id(NIL))]),
        UNKNOWN,
        "invalid target spec: invalid rack target: rack target must have either id or name set",
    ),
    (
        _spec(components=[wire.ComponentTarget(id=_id(NIL))]),
        UNKNOWN,
        "invalid target spec: invalid component target: invalid external ref: external ref is nil",
    ),
    (
        _spec(racks=[wire.RackTarget(id=_id(NOBODY))]),
        NOT_FOUND,
        f"{RESOLVE} {{ID:{NOBODY} Name:}}: rpc error: code = NotFound desc = rack [id: {NOBODY}] is not found",
    ),
    (
        _spec(racks=[wire.RackTarget(name="nowhere")]),
        NOT_FOUND,
        f"{RESOLVE} {{ID:{NIL} Name:nowhere}}: rpc error: code = NotFound desc = rack nowhere",
    ),
    (
        _spec(racks=[wire.RackTarget(name="twin")]),
        INVALID,
        (
            f"{RESOLVE} {{ID:{NIL} Name:twin}}: rpc error: code = InvalidArgument desc = "
            'rack name "twin" matches multiple racks; use rack id'
        ),
    ),
    (
        _spec(components=[wire.ComponentTarget(id=_id(NOBODY))]),
        INTERNAL,
        (
            f"failed to get component target uuid={NOBODY}: rpc error: code = Internal desc = "
            f"rpc error: code = NotFound desc = component [id: {NOBODY}] is not found"
        ),
    ),
    (
        _spec(components=[wire.ComponentTarget(external=wire.ExternalRef(type=wire.COMPONENT_TYPE_CDU, id="x"))]),
        UNKNOWN,
        "failed to get component target external_id=x: component with external id x not found",
    ),
    (
        _spec(nvl_domains=[wire.NVLDomainTarget(name="pod-0")]),
        NOT_FOUND,
        (
            "failed to resolve NVLink domain targets: NVLink domain target 0: rpc error: code = NotFound desc = "
            f"nvl domain {{ID:{NIL} Name:pod-0}} is not found"
        ),
    ),
    (_spec(nvl_domains=[wire.NVLDomainTarget(id=_id(NOBODY))]), UNKNOWN, "no valid racks found for request"),
    (
        _spec(nvl_domains=[wire.NVLDomainTarget(id=_id("d"))]),
        UNKNOWN,
        'convert NVLink domain target: invalid NVLink domain id "d": invalid UUID length: 1',
    ),
    (
        _spec(nvl_domains=[wire.NVLDomainTarget(name="")]),
        UNKNOWN,
        "convert NVLink domain target: NVLink domain target name must not be empty",
    ),
    (_spec(racks=[wire.RackTarget(name="bare")]), UNKNOWN, FAILED),
]


@pytest.mark.parametrize(("spec", "code", "text"), SUBMISSIONS, ids=range(len(SUBMISSIONS)))
def test_a_submission_is_refused_in_flows_words(stub: Stub, spec: Any, code: grpc.StatusCode, text: str) -> None:
    assert _told(lambda: stub.UpgradeFirmware(_upgrade(spec))) == (code, text)


def test_a_rack_without_components_leaves_a_failed_task(stub: Stub) -> None:
    _told(lambda: stub.UpgradeFirmware(_upgrade(_spec(racks=[wire.RackTarget(name="bare")]))))

    (task,) = stub.ListTasks(wire.ListTasksRequest()).tasks
    assert task.status == wire.TASK_STATUS_FAILED


def test_credentials_are_checked_after_the_spec_is_there_and_before_it_is_read(stub: Stub) -> None:
    nothing, secret = wire.FirmwareAuthenticationData(), wire.FirmwareAuthenticationData(shared="x")

    def told(spec: wire.OperationTargetSpec | None, data: Any, *parts: str) -> tuple[grpc.StatusCode, str]:
        return _told(lambda: stub.UpgradeFirmware(_upgrade(spec, authentication_data=data, sub_targets=parts)))

    assert told(None, nothing) == (UNKNOWN, "target_spec is required")
    assert told(_spec(), nothing) == (INVALID, "authentication data value is required")
    assert told(_spec(), secret, "dpu") == (
        INVALID,
        "dpu-only firmware updates do not support authentication data",
    )
    for data, parts in ((wire.FirmwareAuthenticationData(shared=""), ["dpu"]), (secret, ["dpu", "bmc"])):
        assert told(_spec(), data, *parts) == (
            UNKNOWN,
            "target_spec must have one of racks, nvl_domains, or components set",
        )


def test_a_rule_is_looked_for_before_the_racks_and_what_is_no_id_is_no_rule() -> None:
    rule, site = UUID(int=77), site_of(_racks(), lambda kind: kind)
    with StandIn(site, rules=[rule]) as standin, grpc.insecure_channel(standin.address) as channel:
        stub = Stub(channel)
        request = _upgrade(_spec(racks=[wire.RackTarget(name="nowhere")]), rule_id=_id(NOBODY))
        assert _told(lambda: stub.UpgradeFirmware(request)) == (
            NOT_FOUND,
            f"requested rule_id {NOBODY}: rpc error: code = NotFound desc = operation rule not found",
        )
        for number, known in enumerate((_id(rule), _id("x"), _id(NIL)), 1):
            spec = _spec(racks=[wire.RackTarget(id=_id(UUID(int=number)))])
            assert len(stub.UpgradeFirmware(_upgrade(spec, rule_id=known)).task_ids) == 1


def test_a_component_in_no_rack_is_told_but_nothing_is_done_to_it() -> None:
    lost = Part(
        id=UUID(int=31), type="CDU", name="lost", rack_id=None, external_id="core-31", manufacturer="m", serial="s"
    )
    with StandIn(Site([], {}, [lost])) as standin, grpc.insecure_channel(standin.address) as channel:
        stub = Stub(channel)
        spec = _spec(components=[wire.ComponentTarget(id=_id(lost.id))])
        assert _told(lambda: stub.UpgradeFirmware(_upgrade(spec))) == (
            INVALID,
            (
                f"failed to get rack by id {NIL}: rpc error: code = InvalidArgument desc = "
                "rack id and name both are not specfied"
            ),
        )
        (told,) = stub.GetComponents(wire.GetComponentsRequest(target_spec=spec)).components
        assert (told.info.name, told.HasField("rack_id")) == ("lost", False)
        whole = stub.GetComponentInfoByID(wire.GetComponentInfoByIDRequest(id=_id(lost.id), with_rack=True))
        assert not whole.HasField("rack")


def test_a_rack_cannot_be_decommissioned(stub: Stub) -> None:
    assert _told(lambda: stub.DecommissionRack(wire.DecommissionRackRequest())) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "decommission is not yet available: Core decommission RPCs are pending",
    )


def test_a_conflict_looks_like_every_other_failure_and_some_of_several_racks_are_told_as_success(stub: Stub) -> None:
    first = stub.UpgradeFirmware(_upgrade(_spec(racks=[wire.RackTarget(name="r1")]), description="mine"))
    assert len(first.task_ids) == 1
    both = _spec(racks=[wire.RackTarget(name="r1"), wire.RackTarget(name="r2")])

    assert _told(lambda: stub.UpgradeFirmware(_upgrade(_spec(racks=[wire.RackTarget(name="r1")])))) == (UNKNOWN, FAILED)
    assert len(stub.UpgradeFirmware(_upgrade(both)).task_ids) == 1
    (task,) = stub.ListTasks(wire.ListTasksRequest(rack_id=_id(UUID(int=1)), active_only=True)).tasks
    assert (task.description, task.operation) == ("mine", "FirmwareUpgrade, target version 2")
    queued = _upgrade(
        _spec(racks=[wire.RackTarget(name="r1")]),
        queue_options=wire.QueueOptions(conflict_strategy=wire.CONFLICT_STRATEGY_QUEUE),
    )
    waiting = stub.GetTasksByIDs(wire.GetTasksByIDsRequest(task_ids=stub.UpgradeFirmware(queued).task_ids)).tasks[0]
    assert waiting.status == wire.TASK_STATUS_WAITING
    assert waiting.HasField("queue_expires_at")


@pytest.mark.parametrize(
    ("call", "phrase"),
    [
        (lambda stub, spec: stub.PowerOnRack(wire.PowerOnRackRequest(target_spec=spec)), "PowerOn, forced false"),
        (
            lambda stub, spec: stub.PowerOffRack(wire.PowerOffRackRequest(target_spec=spec, forced=True)),
            "ForcePowerOff, forced true",
        ),
        (lambda stub, spec: stub.PowerResetRack(wire.PowerResetRackRequest(target_spec=spec)), "Restart, forced false"),
        (lambda stub, spec: stub.BringUpRack(wire.BringUpRackRequest(target_spec=spec)), "rack bring-up"),
        (lambda stub, spec: stub.IngestRack(wire.IngestRackRequest(target_spec=spec)), "rack bring-up"),
    ],
)
def test_every_kind_of_task_has_its_phrase(stub: Stub, call: Any, phrase: str) -> None:
    reply = call(stub, _spec(racks=[wire.RackTarget(name="r1")]))

    (task,) = stub.GetTasksByIDs(wire.GetTasksByIDsRequest(task_ids=reply.task_ids)).tasks
    assert task.operation == phrase


def test_components_that_share_maker_and_serial_are_one(stub: Stub) -> None:
    def part(number: int) -> Part:
        return Part(
            id=UUID(int=number),
            type="Compute",
            name="",
            rack_id=UUID(int=1),
            external_id="",
            manufacturer="",
            serial="",
        )

    rack = SiteRack(
        id=UUID(int=1),
        name="r1",
        region="",
        datacenter="",
        room="",
        position="",
        manufacturer="",
        serial="",
        domain=None,
        parts=(part(1), part(2)),
    )
    with StandIn(Site([rack], {})) as standin, grpc.insecure_channel(standin.address) as channel:
        blank = Stub(channel)
        ids = blank.UpgradeFirmware(_upgrade(_spec(racks=[wire.RackTarget(name="r1")]))).task_ids
        (task,) = blank.GetTasksByIDs(wire.GetTasksByIDsRequest(task_ids=ids)).tasks

    assert len(task.component_uuids) == 1


def test_tasks_are_asked_for_by_id(stub: Stub) -> None:
    (known,) = stub.UpgradeFirmware(_upgrade(_spec(racks=[wire.RackTarget(name="r1")]))).task_ids
    request = wire.GetTasksByIDsRequest

    assert not stub.GetTasksByIDs(request()).tasks
    twice = stub.GetTasksByIDs(request(task_ids=[known, _id("x"), known])).tasks
    assert [task.id.id for task in twice] == [known.id, "", known.id]
    assert _told(lambda: stub.GetTasksByIDs(request(task_ids=[known, _id(NOBODY)]))) == (
        INTERNAL,
        "sql: no rows in result set",
    )


def test_tasks_are_cancelled_in_flows_words(stub: Stub, standin: StandIn) -> None:
    (known,) = stub.UpgradeFirmware(_upgrade(_spec(racks=[wire.RackTarget(name="r1")]))).task_ids

    def cancel(task: wire.UUID | None) -> tuple[grpc.StatusCode, str]:
        return _told(lambda: stub.CancelTask(wire.CancelTaskRequest(task_id=task)))

    prefix = "rpc error: code = Internal desc ="
    assert cancel(None) == (UNKNOWN, "invalid task ID: invalid UUID length: 0")
    assert cancel(_id(NIL)) == (INTERNAL, f"failed to get task {NIL}: {prefix} task UUID is required")
    assert cancel(_id(NOBODY)) == (INTERNAL, f"failed to get task {NOBODY}: {prefix} sql: no rows in result set")
    for _ in range(2):
        told = stub.CancelTask(wire.CancelTaskRequest(task_id=known)).task
        assert (told.status, told.message) == (wire.TASK_STATUS_TERMINATED, "Cancelled by user")
    _told(lambda: stub.UpgradeFirmware(_upgrade(_spec(racks=[wire.RackTarget(name="bare")]))))
    failed = next(task for task in standin.tasks.all() if task.status.value == "failed")
    assert cancel(_id(failed.id)) == (UNKNOWN, f"task {failed.id} cannot be cancelled (status: failed)")


def _outside(kind: wire.ComponentType.ValueType, external_id: str) -> wire.OperationTargetSpec:
    return _spec(components=[wire.ComponentTarget(external=wire.ExternalRef(type=kind, id=external_id))])


BY_MODEL: Final = wire.OrderBy(rack_field=wire.RACK_ORDER_BY_FIELD_MODEL, direction="ASC")
PAGE: Final = "invalid pagination information:"
INVENTORY: Final[list[tuple[Callable[[Stub], object], grpc.StatusCode, str]]] = [
    (
        lambda s: s.GetListOfRacks(wire.GetListOfRacksRequest(pagination=wire.Pagination())),
        UNKNOWN,
        f"{PAGE} limit must be greater than 0",
    ),
    (
        lambda s: s.ListTasks(wire.ListTasksRequest(pagination=wire.Pagination(offset=-1, limit=1))),
        UNKNOWN,
        f"{PAGE} offset must not be negative",
    ),
    (
        lambda s: s.GetListOfRacks(wire.GetListOfRacksRequest(filters=[wire.Filter()])),
        UNKNOWN,
        "invalid filter: filter field not set: either rack_field or component_field must be set",
    ),
    (
        lambda s: s.GetListOfRacks(
            wire.GetListOfRacksRequest(
                filters=[
                    wire.Filter(component_field=wire.COMPONENT_FILTER_FIELD_TYPE, query_info=wire.StringQueryInfo())
                ]
            )
        ),
        UNKNOWN,
        "unsupported filter field: type",
    ),
    (
        lambda s: s.GetListOfRacks(
            wire.GetListOfRacksRequest(order_by=wire.OrderBy(rack_field=wire.RACK_ORDER_BY_FIELD_NAME, direction="asc"))
        ),
        UNKNOWN,
        "invalid order by: direction must be ASC or DESC",
    ),
    (lambda s: s.GetRackInfoByID(wire.GetRackInfoByIDRequest()), INVALID, "no valid rack ids specified"),
    (lambda s: s.GetRackInfoByID(wire.GetRackInfoByIDRequest(id=_id(NOBODY))), NOT_FOUND, "rack not found"),
    (
        lambda s: s.GetRackInfoBySerial(wire.GetRackInfoBySerialRequest()),
        INVALID,
        "serial number is not specfied",
    ),
    (
        lambda s: s.GetRackInfoBySerial(
            wire.GetRackInfoBySerialRequest(serial_info=wire.DeviceSerialInfo(manufacturer="m", serial_number="n"))
        ),
        NOT_FOUND,
        "rack [manufacturer: m, serial: n] is not found",
    ),
    (
        lambda s: s.GetComponentInfoByID(wire.GetComponentInfoByIDRequest()),
        INVALID,
        "component id is not specfied",
    ),
    (
        lambda s: s.GetComponentInfoByID(wire.GetComponentInfoByIDRequest(id=_id(NOBODY))),
        INTERNAL,
        f"rpc error: code = NotFound desc = component [id: {NOBODY}] is not found",
    ),
    (
        lambda s: s.GetComponentInfoBySerial(
            wire.GetComponentInfoBySerialRequest(serial_info=wire.DeviceSerialInfo(manufacturer="m", serial_number="n"))
        ),
        INTERNAL,
        "rpc error: code = NotFound desc = component [manufacturer: m, serial: n] is not found",
    ),
    (lambda s: s.GetListOfNVLDomains(wire.GetListOfNVLDomainsRequest()), UNKNOWN, "info is required"),
    (
        lambda s: s.GetRacksForNVLDomain(wire.GetRacksForNVLDomainRequest()),
        UNKNOWN,
        "nvl domain identifier is required",
    ),
    (
        lambda s: s.GetRacksForNVLDomain(wire.GetRacksForNVLDomainRequest(nvl_domain_identifier=wire.Identifier())),
        INVALID,
        "nvl domain id and name both are not specfied",
    ),
    (
        lambda s: s.GetRacksForNVLDomain(
            wire.GetRacksForNVLDomainRequest(nvl_domain_identifier=wire.Identifier(name="pod-0"))
        ),
        NOT_FOUND,
        f"nvl domain {{ID:{NIL} Name:pod-0}} is not found",
    ),
    (
        lambda s: s.GetComponents(
            wire.GetComponentsRequest(target_spec=_spec(racks=[wire.RackTarget(id=_id(NOBODY))]))
        ),
        NOT_FOUND,
        "failed to extract components from target_spec: rpc error: code = NotFound desc = rack not found",
    ),
    (
        lambda s: s.GetComponents(
            wire.GetComponentsRequest(target_spec=_spec(components=[wire.ComponentTarget(id=_id(NOBODY))]))
        ),
        INTERNAL,
        (
            f"failed to extract components from target_spec: failed to get component by uuid {NOBODY}: rpc error: "
            f"code = Internal desc = rpc error: code = NotFound desc = component [id: {NOBODY}] is not found"
        ),
    ),
    (
        lambda s: s.GetComponents(
            wire.GetComponentsRequest(
                filters=[
                    wire.Filter(
                        component_field=wire.COMPONENT_FILTER_FIELD_TYPE,
                        query_info=wire.StringQueryInfo(patterns=["lamp"]),
                    )
                ]
            )
        ),
        UNKNOWN,
        "unsupported component type filter: lamp",
    ),
    (
        lambda s: s.GetListOfRacks(
            wire.GetListOfRacksRequest(
                filters=[
                    wire.Filter(component_field=wire.COMPONENT_FILTER_FIELD_MODEL, query_info=wire.StringQueryInfo())
                ]
            )
        ),
        UNKNOWN,
        "unsupported filter field: model",
    ),
    (
        lambda s: s.GetListOfRacks(wire.GetListOfRacksRequest(order_by=BY_MODEL)),
        UNKNOWN,
        "ERROR: column \"description->>'model'\" does not exist (SQLSTATE=42703)",
    ),
    (
        lambda s: s.GetComponents(wire.GetComponentsRequest(order_by=BY_MODEL)),
        INTERNAL,
        "ERROR: column \"description->>'model'\" does not exist (SQLSTATE=42703)",
    ),
    (
        lambda s: s.GetComponents(
            wire.GetComponentsRequest(order_by=BY_MODEL, target_spec=_spec(racks=[wire.RackTarget(name="r1")]))
        ),
        UNKNOWN,
        "failed to sort components: unsupported order by column: description->>'model'",
    ),
    (
        lambda s: s.GetComponents(wire.GetComponentsRequest(target_spec=_outside(wire.COMPONENT_TYPE_CDU, "x"))),
        UNKNOWN,
        "failed to extract components from target_spec: component with external id x not found",
    ),
    (
        lambda s: s.GetComponents(
            wire.GetComponentsRequest(target_spec=_outside(wire.COMPONENT_TYPE_CDU, f"core-{TRAY}"))
        ),
        UNKNOWN,
        (
            f"failed to extract components from target_spec: component with external id core-{TRAY} "
            "and type CDU not found"
        ),
    ),
    (
        lambda s: s.GetComponents(wire.GetComponentsRequest(pagination=wire.Pagination(limit=0))),
        UNKNOWN,
        f"{PAGE} limit must be greater than 0",
    ),
    (
        lambda s: s.GetListOfNVLDomains(
            wire.GetListOfNVLDomainsRequest(info=wire.StringQueryInfo(), pagination=wire.Pagination(offset=-1, limit=1))
        ),
        UNKNOWN,
        f"{PAGE} offset must not be negative",
    ),
    *(
        (
            lambda s, rack_id=rack_id: s.GetRackInfoByID(wire.GetRackInfoByIDRequest(id=_id(rack_id))),
            INVALID,
            "no valid rack ids specified",
        )
        for rack_id in ("x", NIL)
    ),
    *(
        (
            lambda s, part_id=part_id: s.GetComponentInfoByID(wire.GetComponentInfoByIDRequest(id=_id(part_id))),
            INVALID,
            "component id is not specfied",
        )
        for part_id in ("x", NIL)
    ),
]


@pytest.mark.parametrize(("call", "code", "text"), INVENTORY, ids=range(len(INVENTORY)))
def test_a_question_is_refused_in_flows_words(
    stub: Stub, call: Callable[[Stub], object], code: grpc.StatusCode, text: str
) -> None:
    assert _told(lambda: call(stub)) == (code, text)


def test_racks_are_listed_filtered_and_paged(stub: Stub) -> None:
    def listed(**fields: Any) -> list[str]:
        reply = stub.GetListOfRacks(wire.GetListOfRacksRequest(**fields))
        return [rack.info.name for rack in reply.racks]

    order = wire.OrderBy(rack_field=wire.RACK_ORDER_BY_FIELD_NAME, direction="ASC")
    assert listed(order_by=order) == ["bare", "r1", "r2", "twin", "twin"]
    assert listed(order_by=order, pagination=wire.Pagination(offset=1, limit=2)) == ["r1", "r2"]
    assert sorted(listed()) == ["bare", "r1", "r2", "twin", "twin"]
    wild = wire.StringQueryInfo(patterns=["r"], is_wildcard=True)
    named = wire.Filter(rack_field=wire.RACK_FILTER_FIELD_NAME, query_info=wild)
    assert listed(order_by=order, filters=[named]) == ["bare", "r1", "r2"]
    rack = stub.GetRackInfoByID(wire.GetRackInfoByIDRequest(id=_id(UUID(int=1)), with_components=True)).rack
    assert (rack.location.datacenter, rack.location.room, rack.location.position) == ("dc", "hall", "A/1")
    assert [one.id for one in rack.nvl_domain_ids] == [str(DOMAIN)]
    assert {component.type for component in rack.components} == {
        wire.COMPONENT_TYPE_COMPUTE,
        wire.COMPONENT_TYPE_NVSWITCH,
    }


def test_components_are_filtered_and_ordered(stub: Stub) -> None:
    def named(*patterns: str, **more: Any) -> list[str]:
        info = wire.StringQueryInfo(patterns=patterns, is_wildcard=True)
        asked = wire.Filter(component_field=wire.COMPONENT_FILTER_FIELD_NAME, query_info=info)
        order = wire.OrderBy(component_field=wire.COMPONENT_ORDER_BY_FIELD_NAME, direction="DESC")
        request = wire.GetComponentsRequest(filters=[asked], order_by=order, **more)
        return [one.info.name for one in stub.GetComponents(request).components]

    spec = _spec(racks=[wire.RackTarget(name="r2"), wire.RackTarget(name="r1")])
    assert named("r%") == ["r2-nvswitch-0", "r2-compute-0", "r1-nvswitch-0", "r1-compute-0"]
    # In memory, a pattern for a part ignores case, and one for a beginning or an end does not.
    assert named("R1") == []
    assert named("R1", target_spec=spec) == ["r1-nvswitch-0", "r1-compute-0"]
    assert named("R1%", target_spec=spec) == []
    kinds = wire.Filter(
        component_field=wire.COMPONENT_FILTER_FIELD_TYPE, query_info=wire.StringQueryInfo(patterns=["nvSWITCH"])
    )
    reply = stub.GetComponents(wire.GetComponentsRequest(filters=[kinds], target_spec=spec))
    assert [one.info.name for one in reply.components] == ["r2-nvswitch-0", "r1-nvswitch-0"]


def test_a_model_is_one_of_several_whatever_the_wildcards_say() -> None:
    def one(number: int, model: str) -> SiteRack:
        empty = dict.fromkeys(("region", "datacenter", "room", "position", "manufacturer", "serial"), "")
        return SiteRack(id=UUID(int=number), name=f"r{number}", domain=None, parts=(), model=model, **empty)

    site = Site([one(1, "GB200"), one(2, "GB300")], {})
    with StandIn(site) as standin, grpc.insecure_channel(standin.address) as channel:

        def found(*patterns: str) -> set[str]:
            info = wire.StringQueryInfo(patterns=patterns, is_wildcard=True, use_or=True)
            asked = wire.Filter(rack_field=wire.RACK_FILTER_FIELD_MODEL, query_info=info)
            reply = Stub(channel).GetListOfRacks(wire.GetListOfRacksRequest(filters=[asked]))
            return {rack.info.model for rack in reply.racks}

        assert found("GB") == {"GB200", "GB300"}
        assert found("GB", "GB300") == {"GB300"}


def test_domains_and_components_are_told(stub: Stub) -> None:
    domains = stub.GetListOfNVLDomains(wire.GetListOfNVLDomainsRequest(info=wire.StringQueryInfo()))
    assert [(one.identifier.id.id, one.identifier.name) for one in domains.nvl_domains] == [(str(DOMAIN), "pod-1")]
    identifier = wire.Identifier(name="pod-1")
    racks = stub.GetRacksForNVLDomain(wire.GetRacksForNVLDomainRequest(nvl_domain_identifier=identifier)).racks
    assert sorted(rack.info.name for rack in racks) == ["r1", "r2"]
    external = wire.ExternalRef(type=wire.COMPONENT_TYPE_COMPUTE, id=f"core-{TRAY}")
    spec = _spec(components=[wire.ComponentTarget(external=external)])
    found = stub.GetComponents(wire.GetComponentsRequest(target_spec=spec)).components
    assert [one.info.id.id for one in found] == [str(TRAY)]
    whole = stub.GetComponentInfoByID(wire.GetComponentInfoByIDRequest(id=_id(TRAY), with_rack=True))
    assert (whole.rack.info.name, whole.component.component_id) == ("r1", f"core-{TRAY}")
    assert stub.GetComponents(wire.GetComponentsRequest()).total == 8


def test_a_malformed_rack_lists_every_rack(stub: Stub) -> None:
    for name in ("r1", "r2"):
        stub.UpgradeFirmware(_upgrade(_spec(racks=[wire.RackTarget(name=name)])))

    assert stub.ListTasks(wire.ListTasksRequest(rack_id=_id("x"))).total == 2
    assert stub.ListTasks(wire.ListTasksRequest(component_id=_id(TRAY))).total == 1
    assert stub.ListTasks(wire.ListTasksRequest(rack_id=_id(UUID(int=2)), component_id=_id(TRAY))).total == 0


def test_a_page_of_tasks_begins_where_it_is_asked_to(stub: Stub) -> None:
    for name in ("r1", "r2"):
        stub.UpgradeFirmware(_upgrade(_spec(racks=[wire.RackTarget(name=name)])))

    page = stub.ListTasks(wire.ListTasksRequest(pagination=wire.Pagination(offset=1, limit=100)))

    assert (len(page.tasks), page.total) == (1, 2)


def _given_up(stub: Stub, standin: StandIn, rack: str, *kinds: FaultKind) -> bool:
    """Give an upgrade up once these faults have hit it; true if it had no answer until then."""
    met = sum(standin.faults.hits.values()) + len(kinds)
    standin.faults.set([Fault(kind=kind, times=1, seconds=0) for kind in kinds])
    call: Any = stub.UpgradeFirmware.future(_upgrade(_spec(racks=[wire.RackTarget(name=rack)])))
    eventually(lambda: sum(standin.faults.hits.values()), until=lambda hits: hits == met)
    return bool(call.cancel())


def test_a_call_that_hangs_does_nothing_unless_only_its_reply_is_lost(stub: Stub, standin: StandIn) -> None:
    assert _given_up(stub, standin, "r1", FaultKind.HANG)
    assert _given_up(stub, standin, "r1", FaultKind.HANG, FaultKind.LATE)
    assert _given_up(stub, standin, "r2", FaultKind.HANG, FaultKind.DROP_REPLY)

    standin.stop()  # Until then a call might still be carried out.
    assert [task.rack_id for task in standin.tasks.all()] == [UUID(int=2)]


def test_a_late_call_is_carried_out_after_it_was_given_up(stub: Stub, standin: StandIn) -> None:
    assert _given_up(stub, standin, "r1", FaultKind.LATE)

    (task,) = eventually(standin.tasks.all)
    assert task.rack_id == UUID(int=1)


def test_a_server_that_has_stopped_carries_nothing_out_late(stub: Stub, standin: StandIn) -> None:
    standin.faults.set([Fault(kind=FaultKind.LATE, seconds=3600)])
    call: Any = stub.UpgradeFirmware.future(_upgrade(_spec(racks=[wire.RackTarget(name="r1")])))
    eventually(lambda: standin.faults.hits[FaultKind.LATE])

    standin.stop()

    assert call.exception() is not None
    assert standin.tasks.all() == []


def test_a_record_brings_the_tasks_back(tmp_path: Path) -> None:
    site, record = site_of(_racks(), lambda kind: kind), tmp_path / "state.jsonl"
    with StandIn(site, record=record) as first, grpc.insecure_channel(first.address) as channel:
        stub = Stub(channel)
        made = [
            stub.UpgradeFirmware(_upgrade(_spec(racks=[wire.RackTarget(name=name)]), description=name)).task_ids[0]
            for name in ("r1", "r2")
        ]
        stub.CancelTask(wire.CancelTaskRequest(task_id=made[1]))
    with record.open("a") as file:
        file.write('{"what": "ma')

    again = StandIn(site, record=record)

    found = {task.description: task for task in again.tasks.all()}
    assert {name: str(task.id) for name, task in found.items()} == {"r1": made[0].id, "r2": made[1].id}
    assert found["r2"].status.value == "terminated"
    assert again.tasks.tally().created == 2
    assert (found["r2"].finished_at, found["r2"].message) == (found["r2"].updated_at, "Cancelled by user")
    assert len(record.read_bytes().splitlines()) == 3
    record.write_text("nonsense\n")
    with pytest.raises(CorruptRecord, match=r"state.jsonl:1"):
        StandIn(site, record=record)


def test_a_call_that_restarts_the_server_is_lost_and_the_tasks_stay(stub: Stub, standin: StandIn) -> None:
    address = standin.address
    upgrade = _upgrade(_spec(racks=[wire.RackTarget(name="r1")]))
    standin.faults.set([Fault(kind=FaultKind.RESTART, times=2), Fault(kind=FaultKind.DROP_REPLY, first=1, times=1)])

    # The first is lost before anything is done, the second after it.
    for made in (0, 1):
        with pytest.raises(grpc.RpcError):
            stub.UpgradeFirmware(upgrade, wait_for_ready=True, timeout=30)
        eventually(lambda: standin.restarts, until=lambda count, wanted=made + 1: count == wanted)  # type: ignore[misc]
        assert stub.ListTasks(wire.ListTasksRequest(), wait_for_ready=True, timeout=30).total == made

    assert standin.address == address
    assert standin.faults.hits[FaultKind.RESTART] == 2


def test_a_restart_keeps_the_port_and_the_tasks(stub: Stub, standin: StandIn) -> None:
    (task,) = stub.UpgradeFirmware(_upgrade(_spec(racks=[wire.RackTarget(name="r1")]))).task_ids
    address = standin.address

    standin.restart()

    assert standin.address == address
    request = wire.GetTasksByIDsRequest(task_ids=[task])
    assert stub.GetTasksByIDs(request, wait_for_ready=True, timeout=30).tasks[0].id == task
