"""The laws by hand: each says what it found and where.  That they notice whole protocols that are wrong is shown by
``tests/mutants``."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from opdispatch.action import SubmitTask
from opdispatch.command import Pause
from opdispatch.control import control
from opdispatch.decide import decide
from opdispatch.evolve import evolve, window
from opdispatch.identity import CommandId, TaskId
from opdispatch.observation import SubmissionAccepted
from opdispatch.run import RunStatus
from opdispatch.tally import Tally
from opdispatch.task import TaskStatus
from opdispatch.testing import (
    COMMAND_LAWS,
    DECISION_LAWS,
    RECORD_LAWS,
    STEP_LAWS,
    TASK_LAWS,
    TRANSITION_LAWS,
    Broken,
    KnownTask,
    Transition,
    WithTasks,
    breaches,
    orphans,
)
from opdispatch.testing.manager import SimulatedTasks
from tests.unit.builders import LIMITS, NOW, a_record, completed, pending, submitted, task_id


def a_step() -> Transition:
    """The first decision of a run of two targets."""
    before = a_record(pending(), pending())
    state = window(before, observations=(), limits=LIMITS, now=NOW)
    decision = decide(state)
    return Transition(before=before, after=evolve(before, decision), state=state, decision=decision)


def told(found: object) -> list[str]:
    return [str(breach) for breach in found]  # type: ignore[attr-defined]  # breaches


def test_a_decision_as_it_is_breaks_nothing() -> None:
    step = a_step()

    assert breaches(TRANSITION_LAWS, step) == ()
    assert breaches(RECORD_LAWS, step.after) == ()


def test_every_law_has_a_name_of_its_own_and_a_rule_in_one_sentence() -> None:
    laws = [
        *((law.name, law.rule) for law in RECORD_LAWS),
        *((law.name, law.rule) for law in TRANSITION_LAWS),
        *((law.name, law.rule) for law in TASK_LAWS),
    ]

    assert len({name for name, _ in laws}) == len(laws)
    assert all(rule.endswith(".") and ". " not in rule for _, rule in laws)


def test_counts_that_are_not_those_of_the_targets_are_told_with_their_phase() -> None:
    record = replace(a_record(pending(), pending()), phases=(Tally(pending=1),))

    (found,) = breaches(RECORD_LAWS, record)

    assert (found.law, found.what.split(" counts ")[0]) == ("totals", "phase 0")


def test_a_run_that_is_completed_with_a_pending_target_is_told() -> None:
    record = a_record(pending(), completed())
    record = replace(record, run=replace(record.run, status=RunStatus.COMPLETED, finished_at=NOW))

    assert "ends: completed, and not every target is settled" in told(breaches(RECORD_LAWS, record))


def test_a_change_that_nobody_decided_is_told() -> None:
    step = a_step()

    found = told(breaches(STEP_LAWS, replace(step, decision=None, state=None)))

    assert "only by decision: a run changed without a decision" in found


def test_a_claim_that_nobody_calls_for_is_told() -> None:
    step = a_step()
    assert step.decision is not None
    steps = tuple(one for one in step.decision.steps if not isinstance(one.action, SubmitTask))

    found = told(breaches(DECISION_LAWS, replace(step, decision=replace(step.decision, steps=steps))))

    assert found == ["calls: what is claimed is not what is called for"]


def test_a_command_without_a_reply_is_told() -> None:
    before = a_record(pending(), pending())
    state = window(before, observations=(), limits=LIMITS, now=NOW)
    decision = replace(control(state, Pause(command_id=CommandId("p"), actor="ada")), reply=None)
    step = Transition(before=before, after=evolve(before, decision), state=state, decision=decision)

    assert told(breaches(COMMAND_LAWS, step)) == ["replies: the reply is to another command"]


def test_two_tasks_of_a_target_at_work_are_told_and_one_that_was_lost_is_not() -> None:
    step = a_step()
    target = next(iter(step.after.targets))
    one = KnownTask(task_id=TaskId("a"), target_id=target, attempt=1, status=TaskStatus.RUNNING)
    other = replace(one, task_id=TaskId("b"), attempt=2)

    found = told(breaches(TASK_LAWS, WithTasks(step=step, tasks=(one, other))))
    lost = breaches(TASK_LAWS, WithTasks(step=step, tasks=(replace(one, forgotten=True), other)))

    assert found == ["once: a target has two tasks at work"]
    assert lost == ()


def test_a_task_at_work_that_the_run_does_not_know_is_an_orphan() -> None:
    record = a_record(submitted(), pending())
    target = next(iter(record.targets))
    known = KnownTask(task_id=task_id(), target_id=target, attempt=1, status=TaskStatus.RUNNING)
    orphan = replace(known, task_id=TaskId("orphan"))

    assert orphans(record, (known, orphan)) == (orphan,)
    assert orphans(replace(record, targets=MappingProxyType({})), (known,)) == (known,)


def test_what_is_broken_says_every_breach() -> None:
    found = breaches(RECORD_LAWS, replace(a_record(pending()), phases=(Tally(),)))

    with pytest.raises(Broken, match="totals: phase 0 counts") as error:
        raise Broken(found)

    assert error.value.breaches == found


def test_the_simulated_task_manager_begins_a_key_once() -> None:
    manager = SimulatedTasks()
    decision = a_step().decision
    assert decision is not None
    request = next(effect.request for effect in decision.effects if isinstance(effect, SubmitTask))

    first, again = manager.begin(request), manager.begin(replace(request, fence=2))

    assert isinstance(first, SubmissionAccepted)
    assert isinstance(again, SubmissionAccepted)
    assert first.task_id == again.task_id
    assert len(manager.known()) == 1
