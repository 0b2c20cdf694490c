"""The operators of a simulated world: any command at any time, some of them twice."""

from __future__ import annotations

from opdispatch.command import Advance, Cancel, Command, Pause, Reply, Resume, Retry, Settle
from opdispatch.holds import failed_attempts
from opdispatch.identity import CommandId, TargetId
from opdispatch.run import RunStatus, StatusReason
from opdispatch.tally import tallies_at
from opdispatch.target import TargetStatus

from .setup import Choose
from .world import World


class Operators:
    """Who commands a world, and remembers what was asked and answered."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.given: list[tuple[Command, Reply]] = []
        self._commands = 0

    def _target(self, choose: Choose) -> TargetId:
        targets = list(self._world.record.targets)
        return targets[choose(len(targets))]

    def operate(self, choose: Choose) -> None:
        """Any command at any time; now and then the one that makes sense."""
        run, attempts = self._world.record.run, self._attempts()
        revision = run.revision if choose(4) == 1 else None
        kind = choose(20)
        asked: Command
        self._commands += 1
        ident = CommandId(f"c{self._commands}")
        if kind > 15:
            self.do_as_the_hold_asks(ident)
            return
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

    def _attempts(self) -> int:
        record = self._world.record
        return failed_attempts(tallies_at(record.phases, record.run.phase, record.run.opened))

    def do_as_the_hold_asks(self, ident: CommandId) -> None:
        """Advance a run that waits for that, and resume any other that is paused, accepting what has failed."""
        run = self._world.record.run
        if run.status is not RunStatus.PAUSED:
            return
        if run.status_reason is StatusReason.PHASE_GATE:
            self.give(Advance(command_id=ident, actor="op", expected_phase=run.phase + 1))
            return
        self.give(Resume(command_id=ident, actor="op", accept_failures=self._attempts()))

    def repeat(self, choose: Choose) -> None:
        """A command arrives a second time: one effect, the same reply."""
        if not self.given:
            return
        asked, reply = self.given[choose(len(self.given))]
        before = self._world.record
        again = self._world.carry_out(asked)
        self._world.events["command repeated"] += 1
        if again != reply or self._world.record != before:
            self._world.ledger.violated("repeated", "a repeated command has a second effect or another reply")

    def give(self, asked: Command) -> Reply:
        """One command, and its reply."""
        reply = self._world.carry_out(asked)
        self.given.append((asked, reply))
        name = type(asked).__name__.lower()
        self._world.events[f"{name} {'accepted' if reply.refusal is None else f'refused: {reply.refusal}'}"] += 1
        self._world.ledger.check()
        return reply
