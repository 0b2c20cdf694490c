"""What must hold of every step, whoever made it."""

from __future__ import annotations

from typing import Final

from ..action import ClaimTarget, OpenPhase
from ..command import Advance, Retry
from ..run import RunStatus
from ..target import Settled
from .law import Law, Transition, Verdicts


def _terminal(step: Transition) -> Verdicts:
    before, after = step.before.run, step.after.run
    yield not before.status.is_terminal or after.status is before.status, f"a run went from {before.status} on"
    retried = _retried(step)
    for target_id, was in step.before.targets.items():
        now = step.after.targets[target_id]
        kept = now == was or target_id in retried
        yield kept or not isinstance(was.state, Settled), f"target {was.sequence} did not stay {was.status}"


def _retried(step: Transition) -> frozenset[object]:
    command = step.decision.command if step.decision is not None else None
    return frozenset(command.targets) if isinstance(command, Retry) else frozenset()


def _attempts(step: Transition) -> Verdicts:
    retried = _retried(step)
    for target_id, was in step.before.targets.items():
        risen = step.after.targets[target_id].attempt - was.attempt
        allowed = (0, 1) if target_id in retried and isinstance(was.state, Settled) else (0,)
        yield risen in allowed, f"the attempt of target {was.sequence} rose by {risen}"


def _fences(step: Transition) -> Verdicts:
    changes = step.decision.changes if step.decision is not None else ()
    claimed = [change.target_id for change in changes if isinstance(change, ClaimTarget)]
    yield len(set(claimed)) == len(claimed), "a target is claimed twice at once"
    for target_id, was in step.before.targets.items():
        risen = step.after.targets[target_id].fence - was.fence
        yield risen == (target_id in claimed), f"the fence of target {was.sequence} rose by {risen}"


def _plan(step: Transition) -> Verdicts:
    def frozen(record: object) -> list[tuple[object, ...]]:
        return [
            (t.id, t.sequence, t.phase, t.rack_id, t.rack_name, t.components)
            for t in record.targets.values()  # type: ignore[attr-defined]  # a record
        ]

    yield frozen(step.before) == frozen(step.after), "the cohort is not what it was"
    yield step.before.run.rollout == step.after.run.rollout, "the rollout is not what it was"


def _phases(step: Transition) -> Verdicts:
    before, after = step.before.run, step.after.run
    decision = step.decision
    changes = decision.changes if decision is not None else ()
    command = decision.command if decision is not None else None
    opened = [change.phase for change in changes if isinstance(change, OpenPhase)]
    yield after.opened >= before.opened, "an opened phase is closed again"
    yield len(opened) <= 1, f"phases {opened} open at once"
    moved_back = after.phase < before.phase
    yield not moved_back or isinstance(command, Retry), f"the pointer went back from {before.phase} to {after.phase}"
    yield moved_back or after.phase - before.phase == len(opened), "the pointer moved without a phase that opens"
    for phase in opened:
        yield phase == before.phase + 1, f"phase {phase} opens after phase {before.phase}"
        open_still = [t.sequence for t in step.after.targets.values() if t.phase < phase and not t.status.is_settled]
        yield not open_still, f"phase {phase} opens, and targets {open_still} are not settled"
        waits = phase > before.opened and not before.rollout.auto_advance
        asked = isinstance(command, Advance) and command.expected_phase == phase
        yield asked or not waits, f"phase {phase} opens, and nobody advanced"


def _strangers(step: Transition) -> Verdicts:
    yield step.decision is not None or step.before.run == step.after.run, "a run changed without a decision"
    unchanged = step.before.targets == step.after.targets and step.before.strays == step.after.strays
    yield step.decision is not None or unchanged, "targets changed without a decision"


def _strays(step: Transition) -> Verdicts:
    for task_id, was in step.before.strays.items():
        now = step.after.strays.get(task_id)
        yield now is not None, f"stray {task_id} is forgotten"
        yield now is None or was.is_open or not now.is_open, f"stray {task_id} is open again"


def _revision(step: Transition) -> Verdicts:
    changed = step.decision is not None and bool(step.decision.changes)
    yield step.after.run.revision == step.before.run.revision + changed, "the revision does not count the changes"
    started = step.before.run.started_at
    yield started is None or step.after.run.started_at == started, "a run started twice"
    left_pending = step.before.run.status is RunStatus.PENDING or step.after.run.status is not RunStatus.PENDING
    yield left_pending, "a run is pending again"


STEP_LAWS: Final[tuple[Law[Transition], ...]] = (
    Law(name="terminal", rule="What has ended stays as it is; only a retry reopens a target.", check=_terminal),
    Law(name="attempt", rule="An attempt rises by one, by a retry of a settled target.", check=_attempts),
    Law(name="fence", rule="Each claim raises its target's fence by one, and nothing else does.", check=_fences),
    Law(name="frozen plan", rule="Cohort, order, phases and rollout never change.", check=_plan),
    Law(
        name="phases",
        rule="Phases open one by one, each when all before it are settled, and a manual one by an advance.",
        check=_phases,
    ),
    Law(name="only by decision", rule="A run changes by a decision alone.", check=_strangers),
    Law(name="strays stay", rule="A stray stays on record, and what is over is not open again.", check=_strays),
    Law(name="revision", rule="The revision counts the decisions that changed something.", check=_revision),
)
