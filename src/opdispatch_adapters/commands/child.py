"""The command of one task: forked first, executed only when the gate opens, and swept away with all it left.

The child exists before the key is taken, so that the record of the start can name it; it waits at a pipe (the gate)
and leaves without executing anything when the other end closes.  So there is no instant at which a command
runs that no record names, whenever the supervisor is killed.

Only the supervisor forks here, and it has one thread: nothing of a lock or a thread is carried over.
Standard library only, and little of it.
"""

from __future__ import annotations

import os
import select
import signal
import time

from . import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .output import BoundedOutput
    from .records import Record

CHUNK = 1 << 16
RESET = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What this interpreter ignores or handles; a command expects the defaults."""
_PR_SET_CHILD_SUBREAPER = 36


def boottime() -> float:
    """Seconds since boot, suspended time included: the only clock that other processes share and nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def adopt_descendants() -> None:
    """Become the parent of every descendant whose own parent ends, so that none slips away by a double fork.

    Where this cannot be had, processes that leave the session of the task are not found at its end.
    """
    try:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return


class Command:
    """A forked child in a session of its own; see the module for when it executes."""

    def __init__(self, argv: list[str], environment: dict[str, str], working_directory: str) -> None:
        gate, self._gate = os.pipe()
        self.output, written = os.pipe()
        self._failure, failure = os.pipe()
        os.set_blocking(self.output, False)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _become(argv, environment, working_directory, gate, written, failure)
            finally:
                os._exit(127)
        for fd in (gate, written, failure):
            os.close(fd)
        self.name = processes.named(self.pid)

    def execute(self) -> None:
        """Open the gate."""
        try:
            os.write(self._gate, b"!")
        except BrokenPipeError:
            # Somebody killed the child while it waited; that is seen as its end.
            return
        finally:
            os.close(self._gate)

    def give_up(self) -> None:
        """Close the gate unopened: nothing is executed."""
        os.close(self._gate)
        os.waitpid(self.pid, 0)

    def failure(self) -> str:
        """Why the command could not be executed; empty when it was."""
        return os.read(self._failure, 1000).decode("utf-8", "replace")

    def signal(self, number: signal.Signals) -> None:
        """Signal the group.  Its leader is our child and not reaped yet, so the number is still its own."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            # The child has not made its own session yet, or nothing is left of it.
            os.kill(self.pid, number)
        except PermissionError:
            # Nothing of it is ours to signal any more; it runs on, and the task with it.
            return

    def sweep(self) -> None:
        """Kill what the leader left behind, until nothing of the task is left: its session, and our descendants.

        The leader is a zombie by now and stays one until all is swept, so that nobody else gets its number.
        """
        pause = 0.001
        while True:
            self.signal(signal.SIGKILL)
            left = 0
            for stat in processes.every_process():
                is_child = stat.parent == os.getpid()
                if stat.pid == self.pid or not (is_child or self.pid in (stat.session, stat.group)):
                    continue
                if not stat.is_dead:
                    left += 1
                    _kill(stat.pid)
                elif is_child:
                    os.waitpid(stat.pid, os.WNOHANG)
            if not left:
                return
            time.sleep(pause)
            pause = min(2 * pause, 0.25)

    def reap(self) -> int:
        """The exit status of the leader, as a number of os.waitstatus_to_exitcode."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _kill(pid: int) -> None:
    """Kill a process that was just seen to be of the task; one that is gone or not ours to kill is seen next time."""
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _become(
    argv: list[str], environment: dict[str, str], working_directory: str, gate: int, written: int, failure: int
) -> None:
    """In the child: wait at the gate, then execute.  Never returns to what the parent was doing."""
    for number in RESET:
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    os.setsid()
    devnull = os.open(os.devnull, os.O_RDONLY)
    for source, place in ((devnull, 0), (written, 1), (written, 2)):
        os.dup2(source, place)
    # Above all the other end of the gate, and the locks of the supervisor.
    low, high = sorted((gate, failure))
    os.closerange(3, low)
    os.closerange(low + 1, high)
    os.closerange(high + 1, 1 << 16)
    if os.read(gate, 1) != b"!":
        return
    try:
        os.chdir(working_directory)
        os.execve(  # noqa: S606 (no shell is the point)
            argv[0].encode(),
            [item.encode() for item in argv],
            {name.encode(): value.encode() for name, value in environment.items()},
        )
    except OSError as error:
        os.write(failure, f"cannot execute {argv[0]}: {error.strerror}".encode())


class Wait:
    """Waits for the leader to end, and ends it when it must: after its time, or when asked.

    ``cause`` is empty, ``timeout`` or ``cancel``: what made us end it, if anything did.
    """

    def __init__(
        self,
        command: Command,
        output: BoundedOutput,
        *,
        wakeup: int,
        timeout_at: float | None,
        grace: float,
        is_cancelled: Callable[[], bool],
    ) -> None:
        self._command = command
        self._output = output
        self._wakeup = wakeup
        self._timeout_at = timeout_at
        self._grace = grace
        self._is_cancelled = is_cancelled
        self._kill_at: float | None = None
        self.cause = ""

    def until_over(self) -> None:
        """Return once the leader has ended, not reaped yet, with its output drained and its leavings swept."""
        leader = os.pidfd_open(self._command.pid)
        poll = select.poll()
        for fd in (leader, self._wakeup, self._command.output):
            poll.register(fd, select.POLLIN)
        while True:
            self._end_if_due()
            ready = {fd for fd, _ in poll.poll(1000 * self._patience())}
            if self._wakeup in ready:
                os.read(self._wakeup, CHUNK)
            if self._command.output in ready and not self._drain_once():
                poll.unregister(self._command.output)
            if leader in ready:
                break
        os.close(leader)
        self._command.sweep()
        # What is in the pipe now is all that will come; another holder of its end can only be one out of our reach.
        while self._drain_once():
            continue

    def _end_if_due(self) -> None:
        now = boottime()
        if not self.cause:
            if self._is_cancelled():
                self.cause = "cancel"
            elif self._timeout_at is not None and now >= self._timeout_at:
                self.cause = "timeout"
            if self.cause:
                self._command.signal(signal.SIGTERM)
                self._kill_at = now + self._grace
        if self._kill_at is not None and now >= self._kill_at:
            self._command.signal(signal.SIGKILL)
            # Once more later: one that cannot be killed now (it waits for a device) may be killable then.
            self._kill_at = now + 5.0

    def _patience(self) -> float:
        """Seconds until something is due.  At most 5: a cancellation from another pid namespace brings no signal."""
        due = [at for at in (self._kill_at, None if self.cause else self._timeout_at) if at is not None]
        return max(0.0, min([5.0, *(at - boottime() for at in due)]))

    def _drain_once(self) -> bool:
        """Take what is in the pipe, at most one chunk; False when there is nothing more."""
        try:
            data = os.read(self._command.output, CHUNK)
        except BlockingIOError:
            return False
        if data:
            self._output.take(data)
        return bool(data)


def described(record: Record, code: int, cause: str, failure: str) -> tuple[str, str]:
    """Status and message of a task whose command ended with this code, for this cause."""
    if failure:
        return "failed", failure
    how = f"exit code {code}" if code >= 0 else f"killed by signal {-code} ({_signal_name(-code)})"
    if cause == "cancel":
        return "terminated", f"cancelled: {how}"
    if cause == "timeout":
        return "failed", f"timed out after {record['timeout']:g} s: {how}"
    return ("completed" if code == 0 else "failed"), how


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
