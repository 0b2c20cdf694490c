"""The record of the stand-in's tasks: one line of JSON for each that was made, ended by hand or forgotten, on the disk
before the call is answered, so that a server that is killed comes back with the same tasks."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from opdispatch.errors import CorruptRecord
from opdispatch.task import TaskStatus

from .tasks import EMPTY_TEXT, PENDING_TEXT, WAITING_TEXT, Fate, StandInTask, TaskModel


class TaskRecord:
    """A record in a file.  A last line that was cut short, as a kill leaves it, is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def restore(self, tasks: TaskModel) -> int:
        """Give the tasks of the file to a model; the number of them.  Raises CorruptRecord."""
        if not self.path.exists():
            return 0
        text = self.path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            os.truncate(self.path, len(whole))
        count = 0
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                if entry["what"] == "made":
                    tasks.restore(_task(entry))
                    count += 1
                elif entry["what"] == "cancelled":
                    tasks.restore_cancelled(UUID(entry["id"]), datetime.fromisoformat(entry["at"]))
                elif entry["what"] == "forgotten":
                    tasks.restore_forgotten(UUID(entry["id"]), datetime.fromisoformat(entry["at"]))
                else:
                    raise ValueError(f"{entry['what']!r} is nothing that happens to a task")
            except (KeyError, TypeError, ValueError) as error:
                raise CorruptRecord(f"{self.path}:{number}", str(error), "give another --state file") from error
        return count

    def write(self, what: str, task: StandInTask, at: datetime) -> None:
        """Keep what happened to a task at that time."""
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
        self._file.write(json.dumps(_entry(what, task, at)).encode() + b"\n")
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Give the file up."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _entry(what: str, task: StandInTask, at: datetime) -> dict[str, Any]:
    if what != "made":
        return {"what": what, "id": str(task.id), "at": at.isoformat()}
    return {
        "what": what,
        "id": str(task.id),
        "type": task.type,
        "phrase": task.phrase,
        "rack": str(task.rack_id),
        "components": {kind: [str(one) for one in ids] for kind, ids in task.components.items()},
        "description": task.description,
        "at": task.created_at.isoformat(),
        "seconds": task.fate.duration.total_seconds(),
        "status": task.fate.status.value,
        "message": task.fate.message,
        "begins": task.began_at is not None,
        "waits": task.status is TaskStatus.WAITING,
        "expires": task.queue_expires_at.isoformat() if task.queue_expires_at is not None else None,
    }


def _task(entry: dict[str, Any]) -> StandInTask:
    at = datetime.fromisoformat(entry["at"])
    if entry["waits"]:
        status, now = TaskStatus.WAITING, WAITING_TEXT
    elif entry["begins"]:
        status, now = TaskStatus.PENDING, PENDING_TEXT
    else:
        status, now = TaskStatus.FAILED, EMPTY_TEXT
    return StandInTask(
        id=UUID(entry["id"]),
        type=entry["type"],
        phrase=entry["phrase"],
        rack_id=UUID(entry["rack"]),
        components={kind: tuple(map(UUID, ids)) for kind, ids in entry["components"].items()},
        description=entry["description"],
        created_at=at,
        updated_at=at,
        began_at=at if entry["begins"] else None,
        fate=Fate(
            duration=timedelta(seconds=entry["seconds"]),
            status=TaskStatus(entry["status"]),
            message=entry["message"],
        ),
        status=status,
        message=now,
        finished_at=at if status is TaskStatus.FAILED else None,
        queue_expires_at=datetime.fromisoformat(entry["expires"]) if entry["expires"] else None,
    )
