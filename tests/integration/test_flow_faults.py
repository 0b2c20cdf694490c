"""A dispatcher over a Flow service that does everything wrong: each fault alone, each pair, an outage in the middle."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Final

import attrs
import pytest

from opdispatch.candidate import Candidate
from opdispatch.identity import CommandId, RunId
from opdispatch.plan import new_run, plan
from opdispatch.ports import Overview
from opdispatch.run import RunStatus
from opdispatch.target import Target, TargetStatus
from opdispatch_adapters.dispatcher import Dispatcher, Settings
from opdispatch_adapters.flow.client import FlowSettings, FlowTasks
from opdispatch_adapters.flow.standin import Fates, Fault, FaultKind, Faults, StandIn, site_of
from opdispatch_adapters.memory import MemoryStore
from tests.integration.waiting import eventually
from tests.racks import component, rack, rollout

IS_DEEP: Final = bool(os.environ.get("OPDISPATCH_DEEP"))
RACKS: Final = 200 if IS_DEEP else 46
SEEDS: Final = range(8 if IS_DEEP else 1)
PATIENCE: Final = 240.0
SHORT: Final = Settings(
    poll=timedelta(seconds=0.2),
    call_deadline=timedelta(seconds=0.5),
    claim_lease=timedelta(seconds=1.5),
    missing_grace=timedelta(seconds=1),
    cancel_delay=timedelta(seconds=0.2),
)
SINGLES: Final[Mapping[FaultKind, Sequence[Fault]]] = {
    FaultKind.SLOW: [Fault(kind=FaultKind.SLOW, methods="*", probability=0.2, times=20, seconds=0.2)],
    FaultKind.REFUSE: [
        Fault(kind=FaultKind.REFUSE, methods="*", probability=0.3, times=15, code="UNAVAILABLE"),
        Fault(kind=FaultKind.REFUSE, probability=0.3, times=5, code="UNKNOWN", text="failed to create any tasks"),
        Fault(kind=FaultKind.REFUSE, methods="*", probability=0.2, times=5, code="INTERNAL", text="database is down"),
        Fault(kind=FaultKind.REFUSE, probability=0.2, times=5, code="PERMISSION_DENIED", text="who are you"),
    ],
    FaultKind.HANG: [Fault(kind=FaultKind.HANG, methods="*", probability=0.1, times=8)],
    FaultKind.DROP_REPLY: [Fault(kind=FaultKind.DROP_REPLY, methods="*", probability=0.3, times=15)],
    FaultKind.RESTART: [Fault(kind=FaultKind.RESTART, methods="*", probability=0.1, times=2)],
    FaultKind.LATE: [Fault(kind=FaultKind.LATE, probability=0.2, times=8, seconds=0.3)],
    FaultKind.TWICE: [Fault(kind=FaultKind.TWICE, methods="*", probability=0.4, times=30)],
    FaultKind.FORGET: [Fault(kind=FaultKind.FORGET, methods="GetTasksByIDs", probability=0.5, times=2)],
    FaultKind.UNKNOWN_STATUS: [Fault(kind=FaultKind.UNKNOWN_STATUS, methods="*", probability=0.4, times=20)],
    FaultKind.WRONG_COMPONENTS: [Fault(kind=FaultKind.WRONG_COMPONENTS, probability=0.2, times=6)],
}
Combination = tuple[FaultKind, ...]
COMBINATIONS: Final[list[Combination]] = [
    *((kind,) for kind in SINGLES),
    *combinations(SINGLES, 2),
]


@attrs.frozen(kw_only=True)
class Ended:
    """What became of a run."""

    overview: Overview
    targets: Sequence[Target]
    hits: Mapping[FaultKind, int]
    most_alive: int
    """The most tasks of one target that were at work at once."""
    made: int


def _dispatched(combination: Combination, seed: int) -> Ended:
    """A run over a stand-in with these faults, dispatched until it has ended or is held."""
    known = _racks(RACKS)
    faults = Faults([fault for kind in combination for fault in SINGLES[kind]], seed)
    fates = Fates(duration=timedelta(seconds=0.1))
    site = site_of(known, lambda _: "Compute")
    store = MemoryStore()
    with StandIn(site, fates, faults=faults, seed=seed) as standin:
        settings = FlowSettings(
            address=standin.address,
            parallelism=8,
            read_deadline=timedelta(seconds=1),
            probe_every=timedelta(seconds=0.3),
            bar_after=timedelta(seconds=1),
            page=20,
        )
        with FlowTasks(settings) as tasks:
            run_id = _created(store)
            with Dispatcher(store, tasks, SHORT) as dispatcher:
                overview = eventually(
                    lambda: store.get(run_id),
                    until=lambda found: found.run.status.is_terminal or found.run.status is RunStatus.PAUSED,
                    what=f"the end of {'+'.join(combination)}",
                    patience_seconds=PATIENCE,
                )
                dispatcher.stop()
        tally = standin.tasks.tally()
    return Ended(
        overview=overview,
        targets=store.targets(run_id),
        hits=dict(faults.hits),
        most_alive=max(tally.most_alive.values()),
        made=tally.created,
    )


def _racks(count: int) -> list[Candidate]:
    """Racks with two trays each, so that a task can have one too few."""
    return [rack(n, {"Compute": (component(n), component(10_000 + n))}) for n in range(1, count + 1)]


def _created(store: MemoryStore, count: int = RACKS, concurrency: int = 24) -> RunId:
    made = plan(_racks(count), rollout(max_concurrent_targets=concurrency, gates=()))
    return store.create(new_run(made, command_id=CommandId("c"), actor="ada", now=datetime.now(UTC))).id


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Mapping[tuple[Combination, int], Ended]]:
    """All combinations, several at a time: they wait more than they work."""
    wanted = [(combination, seed) for seed in SEEDS for combination in COMBINATIONS]
    with ThreadPoolExecutor(12) as threads:
        found = threads.map(lambda one: _dispatched(*one), wanted)
        yield dict(zip(wanted, found, strict=True))


@pytest.mark.timeout(3600 if IS_DEEP else 280)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("combination", COMBINATIONS, ids="+".join)
def test_no_fault_makes_two_tasks_or_fails_a_target(
    outcomes: Mapping[tuple[Combination, int], Ended], combination: Combination, seed: int
) -> None:
    ended = outcomes[combination, seed]

    assert ended.most_alive == 1
    assert ended.overview.run.status.is_terminal
    failed = [target.message for target in ended.targets if target.status is not TargetStatus.COMPLETED]
    if FaultKind.FORGET in combination:
        # A task that is gone is the one thing that fails a target, after two looks a grace time apart.
        assert len(failed) <= 2
        assert all(text.startswith("lost: the task manager has not known task") for text in failed), failed
    else:
        assert failed == []
        assert ended.made == RACKS


def test_every_fault_was_met(outcomes: Mapping[tuple[Combination, int], Ended]) -> None:
    met = {kind for ended in outcomes.values() for kind, count in ended.hits.items() if count}

    assert met == set(FaultKind)
    assert len(outcomes) * RACKS >= 2000


def test_an_outage_in_the_middle_fails_nothing(caplog: pytest.LogCaptureFixture) -> None:
    store, site = MemoryStore(), site_of(_racks(100), lambda _: "Compute")
    with StandIn(site, Fates(duration=timedelta(seconds=0.3))) as standin:
        settings = FlowSettings(
            address=standin.address, read_deadline=timedelta(seconds=1), probe_every=timedelta(seconds=0.3)
        )
        with FlowTasks(settings) as tasks, Dispatcher(store, tasks, SHORT) as dispatcher:
            run_id = _created(store, 100, 20)
            dispatcher.wake()
            eventually(lambda: store.get(run_id).phases[0].completed, until=lambda done: done > 10)
            standin.stop()
            eventually(lambda: tasks.channel.breaker.is_open, what="the outage is noticed")
            before = store.get(run_id).phases[0]
            standin.start()
            ended = eventually(
                lambda: store.get(run_id), until=lambda found: found.run.status.is_terminal, patience_seconds=PATIENCE
            )

    assert before.failed == 0
    assert ended.run.status is RunStatus.COMPLETED
    assert ended.phases[0].completed == standin.tasks.tally().created == 100
    told = [record.message for record in caplog.records if "answer" in record.message and "Flow at" in record.message]
    assert sum("does not answer" in text for text in told) == 1
    assert sum("answers again" in text for text in told) == 1
