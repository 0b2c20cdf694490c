"""What the program ends with: one table from error class to exit code, and one from a run's state.

A script can tell apart: it is done (0), done with failures (3), it stopped itself (4), nobody let it (5), somebody
ended it (6), nothing worked (7), it waits for somebody (8), try again later (75), it goes on without us (124, 130).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum, unique
from typing import Final

from opdispatch.errors import (
    CorruptRecord,
    InvalidInput,
    NotFound,
    OpdispatchError,
    RefusedTransition,
    Unavailable,
)
from opdispatch.holds import Hold
from opdispatch.run import RunStatus, StatusReason


@unique
class Exit(IntEnum):
    """The exit codes, and what each means."""

    OK = 0
    """The run completed, or the command took effect."""
    INTERNAL = 1
    """An internal error: a bug of this program."""
    USAGE = 2
    """The arguments, a file or a name cannot be used; nothing was done."""
    WITH_FAILURES = 3
    """The run completed, and some targets failed."""
    SAFETY = 4
    """The run is held by a safety gate."""
    REFUSED = 5
    """The run or the store does not allow it now; nothing was changed."""
    CANCELLED = 6
    """The run was cancelled."""
    FAILED = 7
    """The run failed: no target completed."""
    HELD = 8
    """The run is held, and not by a safety gate."""
    RETRY_LATER = 75
    """The store or the tasks cannot be reached now; the same call can succeed later."""
    TIMEOUT = 124
    """The time that was given is over; what runs goes on."""
    DETACHED = 130
    """Ctrl-C: what runs goes on, nothing new starts."""


ERROR_EXITS: Final[Mapping[type[OpdispatchError], Exit]] = {
    OpdispatchError: Exit.INTERNAL,
    InvalidInput: Exit.USAGE,
    NotFound: Exit.USAGE,
    RefusedTransition: Exit.REFUSED,
    CorruptRecord: Exit.REFUSED,
    Unavailable: Exit.RETRY_LATER,
}
"""Total over the errors of the core; an error that is none of them is internal."""

ENDED_EXITS: Final[Mapping[RunStatus, Exit]] = {
    RunStatus.COMPLETED: Exit.OK,
    RunStatus.COMPLETED_WITH_FAILURES: Exit.WITH_FAILURES,
    RunStatus.CANCELLED: Exit.CANCELLED,
    RunStatus.FAILED: Exit.FAILED,
}
"""Total over the terminal statuses of a run."""


def exit_of_error(error: BaseException) -> Exit:
    """The exit code of an error; the nearest class of the table counts."""
    for kind in type(error).__mro__:
        if kind in ERROR_EXITS:
            return ERROR_EXITS[kind]
    return Exit.INTERNAL


def exit_of_holds(holds: Sequence[Hold]) -> Exit:
    """The exit code of a run that is held: a tripped safety gate is told even where another hold is shown first."""
    tripped = any(hold.reason is StatusReason.SAFETY_GATE for hold in holds)
    return Exit.SAFETY if tripped else Exit.HELD
