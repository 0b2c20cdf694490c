"""The ids of things, and how those that are ours are derived.

Nothing here is drawn: a repeated ``create`` meets its own run and a repeated submission meets its own task,
because both derive the same id from the same input.  Ids that others gave (racks, components, tasks) are
opaque.
"""

from __future__ import annotations

from typing import Final, NewType
from uuid import UUID, uuid5

RunId = NewType("RunId", UUID)
TargetId = NewType("TargetId", UUID)
RackId = NewType("RackId", UUID)
ComponentId = NewType("ComponentId", UUID)
TaskId = NewType("TaskId", str)
"""A task manager's own name for a task: opaque text, never parsed."""
CommandId = NewType("CommandId", str)
"""The caller's name for one command; a repeated command carries the same one.  1 to 200 characters."""
IdempotencyKey = NewType("IdempotencyKey", str)
"""Names run, target and attempt; at most one task ever exists for one key."""

_RUNS: Final = UUID("6b6d7f0e-3f5c-5b7e-9d0a-0d5f1f7a2c11")
"""Our own UUIDv5 namespace for runs.  Changing it would make a repeated create a second run."""


def run_id_of(command_id: CommandId) -> RunId:
    """The id of the run that a create with this ``command_id`` makes (UUIDv5)."""
    return RunId(uuid5(_RUNS, command_id))


def target_id_of(run_id: RunId, rack_id: RackId) -> TargetId:
    """The id of a rack's target in a run (UUIDv5); a rack is in a run once."""
    return TargetId(uuid5(run_id, str(rack_id)))


def idempotency_key_of(run_id: RunId | str, target_id: TargetId, attempt: int) -> IdempotencyKey:
    """The key of one attempt: 76 or more characters of ``[0-9a-f.-]``, so it can also name a file.

    The run may be given as its text, which is made once where there are many keys to derive.
    """
    return IdempotencyKey(f"{run_id}.{target_id}.{attempt}")
