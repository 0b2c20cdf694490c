"""The working copy of a decision: a later rule sees what an earlier one did, and the state is never touched."""

from __future__ import annotations

import pytest

from opdispatch.action import (
    AnnotateRun,
    CancelTask,
    ClaimTarget,
    HeldBack,
    OpenPhase,
    RearmBlocked,
    RecordStray,
    RetryTarget,
    SettleTarget,
    SkipUnstarted,
    Step,
    UpdateStray,
    Wait,
)
from opdispatch.draft import Draft, skipped_tally
from opdispatch.identity import TaskId
from opdispatch.tally import Tally
from opdispatch.target import TargetStatus
from opdispatch.task import TaskRef
from tests.unit.builders import (
    NOW,
    RUN_ID,
    a_state,
    a_stray,
    a_whole,
    at,
    blocked,
    claimed,
    completed,
    failed,
    pending,
    seen,
    submitted,
    target_id,
)

SETTLE = SettleTarget(target_id=target_id(0), status=TargetStatus.COMPLETED, message="done")


def test_a_new_draft_decides_nothing() -> None:
    draft = Draft(a_state(submitted()))

    assert not draft.has_changes
    assert draft.changed == ()
    assert draft.decision(None).steps == ()


def test_a_change_is_seen_in_the_draft_and_not_in_the_state() -> None:
    state = a_state(submitted(), pending())
    draft = Draft(state)

    draft.change(SETTLE, "it is over")

    changed = draft.target(target_id(0))
    assert changed is not None
    assert changed.status is TargetStatus.COMPLETED
    assert draft.changed == (changed,)
    assert state == a_state(submitted(), pending())


def test_a_change_moves_the_counts() -> None:
    draft = Draft(a_state(submitted(), pending()))

    draft.change(SETTLE, "it is over")

    assert (draft.tallies.current.submitted, draft.tallies.current.completed) == (0, 1)


@pytest.mark.parametrize(
    ("number", "group"), [(0, "earlier"), (1, "current"), (2, "ahead"), (3, "later")], ids=lambda v: str(v)
)
def test_a_change_moves_the_counts_of_the_group_that_its_phase_is_in(number: int, group: str) -> None:
    phases = [submitted(phase=phase) for phase in range(4)]
    draft = Draft(a_whole(*phases, phase=1, opened=2))

    draft.change(SettleTarget(target_id=target_id(number), status=TargetStatus.FAILED, message=""), "it is over")

    groups = {name: getattr(draft.tallies, name).failed for name in ("earlier", "current", "ahead", "later")}
    assert groups == dict.fromkeys(groups, 0) | {group: 1}


def test_what_is_in_flight_follows_the_changes() -> None:
    draft = Draft(a_state(submitted(), pending(), claimed()))

    draft.change(SETTLE, "it is over")
    draft.change(ClaimTarget(target_id=target_id(1), lease_until=at(30)), "a slot is free")

    assert [target.sequence for target in draft.in_flight] == [1, 2]


def test_slots_are_used_by_what_is_in_flight_and_by_open_strays() -> None:
    strays = [a_stray("a"), a_stray("b"), a_stray("c", is_open=False)]

    assert Draft(a_whole(submitted(), claimed(), blocked(), strays=strays)).slots_used == 4


def test_a_stray_that_is_recorded_and_closed_uses_its_slot_in_between() -> None:
    draft = Draft(a_state(completed()))

    draft.change(RecordStray(stray=a_stray("a")), "it came to light")
    assert draft.slots_used == 1
    draft.change(UpdateStray(stray=a_stray("a", is_open=False)), "it is over")

    assert draft.slots_used == 0
    assert draft.stray(TaskId("a")) == a_stray("a", is_open=False)
    assert draft.open_strays == ()


def test_a_change_of_the_run_is_seen() -> None:
    draft = Draft(a_state(pending(), phases=2))

    draft.change(OpenPhase(phase=1), "the phase is settled")

    assert draft.run.phase == 1


def test_skipping_what_has_not_started_moves_the_counts_of_every_group() -> None:
    draft = Draft(a_whole(pending(), blocked(), submitted(), pending(phase=1)))

    draft.change(SkipUnstarted(message="no more"), "the run ends")

    assert (draft.tallies.everything.skipped, draft.tallies.everything.unsettled) == (3, 1)


def test_skipping_what_has_not_started_leaves_out_no_group() -> None:
    draft = Draft(a_whole(*[pending(phase=phase) for phase in range(4)], phase=1, opened=2))

    draft.change(SkipUnstarted(message="no more"), "the run ends")

    tallies = draft.tallies
    assert [tallies.earlier, tallies.current, tallies.ahead, tallies.later] == [Tally(skipped=1)] * 4


def test_rearming_moves_no_count() -> None:
    state = a_state(blocked())
    draft = Draft(state)

    draft.change(RearmBlocked(at=NOW), "a resume")

    assert draft.tallies == state.tallies
    assert draft.has_changes


def test_the_counts_of_what_is_skipped_keep_every_other() -> None:
    tally = Tally(pending=1, claimed=2, blocked=3, submitted=4, failed=5, skipped=6, failed_before=7)

    assert skipped_tally(tally) == Tally(claimed=2, submitted=4, failed=5, skipped=10, failed_before=7)


def test_a_retry_in_a_draft_keeps_the_failure() -> None:
    draft = Draft(a_whole(failed()))

    draft.change(RetryTarget(target_id=target_id(0)), "the operator asks")

    assert draft.tallies.current.failed_before == 1


def test_a_change_of_a_target_that_the_window_does_not_hold_is_an_error() -> None:
    draft = Draft(a_state(submitted()))

    with pytest.raises(LookupError, match=f"^target {target_id(9)} is not in the window$"):
        draft.change(RetryTarget(target_id=target_id(9)), "a mistake")

    assert not draft.has_changes


def test_a_decision_holds_the_steps_in_their_order_and_all_that_is_held_back() -> None:
    draft = Draft(a_state(submitted()))
    cancel = CancelTask(ref=TaskRef(target_id=target_id(0), task_id=TaskId("t")))
    waiting = HeldBack(wait=Wait.QUOTA, message="all 1 slots are in use", count=2)

    draft.effect(cancel, "first")
    draft.change(AnnotateRun(message="m"), "second")
    draft.hold_back(waiting)
    decision = draft.decision(at(10))

    assert decision.steps == (
        Step(action=cancel, because="first"),
        Step(action=AnnotateRun(message="m"), because="second"),
    )
    assert decision.held_back == (waiting,)
    assert (decision.run_id, decision.at, decision.wake_at) == (RUN_ID, NOW, at(10))
    assert (decision.command, decision.reply) == (None, None)


def test_a_decision_tells_what_its_targets_become_and_by_how_much_the_counts_of_their_phases_change() -> None:
    draft = Draft(a_whole(submitted(phase=0), pending(phase=1), pending(phase=1)))

    draft.change(SETTLE, "it is over")
    draft.change(ClaimTarget(target_id=target_id(2), lease_until=at(30)), "a slot is free")
    outcome = draft.decision(None).outcome

    assert outcome is not None
    assert [(target.sequence, target.status) for target in outcome.targets] == [(0, "completed"), (2, "claimed")]
    assert outcome.moves == {0: Tally(submitted=-1, completed=1), 1: Tally(pending=-1, claimed=1)}


@pytest.mark.parametrize("change", [SkipUnstarted(message="no more"), RearmBlocked(at=NOW)], ids=["skip", "rearm"])
def test_what_many_targets_at_once_become_is_not_told(change: SkipUnstarted | RearmBlocked) -> None:
    draft = Draft(a_state(pending(), blocked()))

    draft.change(change, "all of them")

    assert draft.decision(None).outcome is None


def test_a_decision_holds_the_observations_that_were_taken_in_their_own_order() -> None:
    first, second, third = seen(0), seen(0, message="half"), seen(0, message="nearly")
    draft = Draft(a_state(submitted(), observations=[first, second, third]))

    draft.take(2)
    draft.take(0)

    assert draft.decision(None).observations == (first, third)
