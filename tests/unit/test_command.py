"""Commands check themselves when they are made."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from opdispatch.command import (
    Advance,
    Cancel,
    Command,
    Pause,
    Refusal,
    Reply,
    Resume,
    Retry,
    Settle,
    command_name,
    named_targets,
    require_repeat,
)
from opdispatch.errors import InvalidInput
from opdispatch.identity import CommandId
from opdispatch.target import TargetStatus
from tests.unit.builders import target_id

ID = CommandId("c1")
COMMANDS: list[tuple[Command, str]] = [
    (Pause(command_id=ID, actor="ana"), "pause"),
    (Resume(command_id=ID, actor="ana"), "resume"),
    (Advance(command_id=ID, actor="ana", expected_phase=1), "advance"),
    (Cancel(command_id=ID, actor="ana"), "cancel"),
    (Retry(command_id=ID, actor="ana", targets=(target_id(0), target_id(1))), "retry"),
    (Settle(command_id=ID, actor="ana", target=target_id(2), status=TargetStatus.SKIPPED, why="gone"), "settle"),
]


@pytest.mark.parametrize(("command", "name"), COMMANDS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_command_has_the_name_of_its_verb(command: Command, name: str) -> None:
    assert command_name(command) == name


def test_a_retry_and_a_settle_name_their_targets_and_no_other_command_names_any() -> None:
    named = {name: named_targets(command) for command, name in COMMANDS}

    assert named == {
        "pause": (),
        "resume": (),
        "advance": (),
        "cancel": (),
        "retry": (target_id(0), target_id(1)),
        "settle": (target_id(2),),
    }


@pytest.mark.parametrize("length", [0, 201])
def test_a_command_id_has_1_to_200_characters(length: int) -> None:
    with pytest.raises(InvalidInput, match="1 to 200 characters"):
        Pause(command_id=CommandId("x" * length), actor="ana")


@pytest.mark.parametrize("length", [1, 200])
def test_a_command_id_may_be_as_short_and_as_long_as_that(length: int) -> None:
    assert len(Pause(command_id=CommandId("x" * length), actor="ana").command_id) == length


def test_a_retry_without_an_id_is_refused_too() -> None:
    with pytest.raises(InvalidInput, match="1 to 200 characters"):
        Retry(command_id=CommandId(""), actor="ana", targets=(target_id(0),))


def test_a_retry_names_at_least_one_target() -> None:
    with pytest.raises(InvalidInput, match="no target is named"):
        Retry(command_id=ID, actor="ana", targets=())


def test_a_retry_names_each_target_once() -> None:
    with pytest.raises(InvalidInput, match="a target is named twice"):
        Retry(command_id=ID, actor="ana", targets=(target_id(0), target_id(0)))


@pytest.mark.parametrize("status", [status for status in TargetStatus if not status.is_settled], ids=str)
def test_a_target_is_settled_as_an_outcome(status: TargetStatus) -> None:
    with pytest.raises(InvalidInput, match=f"{status} is not an outcome"):
        Settle(command_id=ID, actor="ana", target=target_id(0), status=status, why="it hangs")


@pytest.mark.parametrize("why", ["", "  \n"])
def test_a_settle_gives_its_reason(why: str) -> None:
    with pytest.raises(InvalidInput, match="no reason is given"):
        Settle(command_id=ID, actor="ana", target=target_id(0), status=TargetStatus.FAILED, why=why)


def test_a_settle_without_an_id_is_refused_too() -> None:
    with pytest.raises(InvalidInput, match="1 to 200 characters"):
        Settle(command_id=CommandId(""), actor="ana", target=target_id(0), status=TargetStatus.FAILED, why="it hangs")


@pytest.mark.parametrize(("refusal", "accepted"), [(None, True), (Refusal.NOT_PAUSED, False)], ids=["none", "one"])
def test_a_reply_without_a_refusal_says_that_the_command_took_effect(refusal: Refusal | None, accepted: bool) -> None:
    assert Reply(command_id=ID, message="", revision=0, open_claims=0, refusal=refusal).accepted is accepted


@pytest.mark.parametrize("refusal", Refusal, ids=str)
def test_the_code_of_a_refusal_is_its_name(refusal: Refusal) -> None:
    assert refusal.value == refusal.name


def _again(name: str, **changed: Any) -> Command:
    (found,) = (command for command, verb in COMMANDS if verb == name)
    return replace(found, **{"actor": "bo", "expected_revision": 7, **changed})


@pytest.mark.parametrize(("first", "name"), COMMANDS, ids=[name for _, name in COMMANDS])
def test_a_repeat_is_the_same_command_whoever_asks(first: Command, name: str) -> None:
    require_repeat(first, _again(name))

    others = [other for other, verb in COMMANDS if verb != name]
    for other in others:
        with pytest.raises(
            InvalidInput, match=rf"command_id: 'c1' named another command before \({name}\); name a new"
        ):
            require_repeat(first, other)
    assert len(others) == 5


@pytest.mark.parametrize(
    ("first", "asked", "is_repeat"),
    [
        (_again("resume", accept_failures=3), _again("resume", accept_failures=3), True),
        (_again("resume", accept_failures=3), _again("resume"), True),
        (_again("resume", accept_failures=3), _again("resume", accept_failures=0), False),
        (_again("resume"), _again("resume", accept_failures=3), False),
        (_again("advance"), _again("advance", expected_phase=0), True),
        (_again("advance"), _again("advance", expected_phase=2), False),
        (_again("advance", expected_phase=0), _again("advance"), False),
        (_again("retry"), _again("retry", targets=(target_id(1), target_id(0))), True),
        (_again("retry"), _again("retry", targets=(target_id(1),)), False),
        (_again("retry"), _again("retry", targets=(target_id(0), target_id(1), target_id(2))), False),
        (_again("cancel"), _again("cancel", why="enough"), True),
        (_again("settle"), _again("settle", why="late"), True),
        (_again("settle"), _again("settle", target=target_id(1)), False),
        (_again("settle"), _again("settle", status=TargetStatus.FAILED), False),
    ],
)
def test_what_a_repeat_names_must_be_what_was_named(first: Command, asked: Command, is_repeat: bool) -> None:
    with nullcontext() if is_repeat else pytest.raises(InvalidInput, match="named another command before"):
        require_repeat(first, asked)
