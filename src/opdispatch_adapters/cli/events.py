"""Events: a journal entry as the few facts that an operator follows, in the order in which they were decided.

What is left out is in the journal: every claim and every note about a running task would bury the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from opdispatch.action import (
    AcceptFailures,
    AnnotateRun,
    BlockTarget,
    ContinueRun,
    FinishRun,
    OpenPhase,
    PauseRun,
    RecordStray,
    RecordTask,
    RetryTarget,
    ReturnToPhase,
    SettleTarget,
    SkipUnstarted,
    StartRun,
)
from opdispatch.command import command_name
from opdispatch.identity import TargetId
from opdispatch.journal import JournalEntry
from opdispatch.target import FAILURES


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.  ``target_id`` is set for what is about one target."""

    name: str
    facts: Mapping[str, object] = field(default_factory=dict)
    target_id: TargetId | None = None
    is_bad: bool = False
    """True for what an operator should see at a glance."""
    is_detail: bool = False
    """True for what happens to every target of every run."""


def events_of(entry: JournalEntry) -> Iterator[Event]:
    """What happened in one decision."""
    if entry.command is not None and entry.reply is not None:
        facts: dict[str, object] = {"command": command_name(entry.command), "by": entry.actor}
        if entry.reply.refusal is not None:
            facts["refusal"] = str(entry.reply.refusal)
        facts["message"] = entry.reply.message
        yield Event(name="command", facts=facts, is_bad=not entry.reply.accepted)
    for step in entry.steps:
        event = _event(step.action)
        if event is not None:
            yield event


def _event(action: object) -> Event | None:
    match action:
        case StartRun(message=message):
            return Event(name="started", facts=_said(message))
        case PauseRun(reason=reason, message=message):
            return Event(name="held", facts={"reason": str(reason), "message": message}, is_bad=True)
        case ContinueRun(message=message):
            return Event(name="continued", facts=_said(message))
        case OpenPhase(phase=phase):
            return Event(name="phase_opened", facts={"phase": phase})
        case ReturnToPhase(phase=phase):
            return Event(name="phase_returned", facts={"phase": phase})
        case AcceptFailures(accepted=accepted):
            return Event(name="failures_accepted", facts={"failures": max(one.failures for one in accepted)})
        case FinishRun(status=status, message=message):
            return Event(name="finished", facts={"status": str(status), "message": message})
        case SkipUnstarted(message=message):
            return Event(name="unstarted_skipped", facts={"message": message})
        case AnnotateRun(message=message):
            return Event(name="waiting", facts={"message": message}, is_detail=True)
        case _:
            return _of_target(action)


def _of_target(action: object) -> Event | None:
    match action:
        case SettleTarget(target_id=target_id, status=status, message=message):
            bad = status in FAILURES
            name = f"target_{status}"
            return Event(name=name, facts={"message": message}, target_id=target_id, is_bad=bad, is_detail=not bad)
        case BlockTarget(target_id=target_id, message=message):
            return Event(name="target_blocked", facts={"message": message}, target_id=target_id)
        case RetryTarget(target_id=target_id):
            return Event(name="target_retried", target_id=target_id)
        case RecordTask(target_id=target_id):
            return Event(name="target_submitted", target_id=target_id, is_detail=True)
        case RecordStray(stray=stray):
            facts = {"task": stray.task_id, "message": stray.message}
            return Event(name="stray_found", facts=facts, target_id=stray.target_id, is_bad=True)
        case _:
            return None


def _said(message: str) -> dict[str, object]:
    return {"message": message} if message else {}
