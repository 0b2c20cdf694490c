"""The parts of local commands that need no task: settings, bounded output, orphans, records, names of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from opdispatch.errors import InvalidInput
from opdispatch_adapters.commands import CommandSettings, condition, processes, records
from opdispatch_adapters.commands.child import described
from opdispatch_adapters.commands.orphans import signal_due
from opdispatch_adapters.commands.output import BoundedOutput, printable
from opdispatch_adapters.commands.processes import Stat
from opdispatch_adapters.commands.racks import RackLock


@given(chunks=st.lists(st.binary(max_size=3000), max_size=12), max_bytes=st.integers(1024, 4096))
@example(chunks=[b"x" * 1024], max_bytes=1024)
@example(chunks=[b"x" * 1025], max_bytes=1024)
def test_output_is_whole_when_it_fits_and_its_two_ends_when_not(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], max_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("output") / "output"
    output = BoundedOutput(os.open(path, os.O_WRONLY | os.O_CREAT), max_bytes)
    written = b"".join(chunks)

    for chunk in chunks:
        output.take(chunk)
    output.close()

    kept = path.read_bytes()
    assert len(kept) <= max_bytes
    if kept != written:
        assert len(written) > max_bytes - 64
        head, marker, tail = kept.partition(b"\n[... ")
        assert marker
        count, _, last = tail.partition(b" bytes left out ...]\n")
        assert written.startswith(head)
        assert written.endswith(last)
        assert len(head) + int(count) + len(last) == len(written)


def test_output_that_cannot_be_written_is_lost_and_said_so() -> None:
    output = BoundedOutput(os.open("/dev/full", os.O_WRONLY), 1024)

    output.take(b"something\n")
    output.take(b"more\n")
    output.close()

    assert output.trouble == "output was lost: No space left on device"


@pytest.mark.parametrize(
    ("written", "last"),
    [(b"", ""), (b"\n \n", ""), (b"one", "one"), (b"one\ntwo\n\n", "two"), (b"a\rb\n", "a\\x0db")],
)
def test_the_last_line_is_the_last_that_is_not_blank(tmp_path: Path, written: bytes, last: str) -> None:
    path = tmp_path / "output"
    output = BoundedOutput(os.open(path, os.O_WRONLY | os.O_CREAT), 1024)
    output.take(written)
    output.close()

    assert output.last_line(str(path)) == last


@given(st.binary(max_size=5000))
def test_a_line_for_people_is_printable_and_short(line: bytes) -> None:
    text = printable(line)

    assert text.isprintable()
    assert len(text) <= 300


@pytest.mark.parametrize(
    ("now", "timeout_at", "cancelled_at", "due"),
    [
        (10.0, None, None, None),
        (10.0, 11.0, None, None),
        (10.0, 10.0, None, signal.SIGTERM),
        (10.0, None, 9.0, signal.SIGTERM),
        (10.0, None, 5.0, signal.SIGKILL),
        (10.0, 4.0, 9.0, signal.SIGKILL),
        (10.0, 99.0, 9.0, signal.SIGTERM),
    ],
)
def test_an_orphan_is_asked_to_end_and_killed_a_grace_time_later(
    now: float, timeout_at: float | None, cancelled_at: float | None, due: signal.Signals | None
) -> None:
    assert signal_due(now, timeout_at, cancelled_at, grace=5.0) is due


@pytest.mark.parametrize(
    ("code", "cause", "failure", "expected"),
    [
        (0, "", "", ("completed", "exit code 0")),
        (2, "", "", ("failed", "exit code 2")),
        (-9, "", "", ("failed", "killed by signal 9 (SIGKILL)")),
        (-34, "", "", ("failed", "killed by signal 34 (SIGRTMIN)")),
        (-35, "", "", ("failed", "killed by signal 35 (unknown)")),
        (0, "cancel", "", ("terminated", "cancelled: exit code 0")),
        (0, "timeout", "", ("failed", "timed out after 1.5 s: exit code 0")),
        (127, "", "cannot execute /x: no", ("failed", "cannot execute /x: no")),
    ],
)
def test_how_a_command_ended_is_told_from_its_code_and_the_cause(
    code: int, cause: str, failure: str, expected: tuple[str, str]
) -> None:
    assert described({"timeout": 1.5}, code, cause, failure) == expected


def test_a_process_is_read_whatever_it_calls_itself() -> None:
    fields = b"S 7 8 9 " + b"0 " * 15 + b"4242 0 0"

    stat = Stat(5, b"5 (a) b) S ( ) " + fields)

    assert (stat.state, stat.parent, stat.group, stat.session, stat.start) == ("S", 7, 8, 9, 4242)


def test_a_process_is_alive_until_it_ends_and_is_signalled_only_by_its_full_name() -> None:
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"])
    name = processes.named(child.pid)

    assert processes.is_alive(name)
    assert not processes.signal_exactly({**name, "start": name["start"] + 1}, signal.SIGKILL)
    assert processes.is_alive(name)
    assert processes.signal_exactly(name, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.is_alive(name), "a process that waits to be reaped is no longer alive"
    child.wait()
    assert not processes.signal_exactly(name, signal.SIGKILL)
    assert processes.session_of(name) == []


def test_a_record_is_written_once(tmp_path: Path) -> None:
    directory = str(tmp_path)

    assert records.read(directory, "started") is None
    assert records.write_once(directory, "started", {"by": 1})
    assert not records.write_once(directory, "started", {"by": 2})

    record = records.read(directory, "started")
    assert record is not None
    assert record["by"] == 1
    assert os.listdir(directory) == ["started"]


def test_a_record_with_room_kept_is_no_longer_than_what_is_in_it(tmp_path: Path) -> None:
    draft = records.Draft(str(tmp_path), "ended", reserve=4096)
    draft.fill({"message": "a longer one"})
    draft.fill({"message": "short"})
    assert draft.publish()

    record = records.read(str(tmp_path), "ended")
    assert record is not None
    assert record["message"] == "short"


@given(st.binary(max_size=200))
@example(b"[" * 100_000)
@example(b'{"format": 2}')
@example(b'{"format": 1}')
def test_any_bytes_are_a_record_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    directory = tmp_path_factory.mktemp("records")
    (directory / "started").write_bytes(data)

    try:
        record = records.read(str(directory), "started")
    except records.UnreadableError:
        return

    assert record is not None
    assert record["format"] == 1


def test_an_end_that_is_recorded_between_two_looks_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {"pid": os.getpid(), "start": -1}
    started = {"key": "k", "supervisor": gone, "command": gone, **processes.here()}
    records.write_once(str(tmp_path), records.STARTED, started)
    assert condition.condition_of(str(tmp_path)).name == condition.GONE

    def ends_meanwhile(leader: object) -> list[Stat]:
        records.write_once(str(tmp_path), records.ENDED, {"status": "completed"})
        return []

    monkeypatch.setattr(processes, "session_of", ends_meanwhile)

    assert condition.condition_of(str(tmp_path)).name == condition.ENDED


def test_a_rack_is_held_by_one_and_names_its_last_holder(tmp_path: Path) -> None:
    first, second = RackLock(str(tmp_path / "rack")), RackLock(str(tmp_path / "rack"))

    assert first.take()
    assert first.holder() is None
    first.name("k" * 200, "run", "/tasks/k")
    assert not second.take()
    first.close()
    first.close()

    assert second.take()
    assert second.holder() == {"key": "k" * 200, "run_id": "run", "directory": "/tasks/k"}
    second.name("k2", "run", "/tasks/k2")
    assert second.holder() == {"key": "k2", "run_id": "run", "directory": "/tasks/k2"}
    second.close()


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"work_directory": "relative"}, "work_directory"),
        ({"timeout": timedelta(0)}, "timeout"),
        ({"cancel_grace": timedelta(seconds=-1)}, "cancel_grace"),
        ({"max_output_bytes": 10}, "max_output_bytes"),
        ({"parallelism": 0}, "parallelism"),
        ({"capacity": 0}, "capacity"),
        ({"command_directory": "."}, "command_directory"),
        ({"environment": {"OPDISPATCH_KEY": "x"}}, "environment"),
        ({"environment": {"A=B": "x"}}, "environment"),
        ({"environment": {"A": "x\0"}}, "environment"),
        ({"command": ["/bin/true", "x{rack_id}"]}, "command"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(settings: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{place}"):
        CommandSettings(**{"work_directory": "/srv/commands", "command": ["/bin/true"], **settings})


def test_a_timeout_and_a_capacity_may_be_none() -> None:
    settings = CommandSettings(work_directory="/srv/commands", command=["/bin/true"], timeout=None, capacity=None)

    assert (settings.timeout, settings.capacity) == (None, None)


def test_a_process_that_is_hidden_from_us_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    real = processes.stat_of

    def hidden(pid: int) -> Stat | None:
        if pid != os.getpid():
            raise PermissionError(1, "Operation not permitted")
        return real(pid)

    monkeypatch.setattr(processes, "stat_of", hidden)

    assert [stat.pid for stat in processes.every_process()] == [os.getpid()]
