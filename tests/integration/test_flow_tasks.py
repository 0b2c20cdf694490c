"""Flow as a task manager: what each answer becomes, and what is not believed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import attrs
import pytest

from opdispatch.identity import ComponentId, IdempotencyKey, RunId, TargetId, TaskId
from opdispatch.observation import (
    CancellationRefused,
    Observation,
    SubmissionAbsent,
    SubmissionAccepted,
    SubmissionConflicted,
    SubmissionRefused,
    SubmissionUnknown,
    TaskMissing,
    TaskObserved,
)
from opdispatch.task import ClaimRef, Operation, SubmissionRequest, TaskRef, TaskStatus
from opdispatch_adapters.flow.client import FlowSettings, FlowTasks
from opdispatch_adapters.flow.client.channel import NoAnswer
from opdispatch_adapters.flow.component_types import ComponentTypes
from opdispatch_adapters.flow.standin import Fates, Fault, FaultKind, Faults, StandIn, site_of
from opdispatch_adapters.flow.wire import flow_pb2 as wire
from tests.integration.waiting import eventually
from tests.racks import component, rack, rack_id

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
DEADLINE: Final = timedelta(seconds=5)
TYPES: Final = ComponentTypes({"compute": "Compute"})


@pytest.fixture
def standin() -> Iterator[StandIn]:
    known = [
        rack(n, {"compute": (component(n), component(100 + n))}, site="dc", room="hall", row="A", position=str(n))
        for n in range(1, 31)
    ]
    site = site_of(known, TYPES.flow_type)
    with StandIn(site, Fates(duration=timedelta(hours=1)), faults=Faults()) as started:
        yield started


@pytest.fixture
def tasks(standin: StandIn) -> Iterator[FlowTasks]:
    settings = FlowSettings(address=standin.address, page=7, bar_after=timedelta(seconds=60))
    with FlowTasks(settings, types=TYPES) as opened:
        yield opened


def _request(number: int, *, attempt: int = 1, again: bool = False, **operation: Any) -> SubmissionRequest:
    kind = {"type": "firmware_control", "code": "upgrade", "description": "spring", **operation}
    return SubmissionRequest(
        key=IdempotencyKey(f"run.{number}.{attempt}"),
        run_id=RunId(UUID(int=1)),
        target_id=TargetId(UUID(int=number)),
        attempt=attempt,
        fence=1,
        rack_id=rack_id(number),
        rack_name=f"r{number}",
        components={"compute": (component(number), component(100 + number))},
        operation=Operation(**kind),
        resubmission=again,
    )


def _submitted(tasks: FlowTasks, request: SubmissionRequest) -> Observation:
    (found,) = tasks.submit([request], DEADLINE)
    assert (found.target_id, found.attempt, found.fence) == (request.target_id, request.attempt, 1)  # type: ignore[union-attr]
    return found


def _refuse(standin: StandIn, code: str, text: str, *, methods: str = "submissions", **more: Any) -> None:
    standin.faults.set([Fault(kind=FaultKind.REFUSE, methods=methods, code=code, text=text, **more)])


def _made(standin: StandIn) -> Counter[str]:
    return Counter(standin.tasks.tally().by_description)


# -- submissions --


def test_one_task_is_made_for_each_with_its_components_and_its_marker(tasks: FlowTasks, standin: StandIn) -> None:
    found = tasks.submit([_request(number) for number in range(1, 21)], DEADLINE)

    assert all(isinstance(one, SubmissionAccepted) for one in found)
    made = standin.tasks.all()
    assert len(made) == 20
    first = next(task for task in made if task.rack_id == UUID(str(rack_id(1))))
    assert first.description == "spring [opdispatch run.1.1]"
    assert first.component_ids == {UUID(str(component(1))), UUID(str(component(101)))}


def test_a_busy_rack_is_a_conflict_and_names_what_is_in_the_way(tasks: FlowTasks) -> None:
    _submitted(tasks, _request(1))

    found = _submitted(tasks, _request(1, attempt=2))

    assert isinstance(found, SubmissionConflicted)
    assert found.message.startswith("rack r1 already has a conflicting task: ")
    assert found.message.endswith("(FirmwareUpgrade, target version )")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("INVALID_ARGUMENT", "authentication data value is required"),
        ("NOT_FOUND", "failed to resolve rack target"),
        ("UNKNOWN", "target_spec is required"),
        ("UNKNOWN", "convert component target: invalid component uuid"),
        ("UNKNOWN", "no valid racks found for request"),
        ("INTERNAL", "failed to get component target uuid=x: rpc error: component [id: x] is not found"),
        ("UNIMPLEMENTED", "decommission is not yet available: Core"),
    ],
)
def test_a_definite_no_is_a_refusal(tasks: FlowTasks, standin: StandIn, code: str, text: str) -> None:
    _refuse(standin, code, text)

    found = _submitted(tasks, _request(1))

    assert isinstance(found, SubmissionRefused)
    assert text in found.message


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("UNAVAILABLE", "connection reset"),
        ("DEADLINE_EXCEEDED", "too late"),
        ("INTERNAL", "database is down"),
        ("UNKNOWN", "failed to create any tasks"),
        ("PERMISSION_DENIED", "who are you"),
        ("UNAUTHENTICATED", "who are you"),
        ("UNIMPLEMENTED", "unknown service v1.Flow"),
        ("RESOURCE_EXHAUSTED", "too much"),
    ],
)
def test_whatever_says_nothing_of_the_target_is_unknown(
    tasks: FlowTasks, standin: StandIn, code: str, text: str
) -> None:
    _refuse(standin, code, text)

    found = _submitted(tasks, _request(1))

    assert isinstance(found, SubmissionUnknown)
    assert text in found.message
    assert not _made(standin)


def test_what_flow_has_no_call_or_no_type_for_is_refused_without_a_call(tasks: FlowTasks, standin: StandIn) -> None:
    painted = _submitted(tasks, _request(1, type="paint", code="red"))
    odd = SubmissionRequest(
        **{
            **{name: getattr(_request(1), name) for name in SubmissionRequest.__slots__},
            "components": {"lamp": (ComponentId(UUID(int=5)),)},
        }
    )

    assert isinstance(painted, SubmissionRefused)
    assert isinstance(_submitted(tasks, odd), SubmissionRefused)
    assert not _made(standin)


def test_a_task_whose_reply_was_lost_is_found_at_once(tasks: FlowTasks, standin: StandIn) -> None:
    standin.faults.set([Fault(kind=FaultKind.DROP_REPLY)])

    found = _submitted(tasks, _request(1))

    (task,) = standin.tasks.all()
    assert isinstance(found, SubmissionAccepted)
    assert found.task_id == str(task.id)


@pytest.mark.parametrize("is_over", [False, True])
def test_a_resubmission_looks_first(tasks: FlowTasks, standin: StandIn, is_over: bool) -> None:
    first = _submitted(tasks, _request(1))
    assert isinstance(first, SubmissionAccepted)
    if is_over:
        standin.tasks.cancel(UUID(first.task_id))

    again = _submitted(tasks, _request(1, again=True))

    assert again == first
    assert set(_made(standin).values()) == {1}


def test_a_resubmission_that_cannot_look_is_not_made(tasks: FlowTasks, standin: StandIn) -> None:
    _refuse(standin, "INTERNAL", "database is down", methods="ListTasks")

    found = _submitted(tasks, _request(1, again=True))

    assert isinstance(found, SubmissionUnknown)
    assert "it was asked for before" in found.message
    assert not _made(standin)


def test_a_task_is_found_among_many_on_pages_without_order(tasks: FlowTasks, standin: StandIn) -> None:
    for attempt in range(1, 41):
        accepted = _submitted(tasks, _request(1, attempt=attempt))
        assert isinstance(accepted, SubmissionAccepted)
        standin.tasks.cancel(UUID(accepted.task_id))

    for attempt in (1, 20, 40):
        assert isinstance(_submitted(tasks, _request(1, attempt=attempt, again=True)), SubmissionAccepted)
    assert set(_made(standin).values()) == {1}


def test_an_answer_with_two_ids_of_one_task_is_one(tasks: FlowTasks, standin: StandIn) -> None:
    standin.faults.set([Fault(kind=FaultKind.TWICE, methods="*")])

    assert isinstance(_submitted(tasks, _request(1)), SubmissionAccepted)
    assert set(_made(standin).values()) == {1}


def test_no_call_begins_after_its_deadline(standin: StandIn) -> None:
    now = [0.0]
    settings = FlowSettings(address=standin.address, parallelism=1)
    with FlowTasks(settings, types=TYPES, monotonic=lambda: now[0]) as tasks:
        submit = tasks._submitter.submit

        def slowly(request: SubmissionRequest, until: float) -> tuple[Observation, ...]:
            found = submit(request, until)
            now[0] += 3
            return found

        tasks._submitter.submit = slowly  # type: ignore[method-assign]
        found = tasks.submit([_request(number) for number in range(1, 5)], DEADLINE)

    kinds = [type(one) for one in found]
    assert kinds == [SubmissionAccepted, SubmissionAccepted, SubmissionUnknown, SubmissionUnknown]
    assert tasks.capacity == 4


def test_one_that_no_call_can_carry_does_not_take_the_others_with_it(tasks: FlowTasks, standin: StandIn) -> None:
    unsealed = _request(1, payload='{"authentication_data": "s3cret"}')
    lone = _request(2, payload='{"target_version": "\\ud800"}')

    found = tasks.submit([unsealed, lone, _request(3), _request(4, description="a\ud800\0b")], DEADLINE)

    assert [type(one) for one in found] == [
        SubmissionRefused,
        SubmissionRefused,
        SubmissionAccepted,
        SubmissionAccepted,
    ]
    assert "it is not sealed" in found[0].message  # type: ignore[union-attr]
    assert "s3cret" not in str(found)
    assert set(_made(standin)) == {"spring [opdispatch run.3.1]", "a\\ud800\\x00b [opdispatch run.4.1]"}


def test_what_nobody_foresaw_is_unknown_for_one_and_told(
    tasks: FlowTasks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    call = tasks.channel.call

    def broken(method: str, request: Any, seconds: float, **more: Any) -> Any:
        if "run.1.1" in getattr(request, "description", ""):
            raise ZeroDivisionError("a mistake of ours")
        return call(method, request, seconds, **more)

    monkeypatch.setattr(tasks.channel, "call", broken)

    found = tasks.submit([_request(1), _request(2)], DEADLINE)

    assert [type(one) for one in found] == [SubmissionUnknown, SubmissionAccepted]
    assert "a mistake of ours" in found[0].message  # type: ignore[union-attr]
    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR] == [True]


def _moved(standin: StandIn, number: int, to: int) -> None:
    """Put a component into another rack, as its racks then see it."""
    part = standin.site.parts[UUID(str(component(number)))]
    standin.site.parts[part.id] = attrs.evolve(part, rack_id=UUID(str(rack_id(to))))


def test_of_tasks_on_several_racks_ours_is_first_and_the_others_are_told(tasks: FlowTasks, standin: StandIn) -> None:
    _moved(standin, 101, 2)

    found = tasks.submit([_request(1)], DEADLINE)

    racks = {str(task.id): task.rack_id for task in standin.tasks.all()}
    assert all(isinstance(one, SubmissionAccepted) for one in found)
    assert [racks[one.task_id] for one in found] == [rack_id(1), rack_id(2)]  # type: ignore[union-attr]


def test_tasks_that_are_all_on_other_racks_are_told_too(tasks: FlowTasks, standin: StandIn) -> None:
    _moved(standin, 1, 2)
    _moved(standin, 101, 3)

    found = tasks.submit([_request(1)], DEADLINE)

    assert {one.task_id for one in found} == {str(task.id) for task in standin.tasks.all()}  # type: ignore[union-attr]
    assert len(found) == 2


def test_tasks_on_several_racks_are_not_known_while_ours_cannot_be_told(tasks: FlowTasks, standin: StandIn) -> None:
    _moved(standin, 101, 2)
    _refuse(standin, "INTERNAL", "database is down", methods="ListTasks")

    found = _submitted(tasks, _request(1))

    assert isinstance(found, SubmissionUnknown)
    assert found.message.startswith("2 tasks were answered, and the rack cannot be looked at")


def test_a_close_ends_the_calls_that_hang_and_makes_none_of_those_that_wait(standin: StandIn) -> None:
    standin.faults.set([Fault(kind=FaultKind.HANG), Fault(kind=FaultKind.DROP_REPLY)])
    tasks = FlowTasks(FlowSettings(address=standin.address, parallelism=2), types=TYPES)
    with ThreadPoolExecutor(1) as caller:
        submitted = caller.submit(tasks.submit, [_request(number) for number in range(1, 8)], timedelta(minutes=5))
        eventually(lambda: standin.tasks.tally().created, until=lambda made: made == 2)

        tasks.close()

        found = submitted.result(timeout=30)
    assert [type(one) for one in found] == [SubmissionUnknown] * 7
    assert standin.tasks.tally().created == 2


# -- looks --


def _claim(number: int, *, bar: bool = False) -> ClaimRef:
    request = _request(number)
    return ClaimRef(target_id=request.target_id, attempt=1, fence=1, key=request.key, rack_id=request.rack_id, bar=bar)


def test_a_claim_is_looked_up_by_its_marker(tasks: FlowTasks, standin: StandIn) -> None:
    accepted = _submitted(tasks, _request(1))
    assert isinstance(accepted, SubmissionAccepted)

    found, absent = tasks.observe([_claim(1), _claim(2)], NOW)

    assert found == accepted
    assert isinstance(absent, SubmissionAbsent)
    assert not absent.barred
    _refuse(standin, "INTERNAL", "database is down", methods="ListTasks")
    assert tasks.observe([_claim(1)], NOW) == []


def test_a_key_is_barred_once_it_was_absent_long_enough(tasks: FlowTasks) -> None:
    def looked(seconds: float, *, bar: bool = True) -> bool:
        (found,) = tasks.observe([_claim(2, bar=bar)], NOW + timedelta(seconds=seconds))
        assert isinstance(found, SubmissionAbsent)
        return found.barred

    # What was not there while a submission could still follow tells nothing of what was submitted then.
    assert [looked(0, bar=False), looked(70), looked(129), looked(130)] == [False, False, False, True]
    assert [looked(140, bar=False), looked(200)] == [False, False]


def _accepted(tasks: FlowTasks, count: int) -> list[TaskRef]:
    refs = []
    for found in tasks.submit([_request(number) for number in range(1, count + 1)], DEADLINE):
        assert isinstance(found, SubmissionAccepted)
        refs.append(TaskRef(target_id=found.target_id, task_id=found.task_id))
    return refs


def _counting(standin: StandIn) -> Callable[[], int]:
    calls = Counter[str]()
    on = standin.faults.on

    def counted(method: str, named: Sequence[str] = ()) -> Any:
        calls[method] += 1
        return on(method, named)

    standin.faults.on = counted  # type: ignore[method-assign,assignment]
    return lambda: calls["GetTasksByIDs"]


def test_tasks_are_looked_at_in_batches_though_some_are_not_known(tasks: FlowTasks, standin: StandIn) -> None:
    refs = _accepted(tasks, 20)
    for ref in (refs[3], refs[11]):
        standin.tasks.forget(UUID(ref.task_id))
    looks = _counting(standin)

    found = {one.task_id: one for one in tasks.observe(refs, NOW)}  # type: ignore[union-attr]

    assert {type(found[ref.task_id]) for ref in (refs[3], refs[11])} == {TaskMissing}
    rest = [found[ref.task_id] for ref in refs if ref not in (refs[3], refs[11])]
    assert all(isinstance(one, TaskObserved) and one.status is TaskStatus.RUNNING for one in rest)
    # Three batches of seven; two of them are halved until the one that is not known stands alone.
    assert looks() <= 3 + 2 * 2 * 3


def test_what_cannot_be_looked_at_says_nothing(tasks: FlowTasks, standin: StandIn) -> None:
    refs = _accepted(tasks, 2)
    _refuse(standin, "INTERNAL", "database is down", methods="GetTasksByIDs")

    assert tasks.observe(refs, NOW) == []


def test_an_id_that_flow_never_gave_is_missing(tasks: FlowTasks) -> None:
    ref = TaskRef(target_id=TargetId(UUID(int=1)), task_id=TaskId("job-17"))

    assert tasks.observe([ref], NOW) == [TaskMissing(target_id=ref.target_id, task_id=ref.task_id, looked_at=NOW)]


def test_a_status_of_a_later_version_is_unknown(tasks: FlowTasks, standin: StandIn) -> None:
    refs = _accepted(tasks, 1)
    standin.faults.set([Fault(kind=FaultKind.UNKNOWN_STATUS, methods="*")])

    (found,) = tasks.observe(refs, NOW)

    assert isinstance(found, TaskObserved)
    assert found.status is TaskStatus.UNKNOWN


def test_other_components_than_were_asked_for_are_told_and_logged_once(
    tasks: FlowTasks, standin: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    standin.faults.set([Fault(kind=FaultKind.WRONG_COMPONENTS)])
    refs = _accepted(tasks, 1)

    for _ in range(2):
        (found,) = tasks.observe(refs, NOW)
        assert isinstance(found, TaskObserved)
        assert "Flow left 1 of 2 components out of the task" in found.message
    told = [record for record in caplog.records if "Flow left" in record.getMessage()]
    assert len(told) == 1


def test_a_task_on_another_rack_is_told(tasks: FlowTasks, standin: StandIn) -> None:
    for number in (1, 101):
        _moved(standin, number, 2)

    (found,) = tasks.observe(_accepted(tasks, 1), NOW)

    assert isinstance(found, TaskObserved)
    assert found.message == f"Running; the task is on rack {rack_id(2)}, and was asked for rack {rack_id(1)}"


def test_an_answer_about_other_tasks_is_not_believed(tasks: FlowTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = _accepted(tasks, 2)
    read = tasks.channel.read

    def mixed(method: str, request: Any, until: float | None = None) -> Any:
        reply = read(method, request, until)
        if method == "GetTasksByIDs":
            shuffled = [*reply.tasks, *reply.tasks][::-1]
            del reply.tasks[:]
            reply.tasks.extend([wire.Task(), *shuffled[:1]])
        return reply

    monkeypatch.setattr(tasks.channel, "read", mixed)

    (found,) = tasks.observe(refs, NOW)

    assert isinstance(found, TaskObserved)
    assert found.task_id == refs[1].task_id
    assert found.target_id == refs[1].target_id


# -- cancellations --


def test_tasks_are_cancelled(tasks: FlowTasks, standin: StandIn) -> None:
    refs = _accepted(tasks, 3)

    assert tasks.cancel(refs) == []
    assert {task.status for task in standin.tasks.all()} == {TaskStatus.TERMINATED}
    standin.tasks.forget(UUID(refs[0].task_id))
    assert tasks.cancel(refs) == []


def test_a_cancellation_that_is_refused_is_told(tasks: FlowTasks, standin: StandIn) -> None:
    refs = _accepted(tasks, 1)
    _refuse(standin, "UNKNOWN", "failed to terminate workflow for task x: engine", methods="CancelTask")

    (found,) = tasks.cancel(refs)

    assert isinstance(found, CancellationRefused)
    assert "failed to terminate workflow" in found.message
    _refuse(standin, "UNAVAILABLE", "gone", methods="CancelTask")
    assert tasks.cancel(refs) == []


# -- an outage --


def test_in_an_outage_nothing_is_called_and_nothing_fails(standin: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    caplog.set_level(logging.WARNING)
    settings = FlowSettings(address=standin.address, outage_after=3, probe_every=timedelta(seconds=10))
    with FlowTasks(settings, types=TYPES, monotonic=lambda: now[0]) as tasks:
        refs = [TaskRef(target_id=TargetId(UUID(int=n)), task_id=TaskId(str(UUID(int=n)))) for n in range(1, 4)]
        _refuse(standin, "UNAVAILABLE", "gone", methods="*")
        for _ in range(3):
            assert isinstance(_submitted(tasks, _request(1)), SubmissionUnknown)
        hits = standin.faults.hits[FaultKind.REFUSE]
        found = tasks.submit([_request(number) for number in range(1, 9)], DEADLINE)
        assert {type(one) for one in found} == {SubmissionUnknown}
        assert "it was not called" in found[0].message  # type: ignore[union-attr]
        assert tasks.observe(refs, NOW) == []
        assert standin.faults.hits[FaultKind.REFUSE] == hits
        standin.faults.set([])
        now[0] += 10

        assert isinstance(_submitted(tasks, _request(1)), SubmissionAccepted)
        assert len(tasks.submit([_request(number) for number in range(2, 9)], DEADLINE)) == 7
    assert not _made(standin) - Counter({f"spring [opdispatch run.{n}.1]": 1 for n in range(1, 9)})


def test_calls_that_had_no_time_left_are_no_outage(standin: StandIn) -> None:
    now = [0.0]
    settings = FlowSettings(address=standin.address, outage_after=1)
    with FlowTasks(settings, types=TYPES, monotonic=lambda: now[0]) as tasks:
        standin.faults.set([Fault(kind=FaultKind.HANG, methods="*")])
        with pytest.raises(NoAnswer, match="DEADLINE_EXCEEDED"):
            tasks.channel.read("Version", wire.VersionRequest(), until=0.05)
        assert not tasks.channel.breaker.is_open
        with pytest.raises(NoAnswer, match="DEADLINE_EXCEEDED"):
            tasks.channel.call("Version", wire.VersionRequest(), 0.05)
        assert tasks.channel.breaker.is_open


def test_keys_get_their_turn_however_slow_the_tasks_are(tasks: FlowTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = _accepted(tasks, 1)
    now = [0.0]
    monkeypatch.setattr(tasks.channel, "_monotonic", lambda: now[0])
    read = tasks.channel.read

    def slow(method: str, request: Any, until: float | None = None) -> Any:
        if method == "GetTasksByIDs":
            now[0] += 1000
        return read(method, request, until)

    monkeypatch.setattr(tasks.channel, "read", slow)

    assert [type(one) for one in tasks.observe([*refs, _claim(2)], NOW)] == [TaskObserved, SubmissionAbsent]


def test_a_read_is_repeated_by_the_channel(tasks: FlowTasks, standin: StandIn) -> None:
    refs = _accepted(tasks, 1)
    _refuse(standin, "UNAVAILABLE", "gone", methods="GetTasksByIDs", times=2)

    assert len(tasks.observe(refs, NOW)) == 1
