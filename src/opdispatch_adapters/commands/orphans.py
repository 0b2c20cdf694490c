"""Ends tasks whose supervisor was killed: what it would have done about a cancellation and a time-out.

Every rule is a function of the records and the clock, so any manager may carry it out, any number of times.
"""

from __future__ import annotations

import os
import signal

from . import processes, records
from .child import boottime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .records import Record


def signal_due(now: float, timeout_at: float | None, cancelled_at: float | None, grace: float) -> signal.Signals | None:
    """What to send to an orphan now, if anything; instants in seconds since boot."""
    ends = [at for at in (timeout_at, cancelled_at) if at is not None and now >= at]
    if not ends:
        return None
    return signal.SIGKILL if now >= min(ends) + grace else signal.SIGTERM


def tend(directory: str, started: Record) -> None:
    """End an orphan that is due to end, and what its command left when that has ended.  Raises PermissionError."""
    leader: Record = started["command"]
    cancel = records.read(directory, records.CANCEL)
    cancelled_at = None if cancel is None or cancel["boot"] != started["boot"] else cancel["at"]
    if processes.is_alive(leader):
        due = signal_due(boottime(), started["timeout_at"], cancelled_at, started["grace"])
        if due is not None:
            _signal_session(started, due)
    else:
        _signal_session(started, signal.SIGKILL)


def ask_to_end(directory: str, started: Record) -> None:
    """Put a cancellation on record and tell who runs the task.  Raises OSError when neither the one nor the other."""
    here = processes.here()
    trouble: OSError | None = None
    try:
        records.write_once(directory, records.CANCEL, {"at": boottime(), "boot": here["boot"]})
    except OSError as error:
        trouble = error
    is_here = here["boot"] == started["boot"] and here["namespace"] == started["namespace"]
    if is_here and processes.signal_exactly(started["supervisor"], signal.SIGTERM):
        # It needs no record: on a full disk, too, a task can be told to end.
        return
    if trouble is not None:
        raise trouble
    # Elsewhere either nothing of it is left, or its supervisor is out of our reach and will find the record.
    if is_here:
        tend(directory, started)


def record_gone(directory: str, at: float) -> None:
    """Write down that a task ended without a result; the first record of an end stands.  Raises OSError."""
    record = {"status": "failed", "message": "ended without a result", "cause": "gone", "ended_at": at}
    records.write_once(directory, records.ENDED, record)


def _signal_session(started: Record, number: signal.Signals) -> None:
    """Signal all that is surely of this task: its leader by name, the others by the key in their environment."""
    leader: Record = started["command"]
    for stat in processes.session_of(leader):
        if stat.pid == leader["pid"] or processes.bears(stat.pid, started["key"]):
            processes.signal_exactly({"pid": stat.pid, "start": stat.start}, number)
            if number is signal.SIGTERM:
                # A stopped process would sit on it.
                processes.signal_exactly({"pid": stat.pid, "start": stat.start}, signal.SIGCONT)


def output_bytes(directory: str) -> bytes:
    """What is kept of the output so far; empty when nothing was written.  Raises OSError."""
    try:
        fd = os.open(os.path.join(directory, records.OUTPUT), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    with open(fd, "rb") as file:
        return file.read()
