"""The access check for every call of a server, also those that others put on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc

from .access import Access
from .failure import CallFailure
from .transport import identity_of

_MARKS: Final = ("experimental_non_blocking", "experimental_thread_pool")
"""Attributes of a behaviour by which the library decides whose thread runs it, and whether it is given one more
argument."""


class AccessInterceptor(grpc.ServerInterceptor):
    """Refuses, before it begins, each call that its caller may not make."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """The handler of the call, behind the check."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method

        def checked(behaviour: Callable[..., Any]) -> Callable[..., Any]:
            def call(request: Any, context: grpc.ServicerContext, *more: Any) -> Any:
                try:
                    self._access.check(method, identity_of(context))
                except CallFailure as failure:
                    context.abort(failure.code, failure.text)
                return behaviour(request, context, *more)

            for name in _MARKS:
                if hasattr(behaviour, name):
                    setattr(call, name, getattr(behaviour, name))
            return call

        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            behaviour = getattr(handler, kind)
            if behaviour is not None:
                make = getattr(grpc, f"{kind}_rpc_method_handler")
                return make(
                    checked(behaviour),
                    request_deserializer=handler.request_deserializer,
                    response_serializer=handler.response_serializer,
                )
        return handler
