"""What a command task manager answers while all goes well, and what a command finds around it."""

from __future__ import annotations

import json
import os
import queue
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from opdispatch.errors import InvalidInput, NotFound, Unavailable
from opdispatch.identity import RunId, TaskId
from opdispatch.observation import (
    SubmissionAbsent,
    SubmissionAccepted,
    SubmissionConflicted,
    SubmissionRefused,
    SubmissionUnknown,
    TaskMissing,
)
from opdispatch.task import TaskStatus
from opdispatch_adapters.commands import CommandSettings

from .commands_kit import (
    LOOKED_AT,
    a_manager,
    a_request,
    a_script,
    as_port,
    claim_of,
    directory_of,
    end_all,
    ended,
    lives,
    open_files_of,
    over_as,
    pid_in,
    record_of,
    seen,
    start,
    submit,
    task_of,
)
from .waiting import eventually


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "work"
    end_all(tmp_path / "work")


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def test_a_command_that_exits_with_0_completes_its_task(work: Path) -> None:
    manager = a_manager(work, ["sh", "-c", "echo first; echo last"])
    request = start(manager, a_request())

    end = ended(manager, request)

    assert (end.status, end.message) == (TaskStatus.COMPLETED, "exit code 0: last")
    assert end.looked_at == LOOKED_AT


def test_it_is_a_task_manager_to_the_dispatcher(work: Path) -> None:
    assert as_port(a_manager(work, ["true"], capacity=7)).capacity == 7


def test_a_command_that_exits_with_another_code_fails_its_task(work: Path) -> None:
    manager = a_manager(work, ["sh", "-c", "echo 'no such rack' >&2; exit 3"])
    request = start(manager, a_request())

    assert (ended(manager, request).status, ended(manager, request).message) == (
        TaskStatus.FAILED,
        "exit code 3: no such rack",
    )


def test_a_command_that_is_killed_fails_its_task(work: Path) -> None:
    manager = a_manager(work, ["sh", "-c", "kill -9 $$"])

    end = ended(manager, start(manager, a_request()))

    assert (end.status, end.message) == (TaskStatus.FAILED, "killed by signal 9 (SIGKILL)")


def test_a_command_that_cannot_be_executed_fails_its_task(work: Path, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    manager = a_manager(work, [str(program)])

    end = ended(manager, start(manager, a_request()))

    assert (end.status, end.message) == (
        TaskStatus.FAILED,
        f"cannot execute {program}: No such file or directory",
    )


def test_the_same_key_is_started_once_however_often_it_is_submitted(work: Path, marks: Path) -> None:
    manager = a_manager(work, a_script("record('starts')"), environment={"MARKS": str(marks)})
    request = a_request()

    answers = [submit(manager, request), submit(manager, request)]
    over_as(manager, request)
    answers.append(submit(manager, request))

    assert all(isinstance(answer, SubmissionAccepted) for answer in answers)
    assert (marks / "starts").read_text() == "\n"


def test_of_many_starts_of_one_key_at_the_same_time_one_begins(work: Path, marks: Path) -> None:
    manager = a_manager(work, a_script("record('starts')", "park()"), environment={"MARKS": str(marks)}, parallelism=8)
    request = a_request()

    answers = manager.submit([request] * 8, timedelta(seconds=20))

    assert all(isinstance(answer, SubmissionAccepted) for answer in answers), answers
    eventually((marks / "starts").exists)
    assert (marks / "starts").read_text() == "\n"
    manager.cancel([task_of(request)])
    over_as(manager, request)


def test_many_tasks_begin_in_one_call_and_are_answered_in_order(work: Path) -> None:
    manager = a_manager(work, ["true"])
    requests = [a_request(f"rack {number}") for number in range(12)]

    answers = manager.submit(requests, timedelta(seconds=30))

    assert [getattr(answer, "task_id", answer) for answer in answers] == [request.key for request in requests]
    assert {over_as(manager, request) for request in requests} == {TaskStatus.COMPLETED}


def test_a_rack_with_a_live_task_is_a_conflict_that_names_it(work: Path) -> None:
    manager = a_manager(work, a_script("park()"))
    holder = start(manager, a_request(run="one"))

    answer = submit(manager, a_request(run="two"))

    assert isinstance(answer, SubmissionConflicted)
    assert holder.key in answer.message
    assert str(holder.run_id) in answer.message
    manager.cancel([task_of(holder)])
    assert over_as(manager, holder) is TaskStatus.TERMINATED


def test_a_rack_is_free_once_its_task_is_over(work: Path) -> None:
    manager = a_manager(work, ["true"])
    over_as(manager, start(manager, a_request(run="one")))

    second = a_request(run="two")

    # The record of the end is there a moment before the lock of the rack is let go.
    eventually(lambda: submit(manager, second), until=lambda answer: isinstance(answer, SubmissionAccepted))
    assert over_as(manager, second) is TaskStatus.COMPLETED


def test_a_conflict_leaves_the_key_free_for_a_later_start(work: Path) -> None:
    manager = a_manager(work, a_script("park()"))
    holder, other = start(manager, a_request(run="one")), a_request(run="two")
    assert isinstance(submit(manager, other), SubmissionConflicted)
    assert isinstance(manager.observe([claim_of(other)], LOOKED_AT)[0], SubmissionAbsent)
    manager.cancel([task_of(holder)])
    over_as(manager, holder)

    answer = eventually(lambda: submit(manager, other), until=lambda it: not isinstance(it, SubmissionConflicted))

    assert isinstance(answer, SubmissionAccepted)
    manager.cancel([task_of(other)])
    over_as(manager, other)


def test_a_task_that_was_never_begun_is_missing(work: Path) -> None:
    manager = a_manager(work, ["true"])
    request = a_request()

    (observation,) = manager.observe([task_of(request)], LOOKED_AT)

    assert observation == TaskMissing(target_id=request.target_id, task_id=TaskId(request.key), looked_at=LOOKED_AT)


@pytest.mark.parametrize("name", ["../../etc", "", "a/b", ".hidden", "x" * 300, "nul\0"])
def test_a_task_id_that_cannot_be_ours_is_missing_and_has_no_output(work: Path, name: str) -> None:
    manager = a_manager(work, ["true"])
    request = a_request(key=name)

    assert isinstance(manager.observe([task_of(request)], LOOKED_AT)[0], TaskMissing)
    assert list(manager.cancel([task_of(request)])) == []
    assert isinstance(submit(manager, request), SubmissionRefused)
    with pytest.raises(NotFound):
        manager.output_of(TaskId(name))


def test_an_unanswered_claim_whose_task_began_is_found_by_its_key(work: Path) -> None:
    manager = a_manager(work, ["true"])
    request = start(manager, a_request(fence=4))

    (observation,) = manager.observe([claim_of(request, bar=True)], LOOKED_AT)

    assert observation == SubmissionAccepted(
        target_id=request.target_id, attempt=1, fence=4, task_id=TaskId(request.key)
    )
    over_as(manager, request)


def test_looking_for_a_key_does_not_bar_it_unless_asked(work: Path) -> None:
    manager = a_manager(work, ["true"])
    request = a_request()

    (absent,) = manager.observe([claim_of(request)], LOOKED_AT)

    assert isinstance(absent, SubmissionAbsent)
    assert not absent.barred
    assert over_as(manager, start(manager, request)) is TaskStatus.COMPLETED


def test_a_barred_key_never_begins_and_is_no_task(work: Path, marks: Path) -> None:
    manager = a_manager(work, a_script("record('starts')"), environment={"MARKS": str(marks)})
    request = a_request()

    looks = [
        *manager.observe([claim_of(request, bar=True)], LOOKED_AT),
        *manager.observe([claim_of(request)], LOOKED_AT),
    ]

    assert [isinstance(look, SubmissionAbsent) and look.barred for look in looks] == [True, True]
    answer = submit(manager, request)
    assert isinstance(answer, SubmissionRefused)
    assert "barred" in answer.message
    assert isinstance(manager.observe([task_of(request)], LOOKED_AT)[0], TaskMissing)
    assert not (marks / "starts").exists()


def test_a_bar_and_a_start_at_the_same_time_agree_on_who_was_first(work: Path, marks: Path) -> None:
    manager = a_manager(work, a_script("record(os.environ['OPDISPATCH_RACK_ID'])"), environment={"MARKS": str(marks)})
    for number in range(10):
        request = a_request(f"rack {number}")
        answers: list[object] = []
        starter = threading.Thread(target=lambda it=request, to=answers: to.append(submit(manager, it)))
        starter.start()
        pause = threading.Event()
        pause.wait(number * 0.006)
        (look,) = manager.observe([claim_of(request, bar=True)], LOOKED_AT)
        starter.join()

        if isinstance(look, SubmissionAbsent):
            assert look.barred
            assert isinstance(answers[0], SubmissionRefused)
            assert not (marks / str(request.rack_id)).exists()
        else:
            assert isinstance(look, SubmissionAccepted)
            assert isinstance(answers[0], SubmissionAccepted)
            assert over_as(manager, request) is TaskStatus.COMPLETED


def test_a_command_finds_a_small_and_fixed_surrounding(
    work: Path, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_DISPATCHER", "canary")
    lines = (
        "record('environment', repr(sorted(os.environ)))",
        "record('umask', oct(os.umask(0)))",
        "record('where', os.getcwd())",
        "record('input', repr(sys.stdin.read()))",
        "record('files', repr(sorted(os.listdir('/proc/self/fd'))))",
        "record('session', repr(os.getsid(0) == os.getpgid(0) == os.getpid()))",
    )
    manager = a_manager(work, a_script(*lines), environment={"MARKS": str(marks)})
    with open(os.devnull, "rb") as file:
        os.set_inheritable(file.fileno(), True)
        request = start(manager, a_request())
        assert over_as(manager, request) is TaskStatus.COMPLETED

    def told(name: str) -> str:
        return (marks / name).read_text().strip()

    facts = ("ATTEMPT", "KEY", "OPERATION_CODE", "OPERATION_TYPE", "RACK_ID", "RACK_NAME", "RUN_ID", "TARGET_ID")
    assert told("environment") == repr(["LANG", "MARKS", *(f"OPDISPATCH_{fact}" for fact in facts), "PATH"])
    assert told("umask") == "0o77"
    assert told("where") == "/"
    assert told("input") == "''"
    # The fourth is the directory that is being listed.
    assert told("files") == repr(["0", "1", "2", "3"])
    assert told("session") == "True"


def test_a_command_ignores_no_signal_that_its_supervisor_does(work: Path) -> None:
    manager = a_manager(work, ["sed", "-n", "s/^SigIgn://p", "/proc/self/status"])
    request = start(manager, a_request())
    over_as(manager, request)

    ignored = int(manager.output_of(TaskId(request.key)), 16)

    numbers = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    assert [number for number in numbers if ignored & 1 << (number - 1)] == []


def test_a_supervisor_keeps_nothing_of_the_dispatcher_open(work: Path, tmp_path: Path) -> None:
    manager = a_manager(work, a_script("park()"))
    kept = tmp_path / "database"
    with open(kept, "wb") as file:
        os.set_inheritable(file.fileno(), True)
        request = start(manager, a_request())

        supervisor = record_of(work, request)["supervisor"]["pid"]
        command = record_of(work, request)["command"]["pid"]

        assert str(kept) not in open_files_of(supervisor) | open_files_of(command)
        assert os.getsid(supervisor) == supervisor
        assert os.getsid(command) == command
    manager.cancel([task_of(request)])
    over_as(manager, request)


def test_the_request_file_holds_components_and_operation(work: Path, tmp_path: Path) -> None:
    manager = a_manager(work, ["cat", "{request_file}"])
    request = start(manager, a_request(payload='{"version": "1.10"}'))
    over_as(manager, request)

    document = json.loads(manager.output_of(TaskId(request.key)))

    assert document["components"] == {"compute": [str(request.components["compute"][0])]}
    assert document["payload"] == '{"version": "1.10"}'
    assert document["rack_id"] == str(request.rack_id)


def test_nobody_else_can_read_what_is_kept(work: Path) -> None:
    manager = a_manager(work, ["echo", "{request_file}"])
    over_as(manager, start(manager, a_request()))

    for path in (work, *work.rglob("*")):
        assert stat.S_IMODE(path.lstat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_output_is_kept_to_its_bound_first_part_and_last(work: Path) -> None:
    line = "print('begin'); sys.stdout.write('x' * 3_000_000); print(); print('end of it')"
    manager = a_manager(work, a_script(line), max_output_bytes=4096)
    request = start(manager, a_request())

    end = ended(manager, request)

    output = manager.output_of(TaskId(request.key))
    assert end.message == "exit code 0: end of it"
    assert len(output) <= 4096
    assert output.startswith(b"begin\nxxx")
    assert output.endswith(b"xxx\nend of it\n")
    assert b" bytes left out ...]" in output


def test_output_can_be_read_while_the_command_runs(work: Path) -> None:
    manager = a_manager(work, a_script("print('half way', flush=True)", "park()"))
    request = start(manager, a_request())

    assert eventually(lambda: manager.output_of(TaskId(request.key))) == b"half way\n"
    manager.cancel([task_of(request)])
    over_as(manager, request)


def test_a_hostile_last_line_is_made_harmless(work: Path) -> None:
    manager = a_manager(work, a_script("sys.stdout.buffer.write(b'\\x1b[2Jgone\\xff' + b'y' * 9999 + b'\\n\\n')"))

    message = ended(manager, start(manager, a_request())).message

    assert message.isprintable()
    assert len(message) < 400


def test_a_command_that_takes_too_long_is_ended(work: Path) -> None:
    manager = a_manager(work, a_script("park()"), timeout=timedelta(milliseconds=200))

    end = ended(manager, start(manager, a_request()))

    assert (end.status, end.message) == (
        TaskStatus.FAILED,
        "timed out after 0.2 s: killed by signal 15 (SIGTERM)",
    )


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace_time(work: Path, marks: Path) -> None:
    lines = ("signal.signal(signal.SIGTERM, lambda *_: record('asked'))", "record('ready')", "park()")
    manager = a_manager(
        work, a_script(*lines), environment={"MARKS": str(marks)}, cancel_grace=timedelta(milliseconds=300)
    )
    request = start(manager, a_request())
    eventually((marks / "ready").exists)

    assert list(manager.cancel([task_of(request)])) == []

    end = ended(manager, request)
    assert (end.status, end.message) == (TaskStatus.TERMINATED, "cancelled: killed by signal 9 (SIGKILL)")
    assert (marks / "asked").exists()


def test_a_cancelled_command_may_end_in_its_own_way_within_the_grace_time(work: Path, marks: Path) -> None:
    lines = (
        "signal.signal(signal.SIGTERM, lambda *_: (print('rolled back', flush=True), sys.exit(0)))",
        "record('ready')",
        "park()",
    )
    manager = a_manager(work, a_script(*lines), environment={"MARKS": str(marks)})
    request = start(manager, a_request())
    eventually((marks / "ready").exists)

    manager.cancel([task_of(request), task_of(request)])

    end = ended(manager, request)
    assert (end.status, end.message) == (TaskStatus.TERMINATED, "cancelled: exit code 0: rolled back")


def test_a_cancellation_of_what_is_over_or_unknown_changes_nothing(work: Path) -> None:
    manager = a_manager(work, ["true"])
    done, never = start(manager, a_request("a")), a_request("b")
    over_as(manager, done)

    assert list(manager.cancel([task_of(done), task_of(never)])) == []

    assert over_as(manager, done) is TaskStatus.COMPLETED
    assert not (directory_of(work, done) / "cancel").exists()


@pytest.mark.parametrize(
    "escape",
    [
        pytest.param("", id="in the group"),
        pytest.param("os.setpgid(0, 0)", id="in a group of its own"),
        pytest.param("os.setsid(); os.fork() and os._exit(0)", id="in a session of its own, by a double fork"),
    ],
)
def test_nothing_outlives_its_task(work: Path, marks: Path, escape: str) -> None:
    lines = (
        "if os.fork() == 0:",
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        f"    {escape or 'pass'}",
        "    record('pid', str(os.getpid()))",
        "    park()",
        "while not os.path.exists(os.path.join(os.environ['MARKS'], 'pid')): time.sleep(0.01)",
    )
    manager = a_manager(work, a_script(*lines), environment={"MARKS": str(marks)})
    request = start(manager, a_request())

    assert over_as(manager, request) is TaskStatus.COMPLETED
    assert not lives(pid_in(marks / "pid"))


def test_a_start_that_comes_too_late_does_not_begin(work: Path, marks: Path) -> None:
    manager = a_manager(work, a_script("record('starts')"), environment={"MARKS": str(marks)})
    request = a_request()

    answer = submit(manager, request, timedelta(microseconds=1))

    assert isinstance(answer, SubmissionUnknown)
    assert isinstance(manager.observe([claim_of(request)], LOOKED_AT)[0], SubmissionAbsent)
    assert not (marks / "starts").exists()


def test_a_manager_tells_of_ended_tasks_that_another_one_began(work: Path) -> None:
    told: queue.SimpleQueue[RunId] = queue.SimpleQueue()

    def fails(run_id: RunId) -> None:
        raise ValueError(run_id)

    with a_manager(work, a_script("park()")) as starter, a_manager(work, ["true"]) as listener:
        threads = threading.active_count()
        request = start(starter, a_request())
        assert threading.active_count() == threads
        listener.on_change(fails)
        listener.on_change(told.put)

        starter.cancel([task_of(request)])

        assert told.get(timeout=30) == request.run_id
        assert seen(listener, request).status is TaskStatus.TERMINATED
    assert threading.active_count() == threads
    assert list((work / "watchers").iterdir()) == []


def test_a_broken_work_directory_is_no_failure_of_the_target(work: Path) -> None:
    manager = a_manager(work, ["true"])
    for shard in (work / "tasks").iterdir():
        # A file in the place of a directory: nothing can be made below it.
        shard.rmdir()
        shard.write_text("")

    answer = submit(manager, a_request())

    assert isinstance(answer, SubmissionUnknown)
    assert "Not a directory" in answer.message


def test_a_record_that_cannot_be_read_is_left_out_and_says_nothing_of_others(work: Path) -> None:
    manager = a_manager(work, ["true"])
    bad, good = start(manager, a_request("bad")), start(manager, a_request("good"))
    over_as(manager, bad)
    over_as(manager, good)
    (directory_of(work, bad) / "ended").write_text('{"format": 99}')

    (observation,) = manager.observe([task_of(bad), task_of(good)], LOOKED_AT)

    assert observation == seen(manager, good)


def test_a_work_directory_that_vanished_makes_no_task_missing(work: Path, tmp_path: Path) -> None:
    manager = a_manager(work, ["true"])
    work.rename(tmp_path / "elsewhere")

    with pytest.raises(Unavailable, match="is gone; mount or restore it"):
        manager.observe([task_of(a_request())], LOOKED_AT)


def test_a_work_directory_must_be_ours_alone(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    (tmp_path / "file").write_text("")

    for name, message in (("open", "chmod 700"), ("link", "symbolic link"), ("file", "not a directory")):
        with pytest.raises(InvalidInput, match=message):
            a_manager(tmp_path / name, ["true"])
    with pytest.raises(Unavailable, match="make it"):
        a_manager(tmp_path / "no" / "such", ["true"])


def test_a_program_is_looked_up_once(work: Path, tmp_path: Path) -> None:
    places = [tmp_path / "first", tmp_path / "second"]
    for place in places:
        place.mkdir()
    (places[1] / "tool").symlink_to("/bin/echo")
    manager = a_manager(work, ["tool", "x"], search_path=":".join(map(str, places)))
    (places[0] / "tool").symlink_to("/bin/false")

    assert over_as(manager, start(manager, a_request())) is TaskStatus.COMPLETED


def test_a_program_that_was_removed_is_no_failure_of_the_target(work: Path, tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.symlink_to("/bin/true")
    manager = a_manager(work, [str(program)])
    program.unlink()

    answer = submit(manager, a_request())

    assert isinstance(answer, SubmissionUnknown)
    assert "install it" in answer.message


def test_a_program_that_cannot_be_found_is_refused_at_once(tmp_path: Path) -> None:
    for command in (["no-such-tool"], ["./tool"], ["/no/such/tool"], [str(tmp_path)]):
        settings = CommandSettings(work_directory=tmp_path / "work", command=command)
        with pytest.raises(InvalidInput, match=r"command\[0\]"):
            settings.find_program()


def test_arguments_arrive_byte_for_byte(work: Path) -> None:
    values = ["", "a b", "$(id)", "`id`", "'\"\\", "*", "\n\t", "ü→\U0001f600", "x-", "@file", "{rack_id}", "%s"]
    manager = a_manager(
        work,
        [
            sys.executable,
            "-I",
            "-c",
            "import os,sys; os.write(1, repr([*map(os.fsencode, sys.argv[1:])]).encode())",
            "{rack_name}",
            "{payload.value}",
            "{{x}}",
        ],
    )
    for number, value in enumerate(values):
        request = a_request(f"rack {number}", rack_name=value, payload=json.dumps({"value": value}))
        assert over_as(manager, start(manager, request)) is TaskStatus.COMPLETED

        assert manager.output_of(TaskId(request.key)).decode() == repr([value.encode(), value.encode(), b"{x}"])
