"""Dispatchers to be killed: processes on one PostgreSQL store and one record of tasks, forked where all is loaded.

    python -m tests.integration.recorded_worker STORE RECORD ERRORS

Is told a line for each that it shall fork, and answers with its process id; what they log goes to ERRORS.  Each serves
what is due until a SIGTERM.  They end when the one that forked them does.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from opdispatch_adapters.dispatcher import Dispatcher, Settings
from opdispatch_adapters.sql import PostgresStore

from .recorded_tasks import RecordedTasks

ROOT: Final = Path(__file__).parents[2]
SHORT: Final = Settings(
    poll=timedelta(seconds=0.2),
    service_lease=timedelta(seconds=1),
    claim_lease=timedelta(seconds=3),
    call_deadline=timedelta(seconds=1),
    error_delay=timedelta(seconds=0.2),
)
LASTING: Final = timedelta(seconds=0.3)
FAILING: Final = 12


def tasks_on(record: Path) -> RecordedTasks:
    return RecordedTasks(record, LASTING, failing=FAILING)


def serve(store: str, record: str, *, actor: str | None = None) -> None:
    """Until a SIGTERM comes, or the parent has gone."""
    stop, parent = threading.Event(), os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with (
        PostgresStore(store) as opened,
        Dispatcher(opened, tasks_on(Path(record)), SHORT, listen=opened.listening, actor=actor),
    ):
        while not stop.wait(1.0) and os.getppid() == parent:
            pass


def main(store: str, record: str, errors: str, *, serve: Callable[[str, str], None] = serve) -> None:
    os.dup2(os.open(errors, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), 2)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                sys.stdin.close()
                logging.basicConfig(level=logging.WARNING)
                serve(store, record)
                code = 0
            except BaseException:
                logging.exception("a worker ended")
            finally:
                os._exit(code)
        print(pid, flush=True)


class Workers:
    """The processes, as the test that kills them has them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self) -> int:
        """Its process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("one more\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def workers(
    store: str, record: Path, errors: Path, *, module: str = __name__, environment: Mapping[str, str] | None = None
) -> Iterator[Workers]:
    """Workers on a store and a record, until the block is left."""
    paths = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    with subprocess.Popen(
        [sys.executable, "-m", module, store, str(record), str(errors)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Workers(process)


if __name__ == "__main__":
    main(*sys.argv[1:])
