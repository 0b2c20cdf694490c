"""The standard health service, whose watchers hold up neither the other calls nor a stop."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from weakref import WeakSet

from grpc_health.v1 import health, health_pb2

_WATCHERS: Final = ThreadPoolExecutor(256, thread_name_prefix="opdispatch-watcher")
"""A watcher holds a thread for as long as it watches, so it gets none of those that answer calls; those who come when
all are held wait here.  The servicer's other way, without threads, sends while it holds its lock, and a watcher that
leaves at that moment stops the whole server."""


class Health(health.HealthServicer):
    """The servicer of one server, from its start to its stop.  Safe for threads."""

    def __init__(self) -> None:
        super().__init__(experimental_non_blocking=False, experimental_thread_pool=_WATCHERS)
        self._guard = threading.Lock()
        self._watching: WeakSet[Any] = WeakSet()
        self._is_over = False

    def Watch(  # noqa: N802  # the name of the call
        self, request: health_pb2.HealthCheckRequest, context: Any, send_response_callback: Any = None
    ) -> Any:
        """The status now, and each that follows until the end."""
        watcher = super().Watch(request, context, send_response_callback)
        with self._guard:
            self._watching.add(watcher)
            if self._is_over:
                watcher.close()
        return watcher

    def end(self) -> None:
        """Tell every watcher that nothing is serving any more, then end its stream: a stop waits for open streams."""
        self.enter_graceful_shutdown()
        with self._guard:
            self._is_over = True
            for watcher in self._watching:
                watcher.close()
