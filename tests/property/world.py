"""A simulated world: dispatchers, operators, a network and a task manager, on one clock that only the world moves.

The dispatchers are the real tick, driven step by step; between any two steps another may run, time may pass, and any
of them may crash or stall.  After every step the laws of ``laws.py`` are checked.  Where a choice is made, ``choose``
makes it: Hypothesis, or a seeded generator.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from opdispatch.action import CancelTask, Decision, Effect
from opdispatch.candidate import Candidate
from opdispatch.command import Advance, Cancel, Command, Pause, Reply, Resume, Retry, Settle
from opdispatch.control import control
from opdispatch.decide import decide
from opdispatch.evolve import Record
from opdispatch.holds import failed_attempts
from opdispatch.identity import CommandId, ComponentId, RackId, RunId, TargetId
from opdispatch.observation import Observation, SubmissionAccepted, SubmissionUnknown
from opdispatch.plan import new_run, plan
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.policy.gates import FailureCountGate, FailureRateGate, Gate, GateScope
from opdispatch.policy.ordering import RandomOrdering
from opdispatch.policy.phases import EqualPhases
from opdispatch.policy.selection import PercentageSelector
from opdispatch.rollout import Rollout
from opdispatch.run import RunStatus, StatusReason
from opdispatch.state import RunState
from opdispatch.tally import tallies_at
from opdispatch.target import TargetStatus
from opdispatch.task import Operation, SubmissionRequest, TaskStatus
from opdispatch_adapters.dispatcher.settings import Settings
from opdispatch_adapters.dispatcher.tick import Call, CarryOut, Idle, Observations, Observe, Served, command, serve
from opdispatch_adapters.memory import MemoryStore

from .laws import Laws
from .manager import SimManager

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS: Final = Settings(
    poll=timedelta(seconds=10),
    missing_grace=timedelta(seconds=60),
    cancel_max_delay=timedelta(seconds=80),
    max_rounds=3,
)
POLICY: Final = ConflictRetry(
    window=timedelta(seconds=200), initial_delay=timedelta(seconds=15), max_delay=timedelta(seconds=60)
)
Choose = Callable[[int], int]
"""A choice among 0 .. n-1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a world is made of."""

    dispatchers: int = 2
    racks: int = 6
    phases: int = 2
    quota: int = 2
    gates: tuple[Gate, ...] = (FailureCountGate(threshold_count=2, scope=GateScope.CUMULATIVE_RUN),)
    auto_advance: bool = False
    capacity: int | None = None


def a_setup(choose: Choose) -> Setup:
    """A chosen setup, small enough that everything meets everything."""
    gates: tuple[tuple[Gate, ...], ...] = (
        (FailureCountGate(threshold_count=2, scope=GateScope.CUMULATIVE_RUN),),
        (FailureRateGate(threshold_percent=50),),
        (
            FailureCountGate(threshold_count=1, outcomes=frozenset({TargetStatus.FAILED})),
            FailureRateGate(threshold_percent=40, scope=GateScope.CUMULATIVE_RUN),
        ),
    )
    return Setup(
        dispatchers=2 + choose(2),
        racks=3 + choose(5),
        phases=1 + choose(3),
        quota=1 + choose(3),
        gates=gates[choose(len(gates))],
        auto_advance=choose(2) == 0,
        capacity=(None, 1, 2)[choose(3)],
    )


@dataclass(slots=True)
class InNetwork:
    """A request on its way; after ``expires`` it takes effect no more."""

    request: SubmissionRequest
    expires: datetime


@dataclass(slots=True)
class Hand:
    """One dispatcher: the tick that it is in, and how far its present call has come."""

    tick: Generator[Call, Observations, Served | Idle] | None = None
    call: Call | None = None
    effects: list[Effect] = field(default_factory=list)
    collected: list[Observation] = field(default_factory=list)
    looked: bool = False
    waiting_for: InNetwork | None = None


class World:
    """Everything, at one instant."""

    def __init__(
        self,
        setup: Setup,
        *,
        decider: Callable[[RunState], Decision] = decide,
        controller: Callable[[RunState, Command], Decision] = control,
    ) -> None:
        self.setup = setup
        self.now = EPOCH
        self.store = MemoryStore(clock=lambda: self.now)
        self.manager = SimManager()
        self.hands = [Hand() for _ in range(setup.dispatchers)]
        self.network: list[InNetwork] = []
        self.echoes: list[Observation] = []
        self.given: list[tuple[Command, Reply]] = []
        self._commands = 0
        self._decider = decider
        self._controller = controller
        self.run_id = self._create()
        self.laws = Laws(self)

    def _create(self) -> RunId:
        racks = [
            Candidate(
                id=RackId(UUID(int=index + 1)),
                name=f"r{index + 1}",
                components={"compute": (ComponentId(UUID(int=1000 + index)),)},
            )
            for index in range(self.setup.racks)
        ]
        rollout = Rollout(
            name="simulated",
            operation=Operation(type="firmware_control", code="upgrade"),
            selector=PercentageSelector(percentage=100, seed="s"),
            ordering=RandomOrdering(seed="o"),
            max_concurrent_targets=self.setup.quota,
            gates=self.setup.gates,
            phases=EqualPhases(count=min(self.setup.phases, self.setup.racks)),
            auto_advance=self.setup.auto_advance,
            conflict=POLICY,
        )
        made = plan(racks, rollout)
        new = new_run(made, command_id=CommandId("create"), actor="operator", now=self.now)
        return self.store.create(new).id

    @property
    def record(self) -> Record:
        return self.store.record(self.run_id)

    def _monotonic(self) -> float:
        return (self.now - EPOCH).total_seconds()

    def _decide(self, state: RunState) -> Decision:
        decision = self._decider(state)
        self.laws.on_decision(state, decision)
        return decision

    # -- the dispatchers --

    def step(self, index: int, choose: Choose) -> None:
        """Let one dispatcher take its next step."""
        hand = self.hands[index]
        if hand.tick is None:
            for run_id in self.store.due(1, SETTINGS.service_lease):
                hand.tick = serve(
                    self.store,
                    run_id,
                    SETTINGS,
                    capacity=self.setup.capacity,
                    monotonic=self._monotonic,
                    actor=f"dispatcher-{index}",
                    peeks=choose(2) == 1,
                    decider=self._decide,
                )
                self._resume(hand, None)
        elif isinstance(hand.call, Observe):
            self._observe(hand, hand.call, choose)
        elif hand.waiting_for is not None:
            self._receive(hand, hand.waiting_for, choose)
        elif hand.effects:
            self._send(hand, hand.effects.pop(choose(len(hand.effects))), choose)
        else:
            self._resume(hand, tuple(hand.collected))
        self.laws.check()

    def _resume(self, hand: Hand, answer: Observations | None) -> None:
        if hand.tick is None:
            raise AssertionError("nothing to resume")
        hand.collected, hand.looked, hand.waiting_for = [], False, None
        try:
            hand.call = next(hand.tick) if answer is None else hand.tick.send(answer)
            hand.effects = list(hand.call.effects) if isinstance(hand.call, CarryOut) else []
        except StopIteration:
            hand.tick, hand.call, hand.effects = None, None, []

    def _observe(self, hand: Hand, call: Observe, choose: Choose) -> None:
        """First the look, then, a step later, what it brought: it may be old by then."""
        if not hand.looked:
            answers = self.manager.look(call.looks.refs, call.looks.looked_at)
            fault = choose(8)
            if fault == 1:
                answers = answers[: choose(len(answers) + 1)]
            elif fault == 2:
                answers.reverse()
            elif fault == 3:
                self.echoes.extend(answers)
            hand.collected, hand.looked = answers, True
            return
        self._resume(hand, tuple(hand.collected))

    def _send(self, hand: Hand, effect: Effect, choose: Choose) -> None:
        if isinstance(effect, CancelTask):
            if choose(6) != 1:
                hand.collected.extend(self.manager.cancel(effect.ref))
            return
        call = hand.call
        if not isinstance(call, CarryOut):
            raise AssertionError("only a call can be carried out")
        if self._monotonic() > call.not_after:
            return
        self.laws.on_call(effect.request)
        sent = InNetwork(request=effect.request, expires=self.now + SETTINGS.call_deadline)
        self.network.append(sent)
        hand.waiting_for = sent

    def _receive(self, hand: Hand, sent: InNetwork, choose: Choose) -> None:
        """The answer, or none: the caller gives up at the deadline, whatever becomes of the request."""
        hand.waiting_for = None
        fault = choose(10)
        if fault in (1, 2) or self.now >= sent.expires:
            # Lost on the way there (1), or still on its way when the caller gives up (2).
            if fault == 1 and sent in self.network:
                self.network.remove(sent)
            hand.collected.append(self._unknown(sent.request))
            return
        answer = self.deliver(sent, refuse=fault == 3)
        if answer is None:
            hand.collected.append(self._unknown(sent.request))
            return
        if fault == 4:
            # The reply is lost, and turns up later somewhere else.
            self.echoes.append(answer)
            hand.collected.append(self._unknown(sent.request))
            return
        if fault == 5:
            self.echoes.append(answer)
        hand.collected.append(answer)

    @staticmethod
    def _unknown(request: SubmissionRequest) -> Observation:
        return SubmissionUnknown(
            target_id=request.target_id, attempt=request.attempt, fence=request.fence, message="no answer"
        )

    def deliver(self, sent: InNetwork, *, refuse: bool = False) -> Observation | None:
        """The request reaches the manager, if it still can."""
        if sent not in self.network:
            return None
        self.network.remove(sent)
        if self.now >= sent.expires:
            return None
        return self.manager.begin(sent.request, refuse=refuse)

    def crash(self, index: int) -> None:
        """kill -9 of one dispatcher: what it knew is gone, what it sent is not."""
        tick = self.hands[index].tick
        if tick is not None:
            tick.close()
        self.hands[index] = Hand()
        self.laws.check()

    # -- what happens by itself --

    def pass_time(self, choose: Choose) -> None:
        seconds = (1, 3, 9, 10, 16, 31, 61, 120)[choose(8)]
        self.now += timedelta(seconds=seconds)
        self.laws.check()

    def late_delivery(self, choose: Choose) -> None:
        if self.network:
            answer = self.deliver(self.network[choose(len(self.network))])
            if answer is not None:
                self.echoes.append(answer)
        self.laws.check()

    def echo(self, choose: Choose) -> None:
        """A late or doubled observation reaches some dispatcher that is about to decide."""
        open_hands = [hand for hand in self.hands if hand.call is not None and (hand.looked or hand.collected)]
        if self.echoes and open_hands:
            observation = self.echoes[choose(len(self.echoes))]
            if choose(2):
                self.echoes.remove(observation)
            open_hands[choose(len(open_hands))].collected.append(observation)

    def task_ends(self, choose: Choose) -> None:
        live = [task for task in self.manager.tasks.values() if task.live]
        if live:
            task = live[choose(len(live))]
            outcomes = (TaskStatus.COMPLETED, TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.TERMINATED)
            task.status = outcomes[choose(4)]
        self.laws.check()

    def manager_acts_up(self, choose: Choose) -> None:
        """Forget or remember a task, turn stubborn, or invent a second task for an attempt."""
        tasks = list(self.manager.tasks.values())
        if not tasks:
            return
        task = tasks[choose(len(tasks))]
        match choose(4):
            case 0:
                task.forgotten = task.ever_forgotten = True
            case 1:
                task.forgotten = False
            case 2:
                task.stubborn = True
            case _:
                # Told only once the real task is on record: two tasks that answer to one key while nobody knows
                # either cannot be told apart, and no dispatcher could.
                known = self.record.targets[task.target_id].task_id == task.id
                if known and sum(t.ghost for t in tasks) < 2:
                    ghost = self.manager.invent(task)
                    self.echoes.append(
                        SubmissionAccepted(target_id=ghost.target_id, attempt=ghost.attempt, fence=1, task_id=ghost.id)
                    )
        self.laws.check()

    def foreign_work(self, choose: Choose) -> None:
        rack = RackId(UUID(int=choose(self.setup.racks) + 1))
        self.manager.foreign ^= {rack}

    # -- the operators --

    def _target(self, choose: Choose) -> TargetId:
        targets = list(self.record.targets)
        return targets[choose(len(targets))]

    def operate(self, choose: Choose) -> None:
        """Any command at any time."""
        run, record = self.record.run, self.record
        attempts = failed_attempts(tallies_at(record.phases, run.phase, run.opened))
        revision = run.revision if choose(4) == 1 else None
        kind = choose(16)
        asked: Command
        self._commands += 1
        ident = CommandId(f"c{self._commands}")
        if kind < 2:
            asked = Pause(command_id=ident, actor="op", expected_revision=revision)
        elif kind < 7:
            accept = (None, attempts, attempts, attempts + 1, 0)[choose(5)]
            asked = Resume(command_id=ident, actor="op", expected_revision=revision, accept_failures=accept)
        elif kind < 10:
            asked = Advance(command_id=ident, actor="op", expected_phase=run.phase + choose(3))
        elif kind == 10:
            if choose(4):
                return
            asked = Cancel(command_id=ident, actor="op", why="enough")
        elif kind < 14:
            chosen = tuple({self._target(choose): None for _ in range(1 + choose(2))})
            asked = Retry(command_id=ident, actor="op", targets=chosen)
        else:
            outcome = list(TargetStatus)[4 + choose(4)]
            asked = Settle(command_id=ident, actor="op", target=self._target(choose), status=outcome, why="stuck")
        self.give(asked)

    def repeat(self, choose: Choose) -> None:
        """A command arrives a second time: one effect, the same reply."""
        if self.given:
            asked, reply = self.given[choose(len(self.given))]
            before = self.record
            again = self._carry_out(asked)
            if again != reply or self.record != before:
                self.laws.violated("a repeated command must have no second effect and the same reply")

    def give(self, asked: Command) -> Reply:
        reply = self._carry_out(asked)
        self.given.append((asked, reply))
        self.laws.on_reply(asked, reply)
        self.laws.check()
        return reply

    def _carry_out(self, asked: Command) -> Reply:
        steps = command(self.store, self.run_id, asked, SETTINGS, controller=self._control)
        try:
            call = next(steps)
            if not isinstance(call, Observe):
                raise AssertionError("a command only looks")
            answers = self.manager.look(call.looks.refs, call.looks.looked_at)
            steps.send(tuple(answers))
        except StopIteration as stop:
            reply: Reply = stop.value
            return reply
        raise AssertionError("a command looks once")

    def _control(self, state: RunState, asked: Command) -> Decision:
        decision = self._controller(state, asked)
        self.laws.on_decision(state, decision)
        return decision

    # -- healing --

    def heal(self) -> None:
        """No more faults: everything must come to an end, by itself or after the command that a hold asks for."""

        def calm(_: int) -> int:
            return 0

        self.network.clear()
        self.manager.foreign.clear()
        for index in range(len(self.hands)):
            self.crash(index)
        for task in self.manager.tasks.values():
            task.forgotten, task.stubborn = False, False
        for turn in range(400):
            for hand_index in range(len(self.hands)):
                for _ in range(60):
                    self.step(hand_index, calm)
                    if self.hands[hand_index].tick is None:
                        break
            for task in self.manager.tasks.values():
                # Every task ends by itself sooner or later, but one that is known as an open stray must be cancelled.
                stray = self.record.strays.get(task.id)
                if task.live and (stray is None or not stray.is_open):
                    task.status = TaskStatus.COMPLETED
            if self._is_at_rest():
                self.laws.at_rest()
                return
            self._act_as_the_hold_asks(turn)
            self.now += timedelta(seconds=7)
        run = self.record.run
        self.laws.violated(f"no progress after healing: {run.status}/{run.status_reason}: {run.status_message}")

    def _is_at_rest(self) -> bool:
        record = self.record
        return (
            record.run.status.is_terminal
            and all(target.status.is_settled for target in record.targets.values())
            and not any(stray.is_open for stray in record.strays.values())
        )

    def _act_as_the_hold_asks(self, turn: int) -> None:
        record = self.record
        run = record.run
        if run.status is not RunStatus.PAUSED:
            return
        ident = CommandId(f"heal{turn}")
        if run.status_reason is StatusReason.PHASE_GATE:
            self.give(Advance(command_id=ident, actor="op", expected_phase=run.phase + 1))
            return
        attempts = failed_attempts(tallies_at(record.phases, run.phase, run.opened))
        self.give(Resume(command_id=ident, actor="op", accept_failures=attempts))
