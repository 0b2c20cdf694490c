"""Which process is meant, whether it lives, and how to signal it and no other.

A number alone names no process: it is used again.  A process is named by its number, its start time (clock
ticks since boot), the boot and the pid namespace that these belong to; a signal goes through a pidfd that was opened
before the start time was compared.

A task is a session of its own, whose id is the number of its first process (the leader).  The kernel gives a
number to nobody else while a session or a process group bears it, so processes of that session that outlive
the leader can be told from those of a later one: if another process bears the number now, ours are gone.

Runs in the supervisor too: standard library only, and little of it.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .records import Record

MARKER = "OPDISPATCH_KEY"
"""The environment variable that carries the key of a task to all its processes."""


class Stat:
    """One line of ``/proc/<pid>/stat``, as far as it is of use here; ``start`` in clock ticks since boot."""

    __slots__ = ("group", "parent", "pid", "session", "start", "state")

    def __init__(self, pid: int, line: bytes) -> None:
        # The second field is the name, which may hold blanks and brackets: what counts follows the last one.
        fields = line[line.rindex(b")") + 2 :].split()
        self.pid = pid
        self.state = fields[0].decode("ascii")
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.session = int(fields[3])
        self.start = int(fields[19])

    @property
    def is_dead(self) -> bool:
        """True for one that has ended and only waits to be reaped."""
        return self.state in ("Z", "X", "x")


def stat_of(pid: int) -> Stat | None:
    """The process of this number, dead but not reaped ones included; None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return Stat(pid, file.read())
    except (FileNotFoundError, ProcessLookupError):
        return None


def every_process() -> Iterator[Stat]:
    """All processes that can be seen; costs one small read for each.

    One that is listed but hidden from us (``hidepid``) belongs to another user, and is passed over.
    """
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            stat = stat_of(int(name))
        except PermissionError:
            continue
        if stat is not None:
            yield stat


def here() -> Record:
    """Where a process number means something: this boot and this pid namespace."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return {"boot": file.read().strip(), "namespace": os.readlink("/proc/self/ns/pid")}


def named(pid: int) -> Record:
    """The lasting name of a living process.  Raises ProcessLookupError."""
    stat = stat_of(pid)
    if stat is None:
        raise ProcessLookupError(pid)
    return {"pid": pid, "start": stat.start}


def is_alive(process: Record) -> bool:
    """Whether this very process, of this boot and namespace, still runs."""
    stat = stat_of(process["pid"])
    return stat is not None and stat.start == process["start"] and not stat.is_dead


def session_of(leader: Record) -> list[Stat]:
    """The living processes of the session (and group) of this leader, itself included, in this boot and namespace.

    Costs a look at every process, unless the number of the leader has passed to another.
    """
    pid = leader["pid"]
    now = stat_of(pid)
    if now is not None and now.start != leader["start"]:
        return []
    return [
        stat
        for stat in every_process()
        if pid in (stat.session, stat.group, stat.pid) and stat.start >= leader["start"] and not stat.is_dead
    ]


def bears(pid: int, key: str) -> bool:
    """Whether this process was started with the key of this task in its environment, as far as can be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{MARKER}={key}".encode() in file.read().split(b"\0")
    except OSError:
        return False


def signal_exactly(process: Record, number: signal.Signals) -> bool:
    """Signal this very process; False when it is gone.  Raises PermissionError."""
    try:
        fd = os.pidfd_open(process["pid"])
    except ProcessLookupError:
        return False
    try:
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True
