"""The stand-in's record: whoever comes back from it tells of each task what was told before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opdispatch.errors import CorruptRecord
from opdispatch.task import TaskStatus
from opdispatch_adapters.flow.standin.record import TaskRecord
from opdispatch_adapters.flow.standin.tasks import FIRMWARE, Asked, Fate, StandInTask, TaskModel

RACK, PART, NOW = UUID(int=1), UUID(int=10), datetime(2026, 1, 1, tzinfo=UTC)
WORK: Final = timedelta(seconds=10)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def _unrecorded(what: str, task: StandInTask, at: datetime) -> None:
    """Keep nothing."""


def _model(clock: Clock, record: TaskRecord | None = None, fate: Fate | None = None) -> TaskModel:
    write: Callable[[str, StandInTask, datetime], None] = _unrecorded if record is None else record.write
    return TaskModel(clock, lambda rack, before: fate or Fate(duration=WORK), record=write)


def _asked(description: str = "d", **more: object) -> Asked:
    given: dict[str, object] = {"components": {"Compute": (PART,)}, **more}
    return Asked(type=FIRMWARE, phrase="up", rack_id=RACK, description=description, **given)  # type: ignore[arg-type]


def _again(path: Path, clock: Clock) -> TaskModel:
    model = _model(clock)
    TaskRecord(path).restore(model)
    return model


def _told(model: TaskModel) -> list[StandInTask]:
    return model.all(RACK)


@pytest.fixture
def record(tmp_path: Path) -> Iterator[TaskRecord]:
    opened = TaskRecord(tmp_path / "state.jsonl")
    yield opened
    opened.close()


def test_a_task_that_was_let_in_by_a_cancel_has_still_begun_then(record: TaskRecord) -> None:
    clock = Clock()
    model = _model(clock, record, Fate(duration=timedelta(hours=2)))
    model.submit(_asked("first"), UUID(int=1))
    model.submit(_asked("second", queued=True), UUID(int=2))
    clock.pass_(5)
    model.cancel(UUID(int=1))
    # Later than the queue's timeout: had it gone on waiting, it would have expired.
    clock.pass_(3700)

    again = _again(record.path, clock)

    found = again.get(UUID(int=2))
    assert found is not None
    assert (found.status, found.started_at) == (TaskStatus.RUNNING, NOW + timedelta(seconds=5))
    assert _told(again) == _told(model)


def test_what_is_forgotten_lets_the_next_one_begin_then_and_after_a_restart(record: TaskRecord) -> None:
    clock = Clock()
    model = _model(clock, record)
    model.submit(_asked("first"), UUID(int=1))
    model.submit(_asked("second", queued=True), UUID(int=2))
    clock.pass_(1)
    model.forget(UUID(int=1))
    found = model.get(UUID(int=2))
    assert found is not None
    assert found.status is TaskStatus.RUNNING
    clock.pass_(1)

    again = _again(record.path, clock)

    assert _told(again) == _told(model)
    assert again.get(UUID(int=1)) is None


def test_a_task_that_ended_before_the_next_one_is_not_counted_as_alive_with_it(record: TaskRecord) -> None:
    clock = Clock()
    model = _model(clock, record)
    model.submit(_asked(), UUID(int=1))
    clock.pass_(60)
    model.submit(_asked(), UUID(int=2))

    again = _again(record.path, clock)

    assert again.tally() == model.tally()
    assert dict(again.tally().most_alive) == {"d": 1}


def test_a_failed_task_comes_back_with_its_message_and_end(record: TaskRecord) -> None:
    clock = Clock()
    model = _model(clock, record)
    model.submit(_asked(components={}), UUID(int=1))
    clock.pass_(1)

    (found,) = _told(_again(record.path, clock))

    assert (found.status, found.message, found.finished_at) == (TaskStatus.FAILED, "rack has no component", NOW)


_STEPS: Final = st.lists(
    st.tuples(st.sampled_from(["submit", "queue", "cancel", "forget"]), st.integers(1, 6), st.floats(0, 30)),
    max_size=14,
)


@settings(max_examples=60, deadline=None)
@given(_STEPS)
def test_a_record_tells_whatever_was_told(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, float]]
) -> None:
    clock, record = Clock(), TaskRecord(tmp_path_factory.mktemp("record") / "state.jsonl")
    model = _model(clock, record)
    for number, (what, which, seconds) in enumerate(steps, 1):
        if what == "cancel":
            model.cancel(UUID(int=which))
        elif what == "forget":
            model.forget(UUID(int=which))
        else:
            queued = what == "queue"
            asked = _asked(f"d{which}", queued=queued, queue_timeout=timedelta(seconds=15))
            model.submit(asked, UUID(int=number))
        clock.pass_(seconds)
    record.close()

    again = _again(record.path, clock)

    assert _told(again) == _told(model)
    assert again.tally() == model.tally()


def test_what_cannot_happen_to_a_task_is_refused_with_its_line(record: TaskRecord) -> None:
    record.path.write_text('{"what": "praised", "id": "00000000-0000-0000-0000-000000000001"}\n')

    with pytest.raises(CorruptRecord, match=r"state.jsonl:1.*'praised' is nothing that happens to a task"):
        _again(record.path, Clock())


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "Failed"), ("disk full\nat line 3", "disk full"), ("é" * 300, "é" * 256)],
)
def test_a_failure_is_told_in_one_line_of_512_bytes(text: str, told: str) -> None:
    clock = Clock()
    model = _model(clock, fate=Fate(duration=WORK, status=TaskStatus.FAILED, message=text))
    model.submit(_asked(), UUID(int=1))
    clock.pass_(11)

    found = model.get(UUID(int=1))

    assert found is not None
    assert (found.status, found.message) == (TaskStatus.FAILED, told)
