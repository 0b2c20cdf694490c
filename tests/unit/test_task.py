"""Tasks: which statuses are the end, and what an operation is called."""

from __future__ import annotations

import pytest

from opdispatch.errors import InvalidInput
from opdispatch.task import Operation, TaskStatus


@pytest.mark.parametrize("status", [TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.TERMINATED])
def test_a_task_that_ended_is_over(status: TaskStatus) -> None:
    assert status.is_over


@pytest.mark.parametrize("status", [TaskStatus.UNKNOWN, TaskStatus.WAITING, TaskStatus.PENDING, TaskStatus.RUNNING])
def test_a_task_that_may_go_on_is_not_over(status: TaskStatus) -> None:
    assert not status.is_over


@pytest.mark.parametrize("text", ["", "x" * 65])
def test_an_operation_type_has_1_to_64_characters(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"\$\.operation\.type"):
        Operation(type=text, code="upgrade")


@pytest.mark.parametrize("text", ["", "x" * 65])
def test_an_operation_code_has_1_to_64_characters(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"\$\.operation\.code"):
        Operation(type="firmware_control", code=text)


@pytest.mark.parametrize("length", [1, 64])
def test_an_operation_may_have_the_shortest_and_the_longest_name(length: int) -> None:
    assert len(Operation(type="x" * length, code="x" * length).code) == length


def test_a_payload_is_kept_byte_for_byte() -> None:
    assert Operation(type="t", code="c", payload=' {"b":1, "a":2}\n').payload == ' {"b":1, "a":2}\n'
