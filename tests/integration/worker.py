"""A worker with short waits, to be killed: the real store, the real command runner, the real driver.

    python -m tests.integration.worker STORE TASKS PROGRAM LOG

Serves what is due until a signal ends it.  The command of every task is PROGRAM, with LOG in its environment.
"""

from __future__ import annotations

import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path

from opdispatch_adapters.commands import CommandSettings, CommandTaskManager
from opdispatch_adapters.dispatcher import Dispatcher, Settings
from opdispatch_adapters.sql import SqliteStore

SHORT = Settings(
    poll=timedelta(seconds=0.3),
    service_lease=timedelta(seconds=1),
    claim_lease=timedelta(seconds=3),
    call_deadline=timedelta(seconds=1),
    error_delay=timedelta(seconds=0.2),
)


def command_settings(tasks: Path, program: Path, log: Path) -> CommandSettings:
    """Every task runs PROGRAM KEY RACK; it may append to LOG."""
    return CommandSettings(
        work_directory=tasks,
        command=(str(program), "{key}", "{rack_name}"),
        environment={"LOG": str(log)},
        cancel_grace=timedelta(seconds=1),
    )


def main(store: str, tasks: str, program: str, log: str) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    manager = CommandTaskManager(command_settings(Path(tasks), Path(program), Path(log)))
    with manager, Dispatcher(SqliteStore(Path(store)), manager, SHORT):
        print("ready", flush=True)
        stop.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
