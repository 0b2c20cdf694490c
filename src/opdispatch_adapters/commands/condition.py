"""What has become of a task, told from its records and from the processes that these name.

Runs in the supervisor too, which asks it of the last holder of a rack: standard library only, and little of it.
"""

from __future__ import annotations

from . import processes, records
from .racks import RackLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .records import Record

ABSENT = "absent"
"""Nothing has taken the key."""
BARRED = "barred"
"""The key was taken so that no task ever takes it."""
RUNNING = "running"
"""Its supervisor lives."""
ORPHANED = "orphaned"
"""Its supervisor is gone without a record of the end, and some process of the task still lives."""
GONE = "gone"
"""Supervisor and processes are gone without a record of the end."""
ENDED = "ended"
"""The end is on record."""


class Condition:
    """One look at a task: one of the names above, and the records that it was told from."""

    __slots__ = ("ended", "name", "started")

    def __init__(self, name: str, started: Record | None = None, ended: Record | None = None) -> None:
        self.name = name
        self.started = started
        self.ended = ended

    @property
    def is_live(self) -> bool:
        """True while anything of the task may still run."""
        return self.name in (RUNNING, ORPHANED)


def condition_of(directory: str, *, has_rack_lock: bool = False) -> Condition:
    """Look at the task of this directory; ``has_rack_lock`` when the caller holds the lock of its rack.

    Raises records.UnreadableError, OSError.
    """
    started = records.read(directory, records.STARTED)
    if started is None:
        return Condition(ABSENT)
    if started.get("barred"):
        return Condition(BARRED, started)
    ended = records.read(directory, records.ENDED)
    if ended is not None:
        return Condition(ENDED, started, ended)
    name = _liveness(started, has_rack_lock)
    if name == GONE:
        # The supervisor may have written the end, and left, between the two looks.
        ended = records.read(directory, records.ENDED)
        if ended is not None:
            return Condition(ENDED, started, ended)
    return Condition(name, started)


def _liveness(started: Record, has_rack_lock: bool) -> str:
    here = processes.here()
    if started["boot"] != here["boot"]:
        return GONE
    if started["namespace"] != here["namespace"]:
        # Its numbers mean nothing here, as in another container on the same directory; the lock of the rack does.
        return RUNNING if not has_rack_lock and _holds_its_rack(started) else GONE
    if processes.is_alive(started["supervisor"]):
        return RUNNING
    if processes.is_alive(started["command"]) or processes.session_of(started["command"]):
        return ORPHANED
    return GONE


def _holds_its_rack(started: Record) -> bool:
    lock = RackLock(started["rack_lock"])
    try:
        if lock.take():
            return False
        holder = lock.holder()
        return holder is not None and holder["key"] == started["key"]
    finally:
        lock.close()
