"""The eight operation-run calls, without a transport: a request and its caller in, a reply or a CallFailure out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, Protocol
from uuid import uuid4, uuid5

import attrs

from opdispatch.action import Decision
from opdispatch.command import Advance, Cancel, Command, Pause, Refusal, Reply, Resume
from opdispatch.control import control
from opdispatch.errors import InvalidInput, NotFound
from opdispatch.holds import failed_attempts, tripped_gates
from opdispatch.identity import CommandId, RunId, TargetId, run_id_of
from opdispatch.plan import NewRun, Plan, components_of, new_run, plan
from opdispatch.policy.phases import EmptyPhase, EqualPhases
from opdispatch.ports import Inventory, Overview, Store
from opdispatch.rollout import Rollout
from opdispatch.run import Run
from opdispatch.state import RunState
from opdispatch.target import TargetStatus
from opdispatch_adapters.begun import Observe, was_begun

from ..component_types import ComponentTypes
from ..enums import TARGET_STATUSES
from ..fields import uuid_or_none
from ..operations import firmware_operation, firmware_template, same_but_for_sealing
from ..seal import Sealer
from ..wire import flow_pb2 as wire
from . import replies
from .cohort import Externals, named_cohort, whole_cohort
from .configuration import Asked, asked_from
from .failure import forgotten, invalid, not_found, wrong_state
from .listing import Page, page_of, query_of

_LOG: Final = logging.getLogger("opdispatch.flow.server")
_REQUEST_ID: Final = 128
_HASHED: Final = 16
_LOOKED_UP: Final = 100
"""Racks at which a create looks for tasks that were begun before: more would take a service longer than a caller
waits."""

Controller = Callable[[RunState, Command], Decision]
Touched = Callable[[RunId, Sequence[TargetId]], dict[TargetId, datetime]]


class CommandRuns(Protocol):
    """Carries a command out on a run, as a dispatcher does; ``controller`` decides in the place of ``control``."""

    def __call__(self, run_id: RunId, asked: Command, *, controller: Controller = control) -> Reply: ...


@attrs.frozen(kw_only=True)
class Caller:
    """Who calls.

    ``name`` is kept in the journal; ``identity`` is the one that was verified, or empty; ``request_id`` is the caller's
    own, or None; ``accept_failures`` is the number that a resume came with, or None.
    """

    name: str
    identity: str = ""
    request_id: str | None = None
    accept_failures: int | None = None


def _positive(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if value < 1:
        raise InvalidInput.at(f"server.{attribute.name}", f"{value} is below 1")


@attrs.frozen(kw_only=True)
class RunSettings:
    """How the calls behave where the reference leaves a choice."""

    most_candidates: int = attrs.field(default=100_000, validator=_positive)
    """So many racks may be candidates of one run (the reference takes 100)."""
    most_rows: int = attrs.field(default=10_000, validator=_positive)
    """The longest page of a listing, also where the caller asks for no limit."""
    resume_needs_number: bool = False
    """True when a resume of a run that a safety gate holds must tell how many failures it accepts."""
    checks_types: bool = True
    """True when a rack with a component that is no type of Flow's cannot be planned."""


class OperationRuns:
    """The calls.  Safe for threads.

    Args:
        store: where the runs are.
        inventory: where the racks are.
        command: carries the commands out.
        observe: looks at tasks, as the task manager does, so that a request is not answered by the tasks of a run that
            it made before and that the store has forgotten; None does not look.
        sealer: seals credentials; None refuses them.
        types: the component types of the inventory and of Flow.
        externals: knows components by the ids of the core service; None knows none.
        touched: when each target was last written; None takes the run's last decision for it.
        created: is called after a run was created, so that a dispatcher looks at once.
        clock: the instant at which a run is created.
    """

    def __init__(
        self,
        store: Store,
        inventory: Inventory,
        command: CommandRuns,
        *,
        observe: Observe | None = None,
        settings: RunSettings | None = None,
        sealer: Sealer | None = None,
        types: ComponentTypes | None = None,
        externals: Externals | None = None,
        touched: Touched | None = None,
        created: Callable[[], None] = lambda: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._inventory = inventory
        self._command = command
        self._observe = observe
        self._settings = settings if settings is not None else RunSettings()
        self._sealer = sealer
        self._types = types if types is not None else ComponentTypes()
        self._externals = externals
        self._touched = touched
        self._created = created
        self._clock = clock

    # -- create --

    def create(self, request: wire.CreateOperationRunRequest, caller: Caller) -> wire.CreateOperationRunResponse:
        """Plan a run and store it with all its targets.  The same request id meets the run that it made."""
        command_id = _command_id("create", caller)
        run_id = run_id_of(command_id)
        asked = asked_from(
            request,
            # The same for the same request id, so that a repeated request asks for the same run.
            seed=lambda use: str(uuid5(run_id, use)),
            operation_of=lambda template: firmware_operation(template, self._sealer),
            types_of=self._types.types_of,
        )
        if not self._is_known(run_id, asked.rollout):
            new = new_run(self._planned(asked), command_id=command_id, actor=caller.name, now=self._clock())
            if self._is_forgotten(new, asked.rollout, caller):
                raise forgotten(
                    f"x-request-id: it made operation run {run_id} before, which the store does not know any more; its "
                    "tasks are still known, and a new run would take their outcomes for its own; use a new one"
                )
            try:
                self._store.create(new)
            except InvalidInput:
                # Somebody else made it meanwhile; a credential that is sealed twice is two texts.
                if not self._is_known(run_id, asked.rollout):
                    raise
            self._created()
        return wire.CreateOperationRunResponse(id=wire.UUID(id=str(run_id)))

    def _is_forgotten(self, new: NewRun, rollout: Rollout, caller: Caller) -> bool:
        if self._observe is None or caller.request_id is None:
            return False
        # Another caller may have made it, and a dispatcher begun them, since it was looked for.
        return was_begun(new, self._observe, _LOOKED_UP) and not self._is_known(new.run.id, rollout)

    def _is_known(self, run_id: RunId, rollout: Rollout) -> bool:
        try:
            known = self._store.get(run_id).run.rollout
        except NotFound:
            return False
        same = replace(known, operation=rollout.operation) == rollout
        if not same or not same_but_for_sealing(known.operation, rollout.operation, self._sealer):
            raise invalid(f"x-request-id: it made operation run {run_id} of another configuration; use a new one")
        return True

    def _planned(self, asked: Asked) -> Plan:
        scope = asked.rollout.scope
        if asked.spec is None:
            what = "default scope"
            found = whole_cohort(self._inventory, scope, asked.picked)
        else:
            what = "target_spec scope"
            found = named_cohort(self._inventory, asked.spec, self._types.types_of, self._externals)
        if len(found) > self._settings.most_candidates:
            raise invalid(
                f"plan operation run targets: build {what}: operation run candidate scope exceeds target limit "
                f"{self._settings.most_candidates}"
            )
        excluded = []
        for run_id in scope.excluded_runs:
            try:
                excluded.append(components_of(target.components for target in self._store.targets(run_id)))
            except NotFound as error:
                raise not_found(
                    f"plan operation run targets: resolve excluded operation runs: operation run {run_id} not found"
                ) from error
        try:
            made = plan(found, asked.rollout, excluded=frozenset().union(*excluded))
        except EmptyPhase as error:
            raise invalid(_empty_phase(asked.rollout, error)) from error
        except InvalidInput as error:
            if [problem.place for problem in error.problems] == ["$.scope"]:
                raise invalid("operation run has no planned targets") from error
            raise invalid(f"plan operation run targets: {error}") from error
        if self._settings.checks_types:
            for kind in {kind for rack in made.racks for kind in rack.components}:
                self._types.flow_type(kind)
        return made

    # -- read --

    def get(self, request: wire.GetOperationRunRequest, caller: Caller) -> wire.GetOperationRunResponse:
        """One run, with its statistics where they are asked for."""
        overview = self._overview(request.id)
        message = replies.operation_run(overview.run, firmware_template)
        if request.include_stats:
            message.stats.CopyFrom(replies.stats(overview))
        return wire.GetOperationRunResponse(operation_run=message)

    def list_runs(self, request: wire.ListOperationRunsRequest, caller: Caller) -> wire.ListOperationRunsResponse:
        """Runs, the newest first."""
        where = query_of(request.filter)
        page = self._page(request.pagination if request.HasField("pagination") else None)
        found = self._store.list(where, limit=page.limit, offset=page.offset)
        return wire.ListOperationRunsResponse(operation_runs=map(replies.listed, found), total=self._store.count(where))

    def list_targets(
        self, request: wire.ListOperationRunTargetsRequest, caller: Caller
    ) -> wire.ListOperationRunTargetsResponse:
        """Targets of the current phase, of those before it, or of both, in sequence order."""
        run_id = _run_id(request.operation_run_id)
        status: TargetStatus | None = None
        if request.status != wire.OPERATION_RUN_TARGET_STATUS_UNKNOWN:
            status = TARGET_STATUSES.get(request.status)
            if status is None:
                raise invalid("unknown operation run target status in filter")
        first, last = _SCOPES.get(request.phase_scope, (None, None))
        if first is None or last is None:
            raise invalid("unsupported operation run target phase scope")
        overview = self._store.get(run_id)
        phases = frozenset(range(first(overview.run.phase), last(overview.run.phase)))
        page = self._page(request.pagination if request.HasField("pagination") else None)
        statuses = frozenset() if status is None else frozenset({status})
        found = (
            self._store.targets(run_id, statuses=statuses, phases=phases, limit=page.limit, offset=page.offset)
            if phases
            else ()
        )
        tallies = (overview.phases[index] for index in sorted(phases) if index < len(overview.phases))
        touched = {} if self._touched is None else self._touched(run_id, [target.id for target in found])
        otherwise = overview.run.decided_at or overview.run.created_at
        return wire.ListOperationRunTargetsResponse(
            targets=(
                replies.target(overview.run, target, touched.get(target.id, otherwise), self._types.flow_type)
                for target in found
            ),
            total=sum(tally.total if status is None else tally.of(status) for tally in tallies),
        )

    def _page(self, pagination: wire.Pagination | None) -> Page:
        return page_of(pagination, self._settings.most_rows)

    def _overview(self, message: wire.UUID) -> Overview:
        return self._store.get(_run_id(message))

    # -- control --

    def pause(self, request: wire.PauseOperationRunRequest, caller: Caller) -> wire.OperationRun:
        """Start nothing new; what is in flight goes on."""
        command_id = _command_id("pause", caller)
        return self._commanded(request.id, Pause(command_id=command_id, actor=caller.name))

    def resume(self, request: wire.ResumeOperationRunRequest, caller: Caller) -> wire.OperationRun:
        """Release what holds the run.  Without a number it accepts the failures that stand when it is carried out."""
        asked = Resume(
            command_id=_command_id("resume", caller), actor=caller.name, accept_failures=caller.accept_failures
        )
        return self._commanded(request.id, asked, self._resumes)

    def _resumes(self, state: RunState, asked: Command) -> Decision:
        if not isinstance(asked, Resume) or asked.accept_failures is not None or self._settings.resume_needs_number:
            return control(state, asked)
        if not tripped_gates(state.run, state.tallies):
            return control(state, asked)
        standing = failed_attempts(state.tallies)
        _LOG.warning("resume of run %s by %s accepts %d failed attempts", state.run.id, asked.actor, standing)
        return control(state, replace(asked, accept_failures=standing))

    def advance(self, request: wire.AdvanceOperationRunPhaseRequest, caller: Caller) -> wire.OperationRun:
        """Open the next phase; one that is expected must be the next."""
        expected = request.expected_phase_index
        asked = Advance(command_id=_command_id("advance", caller), actor=caller.name, expected_phase=expected)
        return self._commanded(request.id, asked, control if expected > 0 else _advances)

    def cancel(self, request: wire.CancelOperationRunRequest, caller: Caller) -> wire.OperationRun:
        """Start nothing new, end what is in flight, skip the rest.  A run that has ended stays as it is."""
        asked = Cancel(command_id=_command_id("cancel", caller), actor=caller.name, why=request.reason)
        return self._commanded(request.id, asked)

    def _commanded(self, message: wire.UUID, asked: Command, controller: Controller = control) -> wire.OperationRun:
        run = self._overview(message).run
        reply = self._command(run.id, asked, controller=controller)
        if reply.refusal is not None:
            raise wrong_state(_refused(run, asked, reply))
        return replies.operation_run(run, firmware_template, reply.after)


def _advances(state: RunState, asked: Command) -> Decision:
    """Advance to whatever phase is next: the caller said none."""
    return control(state, replace(asked, expected_phase=state.run.phase + 1) if isinstance(asked, Advance) else asked)


def _run_id(message: wire.UUID) -> RunId:
    found = uuid_or_none(message)
    if found is None:
        raise invalid("operation run ID is required")
    return RunId(found)


def _command_id(verb: str, caller: Caller) -> CommandId:
    """The id of a command: of one call where the caller gives no request id, else of all that repeat it.

    Callers do not meet each other's requests, nor do different verbs under one id.
    """
    given = caller.request_id
    if given is None:
        return CommandId(f"{verb}-{uuid4()}")
    if not 1 <= len(given) <= _REQUEST_ID:
        raise invalid(f"x-request-id has {len(given)} characters; give 1 to {_REQUEST_ID}")
    who = hashlib.sha256(caller.identity.encode("utf-8", "surrogatepass")).hexdigest()[:_HASHED]
    return CommandId(f"{verb}-{who}-{given}")


def _refused(run: Run, asked: Command, reply: Reply) -> str:
    """Why a command was refused, in the words of the reference where it has some."""
    status = run.status if reply.after is None else reply.after.status
    phase = run.phase if reply.after is None else reply.after.phase
    match reply.refusal, asked:
        case Refusal.RUN_ENDED, Pause():
            return f"{run.id} is in terminal state {status}"
        case Refusal.RUN_ENDED | Refusal.NOT_PAUSED, Resume():
            return f"{run.id} is not paused"
        case Refusal.PHASE_GATE, _:
            return f"{run.id} is paused at a phase gate; use AdvanceOperationRunPhase"
        case Refusal.RUN_ENDED | Refusal.NOT_AT_PHASE_GATE, Advance():
            return f"{run.id} is not paused at a phase gate"
        case Refusal.UNEXPECTED_PHASE, Advance(expected_phase=expected):
            return f"expected phase {expected}, next phase is {phase + 1}"
        case _:
            return reply.message


def _empty_phase(rollout: Rollout, error: EmptyPhase) -> str:
    if error.phase is None:
        return "plan operation run targets: count phase counts exceed selected target count"
    kind = "equal" if isinstance(rollout.phases, EqualPhases) else "percentage"
    return (
        "operation run plan is invalid: configured operation run phase has no targets: "
        f"{kind} phase {error.phase} resolves to zero targets for {error.targets} selected targets"
    )


_Bound = Callable[[int], int]
_SCOPES: Final[dict[int, tuple[_Bound, _Bound]]] = {
    wire.OPERATION_RUN_TARGET_PHASE_SCOPE_UNKNOWN: (lambda now: now, lambda now: now + 1),
    wire.OPERATION_RUN_TARGET_PHASE_SCOPE_CURRENT_PHASE: (lambda now: now, lambda now: now + 1),
    wire.OPERATION_RUN_TARGET_PHASE_SCOPE_COMPLETED_PHASES: (lambda now: 0, lambda now: now),
    wire.OPERATION_RUN_TARGET_PHASE_SCOPE_CURRENT_AND_COMPLETED_PHASES: (lambda now: 0, lambda now: now + 1),
}
"""The phases of a scope, from the first to before the last, by the current one."""
