"""Builders for the tests of local commands: requests, managers, and what can be told from a work directory."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from opdispatch.identity import ComponentId, IdempotencyKey, RackId, RunId, TaskId, idempotency_key_of, target_id_of
from opdispatch.observation import Observation, SubmissionAccepted, TaskObserved
from opdispatch.ports import TaskManager
from opdispatch.task import ClaimRef, Operation, SubmissionRequest, TaskRef, TaskStatus, frozen_components
from opdispatch_adapters.commands import CommandSettings, CommandTaskManager, processes
from opdispatch_adapters.commands.launch import STANDARD_SUPERVISOR

from .waiting import eventually

DEADLINE = timedelta(seconds=20)
LOOKED_AT = datetime(2031, 4, 2, 10, 0, tzinfo=UTC)
_NAMES = UUID("00000000-0000-5000-8000-000000000001")


def a_request(
    rack: str = "rack",
    *,
    run: str = "run",
    attempt: int = 1,
    fence: int = 1,
    rack_name: str = "R-1",
    payload: str = "{}",
    key: str | None = None,
) -> SubmissionRequest:
    """A request for a rack of a run, both by any name."""
    run_id, rack_id = RunId(uuid5(_NAMES, run)), RackId(uuid5(_NAMES, rack))
    target_id = target_id_of(run_id, rack_id)
    return SubmissionRequest(
        key=IdempotencyKey(key) if key is not None else idempotency_key_of(run_id, target_id, attempt),
        run_id=run_id,
        target_id=target_id,
        attempt=attempt,
        fence=fence,
        rack_id=rack_id,
        rack_name=rack_name,
        components=frozen_components({"compute": (ComponentId(uuid5(_NAMES, "tray")),)}),
        operation=Operation(type="firmware_control", code="upgrade", payload=payload),
        resubmission=False,
    )


def a_manager(
    work: Path, command: Sequence[str], *, supervisor: Sequence[str] = STANDARD_SUPERVISOR, **settings: Any
) -> CommandTaskManager:
    """A manager on this work directory."""
    return CommandTaskManager(CommandSettings(work_directory=work, command=command, **settings), supervisor=supervisor)


def a_script(*lines: str) -> list[str]:
    """A command that runs these lines of Python, with ``record(name)`` to leave a mark in the directory ``$MARKS``."""
    prelude = (
        "import os, signal, subprocess, sys, time",
        "def record(name, text=''):",
        "    with open(os.path.join(os.environ['MARKS'], name), 'a') as file: file.write(text + '\\n')",
        "def park():",
        "    while True: signal.pause()",
    )
    return [sys.executable, "-I", "-S", "-c", "\n".join((*prelude, *lines)).replace("{", "{{").replace("}", "}}")]


def submit(manager: CommandTaskManager, request: SubmissionRequest, deadline: timedelta = DEADLINE) -> Observation:
    """The answer to one request."""
    (answer,) = manager.submit([request], deadline)
    return answer


def as_port(manager: CommandTaskManager) -> TaskManager:
    """The manager as the dispatcher knows it; that this type-checks is the point."""
    return manager


def start(manager: CommandTaskManager, request: SubmissionRequest) -> SubmissionRequest:
    """The request, which was accepted."""
    answer = submit(manager, request)
    assert isinstance(answer, SubmissionAccepted), answer
    return request


def task_of(request: SubmissionRequest) -> TaskRef:
    """The task of a request."""
    return TaskRef(target_id=request.target_id, task_id=TaskId(request.key))


def claim_of(request: SubmissionRequest, *, bar: bool = False) -> ClaimRef:
    """The claim of a request, whose lease is over."""
    return ClaimRef(
        target_id=request.target_id,
        attempt=request.attempt,
        fence=request.fence,
        key=request.key,
        rack_id=request.rack_id,
        bar=bar,
    )


def seen(manager: CommandTaskManager, request: SubmissionRequest) -> TaskObserved:
    """The task of a request as it stands now."""
    (observation,) = manager.observe([task_of(request)], LOOKED_AT)
    assert isinstance(observation, TaskObserved), observation
    return observation


def ended(manager: CommandTaskManager, request: SubmissionRequest) -> TaskObserved:
    """The task of a request once it is over."""
    return eventually(lambda: seen(manager, request), until=lambda it: it.status.is_over, what="the end of the task")


def over_as(manager: CommandTaskManager, request: SubmissionRequest) -> TaskStatus:
    """How the task of a request ended."""
    return ended(manager, request).status


def directory_of(work: Path, request: SubmissionRequest) -> Path:
    """The directory of the task of a request."""
    (directory,) = work.glob(f"tasks/*/{request.key}")
    return directory


def record_of(work: Path, request: SubmissionRequest, name: str = "started") -> Mapping[str, Any]:
    """A record of the task of a request."""
    record: Mapping[str, Any] = json.loads((directory_of(work, request) / name).read_bytes())
    return record


def kill_supervisor(work: Path, request: SubmissionRequest) -> None:
    """Kill the supervisor of a task with SIGKILL; returns when it is gone."""
    supervisor = dict(record_of(work, request)["supervisor"])
    assert processes.signal_exactly(supervisor, signal.SIGKILL)
    eventually(lambda: not processes.is_alive(supervisor), what="the end of the supervisor")


def end_all(work: Path) -> None:
    """Kill whatever a test left running: nothing, unless it failed."""
    for path in work.glob("tasks/*/*/started"):
        record = json.loads(path.read_bytes())
        if not record.get("barred"):
            processes.signal_exactly(record["supervisor"], signal.SIGKILL)
            for stat in processes.session_of(record["command"]):
                processes.signal_exactly({"pid": stat.pid, "start": stat.start}, signal.SIGKILL)


def lives(pid: int) -> bool:
    """Whether a process of this number lives, not counting one that only waits to be reaped."""
    stat = processes.stat_of(pid)
    return stat is not None and not stat.is_dead


def pid_in(path: Path) -> int:
    """The process number in a file, once it is there."""
    return int(eventually(lambda: path.read_text() if path.exists() else "", until=lambda it: it.endswith("\n")))


def open_files_of(pid: int) -> set[str]:
    """What the descriptors of a process lead to."""
    return {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
