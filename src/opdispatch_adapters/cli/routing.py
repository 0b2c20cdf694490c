"""The task manager of the program: each run's tasks with that run's program, all in one work directory.

One work directory serves all programs, so any of them can look at the tasks of the others, and end them.  A worker
that has no program for a run leaves its targets alone: its answer is ``unknown``, never a failure.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Final

from opdispatch.errors import OpdispatchError, Unavailable
from opdispatch.identity import RunId
from opdispatch.observation import Observation, SubmissionUnknown
from opdispatch.task import Operation, Ref, SubmissionRequest, TaskRef
from opdispatch_adapters.commands import CommandSettings, CommandTaskManager
from opdispatch_adapters.commands.settings import prepare_directory

from .programs import Program, Registry, load_allowlist, name_of

_LOG: Final = logging.getLogger("opdispatch.cli")


class Programs:
    """A task manager that runs each run's tasks with that run's program.  Close it when done; tasks run on."""

    def __init__(self, tasks: Path, *, allowlist: Path | None, watch: bool) -> None:
        self._work = tasks
        self._watch = watch
        self.registry = Registry(tasks)
        self._allowed = None if allowlist is None else load_allowlist(allowlist)
        self._managers: dict[str, CommandTaskManager] = {}
        self._looker: CommandTaskManager | None = None

    def __enter__(self) -> Programs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop calling back; safe to repeat."""
        if self._looker is not None:
            self._looker.close()

    @property
    def capacity(self) -> int | None:
        """The runner's own."""
        return self._any().capacity

    def program_for(self, run_id: RunId, operation: Operation) -> Program | None:
        """What would be executed for this run; None when this process has nothing for it."""
        if self._allowed is not None:
            return self._allowed.get(name_of(operation))
        return self.registry.get(run_id)

    def submit(self, requests: Sequence[SubmissionRequest], deadline: timedelta) -> Sequence[Observation]:
        """Begin these tasks, each with the program of its run."""
        groups: defaultdict[tuple[RunId, str], list[SubmissionRequest]] = defaultdict(list)
        for request in requests:
            groups[request.run_id, name_of(request.operation)].append(request)
        outcomes: list[Observation] = []
        began = time.clock_gettime(time.CLOCK_BOOTTIME)
        for group in groups.values():
            try:
                manager = self._manager(group[0])
                # One deadline for all groups; what making a manager took is part of it.
                passed = timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME) - began)
                outcomes.extend(manager.submit(group, deadline - passed))
            except OpdispatchError as error:
                _LOG.warning("nothing was begun for run %s: %s", group[0].run_id, error)
                outcomes.extend(_unknown(request, str(error)) for request in group)
        return outcomes

    def observe(self, refs: Sequence[Ref], looked_at: datetime) -> Sequence[Observation]:
        """Look at tasks, whatever program they run."""
        return self._any().observe(refs, looked_at)

    def cancel(self, refs: Sequence[TaskRef]) -> Sequence[Observation]:
        """Ask tasks to end, whatever program they run."""
        return self._any().cancel(refs)

    def on_change(self, callback: Callable[[RunId], None]) -> None:
        """Call back when a task ends; nothing is watched for a process that only carries out one command."""
        if self._watch:
            self._any().on_change(callback)

    def _any(self) -> CommandTaskManager:
        """A manager that only looks: its command is never executed."""
        if self._looker is None:
            prepare_directory(self._work)
            harmless = sys.executable.replace("{", "{{").replace("}", "}}")
            self._looker = CommandTaskManager(CommandSettings(work_directory=self._work, command=(harmless,)))
        return self._looker

    def _manager(self, request: SubmissionRequest) -> CommandTaskManager:
        program = self.program_for(request.run_id, request.operation)
        if program is None:
            raise Unavailable(f"the program of run {request.run_id}", *self.why_none(request.operation))
        known = json.dumps(asdict(program), sort_keys=True)
        if known not in self._managers:
            self._managers[known] = CommandTaskManager(program.settings(self._work))
        return self._managers[known]

    def why_none(self, operation: Operation) -> tuple[str, str]:
        """Why this process has no program for an operation, and what to do."""
        if self._allowed is not None:
            return (
                f"the allowlist has none for {name_of(operation)}",
                f'add a table ["{name_of(operation)}"] with argv to it',
            )
        return "none was registered beside this store", "give an allowlist with --commands"


def _unknown(request: SubmissionRequest, message: str) -> SubmissionUnknown:
    return SubmissionUnknown(target_id=request.target_id, attempt=request.attempt, fence=request.fence, message=message)
