"""What happened, as plain values: the calls of every process, the tasks that were begun, and what a run's store says.

All instants are seconds on one clock of the machine (CLOCK_BOOTTIME); those that a store took from its own clock are
converted, and ``slack`` bounds by how much that may be wrong.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum, unique
from math import inf
from typing import Any, Self


@unique
class Outcome(StrEnum):
    """What the caller of a call knows of it."""

    OK = "ok"
    """It was carried out."""
    FAIL = "fail"
    """It was refused: it changed nothing."""
    UNKNOWN = "unknown"
    """Nobody knows: no answer came, or the caller died before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of one process: from ``began`` until ``ended``, which is never (infinity) where no answer came.

    ``way`` is how it was asked (``cli``, ``grpc``, ``store``), and ``reply`` the answer as text: equal answers are
    equal texts.  A call that failed before anybody decided on it has no reply.
    """

    process: str
    way: str
    what: str
    run: str
    command: str
    began: float
    ended: float = inf
    outcome: Outcome = Outcome.UNKNOWN
    reply: str = ""

    @property
    def is_answered(self) -> bool:
        """True when the caller has a decision on it, be it a refusal."""
        return self.outcome is not Outcome.UNKNOWN and bool(self.reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task that the manager began, by its own record; alive from ``began`` until ``ends``.

    ``until`` is the instant after which it was not to begin, and ``status`` how it ended.
    """

    key: str
    target: str
    attempt: int
    fence: int
    began: float
    until: float
    ends: float
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request for a task, by the manager's own record."""

    key: str
    target: str
    attempt: int
    fence: int
    at: float


@unique
class Kind(StrEnum):
    """What a change of the journal does, as far as the checkers ask."""

    CLAIM = "claim"
    RECORD = "record"
    BLOCK = "block"
    STRAY = "stray"
    SETTLE = "settle"
    SKIP_REST = "skip the rest"
    RETRY = "retry"
    HOLD = "hold"
    RELEASE = "release"
    FINISH = "finish"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change: of which target, with which task, status and lease, where it has one."""

    kind: Kind
    target: str = ""
    task: str = ""
    status: str = ""
    lease_until: float = inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One decision of the journal.  ``replies`` are the answers to its command, as text, by the way it is asked, and
    ``revision`` is the run's after it, where it has one."""

    number: int
    at: float
    revision: int = 0
    command: str = ""
    verb: str = ""
    accepted: bool = False
    replies: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A target as the store has it in the end."""

    id: str
    phase: int
    status: str
    attempt: int = 1
    fence: int = 0
    task: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHistory:
    """All that is known of one run that is over."""

    run: str
    quota: int
    status: str
    revision: int = 0
    trouble: str = ""
    open_strays: int = 0
    slack: float = 0.0
    rows: tuple[Row, ...] = ()
    tasks: tuple[Task, ...] = ()
    requests: tuple[Asked, ...] = ()
    entries: tuple[Entry, ...] = ()
    calls: tuple[Call, ...] = ()


@dataclass(slots=True)
class Merged:
    """The lines of all processes, put together into calls."""

    calls: dict[tuple[str, int], Call] = field(default_factory=dict)

    def add(self, lines: Iterable[Mapping[str, Any]]) -> Self:
        """Take lines in, those of a process in order.  Raises ValueError for an answer to nothing."""
        for line in lines:
            key = (str(line["process"]), int(line["call"]))
            if line["line"] == "invoke":
                self.calls[key] = Call(
                    process=key[0],
                    way=line["way"],
                    what=line["what"],
                    run=line["run"],
                    command=line["command"],
                    began=line["at"],
                )
                continue
            asked = self.calls.get(key)
            if asked is None:
                raise ValueError(f"{key[0]} tells the end of call {key[1]}, which it never began: {line}")
            outcome = Outcome(line["line"])
            self.calls[key] = Call(
                process=asked.process,
                way=asked.way,
                what=asked.what,
                run=asked.run,
                command=asked.command,
                began=asked.began,
                # What was begun and not answered may still be carried out, whenever its caller gave up.
                ended=inf if outcome is Outcome.UNKNOWN else line["at"],
                outcome=outcome,
                reply=line["reply"],
            )
        return self

    def take(self, run: str) -> tuple[Call, ...]:
        """The calls of a run, in order of their beginning; they are forgotten here."""
        mine = [key for key, call in self.calls.items() if call.run == run]
        return tuple(sorted((self.calls.pop(key) for key in mine), key=lambda call: call.began))

    def keep(self, runs: Container[str]) -> None:
        """Forget the calls of all other runs: what came too late to be judged."""
        self.calls = {key: call for key, call in self.calls.items() if call.run in runs}
