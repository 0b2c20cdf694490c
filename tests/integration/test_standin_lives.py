"""The lives of the stand-in's tasks through a real channel, by a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import grpc
import pytest

from opdispatch.candidate import Candidate
from opdispatch.identity import ComponentId, RackId
from opdispatch_adapters.flow.standin import Fates, StandIn, site_of
from opdispatch_adapters.flow.wire import flow_pb2 as wire
from opdispatch_adapters.flow.wire import flow_pb2_grpc

Stub = flow_pb2_grpc.FlowStub
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
RACK, TRAY = UUID(int=1), UUID(int=11)
WAITING: Final = "Queued: waiting for rack to become available"


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stub(clock: Clock) -> Iterator[Stub]:
    racks = [
        Candidate(id=RackId(RACK), name="r1", components={"Compute": (ComponentId(TRAY),)}),
        Candidate(id=RackId(UUID(int=2)), name="bad", components={"Compute": (ComponentId(UUID(int=21)),)}),
    ]
    fates = Fates(duration=timedelta(seconds=10), failing="bad")
    site = site_of(racks, lambda kind: kind)
    with (
        StandIn(site, fates, clock=clock, starts_after=timedelta(seconds=1)) as standin,
        grpc.insecure_channel(standin.address) as channel,
    ):
        yield Stub(channel)


def _upgrade(rack: str = "r1", *, queue_seconds: int | None = None) -> wire.UpgradeFirmwareRequest:
    request = wire.UpgradeFirmwareRequest()
    request.target_spec.racks.targets.add(name=rack)
    if queue_seconds is not None:
        request.queue_options.conflict_strategy = wire.CONFLICT_STRATEGY_QUEUE
        request.queue_options.queue_timeout_seconds = queue_seconds
    return request


def _begin(stub: Stub, rack: str = "r1", *, queue_seconds: int | None = None) -> wire.UUID:
    (task_id,) = stub.UpgradeFirmware(_upgrade(rack, queue_seconds=queue_seconds)).task_ids
    return task_id


def _task(stub: Stub, task_id: wire.UUID) -> wire.Task:
    (task,) = stub.GetTasksByIDs(wire.GetTasksByIDsRequest(task_ids=[task_id])).tasks
    return task


def _told(stub: Stub, task_id: wire.UUID) -> tuple[str, str]:
    task = _task(stub, task_id)
    return wire.TaskStatus.Name(task.status).removeprefix("TASK_STATUS_").lower(), task.message


def _refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    found: Any = error.value
    return found.code(), found.details()


def _seconds(task: wire.Task, name: str) -> float | None:
    """When that was, in seconds since the test began; None where it is not told."""
    if not task.HasField(name):  # type: ignore[arg-type]
        return None
    at: datetime = getattr(task, name).ToDatetime(UTC)
    return (at - NOW).total_seconds()


def test_a_task_is_pending_then_runs_then_is_over(stub: Stub, clock: Clock) -> None:
    good, bad = _begin(stub), _begin(stub, "bad")
    lives = []
    for seconds in (0, 1, 10):
        clock.pass_(seconds)
        lives.append([_told(stub, good), _told(stub, bad)])

    assert lives == [
        [("pending", "Pending")] * 2,
        [("running", "Running")] * 2,
        [("completed", "Succeeded"), ("failed", "stand-in: this rack was chosen to fail")],
    ]
    task = _task(stub, good)
    names = ("created_at", "started_at", "finished_at", "updated_at", "queue_expires_at")
    assert [_seconds(task, name) for name in names] == [0, 1, 11, 11, None]
    assert task.executor_type == wire.TASK_EXECUTOR_TYPE_TEMPORAL
    assert not task.HasField("applied_rule_id")


def test_a_queued_task_begins_when_the_rack_is_free_and_keeps_its_deadline(stub: Stub, clock: Clock) -> None:
    _begin(stub)
    waiting = _begin(stub, queue_seconds=0)

    before = _task(stub, waiting)
    assert _told(stub, waiting) == ("waiting", WAITING)
    # Nothing was said about how long it may wait, so it is an hour.
    assert _seconds(before, "queue_expires_at") == 3600
    assert (before.executor_type, before.execution_id) == (wire.TASK_EXECUTOR_TYPE_UNKNOWN, "")
    clock.pass_(11)

    assert _told(stub, waiting) == ("pending", "Promoted: no conflicting active tasks")
    clock.pass_(1)
    after = _task(stub, waiting)
    assert (_seconds(after, "started_at"), _seconds(after, "queue_expires_at")) == (12, 3600)
    assert after.execution_id


def test_who_waits_too_long_is_told_so(stub: Stub, clock: Clock) -> None:
    _begin(stub)
    waiting = _begin(stub, queue_seconds=5)
    clock.pass_(5)

    assert _told(stub, waiting) == ("terminated", "Expired: queue timeout reached")
    assert _seconds(_task(stub, waiting), "finished_at") == 5


def test_five_wait_for_a_rack_and_a_sixth_leaves_no_task(stub: Stub) -> None:
    first = _begin(stub)
    waiting = [_begin(stub, queue_seconds=60) for _ in range(5)]

    assert _refused(lambda: _begin(stub, queue_seconds=60)) == (
        grpc.StatusCode.UNKNOWN,
        "failed to create any tasks",
    )
    listed = stub.ListTasks(wire.ListTasksRequest(active_only=True))
    assert {task.id.id for task in listed.tasks} == {one.id for one in (first, *waiting)}
    assert listed.total == 6


def test_a_cancel_ends_what_is_not_over_and_lets_the_next_begin(stub: Stub, clock: Clock) -> None:
    running, second, third = _begin(stub), _begin(stub, queue_seconds=60), _begin(stub, queue_seconds=60)
    clock.pass_(2)

    replies = [stub.CancelTask(wire.CancelTaskRequest(task_id=one)).task for one in (second, running, running)]

    assert [reply.message for reply in replies] == ["Cancelled by user"] * 3
    assert replies[1] == replies[2] == _task(stub, running)
    assert _told(stub, third) == ("pending", "Promoted: no conflicting active tasks")
    clock.pass_(11)
    assert _refused(lambda: stub.CancelTask(wire.CancelTaskRequest(task_id=third))) == (
        grpc.StatusCode.UNKNOWN,
        f"task {third.id} cannot be cancelled (status: completed)",
    )
    assert _told(stub, second) == ("terminated", "Cancelled by user")


def test_reports_are_told_when_they_are_asked_for(stub: Stub) -> None:
    task_id = _begin(stub)

    (without,) = stub.ListTasks(wire.ListTasksRequest()).tasks
    (with_it,) = stub.ListTasks(wire.ListTasksRequest(with_report=True)).tasks

    assert (without.report, with_it.report) == ("", _task(stub, task_id).report)
    assert with_it.report


PHRASES: Final[list[tuple[Callable[[Stub, wire.OperationTargetSpec], wire.SubmitTaskResponse], str]]] = [
    (
        lambda s, spec: s.UpgradeFirmware(wire.UpgradeFirmwareRequest(target_spec=spec)),
        "FirmwareUpgrade, target version ",
    ),
    (lambda s, spec: s.PowerOffRack(wire.PowerOffRackRequest(target_spec=spec)), "PowerOff, forced false"),
    (
        lambda s, spec: s.PowerResetRack(wire.PowerResetRackRequest(target_spec=spec, forced=True)),
        "ForceRestart, forced true",
    ),
]


@pytest.mark.parametrize(("begin", "phrase"), PHRASES)
def test_a_task_is_told_by_its_phrase(
    stub: Stub, begin: Callable[[Stub, wire.OperationTargetSpec], wire.SubmitTaskResponse], phrase: str
) -> None:
    spec = _upgrade().target_spec
    (task_id,) = begin(stub, spec).task_ids

    assert _task(stub, task_id).operation == phrase


@pytest.mark.parametrize("method", ["BringUpRack", "IngestRack"])
def test_a_bring_up_never_waits(stub: Stub, method: str) -> None:
    _begin(stub)
    request = getattr(wire, f"{method}Request")(target_spec=_upgrade().target_spec)

    assert _refused(lambda: getattr(stub, method)(request)) == (
        grpc.StatusCode.UNKNOWN,
        "failed to create any tasks",
    )


def test_a_strategy_that_nobody_knows_refuses(stub: Stub) -> None:
    _begin(stub)
    request = _upgrade(queue_seconds=60)
    request.queue_options.conflict_strategy = 9  # type: ignore[assignment]

    assert _refused(lambda: stub.UpgradeFirmware(request))[1] == "failed to create any tasks"
    assert stub.ListTasks(wire.ListTasksRequest()).total == 1


def test_runs_are_not_its_business(stub: Stub) -> None:
    assert _refused(lambda: stub.ListOperationRuns(wire.ListOperationRunsRequest()))[0] is grpc.StatusCode.UNIMPLEMENTED


def test_a_domain_that_nobody_knows_has_no_racks(stub: Stub) -> None:
    unknown = wire.Identifier(id=wire.UUID(id=str(UUID(int=404))))

    assert not stub.GetRacksForNVLDomain(wire.GetRacksForNVLDomainRequest(nvl_domain_identifier=unknown)).racks
