"""What can happen next: every step of dispatchers, task manager, network, operators and time from a state.

A state is five numbers, each the number of a value that was met: the record, the tasks, what is under way, what the
dispatchers hold, and the rest.  Each decision is made by the core's own ``window``, ``decide``, ``control`` and
``evolve`` and judged by the laws of ``opdispatch.testing``, once for each record and each thing in hand; what is around
them is as small as it can be and still lose, delay and double everything that may be.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, NamedTuple, TypeVar

from opdispatch.action import CancelTask, ClaimTarget, Decision, RecordTask, SettleTarget, SubmitTask
from opdispatch.command import Advance, Cancel, Command, Pause, Resume, Retry, Settle, named_targets
from opdispatch.control import control
from opdispatch.decide import decide
from opdispatch.evolve import Record, evolve, new_record, whole, window
from opdispatch.holds import failed_attempts, next_phase, tripped_gates
from opdispatch.identity import CommandId, TaskId
from opdispatch.observation import (
    Observation,
    SubmissionAbsent,
    SubmissionAccepted,
    SubmissionConflicted,
    SubmissionRefused,
    SubmissionUnknown,
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
from opdispatch.target import Claimed, Submitted, TargetStatus
from opdispatch.task import TaskStatus
from opdispatch.testing import (
    RECORD_LAWS,
    TASK_LAWS,
    TRANSITION_LAWS,
    KnownTask,
    Transition,
    WithTasks,
    breaches,
)
from tests.racks import racks, rollout

from .record import GRACE_TICKS, NOW, OLDEST_LOOK, TICK, WINDOW_TICKS, Small, instant, record_of, small_record

LIMITS: Final = Limits(
    poll=TICK, claim_lease=3 * TICK, missing_grace=GRACE_TICKS * TICK, cancel_delay=TICK, cancel_max_delay=2 * TICK
)
CONFLICT: Final = ConflictRetry(window=WINDOW_TICKS * TICK, initial_delay=TICK, max_delay=2 * TICK)
_DEADLINE: Final = 1
"""So many ticks after its claim a request still takes effect; the lease is three."""

State = tuple[int, int, int, int, int]
"""The numbers of the record, of the tasks, of what is under way, of what is in hand, and of the rest."""
V = TypeVar("V", bound=Hashable)


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
    capacity: int | None = None
    failures: bool = False
    """True when a task may fail."""
    losses: int = 0
    """Requests and replies that are lost, and dispatchers that die, in all."""
    busy: int = 0
    """Racks that other work keeps busy, one after the other."""
    forgets: int = 0
    """Tasks that the manager loses."""
    refusals: int = 0
    """Requests that the manager refuses for good."""
    commands: tuple[str, ...] = ()
    """What operators ask for, each once."""
    bars: bool = True
    """True for a manager that can bar a key."""
    guards: bool = True
    """True for a manager that begins nothing on a rack where it has a task at work."""


class Message(NamedTuple):
    """A request, or the answer to one.  ``stale`` is True once its target was claimed again; ``age`` is in ticks."""

    kind: str
    sequence: int
    attempt: int
    stale: bool
    hand: int
    age: int


class Look(NamedTuple):
    """What a dispatcher has in hand: an observation, as small as it can be told.  ``at`` is in ticks from now."""

    kind: str
    sequence: int
    attempt: int
    stale: bool
    task: str
    status: str
    at: int


_AT_WORK: Final = {"running", "hidden"}
"""A hidden task is one that the manager does not know for now."""


class Task(NamedTuple):
    """A task of the manager.  ``was_hidden`` stays True."""

    name: str
    sequence: int
    attempt: int
    status: str
    was_hidden: bool = False


class Rest(NamedTuple):
    """Racks that are busy, keys that are barred, and what may still go wrong."""

    busy: tuple[int, ...]
    barred: tuple[tuple[int, int], ...]
    losses: int
    blocks: int
    forgets: int
    refusals: int
    commands: tuple[str, ...]


Tasks = tuple[Task, ...]
Network = tuple[Message, ...]
Hand = tuple[Look, ...] | None
"""What a dispatcher holds; None for one that has not looked."""


class Numbered(Generic[V]):
    """Values by number, in the order in which they were met."""

    def __init__(self) -> None:
        self._numbers: dict[V, int] = {}
        self.values: list[V] = []

    def number(self, value: V) -> int:
        """The number of a value, which is new or was met before."""
        found = self._numbers.get(value)
        if found is None:
            found = self._numbers[value] = len(self.values)
            self.values.append(value)
        return found


class Made(NamedTuple):
    """What a decision comes to: the number of the record after it, its effects, and every law that it breaks.

    ``claimed`` are the targets whose older answers are stale from now on; ``settles`` is True when it says how a task
    ended or whose a task is, so that it must agree with the tasks.
    """

    record: int
    claimed: tuple[int, ...]
    submitted: tuple[tuple[int, int], ...]
    cancelled: tuple[str, ...]
    broken: tuple[str, ...]
    settles: bool


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
        self._limits = replace(LIMITS, claims=c.capacity)
        chosen = rollout(max_concurrent_targets=c.quota, gates=c.gates, phases=EqualPhases(count=c.phases))
        chosen = replace(chosen, auto_advance=c.auto_advance, conflict=CONFLICT)
        made = plan(racks(c.racks), chosen)
        new = new_run(made, command_id=CommandId("model"), actor="ada", now=NOW - 10 * TICK)
        self.start = replace(new_record(new.run, new.targets), wake_at=NOW)
        self._sequence = {target.id: target.sequence for target in new.targets}
        self._targets = [target.id for target in new.targets]
        self.records = Numbered[Small]()
        self.tasks = Numbered[Tasks]()
        self.networks = Numbered[Network]()
        self.hands = Numbered[tuple[Hand, ...]]()
        self.rests = Numbered[Rest]()
        self._shifted: dict[int, int] = {}
        self._made: dict[tuple[int, Hand], Made] = {}
        self._commanded: dict[tuple[int, str, Tasks], Made | None] = {}
        self._looked: dict[tuple[int, int, int], tuple[Hand, int]] = {}
        self._agreed: dict[tuple[int, Hand, int], tuple[str, ...]] = {}
        self._of_tasks: dict[int, tuple[str, ...]] = {}
        self._resting: dict[int, bool] = {}

    @property
    def decisions(self) -> int:
        """How many different decisions were made and judged."""
        return len(self._made) + len(self._commanded)

    def first(self) -> State:
        """The state in which the run was just created."""
        c = self.configuration
        rest = Rest((), (), c.losses, c.busy, c.forgets, c.refusals, c.commands)
        return (
            self.records.number(small_record(self.start)),
            self.tasks.number(()),
            self.networks.number(()),
            self.hands.number((None,) * c.dispatchers),
            self.rests.number(rest),
        )

    def record(self, number: int) -> Record:
        """The record of this number."""
        return record_of(self.records.values[number], self.start)

    # -- what must hold --

    def is_at_rest(self, state: State) -> bool:
        """True when nothing of the run is under way any more, or it is held and says why."""
        found = self._resting.get(state[0])
        if found is None:
            record = self.record(state[0])
            in_flight = any(t.status.holds_slot for t in record.targets.values())
            open_strays = any(stray.is_open for stray in record.strays.values())
            ended = record.run.status.is_terminal and not in_flight and not open_strays
            found = self._resting[state[0]] = ended or record.run.status is RunStatus.PAUSED
        return found

    def broken_by(self, state: State) -> tuple[str, ...]:
        """The laws of the tasks at work that do not hold; those of the record are judged where it is made."""
        found = self._of_tasks.get(state[1])
        if found is None:
            nothing = Transition(before=self.start, after=self.start)
            seen = WithTasks(step=nothing, tasks=self._known(self.tasks.values[state[1]]))
            found = self._of_tasks[state[1]] = tuple(map(str, breaches(TASK_LAWS, seen)))
        return found

    def _known(self, tasks: Tasks) -> tuple[KnownTask, ...]:
        return tuple(
            KnownTask(
                task_id=TaskId(task.name),
                target_id=self._targets[task.sequence],
                attempt=task.attempt,
                status=_status(task),
                forgotten=task.was_hidden,
            )
            for task in tasks
        )

    def _agree(self, number: int, hand: Hand, tasks: int) -> tuple[str, ...]:
        """The laws between a decision and the tasks that do not hold."""
        key = (number, hand, tasks)
        found = self._agreed.get(key)
        if found is None:
            assert hand is not None
            before, seen, decision = self._decided(number, hand)
            step = Transition(before=before, after=evolve(before, decision), state=seen, decision=decision)
            known = self._known(self.tasks.values[tasks])
            found = self._agreed[key] = tuple(map(str, breaches(TASK_LAWS, WithTasks(step=step, tasks=known))))
        return found

    # -- decisions --

    def _decided(self, number: int, hand: tuple[Look, ...]) -> tuple[Record, RunState, Decision]:
        before = self.record(number)
        observations = tuple(map(self._observation, hand))
        seen = window(before, observations=observations, limits=self._limits, now=NOW)
        return before, seen, self._decide(seen)

    def _made_of(self, number: int, hand: tuple[Look, ...]) -> Made:
        made = self._made.get((number, hand))
        if made is None:
            before, seen, decision = self._decided(number, hand)
            made = self._made[number, hand] = self._judged(before, seen, decision)
        return made

    def _judged(self, before: Record, seen: RunState, decision: Decision) -> Made:
        after = evolve(before, decision)
        step = Transition(before=before, after=after, state=seen, decision=decision)
        broken = [str(breach) for breach in (*breaches(TRANSITION_LAWS, step), *breaches(RECORD_LAWS, after))]
        if decision.command is None:
            everything = whole(before, observations=seen.observations, limits=seen.limits, now=seen.now)
            other = self._decide(everything)
            if (other.steps, other.held_back, other.wake_at) != (decision.steps, decision.held_back, decision.wake_at):
                broken.append("window: the whole record decides otherwise")
            kept = decision.observations
            if kept != seen.observations and self._decide(replace(seen, observations=kept)).steps != decision.steps:
                broken.append("journal: the observations that it keeps do not lead there")
        requests = [effect.request for effect in decision.effects if isinstance(effect, SubmitTask)]
        claimed = {self._sequence[c.target_id] for c in decision.changes if isinstance(c, ClaimTarget)}
        return Made(
            record=self.records.number(small_record(after)),
            claimed=tuple(sorted(claimed)),
            submitted=tuple((self._sequence[request.target_id], request.attempt) for request in requests),
            cancelled=tuple(e.ref.task_id for e in decision.effects if isinstance(e, CancelTask)),
            broken=tuple(broken),
            settles=any(isinstance(change, SettleTarget | RecordTask) for change in decision.changes),
        )

    def _observation(self, look: Look) -> Observation:
        target_id, task_id, at = self._targets[look.sequence], TaskId(look.task), instant(look.at)
        # A target that was claimed has fence 1, so an answer to an older claim has a lower one.
        attempt, fence = look.attempt, 0 if look.stale else 1
        match look.kind:
            case "observed":
                status = TaskStatus(look.status)
                return TaskObserved(
                    target_id=target_id, task_id=task_id, status=status, looked_at=at, message=look.status
                )
            case "missing":
                return TaskMissing(target_id=target_id, task_id=task_id, looked_at=at)
            case "accepted":
                return SubmissionAccepted(target_id=target_id, attempt=attempt, fence=fence, task_id=task_id)
            case "conflicted":
                return SubmissionConflicted(target_id=target_id, attempt=attempt, fence=fence, message="it is busy")
            case "refused":
                return SubmissionRefused(target_id=target_id, attempt=attempt, fence=fence, message="never")
            case "unknown":
                return SubmissionUnknown(target_id=target_id, attempt=attempt, fence=fence, message="no answer")
            case _:
                is_barred = look.status == "barred"
                return SubmissionAbsent(
                    target_id=target_id, attempt=attempt, fence=fence, barred=is_barred, looked_at=at
                )

    # -- what can happen --

    def edges(self, state: State) -> Iterator[tuple[str, State, tuple[str, ...]]]:
        """Every step from a state: its name, where it leads, and the laws that it breaks."""
        rest = self.rests.values[state[4]]
        yield from self._dispatchers(state, rest)
        yield from self._under_way(state, rest)
        yield from self._manager(state, rest)
        yield from self._operators(state, rest)
        older = self._older(state)
        if older is not None:
            yield "time passes", older, ()

    def _dispatchers(self, state: State, rest: Rest) -> Iterator[tuple[str, State, tuple[str, ...]]]:
        record, tasks, network, in_hands, _ = state
        hands = self.hands.values[in_hands]
        for index, hand in enumerate(hands):
            if hand is None:
                looks, barred = self._look(record, tasks, state[4])
                after = (record, tasks, network, self.hands.number(_with(hands, index, looks)), barred)
                yield f"{index} looks", self._same(after), ()
                continue
            made = self._made_of(record, hand)
            broken = made.broken
            if made.settles:
                broken = (*broken, *self._agree(record, hand, tasks))
            yield f"{index} decides", self._carried_out(state, hands, index, made), broken
            if rest.losses:
                dead = (
                    record,
                    tasks,
                    network,
                    self.hands.number(_with(hands, index, None)),
                    self._less(rest, "losses"),
                )
                yield f"{index} dies", self._same(dead), ()

    def _carried_out(self, state: State, hands: tuple[Hand, ...], index: int, made: Made) -> State:
        tasks, network = self.tasks.values[state[1]], self.networks.values[state[2]]
        left = _with(hands, index, None)
        if made.claimed:
            network = tuple(m._replace(stale=True) if m.sequence in made.claimed else m for m in network)
            left = tuple(
                None
                if hand is None
                else tuple(k._replace(stale=True) if k.sequence in made.claimed else k for k in hand)
                for hand in left
            )
        if made.submitted:
            requests = (Message("request", sequence, attempt, False, index, 0) for sequence, attempt in made.submitted)
            network = (*network, *requests)
        if made.cancelled:
            tasks = tuple(
                task._replace(status="terminated") if task.name in made.cancelled and _is_seen_at_work(task) else task
                for task in tasks
            )
        return self._same(
            (
                made.record,
                self.tasks.number(tasks),
                self.networks.number(tuple(sorted(network))),
                self.hands.number(left),
                state[4],
            )
        )

    def _look(self, record: int, tasks: int, rest: int) -> tuple[Hand, int]:
        """What a dispatcher finds when it looks: tasks, strays, and keys whose lease is over."""
        key = (record, tasks, rest)
        known = self._looked.get(key)
        if known is None:
            known = self._looked[key] = self._found(self.record(record), self.tasks.values[tasks], rest)
        return known

    def _found(self, record: Record, tasks: Tasks, number: int) -> tuple[Hand, int]:
        found: list[Look] = []
        rest = self.rests.values[number]
        barred = set(rest.barred)
        for target in record.targets.values():
            match target.state:
                case Submitted(task_id=task_id):
                    found.append(_seen(tasks, target.sequence, task_id))
                case Claimed(lease_until=until) if until <= NOW:
                    key = (target.sequence, target.attempt)
                    asks_to_bar = record.run.status.is_terminal
                    task = next((t for t in tasks if (t.sequence, t.attempt) == key), None)
                    if task is not None:
                        found.append(Look("accepted", *key, False, task.name, "", 0))
                        continue
                    # One that cannot bar keeps its deadline: after the lease, nothing of this claim can begin any more.
                    if asks_to_bar and self.configuration.bars:
                        barred.add(key)
                    found.append(Look("absent", *key, False, "", "barred" if asks_to_bar else "", 0))
                case _:
                    pass
        found.extend(
            _seen(tasks, self._sequence[stray.target_id], stray.task_id)
            for stray in record.strays.values()
            if stray.is_open
        )
        return tuple(found), self.rests.number(rest._replace(barred=tuple(sorted(barred))))

    def _under_way(self, state: State, rest: Rest) -> Iterator[tuple[str, State, tuple[str, ...]]]:
        record, tasks, network_number, in_hands, _ = state
        network, hands = self.networks.values[network_number], self.hands.values[in_hands]
        for index, message in enumerate(network):
            if index and network[index - 1] == message:
                continue
            left = (*network[:index], *network[index + 1 :])
            others = self.networks.number(left)
            what = f"{message.kind} of {message.sequence}"
            if message.kind == "request":
                for name, tasks_after, answer, rest_after in self._executed(self.tasks.values[tasks], rest, message):
                    under_way = self.networks.number(tuple(sorted((*left, message._replace(kind=answer)))))
                    yield name, self._same((record, tasks_after, under_way, in_hands, rest_after)), ()
            else:
                name = _name(message.sequence, message.attempt) if message.kind == "accepted" else ""
                look = Look(message.kind, message.sequence, message.attempt, message.stale, name, "", 0)
                told = self.hands.number(_with(hands, message.hand, (*(hands[message.hand] or ()), look)))
                yield f"{what} comes", self._same((record, tasks, others, told, state[4])), ()
            if rest.losses:
                less = self._less(rest, "losses")
                yield f"{what} is lost", self._same((record, tasks, others, in_hands, less)), ()
                look = Look("unknown", message.sequence, message.attempt, message.stale, "", "", 0)
                told = self.hands.number(_with(hands, message.hand, (*(hands[message.hand] or ()), look)))
                # The caller gives up; what it asked for may still begin, and an answer may still come.
                yield f"{what} is given up", self._same((record, tasks, network_number, told, less)), ()

    def _executed(self, tasks: Tasks, rest: Rest, message: Message) -> Iterator[tuple[str, int, str, int]]:
        """A request takes effect within its deadline or never; a key means one task."""
        key = (message.sequence, message.attempt)
        same, number = self.rests.number(rest), self.tasks.number(tasks)
        if any((task.sequence, task.attempt) == key for task in tasks):
            yield f"task of {message.sequence} is known", number, "accepted", same
            return
        if key in rest.barred:
            yield f"key of {message.sequence} is barred", number, "refused", same
            return
        if rest.refusals:
            yield f"{message.sequence} is refused", number, "refused", self._less(rest, "refusals")
        at_work = any(task.sequence == message.sequence and _is_seen_at_work(task) for task in tasks)
        if message.sequence in rest.busy or (self.configuration.guards and at_work):
            yield f"rack {message.sequence} is busy", number, "conflicted", same
            return
        begun = tuple(sorted((*tasks, Task(_name(*key), *key, "running"))))
        yield f"task of {message.sequence} begins", self.tasks.number(begun), "accepted", same

    def _manager(self, state: State, rest: Rest) -> Iterator[tuple[str, State, tuple[str, ...]]]:
        record, number, network, hands, rest_number = state
        tasks = self.tasks.values[number]
        for index, task in enumerate(tasks):
            if _is_seen_at_work(task):
                for status in ("completed", "failed") if self.configuration.failures else ("completed",):
                    ended = self.tasks.number(_with(tasks, index, task._replace(status=status)))
                    yield f"{task.name} is {status}", (record, ended, network, hands, rest_number), ()
            if task.status == "hidden":
                found = self.tasks.number(_with(tasks, index, task._replace(status="running")))
                yield f"{task.name} is found again", (record, found, network, hands, rest_number), ()
            elif rest.forgets:
                hidden = _with(tasks, index, task._replace(status="hidden", was_hidden=True))
                left = self.tasks.number(hidden if _is_seen_at_work(task) else (*tasks[:index], *tasks[index + 1 :]))
                less = self._less(rest, "forgets")
                yield f"{task.name} is forgotten", (record, left, network, hands, less), ()
        for sequence in range(self.configuration.racks):
            if sequence in rest.busy:
                free = self.rests.number(rest._replace(busy=tuple(one for one in rest.busy if one != sequence)))
                yield f"rack {sequence} is free", (record, number, network, hands, free), ()
            elif rest.blocks:
                busy = tuple(sorted((*rest.busy, sequence)))
                taken = self.rests.number(rest._replace(busy=busy, blocks=rest.blocks - 1))
                yield f"rack {sequence} is taken", (record, number, network, hands, taken), ()

    def _operators(self, state: State, rest: Rest) -> Iterator[tuple[str, State, tuple[str, ...]]]:
        tasks = self.tasks.values[state[1]]
        for index, name in enumerate(rest.commands):
            if name in rest.commands[:index]:
                continue
            # Only a settle looks at the tasks.
            key = (state[0], name, tasks if name.startswith("settle") else ())
            if key not in self._commanded:
                self._commanded[key] = self._command(name, self.record(state[0]), tasks)
            made = self._commanded[key]
            if made is not None:
                left = rest._replace(commands=(*rest.commands[:index], *rest.commands[index + 1 :]))
                yield name, (made.record, *state[1:4], self.rests.number(left)), made.broken

    def _command(self, name: str, record: Record, tasks: Tasks) -> Made | None:
        """A command as an operator gives it who sees the run as it is; None where it makes no sense."""
        asked = _asked(name.split()[0], record)
        if asked is None:
            return None
        looks: tuple[Look, ...] = ()
        if isinstance(asked, Settle):
            found, _ = self._found(record, tasks, self.rests.number(Rest((), (), 0, 0, 0, 0, ())))
            looks = tuple(look for look in found or () if self._targets[look.sequence] == asked.target)
        observations = tuple(map(self._observation, looks))
        seen = window(record, observations=observations, limits=self._limits, now=NOW, named=named_targets(asked))
        return self._judged(record, seen, self._control(seen, asked))

    def _older(self, state: State) -> State | None:
        """The state a tick later; None while a dispatcher holds what may become no older."""
        record, tasks, network, in_hands, rest = state
        hands = self.hands.values[in_hands]
        if any(look.at <= OLDEST_LOOK for hand in hands if hand for look in hand):
            return None
        shifted = self._shifted.get(record)
        if shifted is None:
            shifted = self._shifted[record] = self.records.number(small_record(self.record(record), 1))
        aged = [
            message._replace(age=message.age + 1 if message.kind == "request" else 0)
            for message in self.networks.values[network]
            # What comes too late has no effect.
            if message.kind != "request" or message.age < _DEADLINE
        ]
        older = tuple(None if hand is None else tuple(k._replace(at=k.at - 1) for k in hand) for hand in hands)
        return self._same((shifted, tasks, self.networks.number(tuple(sorted(aged))), self.hands.number(older), rest))

    def _less(self, rest: Rest, name: str) -> int:
        return self.rests.number(rest._replace(**{name: getattr(rest, name) - 1}))

    def _same(self, state: State) -> State:
        """The one of the states that differ only in which dispatcher is which."""
        if self.configuration.dispatchers != 2:
            return state
        record, tasks, network, hands, rest = state
        swapped = tuple(sorted(m._replace(hand=1 - m.hand) for m in self.networks.values[network]))
        other = (
            record,
            tasks,
            self.networks.number(swapped),
            self.hands.number(self.hands.values[hands][::-1]),
            rest,
        )
        return min(state, other)


def _asked(verb: str, record: Record) -> Command | None:
    run = record.run
    command_id, actor = CommandId(verb), "ada"
    tallies = tallies_at(record.phases, run.phase, run.opened)
    targets = record.targets.values()
    match verb:
        case "pause":
            return Pause(command_id=command_id, actor=actor)
        case "resume":
            accepted = failed_attempts(tallies) if tripped_gates(run, tallies) else None
            return Resume(command_id=command_id, actor=actor, accept_failures=accepted)
        case "advance":
            following = next_phase(run, tallies)
            if following is None:
                return None
            return Advance(command_id=command_id, actor=actor, expected_phase=following)
        case "cancel":
            return Cancel(command_id=command_id, actor=actor)
        case "settle":
            hanging = [target.id for target in targets if target.status.holds_slot]
            if not hanging:
                return None
            return Settle(
                command_id=command_id, actor=actor, target=hanging[0], status=TargetStatus.FAILED, why="hangs"
            )
        case "retry":
            settled = [target.id for target in targets if target.status.is_settled]
            return Retry(command_id=command_id, actor=actor, targets=tuple(settled[:1])) if settled else None
        case _:
            raise ValueError(f"no such command: {verb!r}")


def _seen(tasks: Tasks, sequence: int, task_id: TaskId) -> Look:
    task = next((t for t in tasks if t.name == task_id), None)
    if task is None or task.status == "hidden":
        return Look("missing", sequence, 0, False, task_id, "", 0)
    return Look("observed", sequence, 0, False, task_id, _status(task).value, 0)


def _status(task: Task) -> TaskStatus:
    return TaskStatus.RUNNING if task.status in _AT_WORK else TaskStatus(task.status)


def _is_seen_at_work(task: Task) -> bool:
    return task.status == "running"


def _name(sequence: int, attempt: int) -> str:
    return f"t{sequence}.{attempt}"


def _with(some: Sequence[object], index: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (*some[:index], value, *some[index + 1 :])
