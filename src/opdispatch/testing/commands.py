"""What must hold of an operator's command and its reply."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ..command import Advance, Cancel, Pause, Resume, Retry
from ..run import RunStatus
from ..target import Blocked, Pending, Submitted
from .decisions import is_tripped
from .law import Law, Transition, Verdicts


def _replies(step: Transition) -> Verdicts:
    decision = step.decision
    if decision is None or decision.command is None:
        return
    reply = decision.reply
    yield reply is not None and reply.command_id == decision.command.command_id, "the reply is to another command"
    yield not decision.effects, "a command calls the task manager itself"
    if reply is None:
        return
    yield reply.accepted or not decision.changes, "a refused command changes something"
    yield reply.accepted or bool(reply.message), "a refusal does not say why"
    yield reply.revision == step.after.run.revision, "the reply tells another revision"
    standing = step.after.run.standing
    told = None if reply.after is None else replace(reply.after, updated_at=standing.updated_at)
    yield told == standing, "the reply tells another run"
    claimed = sum(tally.claimed for tally in step.before.phases)
    yield reply.open_claims == claimed, f"{claimed} calls may still begin, and the reply tells {reply.open_claims}"
    yield decision.wake_at is not None, "the next tick is not due after a command"


def _effects(step: Transition) -> Verdicts:
    decision = step.decision
    if decision is None or decision.command is None or decision.reply is None or not decision.reply.accepted:
        return
    command, before, after = decision.command, step.before, step.after
    run = after.run
    match command:
        case Pause():
            yield run.status is RunStatus.PAUSED and run.operator_hold, "an accepted pause does not pause"
            yield after.targets == before.targets, "a pause touches targets"
        case Resume():
            yield not run.operator_hold and run.conflict_hold is None, "an accepted resume leaves a hold"
            yield not is_tripped(after), "an accepted resume leaves a gate tripped"
            yield run.resumed_at is not None, "a resume is not dated"
            attempts = sum(tally.failed_before + tally.terminated_before for tally in after.phases)
            attempts += sum(tally.failed + tally.terminated for tally in after.phases)
            for accepted in run.accepted:
                yield accepted.failures <= attempts, "more is accepted than has failed"
            had = before.run.conflict_hold is not None
            waiting = [t.sequence for t in after.targets.values() if isinstance(t.state, Blocked) and t.conflict]
            yield not (had and waiting), f"a resumed conflict leaves {waiting} waiting"
            seen = command.accept_failures is not None and command.accept_failures >= attempts
            yield seen or not is_tripped(before), f"{attempts} have failed, and {command.accept_failures} are accepted"
        case Advance():
            yield run.phase == command.expected_phase == before.run.phase + 1, "an advance opens another phase"
            yield run.operator_hold == before.run.operator_hold, "an advance touches the operator's hold"
            held = before.run.conflict_hold is not None or is_tripped(before)
            yield not held, "an advance passes a hold that is not its own"
        case Cancel():
            yield run.status.is_terminal, "an accepted cancel does not end the run"
            left = [t.sequence for t in after.targets.values() if isinstance(t.state, Pending | Blocked)]
            yield not left, f"a cancel leaves {left} waiting"
        case Retry(targets=targets):
            for target_id in targets:
                was, now = before.targets[target_id], after.targets[target_id]
                again = isinstance(now.state, Pending) and now.attempt == was.attempt + 1 and now.conflict is None
                yield again, f"target {now.sequence} gets no new attempt"
                strays = [s.task_id for s in before.strays.values() if s.is_open and s.target_id == target_id]
                yield not strays, f"target {now.sequence} gets a new attempt beside {strays}"
                yield run.phase <= now.phase, f"target {now.sequence} has work behind the pointer"
            yield not is_tripped(before), "a retry under a tripped gate"
        case _:
            target_id = command.target
            was, now = before.targets[target_id], after.targets[target_id]
            yield now.status is command.status, f"target {now.sequence} is {now.status}"
            task_id = was.state.task_id if isinstance(was.state, Submitted) else None
            kept = task_id is None or (task_id in after.strays and after.strays[task_id].is_open)
            yield kept, f"task {task_id} is forgotten"
    others = {target_id for target_id, target in after.targets.items() if target != before.targets[target_id]}
    named = frozenset(command.targets) if isinstance(command, Retry) else frozenset({getattr(command, "target", None)})
    broad = isinstance(command, Cancel | Resume)
    yield broad or others <= named, "a command changes targets that it does not name"


COMMAND_LAWS: Final[tuple[Law[Transition], ...]] = (
    Law(name="replies", rule="A reply tells what the command did; a refused one does nothing.", check=_replies),
    Law(name="commands", rule="A command does what it says, and nothing else.", check=_effects),
)
