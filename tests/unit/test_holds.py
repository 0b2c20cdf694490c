"""Which holds stand, which gates are tripped and by how much."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from opdispatch.holds import (
    TrippedGate,
    failed_attempts,
    next_phase,
    safety_message,
    standing_holds,
    tripped_gates,
    waits_for_advance,
)
from opdispatch.policy.gates import GateScope
from opdispatch.run import Accepted, StatusReason
from opdispatch.target import Target, TargetStatus
from tests.unit.builders import (
    a_whole,
    claimed,
    completed,
    failed,
    failure_count,
    failure_rate,
    pending,
    skipped,
    submitted,
    terminated,
)

CUMULATIVE = GateScope.CUMULATIVE_RUN


def tripped(*targets: Target, **fields: Any) -> tuple[TrippedGate, ...]:
    state = a_whole(*targets, **fields)
    return tripped_gates(state.run, state.tallies)


def test_a_run_without_gates_trips_none() -> None:
    assert tripped(failed(), failed()) == ()


def test_every_tripped_gate_is_told_in_the_order_of_the_rollout() -> None:
    gates = failure_count(2), failure_count(9), failure_rate(10)

    assert [gate.index for gate in tripped(failed(), failed(), gates=gates)] == [0, 2]


def test_a_gate_of_the_current_phase_counts_that_phase_alone() -> None:
    gate = failure_count(1)

    (found,) = tripped(failed(phase=0), failed(phase=1), pending(phase=1), phase=1, gates=(gate,))

    assert found == TrippedGate(index=0, gate=gate, phase=1, failures=1, accepted=0, targets=2)


def test_a_cumulative_gate_counts_every_phase_opened_so_far() -> None:
    gate = failure_count(2, CUMULATIVE)

    (found,) = tripped(failed(phase=0), failed(phase=1), pending(phase=2), phase=1, gates=(gate,))

    assert found == TrippedGate(index=0, gate=gate, phase=None, failures=2, accepted=0, targets=2)


def test_a_cumulative_gate_counts_phases_ahead_of_a_pointer_that_moved_back() -> None:
    gates = (failure_count(1, CUMULATIVE),)

    (found,) = tripped(pending(phase=0), failed(phase=1), pending(phase=2), phase=0, opened=1, gates=gates)

    assert (found.failures, found.targets) == (1, 2)


def test_what_was_accepted_is_subtracted_before_the_gate_compares() -> None:
    accepted = (Accepted(gate=0, phase=0, failures=2),)
    gates = (failure_count(2),)

    assert tripped(failed(), failed(), failed(), gates=gates, accepted=accepted) == ()
    assert len(tripped(*[failed()] * 4, gates=gates, accepted=accepted)) == 1


def test_what_was_accepted_of_a_rate_leaves_its_denominator() -> None:
    accepted = (Accepted(gate=0, phase=0, failures=1),)
    gates = (failure_rate(50),)

    assert tripped(failed(), failed(), pending(), pending(), gates=gates, accepted=accepted) == ()
    assert len(tripped(failed(), failed(), failed(), pending(), gates=gates, accepted=accepted)) == 1


def test_what_was_accepted_in_one_phase_is_not_accepted_in_another() -> None:
    accepted = (Accepted(gate=0, phase=0, failures=1),)

    found = tripped(failed(phase=0), failed(phase=1), phase=1, gates=(failure_count(1),), accepted=accepted)

    assert [gate.phase for gate in found] == [1]


def test_what_a_cumulative_gate_accepted_holds_in_every_phase() -> None:
    accepted = (Accepted(gate=0, phase=None, failures=1),)
    gates = (failure_count(1, CUMULATIVE),)

    assert tripped(failed(phase=0), pending(phase=1), phase=1, gates=gates, accepted=accepted) == ()


def test_a_gate_can_count_terminated_targets_alone() -> None:
    gate = replace(failure_count(1), outcomes=frozenset({TargetStatus.TERMINATED}))

    assert tripped(failed(), pending(), gates=(gate,)) == ()
    assert len(tripped(terminated(), pending(), gates=(gate,))) == 1


def test_an_acceptance_is_of_everything_that_the_gate_counts() -> None:
    accepted = (Accepted(gate=0, phase=0, failures=1),)

    (found,) = tripped(failed(), failed(), failed(), gates=(failure_count(1),), accepted=accepted)

    assert found.acceptance() == Accepted(gate=0, phase=0, failures=3)


def test_a_gate_that_trips_again_says_what_was_accepted_before() -> None:
    accepted = (Accepted(gate=0, phase=0, failures=1),)

    (found,) = tripped(failed(), failed(), gates=(failure_count(1),), accepted=accepted)

    assert found.describe() == (
        "failure_count safety gate tripped for current_phase: 2/2 targets failed (threshold 1); 1 accepted before"
    )


@pytest.mark.parametrize(
    ("targets", "words"),
    [([failed(), pending()], "1 failed attempt"), ([failed(), terminated()], "2 failed attempts")],
    ids=["one", "several"],
)
def test_a_safety_message_is_of_the_first_gate_and_tells_what_a_resume_accepts(
    targets: list[Target], words: str
) -> None:
    state = a_whole(*targets, gates=(failure_count(1), failure_rate(1)))

    message = safety_message(tripped_gates(state.run, state.tallies), state.tallies)

    assert message.startswith("failure_count safety gate tripped for current_phase: ")
    assert message.endswith(f"; {words} in the whole run")


def test_retried_failures_of_every_phase_are_failed_attempts() -> None:
    state = a_whole(failed(phase=0), terminated(phase=1), pending(phase=2), failed_before={0: 2, 2: 1})

    assert failed_attempts(state.tallies) == 5


# -- phases --


@pytest.mark.parametrize("target", [pending(), claimed(), submitted()], ids=lambda t: str(t.status))
def test_no_phase_follows_one_with_work_left(target: Target) -> None:
    state = a_whole(completed(), target, pending(phase=1))

    assert next_phase(state.run, state.tallies) is None


def test_no_phase_follows_the_last() -> None:
    state = a_whole(completed(phase=0), completed(phase=1), phase=1)

    assert next_phase(state.run, state.tallies) is None


@pytest.mark.parametrize("target", [completed(), failed(), skipped()], ids=lambda t: str(t.status))
def test_a_settled_phase_is_followed_by_the_next_whatever_came_of_it(target: Target) -> None:
    state = a_whole(target, pending(phase=1))

    assert next_phase(state.run, state.tallies) == 1


@pytest.mark.parametrize(
    ("fields", "waits"),
    [({}, True), ({"auto_advance": True}, False), ({"opened": 1}, False)],
    ids=["manual", "automatic", "opened before"],
)
def test_only_a_phase_that_was_never_opened_waits_and_only_where_advances_are_manual(
    fields: dict[str, Any], waits: bool
) -> None:
    state = a_whole(completed(phase=0), pending(phase=1), phase=0, **fields)

    assert waits_for_advance(state.run, state.tallies) is waits


# -- the order of the holds --


def test_the_holds_stand_in_the_order_operator_conflict_safety_phase() -> None:
    state = a_whole(
        failed(phase=0),
        pending(phase=1),
        operator_hold=True,
        conflict_hold="busy",
        gates=(failure_count(1),),
    )

    assert [hold.reason for hold in standing_holds(state.run, state.tallies)] == [
        StatusReason.OPERATOR_PAUSED,
        StatusReason.CONFLICT_RETRY_TIMEOUT,
        StatusReason.SAFETY_GATE,
        StatusReason.PHASE_GATE,
    ]


def test_nothing_holds_a_run_that_has_work_and_no_hold() -> None:
    state = a_whole(failed(), pending(), gates=(failure_count(2),))

    assert standing_holds(state.run, state.tallies) == ()
