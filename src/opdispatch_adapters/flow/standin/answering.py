"""The way of every call of the stand-in: through its faults."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import grpc
from google.protobuf.message import Message

from .faults import FaultKind, Faults, wait_of
from .resolve import Refused, unknown
from .site import Site
from .tasks import TaskModel


class Answering:
    """What the calls share: the racks, the rules, the tasks and the faults.

    ``stopped`` ends those that hang; ``restart`` asks for a restart of the server, and does not wait for it.
    """

    def __init__(
        self,
        site: Site,
        tasks: TaskModel,
        faults: Faults,
        *,
        rules: Iterable[UUID] = (),
        seed: int = 0,
        stopped: threading.Event | None = None,
        restart: Callable[[], None] = lambda: None,
    ) -> None:
        self._restart = restart
        self.site = site
        self.rules = frozenset(rules)
        self.tasks = tasks
        self._faults = faults
        self._stopped = stopped if stopped is not None else threading.Event()
        self._shuffle = random.Random(seed)  # noqa: S311  # repeatable on purpose

    def answered(
        self,
        method: str,
        context: grpc.ServicerContext,
        racks: Sequence[str],
        carry_out: Callable[[Mapping[FaultKind, object]], Message],
    ) -> Any:
        """The reply to a call, or what its faults make of it."""
        hit = self._faults.on(method, racks)
        try:
            if FaultKind.SLOW in hit:
                self._stopped.wait(wait_of(hit[FaultKind.SLOW]).total_seconds())
            if FaultKind.REFUSE in hit:
                fault = hit[FaultKind.REFUSE]
                raise Refused(grpc.StatusCode[fault.code], fault.text)
            if FaultKind.RESTART in hit or FaultKind.HANG in hit:
                if FaultKind.DROP_REPLY in hit:
                    carry_out(hit)
                if FaultKind.RESTART in hit:
                    self._restart()
                    raise _lost()
                self._gone(context)
                raise _gave_up()
            if FaultKind.LATE in hit:
                self._gone(context)
                # A server that has stopped carries nothing out any more.
                if not self._stopped.wait(wait_of(hit[FaultKind.LATE]).total_seconds()):
                    carry_out(hit)
                raise _gave_up()
            reply = carry_out(hit)
            if FaultKind.DROP_REPLY in hit:
                raise _lost()
            if FaultKind.TWICE in hit:
                _double(reply)
            return reply
        except Refused as refused:
            context.abort(refused.code, refused.text)

    def _gone(self, context: grpc.ServicerContext) -> None:
        """Wait until the caller gave up, or the server stops."""
        gone = threading.Event()
        if context.add_callback(gone.set):
            while not gone.wait(0.05) and not self._stopped.is_set():
                continue

    def shuffled(self, some: Iterable[Any]) -> list[Any]:
        """These in an order that means nothing, as Flow lists what nobody asked to be ordered."""
        found = list(some)
        self._shuffle.shuffle(found)
        return found


def page_of(request: Any) -> tuple[int, int]:
    """Offset and limit of a request (flow-grpc, 4.1).  Raises Refused."""
    if not request.HasField("pagination"):
        return 0, 100
    if request.pagination.offset < 0:
        raise unknown("invalid pagination information: offset must not be negative")
    if request.pagination.limit <= 0:
        raise unknown("invalid pagination information: limit must be greater than 0")
    return request.pagination.offset, request.pagination.limit


def _lost() -> Refused:
    return Refused(grpc.StatusCode.UNAVAILABLE, "connection reset by peer")


def _gave_up() -> Refused:
    return Refused(grpc.StatusCode.CANCELLED, "the caller gave up")


def _double(reply: Message) -> None:
    for field, value in reply.ListFields():
        if field.is_repeated:
            getattr(reply, field.name).extend(list(value))
