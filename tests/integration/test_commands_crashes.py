"""What stays true of local commands when supervisors, dispatchers and disks fail: no key twice, no rack shared."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import opdispatch_adapters
from opdispatch.identity import TaskId
from opdispatch.observation import (
    CancellationRefused,
    SubmissionAbsent,
    SubmissionAccepted,
    SubmissionConflicted,
    SubmissionUnknown,
)
from opdispatch.task import TaskStatus
from opdispatch_adapters.commands import CommandTaskManager, records

from .commands_kit import (
    LOOKED_AT,
    a_manager,
    a_request,
    a_script,
    claim_of,
    directory_of,
    end_all,
    ended,
    kill_supervisor,
    lives,
    over_as,
    pid_in,
    record_of,
    seen,
    start,
    submit,
    task_of,
)
from .waiting import eventually

SOURCE = Path(opdispatch_adapters.__file__).parent.parent
WITHOUT_RESULT = (TaskStatus.FAILED, "ended without a result")


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "work"
    end_all(tmp_path / "work")


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def a_failing_manager(work: Path, marks: Path, what: str, *lines: str) -> CommandTaskManager:
    """A manager whose supervisors fail in one way, and whose command leaves a mark for each start."""
    return a_manager(
        work,
        a_script("record('starts')", *lines),
        supervisor=(str(Path(__file__).with_name("failing_supervisor.py")), str(SOURCE), what, str(marks)),
        environment={"MARKS": str(marks)},
    )


def a_sound_manager(work: Path, marks: Path, *lines: str, **settings: Any) -> CommandTaskManager:
    """A manager whose command leaves a mark for each start."""
    return a_manager(work, a_script("record('starts')", *lines), environment={"MARKS": str(marks)}, **settings)


def starts(marks: Path) -> int:
    """How often the command was executed."""
    path = marks / "starts"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_supervisor_that_dies_before_it_takes_the_key_began_nothing(work: Path, marks: Path) -> None:
    failing = a_failing_manager(work, marks, "dies before it takes the key")
    request = a_request()

    assert isinstance(submit(failing, request), SubmissionUnknown)

    assert isinstance(failing.observe([claim_of(request)], LOOKED_AT)[0], SubmissionAbsent)
    sound = a_sound_manager(work, marks)
    assert over_as(sound, start(sound, request)) is TaskStatus.COMPLETED
    assert starts(marks) == 1


def test_a_supervisor_that_dies_after_it_took_the_key_leaves_a_task_that_failed(work: Path, marks: Path) -> None:
    failing = a_failing_manager(work, marks, "dies after it took the key")

    request = start(failing, a_request())

    end = ended(failing, request)
    assert (end.status, end.message) == WITHOUT_RESULT
    assert not lives(record_of(work, request)["command"]["pid"])
    assert isinstance(submit(a_sound_manager(work, marks), request), SubmissionAccepted)
    assert starts(marks) == 0


def test_a_supervisor_that_dies_after_it_executed_leaves_a_task_that_goes_on(work: Path, marks: Path) -> None:
    failing = a_failing_manager(work, marks, "dies after it executed", "park()")
    request = start(failing, a_request(run="one"))
    eventually(lambda: starts(marks))
    sound = a_sound_manager(work, marks)

    assert seen(sound, request).status is TaskStatus.RUNNING
    answer = submit(sound, a_request(run="two"))
    assert isinstance(answer, SubmissionConflicted)
    assert request.key in answer.message
    assert isinstance(submit(sound, request), SubmissionAccepted)

    sound.cancel([task_of(request)])

    end = ended(sound, request)
    assert (end.status, end.message) == WITHOUT_RESULT
    assert starts(marks) == 1


def test_a_supervisor_that_dies_before_it_records_the_end_leaves_no_result(work: Path, marks: Path) -> None:
    failing = a_failing_manager(work, marks, "dies before it records the end")
    request = start(failing, a_request(run="one"))

    end = ended(failing, request)

    assert (end.status, end.message) == WITHOUT_RESULT
    assert record_of(work, request, "ended")["cause"] == "gone"
    sound = a_sound_manager(work, marks)
    assert over_as(sound, start(sound, a_request(run="two"))) is TaskStatus.COMPLETED


def test_a_supervisor_that_dies_after_it_recorded_the_end_loses_nothing(work: Path, marks: Path) -> None:
    failing = a_failing_manager(work, marks, "dies after it recorded the end")

    assert over_as(failing, start(failing, a_request())) is TaskStatus.COMPLETED


def test_a_supervisor_that_stalls_beyond_its_deadline_never_begins(work: Path, marks: Path) -> None:
    failing = a_failing_manager(work, marks, "stalls before it takes the key")
    request = a_request()

    assert isinstance(submit(failing, request, timedelta(seconds=1)), SubmissionUnknown)
    eventually((marks / "left").exists)

    assert isinstance(failing.observe([claim_of(request)], LOOKED_AT)[0], SubmissionAbsent)
    assert starts(marks) == 0


def test_a_full_disk_at_the_start_is_no_failure_of_the_target(work: Path, marks: Path) -> None:
    failing = a_failing_manager(work, marks, "finds the disk full at the start")
    request = a_request()

    answer = submit(failing, request)

    assert isinstance(answer, SubmissionUnknown)
    assert "No space left on device" in answer.message
    eventually((marks / "left").exists)
    assert starts(marks) == 0
    assert sorted(path.name for path in directory_of(work, request).iterdir()) == ["output"]


def test_a_full_disk_at_the_end_leaves_no_result(work: Path, marks: Path) -> None:
    failing = a_failing_manager(work, marks, "finds the disk full at the end")
    request = start(failing, a_request())
    eventually((marks / "left").exists)

    end = ended(failing, request)

    assert (end.status, end.message) == WITHOUT_RESULT


def test_on_a_full_disk_a_task_is_told_to_end_while_its_supervisor_lives(
    work: Path, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    manager = a_manager(work, a_script("park()"), environment={"MARKS": str(marks)})
    supervised, orphan = start(manager, a_request("a")), start(manager, a_request("b"))
    kill_supervisor(work, orphan)

    with monkeypatch.context() as patch:
        patch.setattr(records, "write_once", full)
        refused = manager.cancel([task_of(supervised), task_of(orphan)])
    again = manager.cancel([task_of(orphan)])

    assert [type(one) for one in refused] == [CancellationRefused]
    assert "No space left on device" in str(refused)
    assert list(again) == []
    assert over_as(manager, supervised) is TaskStatus.TERMINATED
    assert ended(manager, orphan).status.is_over


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_dispatcher_starts_no_key_twice_and_adopts_what_runs(work: Path, marks: Path, seed: int) -> None:
    racks = [f"rack {number}" for number in range(10)]
    command = a_script("record(os.environ['OPDISPATCH_KEY'])", "time.sleep(0.2)")
    dispatcher = (
        "import sys, json",
        f"sys.path[:0] = {[str(SOURCE), str(SOURCE.parent)]!r}",
        "from pathlib import Path",
        "from tests.integration.commands_kit import a_manager, a_request, DEADLINE",
        f"manager = a_manager(Path({str(work)!r}), {command!r}, environment={{'MARKS': {str(marks)!r}}})",
        "print('ready', flush=True)",
        f"manager.submit([a_request(rack) for rack in {racks!r}], DEADLINE)",
    )
    process = subprocess.Popen([sys.executable, "-c", "\n".join(dispatcher)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        threading.Event().wait(random.Random(seed).uniform(0, 0.4))
        process.kill()
        process.wait()

    heir = a_manager(work, command, environment={"MARKS": str(marks)})
    requests = [a_request(rack) for rack in racks]
    answers = heir.submit(requests, timedelta(seconds=30))

    assert {type(answer) for answer in answers} == {SubmissionAccepted}
    assert {over_as(heir, request) for request in requests} == {TaskStatus.COMPLETED}
    assert Counter(path.name for path in marks.iterdir()) == Counter(request.key for request in requests)
    assert {path.read_text() for path in marks.iterdir()} == {"\n"}


def test_supervisors_killed_at_random_start_no_key_twice(work: Path, marks: Path) -> None:
    chance = random.Random(7)
    manager = a_manager(work, a_script("record(os.environ['OPDISPATCH_KEY'])"), environment={"MARKS": str(marks)})
    requests = [a_request(f"rack {number}") for number in range(12)]
    started: list[object] = []
    pause = threading.Event()
    for request in requests:
        starter = threading.Thread(target=lambda it=request: started.append(submit(manager, it)))
        starter.start()
        pause.wait(chance.uniform(0, 0.08))
        for pid in supervisors_of(work):
            os.kill(pid, signal.SIGKILL)
        starter.join()

    answers = [submit(manager, request) for request in requests]

    assert {type(answer) for answer in answers} == {SubmissionAccepted}
    for request in requests:
        end = ended(manager, request)
        assert end.status is TaskStatus.COMPLETED or (end.status, end.message) == WITHOUT_RESULT
    assert {path.read_text() for path in marks.iterdir()} <= {"\n"}


def supervisors_of(work: Path) -> list[int]:
    """The processes that have a lock file of this work directory open."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            links = {os.readlink(f"/proc/{name}/fd/{fd}") for fd in os.listdir(f"/proc/{name}/fd")}
        except OSError:
            continue
        if any(link.startswith(str(work)) for link in links):
            found.append(int(name))
    return found


def test_an_orphan_that_ignores_sigterm_is_killed_after_the_grace_time(work: Path, marks: Path) -> None:
    manager = a_sound_manager(
        work,
        marks,
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "record('ready')",
        "park()",
        cancel_grace=timedelta(milliseconds=200),
    )
    request = start(manager, a_request())
    eventually((marks / "ready").exists)
    kill_supervisor(work, request)

    manager.cancel([task_of(request)])
    assert lives(record_of(work, request)["command"]["pid"])

    end = ended(manager, request)
    assert (end.status, end.message) == WITHOUT_RESULT
    assert not lives(record_of(work, request)["command"]["pid"])


def test_an_orphan_is_ended_when_its_time_is_over(work: Path, marks: Path) -> None:
    manager = a_sound_manager(work, marks, "park()", timeout=timedelta(seconds=1))
    request = start(manager, a_request())
    kill_supervisor(work, request)
    assert seen(manager, request).status is TaskStatus.RUNNING

    end = ended(manager, request)

    assert (end.status, end.message) == WITHOUT_RESULT


def test_what_an_orphan_left_behind_keeps_its_rack_busy_until_it_is_swept_away(work: Path, marks: Path) -> None:
    lines = (
        "if os.fork() == 0:",
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "    record('pid', str(os.getpid()))",
        "park()",
    )
    manager = a_sound_manager(work, marks, *lines)
    request = start(manager, a_request(run="one"))
    left = pid_in(marks / "pid")
    kill_supervisor(work, request)
    leader = record_of(work, request)["command"]["pid"]
    os.kill(leader, signal.SIGKILL)
    eventually(lambda: not lives(leader))

    assert isinstance(submit(manager, a_request(run="two")), SubmissionConflicted)

    end = ended(manager, request)
    assert (end.status, end.message) == WITHOUT_RESULT
    assert not lives(left)
    other = start(manager, a_request(run="two"))
    manager.cancel([task_of(other)])
    over_as(manager, other)


def test_a_process_that_got_the_number_of_an_orphan_is_left_alone(work: Path, marks: Path) -> None:
    manager = a_sound_manager(work, marks, "park()")
    request = start(manager, a_request())
    kill_supervisor(work, request)
    record = dict(record_of(work, request))
    command = record["command"]["pid"]
    # As if the number had passed to a younger process: the same number, another start time.
    record["command"]["start"] -= 1
    (directory_of(work, request) / "started").write_text(json.dumps(record))

    manager.cancel([task_of(request)])

    end = ended(manager, request)
    assert (end.status, end.message) == WITHOUT_RESULT
    assert lives(command)
    os.kill(command, signal.SIGKILL)


def test_a_task_of_an_earlier_boot_ended_without_a_result(work: Path, marks: Path) -> None:
    manager = a_sound_manager(work, marks, "park()")
    request = start(manager, a_request())
    path = directory_of(work, request) / "started"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "boot": "an earlier one"}))

    end = ended(manager, request)

    assert (end.status, end.message) == WITHOUT_RESULT
    path.write_text(json.dumps(record))
    os.kill(record["supervisor"]["pid"], signal.SIGTERM)
    eventually(lambda: not lives(record["supervisor"]["pid"]))


def test_a_task_of_another_pid_namespace_lives_as_long_as_it_holds_its_rack(work: Path, marks: Path) -> None:
    manager = a_sound_manager(work, marks, "park()")
    request = start(manager, a_request())
    path = directory_of(work, request) / "started"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "namespace": "pid:[1]"}))

    assert seen(manager, request).status is TaskStatus.RUNNING
    manager.cancel([task_of(request)])

    # No signal can be sent from here; the supervisor finds the record of the cancellation by itself.
    assert over_as(manager, request) is TaskStatus.TERMINATED


def test_a_rack_is_free_after_a_task_of_another_pid_namespace_that_is_gone(work: Path, marks: Path) -> None:
    manager = a_sound_manager(work, marks)
    request = start(manager, a_request(run="one"))
    over_as(manager, request)
    eventually(lambda: not lives(record_of(work, request)["supervisor"]["pid"]))
    path = directory_of(work, request) / "started"
    path.write_text(json.dumps({**record_of(work, request), "namespace": "pid:[1]"}))
    (directory_of(work, request) / "ended").unlink()

    other = start(manager, a_request(run="two"))

    assert over_as(manager, other) is TaskStatus.COMPLETED
    end = ended(manager, request)
    assert (end.status, end.message) == WITHOUT_RESULT


def test_a_signal_to_the_supervisor_ends_the_command(work: Path, marks: Path) -> None:
    manager = a_sound_manager(work, marks, "park()")
    request = start(manager, a_request())

    os.kill(record_of(work, request)["supervisor"]["pid"], signal.SIGTERM)

    assert over_as(manager, request) is TaskStatus.TERMINATED


def test_a_second_manager_sees_reads_and_cancels_what_the_first_began(work: Path, marks: Path) -> None:
    first = a_sound_manager(work, marks, "print('hello', flush=True)", "park()")
    request = start(first, a_request())
    first.close()
    second = a_sound_manager(work, marks)

    assert seen(second, request).status is TaskStatus.RUNNING
    assert eventually(lambda: second.output_of(TaskId(request.key))) == b"hello\n"
    second.cancel([task_of(request)])

    assert over_as(second, request) is TaskStatus.TERMINATED
