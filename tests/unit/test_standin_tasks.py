"""The stand-in's tasks held to rules: which two conflict, the queue of a rack, and a life that no look can change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final, NamedTuple
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from opdispatch.task import TaskStatus
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

RACK: Final = UUID(int=1)
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
DECOMMISSION: Final = "decommission"
Components = Mapping[str, tuple[UUID, ...]]


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


# -- which two conflict --


class Rule(NamedTuple):
    """Two kinds of work that conflict: each a type of task on a type of component, None for any of either."""

    one: str | None
    on_one: str | None
    other: str | None
    on_other: str | None
    shares: bool


RULES: Final = (
    Rule(POWER, "PowerShelf", POWER, None, False),
    Rule(POWER, "PowerShelf", FIRMWARE, None, False),
    Rule(POWER, "Compute", POWER, "Compute", True),
    Rule(POWER, "NVSwitch", POWER, "NVSwitch", True),
    Rule(POWER, "Compute", FIRMWARE, "Compute", True),
    Rule(POWER, "NVSwitch", FIRMWARE, "NVSwitch", True),
    Rule(FIRMWARE, None, FIRMWARE, None, True),
    Rule(BRING_UP, None, None, None, False),
    Rule(DECOMMISSION, None, None, None, False),
)


def _by_the_rules(one: str, ones: Components, other: str, others: Components) -> bool:
    shared = {i for ids in ones.values() for i in ids} & {i for ids in others.values() for i in ids}

    def fits(type_: str, parts: Components, wanted: str | None, on: str | None) -> bool:
        return wanted in (None, type_) and (on is None or bool(parts.get(on)))

    return any(
        fits(a, of_a, rule.one, rule.on_one)
        and fits(b, of_b, rule.other, rule.on_other)
        and (bool(shared) or not rule.shares)
        for a, of_a, b, of_b in ((one, ones, other, others), (other, others, one, ones))
        for rule in RULES
    )


_TYPES: Final = st.sampled_from([FIRMWARE, POWER, BRING_UP])
_PARTS: Final = st.dictionaries(
    st.sampled_from(["Compute", "NVSwitch", "PowerShelf", "CDU"]),
    # An id may be of two types: the rule for sharing asks for the id alone.
    st.lists(st.integers(1, 4).map(lambda n: UUID(int=n)), min_size=1, max_size=2, unique=True).map(tuple),
    min_size=1,
)


def _task(type_: str, components: Components) -> StandInTask:
    fate = Fate(duration=timedelta(seconds=1))
    return StandInTask(
        id=UUID(int=9),
        type=type_,
        phrase=type_,
        rack_id=RACK,
        components=components,
        description="",
        created_at=NOW,
        fate=fate,
    )


@settings(max_examples=400)
@given(one=_TYPES | st.just(DECOMMISSION), other=_TYPES | st.just(DECOMMISSION), ones=_PARTS, others=_PARTS)
def test_two_tasks_conflict_by_the_rules_and_by_no_other(
    one: str, other: str, ones: Components, others: Components
) -> None:
    expected = _by_the_rules(one, ones, other, others)

    assert conflicts(one, ones, _task(other, others)) is expected
    assert conflicts(other, others, _task(one, ones)) is expected


# -- lives --

PENDING_FOR: Final = timedelta(seconds=1)
WORK: Final = timedelta(seconds=10)
LEGAL: Final = {
    (TaskStatus.PENDING, "Pending"),
    (TaskStatus.PENDING, "Promoted: no conflicting active tasks"),
    (TaskStatus.WAITING, "Queued: waiting for rack to become available"),
    (TaskStatus.RUNNING, "Running"),
    (TaskStatus.COMPLETED, "Succeeded"),
    (TaskStatus.FAILED, "disk full"),
    (TaskStatus.TERMINATED, "Expired: queue timeout reached"),
    (TaskStatus.TERMINATED, "Cancelled by user"),
}
NEXT: Final = {
    TaskStatus.WAITING: {TaskStatus.PENDING, TaskStatus.TERMINATED},
    TaskStatus.PENDING: {TaskStatus.RUNNING, TaskStatus.TERMINATED},
    TaskStatus.RUNNING: {TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.TERMINATED},
}


class Step(NamedTuple):
    """Something that is asked of the model, and how many seconds later the next is."""

    cancels: int | None
    type: str
    components: Components
    queued: bool
    patience: int
    seconds: float


_STEPS: Final = st.lists(
    st.builds(
        Step,
        cancels=st.sampled_from([None] * 9 + list(range(1, 4))),
        type=_TYPES,
        components=_PARTS,
        queued=st.booleans() | st.just(True),
        patience=st.sampled_from([5, 60]),
        # Often at once, so that queues fill; quarters of a second are exact, so that neither model rounds.
        seconds=st.just(0.0) | st.integers(0, 48).map(lambda quarters: quarters / 4),
    ),
    max_size=16,
)


def _model(clock: Clock) -> TaskModel:
    def fate(rack: UUID, before: int) -> Fate:
        fails = before % 3 == 2
        return Fate(
            duration=WORK,
            status=TaskStatus.FAILED if fails else TaskStatus.COMPLETED,
            message="disk full" if fails else "Succeeded",
        )

    return TaskModel(clock, fate, starts_after=PENDING_FOR)


def _take(model: TaskModel, number: int, step: Step) -> None:
    if step.cancels is not None:
        model.cancel(UUID(int=step.cancels))
        return
    asked = Asked(
        type=step.type,
        phrase=step.type,
        rack_id=RACK,
        components=step.components,
        description=f"d{number}",
        queued=step.queued,
        queue_timeout=timedelta(seconds=step.patience),
    )
    model.submit(asked, UUID(int=number))


@settings(max_examples=60, deadline=None)
@given(_STEPS)
def test_it_makes_no_difference_when_a_task_is_looked_at(steps: Sequence[Step]) -> None:
    clock = Clock()
    watched, alone = _model(clock), _model(clock)
    for number, step in enumerate(steps, 1):
        _take(watched, number, step)
        _take(alone, number, step)
        for _ in range(int(step.seconds * 4)):
            clock.pass_(0.25)
            watched.all(RACK)

    assert watched.all(RACK) == alone.all(RACK)
    assert watched.tally() == alone.tally()


@settings(max_examples=60, deadline=None)
@given(_STEPS)
def test_a_rack_has_a_short_queue_in_order_and_never_two_that_conflict(steps: Sequence[Step]) -> None:
    clock = Clock()
    model = _model(clock)
    seen: dict[UUID, list[TaskStatus]] = {}
    for number, step in enumerate(steps, 1):
        _take(model, number, step)
        for _ in range(int(step.seconds * 4) + 1):
            tasks = model.all(RACK)
            _check(tasks, clock.now)
            for task in tasks:
                path = seen.setdefault(task.id, [])
                if not path or path[-1] is not task.status:
                    path.append(task.status)
            clock.pass_(0.25)

    for path in seen.values():
        # Looked at four times a second, no task of these jumps over a step.
        assert path[0] in (TaskStatus.WAITING, TaskStatus.PENDING)
        assert all(after in NEXT[before] for before, after in pairwise(path))


def test_who_waits_first_begins_first_though_another_could() -> None:
    clock = Clock()
    model = _model(clock)
    one, other = {"Compute": (UUID(int=1),)}, {"Compute": (UUID(int=2),)}

    def ask(number: int, components: Components, *, queued: bool) -> None:
        _take(model, number, Step(None, FIRMWARE, components, queued, 60, 0))

    ask(1, one, queued=False)
    clock.pass_(5)
    ask(2, other, queued=False)
    ask(3, other, queued=True)
    ask(4, one, queued=True)
    clock.pass_(6.5)
    assert [task.status.value for task in model.all(RACK)] == ["completed", "running", "waiting", "waiting"]
    clock.pass_(5)

    assert [task.status.value for task in model.all(RACK)] == ["completed", "completed", "pending", "pending"]


def _check(tasks: Sequence[StandInTask], now: datetime) -> None:
    active = [task for task in tasks if task.status in (TaskStatus.PENDING, TaskStatus.RUNNING)]
    for index, task in enumerate(active):
        assert not any(conflicts(task.type, task.components, other) for other in active[index + 1 :])
    waiting = [task for task in tasks if task.status is TaskStatus.WAITING]
    assert len(waiting) <= 5
    assert all(task.queue_expires_at is not None and task.queue_expires_at > now for task in waiting)
    if waiting:
        # The first of them waits for something; the others, at least for the first.
        first = waiting[0]
        assert any(conflicts(first.type, first.components, other) for other in active)
        assert not any(task.began_at for task in tasks[tasks.index(first) :] if task.queue_expires_at is not None)
    queued = [task for task in tasks if task.queue_expires_at is not None]
    began = [task.began_at for task in queued if task.began_at is not None]
    assert began == sorted(began)
    for task in tasks:
        assert (task.status, task.message) in LEGAL
        times = [task.created_at, task.began_at, task.started_at, task.finished_at]
        known = [at for at in times if at is not None]
        assert known == sorted(known)
        assert known[-1] <= now
        assert (task.finished_at is not None) is task.status.is_over
        assert task.updated_at is not None
        if task.status in (TaskStatus.COMPLETED, TaskStatus.FAILED):
            assert task.started_at is not None
            assert task.finished_at == task.started_at + WORK
