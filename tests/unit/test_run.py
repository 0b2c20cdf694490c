"""The machine of a run: every pair of status and change, and what a run says of itself."""

from __future__ import annotations

from itertools import product

import pytest

from opdispatch.errors import InvalidInput, RefusedTransition
from opdispatch.run import (
    ENDING,
    TERMINAL,
    TRANSITIONS,
    Accepted,
    RunChange,
    RunStatus,
    Standing,
    StatusReason,
    next_status,
)
from tests.unit.builders import RUN_ID, a_paused_run, a_run, at

PAIRS = list(product(RunStatus, RunChange))


def _name(value: object) -> str:
    return str(value)


@pytest.mark.parametrize(("status", "change"), sorted(TRANSITIONS), ids=_name)
def test_a_change_in_the_table_leads_where_the_table_says(status: RunStatus, change: RunChange) -> None:
    assert next_status(RUN_ID, status, change) is TRANSITIONS[status, change]


@pytest.mark.parametrize(("status", "change"), [pair for pair in PAIRS if pair not in TRANSITIONS], ids=_name)
def test_a_change_that_is_not_in_the_table_is_refused(status: RunStatus, change: RunChange) -> None:
    with pytest.raises(RefusedTransition) as refused:
        next_status(RUN_ID, status, change)

    assert (refused.value.subject, refused.value.status, refused.value.change) == (f"run {RUN_ID}", status, change)


@pytest.mark.parametrize(("status", "change"), sorted(TRANSITIONS), ids=_name)
def test_a_change_leads_to_its_own_status_wherever_it_is_allowed(status: RunStatus, change: RunChange) -> None:
    leads_to = {
        RunChange.START: RunStatus.RUNNING,
        RunChange.PAUSE: RunStatus.PAUSED,
        RunChange.CONTINUE: RunStatus.RUNNING,
        RunChange.COMPLETE: RunStatus.COMPLETED,
        RunChange.COMPLETE_WITH_FAILURES: RunStatus.COMPLETED_WITH_FAILURES,
        RunChange.CANCEL: RunStatus.CANCELLED,
        RunChange.FAIL: RunStatus.FAILED,
    }

    assert next_status(RUN_ID, status, change) is leads_to[change]


def test_nothing_leads_on_from_a_terminal_status() -> None:
    assert [pair for pair in TRANSITIONS if pair[0].is_terminal] == []


def test_every_terminal_status_has_the_change_that_leads_to_it() -> None:
    assert {status: TRANSITIONS[RunStatus.RUNNING, change] for status, change in ENDING.items()} == {
        status: status for status in TERMINAL
    }


def test_nothing_returns_to_pending() -> None:
    assert RunStatus.PENDING not in TRANSITIONS.values()


@pytest.mark.parametrize("status", [s for s in RunStatus if not s.is_terminal], ids=_name)
def test_a_run_that_has_not_ended_can_be_cancelled(status: RunStatus) -> None:
    assert next_status(RUN_ID, status, RunChange.CANCEL) is RunStatus.CANCELLED


@pytest.mark.parametrize(("phase", "opened"), [(-1, 0), (2, 1)], ids=["below the first", "never opened"])
def test_the_pointer_is_at_a_phase_that_was_opened(phase: int, opened: int) -> None:
    with pytest.raises(InvalidInput, match="is not within 0 and opened"):
        a_run(phase=phase, opened=opened)


def test_accepting_no_failure_is_no_acceptance() -> None:
    with pytest.raises(InvalidInput, match="0 is below 1"):
        Accepted(gate=0, phase=None, failures=0)


def test_failures_are_accepted_for_one_gate_and_phase() -> None:
    run = a_run(accepted=(Accepted(gate=0, phase=1, failures=3), Accepted(gate=1, phase=None, failures=5)))

    assert run.accepted_failures(0, 1) == 3
    assert run.accepted_failures(1, None) == 5
    assert run.accepted_failures(0, 2) == 0
    assert run.accepted_failures(1, 1) == 0


def test_how_a_run_stands_is_what_it_says_of_itself() -> None:
    run = a_paused_run(
        StatusReason.PHASE_GATE, "waiting for phase advance", phases=3, phase=1, decided_at=at(-5), finished_at=at(-1)
    )

    assert run.standing == Standing(
        status=RunStatus.PAUSED,
        reason=StatusReason.PHASE_GATE,
        message="waiting for phase advance",
        phase=1,
        updated_at=at(-5),
        started_at=at(-3000),
        finished_at=at(-1),
    )
