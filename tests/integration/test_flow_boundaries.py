"""What happens between any two steps: a request that is repeated after a fault, a service that is stopped in a tick."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import grpc
import pytest

from opdispatch.errors import Unavailable
from opdispatch.identity import CommandId, RunId
from opdispatch.observation import Observation
from opdispatch.plan import new_run, plan
from opdispatch.ports import Store
from opdispatch.run import RunStatus
from opdispatch.task import Ref, SubmissionRequest, TaskRef
from opdispatch_adapters.dispatcher import Dispatcher, Settings
from opdispatch_adapters.flow.client import FlowSettings, FlowTasks
from opdispatch_adapters.flow.server import OperationRuns
from opdispatch_adapters.flow.standin import Fates, StandIn, site_of
from opdispatch_adapters.flow.wire import flow_pb2 as wire
from opdispatch_adapters.flow.wire import flow_pb2_grpc
from opdispatch_adapters.memory import MemoryStore
from opdispatch_adapters.sql import SqlStore, migrate, open_store
from tests.integration.flow_kit import Racks, a_request, candidates, commands_on, served, to_the_end_of_the_phase
from tests.integration.waiting import eventually
from tests.racks import racks, rollout

FAILS: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL})


class Boundaries:
    """A store, and each of its steps a boundary: before the step, and after it was done.  One of them is hit once."""

    def __init__(self, store: Any, hit: Callable[[], None]) -> None:
        self._store = store
        self._hit = hit
        self.passed = 0
        self.at: int | None = None

    def _pass(self) -> None:
        self.passed += 1
        if self.at is not None and self.passed == self.at:
            self._hit()

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A call with a boundary on either side."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._pass()
            found = call(*args, **kwargs)
            self._pass()
            return found

        return wrapped

    @contextmanager
    def lock(self, run_id: RunId, wait: timedelta) -> Iterator[Any]:
        self._pass()
        with self._store.lock(run_id, wait) as held:
            self._pass()
            yield None if held is None else _Held(held, self)
        # The transaction is over; whoever waits for its outcome may never hear of it.
        self._pass()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return self.around(found) if callable(found) else found


class _Held:
    def __init__(self, held: Any, boundaries: Boundaries) -> None:
        self.load = boundaries.around(held.load)
        self.replied = boundaries.around(held.replied)
        self.apply = boundaries.around(held.apply)


# -- requests that are repeated --


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    migrate(tmp_path / "runs.db")
    with open_store(tmp_path / "runs.db") as opened:
        yield opened


def _gone() -> None:
    raise Unavailable("the store", "the connection was lost")


@contextmanager
def _faulty(store: SqlStore) -> Iterator[tuple[flow_pb2_grpc.FlowStub, Boundaries]]:
    boundaries = Boundaries(store, _gone)
    faulty: Any = boundaries
    known = Racks(candidates())
    with served(OperationRuns(faulty, known, commands_on(faulty), externals=known)) as stub:
        yield stub, boundaries


def _repeated(boundaries: Boundaries, at: int, call: Callable[[], Any]) -> Any:
    """The reply to a call that meets a fault at a boundary, repeated until it is answered."""
    boundaries.passed, boundaries.at = 0, at
    for _ in range(5):
        try:
            return call()
        except grpc.RpcError as error:
            found: Any = error
            assert found.code() in FAILS, found.details()
    raise AssertionError("it is never answered")


def test_a_repeated_create_makes_one_run_wherever_it_was_cut(store: SqlStore) -> None:
    request = a_request(seeds=lambda r: r.configuration.selector.percentage.ClearField("seed"))
    with _faulty(store) as (stub, boundaries):
        stub.CreateOperationRun(request, metadata=(("x-request-id", "measure"),))
        steps = boundaries.passed
        assert steps >= 3
        for at in range(1, steps + 1):
            before = store.count()
            once = (("x-request-id", f"create-{at}"),)

            made = _repeated(boundaries, at, lambda: stub.CreateOperationRun(request, metadata=once))  # noqa: B023

            assert store.count() == before + 1
            boundaries.at = None
            assert stub.CreateOperationRun(request, metadata=once) == made


COMMANDS: Final[Sequence[tuple[str, Any, RunStatus]]] = (
    ("PauseOperationRun", wire.PauseOperationRunRequest, RunStatus.PAUSED),
    ("ResumeOperationRun", wire.ResumeOperationRunRequest, RunStatus.RUNNING),
    ("AdvanceOperationRunPhase", wire.AdvanceOperationRunPhaseRequest, RunStatus.RUNNING),
    ("CancelOperationRun", wire.CancelOperationRunRequest, RunStatus.CANCELLED),
)


@pytest.mark.parametrize(("method", "message", "status"), COMMANDS, ids=[one[0] for one in COMMANDS])
def test_a_repeated_command_has_one_effect_wherever_it_was_cut(
    store: SqlStore, method: str, message: Any, status: RunStatus
) -> None:
    with _faulty(store) as (stub, boundaries):

        def prepared() -> wire.UUID:
            two = a_request(two=lambda r: setattr(r.configuration.options.phase_policy.equal, "phase_count", 2))
            run = stub.CreateOperationRun(two).id
            if method == "AdvanceOperationRunPhase":
                to_the_end_of_the_phase(store, RunId(UUID(run.id)))
            if method == "ResumeOperationRun":
                stub.PauseOperationRun(wire.PauseOperationRunRequest(id=run))
            return run

        first = prepared()
        boundaries.passed = 0
        getattr(stub, method)(message(id=first))
        steps = boundaries.passed
        assert steps >= 8
        for at in range(1, steps + 1):
            boundaries.at = None
            run = prepared()
            run_id = RunId(UUID(run.id))
            before = store.get(run_id).run.revision
            once = (("x-request-id", f"{method}-{at}"),)

            told = _repeated(
                boundaries,
                at,
                lambda: getattr(stub, method)(message(id=run), metadata=once),  # noqa: B023
            )

            boundaries.at = None
            assert store.get(run_id).run.revision == before + 1
            assert store.get(run_id).run.status is status
            assert getattr(stub, method)(message(id=run), metadata=once) == told


def test_the_same_request_at_the_same_time_makes_one_run(store: SqlStore) -> None:
    with _faulty(store) as (stub, _), ThreadPoolExecutor(8) as threads:
        once = (("x-request-id", "all at once"),)

        made = list(threads.map(lambda _: stub.CreateOperationRun(a_request(), metadata=once).id.id, range(8)))

    assert len(set(made)) == 1
    assert store.count() == 1


# -- a stop at every boundary of a tick --


class _Stoppable:
    """A task manager whose calls are boundaries, too."""

    def __init__(self, tasks: FlowTasks, boundaries: Boundaries) -> None:
        self._tasks = tasks
        self.submit: Callable[[Sequence[SubmissionRequest], timedelta], Sequence[Observation]] = boundaries.around(
            tasks.submit
        )
        self.observe: Callable[[Sequence[Ref], datetime], Sequence[Observation]] = boundaries.around(tasks.observe)
        self.cancel: Callable[[Sequence[TaskRef]], Sequence[Observation]] = boundaries.around(tasks.cancel)
        self.on_change = tasks.on_change

    @property
    def capacity(self) -> int | None:
        return self._tasks.capacity


SHORT: Final = Settings(
    poll=timedelta(seconds=0.1),
    call_deadline=timedelta(seconds=0.5),
    claim_lease=timedelta(seconds=1.5),
    service_lease=timedelta(seconds=0.5),
)
STEPS: Final = 60


def _stopped_at(address: str, at: int) -> tuple[Store, RunId, int]:
    """A run that is dispatched, stopped at a boundary, and dispatched on by another; with the boundaries passed."""
    memory = MemoryStore()
    made = plan(racks(6), rollout(max_concurrent_targets=2, gates=()))
    run_id = memory.create(new_run(made, command_id=CommandId(f"stop-{at}"), actor="ada", now=datetime.now(UTC))).id
    with FlowTasks(FlowSettings(address=address, parallelism=2)) as tasks:
        boundaries = Boundaries(memory, lambda: stopped.append(dispatcher.stop(timedelta(0))))
        boundaries.at = at
        stopped: list[bool] = []
        faulty: Any = boundaries
        dispatcher = Dispatcher(faulty, _Stoppable(tasks, boundaries), SHORT)
        dispatcher.start()
        eventually(lambda: bool(stopped) or memory.get(run_id).run.status.is_terminal)
        assert dispatcher.stop(timedelta(seconds=20))
        with Dispatcher(memory, tasks, SHORT):
            eventually(lambda: memory.get(run_id).run.status.is_terminal)
    return memory, run_id, boundaries.passed


def test_a_stop_at_any_boundary_of_a_tick_fails_and_loses_nothing() -> None:
    site = site_of(racks(6), lambda _: "Compute")

    def stopped_at(at: int) -> int:
        with StandIn(site, Fates(duration=timedelta(seconds=0.05))) as standin:
            store, run_id, passed = _stopped_at(standin.address, at)
            tally = standin.tasks.tally()
        counts = store.get(run_id).phases[0]
        assert (counts.completed, counts.failed) == (6, 0), at
        assert store.get(run_id).run.status is RunStatus.COMPLETED
        assert set(tally.by_description.values()) == {1}, at
        return passed

    with ThreadPoolExecutor(8) as threads:
        passed = list(threads.map(stopped_at, range(1, STEPS + 1)))

    # Each stop came where it was meant to come: the boundaries of a whole run are more than those that were tried.
    assert min(passed[-5:]) >= STEPS - 5
