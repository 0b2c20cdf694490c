"""What can happen next: every step of dispatchers, task manager, network, operators and time from a state.

A state is a value.  Each successor is worked out by the core's own ``window``, ``decide``, ``control`` and ``evolve``;
what is around them is as small as it can be and still lose, delay and double everything that may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from opdispatch.action import CancelTask, Decision, SubmitTask
from opdispatch.command import Advance, Cancel, Command, Pause, Resume, Retry
from opdispatch.control import control
from opdispatch.decide import decide
from opdispatch.evolve import Record, evolve, new_record, window
from opdispatch.holds import failed_attempts, next_phase, tripped_gates
from opdispatch.identity import CommandId, TaskId
from opdispatch.observation import (
    Observation,
    SubmissionAbsent,
    SubmissionAccepted,
    SubmissionConflicted,
    TaskMissing,
    TaskObserved,
)
from opdispatch.plan import new_run, plan
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.policy.gates import Gate
from opdispatch.policy.phases import EqualPhases
from opdispatch.run import RunStatus
from opdispatch.state import Limits, RunState
from opdispatch.tally import tallies_at
from opdispatch.target import Claimed, Submitted
from opdispatch.task import TaskStatus
from tests.racks import racks, rollout

from .record import NOW, TICK, Small, instant, record_of, renamed, small_record

LIMITS: Final = Limits(
    poll=TICK, claim_lease=3 * TICK, missing_grace=2 * TICK, cancel_delay=TICK, cancel_max_delay=2 * TICK
)
CONFLICT: Final = ConflictRetry(window=3 * TICK, initial_delay=TICK, max_delay=2 * TICK)
_DEADLINE: Final = 1
"""So many ticks after its claim a request still takes effect; the lease is three."""
_OLDEST_LOOK: Final = -1
"""How old what a dispatcher has in hand may become: then it acts, or it is dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A small run, and how often what may go wrong does."""

    name: str
    racks: int = 2
    phases: int = 1
    quota: int = 2
    gates: tuple[Gate, ...] = ()
    auto_advance: bool = False
    dispatchers: int = 1
    failures: bool = False
    """True when a task may fail."""
    losses: int = 0
    """Requests and replies that are lost, and dispatchers that die, in all."""
    busy: int = 0
    """Racks that other work keeps busy, one after the other."""
    forgets: int = 0
    """Tasks that the manager loses."""
    commands: tuple[str, ...] = ()
    """What operators ask for, each once."""
    bars: bool = True
    """True for a manager that can bar a key."""


class Message(NamedTuple):
    """Something under way: a request, or the answer to one.  ``since`` is when its claim was made, in ticks."""

    kind: str
    sequence: int
    attempt: int
    fence: int
    hand: int
    since: int


class Look(NamedTuple):
    """What a dispatcher has in hand: an observation, as small as it can be told."""

    kind: str
    sequence: int
    attempt: int
    fence: int
    task: str
    status: str
    at: int


class Task(NamedTuple):
    """A task of the manager."""

    name: str
    sequence: int
    attempt: int
    status: str


@dataclass(frozen=True, slots=True)
class State:
    """One state of everything.  ``hands`` are what the dispatchers hold, None for one that has not looked."""

    record: Small
    tasks: tuple[Task, ...]
    network: tuple[Message, ...]
    hands: tuple[tuple[Look, ...] | None, ...]
    busy: tuple[int, ...]
    barred: tuple[tuple[int, int], ...]
    losses: int
    blocks: int
    forgets: int
    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edge:
    """One step: what it is called, where it leads, and the decision that was made in it, if one was."""

    name: str
    after: State
    before_record: Record
    after_record: Record
    decision: Decision | None = None


class Model:
    """The steps of one configuration."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        decider: Callable[[RunState], Decision] = decide,
        controller: Callable[[RunState, Command], Decision] = control,
    ) -> None:
        self.configuration = c = configuration
        self._decide = decider
        self._control = controller
        chosen = rollout(max_concurrent_targets=c.quota, gates=c.gates, phases=EqualPhases(count=c.phases))
        chosen = replace(chosen, auto_advance=c.auto_advance, conflict=CONFLICT)
        made = plan(racks(c.racks), chosen)
        new = new_run(made, command_id=CommandId("model"), actor="ada", now=NOW - 10 * TICK)
        self.start = replace(new_record(new.run, new.targets), wake_at=NOW)
        self._sequence = {target.id: target.sequence for target in new.targets}
        self._targets = [target.id for target in new.targets]

    def first(self) -> State:
        """The state in which the run was just created."""
        c = self.configuration
        empty = State(
            record=(),
            tasks=(),
            network=(),
            hands=(None,) * c.dispatchers,
            busy=(),
            barred=(),
            losses=c.losses,
            blocks=c.busy,
            forgets=c.forgets,
            commands=c.commands,
        )
        return self._made(empty, self.start, 0)

    def record(self, state: State) -> Record:
        """The record of a state."""
        return record_of(state.record, self.start)

    # -- what can happen --

    def edges(self, state: State) -> Iterator[Edge]:
        """Every step from a state."""
        record = self.record(state)
        yield from self._dispatchers(state, record)
        yield from self._network(state, record)
        yield from self._manager(state, record)
        yield from self._operators(state, record)
        yield from self._time(state, record)

    def _dispatchers(self, state: State, record: Record) -> Iterator[Edge]:
        for hand, looks in enumerate(state.hands):
            if looks is None:
                yield self._edge(f"{hand} looks", *self._looked(state, record, hand), record, record)
                continue
            observations = tuple(map(self._observation, looks))
            seen = window(record, observations=observations, limits=LIMITS, now=NOW)
            decision = self._decide(seen)
            after = evolve(record, decision)
            hands = _with(state.hands, hand, None)
            network = [*state.network]
            tasks = [*state.tasks]
            for effect in decision.effects:
                if isinstance(effect, SubmitTask):
                    request = effect.request
                    sequence = self._sequence[request.target_id]
                    network.append(Message("request", sequence, request.attempt, request.fence, hand, 0))
                elif isinstance(effect, CancelTask):
                    tasks = [
                        task._replace(status="terminated")
                        if task.name == effect.ref.task_id and task.status == "running"
                        else task
                        for task in tasks
                    ]
            next_state = replace(state, hands=hands, network=tuple(network), tasks=tuple(tasks))
            yield self._edge(f"{hand} decides", next_state, 0, record, after, decision)
            if state.losses:
                dead = replace(state, hands=hands, losses=state.losses - 1)
                yield self._edge(f"{hand} dies", dead, 0, record, record)

    def _looked(self, state: State, record: Record, hand: int) -> tuple[State, int]:
        """What a dispatcher finds when it looks: tasks, strays, and keys whose lease is over."""
        found: list[Look] = []
        barred = [*state.barred]
        for target in record.targets.values():
            match target.state:
                case Submitted(task_id=task_id):
                    found.append(self._seen(state, target.sequence, task_id))
                case Claimed(lease_until=until) if until <= NOW:
                    key = (target.sequence, target.attempt)
                    task = next((t for t in state.tasks if (t.sequence, t.attempt) == key), None)
                    if task is not None:
                        found.append(Look("accepted", *key, target.fence, task.name, "", 0))
                        continue
                    bars = record.run.status.is_terminal and self.configuration.bars
                    if bars:
                        barred.append(key)
                    found.append(Look("absent", *key, target.fence, "", "barred" if bars else "", 0))
                case _:
                    pass
        found.extend(
            self._seen(state, self._sequence[stray.target_id], stray.task_id)
            for stray in record.strays.values()
            if stray.is_open
        )
        looked = replace(state, hands=_with(state.hands, hand, tuple(found)), barred=tuple(sorted(set(barred))))
        return looked, 0

    def _seen(self, state: State, sequence: int, task_id: TaskId) -> Look:
        task = next((t for t in state.tasks if t.name == task_id), None)
        if task is None:
            return Look("missing", sequence, 0, 0, task_id, "", 0)
        return Look("observed", sequence, 0, 0, task_id, task.status, 0)

    def _observation(self, look: Look) -> Observation:
        target_id, task_id = self._targets[look.sequence], TaskId(look.task)
        at = instant(look.at) or NOW
        match look.kind:
            case "observed":
                status = TaskStatus(look.status)
                return TaskObserved(
                    target_id=target_id, task_id=task_id, status=status, looked_at=at, message=look.status
                )
            case "missing":
                return TaskMissing(target_id=target_id, task_id=task_id, looked_at=at)
            case "accepted":
                return SubmissionAccepted(target_id=target_id, attempt=look.attempt, fence=look.fence, task_id=task_id)
            case "conflicted":
                return SubmissionConflicted(
                    target_id=target_id, attempt=look.attempt, fence=look.fence, message="the rack is busy"
                )
            case _:
                return SubmissionAbsent(
                    target_id=target_id,
                    attempt=look.attempt,
                    fence=look.fence,
                    barred=look.status == "barred",
                    looked_at=at,
                )

    def _network(self, state: State, record: Record) -> Iterator[Edge]:
        for index, message in enumerate(state.network):
            rest = (*state.network[:index], *state.network[index + 1 :])
            if message.kind == "request":
                yield from self._executed(state, record, message, rest)
                if state.losses:
                    lost = replace(state, network=rest, losses=state.losses - 1)
                    yield self._edge(f"request {message.sequence} is lost", lost, 0, record, record)
                continue
            hand = state.hands[message.hand] or ()
            name = _name(message.sequence, message.attempt)
            kind = "accepted" if message.kind == "yes" else "conflicted"
            look = Look(kind, message.sequence, message.attempt, message.fence, name, "", 0)
            told = replace(state, network=rest, hands=_with(state.hands, message.hand, (*hand, look)))
            yield self._edge(f"answer {message.kind} to {message.sequence} comes", told, 0, record, record)
            if state.losses:
                lost = replace(state, network=rest, losses=state.losses - 1)
                yield self._edge(f"answer to {message.sequence} is lost", lost, 0, record, record)

    def _executed(self, state: State, record: Record, message: Message, rest: tuple[Message, ...]) -> Iterator[Edge]:
        """A request takes effect within its deadline or never; a key means one task."""
        key = (message.sequence, message.attempt)
        if message.since < -_DEADLINE or key in state.barred:
            gone = replace(state, network=rest)
            yield self._edge(f"request {message.sequence} comes too late", gone, 0, record, record)
            return
        known = any((task.sequence, task.attempt) == key for task in state.tasks)
        if not known and message.sequence in state.busy:
            answer = message._replace(kind="no")
            told = replace(state, network=(*rest, answer))
            yield self._edge(f"rack {message.sequence} is busy", told, 0, record, record)
            return
        tasks = state.tasks if known else (*state.tasks, Task(_name(*key), *key, "running"))
        begun = replace(state, tasks=tasks, network=(*rest, message._replace(kind="yes")))
        yield self._edge(f"task of {message.sequence} begins", begun, 0, record, record)

    def _manager(self, state: State, record: Record) -> Iterator[Edge]:
        for index, task in enumerate(state.tasks):
            if task.status == "running":
                for status in ("completed", "failed") if self.configuration.failures else ("completed",):
                    ended = _with(state.tasks, index, task._replace(status=status))
                    yield self._edge(f"{task.name} is {status}", replace(state, tasks=ended), 0, record, record)
            if state.forgets:
                left = (*state.tasks[:index], *state.tasks[index + 1 :])
                lost = replace(state, tasks=left, forgets=state.forgets - 1)
                yield self._edge(f"{task.name} is forgotten", lost, 0, record, record)
        for sequence in range(self.configuration.racks):
            if sequence in state.busy:
                free = tuple(one for one in state.busy if one != sequence)
                yield self._edge(f"rack {sequence} is free", replace(state, busy=free), 0, record, record)
            elif state.blocks:
                taken = replace(state, busy=tuple(sorted((*state.busy, sequence))), blocks=state.blocks - 1)
                yield self._edge(f"rack {sequence} is taken", taken, 0, record, record)

    def _operators(self, state: State, record: Record) -> Iterator[Edge]:
        for index, name in enumerate(state.commands):
            asked = self._command(name, record)
            if asked is None:
                continue
            named = asked.targets if isinstance(asked, Retry) else ()
            seen = window(record, observations=(), limits=LIMITS, now=NOW, named=named)
            decision = self._control(seen, asked)
            after = evolve(record, decision)
            left = (*state.commands[:index], *state.commands[index + 1 :])
            yield self._edge(name, replace(state, commands=left), 0, record, after, decision)

    def _command(self, name: str, record: Record) -> Command | None:
        """A command as an operator gives it who sees the run as it is; None where it makes no sense."""
        run = record.run
        command_id, actor = CommandId(name), "ada"
        tallies = tallies_at(record.phases, run.phase, run.opened)
        match name.split()[0]:
            case "pause":
                return Pause(command_id=command_id, actor=actor)
            case "resume":
                tripped = tripped_gates(run, tallies)
                return Resume(
                    command_id=command_id, actor=actor, accept_failures=failed_attempts(tallies) if tripped else None
                )
            case "advance":
                following = next_phase(run, tallies)
                if following is None:
                    return None
                return Advance(command_id=command_id, actor=actor, expected_phase=following)
            case "cancel":
                return Cancel(command_id=command_id, actor=actor)
            case _:
                failed = [t.id for t in record.targets.values() if t.status in ("failed", "terminated")]
                return Retry(command_id=command_id, actor=actor, targets=tuple(failed[:1])) if failed else None

    def _time(self, state: State, record: Record) -> Iterator[Edge]:
        oldest = min((look.at for hand in state.hands if hand for look in hand), default=0)
        if oldest > _OLDEST_LOOK:
            yield self._edge("time passes", state, 1, record, record)

    # -- states --

    def _edge(
        self,
        name: str,
        after: State,
        passed: int,
        before_record: Record,
        after_record: Record,
        decision: Decision | None = None,
    ) -> Edge:
        return Edge(
            name=name,
            after=self._made(after, after_record, passed),
            before_record=before_record,
            after_record=after_record,
            decision=decision,
        )

    def _made(self, state: State, record: Record, passed: int) -> State:
        """The state with this record, after so many ticks, in its one form."""
        network = [m._replace(since=max(m.since - passed, -_DEADLINE - 1)) for m in state.network]
        hands = [
            None if hand is None else tuple(look._replace(at=look.at - passed) for look in hand) for hand in state.hands
        ]
        used = [(target.sequence, target.fence) for target in record.targets.values()]
        used += [(m.sequence, m.fence) for m in network]
        used += [(look.sequence, look.fence) for hand in hands if hand for look in hand if look.fence]
        fences = renamed(used)
        return replace(
            state,
            record=small_record(record, passed, fences),
            tasks=tuple(sorted(state.tasks)),
            network=tuple(sorted(m._replace(fence=fences[m.sequence][m.fence]) for m in network)),
            hands=tuple(
                None
                if hand is None
                else tuple(
                    look._replace(fence=fences[look.sequence][look.fence]) if look.fence else look for look in hand
                )
                for hand in hands
            ),
        )


def _name(sequence: int, attempt: int) -> str:
    return f"t{sequence}.{attempt}"


def _with(some: Sequence[object], index: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (*some[:index], value, *some[index + 1 :])


def is_settled(state: State, record: Record) -> bool:
    """True when nothing of the run is under way any more, or it is held and says why."""
    if record.run.status is RunStatus.PAUSED:
        return True
    return record.run.status.is_terminal and not any(t.status.holds_slot for t in record.targets.values())
