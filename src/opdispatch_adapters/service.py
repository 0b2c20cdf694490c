"""The service: store, task manager, dispatcher and Flow's operation-run calls, as one thing that starts and stops.

A composition root.  Whoever embeds it brings the store, the tasks and the racks that fit, and owns the process: nothing
here takes a signal.  It starts in the order store, tasks, dispatcher, server, and is ready only when all are up.  When
it stops, every call that was begun is answered, or is left to be looked up.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

import attrs
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from opdispatch.errors import InvalidInput, OpdispatchError, Unavailable
from opdispatch.ports import Inventory, Store, TaskManager
from opdispatch_adapters.dispatcher import Dispatcher, Settings
from opdispatch_adapters.flow.certificates import Certificates, server_credentials
from opdispatch_adapters.flow.component_types import ComponentTypes
from opdispatch_adapters.flow.seal import Sealer
from opdispatch_adapters.flow.server import (
    SERVICE,
    Access,
    AccessInterceptor,
    Externals,
    OperationRuns,
    RunSettings,
    add_operation_runs,
)
from opdispatch_adapters.flow.server.bounds import MOST_BYTES
from opdispatch_adapters.flow.server.health import Health

_LOG: Final = logging.getLogger("opdispatch.service")
LIVENESS: Final = "liveness"
"""The name under which the health service tells that the loop of the dispatcher goes round, whatever the store does."""
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def _above_zero(_: object, attribute: attrs.Attribute[timedelta], value: timedelta) -> None:
    if value <= timedelta(0):
        raise InvalidInput.at(f"service.{attribute.name}", f"{value} is not above zero")


@attrs.frozen(kw_only=True)
class ServiceSettings:
    """How the service listens and stops."""

    address: str = "127.0.0.1:50051"
    """``host:port`` to listen on; port 0 takes a free one."""
    certificates: Certificates | None = None
    """None listens plainly, for everybody."""
    access: Access = Access(is_open=True)
    """Who may call what."""
    threads: int = 16
    """Calls that are answered at the same time."""
    reflection: bool = False
    """True to serve the reflection service too."""
    grace: timedelta = attrs.field(default=timedelta(seconds=25), validator=_above_zero)
    """How long a stop lets the calls in flight end."""
    check_every: timedelta = attrs.field(default=timedelta(seconds=2), validator=_above_zero)
    """How often the store and the loop are looked at for the health service."""
    silent_after: timedelta = attrs.field(default=timedelta(minutes=5), validator=_above_zero)
    """A loop that began no turn for so long is no longer alive."""


class Service:
    """One replica.  Any number of them may share a store on a server.

    Args:
        store: where the runs are, open and up to date.
        tasks: what runs them.
        inventory: where the racks are.
        settings: how it listens and stops.
        dispatcher: the numbers of the dispatcher.
        runs: how the operation-run calls behave.
        sealer: seals credentials; None refuses them.
        types: the component types of the inventory and of Flow.
        externals: knows components by the ids of the core service; None knows none.
        more: further arguments of the dispatcher, such as ``listen`` and ``changes``.
    """

    def __init__(
        self,
        store: Store,
        tasks: TaskManager,
        inventory: Inventory,
        settings: ServiceSettings | None = None,
        *,
        dispatcher: Settings | None = None,
        runs: RunSettings | None = None,
        sealer: Sealer | None = None,
        types: ComponentTypes | None = None,
        externals: Externals | None = None,
        **more: Any,
    ) -> None:
        self.settings = settings if settings is not None else ServiceSettings()
        self.store = store
        self.dispatcher = Dispatcher(store, tasks, dispatcher, **more)
        self.runs = OperationRuns(
            store,
            inventory,
            self.dispatcher.command,
            observe=tasks.observe,
            settings=runs,
            sealer=sealer,
            types=types,
            externals=externals,
            touched=getattr(store, "touched", None),
            created=self.dispatcher.wake,
        )
        self.health = Health()
        self._server: grpc.Server | None = None
        self._address = self.settings.address
        self._stopping = threading.Event()
        self._watch: threading.Thread | None = None
        self._is_ready: bool | None = None
        self._ended: bool | None = None

    @property
    def address(self) -> str:
        """Where it listens; with the real port once it is started."""
        return self._address

    # -- start --

    def start(self) -> None:
        """Start the dispatcher, then the server; ready once the store answers.

        Raises Unavailable when the store does not answer or the address cannot be had, InvalidInput for certificates
        that cannot be used.  What was started is stopped again then.
        """
        # The one of an earlier start tells nothing but its end.
        self.health = Health()
        server = self._made()
        self.store.next_due()
        self.dispatcher.start()
        try:
            self._address = self._bound(server)
            server.start()
        except BaseException:
            self.dispatcher.stop(self.settings.grace)
            raise
        self._server = server
        self._stopping.clear()
        self._ended = None
        self._tell_health()
        self._watch = threading.Thread(target=self._look_on, name="opdispatch-health", daemon=True)
        self._watch.start()

    def _made(self) -> grpc.Server:
        interceptors: list[grpc.ServerInterceptor] = [AccessInterceptor(self.settings.access)]
        threads = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="opdispatch-call")
        # Two services on one port would each get a part of the calls.
        options = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MOST_BYTES))
        server = grpc.server(threads, interceptors=interceptors, options=options)
        add_operation_runs(server, self.runs)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        if self.settings.reflection:
            _add_reflection(server)
        return server

    def _bound(self, server: grpc.Server) -> str:
        address, certificates = self.settings.address, self.settings.certificates
        try:
            if certificates is None:
                if not self.settings.access.is_open:
                    raise InvalidInput.at(
                        "service.access", "without TLS no identity can be told", "give certificates, or open it"
                    )
                _LOG.warning("listening on %s without TLS: everybody who reaches it may do everything", address)
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, server_credentials(certificates))
        except RuntimeError as error:
            raise Unavailable("the server", f"it cannot listen on {address}", "choose another address") from error
        return f"{address.rpartition(':')[0]}:{port}"

    # -- health --

    @property
    def is_alive(self) -> bool:
        """True while the loop of the dispatcher goes round; asks nothing of the store."""
        age = self.dispatcher.turn_age
        return age is not None and age < self.settings.silent_after

    def _look_on(self) -> None:
        while not self._stopping.wait(self.settings.check_every.total_seconds()):
            self._tell_health()

    def _tell_health(self) -> None:
        try:
            self.store.next_due()
            ready = True
        except OpdispatchError as error:
            ready = False
            if self._is_ready is not False:
                _LOG.warning("not ready: %s", error)
        if ready and self._is_ready is False:
            _LOG.warning("ready again")
        self._is_ready = ready
        for name in ("", SERVICE):
            self.health.set(name, _SERVING if ready else _NOT_SERVING)
        self.health.set(LIVENESS, _SERVING if self.is_alive else _NOT_SERVING)

    # -- stop --

    def stop(self, grace: timedelta | None = None) -> bool:
        """Take no new call, claim nothing more, and let what is in flight end within ``grace``.

        True when all of it ended.  What did not is looked up by the next dispatcher when its lease is over.  Repeated,
        it waits for nothing more and tells the same.
        """
        if self._ended is not None:
            return self._ended
        seconds = (self.settings.grace if grace is None else grace).total_seconds()
        self._stopping.set()
        self.health.end()
        # Both at once: the calls that are answered and those that are made end side by side.
        drained = self._server.stop(seconds) if self._server is not None else None
        ended = self.dispatcher.stop(timedelta(seconds=seconds))
        if drained is not None:
            drained.wait()
        self._server = None
        if self._watch is not None:
            self._watch.join()
            self._watch = None
        self._ended = ended
        return ended

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _add_reflection(server: grpc.Server) -> None:
    from grpc_reflection.v1alpha import reflection

    names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
