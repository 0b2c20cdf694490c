"""Every switch of the stand-in through a real channel: what the caller is told, and which tasks there are then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import grpc
import pytest

from opdispatch.candidate import Candidate
from opdispatch.identity import ComponentId, RackId
from opdispatch_adapters.flow.standin import Fates, Fault, FaultKind, StandIn, site_of
from opdispatch_adapters.flow.wire import flow_pb2 as wire
from opdispatch_adapters.flow.wire import flow_pb2_grpc
from tests.integration.waiting import eventually

Stub = flow_pb2_grpc.FlowStub
Code = grpc.StatusCode


def _candidate(number: int) -> Candidate:
    parts = (ComponentId(UUID(int=10 * number + 1)), ComponentId(UUID(int=10 * number + 2)))
    return Candidate(id=RackId(UUID(int=number)), name=f"r{number}", components={"Compute": parts})


@pytest.fixture
def standin() -> Iterator[StandIn]:
    site = site_of([_candidate(number) for number in (1, 2, 3)], lambda kind: kind)
    with StandIn(site, Fates(duration=timedelta(hours=1))) as started:
        yield started


@pytest.fixture
def stub(standin: StandIn) -> Iterator[Stub]:
    with grpc.insecure_channel(standin.address) as channel:
        yield Stub(channel)


def _request(rack: int) -> wire.UpgradeFirmwareRequest:
    request = wire.UpgradeFirmwareRequest(target_version="2")
    request.target_spec.racks.targets.add(name=f"r{rack}")
    return request


def _upgraded(
    stub: Stub, rack: int = 1, *, until: Callable[[], bool] | None = None
) -> tuple[Code, str, list[wire.UUID]]:
    """How an upgrade of a rack is answered: code, text, and the ids of its tasks.

    Its caller waits for the answer; where ``until`` is given, only until that is so, and there must be none by then.
    """
    call = stub.UpgradeFirmware.future(_request(rack))
    if until is not None:
        eventually(until, what="the fault")
        assert call.cancel()
        return Code.CANCELLED, "", []
    try:
        return Code.OK, "", list(call.result().task_ids)
    except grpc.RpcError as error:
        found: Any = error
        return found.code(), found.details(), []


def _hit(standin: StandIn, *kinds: FaultKind, **more: Any) -> None:
    standin.faults.set([Fault(kind=kind, times=1, **more) for kind in kinds])


def _was_hit(standin: StandIn, *kinds: FaultKind) -> Callable[[], bool]:
    return lambda: all(standin.faults.hits[kind] for kind in kinds)


MADE_AND_TOLD: Final = (Code.OK, "", 1)
SUBMITTED: Final[dict[FaultKind, tuple[tuple[Code, str, int], int, int]]] = {
    FaultKind.SLOW: (MADE_AND_TOLD, 1, 2),
    FaultKind.REFUSE: ((Code.ABORTED, "no", 0), 0, 0),
    FaultKind.HANG: ((Code.CANCELLED, "", 0), 0, 0),
    FaultKind.DROP_REPLY: ((Code.UNAVAILABLE, "connection reset by peer", 0), 1, 2),
    FaultKind.LATE: ((Code.CANCELLED, "", 0), 1, 2),
    FaultKind.TWICE: ((Code.OK, "", 2), 1, 2),
    FaultKind.FORGET: (MADE_AND_TOLD, 0, 0),
    FaultKind.UNKNOWN_STATUS: (MADE_AND_TOLD, 1, 2),
    FaultKind.WRONG_COMPONENTS: (MADE_AND_TOLD, 1, 1),
}
"""Of an upgrade that each hits: its code, text and count of ids; then the tasks, and their components in all.  Who has
no answer gives up."""


# What a caller is told of a restart depends on whether the refusal or the cut is first; test_flow_standin.py has it.
@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind is not FaultKind.RESTART])
def test_what_a_switch_makes_of_a_submission(stub: Stub, standin: StandIn, kind: FaultKind) -> None:
    told, tasks, parts = SUBMITTED[kind]
    _hit(standin, kind, seconds=0.01, code="ABORTED", text="no")

    code, text, ids = _upgraded(stub, until=_was_hit(standin, kind) if told[0] is Code.CANCELLED else None)

    assert (code, text, len(ids)) == told
    found = eventually(standin.tasks.all, until=lambda made: len(made) == tasks, what=f"{tasks} tasks")
    assert sum(len(task.component_ids) for task in found) == parts
    assert standin.faults.hits[kind] == 1
    assert len({one.id for one in ids}) <= 1
    # It was hit once; the next one is not.
    assert _upgraded(stub, rack=2)[0] is Code.OK


@pytest.mark.parametrize(
    ("kinds", "told", "components"),
    [
        ((FaultKind.SLOW, FaultKind.WRONG_COMPONENTS), (Code.OK, 1), [1]),
        ((FaultKind.WRONG_COMPONENTS, FaultKind.DROP_REPLY), (Code.UNAVAILABLE, 0), [1]),
        ((FaultKind.FORGET, FaultKind.TWICE), (Code.OK, 2), []),
        ((FaultKind.REFUSE, FaultKind.FORGET, FaultKind.DROP_REPLY), (Code.ABORTED, 0), []),
        ((FaultKind.LATE, FaultKind.WRONG_COMPONENTS), (Code.CANCELLED, 0), [1]),
    ],
)
def test_switches_compose(
    stub: Stub, standin: StandIn, kinds: tuple[FaultKind, ...], told: tuple[Code, int], components: list[int]
) -> None:
    _hit(standin, *kinds, seconds=0.01, code="ABORTED")

    code, _, ids = _upgraded(stub, until=_was_hit(standin, *kinds) if told[0] is Code.CANCELLED else None)

    assert (code, len(ids)) == told
    found = eventually(standin.tasks.all, until=lambda made: len(made) == len(components), what="the tasks")
    assert [len(task.component_ids) for task in found] == components
    assert all(standin.faults.hits[kind] == 1 for kind in kinds)


def test_a_switch_may_be_for_one_rack(stub: Stub, standin: StandIn) -> None:
    standin.faults.set([Fault(kind=FaultKind.REFUSE, rack="r2", code="ABORTED")])

    assert [_upgraded(stub, rack)[0] for rack in (1, 2, 3)] == [Code.OK, Code.ABORTED, Code.OK]


def test_a_task_that_was_forgotten_is_as_if_it_had_never_been(stub: Stub, standin: StandIn) -> None:
    (task_id,) = _upgraded(stub)[2]
    standin.faults.set([Fault(kind=FaultKind.FORGET, methods="GetTasksByIDs", times=1)])

    for _ in range(2):
        with pytest.raises(grpc.RpcError) as error:
            stub.GetTasksByIDs(wire.GetTasksByIDsRequest(task_ids=[task_id]))
        told: Any = error.value
        assert (told.code(), told.details()) == (Code.INTERNAL, "sql: no rows in result set")
    assert stub.ListTasks(wire.ListTasksRequest()).total == 0
    assert _upgraded(stub)[0] is Code.OK
    assert standin.tasks.tally().created == 2


def test_a_status_of_a_later_version_is_in_every_answer_about_tasks(stub: Stub, standin: StandIn) -> None:
    (task_id,) = _upgraded(stub)[2]
    standin.faults.set([Fault(kind=FaultKind.UNKNOWN_STATUS, methods="*")])

    told = [
        *stub.ListTasks(wire.ListTasksRequest()).tasks,
        *stub.GetTasksByIDs(wire.GetTasksByIDsRequest(task_ids=[task_id])).tasks,
        stub.CancelTask(wire.CancelTaskRequest(task_id=task_id)).task,
    ]

    assert len(told) == 3
    assert not {task.status for task in told} & set(wire.TaskStatus.values())
    assert {task.id.id for task in told} == {task_id.id}


def test_a_list_that_is_told_twice_counts_its_tasks_once(stub: Stub, standin: StandIn) -> None:
    (task_id,) = _upgraded(stub)[2]
    standin.faults.set([Fault(kind=FaultKind.TWICE, methods="ListTasks")])

    reply = stub.ListTasks(wire.ListTasksRequest())

    assert [task.id for task in reply.tasks] == [task_id, task_id]
    assert reply.total == 1


def test_a_restart_cuts_what_hangs_and_answers_again(stub: Stub, standin: StandIn) -> None:
    standin.faults.set([Fault(kind=FaultKind.HANG, times=1)])
    call = stub.UpgradeFirmware.future(_request(1))
    eventually(lambda: standin.faults.hits[FaultKind.HANG] == 1, what="the call")

    standin.restart()

    found: Any = call.exception(timeout=30)
    assert found.code() in (Code.UNAVAILABLE, Code.CANCELLED)
    assert standin.tasks.all() == []
    reply = stub.UpgradeFirmware(_request(1), wait_for_ready=True, timeout=30)
    assert len(reply.task_ids) == 1
