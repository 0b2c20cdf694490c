"""The lines that a process appends to a file of its own: what it calls, and what it is told.

A line is written in one piece, before the call and after it, so whoever is killed in between leaves a call without an
end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime
from typing import Any

from .history import Outcome


def now() -> float:
    """The instant, on the clock of all histories."""
    return clock_gettime(CLOCK_BOOTTIME)


class Answer:
    """What became of a call; unknown until it is told."""

    def __init__(self) -> None:
        self.outcome = Outcome.UNKNOWN
        self.reply = ""

    def be(self, outcome: Outcome, reply: str) -> None:
        self.outcome, self.reply = outcome, reply


class Lines:
    """The file of one process."""

    def __init__(self, path: Path, process: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._process = process
        self._calls = 0

    @contextmanager
    def call(self, way: str, what: str, *, run: str = "", command: str = "") -> Iterator[Answer]:
        """One call; the block makes it and says what came of it.  An exception leaves it unknown, with its text."""
        self._calls += 1
        number, answer = self._calls, Answer()
        asked = {"way": way, "what": what, "run": run, "command": command}
        self._write({"line": "invoke", "process": self._process, "call": number, "at": now(), **asked})
        try:
            yield answer
        except Exception as error:
            answer.reply = f"{type(error).__name__}: {error}"
            raise
        finally:
            told = {"at": now(), "reply": answer.reply}
            self._write({"line": answer.outcome.value, "process": self._process, "call": number, **told})

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def read_lines(path: Path) -> Iterable[dict[str, Any]]:
    """The whole lines of a file; one that its writer was killed in is no line."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)
