"""Where the reference does other than it says: what stands here, one test or more for each place.

The numbers are those of the list of differences in the documentation.
"""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

import opdispatch
from opdispatch.action import BlockTarget, Decision, RearmBlocked, SetConflictHold, SettleTarget
from opdispatch.command import Advance, Pause, Refusal, Resume, Settle
from opdispatch.control import control
from opdispatch.decide import decide
from opdispatch.errors import InvalidInput
from opdispatch.evolve import Record, evolve, window
from opdispatch.identity import CommandId, target_id_of
from opdispatch.observation import Observation
from opdispatch.plan import new_run, plan
from opdispatch.policy.gates import FailureCountGate
from opdispatch.policy.phases import CountPhases, EqualPhases
from opdispatch.run import RunStatus, StatusReason
from opdispatch.target import Target, TargetStatus
from opdispatch.task import Operation, SubmissionRequest
from opdispatch_adapters.memory import MemoryStore
from tests.racks import component, rack, rack_id, racks, rollout
from tests.unit.builders import (
    LIMITS,
    NOW,
    a_paused_run,
    a_record,
    a_run,
    a_state,
    a_whole,
    absent,
    at,
    blocked,
    claimed,
    claims,
    completed,
    conflicted,
    failed,
    failure_count,
    pause,
    pending,
    skipped,
    submissions,
    target_id,
    terminated,
    the,
    unknown,
)

ID: Final = CommandId("c1")
PAGE: Final = Path(__file__).parents[2] / "docs" / "explanation" / "differences.md"


def decided(record: Record, *observations: Observation, now: datetime) -> tuple[Record, Decision]:
    decision = decide(window(record, observations=observations, limits=LIMITS, now=now))
    return evolve(record, decision), decision


def a_busy_rack(hours: float) -> tuple[Record, list[float]]:
    """A run of one target whose rack never comes free: the record after so long, and the wait after each try."""
    record, now, waits = a_record(pending(), run=a_run(RunStatus.PENDING)), NOW, []
    while now < NOW + timedelta(hours=hours) and record.run.status is not RunStatus.PAUSED:
        record, decision = decided(record, now=now)
        for number in claims(decision):
            fence = record.targets[target_id(number)].fence
            record, refused = decided(record, conflicted(number, fence=fence), now=now)
            waits.append((the(refused, BlockTarget).retry_at - now).total_seconds())
        now = record.wake_at or now + timedelta(days=1)
    return record, waits


def test_13_1_the_wait_for_a_busy_rack_doubles_across_claims() -> None:
    _, waits = a_busy_rack(hours=0.5)

    assert waits[:6] == [30, 60, 120, 240, 300, 300]


def test_13_2_a_target_that_is_tried_again_and_again_holds_the_run_when_its_window_ends() -> None:
    record, waits = a_busy_rack(hours=3)

    assert record.run.status_reason is StatusReason.CONFLICT_RETRY_TIMEOUT
    assert record.run.decided_at == NOW + timedelta(hours=1)
    assert len(waits) < 20


def test_13_3_a_resume_after_a_conflict_window_tries_at_once_and_does_not_pause_again() -> None:
    record, _ = a_busy_rack(hours=3)
    now = at(7200)
    resume = Resume(command_id=ID, actor="ana")

    resumed = control(window(record, observations=(), limits=LIMITS, now=now), resume)
    record, decision = decided(evolve(record, resumed), now=now)

    assert the(resumed, RearmBlocked).at == now
    assert claims(decision) == [0]
    assert record.run.status is RunStatus.RUNNING


def test_13_4_a_resume_that_accepts_the_failures_of_a_gate_goes_on() -> None:
    run = a_paused_run(StatusReason.SAFETY_GATE, gates=(failure_count(1),))
    record = a_record(failed(), pending(), run=run)

    resumed = control(a_whole(failed(), pending(), run=run), Resume(command_id=ID, actor="ana", accept_failures=1))
    record, decision = decided(evolve(record, resumed), now=NOW)

    assert claims(decision) == [1]
    assert record.run.status is RunStatus.RUNNING


def test_13_5_a_resume_that_a_tripped_gate_blocks_is_refused_and_says_so() -> None:
    state = a_whole(failed(), pending(), gates=(failure_count(1),))

    reply = control(state, Resume(command_id=ID, actor="ana")).reply

    assert reply is not None
    assert reply.refusal is Refusal.GATE_TRIPPED


def test_13_6_a_phase_that_waits_is_advanced_and_a_resume_says_that() -> None:
    state = a_whole(completed(phase=0), pending(phase=1))

    resumed = control(state, Resume(command_id=ID, actor="ana")).reply
    advanced = control(state, Advance(command_id=ID, actor="ana", expected_phase=1)).reply

    assert resumed is not None
    assert (resumed.refusal, "advance it to phase 1" in resumed.message) == (Refusal.PHASE_GATE, True)
    assert advanced is not None
    assert advanced.accepted


@pytest.mark.parametrize("target", [completed(), failed(), terminated(), skipped()], ids=lambda t: str(t.status))
def test_13_7_a_settled_phase_opens_the_next_whatever_came_of_it_unless_a_gate_trips(target: Target) -> None:
    state = a_state(target, pending(phase=1), auto_advance=True)

    assert decide(state).changes[0] == opdispatch.OpenPhase(phase=1)


def test_13_8_a_listing_that_names_no_phase_holds_the_targets_of_every_phase_as_they_are() -> None:
    store = MemoryStore(clock=lambda: NOW)
    made = plan(racks(3), rollout(phases=EqualPhases(count=3)))

    run = store.create(new_run(made, command_id=ID, actor="ana", now=NOW))

    listed = store.targets(run.id)
    assert [(target.phase, target.status) for target in listed] == [
        (0, TargetStatus.PENDING),
        (1, TargetStatus.PENDING),
        (2, TargetStatus.PENDING),
    ]
    assert [target.phase for target in store.targets(run.id, phases={1})] == [1]


def test_13_9_everything_that_can_be_asked_of_a_run_is_carried_out() -> None:
    commands = {"Pause", "Resume", "Advance", "Cancel"}
    reads = {"create", "get", "list", "targets"}

    assert commands <= set(opdispatch.__all__)
    assert reads <= set(dir(MemoryStore))


def test_13_10_the_default_scope_is_every_rack_with_a_component_and_the_others_are_listed() -> None:
    made = plan([rack(1), rack(2, {}), rack(3)], rollout())

    assert {candidate.name for candidate in made.racks} == {"r1", "r3"}
    assert [dropped.candidate.name for dropped in made.dropped] == ["r2"]


def test_13_11_there_is_no_queue_option_that_could_be_ignored() -> None:
    names = {field.name for kind in (Operation, SubmissionRequest) for field in fields(kind)}

    assert [name for name in names if "queue" in name or "strategy" in name] == []


def test_13_12_what_never_started_is_skipped_when_its_run_is_cancelled_or_an_operator_says_so() -> None:
    record = a_record(pending(), blocked(), pending(phase=1))
    state = window(record, observations=(), limits=LIMITS, now=NOW)

    after = evolve(record, control(state, opdispatch.Cancel(command_id=ID, actor="ana")))

    assert {target.status for target in after.targets.values()} == {TargetStatus.SKIPPED}
    skip = Settle(command_id=ID, actor="ana", target=target_id(0), status=TargetStatus.SKIPPED, why="gone")
    assert the(control(state, skip), SettleTarget).status is TargetStatus.SKIPPED


def test_13_13_a_run_that_was_paused_before_it_started_has_started_once_it_runs() -> None:
    record = a_record(pending(), run=a_run(RunStatus.PENDING))

    for command in (Pause(command_id=ID, actor="ana"), Resume(command_id=CommandId("c2"), actor="ana")):
        record = evolve(record, control(window(record, observations=(), limits=LIMITS, now=NOW), command))

    assert (record.run.status, record.run.started_at) == (RunStatus.RUNNING, NOW)


def test_13_14_an_error_that_may_pass_settles_nothing_and_the_key_is_looked_up_before_another_try() -> None:
    record, _ = decided(a_record(claimed(lease=20)), unknown(0, message="connection lost"), now=NOW)

    assert record.targets[target_id(0)].status is TargetStatus.CLAIMED
    _, unseen = decided(record, now=at(25))
    _, looked = decided(record, absent(0, looked=25), now=at(25))
    assert (submissions(unseen), submissions(looked)) == ([], [0])


def test_13_15_a_dispatcher_that_stops_between_claim_and_answer_fails_nothing() -> None:
    record, _ = decided(a_record(pending(), run=a_run(RunStatus.PENDING)), now=NOW)

    record, decision = decided(record, now=at(3600))

    assert [type(change) for change in decision.changes] == [opdispatch.AnnotateRun]
    assert record.targets[target_id(0)].status is TargetStatus.CLAIMED


def test_13_16_a_plan_that_does_not_fit_is_an_error_of_the_caller_that_says_what_would() -> None:
    with pytest.raises(InvalidInput, match=r"the phases ask for 9 targets, and 5 are selected; use counts = \[4, 1\]"):
        plan(racks(5), rollout(phases=CountPhases(counts=(4, 5))))


def test_13_16_there_is_no_limit_of_a_hundred_racks() -> None:
    assert len(plan(racks(250), rollout()).racks) == 250


def test_13_17_a_task_is_given_every_component_of_its_target() -> None:
    ids = tuple(component(number) for number in range(5))
    (target,) = new_run(plan([rack(1, {"compute": ids})], rollout()), command_id=ID, actor="ana", now=NOW).targets

    assert target.components == {"compute": ids}
    assert target.id == target_id_of(opdispatch.run_id_of(ID), rack_id(1))


@pytest.mark.parametrize("kind", [Target, opdispatch.Run, SubmissionRequest], ids=lambda kind: kind.__name__)
def test_13_18_there_is_no_field_that_nothing_ever_fills(kind: Any) -> None:
    assert not {field.name for field in fields(kind)} & {"applied_rule_id", "rule_id", "workflow_id"}


def test_the_page_has_each_of_these_and_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8")
    tested = {int(found) for name in globals() if (found := (re.match(r"test_13_(\d+)_", name) or ["", ""])[1])}

    assert {int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == tested == set(range(1, 19))


# -- and where this differs of its own accord --


@pytest.mark.parametrize("target", [failed(), terminated()], ids=lambda t: str(t.status))
def test_terminated_targets_count_as_failures_unless_a_gate_says_otherwise(target: Target) -> None:
    narrow = FailureCountGate(threshold_count=1, outcomes=frozenset({TargetStatus.FAILED}))

    assert pause(decide(a_state(target, pending(), gates=(failure_count(1),)))).reason is StatusReason.SAFETY_GATE
    assert bool(claims(decide(a_state(target, pending(), gates=(narrow,))))) == (
        target.status is TargetStatus.TERMINATED
    )


def test_a_conflict_hold_is_set_by_a_refusal_and_never_by_the_passing_of_time() -> None:
    state = a_state(blocked(since=-86400, retry=-80000), run=a_run(resumed_at=at(-86000)))

    decision = decide(state)

    assert claims(decision) == [0]
    assert not any(isinstance(change, SetConflictHold) for change in decision.changes)
