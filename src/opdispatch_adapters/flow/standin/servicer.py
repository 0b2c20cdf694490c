"""All calls of the stand-in on one server."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from ..wire import flow_pb2 as wire
from .inventory_calls import InventoryCalls
from .task_calls import TaskCalls


class StandInServicer(TaskCalls, InventoryCalls):
    """The calls on tasks and on the inventory; those on operation runs it leaves unimplemented."""


def add_stand_in(server: grpc.Server, servicer: StandInServicer) -> None:
    """Serve every call that the stand-in has."""
    service = wire.DESCRIPTOR.services_by_name["Flow"]
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        method.name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method.name),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        for method in service.methods
        if hasattr(servicer, method.name)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
