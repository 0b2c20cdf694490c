"""The calls on a server that somebody else owns, synchronous or asynchronous."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from opdispatch_adapters.flow.server import SERVICE, Access, OperationRuns, add_operation_runs
from opdispatch_adapters.flow.wire import flow_pb2 as wire
from opdispatch_adapters.flow.wire import flow_pb2_grpc
from opdispatch_adapters.memory import MemoryStore
from tests.integration.flow_kit import Racks, a_request, candidates, commands_on, served


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
