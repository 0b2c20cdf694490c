"""What the actions of a decision mean for a whole run, and the two views of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from opdispatch.action import (
    Action,
    ClaimTarget,
    Decision,
    FinishRun,
    RearmBlocked,
    RecordStray,
    RetryTarget,
    SettleTarget,
    SkipUnstarted,
    Step,
    SubmitTask,
    UpdateStray,
)
from opdispatch.decide import decide
from opdispatch.evolve import Record, evolve, new_record, window
from opdispatch.run import RunStatus
from opdispatch.state import Limits
from opdispatch.target import Blocked, Target, TargetStatus
from tests.unit.builders import (
    LIMITS,
    NOW,
    RUN_ID,
    a_record,
    a_run,
    a_state,
    a_stray,
    accepted,
    at,
    blocked,
    claimed,
    completed,
    everything,
    failed,
    numbered,
    pending,
    seen,
    skipped,
    submitted,
    target_id,
    terminated,
)


def a_decision(*actions: Action) -> Decision:
    steps = tuple(Step(action=action, because="a test") for action in actions)
    return Decision(run_id=RUN_ID, at=at(3), steps=steps, held_back=(), wake_at=at(9))


def statuses(record: Record) -> list[TargetStatus]:
    return [target.status for target in record.targets.values()]


# -- a new record --


def test_a_new_run_is_due_when_it_was_created() -> None:
    assert new_record(a_run(created_at=at(-5)), numbered([pending()])).wake_at == at(-5)


def test_a_new_record_holds_its_targets_in_sequence_and_counts_each_phase() -> None:
    targets = numbered([pending(phase=0), pending(phase=0), pending(phase=1)])

    record = new_record(a_run(phases=2), targets[::-1])

    assert tuple(record.targets.values()) == targets
    assert [tally.pending for tally in record.phases] == [2, 1]


# -- evolve --


def test_a_decision_without_changes_moves_the_next_look_alone() -> None:
    record = a_record(submitted())

    assert evolve(record, a_decision()) == replace(record, wake_at=at(9))


def test_a_decision_with_changes_is_the_next_revision_at_its_time() -> None:
    run = evolve(a_record(submitted(), revision=4), a_decision(RecordStray(stray=a_stray()))).run

    assert (run.revision, run.decided_at) == (5, at(3))


def test_an_effect_alone_changes_nothing() -> None:
    record = a_record(pending())
    submit = next(step.action for step in decide(everything(record)).steps if isinstance(step.action, SubmitTask))

    assert evolve(record, a_decision(submit)).run == record.run


def test_a_change_of_a_target_moves_it_between_the_counts_of_its_phase() -> None:
    record = a_record(pending(phase=0), pending(phase=1))

    after = evolve(record, a_decision(ClaimTarget(target_id=target_id(1), lease_until=at(30))))

    assert statuses(after) == [TargetStatus.PENDING, TargetStatus.CLAIMED]
    assert [(tally.pending, tally.claimed) for tally in after.phases] == [(1, 0), (0, 1)]


@pytest.mark.parametrize(
    ("target", "failures"), [(failed(), (1, 0)), (terminated(), (0, 1)), (completed(), (0, 0))], ids=["f", "t", "c"]
)
def test_a_retry_keeps_the_failure_in_the_counts(target: Target, failures: tuple[int, int]) -> None:
    (tally,) = evolve(a_record(target), a_decision(RetryTarget(target_id=target_id(0)))).phases

    assert (tally.failed_before, tally.terminated_before) == failures
    assert (tally.pending, tally.settled) == (1, 0)


def test_every_target_that_has_not_started_is_skipped_in_every_phase() -> None:
    record = a_record(pending(), blocked(), submitted(), claimed(), failed(), pending(phase=1))

    after = evolve(record, a_decision(SkipUnstarted(message="no more")))

    assert statuses(after) == [
        TargetStatus.SKIPPED,
        TargetStatus.SKIPPED,
        TargetStatus.SUBMITTED,
        TargetStatus.CLAIMED,
        TargetStatus.FAILED,
        TargetStatus.SKIPPED,
    ]
    assert after.targets[target_id(0)].message == "no more"
    assert [(tally.skipped, tally.pending, tally.blocked) for tally in after.phases] == [(2, 0, 0), (1, 0, 0)]


def test_every_blocked_target_is_rearmed_in_every_phase() -> None:
    record = a_record(blocked(retry=100), pending(), blocked(phase=1, retry=200))

    after = evolve(record, a_decision(RearmBlocked(at=at(3))))

    rearmed = [after.targets[target_id(number)] for number in (0, 2)]
    assert [(target.state, target.conflict) for target in rearmed] == [(Blocked(retry_at=at(3)), None)] * 2
    assert after.phases == record.phases


def test_a_stray_is_kept_by_its_task_and_replaced_by_its_update() -> None:
    record = evolve(a_record(submitted()), a_decision(RecordStray(stray=a_stray("a"))))

    after = evolve(record, a_decision(UpdateStray(stray=a_stray("a", is_open=False))))

    assert list(record.strays.values()) == [a_stray("a")]
    assert list(after.strays.values()) == [a_stray("a", is_open=False)]


def test_the_record_before_is_unchanged() -> None:
    record = a_record(pending(), submitted())
    before = a_record(pending(), submitted())

    evolve(record, a_decision(SkipUnstarted(message="no more"), RecordStray(stray=a_stray())))

    assert record == before


def test_changes_are_applied_in_their_order() -> None:
    settle = SettleTarget(target_id=target_id(0), status=TargetStatus.FAILED, message="")

    after = evolve(a_record(submitted()), a_decision(settle, RetryTarget(target_id=target_id(0))))

    assert statuses(after) == [TargetStatus.PENDING]


def test_a_change_of_the_run_is_applied() -> None:
    finish = FinishRun(status=RunStatus.COMPLETED, at=at(3), message="done")

    assert evolve(a_record(completed()), a_decision(finish)).run.finished_at == at(3)


# -- the views --


def test_a_window_holds_what_is_in_flight_in_every_phase() -> None:
    state = a_state(submitted(phase=0), pending(phase=0), claimed(phase=1), phase=0, opened=1)

    assert [target.sequence for target in state.in_flight] == [0, 2]


def test_a_window_holds_the_candidates_of_the_current_phase_in_sequence() -> None:
    state = a_state(
        blocked(retry=0), completed(), pending(), blocked(retry=1), pending(phase=1), blocked(phase=1, retry=0)
    )

    assert [target.sequence for target in state.ready] == [0, 2]


def test_a_window_knows_when_the_next_blocked_target_of_its_phase_may_be_tried() -> None:
    state = a_state(blocked(retry=0), blocked(retry=40), blocked(retry=20), blocked(phase=1, retry=5))

    assert state.next_retry == at(20)


def test_a_window_holds_what_its_observations_and_its_command_name_once() -> None:
    state = a_state(
        submitted(), completed(), skipped(), pending(), failed(), observations=[seen(0), seen(1), seen(3)], named=[4]
    )

    assert [target.sequence for target in state.named] == [1, 4]


def test_a_window_holds_open_strays_and_those_that_an_observation_names() -> None:
    strays = [a_stray("c"), a_stray("b", is_open=False), a_stray("a", is_open=False)]

    state = a_state(submitted(), strays=strays, observations=[accepted(0, task="a")])

    assert [stray.task_id for stray in state.strays] == ["a", "c"]


def test_the_state_of_everything_holds_every_stray() -> None:
    record = a_record(submitted(), strays=[a_stray("b", is_open=False), a_stray("a")])

    assert [stray.task_id for stray in everything(record).strays] == ["a", "b"]


def test_a_window_counts_every_phase_at_the_pointer_of_its_run() -> None:
    state = a_state(completed(phase=0), pending(phase=1), failed(phase=2), pending(phase=3), phase=1, opened=2)

    assert state.tallies.earlier.completed == 1
    assert state.tallies.current.pending == 1
    assert state.tallies.ahead.failed == 1
    assert state.tallies.later.pending == 1


@pytest.mark.parametrize(
    ("decided", "clock"), [(None, NOW), (at(-1), NOW), (at(4), at(4))], ids=["never", "before", "clock went back"]
)
def test_the_clock_of_a_state_is_never_below_the_last_decision(decided: object, clock: object) -> None:
    assert a_state(pending(), decided_at=decided).now == clock


def test_candidates_are_taken_by_the_clock_of_the_state() -> None:
    record = a_record(blocked(retry=3), decided_at=at(4))

    assert len(window(record, observations=(), limits=Limits(), now=NOW).ready) == 1


def test_the_limits_of_a_state_are_those_that_were_given() -> None:
    assert a_state(pending(), limits=LIMITS).limits is LIMITS
