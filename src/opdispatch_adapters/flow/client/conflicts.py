"""Which active task may be why Flow would not take a submission (flow-grpc, 6.7).

Flow answers a rack conflict like every other failure, so the rack's tasks are looked at.  Of a task the wire tells a
phrase and the ids of its components, and not their types: where that leaves it open, the task may be the reason.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final
from uuid import UUID

from opdispatch.task import Components, Operation

_FIRMWARE, _POWER, _WHOLE = "firmware", "power", "whole rack"
_KINDS: Final = {"firmware_control": _FIRMWARE, "power_control": _POWER}
_POWER_PHRASES: Final = ("PowerOn", "PowerOff", "ForcePowerOff", "Restart", "ForceRestart")
_SHELF: Final = "PowerShelf"
_SHARED: Final = ("Compute", "NVSwitch")


def kind_of_phrase(phrase: str) -> str | None:
    """The kind of task that a generated phrase tells (flow-grpc, 6.1); None for one that is not known."""
    word = phrase.split(",", 1)[0]
    if word == "FirmwareUpgrade":
        return _FIRMWARE
    if word in _POWER_PHRASES:
        return _POWER
    return _WHOLE if word == "rack bring-up" else None


def may_conflict(
    operation: Operation, components: Components, phrase: str, their_components: AbstractSet[UUID]
) -> bool:
    """False when an active task on the same rack cannot be why this submission was refused.

    ``components`` are the submission's by type of Flow, ``phrase`` and ``their_components`` are what the task tells.
    """
    ours, theirs = _KINDS.get(operation.type, _WHOLE), kind_of_phrase(phrase)
    if theirs is None or _WHOLE in (ours, theirs):
        return True
    everything = {UUID(str(one)) for ids in components.values() for one in ids}
    shared = everything & their_components
    if (ours, theirs) == (_FIRMWARE, _FIRMWARE):
        return bool(shared)
    if ours == _POWER and components.get(_SHELF):
        return True
    strangers = their_components - everything
    if theirs == _POWER and strangers:
        # One of the others may be a power shelf, which keeps the whole rack to itself.
        return True
    if theirs == _POWER and shared & {UUID(str(one)) for one in components.get(_SHELF, ())}:
        return True
    # Both must have a component of one type; what they share may be of another.  A stranger may be of any type.
    counted = {UUID(str(one)) for kind in _SHARED for one in components.get(kind, ())}
    return bool(shared and counted and (strangers or shared & counted))
