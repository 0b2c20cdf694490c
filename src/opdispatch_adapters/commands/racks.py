"""One rack, one task: a lock file per rack, which the supervisor of the task holds for its life.

The kernel drops the lock with its holder.  A supervisor that was killed may leave its command running, so the file
also names the task that took the rack last, and whoever takes the lock next looks whether that task still lives.

Runs in the supervisor too: standard library only, and little of it.
"""

from __future__ import annotations

import fcntl
import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .records import Record

_WIDTH = 1024
"""The holder is written at one go and padded, so that it is never seen torn: two ids of at most 200 characters."""


class RackLock:
    """The lock of one rack.  Close it to let go; a process that inherits it would hold it too."""

    def __init__(self, path: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)

    def take(self) -> bool:
        """Take the lock; False when somebody holds it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def holder(self) -> Record | None:
        """Who took the rack last: ``key``, ``run_id`` and ``directory``; None when nobody did or it cannot be read."""
        try:
            record = json.loads(os.pread(self._fd, _WIDTH * 4, 0))
        except ValueError:
            return None
        return record if isinstance(record, dict) and {"key", "run_id", "directory"} <= record.keys() else None

    def name(self, key: str, run_id: str, directory: str) -> None:
        """Write down who holds the rack; only for the holder of the lock."""
        record = {"key": key, "run_id": run_id, "directory": directory}
        data = json.dumps(record).encode("ascii").ljust(_WIDTH) + b"\n"
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))

    def close(self) -> None:
        """Let go of the lock, if it is held; safe to repeat."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
