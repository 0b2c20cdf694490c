"""What is known of one task, as files in its directory; each is written once, whole, and never changed.

* ``started``: the key is taken, by a task or by a bar.  Whoever creates it first decides; nothing removes it.
* ``cancel``: somebody asked for the end of the task.
* ``ended``: how the task ended.  Without it a task whose processes are gone ended without a result.
* ``output``: the first and the last part of what the command wrote.
* ``request.json``: the components and the operation, for a command that asks for them.

A record is drafted beside its place, synced, and linked to its name: the link is the exclusive creation, so no
reader ever sees half a record, and of two writers one learns that it lost.

This module also runs in the supervisor, which starts with nothing but the standard library and once per task:
it imports little.
"""

from __future__ import annotations

import errno
import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Record = dict[str, Any]

FORMAT = 1
"""Raised when a record changes so that an older reader would misread it; a reader refuses what it does not know."""
STARTED = "started"
CANCEL = "cancel"
ENDED = "ended"
OUTPUT = "output"
REQUEST = "request.json"

MAX_BYTES = 4 << 20
"""A record is at most a few KiB, ``started`` at most the 2 MiB that an argv may have: above this it is not ours."""
ENDED_BYTES = 4096
"""Room that is kept for ``ended`` before a task starts, so that a disk that fills up later does not cost the
result: a message of 600 characters, each escaped to 6 bytes, and the rest."""


class UnreadableError(ValueError):
    """A record is there, and is not one that this version can read."""


class Draft:
    """A record on its way: beside its place, and not in it before ``publish``.

    ``reserve`` bytes are allocated at once, so that a later ``fill`` of that size needs no new room.
    """

    def __init__(self, directory: str, name: str, reserve: int = 0) -> None:
        self._directory = directory
        self._name = name
        self._path = os.path.join(directory, f".{name}.{os.urandom(6).hex()}")
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if reserve:
            try:
                os.posix_fallocate(self._fd, 0, reserve)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    self.discard()
                    raise

    def fill(self, record: Mapping[str, object]) -> None:
        """Write the record and sync it; may be called again after an error."""
        data = json.dumps({"format": FORMAT, **record}, ensure_ascii=True).encode("ascii") + b"\n"
        done = 0
        while done < len(data):
            done += os.pwrite(self._fd, data[done:], done)
        os.ftruncate(self._fd, len(data))
        os.fsync(self._fd)

    def publish(self) -> bool:
        """Give the record its name; False when there is one already.  It may be visible before it is durable;
        it is durable once ``sync`` returned."""
        try:
            os.link(self._path, os.path.join(self._directory, self._name))
        except FileExistsError:
            return False
        finally:
            self.discard()
        return True

    def discard(self) -> None:
        """Give up the draft; safe to repeat."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        os.unlink(self._path)


def sync(directory: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(directory: str) -> None:
    """Make the directory of a task, durably, unless it is there; its parent is."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    # Also when it was there: made a moment ago, perhaps, by one who has not come to sync it.
    sync(os.path.dirname(directory))


def write_once(directory: str, name: str, record: Mapping[str, object]) -> bool:
    """Write a record, durably; False, and nothing changed, when there is one already."""
    draft = Draft(directory, name)
    try:
        draft.fill(record)
        if not draft.publish():
            return False
    finally:
        draft.discard()
    sync(directory)
    return True


def read(directory: str, name: str) -> Record | None:
    """The record of this name; None when there is none.  Raises UnreadableError, OSError."""
    try:
        fd = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with open(fd, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        record = json.loads(data) if len(data) <= MAX_BYTES else None
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{os.path.join(directory, name)} is not JSON: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UnreadableError(f"{os.path.join(directory, name)} is not a record of format {FORMAT}")
    return record
