"""Commands: what an operator can ask of a run, and the reply.

Every command carries a ``command_id``: the journal keeps the first reply, a refusal too, and a repeated command gets it
again without a second effect; another command under the same id is bad input.  ``expected_revision``, where given,
refuses a command that was decided on an older look at the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique

from .errors import InvalidInput
from .identity import CommandId, TargetId
from .run import Standing
from .target import TargetStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class _Command:
    command_id: CommandId
    actor: str
    expected_revision: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.command_id) <= 200:
            raise InvalidInput.at("command_id", "it must have 1 to 200 characters")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(_Command):
    """Start nothing new; let what is in flight end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume(_Command):
    """Release the operator hold and the conflict hold.  ``accept_failures`` is needed while a gate is tripped: the
    failed attempts of the whole run, as the safety message shows them."""

    accept_failures: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance(_Command):
    """Open the phase ``expected_phase`` (from 0), which must be the one that waits."""

    expected_phase: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(_Command):
    """Start nothing new; end what is in flight; skip what has not started."""

    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry(_Command):
    """Give settled targets a new attempt: all of ``targets`` (>= 1) or none."""

    targets: tuple[TargetId, ...]

    def __post_init__(self) -> None:
        _Command.__post_init__(self)
        if not self.targets:
            raise InvalidInput.at("targets", "no target is named", "name at least one")
        if len(set(self.targets)) != len(self.targets):
            raise InvalidInput.at("targets", "a target is named twice", "name each once")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle(_Command):
    """Declare the outcome of a target that hangs.  A task that it leaves behind becomes a stray."""

    target: TargetId
    status: TargetStatus
    why: str

    def __post_init__(self) -> None:
        _Command.__post_init__(self)
        if not self.status.is_settled:
            raise InvalidInput.at(
                "status", f"{self.status} is not an outcome", "use completed, failed, terminated or skipped"
            )
        if not self.why.strip():
            raise InvalidInput.at("why", "no reason is given", "say why; it is kept in the journal")


Command = Pause | Resume | Advance | Cancel | Retry | Settle


def command_name(command: Command) -> str:
    """The verb: ``pause``, ``resume``, ``advance``, ``cancel``, ``retry`` or ``settle``."""
    return type(command).__name__.lower()


def named_targets(command: Command) -> tuple[TargetId, ...]:
    """The targets that a command is about; a state for it must hold them."""
    match command:
        case Retry(targets=targets):
            return targets
        case Settle(target=target):
            return (target,)
        case _:
            return ()


def require_repeat(first: Command, asked: Command) -> None:
    """Raise InvalidInput unless a command under the id of an earlier one asks for the same.

    Who asks, why, and on which look at the run may differ.  What is left to be found when a command is carried out (no
    number of failures, phase 0) agrees with whatever was found then.
    """
    if not _asks_for_the_same(first, asked):
        raise InvalidInput.at(
            "command_id", f"{asked.command_id!r} named another command before ({command_name(first)})", "name a new one"
        )


def _asks_for_the_same(first: Command, asked: Command) -> bool:
    match first, asked:
        case Resume(accept_failures=before), Resume(accept_failures=now):
            return now is None or now == before
        case Advance(expected_phase=before), Advance(expected_phase=now):
            return now in (0, before)
        case Retry(targets=before), Retry(targets=now):
            return set(before) == set(now)
        case Settle(), Settle():
            return (first.target, first.status) == (asked.target, asked.status)
        case _:
            return type(first) is type(asked)


@unique
class Refusal(StrEnum):
    """Why a command was refused: a closed list of stable codes."""

    RUN_ENDED = "RUN_ENDED"
    STALE_REVISION = "STALE_REVISION"
    NOT_PAUSED = "NOT_PAUSED"
    GATE_TRIPPED = "GATE_TRIPPED"
    MORE_FAILURES = "MORE_FAILURES"
    PHASE_GATE = "PHASE_GATE"
    NOT_AT_PHASE_GATE = "NOT_AT_PHASE_GATE"
    UNEXPECTED_PHASE = "UNEXPECTED_PHASE"
    CONFLICT_HOLD = "CONFLICT_HOLD"
    NO_SUCH_TARGET = "NO_SUCH_TARGET"
    NOT_SETTLED = "NOT_SETTLED"
    ALREADY_SETTLED = "ALREADY_SETTLED"
    OPEN_STRAY = "OPEN_STRAY"
    ANSWER_OPEN = "ANSWER_OPEN"
    NOT_STARTED = "NOT_STARTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer to a command: ``refusal`` is None when it took effect.

    ``open_claims`` counts the submissions that may still begin until their deadline; pause and cancel cannot
    call them back.  ``revision`` is the run's after the command, and ``after`` how it stood then; None in a reply that
    was stored before that was told.
    """

    command_id: CommandId
    message: str
    revision: int
    open_claims: int
    refusal: Refusal | None = None
    after: Standing | None = None

    @property
    def accepted(self) -> bool:
        """True when the command took effect."""
        return self.refusal is None
