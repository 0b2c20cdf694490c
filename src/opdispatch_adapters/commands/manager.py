"""A task manager that runs local commands, one process group per task, durable by itself.

Everything that it knows is in its work directory, so a second manager on the same directory, in this process or in
another, after a crash or beside a living one, sees the same tasks and starts no key twice.  A submission begins within
its deadline or never; a task id is the idempotency key.

Outcomes that are definite are answered so (begun, busy, barred, refused); trouble of this host, such as a
full disk, is never a target's failure, and is answered as unknown.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, assert_never

from opdispatch.errors import InvalidInput, NotFound, Unavailable
from opdispatch.identity import RunId, TaskId
from opdispatch.observation import (
    CancellationRefused,
    Observation,
    SubmissionAbsent,
    SubmissionAccepted,
    SubmissionConflicted,
    SubmissionRefused,
    SubmissionUnknown,
    TaskMissing,
    TaskObserved,
)
from opdispatch.task import ClaimRef, Ref, SubmissionRequest, TaskRef, TaskStatus

from . import condition, orphans, processes, records
from .child import boottime
from .launch import STANDARD_SUPERVISOR, Answer, launch
from .settings import OWN_PREFIX, CommandSettings, prepare_directory
from .template import RefusedValueError, encodable, facts_of
from .watch import Watcher

_LOG = logging.getLogger(__name__)
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_SHARDS: Final = 256
"""Directories that the tasks are spread over, so that 100,000 tasks are some 400 names in each."""
_STATUSES: Final[Mapping[str, TaskStatus]] = {
    "completed": TaskStatus.COMPLETED,
    "failed": TaskStatus.FAILED,
    "terminated": TaskStatus.TERMINATED,
}
_UNREADABLE: Final = (OSError, ValueError, KeyError, TypeError, OverflowError)
"""What a record can bring about that says something else than we write."""
_BARRED: Final = "its key is barred: no task may begin under it any more"


class CommandTaskManager:
    """Runs the command of its settings once for each key.  Safe to use from any number of threads and processes.

    Making one prepares the work directory and looks up the program; raises InvalidInput and Unavailable.  No thread
    runs before ``on_change``, and none between calls without it; ``close`` stops that one, and no task.
    ``supervisor`` is what follows the interpreter to run one task; tests put a program there that dies.
    """

    def __init__(self, settings: CommandSettings, *, supervisor: Sequence[str] = STANDARD_SUPERVISOR) -> None:
        self._settings = settings
        self._program = str(settings.find_program())
        self._supervisor = (str(settings.python), *supervisor)
        if not os.access(settings.python, os.X_OK):
            raise InvalidInput.at("python", f"{settings.python} is not an executable file", "give an interpreter")
        self._work = settings.work_directory
        self._tasks, self._racks, self._watchers = (self._work / name for name in ("tasks", "racks", "watchers"))
        for directory in (self._work, self._tasks, self._racks, self._watchers):
            prepare_directory(directory)
        for shard in range(_SHARDS):
            prepare_directory(self._tasks / f"{shard:02x}")
        for directory in (self._tasks, self._work):
            records.sync(str(directory))
        self._lock = threading.Lock()
        self._watcher: Watcher | None = None

    @property
    def capacity(self) -> int | None:
        """How many starts one round may ask for; see the settings."""
        return self._settings.capacity

    def submit(self, requests: Sequence[SubmissionRequest], deadline: timedelta) -> Sequence[Observation]:
        """Start these tasks, some at a time, and answer in their order."""
        not_after = boottime() + deadline.total_seconds()
        if len(requests) <= 1:
            return [self._submit(request, not_after) for request in requests]
        with ThreadPoolExecutor(min(self._settings.parallelism, len(requests)), "opdispatch-commands") as pool:
            return list(pool.map(lambda request: self._submit(request, not_after), requests))

    def observe(self, refs: Sequence[Ref], looked_at: datetime) -> Sequence[Observation]:
        """Look at these tasks and keys; raises Unavailable when the work directory itself cannot be reached."""
        if not self._tasks.is_dir():
            # Else every task in it would be called missing, and fail.
            raise Unavailable("the work directory of the commands", f"{self._tasks} is gone", "mount or restore it")
        observations: list[Observation] = []
        for ref in refs:
            try:
                match ref:
                    case TaskRef():
                        observations.append(self._look(ref, looked_at))
                    case ClaimRef():
                        observations.append(self._look_up(ref, looked_at))
                    case _:
                        assert_never(ref)
            except _UNREADABLE as error:
                _LOG.warning("cannot look at %s now: %s", ref, error)
        return observations

    def cancel(self, refs: Sequence[TaskRef]) -> Sequence[Observation]:
        """Ask these tasks to end: SIGTERM, and SIGKILL after the grace time.  Tells only of what went wrong."""
        refusals: list[Observation] = []
        for ref in refs:
            try:
                directory = self._directory(ref.task_id)
                if directory is None:
                    continue
                found = condition.condition_of(directory)
                if found.started is not None and found.is_live:
                    orphans.ask_to_end(directory, found.started)
            except _UNREADABLE as error:
                message = f"it could not be told to end: {error}"
                refusals.append(CancellationRefused(target_id=ref.target_id, task_id=ref.task_id, message=message))
        return refusals

    def on_change(self, callback: Callable[[RunId], None]) -> None:
        """Call back, from a thread, with the run of a task of the work directory that ended.  Raises Unavailable."""
        with self._lock:
            if self._watcher is None:
                try:
                    self._watcher = Watcher(self._watchers)
                except OSError as error:
                    raise Unavailable("the notice of ended tasks", str(error)) from error
            self._watcher.add(callback)

    def output_of(self, task_id: TaskId) -> bytes:
        """What is kept of the output of a task, so far when it runs.  Raises NotFound, Unavailable."""
        directory = self._directory(task_id)
        try:
            if directory is None or records.read(directory, records.STARTED) is None:
                raise NotFound("task", task_id)
            return orphans.output_bytes(directory)
        except (OSError, records.UnreadableError) as error:
            raise Unavailable(f"the output of task {task_id}", str(error)) from error

    def close(self) -> None:
        """Stop calling back.  Tasks run on; safe to repeat."""
        with self._lock:
            watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()

    def __enter__(self) -> CommandTaskManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _directory(self, name: str) -> str | None:
        """The directory of the task of this key or id; None for a text that cannot be one of ours."""
        if not _KEY.fullmatch(name):
            return None
        shard = hashlib.sha256(name.encode()).hexdigest()[:2]
        return str(self._tasks / shard / name)

    def _submit(self, request: SubmissionRequest, not_after: float) -> Observation:
        directory = self._directory(request.key)
        if directory is None:
            return _refused(request, f"the key {request.key[:80]!r} cannot name a directory")
        try:
            work = self._work_of(request, directory, not_after)
        except RefusedValueError as error:
            return _refused(request, str(error))
        try:
            return self._answered(request, directory, self._started(request, directory, work))
        except _UNREADABLE as error:
            return _unknown(request, f"it could not be started on this host: {error}")

    def _started(self, request: SubmissionRequest, directory: str, work: Mapping[str, object]) -> Answer:
        """Begin the task, unless the key is taken.  Raises OSError, UnreadableError."""
        started = records.read(directory, records.STARTED)
        if started is not None:
            return Answer("barred" if started.get("barred") else "duplicate")
        if not os.access(self._program, os.X_OK):
            return Answer("trouble", f"{self._program} is not an executable file any more; install it")
        not_after = work["not_after"]
        left = not_after - boottime() if isinstance(not_after, float) else 0.0
        if left <= 0:
            return Answer("late", "its turn did not come within the deadline")
        if self._settings.command.wants_request_file:
            _write_request(directory, request)
        return launch(self._supervisor, work, left)

    def _answered(self, request: SubmissionRequest, directory: str, answer: Answer) -> Observation:
        match answer.word:
            case "started" | "duplicate":
                return _accepted(request)
            case "barred":
                return _refused(request, _BARRED)
            case "conflict":
                return SubmissionConflicted(
                    target_id=request.target_id,
                    attempt=request.attempt,
                    fence=request.fence,
                    message=answer.message,
                )
            case _:
                # Late, trouble or silence of this start; the key may be taken all the same.
                started = records.read(directory, records.STARTED)
                if started is not None:
                    return _refused(request, _BARRED) if started.get("barred") else _accepted(request)
                return _unknown(request, f"it was not begun: {answer.message}")

    def _work_of(self, request: SubmissionRequest, directory: str, not_after: float) -> dict[str, object]:
        """What a supervisor needs to know.  Raises RefusedValueError."""
        settings = self._settings
        argv = settings.command.argv(request, os.path.join(directory, records.REQUEST))
        facts = {OWN_PREFIX + name.upper(): encodable(name, value) for name, value in facts_of(request).items()}
        return {
            "directory": directory,
            "key": request.key,
            "run_id": str(request.run_id),
            "target_id": str(request.target_id),
            "attempt": request.attempt,
            "rack_id": str(request.rack_id),
            "rack_lock": str(self._racks / str(request.rack_id)),
            "watchers": str(self._watchers),
            "argv": [self._program, *argv[1:]],
            "environment": {
                "PATH": settings.search_path,
                "LANG": "C.UTF-8",
                **settings.environment,
                **facts,
            },
            "working_directory": str(settings.command_directory),
            "timeout": None if settings.timeout is None else settings.timeout.total_seconds(),
            "grace": settings.cancel_grace.total_seconds(),
            "max_output_bytes": settings.max_output_bytes,
            "not_after": not_after,
            "boot": processes.here()["boot"],
        }

    def _look(self, ref: TaskRef, looked_at: datetime) -> Observation:
        directory = self._directory(ref.task_id)
        found = condition.Condition(condition.ABSENT) if directory is None else condition.condition_of(directory)
        if directory is None or found.started is None or found.name == condition.BARRED:
            return TaskMissing(target_id=ref.target_id, task_id=ref.task_id, looked_at=looked_at)
        status, message = self._status(directory, found, found.started)
        return TaskObserved(
            target_id=ref.target_id, task_id=ref.task_id, status=status, message=message, looked_at=looked_at
        )

    def _status(self, directory: str, found: condition.Condition, started: records.Record) -> tuple[TaskStatus, str]:
        if found.name == condition.RUNNING:
            return TaskStatus.RUNNING, f"running as process {started['command']['pid']}"
        if found.name == condition.ORPHANED:
            try:
                orphans.tend(directory, started)
            except PermissionError as error:
                return TaskStatus.RUNNING, f"its supervisor was killed, and it cannot be ended: {error}"
            return TaskStatus.RUNNING, "its supervisor was killed; the command still runs, and its result will be lost"
        ended = found.ended
        if ended is None:
            try:
                orphans.record_gone(directory, time.time())
            except OSError as error:
                # The same will be seen at the next look; what matters is that the processes are gone.
                _LOG.warning("cannot record that task %s ended without a result: %s", started["key"], error)
            ended = records.read(directory, records.ENDED)
        if ended is None:
            return TaskStatus.FAILED, "ended without a result"
        status, message = ended["status"], ended["message"]
        if not isinstance(status, str) or not isinstance(message, str):
            raise records.UnreadableError(f"the end of task {started['key']} on record is not told in texts")
        return _STATUSES.get(status, TaskStatus.UNKNOWN), message

    def _look_up(self, ref: ClaimRef, looked_at: datetime) -> Observation:
        """Look up a key whose claim's lease, and so whose deadline, is over."""
        directory = self._directory(ref.key)
        started = None if directory is None else records.read(directory, records.STARTED)
        if directory is not None and started is None and ref.bar:
            records.make_directory(directory)
            barred = {"barred": True, "key": ref.key, "at": time.time()}
            records.write_once(directory, records.STARTED, barred)
            # Of the bar and a start at the same instant one was first; the record says which.
            started = records.read(directory, records.STARTED)
        if started is not None and not started.get("barred"):
            return SubmissionAccepted(
                target_id=ref.target_id, attempt=ref.attempt, fence=ref.fence, task_id=TaskId(ref.key)
            )
        return SubmissionAbsent(
            target_id=ref.target_id,
            attempt=ref.attempt,
            fence=ref.fence,
            # A key that can name no directory can name no task either.
            barred=started is not None or directory is None,
            looked_at=looked_at,
        )


def _accepted(request: SubmissionRequest) -> Observation:
    return SubmissionAccepted(
        target_id=request.target_id, attempt=request.attempt, fence=request.fence, task_id=TaskId(request.key)
    )


def _refused(request: SubmissionRequest, message: str) -> Observation:
    return SubmissionRefused(target_id=request.target_id, attempt=request.attempt, fence=request.fence, message=message)


def _unknown(request: SubmissionRequest, message: str) -> Observation:
    return SubmissionUnknown(target_id=request.target_id, attempt=request.attempt, fence=request.fence, message=message)


def _write_request(directory: str, request: SubmissionRequest) -> None:
    """Write the request file; the same for every submission of a key, so that the first may stay."""
    records.make_directory(directory)
    records.write_once(
        directory,
        records.REQUEST,
        {
            **facts_of(request),
            "attempt": request.attempt,
            "components": {kind: [str(each) for each in ids] for kind, ids in request.components.items()},
            "description": request.operation.description,
            "payload": request.operation.payload,
        },
    )
