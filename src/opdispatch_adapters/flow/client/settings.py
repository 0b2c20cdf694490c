"""How Flow is reached, and how patient its client is."""

from __future__ import annotations

import ipaddress
from datetime import timedelta

import attrs

from opdispatch.errors import InvalidInput

from ..certificates import Certificates


def _above_zero(_: object, attribute: attrs.Attribute[timedelta], value: timedelta) -> None:
    if value <= timedelta(0):
        raise InvalidInput.at(f"flow.{attribute.name}", f"{value} is not above zero")


def _at_least_one(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if value < 1:
        raise InvalidInput.at(f"flow.{attribute.name}", f"{value} is below 1")


@attrs.frozen(kw_only=True)
class FlowSettings:
    """The address of the service and the numbers of its client."""

    address: str
    """``host:port``."""
    certificates: Certificates | None = None
    """None speaks plainly, which is for the loopback alone unless ``insecure`` says otherwise."""
    server_name: str | None = None
    """The name in the service's certificate, where it is not that of the address."""
    insecure: bool = False
    """True to speak plainly to another host: whoever is between reads and changes everything."""
    parallelism: int = attrs.field(default=8, validator=_at_least_one)
    """So many submissions, cancellations or look-ups at once."""
    read_deadline: timedelta = attrs.field(default=timedelta(seconds=10), validator=_above_zero)
    """How long a call that reads or cancels may take, its retries included."""
    page: int = attrs.field(default=500, validator=_at_least_one)
    """Rows per page, and tasks per look."""
    outage_after: int = attrs.field(default=5, validator=_at_least_one)
    """So many calls in a row without an answer are an outage: nothing is called then but a probe now and again."""
    probe_every: timedelta = attrs.field(default=timedelta(seconds=5), validator=_above_zero)
    """How long after the last call without an answer the next probe may go out."""
    bar_after: timedelta = attrs.field(default=timedelta(seconds=60), validator=_above_zero)
    """How far apart two looks that find no task of a key must be, before none is expected any more: Flow drops what it
    has not begun by a call's deadline, but it cannot be told not to begin."""

    def __attrs_post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise InvalidInput.at("flow.address", f"{self.address!r} is no address", "give HOST:PORT")
        if self.certificates is None and not self.insecure and not is_loopback(host):
            raise InvalidInput.at(
                "flow.address",
                f"{self.address} is another host, and there are no certificates",
                "give certificates, or say --insecure",
            )


def is_loopback(host: str) -> bool:
    """True when a host can only be this one."""
    bare = host.strip("[]")
    if bare == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False
