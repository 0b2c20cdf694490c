"""What each change means for a run and for a target, and how a decision tells changes from effects."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from opdispatch.action import (
    AcceptFailures,
    AnnotateRun,
    BlockTarget,
    CancelTask,
    ClaimTarget,
    ContinueRun,
    Decision,
    FinishRun,
    NoteTarget,
    OpenPhase,
    Outcome,
    PauseRun,
    RecordTask,
    ReleaseHolds,
    RetryTarget,
    ReturnToPhase,
    RunAction,
    SetConflictHold,
    SetOperatorHold,
    SettleTarget,
    StartRun,
    Step,
    TargetAction,
    changed_run,
    changed_target,
)
from opdispatch.errors import RefusedTransition
from opdispatch.identity import TaskId
from opdispatch.run import TERMINAL, Accepted, Run, RunStatus, StatusReason
from opdispatch.target import Conflict, Target, TargetStatus
from opdispatch.task import TaskRef
from tests.unit.builders import (
    NOW,
    RUN_ID,
    a_paused_run,
    a_run,
    at,
    blocked,
    cancelling,
    claimed,
    failed,
    pending,
    submitted,
    target_id,
)

CONFLICT = Conflict(since=NOW, count=1, delay=timedelta(seconds=30))


@pytest.mark.parametrize(
    ("run", "change", "fields"),
    [
        (
            a_run(RunStatus.PENDING),
            StartRun(at=NOW, message="m"),
            {"status": RunStatus.RUNNING, "status_message": "m", "started_at": NOW},
        ),
        (
            a_paused_run(StatusReason.OPERATOR_PAUSED, started_at=at(-9)),
            ContinueRun(at=NOW, message="m"),
            {"status": RunStatus.RUNNING, "status_reason": StatusReason.NONE, "status_message": "m"},
        ),
        (
            a_paused_run(StatusReason.OPERATOR_PAUSED, started_at=None),
            ContinueRun(at=NOW, message="m"),
            {
                "status": RunStatus.RUNNING,
                "status_reason": StatusReason.NONE,
                "status_message": "m",
                "started_at": NOW,
            },
        ),
        (
            a_run(),
            PauseRun(reason=StatusReason.SAFETY_GATE, message="m"),
            {"status": RunStatus.PAUSED, "status_reason": StatusReason.SAFETY_GATE, "status_message": "m"},
        ),
        (a_run(), AnnotateRun(message="m"), {"status_message": "m"}),
        (a_run(), SetOperatorHold(), {"operator_hold": True}),
        (a_run(), SetConflictHold(message="m"), {"conflict_hold": "m"}),
        (
            a_run(operator_hold=True, conflict_hold="m"),
            ReleaseHolds(at=NOW),
            {"operator_hold": False, "conflict_hold": None, "resumed_at": NOW},
        ),
        (a_run(phases=3, phase=0), OpenPhase(phase=1), {"phase": 1, "opened": 1}),
        (a_run(phases=3, phase=0, opened=2), OpenPhase(phase=1), {"phase": 1, "opened": 2}),
        (a_run(phases=3, phase=2), ReturnToPhase(phase=1), {"phase": 1, "opened": 2}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, RunAction) else "",
)
def test_a_change_of_a_run_changes_what_it_says_and_nothing_else(
    run: Run, change: RunAction, fields: dict[str, Any]
) -> None:
    assert changed_run(run, change) == replace(run, **fields)


@pytest.mark.parametrize("status", sorted(TERMINAL), ids=str)
def test_an_end_has_a_time_and_no_reason(status: RunStatus) -> None:
    run = a_paused_run(StatusReason.SAFETY_GATE)

    assert changed_run(run, FinishRun(status=status, at=NOW, message="m")) == replace(
        run, status=status, status_reason=StatusReason.NONE, status_message="m", finished_at=NOW
    )


def test_a_run_started_when_it_first_was_running() -> None:
    run = a_run(RunStatus.PENDING)

    for change in (
        StartRun(at=NOW, message=""),
        PauseRun(reason=StatusReason.OPERATOR_PAUSED, message=""),
        ContinueRun(at=at(5), message=""),
    ):
        run = changed_run(run, change)

    assert run.started_at == NOW


def test_an_acceptance_replaces_the_one_of_the_same_gate_and_phase_alone() -> None:
    other_gate = Accepted(gate=1, phase=0, failures=1)
    other_phase = Accepted(gate=0, phase=1, failures=1)
    run = a_run(accepted=(Accepted(gate=0, phase=0, failures=2), other_gate, other_phase))

    after = changed_run(run, AcceptFailures(accepted=(Accepted(gate=0, phase=0, failures=5),)))

    assert after.accepted == (other_gate, other_phase, Accepted(gate=0, phase=0, failures=5))


@pytest.mark.parametrize(
    "change",
    [
        StartRun(at=NOW, message=""),
        PauseRun(reason=StatusReason.SAFETY_GATE, message=""),
        ContinueRun(at=NOW, message=""),
        FinishRun(status=RunStatus.FAILED, at=NOW, message=""),
    ],
    ids=lambda change: type(change).__name__,
)
def test_a_run_that_ended_refuses_every_change_of_its_status(change: RunAction) -> None:
    run = a_run(RunStatus.CANCELLED)

    with pytest.raises(RefusedTransition) as refused:
        changed_run(run, change)

    assert (refused.value.subject, refused.value.status) == (f"run {RUN_ID}", RunStatus.CANCELLED)
    assert run == a_run(RunStatus.CANCELLED)


@pytest.mark.parametrize(
    ("target", "change", "after"),
    [
        (pending(), ClaimTarget(target_id=target_id(), lease_until=at(30)), pending().claimed(at(30))),
        (
            claimed(),
            RecordTask(target_id=target_id(), task_id=TaskId("t")),
            claimed().submitted(TaskId("t")),
        ),
        (
            claimed(),
            BlockTarget(target_id=target_id(), retry_at=at(30), conflict=CONFLICT, message="m"),
            claimed().blocked(at(30), CONFLICT, "m"),
        ),
        (
            submitted(),
            NoteTarget(target_id=target_id(), message="m", missing_since=at(-1), cancelling=cancelling(due=3)),
            submitted().noted("m", at(-1), cancelling(due=3)),
        ),
        (
            blocked(),
            SettleTarget(target_id=target_id(), status=TargetStatus.SKIPPED, message="m"),
            blocked().settled(TargetStatus.SKIPPED, "m"),
        ),
        (failed(), RetryTarget(target_id=target_id()), failed().retried()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, TargetAction) else "",
)
def test_a_change_of_a_target_means_what_the_target_says(target: Target, change: TargetAction, after: Target) -> None:
    assert changed_target(target, change) == after


def a_decision(wake_at: datetime | None = None) -> Decision:
    cancel = CancelTask(ref=TaskRef(target_id=target_id(), task_id=TaskId("t")))
    steps = (
        Step(action=AnnotateRun(message="m"), because="b"),
        Step(action=cancel, because="b"),
        Step(action=RetryTarget(target_id=target_id()), because="b"),
    )
    return Decision(run_id=RUN_ID, at=NOW, steps=steps, held_back=(), wake_at=wake_at)


def test_a_decision_says_the_same_with_and_without_what_it_amounts_to() -> None:
    decision = a_decision()

    assert replace(decision, outcome=Outcome(targets=(pending(),), moves={})) == decision


def test_changes_are_what_is_durable_and_effects_what_is_carried_out() -> None:
    decision = a_decision()

    assert decision.changes == (AnnotateRun(message="m"), RetryTarget(target_id=target_id()))
    assert decision.effects == (CancelTask(ref=TaskRef(target_id=target_id(), task_id=TaskId("t"))),)
