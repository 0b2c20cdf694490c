"""The task manager of the simulation: what it does to a dispatcher that others would not."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from opdispatch.identity import IdempotencyKey, RackId, RunId
from opdispatch.observation import CancellationRefused, SubmissionAccepted, SubmissionConflicted
from opdispatch.task import Operation, SubmissionRequest, TaskRef, TaskStatus
from opdispatch.testing.manager import SimulatedTasks
from tests.unit.builders import target_id

REQUEST = SubmissionRequest(
    key=IdempotencyKey("first"),
    run_id=RunId(UUID(int=9)),
    target_id=target_id(0),
    attempt=1,
    fence=1,
    rack_id=RackId(UUID(int=1)),
    rack_name="r1",
    components={},
    operation=Operation(type="test", code="simulated"),
    resubmission=False,
)


@pytest.mark.parametrize(("guards", "answer"), [(True, SubmissionConflicted), (False, SubmissionAccepted)])
def test_a_manager_that_guards_no_racks_begins_a_second_task_beside_one_of_its_own(guards: bool, answer: type) -> None:
    manager = SimulatedTasks(guards=guards)
    manager.begin(REQUEST)

    assert isinstance(manager.begin(replace(REQUEST, key=IdempotencyKey("second"))), answer)


def test_other_work_keeps_a_rack_busy_whether_it_is_guarded_or_not() -> None:
    manager = SimulatedTasks(guards=False)
    manager.foreign.add(REQUEST.rack_id)

    assert isinstance(manager.begin(REQUEST), SubmissionConflicted)


def test_a_stubborn_task_refuses_its_first_cancellation() -> None:
    manager = SimulatedTasks()
    accepted = manager.begin(REQUEST)
    assert isinstance(accepted, SubmissionAccepted)
    task = manager.tasks[accepted.task_id]
    task.stubborn = True
    ref = TaskRef(target_id=task.target_id, task_id=task.id)

    refused = manager.cancel(ref)
    first, second = task.status, manager.cancel(ref)

    assert refused == [CancellationRefused(target_id=task.target_id, task_id=task.id, message="not now")]
    assert first is TaskStatus.RUNNING
    assert second == []
    assert task.status is TaskStatus.TERMINATED
