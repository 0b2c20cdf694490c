"""Requests to the operation-run server: whatever bytes a caller sends, with whatever metadata.

Most are given in process to the very handlers that ``add_operation_runs`` registers, which decode the request, check
its bounds, carry it out on a store in memory and serialize the answer; so all is exercised but HTTP/2 and the threads
of the library.  One in ``OVER_A_CHANNEL`` goes through a real channel to a real server over the same store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final
from uuid import UUID

import grpc

from opdispatch_adapters.flow.server import SERVICE, OperationRuns, add_operation_runs
from opdispatch_adapters.flow.wire import flow_pb2 as wire
from opdispatch_adapters.memory import MemoryStore
from tests.integration.flow_kit import Racks, a_request, candidates, commands_on

from .engine import Input, Surface
from .golden import inputs_of
from .laws import held
from .mutate import INTEGERS, TEXTS, WireSeed, changed_bytes, hostile_json, raw_bytes

OVER_A_CHANNEL: Final = 50
EXPECTED: Final = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}
)
"""What a caller is answered that sends nonsense: never that something broke inside."""
METADATA: Final = "metadata"
"""The kind of an input that is metadata, as JSON, of a request that is sound."""
_KNOWN: Final = (("x-request-id", "golden"), ("x-actor", "somebody"))
_AFRESH: Final = 500
"""The store is made anew after so many inputs, because each run that is created stays in it."""
_NOW: Final = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)


class _Aborted(Exception):
    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        self.code, self.text = code, text
        super().__init__(code, text)


class _Context:
    """What a handler asks of its call."""

    def __init__(self, metadata: Sequence[tuple[str, Any]]) -> None:
        self._metadata = metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def invocation_metadata(self) -> Sequence[tuple[str, Any]]:
        return self._metadata

    def abort(self, code: grpc.StatusCode, text: str) -> None:
        raise _Aborted(code, text)


class _Registry:
    """A server that only keeps what is registered."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        for handler in handlers:
            # The library's own dictionary from the whole name of a method to its handler.
            self.handlers |= {name.rsplit("/", 1)[1]: found for name, found in handler._method_handlers.items()}


class Requests(Surface):
    name: ClassVar[str] = "requests"
    takes_every_seed: ClassVar[bool] = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._seeds: tuple[Input, ...] = ()
        self._count = 0
        self._threads = ThreadPoolExecutor(2)
        self._server: grpc.Server | None = None
        self._channel: grpc.Channel | None = None
        self.over_a_channel = 0
        self._make_afresh()

    def _make_afresh(self) -> None:
        self._stop()
        store = MemoryStore(clock=lambda: _NOW)
        known = Racks(candidates())
        runs = OperationRuns(store, known, commands_on(store), externals=known, clock=lambda: _NOW)
        registry = _Registry()
        add_operation_runs(registry, runs)  # type: ignore[arg-type]  # what a server is here for
        self._handlers = registry.handlers
        self._server = grpc.server(self._threads)
        add_operation_runs(self._server, runs)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._answer("CreateOperationRun", a_request().SerializeToString(), _KNOWN)
        self.run = str(store.list()[0].run_id)

    def _stop(self) -> None:
        if self._channel is not None:
            self._channel.close()
        if self._server is not None:
            self._server.stop(0).wait()

    def close(self) -> None:
        self._stop()
        self._threads.shutdown()

    @property
    def seeds(self) -> Sequence[Input]:
        if not self._seeds:
            self._seeds = inputs_of(self.name)
            self._parsed = [(seed.kind, WireSeed(seed.data)) for seed in self._seeds]
            self._wires = [seed for _, seed in self._parsed]
            self._bytes = [seed.data for seed in self._seeds]
        return self._seeds

    def mutated(self, chance: Random) -> Input:
        kind, seed = chance.choice(self._parsed)
        match chance.randrange(20):
            case 0:
                data = raw_bytes(chance)
            case 1 | 2 | 3 | 4 | 5:
                data = changed_bytes(seed.data, chance, self._bytes)
            case 6:
                data = chance.choice(self._bytes)
            case 7:
                kind, data = METADATA, _metadata(chance)
            case _:
                data = seed.changed(chance, self._wires)
        return Input(kind, data)

    def value(self, given: Input) -> Any:
        """The answer to it on a server that was just made."""
        self._make_afresh()
        metadata = (("x-request-id", hashlib.sha256(given.data).hexdigest()),)
        try:
            message = self._answer(given.kind, given.data, metadata)
            if given.kind == "CreateOperationRun":
                # What it was read to is what the run says of itself.
                made = wire.CreateOperationRunResponse.FromString(message)
                message = self._answer(
                    "GetOperationRun", wire.GetOperationRunRequest(id=made.id).SerializeToString(), ()
                )
                return wire.GetOperationRunResponse.FromString(message)
        except _Aborted as error:
            return {"code": error.code.name, "text": error.text}
        response: Any = getattr(wire, f"{given.kind.replace('Phase', '')}Response", wire.OperationRun)
        return response.FromString(message)

    def _answer(self, method: str, data: bytes, metadata: Sequence[tuple[str, Any]]) -> bytes:
        handler = self._handlers[method]
        answer: bytes = handler.response_serializer(handler.unary_unary(data, _Context(metadata)))
        return answer

    def _over_a_channel(self, method: str, data: bytes, metadata: Sequence[tuple[str, Any]]) -> None:
        assert self._channel is not None
        self.over_a_channel += 1
        call: Any = self._channel.unary_unary(f"/{SERVICE}/{method}")
        try:
            call(data, timeout=30, metadata=metadata)
        except grpc.RpcError as error:
            found: Any = error
            raise _Aborted(found.code(), found.details() or "") from None

    def takes(self, given: Input) -> bool:
        self._count += 1
        if self._count % _AFRESH == 0:
            self._make_afresh()
        try:
            if given.kind == METADATA:
                # Only in process: the library itself refuses most of it, before anything is sent.
                request = wire.PauseOperationRunRequest(id=wire.UUID(id=self.run)).SerializeToString()
                self._answer("PauseOperationRun", request, _pairs(given.data))
            elif self._count % OVER_A_CHANNEL == 0:
                self._over_a_channel(given.kind, given.data, ())
            else:
                self._answer(given.kind, given.data, ())
        except _Aborted as error:
            held(error.code in EXPECTED, f"{error.code}: {error.text}")
            held(error.text, "it does not say why")
            held(len(error.text) < 32_768, f"the text has {len(error.text)} characters")
            held("Traceback" not in error.text, error.text)
            error.text.encode()
            return False
        return True


def _pairs(data: bytes) -> tuple[tuple[str, str], ...]:
    return tuple((str(key), str(value)) for key, value in json.loads(data))


def _metadata(chance: Random) -> bytes:
    keys = ("x-request-id", "x-actor", "x-accept-failures", "x-accept-failures", "", "x")
    pairs = [
        (chance.choice(keys), chance.choice((chance.choice(TEXTS), str(chance.choice(INTEGERS)), hostile_json(chance))))
        for _ in range(chance.randint(1, 3))
    ]
    return json.dumps(pairs).encode("ascii")


def recorded() -> Sequence[tuple[str, bytes]]:
    """Requests as callers send them, about the run that the surface has."""
    from opdispatch.identity import CommandId, run_id_of
    from opdispatch_adapters.flow.server.service import Caller, _command_id

    run = str(run_id_of(CommandId(_command_id("create", Caller(name="somebody", request_id="golden")))))
    rich = a_request()
    configuration = rich.configuration
    spec = configuration.operation.upgrade_firmware.target_spec
    for number in (1, 2):
        target = spec.racks.targets.add(id=wire.UUID(id=f"{number:08x}-0000-4000-8000-{number:012x}"))
        target.component_types.append(wire.COMPONENT_TYPE_COMPUTE)
    configuration.operation.upgrade_firmware.queue_options.queue_timeout_seconds = 5
    configuration.options.phase_policy.percentage.phases.add(percentage=100)
    configuration.options.conflict_policy.retry.retry_timeout.seconds = 60
    configuration.options.conflict_policy.retry.initial_retry_delay.nanos = 500_000_000
    configuration.options.ordering_policy.physical_location.strategy = 1  # type: ignore[assignment]
    counted = a_request()
    policy = counted.configuration.options.phase_policy
    policy.count.phases.add(count=1)
    policy.advance_policy.auto_advance = True
    rate = counted.configuration.options.safety_policy.gates.add().failure_rate
    rate.failure_threshold_percent, rate.scope = 10, 2  # type: ignore[assignment]
    counted.configuration.operation.target_scope.default_scope_component_filter.types.types.append(
        wire.COMPONENT_TYPE_COMPUTE
    )
    excluding = a_request()
    excluding.configuration.operation.target_scope.exclude_operation_run_ids.add(id=run)
    one = wire.UUID(id=run)
    listing = wire.ListOperationRunsRequest(pagination=wire.Pagination(offset=1, limit=5))
    listing.filter.name.patterns.append("spring%")
    listing.filter.states.add(status=wire.OPERATION_RUN_STATUS_PAUSED)
    listing.filter.operation_kinds.add(type=wire.OPERATION_TYPE_FIRMWARE_CONTROL, code="upgrade")
    targets = wire.ListOperationRunTargetsRequest(operation_run_id=one, status=1, phase_scope=3)  # type: ignore[arg-type]
    messages = [
        ("CreateOperationRun", a_request()),
        ("CreateOperationRun", rich),
        ("CreateOperationRun", counted),
        ("CreateOperationRun", excluding),
        ("GetOperationRun", wire.GetOperationRunRequest(id=one, include_stats=True)),
        ("GetOperationRun", wire.GetOperationRunRequest(id=wire.UUID(id=str(UUID(int=404))))),
        ("ListOperationRuns", listing),
        ("ListOperationRunTargets", targets),
        ("PauseOperationRun", wire.PauseOperationRunRequest(id=one)),
        ("ResumeOperationRun", wire.ResumeOperationRunRequest(id=one)),
        ("AdvanceOperationRunPhase", wire.AdvanceOperationRunPhaseRequest(id=one, expected_phase_index=1)),
        ("CancelOperationRun", wire.CancelOperationRunRequest(id=one, reason="why")),
    ]
    return [(name, message.SerializeToString(deterministic=True)) for name, message in messages]
