"""What the tests of the stores in a database do to them: a run, and one round of decisions on it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from opdispatch.action import Decision, SubmitTask
from opdispatch.command import Command, Reply, Retry, named_targets
from opdispatch.control import control
from opdispatch.decide import decide
from opdispatch.identity import CommandId, RunId, TaskId
from opdispatch.observation import Observation, SubmissionAccepted, TaskObserved
from opdispatch.plan import NewRun, new_run, plan
from opdispatch.policy.gates import FailureCountGate
from opdispatch.policy.phases import NoPhases, PhasePolicy
from opdispatch.state import Limits
from opdispatch.target import Target, TargetStatus
from opdispatch.task import TaskStatus
from opdispatch_adapters.sql.store import SqlStore
from tests.racks import racks, rollout

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
NO_WAIT: Final = timedelta(0)


def a_run(count: int = 4, *, quota: int = 2, name: str = "create", phases: PhasePolicy | None = None) -> NewRun:
    gates = (FailureCountGate(threshold_count=1000),)
    made = plan(racks(count), rollout(max_concurrent_targets=quota, gates=gates, phases=phases or NoPhases()))
    return new_run(made, command_id=CommandId(name), actor="operator", now=NOW)


def a_round(store: SqlStore, run_id: RunId, *observations: Observation) -> Decision:
    with store.lock(run_id, NO_WAIT) as held:
        assert held is not None
        state = held.load(observations, Limits())
        decision = decide(state)
        held.apply(state, decision, actor="dispatcher", served=True)
    return decision


def a_command(store: SqlStore, run_id: RunId, asked: Command) -> Reply:
    """Its reply; the first one, where it is repeated."""
    with store.lock(run_id, NO_WAIT) as held:
        assert held is not None
        before = held.replied(asked)
        if before is not None:
            return before
        state = held.load((), Limits(), named=named_targets(asked))
        decision = control(state, asked)
        held.apply(state, decision, actor=asked.actor, served=False)
    assert decision.reply is not None
    return decision.reply


def accepted(decision: Decision) -> list[Observation]:
    requests = [effect.request for effect in decision.effects if isinstance(effect, SubmitTask)]
    return [
        SubmissionAccepted(target_id=r.target_id, attempt=r.attempt, fence=r.fence, task_id=TaskId(f"t{r.rack_name}"))
        for r in requests
    ]


def over(targets: Iterable[Target], looked_at: datetime = NOW) -> list[Observation]:
    """Their tasks have completed."""
    return [
        TaskObserved(
            target_id=found.id, task_id=found.task_id, status=TaskStatus.COMPLETED, message="", looked_at=looked_at
        )
        for found in targets
        if found.task_id is not None
    ]


def in_the_middle(store: SqlStore) -> RunId:
    """A run of which the first target is tried again, two are at work and the rest has not begun."""
    run_id = store.create(a_run(6)).id
    a_round(store, run_id, *accepted(a_round(store, run_id)))
    first = store.targets(run_id)[0]
    decision = a_round(store, run_id, *over([first]))
    a_round(store, run_id, *accepted(decision))
    a_command(store, run_id, Retry(command_id=CommandId("again"), actor="ada", targets=(first.id,)))
    return run_id


def to_its_end(store: SqlStore, run_id: RunId) -> None:
    """Let every task of the run complete, until none is left."""
    while not store.get(run_id).run.status.is_terminal:
        working = store.targets(run_id, statuses={TargetStatus.SUBMITTED})
        a_round(store, run_id, *accepted(a_round(store, run_id, *over(working))))
