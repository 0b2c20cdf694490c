"""The processes of a history, forked where all is loaded: dispatchers, servers of calls, and operators.

    python -m tests.histories.processes RECORD DIRECTORY ERRORS

Is told one order per line, forks a process for it and answers with its id.  Each appends its lines to a file of its own
in DIRECTORY; what they log goes to ERRORS.  A dispatcher and a server work until a SIGTERM; an operator makes one call.
All of them die with the one that forked them, stopped ones too.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum, unique
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import grpc

from opdispatch.errors import Unavailable
from opdispatch.identity import RunId
from opdispatch.observation import Observation
from opdispatch.task import SubmissionRequest
from opdispatch_adapters.cli import main as cli
from opdispatch_adapters.cli.exits import Exit
from opdispatch_adapters.cli.session import Session
from opdispatch_adapters.dispatcher import Dispatcher, Settings, driver, tick
from opdispatch_adapters.flow.server import OperationRuns, add_operation_runs
from opdispatch_adapters.flow.wire import flow_pb2 as wire
from opdispatch_adapters.flow.wire import flow_pb2_grpc
from opdispatch_adapters.sql import PostgresStore, SqliteStore, SqlStore, is_postgres, open_store
from tests.integration.flow_kit import Racks, commands_on
from tests.integration.recorded_tasks import RecordedTasks
from tests.mutants import MUTANTS

from .history import Outcome
from .lines import Lines

ROOT: Final = Path(__file__).parents[2]
SHORT: Final = Settings(
    poll=timedelta(seconds=0.2),
    glance=timedelta(seconds=0.1),
    service_lease=timedelta(seconds=0.6),
    claim_lease=timedelta(seconds=1.8),
    call_deadline=timedelta(seconds=0.6),
    error_delay=timedelta(seconds=0.1),
    cancel_delay=timedelta(seconds=0.2),
    batch=3,
)
LASTING: Final = timedelta(seconds=0.5)
FAILING: Final = 9
CALL_SECONDS: Final = 5.0
"""How long an operator waits for an answer."""
_DIES_WITH_PARENT: Final = 1
_PORT: Final = "port"
_NO_IDENTITY: Final = sha256(b"").hexdigest()[:16]


@unique
class Point(StrEnum):
    """Where a dispatcher is struck from within, between two steps."""

    BEGUN = "begun"
    """A task was begun, and nobody was told."""
    APPLIED = "applied"
    """A decision is written, and not committed."""
    COMMITTED = "committed"
    """A decision is committed, and nothing of it carried out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """A signal that a dispatcher sends itself, the ``number``-th time that it is at a point."""

    point: Point
    number: int
    how: signal.Signals


def command_id(verb: str, request: str) -> str:
    """The id of the command of a request over the wire by somebody unknown; the program can be given the same."""
    return f"{verb}-{_NO_IDENTITY}-{request}"


def tasks_on(record: Path) -> RecordedTasks:
    """The task manager of every process."""
    return RecordedTasks(record, LASTING, failing=FAILING)


# -- a dispatcher --


class _Struck:
    """Strikes once."""

    def __init__(self, strike: Strike | None) -> None:
        self._strike = strike
        self._left = 0 if strike is None else strike.number

    def at(self, point: Point) -> None:
        if self._strike is None or point is not self._strike.point:
            return
        self._left -= 1
        if self._left == 0:
            # To this thread: one for the process may let it go on a little, while another thread takes the signal.
            signal.pthread_kill(threading.get_ident(), self._strike.how)


class _Tasks(RecordedTasks):
    """The task manager, as a dispatcher that is struck has it; every submission is a line."""

    def __init__(self, record: Path, lines: Lines, struck: _Struck) -> None:
        super().__init__(record, LASTING, failing=FAILING)
        self._lines = lines
        self._struck = struck

    def submit(self, requests: Sequence[SubmissionRequest], deadline: timedelta) -> Sequence[Observation]:
        keys = " ".join(f"{str(request.target_id)[:8]}.{request.attempt}/{request.fence}" for request in requests)
        with self._lines.call("tasks", f"submit {keys}", run=str(requests[0].run_id)) as answer:
            found = super().submit(requests, deadline)
            answer.be(Outcome.OK, " ".join(type(one).__name__ for one in found))
            return found

    def _begin(self, request: SubmissionRequest, end: float) -> Observation | None:
        found = super()._begin(request, end)
        if found is not None:
            self._struck.at(Point.BEGUN)
        return found


def _be_struck(store: SqlStore, struck: _Struck) -> None:
    """Let the store's decisions be points."""
    lock = store.lock

    @contextmanager
    def points(run_id: RunId, wait: timedelta) -> Iterator[Any]:
        with lock(run_id, wait) as held:
            yield held
            if held is not None:
                struck.at(Point.APPLIED)
        if held is not None:
            struck.at(Point.COMMITTED)

    store.lock = points  # type: ignore[method-assign]  # this process is made to be struck


@contextmanager
def _opened(source: str, stop: threading.Event) -> Iterator[SqlStore | None]:
    """The store, as soon as it can be had; None when this process is to end before that."""
    store = None
    while store is None and not stop.is_set():
        try:
            store = open_store(source if is_postgres(source) else Path(source))
        except Unavailable:
            stop.wait(0.1)
    if store is None:
        yield None
        return
    with store:
        yield store


def _dispatch(order: Mapping[str, Any], record: Path, lines: Lines) -> None:
    stop = _until_terminated()
    given = order["strike"]
    strike = given and Strike(point=Point(given["point"]), number=given["number"], how=signal.Signals(given["how"]))
    struck = _Struck(strike)
    if order["broken"]:
        broken = next(one for one in MUTANTS if one.name == order["broken"])
        vars(driver)["serve"] = partial(tick.serve, decider=broken.decider)
    with _opened(order["store"], stop) as store:
        if store is None:
            return
        _be_struck(store, struck)
        tasks = _Tasks(record, lines, struck)
        changes = store.version if isinstance(store, SqliteStore) else None
        listen = store.listening if isinstance(store, PostgresStore) else None
        with Dispatcher(store, tasks, SHORT, changes=changes, listen=listen, actor=order["name"]):
            _wait_for(stop)


def _wait_for(stop: threading.Event) -> None:
    """In steps: a signal that comes while all is stopped may be taken by another thread, which does not end a wait."""
    while not stop.wait(0.5):
        pass


def _until_terminated() -> threading.Event:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop


# -- a server --


def _serve(order: Mapping[str, Any], directory: Path) -> None:
    stop = _until_terminated()
    with _opened(order["store"], stop) as store, ThreadPoolExecutor(4) as threads:
        if store is None:
            return
        server = grpc.server(threads)
        add_operation_runs(server, OperationRuns(store, Racks([]), commands_on(store, SHORT)))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        fresh = directory / f"{_PORT}-{os.getpid()}"
        fresh.write_text(str(port))
        fresh.replace(directory / _PORT)
        _wait_for(stop)
        server.stop(0.5).wait()


# -- an operator --


def _operate(order: Mapping[str, Any], record: Path, directory: Path, lines: Lines) -> None:
    """One call of an operator."""
    verb, way, run = order["verb"], order["way"], order["run"]
    with lines.call(way, verb, run=run, command=command_id(verb, order["request"])) as answer:
        if way == "cli":
            answer.be(*_by_program(order, record))
        else:
            answer.be(*_by_wire(order, directory))


def _by_program(order: Mapping[str, Any], record: Path) -> tuple[Outcome, str]:
    @contextmanager
    def programs(_: Session, *, watch: bool) -> Iterator[RecordedTasks]:
        yield tasks_on(record)

    # The program runs commands of this host; here the tasks are elsewhere.
    Session.programs = programs  # type: ignore[assignment,method-assign]
    arguments = ["--store", order["store"], "--output", "jsonl", "--actor", order["name"]]
    request = ["--request-id", command_id(order["verb"], order["request"])]
    told, said = io.StringIO(), io.StringIO()
    sys.stdout, sys.stderr = told, said
    code: Any = 0
    try:
        cli.main([*arguments, order["verb"], order["run"], *order["arguments"], *request])
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    documents = [json.loads(line) for line in told.getvalue().splitlines()]
    for document in documents:
        if document.get("schema") == "opdispatch/reply/v1":
            return Outcome.OK if document["accepted"] else Outcome.FAIL, reply_text(document)
    if code in (Exit.USAGE, Exit.REFUSED):
        logging.error("%s: the program refused %s: %s", order["name"], order["verb"], said.getvalue())
        return Outcome.FAIL, ""
    if code != Exit.RETRY_LATER:
        logging.error("%s: the program ended with %s: %s", order["name"], code, said.getvalue())
    return Outcome.UNKNOWN, said.getvalue()


def reply_text(document: Mapping[str, Any]) -> str:
    """A reply of the program, as text that is the same for the same reply."""
    return json.dumps(document, sort_keys=True)


def wire_text(message: wire.OperationRun) -> str:
    """A reply of the server, likewise."""
    stands = message.summary
    digest = sha256(message.SerializeToString(deterministic=True)).hexdigest()[:12]
    return f"{stands.state.status}/{stands.state.reason} {stands.status_message!r} {digest}"


_UNANSWERED: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
)


def _by_wire(order: Mapping[str, Any], directory: Path) -> tuple[Outcome, str]:
    stub: Any
    try:
        port = (directory / _PORT).read_text()
    except FileNotFoundError:
        return Outcome.UNKNOWN, "there is no server yet"
    metadata = [("x-request-id", order["request"]), ("x-actor", order["name"]), *map(tuple, order["metadata"])]
    run = wire.UUID(id=order["run"])
    calls: Mapping[str, Callable[[Any], tuple[Any, Any]]] = {
        "pause": lambda stub: (stub.PauseOperationRun, wire.PauseOperationRunRequest(id=run)),
        "resume": lambda stub: (stub.ResumeOperationRun, wire.ResumeOperationRunRequest(id=run)),
        "advance": lambda stub: (
            stub.AdvanceOperationRunPhase,
            wire.AdvanceOperationRunPhaseRequest(id=run, expected_phase_index=order["phase"]),
        ),
        "cancel": lambda stub: (stub.CancelOperationRun, wire.CancelOperationRunRequest(id=run, reason="enough")),
    }
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_retries", 0)]) as channel:
        stub = flow_pb2_grpc.FlowStub(channel)
        method, request = calls[order["verb"]](stub)
        try:
            return Outcome.OK, wire_text(method(request, metadata=metadata, timeout=CALL_SECONDS))
        except grpc.RpcError as error:
            failed: Any = error
            if failed.code() is grpc.StatusCode.FAILED_PRECONDITION:
                return Outcome.FAIL, failed.details()
            if failed.code() not in _UNANSWERED:
                logging.error("%s: the server failed %s: %s", order["name"], order["verb"], failed)
            return Outcome.UNKNOWN, f"{failed.code().name}: {failed.details()}"


# -- the one that forks --


def _be_child(order: Mapping[str, Any], record: Path, directory: Path, parent: int) -> None:
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    faulthandler.register(signal.SIGUSR1)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(process)d %(name)s: %(message)s")
    lines = Lines(directory / f"{order['name']}.lines", order["name"])
    match order["do"]:
        case "dispatch":
            _dispatch(order, record, lines)
        case "serve":
            _serve(order, directory)
        case "operate":
            _operate(order, record, directory, lines)
        case other:
            raise AssertionError(f"no process does {other}")


def main(record: str, directory: str, errors: str) -> None:
    """Fork for each order until the input ends."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), 2)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # What is loaded stays where it is, so that the children share it.
    gc.collect()
    gc.freeze()
    parent = os.getpid()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                sys.stdin.close()
                _be_child(json.loads(line), Path(record), Path(directory), parent)
                code = 0
            except BaseException:
                logging.exception("a process ended")
            finally:
                os._exit(code)
        print(pid, flush=True)


class Child:
    """A process that was forked, held by a descriptor: a number that is used again is never taken for it."""

    def __init__(self, pid: int, name: str) -> None:
        self.pid = pid
        self.name = name
        self._descriptor = -1
        with suppress(ProcessLookupError):
            self._descriptor = os.pidfd_open(pid)

    def send(self, how: int) -> bool:
        """False when it has ended."""
        try:
            if self._descriptor >= 0:
                signal.pidfd_send_signal(self._descriptor, how)
                return True
        except ProcessLookupError:
            pass
        return False

    @property
    def is_alive(self) -> bool:
        """True also while it is stopped."""
        return self.send(0)

    @property
    def is_stopped(self) -> bool:
        """True while a signal has stopped it."""
        try:
            told = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False
        return self.is_alive and told.rpartition(")")[2].split()[0] == "T"

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Processes:
    """The one that forks, as whoever gives the orders has it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, **order: Any) -> Child:
        """A new process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Child(int(self._process.stdout.readline()), order["name"])


@contextmanager
def processes(record: Path, directory: Path, errors: Path) -> Iterator[Processes]:
    """Processes on a record, until the block is left; then all of them die."""
    paths = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    with subprocess.Popen(
        [sys.executable, "-m", __name__, str(record), str(directory), str(errors)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Processes(process)


if __name__ == "__main__":
    main(*sys.argv[1:])
