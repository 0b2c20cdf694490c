"""The parts of the program that need no process: exit codes, rendering, names, durations, request ids, events."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import click
import pytest

from opdispatch import errors
from opdispatch.action import FinishRun, RecordTask, SettleTarget, Step
from opdispatch.errors import InvalidInput, NotFound, OpdispatchError, Unavailable
from opdispatch.explain import Asks, Clears, Code, Reason
from opdispatch.holds import Hold
from opdispatch.identity import CommandId, RunId, TargetId, TaskId
from opdispatch.journal import JournalEntry
from opdispatch.plan import new_run, plan
from opdispatch.ports import Overview
from opdispatch.run import TERMINAL, Run, RunStatus, StatusReason
from opdispatch.tally import Tally
from opdispatch.target import Target, TargetStatus
from opdispatch_adapters.cli import json_output, view
from opdispatch_adapters.cli.cmd_control import retry_command, settle_command
from opdispatch_adapters.cli.cmd_explain import told
from opdispatch_adapters.cli.events import events_of
from opdispatch_adapters.cli.exits import ENDED_EXITS, ERROR_EXITS, Exit, exit_of_error, exit_of_holds
from opdispatch_adapters.cli.naming import run_called, targets_called
from opdispatch_adapters.cli.options import DURATION
from opdispatch_adapters.cli.planning import derived_request_id
from opdispatch_adapters.cli.programs import Program, Registry
from opdispatch_adapters.cli.render import clean, counted, cut, duration, quoted, table
from opdispatch_adapters.cli.rollout_file import RolloutFile
from opdispatch_adapters.cli.session import Session
from opdispatch_adapters.memory import MemoryStore
from tests.racks import racks, rollout

NOW = datetime(2031, 4, 2, 10, 0, tzinfo=UTC)


def a_store(*command_ids: str, count: int = 3) -> MemoryStore:
    store = MemoryStore(lambda: NOW)
    for command_id in command_ids:
        made = plan(racks(count), rollout(name=f"name-{command_id}"))
        store.create(new_run(made, command_id=CommandId(command_id), actor="tester", now=NOW))
    return store


def an_overview(status: RunStatus = RunStatus.RUNNING, *phases: Tally, **more: object) -> Overview:
    store = a_store("x")
    run = store.list()[0].run
    assert run is not None
    changed = Run(
        id=run.id,
        name=run.name,
        rollout=run.rollout,
        phases=len(phases) or 1,
        created_at=NOW,
        status=status,
        **more,  # type: ignore[arg-type]  # a test names what it is about
    )
    return Overview(run=changed, phases=phases or (Tally(pending=3),), open_strays=0, trouble=None, wake_at=NOW)


# -- exit codes --


def test_every_error_of_the_core_has_an_exit_code_of_its_own_choice() -> None:
    known = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, OpdispatchError)}

    assert set(ERROR_EXITS) == known


def test_every_terminal_status_has_an_exit_code() -> None:
    assert set(ENDED_EXITS) == set(TERMINAL)


def test_an_error_that_is_not_known_is_internal() -> None:
    assert exit_of_error(RuntimeError("x")) is Exit.INTERNAL


def test_what_can_be_tried_again_ends_with_75_and_nothing_else_does() -> None:
    retryable = {kind for kind in ERROR_EXITS if kind.retryable}

    assert retryable == {kind for kind, code in ERROR_EXITS.items() if code is Exit.RETRY_LATER} == {Unavailable}


def test_a_safety_gate_is_told_even_behind_another_hold() -> None:
    shown = Hold(reason=StatusReason.OPERATOR_PAUSED, wait="operator", message="")  # type: ignore[arg-type]  # not looked at
    safety = Hold(reason=StatusReason.SAFETY_GATE, wait="safety_gate", message="")  # type: ignore[arg-type]  # not looked at

    assert (exit_of_holds([shown]), exit_of_holds([shown, safety])) == (Exit.HELD, Exit.SAFETY)


# -- rendering --


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rack 1", "rack 1"),
        ("räck-機", "räck-機"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("\x9b31m", "\\x9b31m"),
        ("abc\u202ecba", "abc\\u202ecba"),
        ("\ud800", "\\ud800"),
        ("\x7f\x00", "\\x7f\\x00"),
    ],
)
def test_nothing_that_could_steer_a_terminal_is_left(text: str, expected: str) -> None:
    assert clean(text) == expected
    assert clean(text).isprintable()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-1, "0.0s"), (0.44, "0.4s"), (9.99, "10s"), (59, "59s"), (185, "3m05s"), (7620, "2h07m"), (356_400, "4d03h")],
)
def test_a_time_is_said_in_two_units_at_most(seconds: float, expected: str) -> None:
    assert duration(timedelta(seconds=seconds)) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [("a", "a"), ("", '""'), ("a b", '"a b"'), ('a"b\\', '"a\\"b\\\\"'), ("a\nb", '"a\\\\nb"')]
)
def test_a_value_of_a_line_is_quoted_where_it_could_be_misread(value: str, expected: str) -> None:
    assert quoted(value) == expected


def test_a_table_fits_its_width_by_cutting_the_widest_column() -> None:
    lines = table(("RACK", "SAYS"), [["r1", "x" * 50], ["r22", "short"]], width=20)

    assert lines == ["RACK  SAYS", "r1    xxxxxxxxxxxxx~", "r22   short"]


@pytest.mark.parametrize("width", [1, 3, 7, 12])
def test_no_line_of_a_table_is_wider_than_the_terminal(width: int) -> None:
    lines = table(("A", "B", "C"), [["aaaaaaaa", "bbbbbbbb", "cccccccc"]], width=width, right=(1,))

    assert max(map(len, lines)) <= width


def test_a_table_without_rows_is_its_header() -> None:
    assert table(("A", "B"), []) == ["A  B"]


def test_small_words() -> None:
    assert (counted(1, "rack"), counted(2, "rack"), cut("abcdef", 3)) == ("1 rack", "2 racks", "ab~")


# -- durations --


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("1.5s", 1.5), ("90", 90), ("5m", 300), ("1h30m", 5400), ("2d", 172_800)]
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "0s", "-1s", "soon", "1m1h", "1e3", "999999d", "٣s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a duration"):
        DURATION.convert(text, None, None)


# -- names --


def test_a_run_is_found_by_its_name_and_by_the_beginning_of_its_id() -> None:
    store = a_store("a", "b")
    run = next(one for one in store.list() if one.name == "name-b")

    assert {run_called(store, text) for text in ("name-b", str(run.run_id), str(run.run_id)[:8])} == {run.run_id}


def test_fewer_than_four_characters_name_no_run() -> None:
    store = a_store("a")

    with pytest.raises(NotFound):
        run_called(store, str(store.list()[0].run_id)[:3])


def test_all_names_of_targets_that_are_wrong_are_told_at_once() -> None:
    store = a_store("a")
    targets = store.targets(store.list()[0].run_id)

    with pytest.raises(InvalidInput) as refused:
        targets_called(targets, ["r1", "x1", "x2"])

    assert len(refused.value.problems) == 2


def test_a_target_that_is_named_twice_is_meant_once() -> None:
    store = a_store("a")
    targets = store.targets(store.list()[0].run_id)
    first = next(target for target in targets if target.rack_name == "r1")

    assert targets_called(targets, ["r1", str(first.id), str(first.rack_id)]) == (first.id,)


# -- request ids --


def a_file(**more: object) -> RolloutFile:
    return RolloutFile(rollout=rollout(**more), inventory=Path("/inventory"), command=None)  # type: ignore[arg-type]  # passed on


def test_the_same_file_gives_the_same_request_id() -> None:
    assert derived_request_id(a_file(), None) == derived_request_id(a_file(), None)


def test_another_rollout_inventory_or_program_gives_another_request_id() -> None:
    program = Program(argv=("/bin/true",))
    ids = {
        derived_request_id(a_file(), None),
        derived_request_id(a_file(name="other"), None),
        derived_request_id(a_file(max_concurrent_targets=2), None),
        derived_request_id(a_file(), program),
        derived_request_id(a_file(), Program(argv=("/bin/true", "x"))),
        derived_request_id(RolloutFile(rollout=rollout(), inventory=Path("/other"), command=None), None),
    }

    assert len(ids) == 6


def test_a_request_id_is_pinned_because_a_changed_one_would_double_the_work() -> None:
    assert derived_request_id(a_file(), Program(argv=("/bin/true",))) == PINNED


PINNED = "file-f0a1660470b3e30bb0b4f61a619ba4a0"


# -- programs --


def test_a_program_that_was_registered_is_read_back_and_is_its_owners_alone(tmp_path: Path) -> None:
    registry, run_id = Registry(tmp_path / "tasks"), RunId(UUID(int=7))
    program = Program(argv=("/bin/true", "{key}"), timeout=1.5, env={"A": "b"})

    registry.put(run_id, program)

    assert registry.get(run_id) == program
    files = [path for path in (tmp_path / "tasks").rglob("*") if path.is_file()]
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 2}', '{"format": 1, "program": {"argv": ["x"], "odd": 1}}']
)
def test_a_program_that_cannot_be_read_is_an_error_and_no_program(tmp_path: Path, text: str) -> None:
    registry, run_id = Registry(tmp_path / "tasks"), RunId(UUID(int=7))
    registry.put(run_id, Program(argv=("/bin/true",)))
    next((tmp_path / "tasks").rglob("*.json")).write_text(text)

    with pytest.raises(errors.CorruptRecord):
        registry.get(run_id)


def test_a_program_that_others_can_write_is_not_run(tmp_path: Path) -> None:
    registry, run_id = Registry(tmp_path / "tasks"), RunId(UUID(int=7))
    registry.put(run_id, Program(argv=("/bin/true",)))
    next((tmp_path / "tasks").rglob("*.json")).chmod(0o666)

    with pytest.raises(errors.CorruptRecord, match="others can write"):
        registry.get(run_id)


# -- views --


def test_a_run_with_tasks_in_flight_is_not_over() -> None:
    ended = an_overview(RunStatus.CANCELLED, Tally(submitted=1), finished_at=NOW)

    assert not view.is_over(ended)
    assert view.is_over(an_overview(RunStatus.CANCELLED, Tally(skipped=1), finished_at=NOW))


def test_the_next_command_of_a_safety_hold_accepts_what_the_message_counts() -> None:
    held = an_overview(RunStatus.PAUSED, Tally(failed=2, completed=1, pending=1), Tally(pending=3))

    first, second = view.next_commands(held, "/nowhere/opdispatch.db")

    assert first.endswith("--accept-failures 2")
    assert "--store /nowhere/opdispatch.db" in first
    assert " attach " in second


def test_the_next_command_of_a_phase_gate_names_the_phase_from_zero() -> None:
    held = an_overview(RunStatus.PAUSED, Tally(completed=1), Tally(pending=3))

    assert view.next_commands(held, "/x")[0].endswith("--expect 1")


@pytest.mark.parametrize("rack", ["r1", "hall 4; touch PWNED #", "it's $(here)", "--failed", "-v `x`"])
@pytest.mark.parametrize(("command", "parameter"), [(retry_command, "targets"), (settle_command, "target")])
def test_what_to_type_names_the_rack_whatever_it_is_called(command: click.Command, parameter: str, rack: str) -> None:
    store = a_store("x")
    target = replace(store.targets(store.list()[0].run_id)[0], rack_name=rack)
    asks = Asks(command=str(command.name))
    reason = Reason(code=Code.SETTLED, evidence="it failed", clears=Clears.OPERATOR, asks=asks)

    line = told([reason], "opdispatch", "68b95523", target, now=NOW, width=None)[-1]

    words = shlex.split(line.removeprefix("next: opdispatch "), comments=True)
    given = command.make_context(words[0], words[1:], obj=Session()).params
    assert (words[0], given["run"], given[parameter]) in [
        (command.name, "68b95523", rack),
        (command.name, "68b95523", (rack,)),
    ]


@pytest.mark.parametrize("status", list(RunStatus))
def test_every_status_can_be_shown(status: RunStatus) -> None:
    overview = an_overview(status, Tally(completed=1), Tally(pending=1), Tally(pending=1), finished_at=NOW)

    states = [view.phase_state(overview, index) for index in range(3)]

    assert states == [
        "done",
        "ended" if status in TERMINAL else "waiting",
        "ended" if status in TERMINAL else "waiting",
    ]
    assert json_output.run(overview, "/x")["status"] == str(status)


def test_an_event_for_each_thing_that_an_operator_follows() -> None:
    target = TargetId(UUID(int=1))
    steps = (
        Step(action=RecordTask(target_id=target, task_id=TaskId("t")), because=""),
        Step(action=SettleTarget(target_id=target, status=TargetStatus.FAILED, message="bad"), because=""),
        Step(action=FinishRun(status=RunStatus.FAILED, at=NOW, message="over"), because=""),
    )
    entry = JournalEntry(
        run_id=RunId(UUID(int=2)),
        number=1,
        at=NOW,
        actor="a",
        command=None,
        reply=None,
        limits=None,
        digest=None,
        observations=(),
        steps=steps,
        held_back=(),
    )

    assert [(event.name, event.is_bad) for event in events_of(entry)] == [
        ("target_submitted", False),
        ("target_failed", True),
        ("finished", False),
    ]


def test_the_document_of_a_target_says_what_its_state_knows() -> None:
    store = a_store("a")
    target: Target = store.targets(store.list()[0].run_id)[0]

    document = json_output.target(target)

    assert (document["status"], document["retry_at"], document["lease_until"]) == ("pending", None, None)
    assert json_output.target(target.claimed(NOW))["lease_until"] == "2031-04-02T10:00:00Z"


def test_an_error_that_is_not_known_is_told_without_its_insides() -> None:
    assert json_output.error(RuntimeError("x")) == {
        "error": {"code": "INTERNAL", "message": "RuntimeError: x", "hint": "", "retryable": False}
    }
