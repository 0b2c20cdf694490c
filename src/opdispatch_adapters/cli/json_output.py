"""The JSON that programs read: one top-level ``schema`` each, instants in UTC RFC 3339, times in seconds.

Additions only within a version.  Texts are as they are stored: JSON escapes what a terminal must not see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime

from opdispatch.command import Reply
from opdispatch.errors import CorruptRecord, InvalidInput, OpdispatchError, Unavailable
from opdispatch.identity import TargetId
from opdispatch.journal import JournalEntry
from opdispatch.plan import Plan
from opdispatch.ports import Listed, Overview, Trouble
from opdispatch.tally import Tally
from opdispatch.target import Blocked, Claimed, Target

from . import view
from .events import events_of

Document = dict[str, object]


def instant(at: datetime | None) -> str | None:
    """RFC 3339 in UTC."""
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def tally(counts: Tally) -> Document:
    """The counts of a phase or a run."""
    document: Document = {"total": counts.total}
    document.update({field.name: getattr(counts, field.name) for field in fields(counts)})
    document["in_flight"] = counts.in_flight
    return document


def trouble(record: Trouble | None) -> Document | None:
    """The error record of a run."""
    if record is None:
        return None
    return {
        "message": record.message,
        "count": record.count,
        "at": instant(record.at),
        "quarantined_at": instant(record.quarantined_at),
    }


def run(overview: Overview, store: str) -> Document:
    """``opdispatch/run/v1``: a run, its phases, gates, holds and what to type next."""
    stands = overview.run
    return {
        "schema": "opdispatch/run/v1",
        "id": str(stands.id),
        "name": stands.name,
        "operation": {"type": stands.rollout.operation.type, "code": stands.rollout.operation.code},
        "status": str(stands.status),
        "status_reason": str(stands.status_reason),
        "status_message": stands.status_message,
        "phase": stands.phase,
        "opened": stands.opened,
        "auto_advance": stands.rollout.auto_advance,
        "max_concurrent_targets": stands.rollout.max_concurrent_targets,
        "revision": stands.revision,
        "created_at": instant(stands.created_at),
        "started_at": instant(stands.started_at),
        "finished_at": instant(stands.finished_at),
        "wake_at": instant(overview.wake_at),
        "totals": tally(view.total(overview)),
        "phases": [
            {"phase": index, "state": view.phase_state(overview, index), **tally(counts)}
            for index, counts in enumerate(overview.phases)
        ],
        "gates": [
            {
                "kind": gate.kind,
                "scope": str(gate.gate.scope),
                "threshold": gate.threshold,
                "failures": gate.failures,
                "accepted": gate.accepted,
                "targets": gate.targets,
                "tripped": gate.tripped,
            }
            for gate in view.gates_of(overview)
        ],
        "holds": [{"reason": str(hold.reason), "message": hold.message} for hold in view.holds_of(overview)],
        "open_strays": overview.open_strays,
        "trouble": trouble(overview.trouble),
        "next": list(view.next_commands(overview, store)),
    }


def target(one: Target) -> Document:
    """One target of ``opdispatch/targets/v1``."""
    state = one.state
    return {
        "id": str(one.id),
        "rack_id": str(one.rack_id),
        "rack": one.rack_name,
        "sequence": one.sequence,
        "phase": one.phase,
        "status": str(one.status),
        "attempt": one.attempt,
        "message": one.message,
        "task_id": one.task_id,
        "retry_at": instant(state.retry_at) if isinstance(state, Blocked) else None,
        "lease_until": instant(state.lease_until) if isinstance(state, Claimed) else None,
        "components": {kind: [str(component) for component in ids] for kind, ids in one.components.items()},
    }


def targets(found: Iterable[Target]) -> Document:
    """``opdispatch/targets/v1``."""
    return {"schema": "opdispatch/targets/v1", "targets": [target(one) for one in found]}


def listing(found: Sequence[Listed]) -> Document:
    """``opdispatch/runs/v1``."""
    return {"schema": "opdispatch/runs/v1", "runs": [listed(one) for one in found]}


def listed(one: Listed) -> Document:
    """One line of a listing."""
    return {
        "id": str(one.run_id),
        "name": one.name,
        "status": str(one.status),
        "status_reason": None if one.run is None else str(one.run.status_reason),
        "created_at": instant(one.created_at),
        "trouble": trouble(one.trouble),
    }


def plan(made: Plan, *, request_id: str, run_id: str) -> Document:
    """``opdispatch/plan/v1``: what a run of this file would be."""
    rollout = made.rollout
    return {
        "schema": "opdispatch/plan/v1",
        "name": rollout.name,
        "operation": {"type": rollout.operation.type, "code": rollout.operation.code},
        "request_id": request_id,
        "run_id": run_id,
        "max_concurrent_targets": rollout.max_concurrent_targets,
        "worst_case_at_once": min(rollout.max_concurrent_targets, max(made.sizes)),
        "auto_advance": rollout.auto_advance,
        "phases": [
            {
                "phase": index,
                "racks": [{"id": str(rack.id), "rack": rack.name} for rack in made.phase(index)],
            }
            for index in range(len(made.sizes))
        ],
        "dropped": [{"id": str(one.candidate.id), "rack": one.candidate.name, "why": one.why} for one in made.dropped],
        "unselected": made.unselected,
    }


def reply(given: Reply, run_id: str) -> Document:
    """``opdispatch/reply/v1``: the answer to a command."""
    return {
        "schema": "opdispatch/reply/v1",
        "run_id": run_id,
        "accepted": given.accepted,
        "message": given.message,
        "refusal": None if given.refusal is None else str(given.refusal),
        "revision": given.revision,
        "open_claims": given.open_claims,
    }


def journal(entries: Iterable[JournalEntry], racks: Mapping[TargetId, str]) -> Document:
    """``opdispatch/events/v1``."""
    events = [event for entry in entries for event in event_lines(entry, racks)]
    return {"schema": "opdispatch/events/v1", "events": events}


def event_lines(entry: JournalEntry, racks: Mapping[TargetId, str]) -> list[Document]:
    """What happened in one decision, one document each; ``racks`` names the rack of each target."""
    lines = []
    for event in events_of(entry):
        line: Document = {
            "number": entry.number,
            "at": instant(entry.at),
            "actor": entry.actor,
            "event": event.name,
        }
        if event.target_id is not None:
            line["target_id"] = str(event.target_id)
            line["rack"] = racks.get(event.target_id)
        lines.append({**line, **event.facts})
    return lines


def error(problem: BaseException) -> Document:
    """An error, for programs: a stable code, the sentence, what to do, and whether the same call can succeed later."""
    known = isinstance(problem, OpdispatchError)
    document: Document = {
        "code": problem.reason if isinstance(problem, OpdispatchError) else "INTERNAL",
        "message": str(problem) if known else f"{type(problem).__name__}: {problem}",
        "hint": _hint(problem),
        "retryable": isinstance(problem, OpdispatchError) and problem.retryable,
    }
    if isinstance(problem, InvalidInput):
        document["problems"] = [
            {"place": one.place, "found": one.found, "remedy": one.remedy} for one in problem.problems
        ]
    return {"error": document}


def _hint(problem: BaseException) -> str:
    if isinstance(problem, InvalidInput):
        return "; ".join(one.remedy for one in problem.problems if one.remedy)
    return problem.remedy if isinstance(problem, Unavailable | CorruptRecord) else ""
