"""The operation-run calls on a gRPC server, synchronous or asynchronous, that somebody else owns."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import grpc
from google.protobuf.message import DecodeError, Message

from ..fields import MOST_NUMBER
from ..wire import flow_pb2 as wire
from . import bounds
from .access import Access
from .failure import CallFailure, failure_of, invalid
from .service import Caller, OperationRuns

_LOG: Final = logging.getLogger("opdispatch.flow.server")
SERVICE: Final = wire.DESCRIPTOR.services_by_name["Flow"].full_name
# Leading zeros are harmless, but Python reads no number of thousands of digits.
_DIGITS: Final = re.compile(r"[0-9]{1,40}", re.ASCII)


@attrs.frozen
class _Call:
    request: Any
    answer: Callable[[OperationRuns, Any, Caller], Message]


CALLS: Final[Mapping[str, _Call]] = {
    "CreateOperationRun": _Call(wire.CreateOperationRunRequest, OperationRuns.create),
    "GetOperationRun": _Call(wire.GetOperationRunRequest, OperationRuns.get),
    "ListOperationRuns": _Call(wire.ListOperationRunsRequest, OperationRuns.list_runs),
    "ListOperationRunTargets": _Call(wire.ListOperationRunTargetsRequest, OperationRuns.list_targets),
    "PauseOperationRun": _Call(wire.PauseOperationRunRequest, OperationRuns.pause),
    "ResumeOperationRun": _Call(wire.ResumeOperationRunRequest, OperationRuns.resume),
    "AdvanceOperationRunPhase": _Call(wire.AdvanceOperationRunPhaseRequest, OperationRuns.advance),
    "CancelOperationRun": _Call(wire.CancelOperationRunRequest, OperationRuns.cancel),
}
"""The calls that are served, by name."""


def add_operation_runs(
    server: grpc.Server | grpc.aio.Server, runs: OperationRuns, *, access: Access | None = None
) -> None:
    """Serve the operation-run calls on this server, which is not started yet; nothing else is added to it.

    ``access`` says who may call what; None leaves that to the server's own interceptors.  On an asynchronous server
    each call is answered in a thread, because stores are synchronous.
    """
    is_async = isinstance(server, grpc.aio.Server)
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for name, call in CALLS.items():
        answer = _Answer(runs, name, call, access)
        handlers[name] = grpc.unary_unary_rpc_method_handler(
            answer.awaited if is_async else answer,
            response_serializer=lambda message: message.SerializeToString(),
        )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


class _Answer:
    """The behaviour of one call on a server."""

    def __init__(self, runs: OperationRuns, name: str, call: _Call, access: Access | None) -> None:
        self._runs = runs
        self._name = name
        self._call = call
        self._access = access

    def __call__(self, request: bytes, context: grpc.ServicerContext) -> Message:
        found = self._answered(request, identity_of(context), context.invocation_metadata())
        if isinstance(found, CallFailure):
            context.abort(found.code, found.text)
        return found

    async def awaited(self, request: bytes, context: Any) -> Message:
        """The same on an asynchronous server."""
        identity, metadata = identity_of(context), context.invocation_metadata()
        found = await asyncio.to_thread(self._answered, request, identity, metadata)
        if isinstance(found, CallFailure):
            await context.abort(found.code, found.text)
            raise AssertionError("an aborted call goes no further")
        return found

    def _answered(
        self, data: bytes, identity: str | None, metadata: Sequence[tuple[str, str | bytes]]
    ) -> Message | CallFailure:
        try:
            if self._access is not None:
                self._access.check(f"/{SERVICE}/{self._name}", identity)
            request = self._read(data)
            bounds.check(request)
            return self._call.answer(self._runs, request, _caller(identity, dict(metadata or ())))
        except Exception as error:
            return failure_of(error, self._name)

    def _read(self, data: bytes) -> Message:
        """The request.  Read here, because the library logs a traceback for each one that is none."""
        try:
            request: Message = self._call.request.FromString(data)
        except DecodeError as error:
            raise invalid(f"the request is no {self._call.request.DESCRIPTOR.name}: {error}") from error
        return request


def identity_of(context: Any) -> str | None:
    """The SPIFFE id of the client's certificate, which the library verified; None where there is none."""
    found = context.auth_context().get("peer_spiffe_id", ())
    return found[0].decode("utf-8", "replace") if len(found) == 1 and found[0] else None


def _caller(identity: str | None, metadata: Mapping[str, str | bytes]) -> Caller:
    actor = str(metadata.get("x-actor", "")).strip()[:200]
    if identity is None:
        name = actor or "a client of the server"
    else:
        name = f"{actor} by {identity}" if actor else identity
    number = metadata.get("x-accept-failures")
    if number is not None and not (_DIGITS.fullmatch(str(number)) and int(number) <= MOST_NUMBER):
        raise invalid(f"x-accept-failures: {str(number)[:40]!r} is not a number of failures")
    request_id = metadata.get("x-request-id")
    return Caller(
        name=name,
        identity=identity or "",
        request_id=None if request_id is None else str(request_id),
        accept_failures=None if number is None else int(number),
    )
