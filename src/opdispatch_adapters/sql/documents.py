"""Our own documents: what the journal keeps of a decision, and what a run accepted.

Every union is closed and tagged by ``kind``; the tables below are the whole list, and a kind is never renamed once it
is stored.  A document that says more or less than these classes hold is not read (CorruptRecord): it was written by
another version, or changed by hand.

What there are many of in one decision, observations and changes, is written in batches: consecutive ones of one kind
are one object with a column for each field.  A column whose values are all the same holds the value once; one of ids is
one text, the base64 of their bytes, because ids are most of what there is to keep and take half the room so.  One
column of each batch tells all its values all the same: so what a document means is never much larger than it is.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from types import GenericAlias
from typing import Any, Final, get_type_hints
from uuid import UUID

from opdispatch import action as a
from opdispatch import command as c
from opdispatch import observation as o
from opdispatch.run import Accepted
from opdispatch.state import Limits

from . import strict
from .ids import bytes_of_uuids

VERSION: Final = 1
"""The version of every document here but the batches.  A document of another version is not read."""
BATCHES: Final = 3
"""The version of a document in batches.  One of version 2 has every id by itself, and one of version 1 lists its
members one by one; both are read too."""
_LISTED: Final = 2
_MOST_ALIKE: Final = 10_000
"""A document that tells its members once for all may stand for so many in all: earlier programs wrote members that are
all the same like that, and a few characters could mean a billion of them."""

_ID_BYTES: Final = 16

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


# -- batches --


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """One field of a kind: how a value of it is written, and the type of a list of them."""

    name: str
    write: Callable[[Any], Any]
    values: Any
    packed: Callable[[Sequence[Any]], bytes | None] | None
    """What makes bytes of many ids, None where one is none; None for a field that is never an id."""


def _write(hint: Any) -> Callable[[Any], Any]:
    plain = getattr(hint, "__supertype__", hint)
    if plain in (str, int, bool):
        return lambda value: value
    if plain is UUID:
        return str
    return lambda value: _CONVERTER.unstructure(value, unstructure_as=plain)


def _fields_of(kind: type[Any]) -> tuple[_Field, ...]:
    hints = get_type_hints(kind)
    return tuple(
        _Field(
            name=f.name,
            write=_write(hints[f.name]),
            values=GenericAlias(list, (hints[f.name],)),
            packed=_PACKED.get(getattr(hints[f.name], "__supertype__", hints[f.name])),
        )
        for f in fields(kind)
    )


def _bytes_of_ids(ids: Sequence[UUID]) -> bytes:
    return b"".join([one.bytes for one in ids])


_PACKED: Final[Mapping[Any, Callable[[Sequence[Any]], bytes | None]]] = {UUID: _bytes_of_ids, str: bytes_of_uuids}


_FIELDS: Final = {kind: _fields_of(kind) for kind in (*ACTIONS.values(), *OBSERVATIONS.values())}
_NAMES: Final = {kind: name for known in (ACTIONS, OBSERVATIONS) for name, kind in known.items()}


def _column(values: Sequence[Any], field: _Field) -> list[Any] | str:
    first = values[0]
    # Most columns differ at both ends; that spares looking at what is between.
    if first == values[-1] and values.count(first) == len(values):
        return [field.write(first)]
    packed = None if field.packed is None else field.packed(values)
    if packed is not None:
        return b2a_base64(packed, newline=False).decode("ascii")
    return [field.write(value) for value in values]


def _values(column: Any, count: int, values: Any) -> list[Any]:
    if type(column) is str:
        column = _unpacked(column)
    if type(column) is not list:
        raise strict.Unreadable(f"{strict.shown(column)} is not a list of values")
    found: list[Any] = _CONVERTER.structure(column, values)
    if len(found) not in (1, count):
        raise strict.Unreadable(f"a column holds {len(found)} values for {count}")
    return found * count if len(found) == 1 else found


def _unpacked(column: str) -> list[str]:
    ids = a2b_base64(column, strict_mode=True)
    if len(ids) % _ID_BYTES:
        raise strict.Unreadable(f"{len(ids)} bytes are no ids")
    return [str(UUID(bytes=ids[at : at + _ID_BYTES])) for at in range(0, len(ids), _ID_BYTES)]


def _batch(kind: type[Any], members: Sequence[Any]) -> dict[str, Any]:
    columns = {f.name: _column([getattr(one, f.name) for one in members], f) for f in _FIELDS[kind]}
    if all(len(column) < len(members) for column in columns.values()):
        for name, column in columns.items():
            columns[name] = column * len(members)
            break
    return {"kind": _NAMES[kind], "count": len(members), "columns": columns}


def _members(batch: Mapping[str, object], kinds: Mapping[str, type[Any]], alike: _Alike) -> list[Any]:
    kind = kinds[strict.kind_of(batch, kinds)]
    count, columns = batch.get("count"), strict.object_of(batch.get("columns"))
    if type(count) is not int or count < 1:
        raise strict.Unreadable(f"a count of {strict.shown(count)}")
    if columns.keys() != {f.name for f in _FIELDS[kind]}:
        raise strict.Unreadable(f"the columns {', '.join(columns)} are not those of {batch['kind']}")
    # Before anything is repeated: the longest column says how many members are told one by one.
    if count > max(map(_told, columns.values()), default=1):
        alike.note(count)
    read = {f.name: _values(columns[f.name], count, f.values) for f in _FIELDS[kind]}
    return [kind(**{name: column[index] for name, column in read.items()}) for index in range(count)]


def _told(column: object) -> int:
    """How many values a column tells, at most."""
    if type(column) is str:
        return len(column) * 3 // (4 * _ID_BYTES)
    return len(column) if type(column) is list else 1


class _Alike:
    """Counts the members of a document that are told once for all."""

    def __init__(self) -> None:
        self._count = 0

    def note(self, count: int) -> None:
        self._count += count
        if self._count > _MOST_ALIKE:
            raise strict.Unreadable(f"it stands for more than {_MOST_ALIKE} members and tells none of them apart")


def _batched_text(batches: Iterable[dict[str, Any]]) -> str:
    return strict.text_of({"version": BATCHES, "value": list(batches)})


def _read_batches(
    what: str, text: object, of_batch: Callable[[Mapping[str, object], _Alike], list[Any]], listed: Any
) -> tuple[Any, ...]:
    def structure(document: object) -> tuple[Any, ...]:
        pairs = strict.object_of(document)
        is_first = pairs.get("version") == VERSION and type(pairs["version"]) is int
        if not is_first and pairs.get("version") != _LISTED:
            strict.check_version(pairs, BATCHES, needed=True)
        batches = pairs.get("value")
        if type(batches) is not list:
            raise strict.Unreadable(f"{strict.shown(batches)} is not a list")
        if is_first:
            return tuple(_CONVERTER.structure(batches, listed))
        alike = _Alike()
        return tuple(member for batch in batches for member in of_batch(strict.object_of(batch), alike))

    found: tuple[Any, ...] = strict.read(what, text, structure)
    return found


def observations_text(observations: Observations) -> str:
    return _batched_text(_batch(kind, tuple(group)) for kind, group in groupby(observations, key=type))


def observations_from(what: str, text: object) -> Observations:
    """Raises CorruptRecord, which names ``what``; so do all readers here."""
    return _read_batches(what, text, lambda batch, alike: _members(batch, OBSERVATIONS, alike), Observations)


_BECAUSE: Final = _Field(name="because", write=_write(str), values=GenericAlias(list, (str,)), packed=None)


def steps_text(steps: Steps) -> str:
    def batch(kind: type[Any], group: Sequence[a.Step]) -> dict[str, Any]:
        because = _column([step.because for step in group], _BECAUSE)
        return {**_batch(kind, [step.action for step in group]), "because": because}

    return _batched_text(
        batch(kind, tuple(group)) for kind, group in groupby(steps, key=lambda step: type(step.action))
    )


def steps_from(what: str, text: object) -> Steps:
    def of_batch(batch: Mapping[str, object], alike: _Alike) -> list[a.Step]:
        actions = _members(batch, ACTIONS, alike)
        told = batch.get("because")
        if type(told) is not list:
            raise strict.Unreadable(f"{strict.shown(told)} is not a list of reasons")
        reasons = _values(told, len(actions), _BECAUSE.values)
        return [a.Step(action=action, because=because) for action, because in zip(actions, reasons, strict=True)]

    return _read_batches(what, text, of_batch, Steps)


def limits_text(limits: Limits) -> str:
    return _written(Limits, limits)


def limits_from(what: str, text: object) -> Limits:
    found: Limits = _read(what, Limits, text)
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
