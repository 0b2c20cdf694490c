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

from .tasks import Fate, StandInTask, TaskModel


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
                    _ended(tasks, entry)
                else:
                    tasks.forget(UUID(entry["id"]))
            except (KeyError, TypeError, ValueError) as error:
                raise CorruptRecord(f"{self.path}:{number}", str(error), "give another --state file") from error
        return count

    def write(self, what: str, task: StandInTask) -> None:
        """Keep what happened to a task."""
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
        self._file.write(json.dumps(_entry(what, task)).encode() + b"\n")
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Give the file up."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _entry(what: str, task: StandInTask) -> dict[str, Any]:
    if what != "made":
        at = task.finished_at.isoformat() if task.finished_at is not None else None
        return {"what": what, "id": str(task.id), "at": at}
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
    waits = entry["waits"]
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
        status=TaskStatus.WAITING if waits else (TaskStatus.PENDING if entry["begins"] else TaskStatus.FAILED),
        message="Queued: waiting for rack to become available" if waits else "Pending",
        queue_expires_at=datetime.fromisoformat(entry["expires"]) if entry["expires"] else None,
    )


def _ended(tasks: TaskModel, entry: dict[str, Any]) -> None:
    task = tasks.get(UUID(entry["id"]))
    if task is not None:
        task.status, task.message = TaskStatus.TERMINATED, "Cancelled by user"
        task.finished_at = datetime.fromisoformat(entry["at"])
