"""The way to Flow: a channel, and calls on it that are bounded in time and counted by the breaker.

Reads are repeated by the channel itself, with back-off and jitter, within their deadline; submissions never are.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from opdispatch.errors import InvalidInput, OpdispatchError
from opdispatch.observation import storable

from ..wire.flow_pb2_grpc import FlowStub
from .breaker import Breaker
from .settings import FlowSettings

_LOG: Final = logging.getLogger("opdispatch.flow")
_LOOK_SECONDS: Final = 10.0
READS: Final = (
    *("ListTasks", "GetTasksByIDs", "GetListOfRacks", "GetRackInfoByID", "GetRackInfoBySerial", "GetComponents"),
    *("GetComponentInfoByID", "GetComponentInfoBySerial", "GetListOfNVLDomains", "GetRacksForNVLDomain", "Version"),
)
_RETRY: Final = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_OPTIONS: Final = (
    (
        "grpc.service_config",
        json.dumps(
            {
                "methodConfig": [
                    {"name": [{"service": "v1.Flow", "method": name} for name in READS], "retryPolicy": _RETRY}
                ]
            }
        ),
    ),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # A service that was restarted is met again soon, and not after the minutes that are usual.
    ("grpc.max_reconnect_backoff_ms", 5_000),
)
_SILENT: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class NoAnswer(OpdispatchError):
    """A call that nobody answered, or, where ``was_called`` is False, one that was not made."""

    def __init__(self, text: str, *, was_called: bool = False) -> None:
        self.was_called = was_called
        super().__init__(text)


class CallRefused(OpdispatchError):
    """A call that was answered with an error: its code and its text, as Flow gave them."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(code, text)

    def __str__(self) -> str:
        return f"Flow answers {self.code.name}: {self.text}"


class FlowChannel:
    """A channel to Flow.  Safe for threads.

    Certificates that were replaced are noticed within ``_LOOK_SECONDS`` and used from the next call on.
    """

    def __init__(self, settings: FlowSettings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self._monotonic = monotonic
        self.breaker = Breaker(f"Flow at {settings.address}", settings.outage_after, settings.probe_every, monotonic)
        self._guard = threading.Lock()
        self._pems = None if settings.certificates is None else settings.certificates.read()
        self._looked_at = monotonic()
        self._channel = self._open()
        self._stub = FlowStub(self._channel)

    def close(self) -> None:
        """End the channel; calls that are under way get no answer."""
        with self._guard:
            self._channel.close()

    def call(
        self,
        method: str,
        request: Message,
        seconds: float,
        metadata: tuple[tuple[str, str], ...] = (),
        *,
        is_cut: bool = False,
    ) -> Any:
        """The reply to one call that may take so many seconds.  Raises NoAnswer, CallRefused.

        ``is_cut`` says that those are too few for a service that is well: that they pass is no sign of an outage.
        """
        if seconds <= 0:
            raise NoAnswer("there is no time left for the call")
        if not self.breaker.lets_through():
            raise NoAnswer(f"Flow at {self.settings.address} does not answer; it was not called")
        try:
            reply = getattr(self._current(), method)(request, timeout=seconds, metadata=metadata)
        except grpc.RpcError as error:
            code, text = _status_of(error)
            if code in _SILENT:
                if not (is_cut and code is grpc.StatusCode.DEADLINE_EXCEEDED):
                    self.breaker.unanswered(f"{code.name}: {text}")
                raise NoAnswer(f"{code.name}: {text}", was_called=True) from error
            self.breaker.answered()
            raise CallRefused(code, text) from error
        except ValueError as error:
            # The channel was closed by somebody who stops.
            raise NoAnswer("the channel is closed") from error
        self.breaker.answered()
        return reply

    def read(self, method: str, request: Message, until: float | None = None) -> Any:
        """The reply to a call that may be repeated; ``until`` is the end of the time for it on the monotonic clock."""
        seconds = self.settings.read_deadline.total_seconds()
        if until is None:
            return self.call(method, request, seconds)
        left = min(seconds, self.left(until))
        # Of many calls within one time the last ones get what the others left of it.
        return self.call(method, request, left, is_cut=left < seconds / 2)

    def after(self, seconds: float) -> float:
        """The instant on the monotonic clock that is so many seconds from now."""
        return self._monotonic() + seconds

    def left(self, until: float) -> float:
        """The seconds until an instant on the monotonic clock; negative once it has passed."""
        return until - self._monotonic()

    def _current(self) -> FlowStub:
        with self._guard:
            certificates = self.settings.certificates
            if certificates is not None and self._monotonic() - self._looked_at >= _LOOK_SECONDS:
                self._looked_at = self._monotonic()
                try:
                    pems = certificates.read()
                except InvalidInput as error:
                    _LOG.error("the certificates in use stay, because the new ones cannot be used: %s", error)
                else:
                    if pems != self._pems:
                        # The old channel ends with its last call.
                        self._pems = pems
                        self._channel = self._open()
                        self._stub = FlowStub(self._channel)
                        _LOG.info("the certificates were replaced")
            return self._stub

    def _open(self) -> grpc.Channel:
        settings = self.settings
        if self._pems is None:
            return grpc.insecure_channel(settings.address, options=_OPTIONS)
        ca, cert, key = self._pems
        credentials = grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)
        name = settings.server_name
        named = () if name is None else (("grpc.ssl_target_name_override", name),)
        return grpc.secure_channel(settings.address, credentials, options=(*_OPTIONS, *named))


def _status_of(error: Any) -> tuple[grpc.StatusCode, str]:
    """The code and the text of an error: the library raises calls, and tells so nowhere."""
    return error.code(), storable(error.details() or "")
