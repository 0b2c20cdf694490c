"""Starts a supervisor and hears, within a deadline, what became of it.

What it has to do goes in through a file in memory, which no other user sees and no disk can be too full for.
Nothing else is inherited: no descriptor, no variable, no session, no umask.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

STANDARD_SUPERVISOR: Final = ("-I", "-S", str(Path(__file__).with_name("start.py")))
"""What follows the interpreter."""
_LONGEST_ANSWER: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    """What a supervisor said of the start; ``silence`` when it said nothing in time."""

    word: str
    message: str = ""


def launch(program: Sequence[str], work: Mapping[str, object], seconds: float) -> Answer:
    """Start a supervisor for this work; returns within about that many seconds.  Raises nothing of its own.

    A supervisor that is not heard goes by the deadline in its work, so that it need not be stopped.
    """
    until = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        try:
            read, write = os.pipe()
            stack.callback(os.close, read)
            with os.fdopen(write, "wb") as report, _in_memory(json.dumps(work).encode("ascii")) as stdin:
                process = subprocess.Popen(
                    program,
                    stdin=stdin,
                    stdout=report,
                    stderr=subprocess.DEVNULL,
                    env={"LANG": "C.UTF-8"},
                    cwd="/",
                    close_fds=True,
                    start_new_session=True,
                )
        except OSError as error:
            return Answer("trouble", f"no supervisor could be started: {error}")
        stack.callback(_reap, process)
        return _answer(read, until)


def _in_memory(data: bytes) -> BinaryIO:
    file = os.fdopen(os.memfd_create("opdispatch-work", os.MFD_CLOEXEC), "w+b")
    file.write(data)
    file.seek(0)
    return file


def _answer(read: int, until: float) -> Answer:
    poll = select.poll()
    poll.register(read, select.POLLIN)
    data = b""
    while not data.endswith(b"\n") and len(data) < _LONGEST_ANSWER:
        left = until - time.monotonic()
        if left <= 0 or not poll.poll(1000 * left):
            return Answer("silence", "its supervisor has not answered in time")
        more = os.read(read, _LONGEST_ANSWER)
        if not more:
            return Answer("silence", "its supervisor ended without an answer")
        data += more
    answer = json.loads(data)
    return Answer(answer["answer"], answer["message"])


def _reap(process: subprocess.Popen[bytes]) -> None:
    """The process that was started hands over to another at once.  One that has not by now is too late to."""
    process.kill()
    process.wait()
