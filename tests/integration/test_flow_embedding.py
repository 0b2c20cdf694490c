"""The calls on a server that somebody else owns, synchronous or asynchronous, and requests that nobody would send."""

from __future__ import annotations

import asyncio
import os
import random
import resource
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

import grpc
import pytest
from google.protobuf.message import Message

from opdispatch_adapters.flow.server import SERVICE, Access, OperationRuns, add_operation_runs
from opdispatch_adapters.flow.wire import flow_pb2 as wire
from opdispatch_adapters.flow.wire import flow_pb2_grpc
from opdispatch_adapters.memory import MemoryStore
from tests.integration.flow_kit import Racks, a_request, candidates, commands_on, rack_uuid, reached, served

INPUTS: Final = 50_000 if os.environ.get("OPDISPATCH_DEEP") else 3_000
EXPECTED: Final = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
}


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def runs(store: MemoryStore) -> OperationRuns:
    known = Racks(candidates())
    return OperationRuns(store, known, commands_on(store), externals=known)


def test_an_asynchronous_server_answers_the_same(runs: OperationRuns, store: MemoryStore) -> None:
    async def talk() -> tuple[str, grpc.StatusCode, str]:
        server = grpc.aio.server()
        add_operation_runs(server, runs)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub: Any = flow_pb2_grpc.FlowStub(channel)
                made = await stub.CreateOperationRun(a_request(), metadata=(("x-request-id", "one"),))
                try:
                    await stub.GetOperationRun(wire.GetOperationRunRequest())
                except grpc.aio.AioRpcError as error:
                    return made.id.id, error.code(), error.details() or ""
                raise AssertionError("it was not refused")
        finally:
            await server.stop(None)

    made, code, text = asyncio.run(talk())

    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, "operation run ID is required")
    assert str(store.list()[0].run_id) == made


def test_what_else_is_on_the_server_is_left_alone(runs: OperationRuns) -> None:
    def version(request: bytes, context: grpc.ServicerContext) -> bytes:
        return wire.BuildInfo(version="theirs").SerializeToString()

    theirs = grpc.method_handlers_generic_handler(SERVICE, {"Version": grpc.unary_unary_rpc_method_handler(version)})
    with served(runs, more=theirs) as stub:
        assert stub.Version(wire.VersionRequest()).version == "theirs"
        assert stub.ListOperationRuns(wire.ListOperationRunsRequest()).total == 0


def test_an_embedded_server_can_be_given_the_access(runs: OperationRuns) -> None:
    with served(runs, access=Access()) as stub, pytest.raises(grpc.RpcError) as error:
        stub.ListOperationRuns(wire.ListOperationRunsRequest())

    found: Any = error.value
    assert found.code() is grpc.StatusCode.UNAUTHENTICATED


# -- requests that nobody would send --


def _seeds(run: str) -> list[tuple[str, Message]]:
    rich = a_request()
    configuration = rich.configuration
    configuration.operation.upgrade_firmware.target_spec.racks.targets.add(id=rack_uuid(1))
    configuration.operation.upgrade_firmware.queue_options.queue_timeout_seconds = 5
    configuration.operation.target_scope.exclude_operation_run_ids.add(id=run)
    configuration.options.phase_policy.percentage.phases.add(percentage=100)
    configuration.options.conflict_policy.retry.retry_timeout.seconds = 60
    configuration.options.ordering_policy.physical_location.strategy = 1  # type: ignore[assignment]
    one = wire.UUID(id=run)
    listing = wire.ListOperationRunsRequest(pagination=wire.Pagination(offset=1, limit=5))
    listing.filter.name.patterns.append("spring%")
    listing.filter.states.add(status=wire.OPERATION_RUN_STATUS_PAUSED)
    listing.filter.operation_kinds.add(type=wire.OPERATION_TYPE_FIRMWARE_CONTROL, code="upgrade")
    return [
        ("CreateOperationRun", rich),
        ("GetOperationRun", wire.GetOperationRunRequest(id=one, include_stats=True)),
        ("ListOperationRuns", listing),
        ("ListOperationRunTargets", wire.ListOperationRunTargetsRequest(operation_run_id=one, status=1)),  # type: ignore[arg-type]
        ("PauseOperationRun", wire.PauseOperationRunRequest(id=one)),
        ("ResumeOperationRun", wire.ResumeOperationRunRequest(id=one)),
        ("AdvanceOperationRunPhase", wire.AdvanceOperationRunPhaseRequest(id=one, expected_phase_index=1)),
        ("CancelOperationRun", wire.CancelOperationRunRequest(id=one, reason="why")),
    ]


def _mutated(data: bytes, chance: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        match chance.randrange(5):
            case 0 if found:
                found[chance.randrange(len(found))] = chance.randrange(256)
            case 1 if found:
                del found[chance.randrange(len(found))]
            case 2:
                found.insert(chance.randint(0, len(found)), chance.randrange(256))
            case 3 if found:
                start = chance.randrange(len(found))
                found.extend(found[start : start + chance.randint(1, 20)])
            case _ if found:
                cut = chance.randrange(len(found))
                found = found[:cut]
    return bytes(found)


@pytest.fixture
def channel(runs: OperationRuns) -> Iterator[grpc.Channel]:
    with reached(runs) as found:
        yield found


@pytest.mark.timeout(1200)
def test_mutated_requests_get_typed_errors_and_nothing_grows(channel: grpc.Channel, store: MemoryStore) -> None:
    stub = flow_pb2_grpc.FlowStub(channel)
    run = stub.CreateOperationRun(a_request()).id.id
    chance = random.Random(20_26)
    codes: dict[object, int] = {}
    sizes: list[int] = []
    # The second half is about a run that is not there: then nothing is kept, so nothing may grow.
    for half, seeds in enumerate((_seeds(run), _seeds(str(UUID(int=404))))):
        for number in range(INPUTS // 2):
            name, seed = chance.choice(seeds)
            call: Any = channel.unary_unary(f"/{SERVICE}/{name}")
            data = _mutated(seed.SerializeToString(), chance)
            try:
                call(data, timeout=30)
                code: object = grpc.StatusCode.OK
            except grpc.RpcError as error:
                found: Any = error
                code = found.code()
                assert code in EXPECTED, (name, data, code, found.details())
                assert "Traceback" not in found.details()
            codes[code] = codes.get(code, 0) + 1
            if half and number % (INPUTS // 10) == 0:
                sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    assert min(codes[code] for code in (grpc.StatusCode.OK, *EXPECTED)) > 0, codes
    assert sizes[-1] - sizes[0] < 10_000, sizes
