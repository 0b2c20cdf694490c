"""The journal: which decisions leave an entry, what it keeps, and the digest of what it does not keep."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from opdispatch.command import Pause, Resume
from opdispatch.control import control
from opdispatch.decide import decide
from opdispatch.identity import CommandId
from opdispatch.journal import JournalEntry, digest_of, entry_of, needs_entry
from opdispatch.run import Accepted, RunStatus, StatusReason
from opdispatch.state import Limits, RunState
from opdispatch.tally import Tally
from opdispatch.target import Target
from opdispatch.task import TaskStatus
from tests.unit.builders import (
    LIMITS,
    NOW,
    RUN_ID,
    a_paused_run,
    a_state,
    a_stray,
    at,
    blocked,
    claimed,
    completed,
    failed,
    pending,
    seen,
    submitted,
)

PAUSE = Pause(command_id=CommandId("c1"), actor="ana")


# -- entries --


def test_a_decision_that_changes_something_leaves_an_entry() -> None:
    assert needs_entry(decide(a_state(pending())))


def test_a_command_that_is_refused_leaves_an_entry_because_it_was_answered() -> None:
    assert needs_entry(control(a_state(pending()), Resume(command_id=CommandId("c1"), actor="ana")))


def test_a_decision_that_changes_nothing_leaves_no_entry() -> None:
    assert not needs_entry(decide(a_state(submitted(), status_message="waiting for 1 target in flight")))


def test_an_entry_keeps_what_was_known_and_what_changed_but_no_effect() -> None:
    news, old = seen(0, TaskStatus.COMPLETED), seen(1, message="flashing")
    state = a_state(submitted(), submitted(message="flashing"), pending(), quota=2, observations=[news, old])
    decision = decide(state)
    settle, claim, submit, say = decision.steps

    entry = entry_of(state, decision, actor="dispatcher", number=7)

    assert entry == JournalEntry(
        run_id=RUN_ID,
        number=7,
        at=NOW,
        actor="dispatcher",
        command=None,
        reply=None,
        limits=LIMITS,
        digest=digest_of(state),
        observations=(news,),
        steps=(settle, claim, say),
        held_back=decision.held_back,
    )
    assert decision.effects == (submit.action,)
    assert decision.held_back != ()


def test_an_entry_of_a_command_keeps_it_with_its_reply() -> None:
    state = a_state(pending())
    decision = control(state, PAUSE)

    entry = entry_of(state, decision, actor="ana", number=1)

    assert (entry.command, entry.reply) == (PAUSE, decision.reply)
    assert entry.reply is not None


# -- digests --


def a_full_state(**fields: Any) -> RunState:
    """A state in which everything that a digest tells is there."""
    run = a_paused_run(
        StatusReason.OPERATOR_PAUSED,
        "held",
        **{
            "phases": 4,
            "phase": 1,
            "opened": 2,
            "revision": 9,
            "operator_hold": True,
            "conflict_hold": "rack r1 is busy",
            "accepted": (Accepted(gate=0, phase=1, failures=2),),
            "resumed_at": at(-40),
            "decided_at": at(-5),
            "finished_at": at(-1),
            **fields,
        },
    )
    targets = (
        completed(phase=0),
        submitted(phase=1, attempt=2, fence=3),
        blocked(phase=1, retry=15),
        failed(phase=2),
        pending(phase=3),
    )
    strays = [a_stray("open"), a_stray("over", is_open=False)]
    return a_state(*targets, run=run, strays=strays, observations=[seen(0, task="over")])


def test_the_digest_of_a_state_never_changes_between_releases() -> None:
    assert digest_of(a_full_state()) == "1e089249653d293dd8bd5fc63a5baf83"


def test_a_digest_is_32_hexadecimal_digits() -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", digest_of(a_state()))


def with_tally(group: str) -> Callable[[RunState], RunState]:
    def changed(state: RunState) -> RunState:
        return replace(state, tallies=replace(state.tallies, **{group: Tally(skipped=7)}))

    return changed


def with_flying(**fields: Any) -> Callable[[RunState], RunState]:
    def changed(state: RunState) -> RunState:
        return replace(state, in_flight=tuple(replace(target, **fields) for target in state.in_flight))

    return changed


def with_strays(*tasks: str) -> Callable[[RunState], RunState]:
    return lambda state: replace(state, strays=tuple(a_stray(task) for task in tasks))


@pytest.mark.parametrize(
    "fields",
    [
        {"status": RunStatus.RUNNING},
        {"status_reason": StatusReason.PHASE_GATE},
        {"status_message": "held, again"},
        {"phase": 0},
        {"opened": 3},
        {"revision": 10},
        {"operator_hold": False},
        {"conflict_hold": None},
        {"accepted": (Accepted(gate=0, phase=1, failures=3),)},
        {"resumed_at": None},
        {"decided_at": at(-5.000001)},
        {"started_at": None},
        {"finished_at": at(-2)},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_digest_tells_every_fact_of_the_run_that_can_change(fields: dict[str, Any]) -> None:
    state = a_full_state()

    assert digest_of(replace(state, run=replace(state.run, **fields))) != digest_of(state)


@pytest.mark.parametrize(
    "change",
    [
        with_tally("earlier"),
        with_tally("current"),
        with_tally("ahead"),
        with_tally("later"),
        with_flying(sequence=8),
        with_flying(attempt=8),
        with_flying(fence=8),
        with_strays("open", "another"),
        with_strays(),
        lambda state: replace(state, next_retry=at(16)),
        lambda state: replace(state, next_retry=None),
    ],
)
def test_a_digest_tells_the_counts_what_is_in_flight_and_the_open_strays(
    change: Callable[[RunState], RunState],
) -> None:
    state = a_full_state()

    assert digest_of(change(state)) != digest_of(state)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: replace(state, now=state.now + timedelta(seconds=1)),
        lambda state: replace(state, limits=Limits(claims=0)),
        lambda state: replace(state, observations=()),
        lambda state: replace(state, named=()),
        lambda state: replace(state, strays=tuple(stray for stray in state.strays if stray.is_open)),
    ],
    ids=["the instant", "the limits", "the observations", "what they name", "strays that are over"],
)
def test_a_digest_leaves_out_what_an_entry_keeps_and_what_it_brings_into_the_window(
    change: Callable[[RunState], RunState],
) -> None:
    state = a_full_state()
    changed = change(state)

    assert changed != state
    assert digest_of(changed) == digest_of(state)


def test_a_state_whose_words_are_no_unicode_has_a_digest() -> None:
    assert len(digest_of(a_state(pending(), strays=[a_stray("\ud800")]))) == 32


@pytest.mark.parametrize("target", [claimed(), submitted()], ids=lambda target: str(target.status))
def test_what_is_in_flight_is_told_by_place_attempt_and_fence_alone(target: Target) -> None:
    state = a_state(target)

    assert digest_of(replace(state, in_flight=(replace(state.in_flight[0], message="half way"),))) == digest_of(state)
