"""A simulated world: dispatchers, operators, a network and a task manager, on one clock that only the world moves.

The dispatchers are the real tick, driven step by step; between any two steps another may run, time may pass, and any
of them may crash or stall.  After every step the laws are checked.  Where a choice is made, ``choose`` makes it:
Hypothesis, or a seeded generator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from opdispatch.action import CancelTask, Decision, Effect
from opdispatch.command import Command, Reply
from opdispatch.control import control
from opdispatch.decide import decide
from opdispatch.evolve import Record
from opdispatch.identity import RackId
from opdispatch.observation import Observation, SubmissionAccepted, SubmissionUnknown
from opdispatch.ports import Store
from opdispatch.state import RunState
from opdispatch.task import SubmissionRequest, TaskStatus
from opdispatch.testing.manager import SimulatedTasks

from ...dispatcher.tick import Call, CarryOut, Idle, Observations, Observe, Served, command, serve
from ...memory import MemoryStore
from .ledger import Ledger
from .setup import EPOCH, SETTINGS, Choose, Setup


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
    """Everything, at one instant.  ``events`` counts what happened, by name."""

    def __init__(
        self,
        setup: Setup,
        *,
        decider: Callable[[RunState], Decision] = decide,
        controller: Callable[[RunState, Command], Decision] = control,
    ) -> None:
        self.setup = setup
        self.now = EPOCH
        self.events = Counter[str]()
        self.memory = MemoryStore(clock=lambda: self.now)
        self.store: Store = self.memory
        self.manager = SimulatedTasks(guards=setup.guards)
        self.hands = [Hand() for _ in range(setup.dispatchers)]
        self.network: list[InNetwork] = []
        self.echoes: list[Observation] = []
        self.decider = decider
        self.controller = controller
        self.run_id = self.store.create(setup.new_run()).id
        self.ledger = Ledger(self)

    @property
    def record(self) -> Record:
        """The run, as it is stored."""
        return self.memory.record(self.run_id)

    def monotonic(self) -> float:
        """Seconds since the beginning."""
        return (self.now - EPOCH).total_seconds()

    def _decide(self, state: RunState) -> Decision:
        decision = self.decider(state)
        self.ledger.on_decision(state, decision)
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
                    monotonic=self.monotonic,
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
        self.ledger.check()

    def _resume(self, hand: Hand, answer: Observations | None) -> None:
        if hand.tick is None:
            raise AssertionError("nothing to resume")
        hand.collected, hand.looked, hand.waiting_for = [], False, None
        try:
            hand.call = next(hand.tick) if answer is None else hand.tick.send(answer)
            hand.effects = list(hand.call.effects) if isinstance(hand.call, CarryOut) else []
        except StopIteration as stop:
            self.events[f"tick ended {stop.value.name.lower() if isinstance(stop.value, Served) else 'idle'}"] += 1
            hand.tick, hand.call, hand.effects = None, None, []

    def _observe(self, hand: Hand, call: Observe, choose: Choose) -> None:
        """First the look, then, a step later, what it brought: it may be old by then."""
        if not hand.looked:
            answers = self.look(call)
            fault = choose(8)
            if fault == 1:
                answers = answers[: choose(len(answers) + 1)]
                self.events["look cut short"] += 1
            elif fault == 2:
                answers.reverse()
            elif fault == 3:
                self.echoes.extend(answers)
            hand.collected, hand.looked = answers, True
            return
        self._resume(hand, tuple(hand.collected))

    def look(self, call: Observe) -> list[Observation]:
        """What the task manager answers to a look."""
        return self.manager.look(call.looks.refs, call.looks.looked_at)

    def may_begin(self, call: CarryOut) -> bool:
        """True while a submission of this call may still be made."""
        return self.monotonic() <= call.not_after

    def _send(self, hand: Hand, effect: Effect, choose: Choose) -> None:
        if isinstance(effect, CancelTask):
            if choose(6) != 1:
                hand.collected.extend(self.manager.cancel(effect.ref))
            else:
                self.events["cancellation lost"] += 1
            return
        call = hand.call
        if not isinstance(call, CarryOut):
            raise AssertionError("only a call can be carried out")
        if not self.may_begin(call):
            self.events["permit over, not called"] += 1
            return
        self.ledger.on_call(effect.request)
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
                self.events["request lost"] += 1
            hand.collected.append(self._unknown(sent.request))
            return
        answer = self.deliver(sent, refuse=fault == 3)
        if answer is None:
            hand.collected.append(self._unknown(sent.request))
            return
        if fault == 4:
            # The reply is lost, and turns up later somewhere else.
            self.events["reply lost"] += 1
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
            self.events["request came too late"] += 1
            return None
        return self.manager.begin(sent.request, refuse=refuse)

    def crash(self, index: int) -> None:
        """kill -9 of one dispatcher: what it knew is gone, what it sent is not."""
        hand = self.hands[index]
        if hand.tick is not None:
            hand.tick.close()
            self.events["crash in a call" if hand.waiting_for is not None else "crash in a tick"] += 1
        self.hands[index] = Hand()
        self.ledger.check()

    # -- what happens by itself --

    def pass_time(self, choose: Choose) -> None:
        """Between a second and two minutes."""
        seconds = (1, 3, 9, 10, 16, 31, 61, 120)[choose(8)]
        self.now += timedelta(seconds=seconds)
        self.ledger.check()

    def late_delivery(self, choose: Choose) -> None:
        """A request arrives whose caller may have given up."""
        if self.network:
            answer = self.deliver(self.network[choose(len(self.network))])
            if answer is not None:
                self.events["request arrived late"] += 1
                self.echoes.append(answer)
        self.ledger.check()

    def echo(self, choose: Choose) -> None:
        """A late or doubled observation reaches some dispatcher that is about to decide."""
        open_hands = [hand for hand in self.hands if hand.call is not None and (hand.looked or hand.collected)]
        if self.echoes and open_hands:
            observation = self.echoes[choose(len(self.echoes))]
            if choose(2):
                self.echoes.remove(observation)
            open_hands[choose(len(open_hands))].collected.append(observation)
            self.events["answer came late or twice"] += 1

    def task_ends(self, choose: Choose) -> None:
        """Some task is over."""
        live = [task for task in self.manager.tasks.values() if task.live]
        if live:
            task = live[choose(len(live))]
            outcomes = (TaskStatus.COMPLETED, TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.TERMINATED)
            task.status = outcomes[choose(4)]
        self.ledger.check()

    def manager_acts_up(self, choose: Choose) -> None:
        """Forget or remember a task, turn stubborn, or invent a second task for an attempt."""
        tasks = list(self.manager.tasks.values())
        if not tasks:
            return
        task = tasks[choose(len(tasks))]
        match choose(4):
            case 0:
                task.forgotten = task.ever_forgotten = True
                self.events["task forgotten"] += 1
            case 1:
                self.events["task remembered"] += task.forgotten
                task.forgotten = False
            case 2:
                task.stubborn = True
            case _:
                # Told only once the real task is on record: two tasks that answer to one key while nobody knows
                # either cannot be told apart, and no dispatcher could.
                known = self.record.targets[task.target_id].task_id == task.id
                if known and sum(t.ghost for t in tasks) < 2:
                    ghost = self.manager.invent(task)
                    self.events["task invented"] += 1
                    self.echoes.append(
                        SubmissionAccepted(target_id=ghost.target_id, attempt=ghost.attempt, fence=1, task_id=ghost.id)
                    )
        self.ledger.check()

    def foreign_work(self, choose: Choose) -> None:
        """Other work takes or leaves a rack."""
        racks = sorted({target.rack_id for target in self.record.targets.values()})
        rack: RackId = racks[choose(len(racks))]
        self.manager.foreign ^= {rack}

    # -- the operators --

    def carry_out(self, asked: Command) -> Reply:
        """What a command gets for an answer, from the store or from the core."""
        steps = command(self.store, self.run_id, asked, SETTINGS, controller=self._control)
        try:
            call = next(steps)
            if not isinstance(call, Observe):
                raise AssertionError("a command only looks")
            steps.send(tuple(self.look(call)))
        except StopIteration as stop:
            reply: Reply = stop.value
            return reply
        raise AssertionError("a command looks once")

    def _control(self, state: RunState, asked: Command) -> Decision:
        decision = self.controller(state, asked)
        self.ledger.on_decision(state, decision)
        return decision
