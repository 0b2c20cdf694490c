"""Why a run or a target does not go on: every situation, with its code, its evidence and who clears it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from opdispatch.action import Change
from opdispatch.command import Advance, Resume
from opdispatch.control import control
from opdispatch.evolve import Record, window
from opdispatch.explain import Asks, Clears, Code, Reason, explain_run, explain_target
from opdispatch.identity import CommandId
from opdispatch.policy.gates import FailureCountGate
from opdispatch.ports import Overview, Trouble
from opdispatch.run import RunStatus, StatusReason
from opdispatch.target import Stray, Target
from opdispatch_adapters.cli.cmd_explain import told
from tests.unit.builders import (
    LIMITS,
    NOW,
    a_paused_run,
    a_record,
    a_run,
    a_stray,
    at,
    blocked,
    claimed,
    completed,
    failed,
    pending,
    skipped,
    submitted,
)

GATE = FailureCountGate(threshold_count=1)
BROKEN = Trouble(message="column options cannot be read", count=10, at=at(-9), quarantined_at=at(-9))
BACKING_OFF = Trouble(message="column options cannot be read", count=2, at=at(-9))


def _seen(record: Record, *, strays: int = 0, trouble: Trouble | None = None, due: datetime | None = NOW) -> Overview:
    return Overview(run=record.run, phases=record.phases, open_strays=strays, trouble=trouble, wake_at=due)


def _gated(targets: Sequence[Target], **run: Any) -> Record:
    reason = StatusReason.SAFETY_GATE
    return a_record(*targets, run=a_paused_run(reason, gates=(GATE,), decided_at=at(-60), **run))


ENDED = a_run(RunStatus.CANCELLED, status_message="operation run cancelled")
HELD = a_paused_run(StatusReason.OPERATOR_PAUSED, operator_hold=True, decided_at=at(-60))
WINDOW_OVER = a_paused_run(StatusReason.CONFLICT_RETRY_TIMEOUT, conflict_hold="rack r1 is busy for 1h0m0s")
AT_GATE = a_paused_run(StatusReason.PHASE_GATE, phases=2, decided_at=at(-60))

RUNS: list[tuple[str, Overview, list[tuple[Code, Clears]], str]] = [
    (
        "ended",
        _seen(a_record(skipped(), run=ENDED)),
        [(Code.ENDED, Clears.NOBODY)],
        "it is cancelled: operation run cancelled",
    ),
    (
        "draining",
        _seen(a_record(submitted(), run=ENDED), strays=1),
        [(Code.ENDED, Clears.NOBODY), (Code.DRAINING, Clears.TASKS)],
        "it is cancelled: operation run cancelled",
    ),
    (
        "quarantined",
        _seen(a_record(pending()), trouble=BROKEN, due=at(-600)),
        [(Code.QUARANTINED, Clears.OPERATOR)],
        "10 errors in a row, the last: column options cannot be read",
    ),
    (
        "troubled",
        _seen(a_record(pending()), trouble=BACKING_OFF, due=at(20)),
        [(Code.TROUBLED, Clears.TIME)],
        "2 errors in a row, the last: column options cannot be read",
    ),
    (
        "nobody serves it",
        _seen(a_record(pending()), due=at(-31)),
        [(Code.NOT_SERVED, Clears.DISPATCHER)],
        "it was due 31 s ago, and nobody serves it",
    ),
    (
        "paused",
        _seen(a_record(pending(), run=HELD)),
        [(Code.OPERATOR_HOLD, Clears.OPERATOR)],
        "operation run paused by operator",
    ),
    (
        "the window is over",
        _seen(a_record(blocked(), run=WINDOW_OVER), due=at(30)),
        [(Code.CONFLICT_HOLD, Clears.OPERATOR), (Code.CONFLICT, Clears.TIME)],
        "rack r1 is busy for 1h0m0s",
    ),
    (
        "a gate tripped",
        _seen(_gated([failed(), pending()])),
        [(Code.SAFETY_GATE, Clears.OPERATOR)],
        (
            "failure_count safety gate tripped for current_phase: 1/2 targets failed (threshold 1); "
            "1 failed attempt in the whole run"
        ),
    ),
    (
        "a phase waits",
        _seen(a_record(completed(), pending(phase=1), run=AT_GATE)),
        [(Code.PHASE_GATE, Clears.OPERATOR)],
        "waiting for phase advance",
    ),
    (
        "the quota",
        _seen(a_record(submitted(), pending(), quota=1)),
        [(Code.QUOTA, Clears.TASKS), (Code.IN_FLIGHT, Clears.TASKS)],
        "1 of 1 slots are in use, and 1 target of phase 0 waiting",
    ),
    (
        "strays",
        _seen(a_record(pending(), quota=2), strays=2),
        [(Code.QUOTA, Clears.TASKS), (Code.STRAYS, Clears.TASKS)],
        "2 of 2 slots are in use, and 1 target of phase 0 waiting",
    ),
    (
        "busy racks",
        _seen(a_record(blocked(), blocked()), due=at(15)),
        [(Code.CONFLICT, Clears.TIME)],
        "2 targets of phase 0 waiting for busy racks",
    ),
    (
        "no answer",
        _seen(a_record(claimed())),
        [(Code.UNANSWERED, Clears.TASKS)],
        "1 submission without an answer yet",
    ),
    ("at work", _seen(a_record(submitted(), submitted())), [(Code.IN_FLIGHT, Clears.TASKS)], "2 tasks at work"),
]


@pytest.mark.parametrize(("overview", "codes", "first"), [row[1:] for row in RUNS], ids=[row[0] for row in RUNS])
def test_a_run_says_all_that_keeps_it(overview: Overview, codes: list[tuple[Code, Clears]], first: str) -> None:
    found = explain_run(overview, NOW)

    assert [(reason.code, reason.clears) for reason in found] == codes
    assert found[0].evidence == first


def test_since_and_until_are_told_where_they_are_known() -> None:
    (quarantined,) = explain_run(RUNS[2][1], NOW)
    (troubled,) = explain_run(RUNS[3][1], NOW)
    (paused,) = explain_run(RUNS[5][1], NOW)
    (conflict,) = explain_run(RUNS[11][1], NOW)

    assert (quarantined.since, quarantined.asks) == (at(-9), Asks(command="release"))
    assert (troubled.since, troubled.until) == (at(-9), at(20))
    assert (paused.since, paused.asks) == (at(-60), Asks(command="resume"))
    assert conflict.until == at(15)


def test_a_run_that_ended_tells_since_when_and_what_is_still_ending() -> None:
    assert explain_run(RUNS[1][1], NOW) == (
        Reason(
            code=Code.ENDED,
            evidence="it is cancelled: operation run cancelled",
            clears=Clears.NOBODY,
            since=at(-60),
        ),
        Reason(code=Code.DRAINING, evidence="2 tasks of it not over yet", clears=Clears.TASKS, until=NOW),
    )


def test_what_was_asked_of_tasks_tells_when_it_is_looked_at_again() -> None:
    assert explain_run(_seen(a_record(claimed(), submitted()), due=at(7)), NOW) == (
        Reason(code=Code.UNANSWERED, evidence="1 submission without an answer yet", clears=Clears.TASKS, until=at(7)),
        Reason(code=Code.IN_FLIGHT, evidence="1 task at work", clears=Clears.TASKS, until=at(7)),
    )


def test_strays_tell_how_many_slots_they_use() -> None:
    _, strays = explain_run(_seen(a_record(pending(), quota=2), strays=2), NOW)

    assert strays.evidence == "2 tasks of settled targets not over yet, each with a slot"


def test_a_quota_keeps_pending_and_blocked_targets_alike() -> None:
    quota, _, _ = explain_run(_seen(a_record(submitted(), pending(), blocked(), quota=1)), NOW)

    assert quota.evidence == "1 of 1 slots are in use, and 2 targets of phase 0 waiting"


def test_a_quota_keeps_nothing_where_nothing_of_the_phase_waits() -> None:
    found = explain_run(_seen(a_record(submitted(), pending(phase=1), quota=1)), NOW)

    assert [reason.code for reason in found] == [Code.IN_FLIGHT]


def test_a_run_that_waits_for_an_event_alone_is_not_late() -> None:
    found = explain_run(_seen(a_record(pending(), run=HELD), due=None), NOW)

    assert [reason.code for reason in found] == [Code.OPERATOR_HOLD]


@pytest.mark.parametrize(("due", "late"), [(-30, False), (-30.001, True)], ids=["within a lease", "later"])
def test_a_run_is_late_when_it_was_due_longer_ago_than_a_lease(due: float, late: bool) -> None:
    found = explain_run(_seen(a_record(submitted()), due=at(due)), NOW)

    assert [reason.since for reason in found if reason.code is Code.NOT_SERVED] == [at(due)] * late


def _control(record: Record, command: Any) -> list[Change]:
    decision = control(window(record, observations=(), limits=LIMITS, now=NOW), command)
    assert decision.reply is not None
    assert decision.reply.accepted, decision.reply
    return list(decision.changes)


def test_the_commands_that_are_named_are_taken() -> None:
    tripped, gate = _gated([failed(), pending()]), a_record(completed(), pending(phase=1), run=AT_GATE)
    (safety,), (phase,) = explain_run(_seen(tripped), NOW), explain_run(_seen(gate), NOW)
    assert safety.asks is not None
    assert phase.asks is not None

    assert safety.asks == Asks(command="resume", accept_failures=1)
    assert phase.asks == Asks(command="advance", expected_phase=1)
    who: dict[str, Any] = {"command_id": CommandId("c"), "actor": "ada"}
    assert _control(tripped, Resume(**who, accept_failures=safety.asks.accept_failures))
    assert _control(gate, Advance(**who, expected_phase=phase.asks.expected_phase or 0))


def test_a_hold_that_is_not_the_one_shown_has_no_instant() -> None:
    run = a_paused_run(StatusReason.OPERATOR_PAUSED, operator_hold=True, gates=(GATE,), decided_at=at(-60))

    operator, safety = explain_run(_seen(a_record(failed(), pending(), run=run)), NOW)

    assert (operator.code, operator.since) == (Code.OPERATOR_HOLD, at(-60))
    assert (safety.code, safety.since) == (Code.SAFETY_GATE, None)
    assert operator.asks == safety.asks == Asks(command="resume", accept_failures=1)


TARGETS: list[tuple[str, Record, int, list[tuple[Code, Clears]], str]] = [
    ("completed", a_record(completed()), 0, [(Code.SETTLED, Clears.NOBODY)], "it is completed (attempt 1)"),
    (
        "failed",
        a_record(failed(message="bad disk"), pending()),
        0,
        [(Code.SETTLED, Clears.OPERATOR)],
        "it is failed (attempt 1): bad disk",
    ),
    (
        "failed in a run that has ended",
        a_record(failed(), run=a_run(RunStatus.FAILED)),
        0,
        [(Code.SETTLED, Clears.NOBODY)],
        "it is failed (attempt 1)",
    ),
    (
        "at work",
        a_record(submitted(message="flashing")),
        0,
        [(Code.IN_FLIGHT, Clears.TASKS)],
        "task task-0 is at work: flashing",
    ),
    (
        "at work and silent",
        a_record(submitted(message="")),
        0,
        [(Code.IN_FLIGHT, Clears.TASKS)],
        "task task-0 is at work",
    ),
    (
        "missing",
        a_record(submitted(missing_since=-5)),
        0,
        [(Code.MISSING, Clears.TIME)],
        "the task manager does not know task task-0",
    ),
    (
        "not answered",
        a_record(claimed(lease=20)),
        0,
        [(Code.UNANSWERED, Clears.TASKS)],
        "attempt 1 was submitted, and is not answered yet",
    ),
    (
        "to be looked up",
        a_record(claimed(lease=-1)),
        0,
        [(Code.LOOK_UP, Clears.TASKS)],
        "nobody answered attempt 1; its key is looked up before anything else",
    ),
    (
        "never starts",
        a_record(pending(), run=ENDED),
        0,
        [(Code.ENDED, Clears.NOBODY)],
        "the run is cancelled; it never starts",
    ),
    ("next", a_record(pending()), 0, [(Code.TURN, Clears.TASKS)], "it is the next of its phase"),
    (
        "after others, and no slot",
        a_record(submitted(), pending(), pending(), quota=1),
        2,
        [(Code.TURN, Clears.TASKS), (Code.QUOTA, Clears.TASKS)],
        "1 target of its phase before it",
    ),
    (
        "a busy rack",
        a_record(blocked(retry=15, since=-15, count=2)),
        0,
        [(Code.CONFLICT, Clears.TIME)],
        "the rack is busy (2 refusals): busy",
    ),
    (
        "a later phase",
        a_record(submitted(), pending(phase=1), quota=5),
        1,
        [(Code.PHASE_NOT_OPEN, Clears.TASKS)],
        "it is in phase 1, and phase 0 of 2 is at work",
    ),
    (
        "a later phase, behind a gate",
        a_record(completed(), pending(phase=1), run=AT_GATE),
        1,
        [(Code.PHASE_NOT_OPEN, Clears.TASKS), (Code.PHASE_GATE, Clears.OPERATOR)],
        "it is in phase 1, and phase 0 of 2 is at work",
    ),
    (
        "a phase that was left for a retry",
        a_record(submitted(), pending(phase=1), phase=0, opened=1, phases=2),
        1,
        [(Code.RETURNED, Clears.TASKS)],
        "it is in phase 1; the run went back to phase 0 for a retry",
    ),
]


def target_of(record: Record, number: int) -> Target:
    return list(record.targets.values())[number]


def why_of(record: Record, number: int, strays: Sequence[Stray] = ()) -> tuple[Reason, ...]:
    target = target_of(record, number)
    ahead = sum(
        other.phase == target.phase and other.sequence < target.sequence and other.status in ("pending", "blocked")
        for other in record.targets.values()
    )
    return explain_target(_seen(record, strays=len(strays)), target, NOW, ahead=ahead, strays=strays)


@pytest.mark.parametrize(
    ("record", "number", "codes", "first"), [row[1:] for row in TARGETS], ids=[row[0] for row in TARGETS]
)
def test_a_target_says_all_that_keeps_it(
    record: Record, number: int, codes: list[tuple[Code, Clears]], first: str
) -> None:
    found = why_of(record, number)

    assert [(reason.code, reason.clears) for reason in found] == codes
    assert found[0].evidence == first


def test_a_stray_keeps_its_target_from_a_retry() -> None:
    record = a_record(failed(), pending())
    mine, other = a_stray("task-9", target=0), a_stray("task-8", target=1)

    settled, stray = why_of(record, 0, [mine, other, a_stray("task-7", target=0, is_open=False)])

    assert (settled.code, settled.asks) == (Code.SETTLED, Asks(command="retry"))
    assert (stray.code, stray.evidence) == (Code.STRAYS, "1 task of it, task-9, not over yet")


def test_every_stray_of_a_target_is_told_by_its_task() -> None:
    _, found = why_of(a_record(failed(), pending()), 0, [a_stray("task-8"), a_stray("task-9")])

    assert found == Reason(
        code=Code.STRAYS, evidence="2 tasks of it, task-8, task-9, not over yet", clears=Clears.TASKS
    )


def test_a_target_at_work_is_not_kept_by_what_keeps_its_run() -> None:
    assert [reason.code for reason in why_of(a_record(submitted(), pending(), quota=1), 0)] == [Code.IN_FLIGHT]


@pytest.mark.parametrize("target", [submitted(), submitted(missing_since=-5)], ids=["at work", "missing"])
def test_a_target_whose_task_hangs_can_be_settled(target: Target) -> None:
    (found,) = why_of(a_record(target), 0)

    assert found.asks == Asks(command="settle")


def test_a_claim_whose_lease_ends_now_is_looked_up() -> None:
    (found,) = why_of(a_record(claimed(lease=0)), 0)

    assert (found.code, found.since) == (Code.LOOK_UP, NOW)


def test_a_target_that_never_starts_tells_since_when() -> None:
    (found,) = why_of(a_record(pending(), run=ENDED), 0)

    assert found.since == at(-60)


def test_a_target_that_nothing_is_told_to_come_before_is_the_next() -> None:
    record = a_record(pending())

    (found,) = explain_target(_seen(record), target_of(record, 0), NOW)

    assert found.evidence == "it is the next of its phase"


def test_a_target_whose_rack_is_busy_waits_for_its_turn_too() -> None:
    busy, turn = why_of(a_record(pending(), blocked()), 1)

    assert (busy.code, turn.code) == (Code.CONFLICT, Code.TURN)
    assert turn.evidence == "1 target of its phase before it"


def test_instants_of_a_target_are_told() -> None:
    (busy,) = why_of(a_record(blocked(retry=15, since=-15)), 0)
    (lease,) = why_of(a_record(claimed(lease=20)), 0)
    (over,) = why_of(a_record(claimed(lease=-1)), 0)
    (missing,) = why_of(a_record(submitted(missing_since=-5)), 0)

    assert (busy.since, busy.until) == (at(-15), at(15))
    assert (lease.until, over.since, missing.since) == (at(20), at(-1), at(-5))


def test_a_blocked_target_without_a_history_is_told_without_one() -> None:
    (busy,) = why_of(a_record(blocked(conflict=None)), 0)

    assert (busy.evidence, busy.since) == ("the rack is busy: busy", None)


def test_every_code_is_met() -> None:
    met = {code for row in RUNS for code, _ in row[2]} | {code for row in TARGETS for code, _ in row[3]}

    assert met == set(Code)


def test_nothing_keeps_a_run_that_its_next_tick_goes_on_with() -> None:
    assert explain_run(_seen(a_record(pending())), NOW) == ()
    assert told((), "opd", "68b95523", None, now=NOW, width=None) == [
        "run 68b95523: nothing keeps it, its next tick goes on with it; inspected 2031-04-02 10:00:00Z"
    ]
