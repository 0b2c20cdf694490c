"""A supervisor in which one thing goes wrong: ``python failing_supervisor.py <src> <what> <marks>``.

It is the real one with one step replaced, so that a test can have it die, stall or meet a full disk exactly there.
Once nothing of it will happen any more, it leaves the mark ``left``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn


def die(*_: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("survived")


def full(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def stall(*_: object) -> None:
    from opdispatch_adapters.commands.child import boottime

    while boottime() < DEADLINE[0]:
        threading.Event().wait(0.01)


DEADLINE: list[float] = []


def replaced(step: Callable[..., Any], *, before: Callable[..., None] | None, after: Callable[..., None] | None) -> Any:
    def run(*args: Any) -> Any:
        if before is not None:
            before(*args)
        result = step(*args)
        if after is not None:
            after(*args)
        return result

    return run


def main() -> None:
    source, what, marks = sys.argv[1:]
    sys.path.insert(0, source)
    from opdispatch_adapters.commands import records, supervisor
    from opdispatch_adapters.commands.child import Command

    def only(name: str, act: Callable[..., None]) -> Callable[..., None]:
        return lambda draft, *_: act() if draft._name == name else None

    publish, fill, execute = records.Draft.publish, records.Draft.fill, Command.execute
    replacements: dict[str, tuple[Any, str, Any]] = {
        "dies before it takes the key": (
            records.Draft,
            "publish",
            replaced(publish, before=only("started", die), after=None),
        ),
        "dies after it took the key": (
            records.Draft,
            "publish",
            replaced(publish, before=None, after=only("started", die)),
        ),
        "dies after it executed": (Command, "execute", replaced(execute, before=None, after=die)),
        "dies before it records the end": (
            records.Draft,
            "publish",
            replaced(publish, before=only("ended", die), after=None),
        ),
        "dies after it recorded the end": (
            records.Draft,
            "publish",
            replaced(publish, before=None, after=only("ended", die)),
        ),
        "stalls before it takes the key": (
            records.Draft,
            "fill",
            replaced(fill, before=only("started", stall), after=None),
        ),
        "finds the disk full at the start": (
            records.Draft,
            "fill",
            replaced(fill, before=only("started", full), after=None),
        ),
        "finds the disk full at the end": (
            records.Draft,
            "fill",
            replaced(fill, before=only("ended", full), after=None),
        ),
    }
    owner, name, step = replacements[what]
    setattr(owner, name, step)
    time.sleep = lambda _: None
    supervise = supervisor.supervise

    def until_left(launch: Any, report_fd: int) -> None:
        DEADLINE.append(launch["not_after"])
        supervise(launch, report_fd)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, 0):
                pass
        with open(os.path.join(marks, "left"), "w"):
            pass

    supervisor.supervise = until_left
    supervisor.main()


if __name__ == "__main__":
    main()
