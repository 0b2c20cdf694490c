"""Flow's operation-run calls, called through a real channel: what they refuse, what they do and what they tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from opdispatch.candidate import Candidate
from opdispatch.errors import Unavailable
from opdispatch.identity import CommandId, ComponentId, RunId, TaskId, idempotency_key_of, run_id_of
from opdispatch.observation import Observation, SubmissionAbsent, SubmissionAccepted
from opdispatch.plan import new_run, plan
from opdispatch.policy.gates import FailureCountGate
from opdispatch.policy.phases import CountPhases
from opdispatch.run import RunStatus
from opdispatch.target import TargetStatus
from opdispatch.task import TaskStatus
from opdispatch_adapters.flow.seal import Sealer
from opdispatch_adapters.flow.server import Caller, OperationRuns, RunSettings
from opdispatch_adapters.flow.wire import flow_pb2 as wire
from opdispatch_adapters.flow.wire import flow_pb2_grpc
from opdispatch_adapters.memory import MemoryStore
from opdispatch_adapters.sql import SqlStore, migrate, open_store
from tests.integration.flow_kit import (
    DOMAIN,
    SWITCH,
    Racks,
    a_request,
    candidates,
    commands_on,
    rack_uuid,
    served,
    to_the_end_of_the_phase,
)
from tests.integration.store_kit import a_round
from tests.racks import rack, rollout
from tests.racks import racks as racks_of

Create = wire.CreateOperationRunRequest
Change = Callable[[Create], object]
NOBODY: Final = UUID(int=404)
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
PRECONDITION: Final = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    migrate(tmp_path / "runs.db")
    with open_store(tmp_path / "runs.db") as opened:
        yield opened


@pytest.fixture
def racks() -> Racks:
    return Racks(candidates())


@pytest.fixture
def runs(store: SqlStore, racks: Racks) -> OperationRuns:
    return OperationRuns(
        store, racks, commands_on(store), externals=racks, sealer=Sealer(bytes(32)), touched=store.touched
    )


@pytest.fixture
def stub(runs: OperationRuns) -> Iterator[flow_pb2_grpc.FlowStub]:
    with served(runs) as found:
        yield found


def _refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    found: Any = error.value
    return found.code(), found.details()


# -- what create refuses --


def _cleared(path: str) -> Change:
    """Clears the field at a path of the configuration, or of the request where it begins with a slash."""

    def change(request: Create) -> None:
        message: Any = request.configuration
        *parents, last = path.split(".")
        for name in parents:
            message = getattr(message, name)
        message.ClearField(last)

    return change


def _wait(field: str, **value: int) -> Change:
    def change(request: Create) -> None:
        getattr(request.configuration.options.conflict_policy.retry, field).CopyFrom(Duration(**value))

    return change


def _firmware(request: Create) -> wire.UpgradeFirmwareRequest:
    return request.configuration.operation.upgrade_firmware


def _scope(request: Create) -> wire.OperationRunTargetScope:
    return request.configuration.operation.target_scope


def _options(request: Create) -> wire.OperationRunOptions:
    return request.configuration.options


def _percentages(*shares: int) -> Change:
    def change(request: Create) -> None:
        _options(request).phase_policy.percentage.SetInParent()
        for share in shares:
            _options(request).phase_policy.percentage.phases.add(percentage=share)

    return change


def _counts(*counts: int) -> Change:
    def change(request: Create) -> None:
        _options(request).phase_policy.count.SetInParent()
        for count in counts:
            _options(request).phase_policy.count.phases.add(count=count)

    return change


def _called(name: str) -> Change:
    return lambda request: setattr(request, "name", name)


def _two(first: Change, second: Change) -> Change:
    def change(request: Create) -> None:
        first(request)
        second(request)

    return change


def _spec(change: Callable[[wire.OperationTargetSpec], object]) -> Change:
    def changed(request: Create) -> None:
        _firmware(request).target_spec.SetInParent()
        change(_firmware(request).target_spec)

    return changed


SPEC: Final = "invalid upgrade_firmware.target_spec: "
FILTER: Final = "target_scope.default_scope_component_filter"
VALIDATE: Final = "validate operation: "
FILTERED: Final = f"{VALIDATE}target_scope: default_scope_component_filter: component filter kind"
EMPTY: Final = "operation run plan is invalid: configured operation run phase has no targets:"
REFUSED: Final[list[tuple[str, Change, str]]] = [
    ("no name", lambda r: setattr(r, "name", " \t"), "name is required"),
    ("long name", lambda r: setattr(r, "name", "n" * 256), "name has 256 characters; at most 255 are stored"),
    ("no configuration", lambda r: r.ClearField("configuration"), "configuration is required"),
    ("no operation", _cleared("operation.upgrade_firmware"), "operation is required"),
    (
        "excluded run",
        lambda r: _scope(r).exclude_operation_run_ids.add(id="x"),
        "target_scope.exclude_operation_run_ids[0] must be a valid UUID",
    ),
    (
        "nil excluded run",
        lambda r: _scope(r).exclude_operation_run_ids.add(id=str(UUID(int=0))),
        "target_scope.exclude_operation_run_ids[0] must be a valid UUID",
    ),
    (
        "filter by unknown type",
        lambda r: _scope(r).default_scope_component_filter.types.types.append(wire.COMPONENT_TYPE_UNKNOWN),
        f"{FILTER}.types[0] is unknown",
    ),
    (
        "filter by external id",
        lambda r: setattr(_scope(r).default_scope_component_filter.components.targets.add().external, "id", "core-9"),
        f"{FILTER}.components[0] must use component UUID",
    ),
    (
        "filter by bad id",
        lambda r: setattr(_scope(r).default_scope_component_filter.components.targets.add().id, "id", "x"),
        f"{FILTER}.components[0] must be a valid UUID",
    ),
    (
        "empty spec",
        _spec(lambda spec: None),
        f"{SPEC}target_spec must have one of racks, nvl_domains, or components set",
    ),
    (
        "spec without racks",
        _spec(lambda spec: spec.racks.SetInParent()),
        f"{SPEC}racks.targets must have at least one entry",
    ),
    (
        "spec without domains",
        _spec(lambda spec: spec.nvl_domains.SetInParent()),
        f"{SPEC}nvl_domains.targets must have at least one entry",
    ),
    (
        "spec without components",
        _spec(lambda spec: spec.components.SetInParent()),
        f"{SPEC}components.targets must have at least one entry",
    ),
    (
        "short rack id",
        _spec(lambda spec: setattr(spec.racks.targets.add().id, "id", "r1")),
        f'{SPEC}convert rack target: invalid rack id "r1": invalid UUID length: 2',
    ),
    (
        "odd rack id",
        _spec(lambda spec: setattr(spec.racks.targets.add().id, "id", "x" * 36)),
        f'{SPEC}convert rack target: invalid rack id "{"x" * 36}": invalid UUID format',
    ),
    (
        "rack without identifier",
        _spec(lambda spec: spec.racks.targets.add()),
        f"{SPEC}convert rack target: rack target must have either id or name set",
    ),
    (
        "empty rack name",
        _spec(lambda spec: setattr(spec.racks.targets.add(), "name", "")),
        f"{SPEC}convert rack target: rack target name must not be empty",
    ),
    (
        "rack with unknown type",
        _spec(lambda spec: spec.racks.targets.add(name="r1").component_types.append(wire.COMPONENT_TYPE_UNKNOWN)),
        f"{SPEC}convert rack target: unknown component type COMPONENT_TYPE_UNKNOWN in rack target filter",
    ),
    (
        "component without identifier",
        _spec(lambda spec: spec.components.targets.add()),
        f"{SPEC}convert component target: component target must have either uuid or external set",
    ),
    (
        "bad component id",
        _spec(lambda spec: setattr(spec.components.targets.add().id, "id", "c")),
        f'{SPEC}convert component target: invalid component uuid "c": invalid UUID length: 1',
    ),
    (
        "external without type",
        _spec(lambda spec: setattr(spec.components.targets.add().external, "id", "core-9")),
        f"{SPEC}convert component target: external component type must not be unknown",
    ),
    (
        "external without id",
        _spec(lambda spec: setattr(spec.components.targets.add().external, "type", wire.COMPONENT_TYPE_CDU)),
        f"{SPEC}convert component target: external component id must not be empty",
    ),
    (
        "nil rack id",
        _spec(lambda spec: setattr(spec.racks.targets.add().id, "id", str(UUID(int=0)))),
        f"{VALIDATE}target_spec: invalid rack target: rack target must have either id or name set",
    ),
    (
        "nil component id",
        _spec(lambda spec: setattr(spec.components.targets.add().id, "id", str(UUID(int=0)))),
        f"{VALIDATE}target_spec: invalid component target: invalid external ref: external ref is nil",
    ),
    (
        "filter beside a spec",
        _two(
            _spec(lambda spec: spec.racks.targets.add(name="r1")),
            lambda r: _scope(r).default_scope_component_filter.types.types.append(wire.COMPONENT_TYPE_CDU),
        ),
        f"{VALIDATE}{FILTER} requires target_spec to be omitted",
    ),
    (
        "filter without types",
        lambda r: _scope(r).default_scope_component_filter.types.SetInParent(),
        f'{FILTERED} "types" requires at least one type',
    ),
    (
        "filter without components",
        lambda r: _scope(r).default_scope_component_filter.components.SetInParent(),
        f'{FILTERED} "components" requires at least one component',
    ),
    ("no selector", _cleared("selector"), "selector is required"),
    ("empty selector", _cleared("selector.percentage"), "selector is required"),
    (
        "no share",
        lambda r: setattr(r.configuration.selector.percentage, "percentage", 0),
        "percentage selector must be between 1 and 100",
    ),
    (
        "too large a share",
        lambda r: setattr(r.configuration.selector.percentage, "percentage", 101),
        "percentage selector must be between 1 and 100",
    ),
    ("no options", _cleared("options"), "options are required"),
    (
        "no concurrency",
        lambda r: setattr(_options(r), "max_concurrent_targets", 0),
        "options.max_concurrent_targets must be greater than 0",
    ),
    ("no safety policy", _cleared("options.safety_policy"), "options.safety_policy is required"),
    ("no gate", _cleared("options.safety_policy.gates"), "safety_policy must contain at least one gate"),
    (
        "empty gate",
        lambda r: _options(r).safety_policy.gates.add(),
        "safety_policy.gates[1]: unsupported safety gate",
    ),
    (
        "undeclared scope of a rate",
        lambda r: setattr(_options(r).safety_policy.gates.add().failure_rate, "scope", 9),
        "safety_policy.gates[1]: failure_rate.scope is unsupported",
    ),
    (
        "undeclared scope of a count",
        lambda r: setattr(_options(r).safety_policy.gates.add().failure_count, "scope", 9),
        "safety_policy.gates[1]: failure_count.scope is unsupported",
    ),
    (
        "rate of nothing",
        lambda r: _options(r).safety_policy.gates.add().failure_rate.SetInParent(),
        "safety_policy.gates[1]: failure_rate.failure_threshold_percent must be between 1 and 100",
    ),
    (
        "count of nothing",
        lambda r: _options(r).safety_policy.gates.add().failure_count.SetInParent(),
        "safety_policy.gates[1]: failure_count.failure_threshold_count must be greater than 0",
    ),
    (
        "no duration",
        _wait("retry_timeout", seconds=1, nanos=-1),
        "conflict_policy.retry.retry_timeout is invalid: its seconds and nanoseconds have different signs",
    ),
    (
        "no window",
        _wait("retry_timeout", seconds=0),
        "conflict_policy.retry: retry_timeout must be greater than 0",
    ),
    (
        "no first wait",
        _wait("initial_retry_delay", seconds=-1),
        "conflict_policy.retry: initial_retry_delay must be greater than 0",
    ),
    (
        "no longest wait",
        _wait("max_retry_delay", seconds=0),
        "conflict_policy.retry: max_retry_delay must be greater than 0",
    ),
    (
        "longest below first",
        _wait("max_retry_delay", seconds=29),
        "conflict_policy.retry: max_retry_delay must be greater than or equal to initial_retry_delay",
    ),
    (
        "unknown order of places",
        lambda r: _options(r).ordering_policy.physical_location.SetInParent(),
        "ordering_policy.physical_location.strategy is unsupported",
    ),
    (
        "no equal phase",
        lambda r: _options(r).phase_policy.equal.SetInParent(),
        "equal phase_count must be greater than 0",
    ),
    ("no shares", _percentages(), "percentage phase policy must include at least one phase"),
    ("empty share", _percentages(0, 100), "percentage phase percentages must be between 1 and 100"),
    ("shares below all", _percentages(10, 30), "percentage phase percentages must sum to 100"),
    ("no counts", _counts(), "count phase policy must include at least one phase"),
    ("empty count", _counts(1, 0), "count phase counts must be greater than 0"),
    (
        "credential of no kind",
        lambda r: _firmware(r).authentication_data.SetInParent(),
        "authentication data value is required",
    ),
    (
        "credential for dpu alone",
        _two(
            lambda r: _firmware(r).sub_targets.append("dpu"),
            lambda r: setattr(_firmware(r).authentication_data, "shared", "s3cret"),
        ),
        "dpu-only firmware updates do not support authentication data",
    ),
    (
        "nothing left",
        lambda r: _scope(r).default_scope_component_filter.types.types.append(wire.COMPONENT_TYPE_CDU),
        "operation run has no planned targets",
    ),
    (
        "empty equal phase",
        lambda r: setattr(_options(r).phase_policy.equal, "phase_count", 9),
        f"{EMPTY} equal phase 9 resolves to zero targets for 8 selected targets",
    ),
    (
        "empty shared phase",
        _two(
            _percentages(10, 1, 89),
            lambda r: setattr(r.configuration.selector.percentage, "percentage", 25),
        ),
        f"{EMPTY} percentage phase 2 resolves to zero targets for 2 selected targets",
    ),
    (
        "more than there are",
        _counts(5, 4),
        "plan operation run targets: count phase counts exceed selected target count",
    ),
    ("NUL", lambda r: setattr(r, "description", "a\0b"), "description holds a NUL character"),
    (
        "endless text",
        lambda r: setattr(_firmware(r), "description", "a" * 16_385),
        "configuration.operation.upgrade_firmware.description has 16385 characters; at most 16384 are taken",
    ),
]


@pytest.mark.parametrize(("change", "text"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_create_refuses_what_it_cannot_use_and_stores_nothing(
    stub: flow_pb2_grpc.FlowStub, store: SqlStore, change: Change, text: str
) -> None:
    assert _refused(lambda: stub.CreateOperationRun(a_request(change=change))) == (INVALID, text)
    assert store.count() == 0


def _named_target(index: int, text: str) -> str:
    return f"plan operation run targets: build target_spec scope: {text}"


MISSING: Final = "rpc error: code = NotFound desc ="
UNKNOWN: Final[list[tuple[str, Change, grpc.StatusCode, str]]] = [
    (
        "rack by id",
        _spec(lambda spec: setattr(spec.racks.targets.add().id, "id", str(NOBODY))),
        NOT_FOUND,
        f"rack target 0: rpc error: code = NotFound desc = rack [id: {NOBODY}] is not found",
    ),
    (
        "rack by name",
        _spec(lambda spec: (spec.racks.targets.add(name="r1"), spec.racks.targets.add(name="nowhere"))),
        NOT_FOUND,
        "rack target 1: rpc error: code = NotFound desc = rack nowhere",
    ),
    (
        "rack by a name of two",
        _spec(lambda spec: spec.racks.targets.add(name="twin")),
        INVALID,
        'rack target 0: rpc error: code = InvalidArgument desc = rack name "twin" matches multiple racks; use rack id',
    ),
    (
        "component by id",
        _spec(lambda spec: setattr(spec.components.targets.add().id, "id", str(NOBODY))),
        NOT_FOUND,
        f"component target 0: component [id: {NOBODY}] is not found, or is not assigned to a rack",
    ),
    (
        "component by external id",
        _spec(
            lambda spec: spec.components.targets.add().external.CopyFrom(
                wire.ExternalRef(type=wire.COMPONENT_TYPE_NVSWITCH, id="core-0")
            )
        ),
        NOT_FOUND,
        "component target 0: component external_id=core-0 not found",
    ),
    (
        "domain by name",
        _spec(lambda spec: spec.nvl_domains.targets.add(name="pod-0")),
        NOT_FOUND,
        f"NVLink domain target 0: {MISSING} nvl domain {{ID:{UUID(int=0)} Name:pod-0}} is not found",
    ),
]


@pytest.mark.parametrize(("change", "code", "text"), [row[1:] for row in UNKNOWN], ids=[row[0] for row in UNKNOWN])
def test_create_says_which_of_the_named_is_not_there(
    stub: flow_pb2_grpc.FlowStub, store: SqlStore, change: Change, code: grpc.StatusCode, text: str
) -> None:
    place = "plan operation run targets: build target_spec scope: "

    assert _refused(lambda: stub.CreateOperationRun(a_request(change=change))) == (code, f"{place}{text}")
    assert store.count() == 0


def test_create_refuses_to_leave_out_what_no_run_did(stub: flow_pb2_grpc.FlowStub) -> None:
    request = a_request(change=lambda r: _scope(r).exclude_operation_run_ids.add(id=str(NOBODY)))

    code, text = _refused(lambda: stub.CreateOperationRun(request))

    assert code is NOT_FOUND
    assert text.endswith(f"operation run {NOBODY} not found")


def test_more_candidates_than_the_service_takes_are_refused(store: SqlStore, racks: Racks) -> None:
    few = OperationRuns(store, racks, commands_on(store), settings=RunSettings(most_candidates=7))

    with served(few) as stub:
        told = _refused(lambda: stub.CreateOperationRun(a_request()))

    scope = "build default scope: operation run candidate scope exceeds target limit 7"
    assert told == (INVALID, f"plan operation run targets: {scope}")


def test_a_rack_with_a_component_that_flow_does_not_know_is_refused(store: SqlStore, racks: Racks) -> None:
    odd = Racks([*racks.known, _odd_rack()])

    with served(OperationRuns(store, odd, commands_on(store))) as stub:
        code, text = _refused(lambda: stub.CreateOperationRun(a_request()))

    assert code is INVALID
    assert "the component type 'lamp' stands for none of Flow's; map it to one of Compute" in text


def _odd_rack() -> Candidate:
    return rack(9, {"lamp": (ComponentId(UUID(int=99)),)})


# -- what create does --


def _created(stub: flow_pb2_grpc.FlowStub, request: Create | None = None, **metadata: str) -> RunId:
    made = stub.CreateOperationRun(
        request or a_request(), metadata=tuple((name.replace("_", "-"), text) for name, text in metadata.items())
    )
    return RunId(UUID(made.id.id))


def test_the_racks_are_selected_and_ordered_as_the_contract_works_it_out(
    stub: flow_pb2_grpc.FlowStub, store: SqlStore
) -> None:
    def half(request: Create) -> None:
        request.configuration.selector.percentage.percentage = 50
        for number in range(1, 7):
            _firmware(request).target_spec.racks.targets.add(id=rack_uuid(number))

    run_id = _created(stub, a_request(half=half))

    assert [target.rack_name for target in store.targets(run_id)] == ["r2", "r5", "r4"]


def test_defaults_and_seeds_are_filled_in_and_told(stub: flow_pb2_grpc.FlowStub) -> None:
    request = a_request(
        selector=lambda r: r.configuration.selector.percentage.ClearField("seed"),
        ordering=lambda r: _options(r).ClearField("ordering_policy"),
    )

    run_id = _created(stub, request)

    found = stub.GetOperationRun(wire.GetOperationRunRequest(id=wire.UUID(id=str(run_id)))).operation_run
    options = found.configuration.options
    assert UUID(found.configuration.selector.percentage.seed) != UUID(options.ordering_policy.random.seed)
    gate = options.safety_policy.gates[0].failure_count
    assert gate.scope == wire.OPERATION_RUN_SAFETY_GATE_SCOPE_CURRENT_PHASE
    retry = options.conflict_policy.retry
    waits = (retry.retry_timeout.seconds, retry.initial_retry_delay.seconds, retry.max_retry_delay.seconds)
    assert waits == (3600, 30, 300)
    assert options.phase_policy.equal.phase_count == 1
    assert not options.phase_policy.advance_policy.auto_advance
    assert found.configuration.operation.HasField("target_scope")
    assert not found.HasField("stats")


def test_a_configuration_comes_back_as_it_was_given(stub: flow_pb2_grpc.FlowStub) -> None:
    def rich(request: Create) -> None:
        firmware = _firmware(request)
        firmware.start_time.seconds, firmware.end_time.seconds = 1_790_000_000, 1_790_003_600
        firmware.description = "spring"
        firmware.queue_options.conflict_strategy = wire.CONFLICT_STRATEGY_QUEUE
        firmware.queue_options.queue_timeout_seconds = 60
        firmware.rule_id.id = str(NOBODY)
        firmware.sub_targets.append("bmc")
        firmware.override_readiness_check = True
        first = firmware.target_spec.racks.targets.add(id=rack_uuid(1))
        first.component_types.append(wire.COMPONENT_TYPE_NVSWITCH)
        firmware.target_spec.racks.targets.add(name="r2")
        options = _options(request)
        gate = options.safety_policy.gates[0].failure_count
        gate.scope = wire.OPERATION_RUN_SAFETY_GATE_SCOPE_CUMULATIVE_RUN
        options.ordering_policy.physical_location.strategy = (
            wire.OperationRunPhysicalLocationOrdering.STRATEGY_ROW_BY_ROW
        )
        options.phase_policy.count.phases.add(count=1)
        options.phase_policy.advance_policy.auto_advance = True
        for field in ("retry_timeout", "initial_retry_delay", "max_retry_delay"):
            getattr(options.conflict_policy.retry, field).CopyFrom(Duration(seconds=40, nanos=500_000_000))

    request = a_request(rich=rich)

    run_id = _created(stub, request)

    found = stub.GetOperationRun(wire.GetOperationRunRequest(id=wire.UUID(id=str(run_id)))).operation_run
    request.configuration.operation.target_scope.SetInParent()
    assert found.configuration == request.configuration
    summary = found.summary
    assert (summary.name, summary.total_phases) == ("spring firmware", 2)
    assert summary.operation_kind == wire.OperationKind(type=wire.OPERATION_TYPE_FIRMWARE_CONTROL, code="upgrade")
    assert summary.state == wire.OperationRunState(
        status=wire.OPERATION_RUN_STATUS_PENDING, reason=wire.OPERATION_RUN_STATUS_REASON_NONE
    )


@pytest.mark.parametrize(
    ("change", "cohort"),
    [
        (_spec(lambda spec: spec.nvl_domains.targets.add(name="pod-1")), {"r1": 2, "r2": 1}),
        (
            _spec(
                lambda spec: spec.nvl_domains.targets.add(
                    id=wire.UUID(id=str(DOMAIN)), component_types=[wire.COMPONENT_TYPE_NVSWITCH]
                )
            ),
            {"r1": 1},
        ),
        (
            _spec(
                lambda spec: (
                    spec.components.targets.add(id=wire.UUID(id=str(UUID(int=3)))),
                    spec.components.targets.add(
                        external=wire.ExternalRef(type=wire.COMPONENT_TYPE_NVSWITCH, id="core-9")
                    ),
                )
            ),
            {"r1": 1, "r3": 1},
        ),
        (
            lambda r: _scope(r).default_scope_component_filter.components.targets.add(id=wire.UUID(id=str(SWITCH))),
            {"r1": 1},
        ),
        (
            lambda r: _scope(r).default_scope_component_filter.types.types.append(wire.COMPONENT_TYPE_NVSWITCH),
            {"r1": 1},
        ),
        (_spec(lambda spec: (spec.racks.targets.add(name="r1"), spec.racks.targets.add(id=rack_uuid(1)))), {"r1": 2}),
    ],
    ids=["domain by name", "domain by id, by type", "components", "filter by components", "filter by type", "twice"],
)
def test_the_cohort_is_what_the_words_say(
    stub: flow_pb2_grpc.FlowStub, store: SqlStore, change: Change, cohort: dict[str, int]
) -> None:
    run_id = _created(stub, a_request(change=change))

    found = {t.rack_name: sum(map(len, t.components.values())) for t in store.targets(run_id)}
    assert found == cohort
    told = stub.GetOperationRun(wire.GetOperationRunRequest(id=wire.UUID(id=str(run_id)))).operation_run
    given = a_request(change=change).configuration.operation
    assert told.configuration.operation.upgrade_firmware.target_spec == given.upgrade_firmware.target_spec
    assert told.configuration.operation.target_scope == given.target_scope


def test_what_an_earlier_run_did_is_left_out(stub: flow_pb2_grpc.FlowStub, store: SqlStore) -> None:
    first = _created(stub, a_request(change=_spec(lambda spec: spec.racks.targets.add(name="r1"))))

    second = _created(stub, a_request(change=lambda r: _scope(r).exclude_operation_run_ids.add(id=str(first))))

    assert sorted(target.rack_name for target in store.targets(second)) == [
        "r2",
        "r3",
        "r4",
        "r5",
        "r6",
        "twin",
        "twin",
    ]


def test_physical_order_works(stub: flow_pb2_grpc.FlowStub, store: SqlStore) -> None:
    strategy = wire.OperationRunPhysicalLocationOrdering.STRATEGY_ONE_PER_ROW_ROUND_ROBIN

    run_id = _created(
        stub, a_request(order=lambda r: setattr(_options(r).ordering_policy.physical_location, "strategy", strategy))
    )

    assert [target.rack_name for target in store.targets(run_id)][:4] == ["r1", "r2", "twin", "r3"]


def test_a_credential_is_sealed_in_the_store_and_never_told(
    stub: flow_pb2_grpc.FlowStub, store: SqlStore, caplog: pytest.LogCaptureFixture
) -> None:
    request = a_request(secret=lambda r: setattr(_firmware(r).authentication_data, "shared", "s3cret-word"))

    run_id = _created(stub, request)

    payload = store.get(run_id).run.rollout.operation.payload
    assert '"ciphertext"' in payload
    assert "s3cret-word" not in payload
    told = stub.GetOperationRun(wire.GetOperationRunRequest(id=wire.UUID(id=str(run_id)))).operation_run
    assert not told.configuration.operation.upgrade_firmware.HasField("authentication_data")
    assert "s3cret-word" not in caplog.text


def test_without_a_key_a_credential_is_refused(store: SqlStore, racks: Racks) -> None:
    request = a_request(secret=lambda r: setattr(_firmware(r).authentication_data, "shared", "s3cret-word"))

    with served(OperationRuns(store, racks, commands_on(store))) as stub:
        code, text = _refused(lambda: stub.CreateOperationRun(request))

    assert code is INVALID
    assert "this service has no key" in text
    assert "s3cret" not in text


# -- requests that are repeated --


def test_the_same_request_id_makes_one_run(stub: flow_pb2_grpc.FlowStub, store: SqlStore, racks: Racks) -> None:
    request = a_request(
        seeds=lambda r: r.configuration.selector.percentage.ClearField("seed"),
        secret=lambda r: setattr(_firmware(r).authentication_data, "shared", "s3cret-word"),
    )
    first = _created(stub, request, x_request_id="one")
    racks.known = []

    assert _created(stub, request, x_request_id="one") == first
    assert store.count() == 1


def test_a_request_id_is_not_for_another_configuration(stub: flow_pb2_grpc.FlowStub, store: SqlStore) -> None:
    first = _created(stub, x_request_id="one")
    other = a_request(change=lambda r: setattr(_options(r), "max_concurrent_targets", 3))

    told = _refused(lambda: _created(stub, other, x_request_id="one"))

    text = f"x-request-id: it made operation run {first} of another configuration; use a new one"
    assert told == (INVALID, text)
    assert store.count() == 1


def test_without_a_request_id_each_request_makes_a_run(stub: flow_pb2_grpc.FlowStub, store: SqlStore) -> None:
    assert _created(stub) != _created(stub)
    assert store.count() == 2


class Begun:
    """Looks of a task manager that knows the tasks of these keys; of ``silent`` it answers nothing."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys
        self.asked: list[int] = []
        self.silent = False
        self.meanwhile: Callable[[], object] = lambda: None

    def observe(self, refs: Sequence[Any], looked_at: datetime) -> Sequence[Observation]:
        self.asked.append(len(refs))
        self.meanwhile()
        return [] if self.silent else [self._look(ref, looked_at) for ref in refs]

    def _look(self, ref: Any, looked_at: datetime) -> Observation:
        told = {"target_id": ref.target_id, "attempt": ref.attempt, "fence": ref.fence}
        if ref.key in self.keys:
            return SubmissionAccepted(**told, task_id=TaskId("task"))
        return SubmissionAbsent(**told, barred=False, looked_at=looked_at)


def test_a_request_is_not_done_by_the_tasks_of_a_run_that_was_forgotten(store: SqlStore, racks: Racks) -> None:
    known = MemoryStore()
    with served(OperationRuns(known, racks, commands_on(known))) as stub:
        run_id = _created(stub, x_request_id="one")
    targets = known.targets(run_id)
    begun = Begun(idempotency_key_of(run_id, targets[2].id, targets[2].attempt))
    with served(OperationRuns(store, racks, commands_on(store), observe=begun.observe)) as stub:
        told = _refused(lambda: _created(stub, x_request_id="one"))
        assert store.count() == 0
        _created(stub, x_request_id="two")
        # Its own request meets it, whatever was begun for it since.
        begun.keys = tuple(
            idempotency_key_of(one.run_id, target.id, target.attempt)
            for one in store.list()
            for target in store.targets(one.run_id)
        )
        _created(stub, x_request_id="two")
        _created(stub)

    code, text = told
    assert code is PRECONDITION
    assert f"it made operation run {run_id} before, which the store does not know any more" in text
    assert begun.asked == [8, 8]
    assert store.count() == 2


def test_a_run_that_somebody_makes_and_begins_meanwhile_is_met(store: SqlStore, racks: Racks) -> None:
    begun = Begun()
    other = OperationRuns(store, racks, commands_on(store))

    def made_by_another() -> None:
        run_id = RunId(UUID(other.create(a_request(), Caller(name="another", request_id="one")).id.id))
        begun.keys = tuple(idempotency_key_of(run_id, target.id, target.attempt) for target in store.targets(run_id))

    begun.meanwhile = made_by_another
    with served(OperationRuns(store, racks, commands_on(store), observe=begun.observe)) as stub:
        _created(stub, x_request_id="one")

    assert store.count() == 1


def test_a_run_is_not_made_while_nobody_tells_whether_it_was_begun(store: SqlStore, racks: Racks) -> None:
    begun = Begun()
    begun.silent = True
    with served(OperationRuns(store, racks, commands_on(store), observe=begun.observe)) as stub:
        told = _refused(lambda: _created(stub, x_request_id="one"))

    assert told == (grpc.StatusCode.UNAVAILABLE, "the task manager is not available now; try again later")
    assert store.count() == 0


@pytest.mark.parametrize("given", ["", "x" * 129])
def test_a_request_id_has_a_length(stub: flow_pb2_grpc.FlowStub, given: str) -> None:
    assert _refused(lambda: _created(stub, x_request_id=given)) == (
        INVALID,
        f"x-request-id has {len(given)} characters; give 1 to 128",
    )


def test_a_repeated_command_gets_its_first_reply(stub: flow_pb2_grpc.FlowStub, store: SqlStore) -> None:
    run = wire.UUID(id=str(_created(stub)))
    once = (("x-request-id", "p1"),)
    paused = stub.PauseOperationRun(wire.PauseOperationRunRequest(id=run), metadata=once)
    stub.ResumeOperationRun(wire.ResumeOperationRunRequest(id=run))

    again = stub.PauseOperationRun(wire.PauseOperationRunRequest(id=run), metadata=once)

    assert again == paused
    assert store.get(RunId(UUID(run.id))).run.status is RunStatus.RUNNING


def test_a_repeated_command_that_was_refused_is_refused_again(stub: flow_pb2_grpc.FlowStub) -> None:
    run = wire.UUID(id=str(_created(stub)))
    once = (("x-request-id", "r1"),)
    resume = wire.ResumeOperationRunRequest(id=run)
    first = _refused(lambda: stub.ResumeOperationRun(resume, metadata=once))
    stub.PauseOperationRun(wire.PauseOperationRunRequest(id=run))

    assert _refused(lambda: stub.ResumeOperationRun(resume, metadata=once)) == first


def test_a_request_id_is_not_for_another_number_of_failures(stub: flow_pb2_grpc.FlowStub) -> None:
    run = wire.UUID(id=str(_created(stub)))
    stub.PauseOperationRun(wire.PauseOperationRunRequest(id=run))
    resume = wire.ResumeOperationRunRequest(id=run)
    stub.ResumeOperationRun(resume, metadata=(("x-request-id", "r1"),))

    told = _refused(
        lambda: stub.ResumeOperationRun(resume, metadata=(("x-request-id", "r1"), ("x-accept-failures", "3")))
    )

    assert told == (INVALID, f"command_id: {told[1].split()[1]} named another command before (resume); name a new one")


def test_one_request_id_may_serve_two_calls(stub: flow_pb2_grpc.FlowStub) -> None:
    run = wire.UUID(id=str(_created(stub, x_request_id="one")))
    once = (("x-request-id", "one"),)

    stub.PauseOperationRun(wire.PauseOperationRunRequest(id=run), metadata=once)
    told = stub.ResumeOperationRun(wire.ResumeOperationRunRequest(id=run), metadata=once)

    assert told.summary.state.status == wire.OPERATION_RUN_STATUS_RUNNING


def test_a_run_with_numbers_that_no_field_can_hold_is_told(stub: flow_pb2_grpc.FlowStub, store: SqlStore) -> None:
    big = 3_000_000_000
    asked = rollout(
        max_concurrent_targets=big,
        gates=(FailureCountGate(threshold_count=big),),
        phases=CountPhases(counts=(1, 1)),
    )
    new = new_run(plan(racks_of(2), asked), command_id=CommandId("local"), actor="me", now=datetime.now(UTC))
    store.create(new)

    told = stub.GetOperationRun(wire.GetOperationRunRequest(id=wire.UUID(id=str(new.run.id)))).operation_run

    options = told.configuration.options
    assert options.max_concurrent_targets == 2**31 - 1
    assert options.safety_policy.gates[0].failure_count.failure_threshold_count == 2**31 - 1


# -- what the calls on one run refuse --

NEEDS_ID: Final[dict[str, Callable[[flow_pb2_grpc.FlowStub, wire.UUID], object]]] = {
    "get": lambda stub, run: stub.GetOperationRun(wire.GetOperationRunRequest(id=run)),
    "targets": lambda stub, run: stub.ListOperationRunTargets(
        wire.ListOperationRunTargetsRequest(operation_run_id=run)
    ),
    "pause": lambda stub, run: stub.PauseOperationRun(wire.PauseOperationRunRequest(id=run)),
    "resume": lambda stub, run: stub.ResumeOperationRun(wire.ResumeOperationRunRequest(id=run)),
    "advance": lambda stub, run: stub.AdvanceOperationRunPhase(wire.AdvanceOperationRunPhaseRequest(id=run)),
    "cancel": lambda stub, run: stub.CancelOperationRun(wire.CancelOperationRunRequest(id=run)),
}


@pytest.mark.parametrize("name", NEEDS_ID)
@pytest.mark.parametrize("run", [None, wire.UUID(id="x"), wire.UUID(id=str(UUID(int=0)))], ids=["none", "bad", "nil"])
def test_every_call_on_a_run_needs_its_id(stub: flow_pb2_grpc.FlowStub, name: str, run: Any) -> None:
    assert _refused(lambda: NEEDS_ID[name](stub, run)) == (INVALID, "operation run ID is required")


@pytest.mark.parametrize("name", NEEDS_ID)
def test_a_run_that_is_not_there_is_not_found(stub: flow_pb2_grpc.FlowStub, name: str) -> None:
    told = _refused(lambda: NEEDS_ID[name](stub, wire.UUID(id=str(NOBODY))))

    assert told == (NOT_FOUND, f"operation run not found: {NOBODY}")


STATE: Final = "operation run is not in a valid state for the requested operation: "


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("pause", "{run} is in terminal state cancelled"),
        ("resume", "{run} is not paused"),
        ("advance", "{run} is not paused at a phase gate"),
    ],
)
def test_a_run_that_has_ended_takes_no_command(stub: flow_pb2_grpc.FlowStub, call: str, text: str) -> None:
    run = wire.UUID(id=str(_created(stub)))
    stub.CancelOperationRun(wire.CancelOperationRunRequest(id=run))

    assert _refused(lambda: NEEDS_ID[call](stub, run)) == (PRECONDITION, STATE + text.format(run=run.id))


def test_what_is_not_held_is_not_resumed_and_not_advanced(stub: flow_pb2_grpc.FlowStub) -> None:
    run = wire.UUID(id=str(_created(stub)))

    resumed, advanced = (_refused(partial(NEEDS_ID[name], stub, run)) for name in ("resume", "advance"))

    assert resumed == (PRECONDITION, f"{STATE}{run.id} is not paused")
    assert advanced == (PRECONDITION, f"{STATE}{run.id} is not paused at a phase gate")


# -- a run that is dispatched --


def test_a_run_is_led_through_a_phase_gate(stub: flow_pb2_grpc.FlowStub, store: SqlStore) -> None:
    phases = a_request(
        two=lambda r: setattr(_options(r).phase_policy.equal, "phase_count", 2),
        calm=lambda r: setattr(_options(r).safety_policy.gates[0].failure_count, "failure_threshold_count", 9),
    )
    run_id = _created(stub, phases)
    run = wire.UUID(id=str(run_id))
    to_the_end_of_the_phase(store, run_id, r1=TaskStatus.FAILED, r2=TaskStatus.TERMINATED)
    held = stub.GetOperationRun(wire.GetOperationRunRequest(id=run, include_stats=True)).operation_run

    assert held.summary.state.reason == wire.OPERATION_RUN_STATUS_REASON_PHASE_GATE
    assert held.summary.status_message == "waiting for phase advance"
    assert held.summary.HasField("started_at")
    counts = held.stats.current_phase_stats
    assert (counts.phase_index, counts.selected_targets) == (0, 4)
    assert counts.outcome_counts.completed + counts.outcome_counts.failed + counts.outcome_counts.terminated == 4
    assert _refused(lambda: NEEDS_ID["resume"](stub, run)) == (
        PRECONDITION,
        f"{STATE}{run.id} is paused at a phase gate; use AdvanceOperationRunPhase",
    )
    wrong = wire.AdvanceOperationRunPhaseRequest(id=run, expected_phase_index=2)
    assert _refused(lambda: stub.AdvanceOperationRunPhase(wrong)) == (
        PRECONDITION,
        f"{STATE}expected phase 2, next phase is 1",
    )

    told = stub.AdvanceOperationRunPhase(wire.AdvanceOperationRunPhaseRequest(id=run, expected_phase_index=1))

    assert told.summary.status_message == "advanced to phase 1"
    assert told.summary.state.status == wire.OPERATION_RUN_STATUS_RUNNING
    to_the_end_of_the_phase(store, run_id, r1=TaskStatus.FAILED, r2=TaskStatus.TERMINATED)
    ended = stub.GetOperationRun(wire.GetOperationRunRequest(id=run, include_stats=True)).operation_run
    assert ended.summary.state.status == wire.OPERATION_RUN_STATUS_COMPLETED_WITH_FAILURES
    assert ended.summary.HasField("finished_at")
    whole = ended.stats.cumulative_phase_stats
    assert (whole.phase_index, whole.selected_targets) == (1, 8)
    assert whole.outcome_counts == wire.OperationRunTargetOutcomeCounts(completed=6, failed=1, terminated=1)


def test_an_advance_that_expects_nothing_opens_the_next_phase(stub: flow_pb2_grpc.FlowStub, store: SqlStore) -> None:
    run_id = _created(stub, a_request(two=lambda r: setattr(_options(r).phase_policy.equal, "phase_count", 2)))
    to_the_end_of_the_phase(store, run_id)

    told = stub.AdvanceOperationRunPhase(wire.AdvanceOperationRunPhaseRequest(id=wire.UUID(id=str(run_id))))

    assert told.summary.status_message == "advanced to phase 1"


def _tripped(stub: flow_pb2_grpc.FlowStub, store: SqlStore) -> wire.UUID:
    run_id = _created(stub)
    to_the_end_of_the_phase(store, run_id, **dict.fromkeys(("r1", "r2", "r3", "r4", "r5"), TaskStatus.FAILED))
    held = stub.GetOperationRun(wire.GetOperationRunRequest(id=wire.UUID(id=str(run_id)))).operation_run
    assert held.summary.state.reason == wire.OPERATION_RUN_STATUS_REASON_SAFETY_GATE
    return wire.UUID(id=str(run_id))


def test_a_resume_accepts_the_failures_that_stand_and_says_so(
    stub: flow_pb2_grpc.FlowStub, store: SqlStore, caplog: pytest.LogCaptureFixture
) -> None:
    run = _tripped(stub, store)

    told = stub.ResumeOperationRun(wire.ResumeOperationRunRequest(id=run))

    assert told.summary.state.status == wire.OPERATION_RUN_STATUS_RUNNING
    assert [a.failures for a in store.get(RunId(UUID(run.id))).run.accepted] == [2]
    assert "accepts 2 failed attempts" in caplog.text
    a_round(store, RunId(UUID(run.id)))
    assert store.get(RunId(UUID(run.id))).run.status is RunStatus.RUNNING


def test_where_the_number_is_asked_for_a_resume_must_tell_it(store: SqlStore, racks: Racks) -> None:
    strict = OperationRuns(store, racks, commands_on(store), settings=RunSettings(resume_needs_number=True))
    with served(strict) as stub:
        run = _tripped(stub, store)
        resume = wire.ResumeOperationRunRequest(id=run)

        without = _refused(lambda: stub.ResumeOperationRun(resume))
        fewer = _refused(lambda: stub.ResumeOperationRun(resume, metadata=(("x-accept-failures", "1"),)))
        odd = _refused(lambda: stub.ResumeOperationRun(resume, metadata=(("x-accept-failures", "all"),)))
        told = stub.ResumeOperationRun(resume, metadata=(("x-accept-failures", "2"),))

    assert without[0] is fewer[0] is PRECONDITION
    assert "resume and accept 2 of them" in without[1]
    assert "look again, then accept 2" in fewer[1]
    assert odd == (INVALID, "x-accept-failures: 'all' is not a number of failures")
    assert told.summary.state.status == wire.OPERATION_RUN_STATUS_RUNNING


def test_a_cancelled_run_says_why_and_skips_what_has_not_started(stub: flow_pb2_grpc.FlowStub, store: SqlStore) -> None:
    run_id = _created(stub)
    cancel = wire.CancelOperationRunRequest(id=wire.UUID(id=str(run_id)), reason="  wrong version ")

    told = stub.CancelOperationRun(cancel)
    again = stub.CancelOperationRun(cancel)

    assert told.summary.status_message == "operation run cancelled: wrong version"
    assert told.summary.state.status == again.summary.state.status == wire.OPERATION_RUN_STATUS_CANCELLED
    assert {target.status for target in store.targets(run_id)} == {TargetStatus.SKIPPED}


# -- listings --


def test_runs_are_listed_the_newest_first_and_page_by_page(stub: flow_pb2_grpc.FlowStub) -> None:
    made = [str(_created(stub, a_request(name=_called(f"run {n}")))) for n in range(5)]

    every = stub.ListOperationRuns(wire.ListOperationRunsRequest())
    page = stub.ListOperationRuns(wire.ListOperationRunsRequest(pagination=wire.Pagination(offset=1, limit=2)))
    endless = stub.ListOperationRuns(wire.ListOperationRunsRequest(pagination=wire.Pagination(offset=-1, limit=0)))

    assert [run.id.id for run in every.operation_runs] == made[::-1]
    assert [run.id.id for run in page.operation_runs] == made[::-1][1:3]
    assert (every.total, page.total) == (5, 5)
    assert endless == every


def _info(*patterns: str, wild: bool = False, any_: bool = False) -> wire.OperationRunFilter:
    return wire.OperationRunFilter(name=wire.StringQueryInfo(patterns=patterns, is_wildcard=wild, use_or=any_))


RUNNING, PAUSED = wire.OPERATION_RUN_STATUS_RUNNING, wire.OPERATION_RUN_STATUS_PAUSED
BY_OPERATOR: Final = wire.OPERATION_RUN_STATUS_REASON_OPERATOR_PAUSED


@pytest.mark.parametrize(
    ("filter_", "names"),
    [
        (_info("spring"), {"spring"}),
        (_info("spring", "autumn"), {"spring", "autumn"}),
        (_info("pri", wild=True), {"spring"}),
        (_info("%n%", "%ring", wild=True), {"spring"}),
        (_info("aut%", "%ring", wild=True, any_=True), {"spring", "autumn"}),
        (_info("SPRING", wild=True), set()),
        (wire.OperationRunFilter(states=[wire.OperationRunStateFilter(status=PAUSED)]), {"autumn"}),
        (wire.OperationRunFilter(states=[wire.OperationRunStateFilter(reason=BY_OPERATOR)]), {"autumn"}),
        (
            wire.OperationRunFilter(states=[wire.OperationRunStateFilter(status=RUNNING, reason=BY_OPERATOR)]),
            set(),
        ),
        (
            wire.OperationRunFilter(
                operation_kinds=[wire.OperationKind(type=wire.OPERATION_TYPE_FIRMWARE_CONTROL, code="upgrade")]
            ),
            {"spring", "autumn", "50%"},
        ),
        (
            wire.OperationRunFilter(operation_kinds=[wire.OperationKind(type=wire.OPERATION_TYPE_POWER_CONTROL)]),
            set(),
        ),
    ],
)
def test_runs_are_filtered(stub: flow_pb2_grpc.FlowStub, filter_: wire.OperationRunFilter, names: set[str]) -> None:
    for name in ("spring", "autumn", "50%"):
        run_id = _created(stub, a_request(name=_called(name)))
        if name == "autumn":
            stub.PauseOperationRun(wire.PauseOperationRunRequest(id=wire.UUID(id=str(run_id))))

    found = stub.ListOperationRuns(wire.ListOperationRunsRequest(filter=filter_))

    assert {run.name for run in found.operation_runs} == names
    assert found.total == len(names)


@pytest.mark.parametrize(
    ("filter_", "text"),
    [
        (
            wire.OperationRunFilter(states=[wire.OperationRunStateFilter()]),
            "operation run state filter must set status, reason, or both",
        ),
        (
            wire.OperationRunFilter(states=[wire.OperationRunStateFilter(status=wire.OPERATION_RUN_STATUS_UNKNOWN)]),
            "unknown operation run status in filter",
        ),
        (
            wire.OperationRunFilter(
                states=[wire.OperationRunStateFilter(reason=wire.OPERATION_RUN_STATUS_REASON_UNKNOWN)]
            ),
            "unknown operation run status reason in filter",
        ),
        (
            wire.OperationRunFilter(operation_kinds=[wire.OperationKind()]),
            "operation kind filter must set operation type",
        ),
        (
            wire.OperationRunFilter(
                operation_kinds=[wire.OperationKind(type=wire.OPERATION_TYPE_FIRMWARE_CONTROL, code="")]
            ),
            "operation kind filter code must not be empty",
        ),
        (_info("a\\", wild=True), None),
    ],
)
def test_a_filter_that_means_nothing_is_refused(
    stub: flow_pb2_grpc.FlowStub, filter_: wire.OperationRunFilter, text: str | None
) -> None:
    def call() -> wire.ListOperationRunsResponse:
        return stub.ListOperationRuns(wire.ListOperationRunsRequest(filter=filter_))

    if text is None:
        assert call().total == 0
    else:
        assert _refused(call) == (INVALID, text)


def test_targets_are_listed_by_phase(stub: flow_pb2_grpc.FlowStub, store: SqlStore) -> None:
    run_id = _created(stub, a_request(two=lambda r: setattr(_options(r).phase_policy.equal, "phase_count", 2)))
    run = wire.UUID(id=str(run_id))
    to_the_end_of_the_phase(store, run_id)
    stub.AdvanceOperationRunPhase(wire.AdvanceOperationRunPhaseRequest(id=run))
    a_round(store, run_id)

    def listed(scope: int, **more: Any) -> wire.ListOperationRunTargetsResponse:
        return stub.ListOperationRunTargets(
            wire.ListOperationRunTargetsRequest(
                operation_run_id=run,
                phase_scope=scope,  # type: ignore[arg-type]
                **more,
            )
        )

    current, done, both = listed(1), listed(2), listed(3)
    assert [target.sequence_index for target in current.targets] == [4, 5, 6, 7]
    assert listed(0) == current
    assert [target.phase_index for target in done.targets] == [0, 0, 0, 0]
    assert {target.status for target in done.targets} == {wire.OPERATION_RUN_TARGET_STATUS_COMPLETED}
    assert list(both.targets) == [*done.targets, *current.targets]
    assert (current.total, done.total, both.total) == (4, 4, 8)
    claimed = listed(3, status=wire.OPERATION_RUN_TARGET_STATUS_CLAIMED, pagination=wire.Pagination(limit=1))
    assert (len(claimed.targets), claimed.total) == (1, 2)
    first = done.targets[0]
    assert first.updated_at.ToDatetime() > first.created_at.ToDatetime()
    assert [group.type for group in first.components_by_type.groups] == [wire.COMPONENT_TYPE_COMPUTE]
    ids = [UUID(one.id) for one in first.components_by_type.groups[0].component_ids]
    assert ids == list(store.targets(run_id)[0].components["Compute"])
    assert first.operation_run_id == run


def test_listing_targets_refuses_in_the_order_of_the_contract(stub: flow_pb2_grpc.FlowStub) -> None:
    nobody = wire.UUID(id=str(NOBODY))
    request = wire.ListOperationRunTargetsRequest

    def call(**fields: Any) -> tuple[grpc.StatusCode, str]:
        return _refused(lambda: stub.ListOperationRunTargets(request(**fields)))

    assert call(status=99) == (INVALID, "operation run ID is required")
    assert call(operation_run_id=nobody, status=99) == (INVALID, "unknown operation run target status in filter")
    assert call(operation_run_id=nobody, phase_scope=9) == (INVALID, "unsupported operation run target phase scope")


# -- what goes wrong here --


def test_an_error_of_the_service_tells_nothing_of_its_insides(
    stub: flow_pb2_grpc.FlowStub, store: SqlStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("SELECT secret FROM somewhere")

    monkeypatch.setattr(store, "list", broken)

    told = _refused(lambda: stub.ListOperationRuns(wire.ListOperationRunsRequest()))

    assert told == (grpc.StatusCode.INTERNAL, "internal server error")
    assert "SELECT secret" in caplog.text


def test_a_store_that_is_gone_is_unavailable(
    stub: flow_pb2_grpc.FlowStub, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise Unavailable("the store", "connection to 10.1.2.3 refused", "try again later")

    monkeypatch.setattr(store, "count", gone)

    told = _refused(lambda: stub.ListOperationRuns(wire.ListOperationRunsRequest()))

    assert told == (grpc.StatusCode.UNAVAILABLE, "the store is not available now; try again later")


def test_what_is_not_served_is_unimplemented(stub: flow_pb2_grpc.FlowStub) -> None:
    code, _ = _refused(lambda: stub.Version(wire.VersionRequest()))

    assert code is grpc.StatusCode.UNIMPLEMENTED


def test_a_run_is_told_apart_by_its_request(stub: flow_pb2_grpc.FlowStub, store: SqlStore) -> None:
    run_id = _created(stub, x_request_id="one", x_actor="ada")

    found = store.get(run_id).run
    assert found.id == run_id
    assert found.id != run_id_of(CommandId("one"))
    assert found.created_at.utcoffset() == timedelta(0)
