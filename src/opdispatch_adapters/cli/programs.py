"""Which program runs the tasks of a run: the argv template that its creator registered, or an administrator's list.

A program is a file beside the store, ``STORE.tasks/programs/RUN.json`` (0600), and not a row in it: whoever may
write the database must not choose what is executed.  With an allowlist only the allowlist counts.

The administrator's list is a TOML or YAML file with one table per operation, ``["firmware_control/upgrade"]``, with
the keys of a rollout file's ``[command]``.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from opdispatch.errors import CorruptRecord, InvalidInput, Problem, Unavailable
from opdispatch.identity import RunId
from opdispatch.task import Operation
from opdispatch_adapters.commands import CommandSettings
from opdispatch_adapters.commands.settings import prepare_directory

from .document import read_document
from .rollout_file import CommandSpec, command_spec

_FORMAT: Final = 1
_MAX_BYTES: Final = 4 << 20
"""A program is at most the argv of one; above this it is not ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is executed for each target, and how long it may take; times in seconds, None: the runner's default."""

    argv: tuple[str, ...]
    timeout: float | None = None
    cancel_grace: float | None = None
    max_output_bytes: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    def settings(self, work: Path) -> CommandSettings:
        """The settings of the runner; raises InvalidInput when it refuses them or finds no program."""
        given: dict[str, Any] = {
            "timeout": None if self.timeout is None else timedelta(seconds=self.timeout),
            "cancel_grace": None if self.cancel_grace is None else timedelta(seconds=self.cancel_grace),
            "max_output_bytes": self.max_output_bytes,
        }
        set_here = {name: value for name, value in given.items() if value is not None}
        settings = CommandSettings(work_directory=work, command=self.argv, environment=self.env, **set_here)
        settings.find_program()
        return settings


def program_of(spec: CommandSpec, directory: Path) -> Program:
    """The program of a ``[command]`` table; a relative path with a ``/`` is taken from ``directory``."""
    first = spec.argv[0]
    if "/" in first and not os.path.isabs(first):
        first = os.path.abspath(directory / first)
    return Program(
        argv=(first, *spec.argv[1:]),
        timeout=None if spec.timeout is None else spec.timeout.total_seconds(),
        cancel_grace=None if spec.cancel_grace is None else spec.cancel_grace.total_seconds(),
        max_output_bytes=spec.max_output_bytes,
        env=dict(spec.env),
    )


def require_runnable(program: Program, place: str, work: Path) -> None:
    """Refuse a program that could not be run here, with the places of the file that it came from."""
    try:
        program.settings(work)
    except InvalidInput as error:
        raise InvalidInput(
            Problem(place=f"{place}.{_spelled(problem.place)}", found=problem.found, remedy=problem.remedy)
            for problem in error.problems
        ) from error


def _spelled(place: str) -> str:
    if place.startswith("command"):
        return "argv" + place.removeprefix("command")
    return "env" + place.removeprefix("environment") if place.startswith("environment") else place


def load_allowlist(path: Path) -> Mapping[str, Program]:
    """The programs of an administrator's file, by ``type/code`` of the operation.  Raises InvalidInput."""
    document = read_document(path)
    specs: dict[str, CommandSpec] = {}
    for name in document.entries():
        before = document.report.count
        spec = command_spec(document.table(name))
        if document.report.count == before:
            specs[name] = spec
    document.report.raise_if_any()
    return {name: program_of(spec, path.parent) for name, spec in specs.items()}


def name_of(operation: Operation) -> str:
    """How an allowlist names an operation."""
    return f"{operation.type}/{operation.code}"


class Registry:
    """The programs that were registered for runs."""

    def __init__(self, tasks: Path) -> None:
        self._tasks = tasks
        self._directory = tasks / "programs"

    def _file(self, run_id: RunId) -> Path:
        return self._directory / f"{run_id}.json"

    def get(self, run_id: RunId) -> Program | None:
        """The program of a run; None when none was registered.  Raises CorruptRecord, Unavailable."""
        path = self._file(run_id)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(f"program {path}", f"{error.strerror}") from error
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise CorruptRecord(f"program {path}", "others can write to it", "look at it, then chmod 600 it")
            data = file.read(_MAX_BYTES)
        try:
            document = json.loads(data)
            if document["format"] != _FORMAT:
                raise ValueError(f"its format is {document['format']!r}")
            values = document["program"]
            return Program(**{**values, "argv": tuple(values["argv"])})
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptRecord(f"program {path}", f"{error}") from error

    def put(self, run_id: RunId, program: Program) -> None:
        """Register a program, whole or not at all; replaces what was there.  Raises InvalidInput, Unavailable."""
        for directory in (self._tasks, self._directory):
            prepare_directory(directory)
        path = self._file(run_id)
        draft = path.with_name(f".{path.name}.{uuid4().hex[:12]}")
        data = json.dumps({"format": _FORMAT, "program": asdict(program)}, indent=1).encode()
        try:
            try:
                with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(draft, path)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            detail = f"{path}: {error.strerror}"
            raise Unavailable("the register of programs", detail, "free some space, or make it writable") from error
