"""Operation runs on a server, as a reader of the store and an operator would have them.

The wire tells less than a store: no journal, no targets of phases that were never opened, nothing of strays, revisions
and accepted failures.  What it does not tell is left out or empty here, never made up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import count, islice
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from opdispatch.command import Advance, Cancel, Command, Pause, Refusal, Reply, Resume, command_name
from opdispatch.errors import CorruptRecord, InvalidInput, NotFound, Problem, Unavailable
from opdispatch.identity import RunId
from opdispatch.journal import JournalEntry
from opdispatch.ports import Listed, Overview
from opdispatch.query import EVERY_RUN, NamePattern, RunQuery, Wild
from opdispatch.rollout import Rollout
from opdispatch.tally import Tally, counted
from opdispatch.target import Stray, Target, TargetStatus

from ..enums import OPERATION_TYPES, RUN_STATUSES, STATUS_REASONS
from ..fields import uuid_at
from ..wire import flow_pb2 as wire
from . import remote_values as values
from .channel import CallRefused, FlowChannel, NoAnswer

_PAGE: Final = 1000
_MOST_PHASES: Final = 100_000
"""Each phase of a run has a target, and a server plans no more for one."""
_OPENED: Final = wire.OPERATION_RUN_TARGET_PHASE_SCOPE_CURRENT_AND_COMPLETED_PHASES
_REFUSALS: Final = (
    ("is in terminal state", Refusal.RUN_ENDED),
    ("is not paused at a phase gate", Refusal.NOT_AT_PHASE_GATE),
    ("is paused at a phase gate", Refusal.PHASE_GATE),
    ("expected phase", Refusal.UNEXPECTED_PHASE),
    ("look again, then accept", Refusal.MORE_FAILURES),
    ("safety gate tripped", Refusal.GATE_TRIPPED),
    ("a conflict hold stands", Refusal.CONFLICT_HOLD),
    ("is not complete", Refusal.NOT_AT_PHASE_GATE),
)
"""What a refusal says, in the order in which it is looked for; else nothing holds the run."""
_UNREADABLE: Final = " cannot be read; "
"""Between the name of a damaged record and what to do about it, where a server tells of one."""


class RemoteRuns:
    """The runs of an operation-run server.  Safe for threads.

    Every method raises Unavailable when the server does not answer, InvalidInput for what it refuses as wrong, and
    CorruptRecord for what it cannot read.
    """

    def __init__(self, channel: FlowChannel) -> None:
        self._channel = channel

    @property
    def name(self) -> str:
        """The server as a message names it."""
        return f"server {self._channel.settings.address}"

    # -- runs --

    def create(self, rollout: Rollout, request_id: str, actor: str) -> RunId:
        """Have the server plan and make a run; the same request id makes it once.

        Raises InvalidInput, which names the place, for a rollout that the wire has no words for.
        """
        request = values.create_request(rollout)
        reply: wire.CreateOperationRunResponse = self._call("CreateOperationRun", request, request_id, actor)
        return RunId(uuid_at(reply.id, f"{self.name}, CreateOperationRun.id"))

    def get(self, run_id: RunId) -> Overview:
        """One run with the counts of the phases that were opened.  Raises NotFound."""
        request = wire.GetOperationRunRequest(id=wire.UUID(id=str(run_id)), include_stats=True)
        found: wire.OperationRun = self._call("GetOperationRun", request).operation_run
        by_phase: defaultdict[int, list[Target]] = defaultdict(list)
        for target in self._targets(run_id, None):
            by_phase[target.phase].append(target)
        if found.summary.total_phases > _MOST_PHASES:
            raise InvalidInput.at(
                f"{self.name}, summary.total_phases",
                f"{found.summary.total_phases} phases",
                f"a run has at most {_MOST_PHASES}",
            )
        phases = tuple(counted(by_phase.get(index, ())) for index in range(found.summary.total_phases))
        run = values.run_from(found, phases)
        return Overview(run=run, phases=phases or (Tally(),), open_strays=0, trouble=None, wake_at=None)

    def list(self, where: RunQuery = EVERY_RUN, *, limit: int = 100, offset: int = 0) -> Sequence[Listed]:
        """The runs that are asked for, newest first."""
        pagination = wire.Pagination(offset=offset, limit=limit)
        request = wire.ListOperationRunsRequest(filter=_filter(where), pagination=pagination)
        reply: wire.ListOperationRunsResponse = self._call("ListOperationRuns", request)
        return tuple(map(values.listed_from, reply.operation_runs)) if limit else ()

    def count(self, where: RunQuery = EVERY_RUN) -> int:
        """How many runs are asked for."""
        request = wire.ListOperationRunsRequest(filter=_filter(where), pagination=wire.Pagination(limit=1))
        total: int = self._call("ListOperationRuns", request).total
        return total

    # -- targets --

    def targets(
        self,
        run_id: RunId,
        *,
        statuses: AbstractSet[TargetStatus] = frozenset(),
        phases: AbstractSet[int] = frozenset(),
        limit: int | None = None,
        offset: int = 0,
    ) -> Sequence[Target]:
        """Targets of the phases that were opened, by sequence; empty sets mean all.  Raises NotFound."""
        only = next(iter(statuses)) if len(statuses) == 1 else None
        found = (
            target
            for target in self._targets(run_id, only)
            if (not statuses or target.status in statuses) and (not phases or target.phase in phases)
        )
        return tuple(islice(found, offset, None if limit is None else offset + limit))

    def _targets(self, run_id: RunId, status: TargetStatus | None) -> Iterator[Target]:
        known: set[str] = set()
        for page in count():
            request = wire.ListOperationRunTargetsRequest(
                operation_run_id=wire.UUID(id=str(run_id)),
                status=values.status_number(status),
                phase_scope=_OPENED,
                pagination=wire.Pagination(offset=page * _PAGE, limit=_PAGE),
            )
            reply: wire.ListOperationRunTargetsResponse = self._call("ListOperationRunTargets", request)
            new = {target.id.id for target in reply.targets} - known
            if len(new) < len(reply.targets):
                # It would be asked for pages without an end, or count some twice.
                raise InvalidInput.at(f"{self.name}, targets", f"page {page} repeats a target", "ask the server again")
            known |= new
            yield from map(values.target_from, reply.targets)
            if not reply.targets or (page + 1) * _PAGE >= reply.total:
                return

    def strays(self, run_id: RunId) -> Sequence[Stray]:
        """Nothing: the wire does not tell of them."""
        return ()

    def journal(self, run_id: RunId, *, after: int = 0, limit: int | None = None) -> Sequence[JournalEntry]:
        """Nothing: the wire does not tell it."""
        return ()

    def wake(self, run_id: RunId) -> None:
        """Nothing to do: whoever serves the run is not here."""

    # -- commands --

    def command(self, run_id: RunId, asked: Command) -> Reply:
        """Have the server carry a command out.  Raises NotFound, and InvalidInput for one that it has no call for."""
        run = wire.UUID(id=str(run_id))
        if asked.expected_revision is not None:
            raise InvalidInput.at("--revision", "the calls of a server know no revisions", "leave it out")
        more: tuple[tuple[str, str], ...] = ()
        request: Message
        match asked:
            case Pause():
                name, request = "PauseOperationRun", wire.PauseOperationRunRequest(id=run)
            case Resume():
                name, request = "ResumeOperationRun", wire.ResumeOperationRunRequest(id=run)
                # Without a number the server would accept whatever stands; here an operator says what was seen.
                more = (("x-accept-failures", str(asked.accept_failures or 0)),)
            case Advance(expected_phase=0):
                raise InvalidInput.at("--expect", "phase 0 is open from the start", "name the phase that waits")
            case Advance():
                values.require_number("--expect", asked.expected_phase)
                name = "AdvanceOperationRunPhase"
                request = wire.AdvanceOperationRunPhaseRequest(id=run, expected_phase_index=asked.expected_phase)
            case Cancel():
                name, request = "CancelOperationRun", wire.CancelOperationRunRequest(id=run, reason=asked.why)
            case _:
                raise InvalidInput.at(
                    "--server", f"a server has no call for {command_name(asked)}", "use --store instead"
                )
        try:
            reply: wire.OperationRun = self._call(name, request, asked.command_id, asked.actor, more)
        except _Precondition as error:
            return Reply(
                command_id=asked.command_id,
                message=error.text,
                revision=0,
                open_claims=0,
                refusal=next((code for text, code in _REFUSALS if text in error.text), Refusal.NOT_PAUSED),
            )
        message = reply.summary.status_message
        return Reply(command_id=asked.command_id, message=message, revision=0, open_claims=0)

    def _call(
        self,
        name: str,
        request: Message,
        request_id: str | None = None,
        actor: str | None = None,
        more: tuple[tuple[str, str], ...] = (),
    ) -> Any:
        metadata = (
            *(() if request_id is None else (("x-request-id", _carried("--request-id", request_id)),)),
            # A name may lose its accents on the way; an id must come as it is.
            *(() if actor is None else (("x-actor", _carried("--actor", actor.encode("ascii", "replace").decode())),)),
            *more,
        )
        seconds = self._channel.settings.read_deadline.total_seconds()
        try:
            return self._channel.call(name, request, seconds, metadata)
        except NoAnswer as error:
            raise Unavailable(self.name, str(error)) from error
        except CallRefused as error:
            raise _told(self.name, error) from error


def _carried(place: str, text: str) -> str:
    """A text that metadata can carry.  Raises InvalidInput at ``place`` for another."""
    if not all(" " <= character <= "~" for character in text):
        raise InvalidInput.at(place, f"{text!r} cannot be sent to a server", "use letters, digits and signs of ASCII")
    return text


class _Precondition(InvalidInput):
    """The run is not in a state for it: a refusal of a command, and nothing that another call should be answered."""

    def __init__(self, server: str, text: str) -> None:
        self.text = text
        super().__init__([Problem(place=server, found=text)])


def _told(server: str, error: CallRefused) -> Exception:
    """The core's own error for what a server answers."""
    code, text = error.code, error.text
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        found = text.removeprefix("operation run is not in a valid state for the requested operation: ")
        return _Precondition(server, found)
    if code is grpc.StatusCode.NOT_FOUND and text.startswith("operation run not found: "):
        return NotFound("run", text.removeprefix("operation run not found: "))
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND):
        return InvalidInput.at(server, text)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return InvalidInput.at(server, text, "present a certificate that it allows")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return InvalidInput.at(server, f"it has no such call: {text}", "give the address of an operation-run server")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return InvalidInput.at(server, text, "ask for less at once")
    if code is grpc.StatusCode.INTERNAL and _UNREADABLE in text:
        what, _, remedy = text.partition(_UNREADABLE)
        return CorruptRecord(what, f"{server} says so", remedy)
    return Unavailable(server, str(error))


def _filter(where: RunQuery) -> wire.OperationRunFilter:
    message = wire.OperationRunFilter()
    wild = {name.is_wild for name in where.names}
    if len(wild) > 1 or (False in wild and len(where.names) > 1 and not where.any_name):
        raise InvalidInput.at("name", "names and patterns cannot be asked for together", "ask for one of the kinds")
    message.name.is_wildcard, message.name.use_or = True in wild, where.any_name
    message.name.patterns.extend(map(_pattern, where.names))
    for state in where.states:
        told = message.states.add()
        if state.status is not None:
            told.status = RUN_STATUSES.of(state.status)
        if state.reason is not None:
            told.reason = STATUS_REASONS.of(state.reason)
    for kind in where.kinds:
        number = OPERATION_TYPES.number(kind.type)
        if number is None:
            raise InvalidInput.at("kind", f"{kind.type!r} is no operation type of Flow", "leave it out")
        asked = message.operation_kinds.add(type=number)
        if kind.code is not None:
            asked.code = kind.code
    return message


def _pattern(name: NamePattern) -> str:
    """A name as the wire asks for it; a pattern without a wildcard at an end would be wrapped by the server."""
    if not name.is_wild:
        return name.text
    parts = name.parts()
    if Wild.ANY not in (parts[:1] + parts[-1:]):
        raise InvalidInput.at("name", f"{name.text!r} begins and ends with text", "begin or end it with %")
    return name.text
