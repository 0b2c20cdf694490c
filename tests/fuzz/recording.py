"""Where golden files come from: real runs on a store in a file, calls to a server, tasks of a stand-in and of commands.

Nothing here is written by hand but the files that people write by hand.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

from opdispatch.action import Step, SubmitTask
from opdispatch.candidate import Scope
from opdispatch.command import Advance, Cancel, Command, Pause, Resume, Retry, Settle
from opdispatch.identity import CommandId, RunId, TaskId
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
from opdispatch.plan import new_run, plan
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.policy.gates import FailureCountGate, FailureRateGate, GateScope
from opdispatch.policy.ordering import LocationStrategy, PhysicalOrdering, RandomOrdering
from opdispatch.policy.phases import CountPhases, EqualPhases, NoPhases, PercentagePhases
from opdispatch.policy.selection import PercentageSelector
from opdispatch.rollout import Rollout
from opdispatch.target import Claimed, Submitted, Target, TargetStatus
from opdispatch.task import Operation, TaskRef, TaskStatus
from opdispatch_adapters.commands import CommandSettings, CommandTaskManager
from opdispatch_adapters.flow.server import OperationRuns
from opdispatch_adapters.flow.standin import Fates, StandIn, site_of
from opdispatch_adapters.memory import MemoryStore
from opdispatch_adapters.sql import SqliteStore, documents, migrate
from tests.integration.flow_kit import Racks, candidates, commands_on, served
from tests.integration.store_kit import a_command, a_round
from tests.integration.waiting import eventually
from tests.racks import component, rack

from . import surface_answers, surface_files, surface_requests, surface_rows

Files = Iterator[tuple[str, str, bytes]]
"""Kind, ending and bytes of each file."""
START: Final = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)


class Clock:
    """The time of the store: it goes on as the history does."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def _rollouts() -> Iterator[Rollout]:
    failures = FailureCountGate(threshold_count=2, scope=GateScope.CUMULATIVE_RUN)
    narrowed = FailureRateGate(threshold_percent=60, outcomes=frozenset({TargetStatus.FAILED}))
    operation = Operation(
        type="firmware_control", code="upgrade", description="to 2.14", payload='{"target_version":"2.14"}'
    )
    common = {"operation": operation, "selector": PercentageSelector(percentage=100, seed="sel-seed")}
    yield Rollout(
        name="spring firmware",
        description="BMC firmware 2.14",
        ordering=RandomOrdering(seed="ord-seed"),
        max_concurrent_targets=3,
        gates=(narrowed, failures),
        phases=CountPhases(counts=(2, 3)),
        conflict=ConflictRetry(window=timedelta(minutes=3), initial_delay=timedelta(seconds=20)),
        scope=Scope(labels={"group": ("a", "b")}, rows=("A",)),
        **common,  # type: ignore[arg-type]  # one dict, several types
    )
    yield Rollout(
        name="summer firmware \N{SNOWMAN}",
        ordering=PhysicalOrdering(strategy=LocationStrategy.ONE_PER_ROW_ROUND_ROBIN),
        max_concurrent_targets=2,
        gates=(failures,),
        phases=PercentagePhases(percentages=(20, 30, 50)),
        auto_advance=True,
        annex='{"queue_options":{"queue_timeout_seconds":5},"target_spec":{"racks":[{"name":"r1"}]}}',
        **common,  # type: ignore[arg-type]
    )
    yield Rollout(
        name="autumn firmware",
        ordering=PhysicalOrdering(strategy=LocationStrategy.ROW_BY_ROW),
        max_concurrent_targets=4,
        gates=(FailureRateGate(threshold_percent=90),),
        phases=EqualPhases(count=2),
        scope=Scope(component_types=("compute",), racks=tuple(f"r{number}" for number in range(1, 9))),
        **common,  # type: ignore[arg-type]
    )
    yield Rollout(
        name="winter firmware",
        ordering=RandomOrdering(seed="ord-seed"),
        max_concurrent_targets=10,
        gates=(FailureCountGate(threshold_count=50),),
        phases=NoPhases(),
        **common,  # type: ignore[arg-type]
    )


def _racks() -> list[Any]:
    place: dict[str, Any] = {"site": "dc", "room": "hall", "labels": {"group": ("a",)}}
    return [
        rack(
            number,
            {"compute": (component(number), component(100 + number)), "switch": (component(200 + number),)}
            if number % 3 == 0
            else None,
            row="AB"[number % 2],
            position=str(number),
            **place,
        )
        for number in range(1, 13)
    ]


def _told_of(target: Target, now: datetime, chance: Random) -> Observation | None:
    to: dict[str, Any] = {"target_id": target.id, "attempt": target.attempt, "fence": target.fence}
    match target.state:
        case Claimed(lease_until=lease_until):
            match chance.randrange(7):
                case 0 | 1:
                    return SubmissionAccepted(**to, task_id=TaskId(f"task-{target.rack_name}-{target.attempt}"))
                case 2 | 3:
                    return SubmissionConflicted(**to, message="the rack is busy")
                case 4:
                    return SubmissionRefused(**to, message="no such version \N{SNOWMAN}")
                case 5:
                    return SubmissionUnknown(**to, message="timed out")
                case _:
                    if now >= lease_until:
                        return SubmissionAbsent(**to, barred=chance.random() < 0.5, looked_at=now)
        case Submitted(task_id=task_id):
            match chance.randrange(8):
                case 0 | 1 | 2:
                    return _seen(target, task_id, chance.choice((TaskStatus.COMPLETED, TaskStatus.FAILED)), now)
                case 3:
                    return _seen(target, task_id, TaskStatus.TERMINATED, now)
                case 4:
                    return TaskMissing(target_id=target.id, task_id=task_id, looked_at=now)
                case 5:
                    return CancellationRefused(target_id=target.id, task_id=task_id, message="not now")
                case 6:
                    # A late answer: a second task of the same attempt.
                    return SubmissionAccepted(**to, task_id=TaskId(f"late-{target.rack_name}"))
                case _:
                    return _seen(target, task_id, TaskStatus.RUNNING, now)
    return None


def _seen(target: Target, task_id: TaskId, status: TaskStatus, now: datetime) -> Observation:
    return TaskObserved(target_id=target.id, task_id=task_id, status=status, message=f"{status} now", looked_at=now)


def _asked(targets: tuple[Target, ...], phase: int, number: int, chance: Random) -> Command:
    given: dict[str, Any] = {"command_id": CommandId(f"command-{number}"), "actor": "operator"}
    chosen = chance.choice(targets)
    settled = [target.id for target in targets if target.status.is_settled][:2]
    match chance.randrange(8):
        case 0:
            return Pause(**given)
        case 1 | 2:
            return Resume(**given, accept_failures=chance.choice((None, 1, 5, 20)))
        case 3 | 4:
            return Advance(**given, expected_phase=phase + 1)
        case 5 if settled:
            return Retry(**given, targets=tuple(settled))
        case 6:
            return Settle(**given, target=chosen.id, status=TargetStatus.SKIPPED, why="somebody did it by hand")
        case _:
            return Cancel(**given, why="enough") if number > 60 else Pause(**given)


def history(path: Path, ticks: int = 80, last: int = 6) -> tuple[RunId, ...]:
    """A store in this file whose runs have lived through everything that can happen to one."""
    chance, clock = Random(2026), Clock()
    migrate(path)
    made = []
    with closing(SqliteStore(path, clock=clock)) as store:
        for number, rollout in enumerate(_rollouts()):
            new = new_run(
                plan(_racks(), rollout), command_id=CommandId(f"create-{number}"), actor="operator", now=clock.now
            )
            store.create(new)
            made.append(new.run.id)
            # The last is left in the middle of its life.
            for tick in range(ticks if rollout.max_concurrent_targets < 10 else last):
                clock.now += timedelta(seconds=chance.choice((1, 7, 31, 200)))
                targets = tuple(store.targets(new.run.id))
                told = [_told_of(target, clock.now, chance) for target in targets]
                told += [
                    TaskObserved(
                        target_id=stray.target_id,
                        task_id=stray.task_id,
                        status=chance.choice((TaskStatus.RUNNING, TaskStatus.TERMINATED)),
                        message="late",
                        looked_at=clock.now,
                    )
                    for stray in store.strays(new.run.id)
                    if stray.is_open and chance.random() < 0.3
                ]
                a_round(store, new.run.id, *(one for one in told if one is not None and chance.random() < 0.7))
                if chance.random() < 0.3:
                    phase = store.get(new.run.id).run.phase
                    a_command(store, new.run.id, _asked(targets, phase, 100 * number + tick, chance))
    return tuple(made)


def _kinds_in(text: str) -> frozenset[str]:
    """The words of a document that are names of its kinds, as far as they tell documents apart."""
    return frozenset(
        word for word in text.replace("\\", "").split('"') if word.replace("_", "").isalpha() and len(word) < 40
    )


def _telling(texts: Iterable[str | None], most: int) -> list[str]:
    """A few of these texts that hold every word which any of them holds, the short ones first."""
    found: list[str] = []
    met: set[str] = set()
    for text in sorted({text for text in texts if text}, key=lambda text: (len(text), text)):
        words = _kinds_in(text)
        if not words <= met and len(found) < most:
            met |= words
            found.append(text)
    return found


_COLUMNS: Final = (
    *(("operation_run", column) for column in ("selector", "options", "operation_template", "accepted")),
    *(("operation_run_target", column) for column in ("components_by_type", "retry_state")),
    *(
        ("operation_run_journal", column)
        for column in ("command", "reply", "observations", "steps", "held_back", "limits")
    ),
)
_NAMES: Final = {"operation_template": "template", "components_by_type": "components"}


def _columns() -> Mapping[str, list[str]]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "store.db"
        history(path)
        with closing(sqlite3.connect(path)) as connection:
            return {
                _NAMES.get(column, column): _telling(
                    # The names are of this module.
                    (row[0] for row in connection.execute(f"SELECT {column} FROM {table}")),
                    24,
                )
                for table, column in _COLUMNS
            }


def documents_1() -> Files:
    """Documents as the first version wrote them: observations and steps are listed one by one."""
    for name, texts in _columns().items():
        for text in texts:
            if name == "observations":
                text = documents._written(documents.Observations, documents.observations_from(name, text))
            elif name == "steps":
                text = documents._written(documents.Steps, documents.steps_from(name, text))
            yield name, "json", text.encode("ascii")
    with_effects = documents.Steps
    requests = [effect for effect in _effects() if isinstance(effect, SubmitTask)][:1]
    steps = tuple(Step(action=request, because="a slot is free") for request in requests)
    yield "steps", "json", documents._written(with_effects, steps).encode("ascii")


def _effects() -> tuple[Any, ...]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "store.db"
        migrate(path)
        with closing(SqliteStore(path, clock=Clock())) as store:
            rollout = next(_rollouts())
            new = new_run(plan(_racks(), rollout), command_id=CommandId("create"), actor="operator", now=START)
            store.create(new)
            return a_round(store, new.run.id).effects


def documents_2() -> Files:
    """What is written in batches since."""
    for name, texts in _columns().items():
        if name in ("observations", "steps"):
            for text in texts:
                yield name, "json", text.encode("ascii")


def rows_2() -> Files:
    """A store with the tables of revision 0002, in the middle of the lives of its runs."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "store.db"
        history(path, ticks=5, last=8)
        yield "store", "sql", surface_rows.recorded(path)


def requests_1() -> Files:
    """Requests as callers of the operation-run server send them."""
    for method, data in surface_requests.recorded():
        yield method, "bin", data


def rollout_files_1() -> Files:
    """Rollout files as people write them."""
    for kind, data in surface_files.recorded_rollouts():
        yield kind, kind, data


def inventories_1() -> Files:
    """Files of an inventory as they were exported."""
    for kind, data in surface_files.exported().items():
        yield kind, "csv", data


class _Listening:
    """A stub that keeps the answers that came through it."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self.answers: dict[str, bytes] = {}

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(request: Any, timeout: float, metadata: Any) -> Any:
            answer = getattr(self._stub, method)(request, timeout=timeout, metadata=metadata)
            self.answers[method] = answer.SerializeToString(deterministic=True)
            return answer

        return call


def _of_a_stand_in() -> Mapping[str, bytes]:
    known = [
        rack(n, {"compute": (component(n), component(100 + n))}, site="dc", room="hall", row="A", position=str(n))
        for n in range(1, 3)
    ]
    site = site_of(known, surface_answers.TYPES.flow_type)
    with StandIn(site, Fates(duration=timedelta(hours=1)), clock=lambda: START) as started:
        client = surface_answers.Client(started.address)
        listening = _Listening(client.tasks.channel._stub)
        client.tasks.channel._stub = listening  # type: ignore[assignment]  # it listens to one
        try:
            asks = client.asks()
            begun = asks[surface_answers.UPGRADE]()[0]
            assert isinstance(begun, SubmissionAccepted)
            client.known = (begun.task_id,)
            for method, ask in client.asks().items():
                if method not in (surface_answers.UPGRADE, "GetComponents"):
                    ask()
            client.inventory.component_of("Compute", site.racks[known[0].id].parts[0].external_id)
        finally:
            client.close()
    return listening.answers


def _of_a_server() -> Mapping[str, bytes]:
    store = MemoryStore(clock=lambda: START)
    racks = Racks(candidates())
    runs = OperationRuns(store, racks, commands_on(store), externals=racks, clock=lambda: START)
    with served(runs) as stub:
        client = surface_answers.Client("127.0.0.1:1")
        listening = _Listening(stub)
        client.tasks.channel._stub = listening  # type: ignore[assignment]  # it listens to one
        try:
            client.asks_of_runs(surface_answers.RUN)["CreateOperationRun"]()
            for ask in client.asks_of_runs(store.list()[0].run_id).values():
                ask()
        finally:
            client.close()
    return listening.answers


def _of_a_command() -> Mapping[str, bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        settings = CommandSettings(work_directory=Path(scratch), command=("/bin/sleep", "0.3"))
        with CommandTaskManager(settings) as manager:
            manager.submit([surface_answers.submission()], timedelta(seconds=20))
            directory = Path(str(manager._directory(surface_answers.KEY)))
            manager.cancel([TaskRef(target_id=surface_answers.TARGET, task_id=TaskId(surface_answers.KEY))])
            eventually(lambda: (directory / "ended").exists())
            return {kind: (directory / kind).read_bytes() for kind in surface_answers.RECORDS}


def answers_1() -> Files:
    """What a stand-in, a server of ours and a local command answered, and observations for the core."""
    for method, data in {**_of_a_stand_in(), **_of_a_server()}.items():
        yield method, "bin", data
    for kind, data in _of_a_command().items():
        yield kind, "json", data
    for data in surface_answers.recorded_decisions():
        yield surface_answers.DECIDE, "json", data


RECORDINGS: Final[Mapping[tuple[str, int], Callable[[], Files]]] = {
    ("documents", 1): documents_1,
    ("documents", 2): documents_2,
    ("rows", 2): rows_2,
    ("requests", 1): requests_1,
    ("answers", 1): answers_1,
    ("rollout_files", 1): rollout_files_1,
    ("inventories", 1): inventories_1,
}
"""What is recorded for each version of each surface."""
