"""The program that runs one task, apart from the dispatcher: it takes the key, runs the command, records the end.

It reads what to do from standard input (see ``launch``), leaves the dispatcher's session, and says on standard output
what became of the start, in one line: ``started``, ``duplicate``, ``barred``, ``conflict``, ``late`` or
``trouble``.  Then nobody needs to listen any more; it lives until nothing of the task does.

What it relies on: the key belongs to whoever links ``started``; the lock of the rack is held from before that
until after ``ended`` is on record and the last process is gone; the command is executed only after ``started`` is
durable; and ``started`` is linked only right after a look at the clock, which is shared by all processes, so that
a request begins within its deadline or never.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import syslog
import time

from . import processes, records
from .child import Command, Wait, adopt_descendants, boottime, described
from .condition import condition_of
from .output import BoundedOutput
from .racks import RackLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .records import Record

_PAUSE = 0.005
"""Between two tries for the lock of the key, which another supervisor of the same key holds for some milliseconds."""
_RECORDING_TRIES = 8
"""Tries to record the end, each twice as long after the one before, 0.1 s first: 12 s in all.  Room for the record
was kept, so an error here is a broken disk, and waiting longer would only keep the rack busy.  Then the end goes to
the system log, and the task ended without a result."""


class _Answer(Exception):
    """A way out of nested steps: what became of the start, when it is not ``started``."""


def main() -> None:
    """Run one task; the standard streams are as ``launch`` sets them up."""
    with open(0, "rb", closefd=False) as file:
        launch: Record = json.loads(file.read())
    if os.fork():
        # The dispatcher reaps this one at once, and has no children that it would have to look after.
        os._exit(0)
    os.setsid()
    os.umask(0o077)
    os.chdir("/")
    devnull = os.open(os.devnull, os.O_RDWR)
    os.dup2(devnull, 0)
    supervise(launch, report_fd=1)


def supervise(launch: Record, report_fd: int) -> None:
    """Take the key and run the command; returns when nothing of the task is left."""
    wakeup = _notice_signals()
    try:
        key_lock = _lock_key(launch)
        rack = _take_rack(launch)
        task = _Task(launch)
        started = task.take_key()
        os.close(key_lock)
    except _Answer as answer:
        _report(report_fd, *answer.args)
        return
    except (OSError, records.UnreadableError) as error:
        _report(report_fd, "trouble", str(error))
        return
    task.command.execute()
    _report(report_fd, "started", "")
    task.run(started, wakeup)
    rack.close()
    _notify(launch["watchers"], launch["run_id"])


def _notice_signals() -> int:
    """A request to end is noticed at once, and acted on where the command is waited for."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _note_end)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return read


_told_to_end = False


def _note_end(number: int, frame: object) -> None:
    global _told_to_end
    _told_to_end = True


def _lock_key(launch: Record) -> int:
    """One supervisor of a key at a time comes to the rack, so that none mistakes its twin for a conflict."""
    records.make_directory(launch["directory"])
    fd = os.open(launch["directory"], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if boottime() >= launch["not_after"]:
                raise _Answer("late", "another start under the same key took too long") from None
            time.sleep(_PAUSE)
        else:
            _look_for_another(launch)
            return fd


def _look_for_another(launch: Record) -> None:
    """Raise the answer when the key is taken."""
    started = records.read(launch["directory"], records.STARTED)
    if started is not None:
        raise _Answer("barred" if started.get("barred") else "duplicate", "")


def _take_rack(launch: Record) -> RackLock:
    """The lock of the rack, with our name in it; raises the answer when a task of another key lives there."""
    lock = RackLock(launch["rack_lock"])
    is_free = lock.take()
    holder = lock.holder()
    if is_free and holder is not None and holder["key"] != launch["key"]:
        # The lock fell with its supervisor; the command may still run.
        is_free = not condition_of(holder["directory"], has_rack_lock=True).is_live
    if not is_free:
        whose = f"task {holder['key']} of run {holder['run_id']}" if holder is not None else "another task"
        raise _Answer("conflict", f"rack {launch['rack_id']} is busy: {whose} runs there")
    lock.name(launch["key"], launch["run_id"], launch["directory"])
    return lock


class _Task:
    """One task from the fork of its command to the record of its end."""

    def __init__(self, launch: Record) -> None:
        self._launch = launch
        self._directory: str = launch["directory"]
        self._output_path = os.path.join(self._directory, records.OUTPUT)
        fd = os.open(self._output_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._output = BoundedOutput(fd, launch["max_output_bytes"])
        self._ended = records.Draft(self._directory, records.ENDED, reserve=records.ENDED_BYTES)
        adopt_descendants()
        self.command = Command(launch["argv"], launch["environment"], launch["working_directory"])

    def take_key(self) -> Record:
        """Link ``started``, durably; or raise the answer, with nothing executed and nothing left behind."""
        launch = self._launch
        timeout = launch["timeout"]
        started: Record = {
            "key": launch["key"],
            "run_id": launch["run_id"],
            "target_id": launch["target_id"],
            "attempt": launch["attempt"],
            "rack_id": launch["rack_id"],
            "rack_lock": launch["rack_lock"],
            "argv": launch["argv"],
            **processes.here(),
            "supervisor": processes.named(os.getpid()),
            "command": self.command.name,
            "started_at": time.time(),
            "timeout": timeout,
            "timeout_at": None if timeout is None else boottime() + timeout,
            "grace": launch["grace"],
        }
        try:
            draft = records.Draft(self._directory, records.STARTED)
            try:
                draft.fill(started)
                if _told_to_end:
                    raise _Answer("trouble", "its supervisor was told to end before it began")
                # Nothing may come between the clock and the link: what begins after the deadline must not begin.
                if started["boot"] != launch["boot"] or boottime() >= launch["not_after"]:
                    raise _Answer("late", "it could not begin within its deadline")
                is_ours = draft.publish()
            finally:
                draft.discard()
            if not is_ours:
                _look_for_another(launch)
            records.sync(self._directory)
        except BaseException:
            self.command.give_up()
            self._ended.discard()
            raise
        return started

    def run(self, started: Record, wakeup: int) -> None:
        """Wait for the end, and record it."""
        wait = Wait(
            self.command,
            self._output,
            wakeup=wakeup,
            timeout_at=started["timeout_at"],
            grace=started["grace"],
            is_cancelled=self._is_cancelled,
        )
        wait.until_over()
        failure = self.command.failure()
        code = self.command.reap()
        self._output.close()
        status, message = described(started, code, wait.cause, failure)
        last = self._output.last_line(self._output_path)
        parts = [message, last, self._output.trouble]
        self._record(
            {
                "status": status,
                "message": ": ".join(part for part in parts if part),
                "exit_code": code,
                "cause": wait.cause,
                "ended_at": time.time(),
            }
        )

    def _is_cancelled(self) -> bool:
        return _told_to_end or os.path.exists(os.path.join(self._directory, records.CANCEL))

    def _record(self, ended: Record) -> None:
        pause = 0.1
        for left in reversed(range(_RECORDING_TRIES)):
            try:
                self._ended.fill(ended)
                # False when an observer of another view of the processes called it gone: the first record stands.
                self._ended.publish()
                records.sync(self._directory)
            except OSError as error:
                if not left:
                    syslog.syslog(syslog.LOG_ERR, f"task {self._launch['key']} ended unrecorded: {ended}: {error}")
                    return
                time.sleep(pause)
                pause *= 2
            else:
                return


def _report(fd: int, answer: str, message: str) -> None:
    """Tell the dispatcher, if it still listens, and let go of the pipe."""
    try:
        os.write(fd, json.dumps({"answer": answer, "message": message}).encode("ascii") + b"\n")
    except BrokenPipeError:
        return
    finally:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, fd)
        os.close(devnull)


def _notify(watchers: str, run_id: str) -> None:
    """Tell every manager that waits for a change; see ``watch``.  A hint, so nothing that goes wrong matters."""
    try:
        names = os.listdir(watchers)
    except OSError:
        return
    for name in names:
        if name.startswith("."):
            continue
        path = os.path.join(watchers, name)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            # Nobody reads: its manager is gone, and a living one only shows its pipe once it reads.
            _remove(path)
            continue
        try:
            os.write(fd, f"{run_id}\n".encode("ascii"))
        except OSError:
            # Full: its reader has been told of so many that it had better look at all.
            continue
        finally:
            os.close(fd)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return
