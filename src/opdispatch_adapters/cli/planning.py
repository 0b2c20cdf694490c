"""From a rollout file to a plan, a request id and a run.

The request id is a digest of what the file means: of the rollout, the inventory's directory and the program.  So the
same command line typed twice meets its own run, and so do a comment, a new order of keys, and an inventory that was
exported again in between: what a run is about was frozen when it was made.  A changed rollout is a new run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

from opdispatch.errors import CorruptRecord, InvalidInput, NotFound
from opdispatch.identity import CommandId, ComponentId, RunId, run_id_of
from opdispatch.plan import NewRun, Plan, components_of, new_run, plan, require_same_rollout
from opdispatch.ports import Store
from opdispatch.run import Run
from opdispatch_adapters.begun import was_begun
from opdispatch_adapters.inventory import CsvInventory

from .programs import Program, load_allowlist, name_of, program_of, require_runnable
from .rollout_file import RolloutFile, load_rollout
from .session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a rollout file asks for.  ``program`` is None where only the allowlist counts, or nothing is given."""

    file: RolloutFile
    request_id: CommandId
    program: Program | None

    @property
    def run_id(self) -> RunId:
        """The run that a create of this makes, or meets."""
        return run_id_of(self.request_id)


def asked(session: Session, path: Path, request_id: str | None) -> Asked:
    """Read a rollout file, and look at its program; writes nothing.  Raises InvalidInput."""
    file = load_rollout(path)
    program = _program(session, file, path)
    given = CommandId(request_id) if request_id is not None else derived_request_id(file, program)
    if not 1 <= len(given) <= 200:
        raise InvalidInput.at("--request-id", "it must have 1 to 200 characters")
    return Asked(file=file, request_id=given, program=program)


def plan_of(session: Session, given: Asked) -> Plan:
    """Read the inventory, and plan; writes nothing.  Raises InvalidInput, NotFound."""
    rollout = given.file.rollout
    excluded = _excluded(session, given.file)
    return plan(CsvInventory(given.file.inventory).candidates(rollout.scope), rollout, excluded=excluded)


def _program(session: Session, file: RolloutFile, path: Path) -> Program | None:
    own = None if file.command is None else program_of(file.command, path.parent)
    if session.commands_option is None:
        if own is not None:
            require_runnable(own, f"{path} $.command", session.tasks_path)
        return own
    operation = name_of(file.rollout.operation)
    allowed = load_allowlist(session.commands_option).get(operation)
    if allowed is None:
        raise InvalidInput.at(
            str(session.commands_option),
            f"it has no program for {operation}",
            f'add a table ["{operation}"] with argv, or use another allowlist',
        )
    if own is not None and own != allowed:
        raise InvalidInput.at(
            f"{path} $.command",
            f"it differs from what {session.commands_option} allows for {operation}",
            "leave it out, or make it the same",
        )
    require_runnable(allowed, f'{session.commands_option} $["{operation}"]', session.tasks_path)
    return None


def _excluded(session: Session, file: RolloutFile) -> AbstractSet[ComponentId]:
    runs = file.rollout.scope.excluded_runs
    if not runs:
        return frozenset()
    with session.store() as store:
        return components_of(target.components for run_id in runs for target in store.targets(run_id))


def require_program(session: Session, given: Asked) -> None:
    """Refuse what nothing could be executed for, before anything is made."""
    if session.commands_option is None and given.program is None:
        raise InvalidInput.at(
            "$.command",
            "the file names no program, and no allowlist is given",
            'add [command] with argv = ["/path/to/program", "{rack_id}"], or give --commands FILE',
        )


def plan_unless_made(session: Session, given: Asked) -> Plan | None:
    """The plan; None when the run is there: the inventory need not fit any more, and no store is made for a bad one."""
    path = session.place.file
    if path is None or os.path.lexists(path):
        with session.store() as store:
            if _met(store, given) is not None:
                return None
    return plan_of(session, given)


def create(session: Session, store: Store, given: Asked, made: Plan | None) -> tuple[Run, Plan | None]:
    """Register the program and make the run, or meet it; with the plan when it was made now."""
    met = _met(store, given)
    if met is not None:
        _register(session, given, known=True)
        return met, None
    if made is None:
        # It was removed since it was looked for.
        made = plan_of(session, given)
    new = new_run(made, command_id=given.request_id, actor=session.actor, now=datetime.now(UTC))
    if _is_forgotten(session, store, new):
        raise InvalidInput.at(
            "--request-id",
            f"it made run {new.run.id} before, which the store does not know any more; its tasks are still in"
            f" {session.tasks_path}, and a new run would take their outcomes for its own",
            "give another --request-id for a new run",
        )
    _register(session, given, known=False)
    return store.create(new), made


def _met(store: Store, given: Asked) -> Run | None:
    """The run that this made before, as it stands now; refused when it is of another rollout."""
    try:
        run = store.get(given.run_id).run
    except NotFound:
        return None
    require_same_rollout(run, given.file.rollout, given.request_id, place="--request-id")
    return run


def _is_forgotten(session: Session, store: Store, new: NewRun) -> bool:
    """True when tasks of a run were begun here that the store does not know: it was pruned, emptied or restored."""
    if not os.path.lexists(session.tasks_path / "tasks"):
        return False
    with session.programs(watch=False) as programs:
        begun = was_begun(new, programs.observe)
    # Another process may have made it, and begun them, since it was looked for.
    return begun and not _known(store, new.run.id)


def _register(session: Session, given: Asked, *, known: bool) -> None:
    """Register the program before the run is there: no worker ever finds the run without it."""
    if given.program is None:
        return
    with session.programs(watch=False) as programs:
        registered = programs.registry.get(given.run_id)
        if registered == given.program:
            return
        if known and registered is not None:
            raise InvalidInput.at(
                "$.command",
                f"run {given.run_id} was created with another program",
                "give another --request-id for a new run",
            )
        programs.registry.put(given.run_id, given.program)


def _known(store: Store, run_id: RunId) -> bool:
    try:
        store.get(run_id)
    except NotFound:
        return False
    except CorruptRecord:
        return True
    return True


def derived_request_id(file: RolloutFile, program: Program | None) -> CommandId:
    """The digest of what the file means; values that are at their default do not count, so new ones change nothing."""
    meaning = {
        "rollout": _canonical(file.rollout),
        "inventory": os.path.realpath(file.inventory),
        "program": _canonical(program),
    }
    text = json.dumps(meaning, sort_keys=True, separators=(",", ":"))
    return CommandId(f"file-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}")


def _canonical(value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case Enum():
            return str(value.value)
        case timedelta():
            return value.total_seconds()
        case Mapping():
            return {str(key): _canonical(item) for key, item in value.items()}
        case tuple() | list():
            return [_canonical(item) for item in value]
        case AbstractSet():
            return sorted(str(_canonical(item)) for item in value)
        case _ if is_dataclass(value):
            said: dict[str, object] = {"": type(value).__name__}
            for one in fields(value):
                default = one.default_factory() if one.default_factory is not MISSING else one.default
                item = getattr(value, one.name)
                if default is MISSING or item != default:
                    said[one.name] = _canonical(item)
            return said
        case _:
            return str(value)
