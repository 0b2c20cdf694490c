"""The parts of Flow's client: the breaker, which task may be in the way, the settings, the place of a rack; and the
stand-in's own rules, which the former are held to."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import grpc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opdispatch.command import Advance, Pause
from opdispatch.errors import CorruptRecord, InvalidInput, Unavailable
from opdispatch.identity import CommandId, ComponentId, RunId
from opdispatch.policy.gates import FailureCountGate, FailureRateGate
from opdispatch.policy.phases import CountPhases, EqualPhases
from opdispatch.task import Operation, TaskStatus
from opdispatch_adapters.flow.client import FlowSettings, RemoteRuns
from opdispatch_adapters.flow.client.breaker import Breaker
from opdispatch_adapters.flow.client.channel import CallRefused
from opdispatch_adapters.flow.client.conflicts import may_conflict
from opdispatch_adapters.flow.client.inventory import Place
from opdispatch_adapters.flow.client.remote_values import create_request
from opdispatch_adapters.flow.fields import MOST_NUMBER
from opdispatch_adapters.flow.server.failure import failure_of
from opdispatch_adapters.flow.standin.faults import Fault, FaultKind, Faults, faults_in
from opdispatch_adapters.flow.standin.tasks import (
    BRING_UP,
    FIRMWARE,
    POWER,
    Asked,
    Fate,
    StandInTask,
    TaskModel,
    conflicts,
)
from tests.racks import places, rollout

RACK: Final = UUID(int=1)
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        return (self.now - NOW).total_seconds()

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


# -- the breaker --


def test_a_breaker_opens_after_silence_and_closes_with_the_first_answer(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    breaker = Breaker("Flow", 3, timedelta(seconds=5), clock.seconds)
    for _ in range(2):
        breaker.unanswered("UNAVAILABLE")
        assert breaker.lets_through()
    breaker.answered()
    opened = []
    for _ in range(3):
        breaker.unanswered("UNAVAILABLE")
        opened.append(breaker.is_open)

    assert opened == [False, False, True]
    assert not breaker.lets_through()
    clock.pass_(5)
    assert [breaker.lets_through() for _ in range(3)] == [True, False, False]
    breaker.unanswered("UNAVAILABLE")
    assert not breaker.lets_through()
    clock.pass_(5)
    assert breaker.lets_through()
    breaker.answered()
    assert not breaker.is_open
    assert [record.message for record in caplog.records] == [
        "Flow does not answer, and is asked only now and again until it does: UNAVAILABLE",
        "Flow answers again",
    ]


# -- conflicts --

COMPUTE, SWITCH, SHELF = UUID(int=11), UUID(int=12), UUID(int=13)
OTHER: Final = UUID(int=14)
PHRASES: Final = {
    FIRMWARE: "FirmwareUpgrade, target version 2",
    POWER: "PowerOn, forced false",
    BRING_UP: "rack bring-up",
}
CODES: Final = {FIRMWARE: "upgrade", POWER: "power_on", BRING_UP: "bring_up"}


def _task(type_: str, components: dict[str, tuple[UUID, ...]]) -> StandInTask:
    return StandInTask(
        id=UUID(int=99),
        type=type_,
        phrase=PHRASES[type_],
        rack_id=RACK,
        components=components,
        description="",
        created_at=NOW,
        fate=Fate(duration=timedelta(seconds=1)),
    )


@pytest.mark.parametrize(
    ("one", "ones", "other", "others", "expected"),
    [
        (POWER, {"PowerShelf": (SHELF,)}, POWER, {"Compute": (COMPUTE,)}, True),
        (POWER, {"PowerShelf": (SHELF,)}, FIRMWARE, {"Compute": (COMPUTE,)}, True),
        (POWER, {"Compute": (COMPUTE,)}, POWER, {"Compute": (COMPUTE,)}, True),
        (POWER, {"Compute": (COMPUTE,)}, POWER, {"Compute": (OTHER,)}, False),
        (POWER, {"NVSwitch": (SWITCH,)}, POWER, {"NVSwitch": (SWITCH,)}, True),
        (POWER, {"NVSwitch": (SWITCH,)}, POWER, {"Compute": (COMPUTE,)}, False),
        (POWER, {"Compute": (COMPUTE,)}, FIRMWARE, {"Compute": (COMPUTE,)}, True),
        (POWER, {"NVSwitch": (SWITCH,)}, FIRMWARE, {"NVSwitch": (SWITCH,)}, True),
        (POWER, {"Compute": (COMPUTE,)}, FIRMWARE, {"Compute": (OTHER,)}, False),
        (POWER, {"CDU": (OTHER,)}, POWER, {"CDU": (OTHER,)}, False),
        # Both are on a tray, and what they share is another thing.
        (POWER, {"Compute": (COMPUTE,), "CDU": (OTHER,)}, FIRMWARE, {"Compute": (SWITCH,), "CDU": (OTHER,)}, True),
        (FIRMWARE, {"Compute": (COMPUTE,)}, FIRMWARE, {"Compute": (COMPUTE, OTHER)}, True),
        (FIRMWARE, {"Compute": (COMPUTE,)}, FIRMWARE, {"NVSwitch": (SWITCH,)}, False),
        (BRING_UP, {"Compute": (COMPUTE,)}, FIRMWARE, {"NVSwitch": (SWITCH,)}, True),
        (BRING_UP, {"Compute": (COMPUTE,)}, BRING_UP, {"NVSwitch": (SWITCH,)}, True),
    ],
)
def test_two_tasks_conflict_as_the_contract_says(
    one: str, ones: dict[str, tuple[UUID, ...]], other: str, others: dict[str, tuple[UUID, ...]], expected: bool
) -> None:
    assert conflicts(one, ones, _task(other, others)) is expected
    assert conflicts(other, others, _task(one, ones)) is expected


_SETS: Final = st.dictionaries(
    st.sampled_from(["Compute", "NVSwitch", "PowerShelf", "CDU"]),
    st.sets(st.integers(1, 4), min_size=1, max_size=2),
    min_size=1,
)


def _typed(drawn: dict[str, set[int]]) -> dict[str, tuple[UUID, ...]]:
    """Components whose ids tell their type, so that no id is of two."""
    return {kind: tuple(UUID(int=1000 * len(kind) + n) for n in sorted(ids)) for kind, ids in drawn.items()}


@given(
    one=st.sampled_from([FIRMWARE, POWER, BRING_UP]),
    other=st.sampled_from([FIRMWARE, POWER, BRING_UP]),
    ones=_SETS,
    others=_SETS,
)
@example(one=POWER, other=FIRMWARE, ones={"Compute": {1}, "CDU": {3}}, others={"Compute": {2}, "CDU": {3}})
def test_what_conflicts_is_never_taken_for_harmless(
    one: str, other: str, ones: dict[str, set[int]], others: dict[str, set[int]]
) -> None:
    mine, theirs = _typed(ones), _typed(others)
    components: Any = {kind: tuple(map(ComponentId, ids)) for kind, ids in mine.items()}
    ids = frozenset(i for group in theirs.values() for i in group)
    operation = Operation(type=one, code=CODES[one])

    if conflicts(one, mine, _task(other, theirs)):
        assert may_conflict(operation, components, PHRASES[other], ids)


def test_a_task_that_cannot_be_in_the_way_is_not_blamed() -> None:
    operation = Operation(type=FIRMWARE, code="upgrade")
    components = {"Compute": (ComponentId(COMPUTE),)}

    assert not may_conflict(operation, components, PHRASES[FIRMWARE], frozenset({OTHER}))
    assert may_conflict(operation, components, "something new", frozenset({OTHER}))


# -- the stand-in's tasks --


def _model(clock: Clock, **fate: Any) -> TaskModel:
    return TaskModel(
        clock, lambda rack, before: Fate(duration=timedelta(seconds=10), **fate), starts_after=timedelta(seconds=1)
    )


def _asked(type_: str = FIRMWARE, description: str = "d", **more: Any) -> Asked:
    components = more.pop("components", {"Compute": (COMPUTE,)})
    return Asked(
        type=type_, phrase=PHRASES[type_], rack_id=RACK, components=components, description=description, **more
    )


def test_a_task_lives_by_the_clock() -> None:
    clock = Clock()
    model = _model(clock)
    task = model.submit(_asked(), UUID(int=5))
    assert task is not None
    seen = []
    for seconds in (0, 1, 9.5, 0.5):
        clock.pass_(seconds)
        found = model.get(task.id)
        assert found is not None
        seen.append((found.status, found.message))

    assert seen == [
        (TaskStatus.PENDING, "Pending"),
        (TaskStatus.RUNNING, "Running"),
        (TaskStatus.RUNNING, "Running"),
        (TaskStatus.COMPLETED, "Succeeded"),
    ]
    assert (task.started_at, task.finished_at) == (NOW + timedelta(seconds=1), NOW + timedelta(seconds=11))


def test_a_busy_rack_refuses_or_queues_five_in_order() -> None:
    clock = Clock()
    model = _model(clock)
    first = model.submit(_asked(), UUID(int=1))
    assert first is not None
    assert model.submit(_asked(), UUID(int=2)) is None
    waiting = [model.submit(_asked(queued=True), UUID(int=n)) for n in range(3, 8)]
    assert model.submit(_asked(queued=True), UUID(int=8)) is None
    assert {task.status for task in waiting if task is not None} == {TaskStatus.WAITING}

    clock.pass_(11)

    found = model.all(RACK)
    assert [t.status for t in found[:3]] == [TaskStatus.COMPLETED, TaskStatus.PENDING, TaskStatus.WAITING]
    assert found[1].message == "Promoted: no conflicting active tasks"
    clock.pass_(100)
    assert all(t.status is TaskStatus.COMPLETED for t in model.all(RACK))


def test_a_queued_task_expires_and_an_ended_one_stays() -> None:
    clock = Clock()
    model = _model(clock)
    model.submit(_asked(), UUID(int=1))
    model.submit(_asked(queued=True, queue_timeout=timedelta(seconds=2)), UUID(int=2))
    clock.pass_(3)

    expired = model.get(UUID(int=2))
    assert expired is not None
    assert (expired.status, expired.message) == (TaskStatus.TERMINATED, "Expired: queue timeout reached")
    cancelled = model.cancel(UUID(int=1))
    assert cancelled is not None
    assert (cancelled.status, cancelled.message) == (TaskStatus.TERMINATED, "Cancelled by user")
    assert model.cancel(UUID(int=404)) is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([FIRMWARE, POWER, BRING_UP]), _SETS, st.booleans(), st.floats(0, 12)), max_size=12
    )
)
def test_never_are_two_tasks_active_that_conflict(steps: list[tuple[str, dict[str, set[int]], bool, float]]) -> None:
    clock = Clock()
    model = _model(clock)
    for number, (type_, drawn, queued, seconds) in enumerate(steps):
        model.submit(_asked(type_, components=_typed(drawn), queued=queued), UUID(int=number + 1))
        clock.pass_(seconds)
        active = [t for t in model.all(RACK) if t.status in (TaskStatus.PENDING, TaskStatus.RUNNING)]
        for index, task in enumerate(active):
            assert not any(conflicts(task.type, task.components, other) for other in active[index + 1 :])


def test_what_is_asked_for_twice_is_counted() -> None:
    clock = Clock()
    model = _model(clock)
    model.submit(_asked(description="a"), UUID(int=1))
    clock.pass_(20)
    model.submit(_asked(description="a"), UUID(int=2))
    model.forget(UUID(int=2))
    model.submit(_asked(description="a"), UUID(int=3))

    tally = model.tally()

    assert (tally.created, dict(tally.by_description), dict(tally.most_alive)) == (3, {"a": 3}, {"a": 1})


# -- its faults --


def test_a_fault_hits_the_calls_that_it_is_for() -> None:
    faults = Faults(
        [
            Fault(kind=FaultKind.SLOW, methods="Get*", first=1, times=2),
            Fault(kind=FaultKind.HANG, rack="r1"),
            Fault(kind=FaultKind.TWICE, probability=0.0),
        ]
    )

    assert [list(faults.on("GetTasksByIDs")) for _ in range(4)] == [[], [FaultKind.SLOW], [FaultKind.SLOW], []]
    assert list(faults.on("UpgradeFirmware", ["r1"])) == [FaultKind.HANG]
    assert list(faults.on("UpgradeFirmware", ["r2"])) == []
    assert dict(faults.hits) == {FaultKind.SLOW: 2, FaultKind.HANG: 1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = ", "it is not TOML"),
        ("x = 1", "it has x"),
        ('[[fault]]\nmethods = "*"', r"fault\[0\]: it has no kind"),
        ('[[fault]]\nkind = "boredom"', r"fault\[0\].kind: 'boredom' is none"),
        ('[[fault]]\nkind = "slow"\nhow = 1', r"fault\[0\]: it does not know how"),
        (None, "it cannot be read"),
    ],
)
def test_a_file_of_faults_that_means_nothing_is_refused(tmp_path: Any, text: str | None, told: str) -> None:
    path = tmp_path / "faults.toml"
    if text is not None:
        path.write_text(text)

    with pytest.raises(InvalidInput, match=told):
        faults_in(path)


def test_a_file_of_faults_is_read(tmp_path: Any) -> None:
    path = tmp_path / "faults.toml"
    path.write_text('[[fault]]\nkind = "late"\nseconds = 0.5\n')

    assert faults_in(path) == (Fault(kind=FaultKind.LATE, seconds=0.5),)


# -- settings and places --


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"address": "nowhere"}, "'nowhere' is no address"),
        ({"address": "127.0.0.1:0"}, "is no address"),
        ({"address": "10.0.0.1:5"}, "is another host, and there are no certificates"),
        ({"address": "localhost:5", "parallelism": 0}, "flow.parallelism: 0 is below 1"),
        ({"address": "localhost:5", "read_deadline": timedelta(0)}, "flow.read_deadline: .* is not above zero"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        FlowSettings(**given)


@pytest.mark.parametrize("address", ["localhost:5", "127.0.0.1:5", "[::1]:5"])
def test_the_loopback_needs_no_certificates(address: str) -> None:
    assert FlowSettings(address=address).certificates is None


def test_a_place_is_read_by_a_pattern() -> None:
    assert Place().read("A-07") == (None, "A-07")
    assert Place().read("") == (None, None)
    pattern = Place(pattern=r"(?P<row>[A-Z])-(?P<position>\d+)")
    assert pattern.read("A-07") == ("A", "07")
    assert pattern.read("nowhere") == (None, None)
    with pytest.raises(InvalidInput, match="is no regular expression"):
        Place(pattern="(")
    with pytest.raises(InvalidInput, match="has no group called row"):
        Place(pattern="(?P<aisle>.)")


# -- what a server cannot be told --


BIG: Final = 3_000_000_000


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"max_concurrent_targets": BIG}, "$.max_concurrent_targets"),
        ({"gates": (FailureRateGate(threshold_percent=5), FailureCountGate(threshold_count=BIG))}, "$.gates[1]."),
        ({"phases": EqualPhases(count=BIG)}, "$.phases.count"),
        ({"phases": CountPhases(counts=(1, BIG))}, "$.phases.counts[1]"),
    ],
)
def test_a_number_that_no_field_can_hold_is_refused_with_its_place(changed: dict[str, Any], place: str) -> None:
    with pytest.raises(
        InvalidInput, match="3000000000 is more than a server can be told; give at most 2147483647"
    ) as e:
        create_request(rollout(**changed))

    assert places(e.value)[0].startswith(place)


def test_the_largest_number_is_told() -> None:
    told = create_request(rollout(max_concurrent_targets=MOST_NUMBER, gates=(FailureCountGate(threshold_count=9),)))

    assert told.configuration.options.max_concurrent_targets == MOST_NUMBER


def test_a_credential_in_a_rollout_is_refused_and_not_shown() -> None:
    payload = '{"target_version": "2", "authentication_data": {"shared": "s3cret"}}'
    asked = replace(rollout(), operation=Operation(type=FIRMWARE, code="upgrade", payload=payload))

    with pytest.raises(InvalidInput, match="a credential in a rollout is not sent to a server") as error:
        create_request(asked)

    assert places(error.value) == ["$.operation.payload.authentication_data"]
    assert "s3cret" not in str(error.value)


# -- what a server answers --


class Answers:
    """A channel to a server that refuses each call with these."""

    settings = FlowSettings(address="localhost:5")

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        self.refusal = CallRefused(code, text)
        self.called = 0

    def call(self, *_: object) -> Any:
        self.called += 1
        raise self.refusal


@pytest.mark.parametrize(
    ("code", "text", "told"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", "localhost:5: it has no such call: Method not found!"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max (9 vs. 4)", "larger than max"),
    ],
)
def test_a_server_that_will_never_answer_is_not_asked_again(code: grpc.StatusCode, text: str, told: str) -> None:
    channel: Any = Answers(code, text)

    with pytest.raises(InvalidInput, match=re.escape(told)):
        RemoteRuns(channel).count()


def test_a_record_that_a_server_cannot_read_is_told_as_one() -> None:
    sent = failure_of(CorruptRecord("run r1", "version 9", "restore it"), "GetOperationRun")
    channel: Any = Answers(sent.code, sent.text)

    with pytest.raises(CorruptRecord) as error:
        RemoteRuns(channel).get(RunId(RACK))

    assert str(error.value) == "run r1 cannot be read: server localhost:5 says so; restore it"


def test_what_else_goes_wrong_in_a_server_may_go_well_later() -> None:
    channel: Any = Answers(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2")

    with pytest.raises(Unavailable, match="RST_STREAM"):
        RemoteRuns(channel).count()


@pytest.mark.parametrize(
    ("request_id", "actor", "place"),
    [("ü", "ada", "--request-id"), ("a\tb", "ada", "--request-id"), ("one", "a\nda", "--actor")],
)
def test_what_metadata_cannot_carry_is_refused_before_the_call(request_id: str, actor: str, place: str) -> None:
    channel: Any = Answers(grpc.StatusCode.UNIMPLEMENTED, "")

    with pytest.raises(InvalidInput, match="cannot be sent to a server") as error:
        RemoteRuns(channel).command(RunId(RACK), Pause(command_id=CommandId(request_id), actor=actor))

    assert places(error.value) == [place]
    assert channel.called == 0


def test_an_advance_to_a_phase_that_no_field_can_hold_is_refused_before_the_call() -> None:
    channel: Any = Answers(grpc.StatusCode.UNIMPLEMENTED, "")

    with pytest.raises(InvalidInput, match="is more than a server can be told") as error:
        RemoteRuns(channel).command(
            RunId(RACK), Advance(command_id=CommandId("one"), actor="ada", expected_phase=99_999_999_999)
        )

    assert places(error.value) == ["--expect"]
    assert channel.called == 0
