"""Our own documents: what the journal keeps of a decision, and what a run accepted.

Every union is closed and tagged by ``kind``; the tables below are the whole list, and a kind is never renamed once it
is stored.  A document that says more or less than these classes hold is not read (CorruptRecord): it was written by
another version, or changed by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opdispatch import action as a
from opdispatch import command as c
from opdispatch import observation as o
from opdispatch.run import Accepted

from . import strict

VERSION: Final = 1
"""The version of every document here.  A document of another version is not read."""

ACTIONS: Final[Mapping[str, type[Any]]] = {
    "start_run": a.StartRun,
    "pause_run": a.PauseRun,
    "continue_run": a.ContinueRun,
    "annotate_run": a.AnnotateRun,
    "set_operator_hold": a.SetOperatorHold,
    "set_conflict_hold": a.SetConflictHold,
    "release_holds": a.ReleaseHolds,
    "accept_failures": a.AcceptFailures,
    "open_phase": a.OpenPhase,
    "return_to_phase": a.ReturnToPhase,
    "finish_run": a.FinishRun,
    "claim_target": a.ClaimTarget,
    "record_task": a.RecordTask,
    "block_target": a.BlockTarget,
    "note_target": a.NoteTarget,
    "settle_target": a.SettleTarget,
    "retry_target": a.RetryTarget,
    "rearm_blocked": a.RearmBlocked,
    "skip_unstarted": a.SkipUnstarted,
    "record_stray": a.RecordStray,
    "update_stray": a.UpdateStray,
    "submit_task": a.SubmitTask,
    "cancel_task": a.CancelTask,
}
OBSERVATIONS: Final[Mapping[str, type[Any]]] = {
    "task_observed": o.TaskObserved,
    "task_missing": o.TaskMissing,
    "submission_accepted": o.SubmissionAccepted,
    "submission_conflicted": o.SubmissionConflicted,
    "submission_refused": o.SubmissionRefused,
    "submission_unknown": o.SubmissionUnknown,
    "submission_absent": o.SubmissionAbsent,
    "cancellation_refused": o.CancellationRefused,
}
COMMANDS: Final[Mapping[str, type[Any]]] = {
    "pause": c.Pause,
    "resume": c.Resume,
    "advance": c.Advance,
    "cancel": c.Cancel,
    "retry": c.Retry,
    "settle": c.Settle,
}

_CONVERTER: Final = strict.ours()
strict.register_tagged(_CONVERTER, a.Action, ACTIONS)
strict.register_tagged(_CONVERTER, o.Observation, OBSERVATIONS)
strict.register_tagged(_CONVERTER, c.Command, COMMANDS)

Observations = tuple[o.Observation, ...]
Steps = tuple[a.Step, ...]
AllHeldBack = tuple[a.HeldBack, ...]


def _written(kind: Any, value: object) -> str:
    document = _CONVERTER.unstructure(value, unstructure_as=kind)
    return strict.text_of({"version": VERSION, "value": document})


def _read(what: str, kind: Any, text: object) -> Any:
    def structure(document: object) -> Any:
        pairs = strict.object_of(document)
        strict.check_version(pairs, VERSION, needed=True)
        if pairs.keys() != {"version", "value"}:
            raise strict.Unreadable(f"it has the keys {', '.join(pairs)} instead of version and value")
        return _CONVERTER.structure(pairs["value"], kind)

    return strict.read(what, text, structure)


def observations_text(observations: Observations) -> str:
    return _written(Observations, observations)


def observations_from(what: str, text: object) -> Observations:
    """Raises CorruptRecord, which names ``what``; so do all readers here."""
    found: Observations = _read(what, Observations, text)
    return found


def steps_text(steps: Steps) -> str:
    return _written(Steps, steps)


def steps_from(what: str, text: object) -> Steps:
    found: Steps = _read(what, Steps, text)
    return found


def held_back_text(held_back: AllHeldBack) -> str:
    return _written(AllHeldBack, held_back)


def held_back_from(what: str, text: object) -> AllHeldBack:
    found: AllHeldBack = _read(what, AllHeldBack, text)
    return found


def command_text(command: c.Command) -> str:
    return _written(c.Command, command)


def command_from(what: str, text: object) -> c.Command:
    found: c.Command = _read(what, c.Command, text)
    return found


def reply_text(reply: c.Reply) -> str:
    return _written(c.Reply, reply)


def reply_from(what: str, text: object) -> c.Reply:
    found: c.Reply = _read(what, c.Reply, text)
    return found


def accepted_text(accepted: tuple[Accepted, ...]) -> str:
    return _written(tuple[Accepted, ...], accepted)


def accepted_from(what: str, text: object) -> tuple[Accepted, ...]:
    found: tuple[Accepted, ...] = _read(what, tuple[Accepted, ...], text)
    return found
