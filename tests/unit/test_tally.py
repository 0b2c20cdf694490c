"""Tallies: counts that are kept, never recounted, and failures that never fall."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from opdispatch.identity import RunId, TargetId, TaskId, target_id_of
from opdispatch.tally import Moves, Tallies, Tally, counted, tallies_at
from opdispatch.target import FAILURES, Target, TargetStatus
from tests.racks import rack, rack_id

NOW = datetime(2031, 4, 2, 10, 0, tzinfo=UTC)
ONE_OF_EACH = Tally(
    pending=1,
    claimed=2,
    blocked=4,
    submitted=8,
    completed=16,
    failed=32,
    terminated=64,
    skipped=128,
    failed_before=256,
    terminated_before=512,
)


def pending(number: int = 1) -> Target:
    run = RunId(rack_id(999))
    return Target(
        id=TargetId(target_id_of(run, rack_id(number))),
        rack_id=rack_id(number),
        rack_name=f"r{number}",
        sequence=number,
        phase=0,
        components=rack(number).components,
    )


def ended(status: TargetStatus) -> Target:
    return pending().claimed(NOW).submitted(TaskId("t")).settled(status, "over")


def test_tallies_add_up_count_by_count() -> None:
    assert ONE_OF_EACH + Tally(pending=1, failed_before=1) == Tally(
        pending=2,
        claimed=2,
        blocked=4,
        submitted=8,
        completed=16,
        failed=32,
        terminated=64,
        skipped=128,
        failed_before=257,
        terminated_before=512,
    )


def test_a_tally_tells_the_count_of_each_status() -> None:
    assert [ONE_OF_EACH.of(status) for status in TargetStatus] == [1, 2, 4, 8, 16, 32, 64, 128]


def test_the_numbers_of_a_tally_are_in_the_order_of_its_fields() -> None:
    assert ONE_OF_EACH.numbers == (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def test_earlier_attempts_are_no_targets() -> None:
    assert ONE_OF_EACH.total == 255


def test_settled_are_those_without_work_left() -> None:
    assert ONE_OF_EACH.settled == 16 + 32 + 64 + 128


def test_unsettled_are_those_with_work_left() -> None:
    assert ONE_OF_EACH.unsettled == 1 + 2 + 4 + 8


def test_in_flight_are_those_that_hold_a_slot() -> None:
    assert ONE_OF_EACH.in_flight == 2 + 8


@pytest.mark.parametrize(
    ("outcomes", "failures"),
    [
        (FAILURES, 32 + 64 + 256 + 512),
        (frozenset({TargetStatus.FAILED}), 32 + 256),
        (frozenset({TargetStatus.TERMINATED}), 64 + 512),
    ],
    ids=["both", "failed", "terminated"],
)
def test_failures_are_counted_by_outcome_with_those_of_earlier_attempts(
    outcomes: frozenset[TargetStatus], failures: int
) -> None:
    assert ONE_OF_EACH.failures(outcomes) == failures


def test_a_change_moves_one_target_from_status_to_status() -> None:
    assert Tally(pending=2).moved(pending(), pending().claimed(NOW)) == Tally(pending=1, claimed=1)


def test_a_change_within_a_status_moves_nothing() -> None:
    tally = Tally(claimed=1)

    assert tally.moved(pending().claimed(NOW), pending().claimed(NOW).claimed(NOW)) is tally


@pytest.mark.parametrize(
    ("status", "after"),
    [
        (TargetStatus.FAILED, Tally(pending=1, failed_before=1)),
        (TargetStatus.TERMINATED, Tally(pending=1, terminated_before=1)),
        (TargetStatus.COMPLETED, Tally(pending=1)),
        (TargetStatus.SKIPPED, Tally(pending=1)),
    ],
)
def test_a_retried_failure_goes_on_counting(status: TargetStatus, after: Tally) -> None:
    assert counted([ended(status)]).moved(ended(status), ended(status).retried()) == after


def test_changes_are_gathered_phase_by_phase() -> None:
    moves = Moves()
    for number, phase in ((1, 0), (2, 0), (3, 2)):
        before = replace(ended(TargetStatus.FAILED), sequence=number, phase=phase)
        moves.note(before, before.retried())

    assert dict(moves.items()) == {
        0: Tally(failed=-2, pending=2, failed_before=2),
        2: Tally(failed=-1, pending=1, failed_before=1),
    }
    assert moves.of(1) == Tally()


def test_targets_are_counted_by_status() -> None:
    assert counted([pending(1), pending(2), ended(TargetStatus.FAILED)]) == Tally(pending=2, failed=1)


PHASES = [Tally(pending=1), Tally(pending=2), Tally(pending=4), Tally(pending=8)]


def test_phases_are_split_at_the_pointer_and_at_the_highest_opened() -> None:
    assert tallies_at(PHASES, 1, 2) == Tallies(
        earlier=Tally(pending=1), current=Tally(pending=2), ahead=Tally(pending=4), later=Tally(pending=8)
    )


def test_what_was_opened_leaves_out_the_later_phases() -> None:
    assert tallies_at(PHASES, 1, 2).opened == Tally(pending=7)


def test_everything_is_the_whole_run() -> None:
    assert tallies_at(PHASES, 1, 2).everything == Tally(pending=15)
