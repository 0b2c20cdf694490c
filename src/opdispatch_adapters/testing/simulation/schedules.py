"""Random schedules: one seed decides the world and every step in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Final, Protocol

from opdispatch.action import Decision
from opdispatch.command import Command
from opdispatch.control import control
from opdispatch.decide import decide
from opdispatch.evolve import Record
from opdispatch.state import RunState

from .healing import heal
from .operators import Operators
from .setup import a_setup
from .world import World

_STAMP_EVERY: Final = 100
"""Steps between two stamps of the whole record."""
RARE: Final = (
    "AcceptFailures",
    "BlockTarget",
    "NoteTarget",
    "RearmBlocked",
    "RecordStray",
    "RetryTarget",
    "ReturnToPhase",
    "SetConflictHold",
    "SkipUnstarted",
    "SubmissionRefused",
    "SubmissionUnknown",
    "UpdateStray",
    "acceptance of a settled target",
    "acceptance of an older claim",
    "advance accepted",
    "advance refused: GATE_TRIPPED",
    "answer came late or twice",
    "cancel accepted",
    "cancellation lost",
    "command repeated",
    "conflict window ended",
    "crash in a call",
    "crash in a tick",
    "decision replayed",
    "drained after the end",
    "look cut short",
    "older attempt's answer dropped",
    "permit over, not called",
    "reconciled while paused",
    "reply lost",
    "request arrived late",
    "request came too late",
    "request lost",
    "resume accepted",
    "resume refused: GATE_TRIPPED",
    "resume refused: MORE_FAILURES",
    "retry accepted",
    "retry refused: OPEN_STRAY",
    "settle accepted",
    "settle refused: ANSWER_OPEN",
    "stale answer dropped",
    "submission of a claim made anew",
    "task forgotten",
    "task invented",
    "task lost",
    "task remembered",
    "tick ended idle",
)
"""What must happen somewhere in a few thousand schedules, or they prove less than they seem to."""


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A schedule that broke no law: how often each event happened before it was healed, and a stamp of all that it came
    to."""

    seed: int
    steps: int
    events: Counter[str]
    stamp: str


def play(
    seed: int,
    steps: int,
    *,
    decider: Callable[[RunState], Decision] = decide,
    controller: Callable[[RunState, Command], Decision] = control,
    make: type[World] = World,
) -> Played:
    """One schedule: chaos for so many steps, then healing.

    Raises ``opdispatch.testing.Broken`` when a law does not hold.  Faults are swarmed: each seed switches some kinds
    off, so that others come to matter.  The same seed plays the same in any process: ``stamp`` tells.
    """
    random = Random(seed)  # noqa: S311  # a game, and no secret

    def choose(n: int) -> int:
        return random.randrange(n)

    world = make(a_setup(choose), decider=decider, controller=controller)
    operators = Operators(world)
    kinds: list[tuple[int, Callable[[], None]]] = [
        (40, lambda: world.step(choose(len(world.hands)), choose)),
        (14, lambda: world.pass_time(choose)),
        (10, lambda: world.task_ends(choose)),
        (2, lambda: world.crash(choose(len(world.hands)))),
        (4, lambda: world.late_delivery(choose)),
        (6, lambda: world.echo(choose)),
        (2, lambda: world.manager_acts_up(choose)),
        (6, lambda: world.foreign_work(choose)),
        (7, lambda: operators.operate(choose)),
        (1, lambda: operators.repeat(choose)),
    ]
    weights = [weight if index < 3 or choose(4) else 0 for index, (weight, _) in enumerate(kinds)]
    acts = [act for _, act in kinds]
    stamp = sha256()
    for number, act in enumerate(random.choices(acts, weights, k=steps), 1):
        act()
        if number % _STAMP_EVERY == 0:
            _add(stamp, world.record)
    events = Counter(world.events)
    heal(world, operators)
    _add(stamp, world.record)
    if decider is decide and controller is control:
        world.ledger.replays()
        events["decision replayed"] = world.events["decision replayed"]
    return Played(seed=seed, steps=steps, events=events, stamp=stamp.hexdigest())


def _add(stamp: _Hash, record: Record) -> None:
    """All that changes in a record; a rollout does not, and has sets in it, whose order is another in each process."""
    run = record.run
    told = (run.status, run.status_reason, run.status_message, run.phase, run.opened, run.operator_hold)
    more = (run.conflict_hold, run.accepted, run.resumed_at, run.decided_at, run.revision, record.wake_at)
    targets = [(t.id, t.state, t.attempt, t.fence, t.conflict, t.message) for t in record.targets.values()]
    strays = [stray for _, stray in sorted(record.strays.items())]
    stamp.update(repr((told, more, targets, record.phases, strays)).encode())
