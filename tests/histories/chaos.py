"""One history: dispatchers, a server and operators on one store, faults at seeded moments, and a judge behind them.

Runs are created as they are needed; one that is over is judged and then pruned, so any number of kills takes as much
memory and disk as a few.  In the end the faults cease, and every run must end.
"""

from __future__ import annotations

import heapq
import random
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from opdispatch.candidate import Candidate
from opdispatch.errors import NotFound, Unavailable
from opdispatch.identity import CommandId, ComponentId, RackId, RunId
from opdispatch.plan import NewRun, new_run, plan
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.policy.gates import FailureCountGate
from opdispatch.policy.ordering import RandomOrdering
from opdispatch.policy.phases import EqualPhases
from opdispatch.policy.selection import PercentageSelector
from opdispatch.ports import Overview
from opdispatch.rollout import Rollout
from opdispatch.run import RunStatus, StatusReason
from opdispatch.task import Operation
from opdispatch_adapters.sql.retention import prune
from tests.racks import component, rack_id

from .checkers import CHECKERS, Finding
from .history import Merged, Outcome, RunHistory
from .judging import Clocks, Judged, judge
from .lines import Lines, read_lines
from .processes import SHORT, Child, Point, Processes, processes, tasks_on
from .worlds import World, world

T = TypeVar("T")

DISPATCHERS: Final = 6
AT_ONCE: Final = 16
"""How many runs are under way while somebody is killed."""
RACKS: Final = 150
"""The racks of the site; runs share them."""
SIZES: Final = (6, 14)
ASLEEP_SECONDS: Final = SHORT.claim_lease.total_seconds() + 0.7
"""How long a process is stopped: until whatever it had claimed is another's."""
KILL_SECONDS: Final = (0.04, 0.24)
COMMAND_SECONDS: Final = (0.1, 0.6)
LOOK_SECONDS: Final = (0.03, 0.05)
WORLD_SECONDS: Final = (0.3, 1.5)
KILLS_PER_CRASH: Final = 60
HEALING_SECONDS: Final = 180.0
TERMINATION_SECONDS: Final = 60.0
PRUNED_AT_ONCE: Final = 20
SPARED: Final = timedelta(seconds=10)
"""Runs that ended so lately are not pruned yet: whether they were judged is not looked at by who prunes."""
OTHER_CHECKERS: Final = ("unreplayed", "altered_accepted", "counters", "unexpected")
"""What is found elsewhere than by the checkers of a run's history."""
SIGNALS: Final = {signal.SIGKILL: "sigkill", signal.SIGSTOP: "sigstop", signal.SIGTERM: "sigterm"}
"""How the count of each signal is called."""
ALWAYS: Final = (
    *SIGNALS.values(),
    *("server_crashes", "cut_connections", "lost_answers", "delays", "silences"),
    *("runs", "judged_runs", "targets", "tasks", "requests", "journal_entries"),
    *("commands", "commands_ok", "commands_fail", "commands_unknown", "commands_repeated"),
    *("commands_by_cli", "commands_by_grpc", "reads"),
    *("replayed_runs", "decisions_replayed", "altered_journals", "altered_journals_refused", "recounts"),
)
"""The counts that are always told."""
TROUBLE_SECONDS: Final = 30.0
"""So long a run that is over may show a trouble; far longer than until somebody looks again."""
_TOLD_LINES: Final = 40
_UNEXPECTED: Final = ("ERROR ", "CRITICAL ", "Traceback (most recent call last)", "internal error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a history is to be.

    With ``broken`` the dispatchers break the rule of this name, of
    ``tests.mutants``: something must be found.
    """

    store: str
    kills: int
    runs: int
    seed: int
    broken: str = ""


@dataclass(slots=True)
class Told:
    """What came of it: counts by name, what was found, and the histories of the first runs in which it was."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    broken: list[RunHistory] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(slots=True)
class _Dispatcher:
    child: Child
    born: float
    strikes: signal.Signals | None


@dataclass(slots=True)
class _Run:
    run_id: RunId
    attended: float = 0.0
    operators: int = 0
    """How many are at it, or will be."""
    targets: tuple[str, ...] = ()
    over_since: float = 0.0
    """When it was first seen to be over."""


@dataclass(slots=True)
class _Operator:
    child: Child
    run: _Run
    born: float


def history(wanted: Wanted, *, say: Callable[[str], None] = lambda _: None) -> Told:
    """Make one history, and judge it."""
    began, told, chance = time.monotonic(), Told(), random.Random(wanted.seed)
    directory = Path(tempfile.mkdtemp(prefix="opdispatch-history-"))
    try:
        (directory / "lines").mkdir()
        with (
            world(wanted.store, directory, chance, told.counts) as made,
            processes(directory / "record", directory / "lines", directory / "errors") as forked,
        ):
            chaos = Chaos(made, forked, directory, wanted, told, say)
            try:
                chaos.rage()
                made.heal()
                chaos.heal()
            finally:
                chaos.close()
    finally:
        shutil.rmtree(directory)
    told.seconds = time.monotonic() - began
    return told


class Chaos:
    """The one that starts, strikes and judges."""

    def __init__(
        self,
        made: World,
        forked: Processes,
        directory: Path,
        wanted: Wanted,
        told: Told,
        say: Callable[[str], None],
    ) -> None:
        self._world = made
        self._store = made.store
        self._processes = forked
        self._directory = directory / "lines"
        self._errors = directory / "errors"
        self._errors_read = 0
        self._wanted = wanted
        self._told = told
        self._say = say
        self._count = told.counts
        self._chance = made.chance
        self._tasks = tasks_on(directory / "record")
        # While somebody has it open, nobody else tidies it up at each close.
        self._record = sqlite3.connect(self._tasks.record)
        self._record.execute("SELECT count(*) FROM task").fetchone()
        self._clocks = Clocks()
        self._merged = Merged()
        self._lines = Lines(self._directory / "observer.lines", "observer")
        self._read_up_to = 0
        self._number = 0
        self._dispatchers: list[_Dispatcher] = []
        self._server: Child | None = None
        self._operators: list[_Operator] = []
        self._asleep: list[tuple[threading.Timer, _Dispatcher]] = []
        self._leaving: list[tuple[float, Child]] = []
        self._queued: list[tuple[float, int, _Run, dict[str, Any]]] = []
        self._new: NewRun | None = None
        self._runs: deque[_Run] = deque()
        self._moment = threading.Event()
        self._raging = True
        self._due: dict[str, float] = {}
        self._crash_at = KILLS_PER_CRASH
        self._judged = 0
        self._to_prune = 0

    # -- the two halves --

    def rage(self) -> None:
        """Strike until it was enough."""
        begun = time.monotonic()
        while self._count["sigkill"] < self._wanted.kills or self._count["runs"] < self._wanted.runs:
            self._turn()
            if self._is_due("progress", (10, 10)) and self._count["sigkill"]:
                spent = time.monotonic() - begun
                self._say(
                    f"{spent:.0f} s: {self._count['sigkill']} kills, {self._count['runs']} runs, "
                    f"{self._count['judged_runs']} judged, {len(self._told.findings)} findings"
                )

    def heal(self) -> None:
        """Strike no more, and let every run come to its end."""
        self._raging = False
        end = time.monotonic() + HEALING_SECONDS
        while self._runs and time.monotonic() < end:
            self._turn()
        for run in list(self._runs):
            # It should have ended: its history tells where it stands.
            self._judge(run)
        self._end_all()
        self._collect()
        self._prune()
        self._check_counters()
        self._look_at_errors()
        known = self._tasks.begun()
        for task in known:
            self._find("orphaned", task.run, f"task {task.key} began after the run was over and judged")
        found, absent = self._tasks.looked_up()
        self._count["unanswered_submissions_that_had_begun"] = found
        self._count["unanswered_submissions_that_had_not"] = absent

    def _end_all(self) -> None:
        """Everybody is asked to end, and does."""
        self._wake(at_once=True)
        everybody = [*(dispatcher.child for dispatcher in self._dispatchers), *(child for _, child in self._leaving)]
        if self._server is not None:
            everybody.append(self._server)
        for child in everybody:
            # One that stopped itself meanwhile goes on, too.
            child.send(signal.SIGCONT)
            child.send(signal.SIGTERM)
        end = time.monotonic() + TERMINATION_SECONDS
        while any(child.is_alive for child in everybody) and time.monotonic() < end:
            self._moment.wait(0.02)
        for child in everybody:
            if child.is_alive:
                self._hangs(child)

    def close(self) -> None:
        """Let go of every process; they die with the one that forked them."""
        self._wake(at_once=True)
        for child in [
            *(dispatcher.child for dispatcher in self._dispatchers),
            *(child for _, child in self._leaving),
            *(operator.child for operator in self._operators),
            *([] if self._server is None else [self._server]),
        ]:
            child.send(signal.SIGKILL)
            child.close()
        self._record.close()
        self._lines.close()

    # -- one turn --

    def _turn(self) -> None:
        self._reap()
        self._wake()
        self._fill()
        if self._raging:
            if self._is_due("kill", KILL_SECONDS):
                self._strike()
            if self._is_due("world", WORLD_SECONDS):
                self._world.befall()
            if self._count["sigkill"] >= self._crash_at:
                self._crash_at += KILLS_PER_CRASH
                self._world.crash()
            if self._is_due("command", COMMAND_SECONDS) and self._runs:
                self._command(self._chance.choice(self._runs))
        self._ask_again()
        self._look()
        self._moment.wait(0.01)

    def _is_due(self, what: str, between: tuple[float, float]) -> bool:
        """True when its time has come; then the next one is set."""
        at = time.monotonic()
        if at < self._due.setdefault(what, at + self._chance.uniform(*between)):
            return False
        self._due[what] = at + self._chance.uniform(*between)
        return True

    # -- processes --

    def _start(self, name: str, **order: Any) -> Child:
        self._number += 1
        return self._processes.start(name=f"{name}-{self._number}", **order)

    def _fill(self) -> None:
        while len(self._dispatchers) < DISPATCHERS:
            self._dispatchers.append(self._dispatcher())
        if self._server is None:
            self._server = self._start("server", do="serve", store=self._world.way_in())
        if self._raging and len(self._runs) < AT_ONCE:
            self._create()

    def _dispatcher(self) -> _Dispatcher:
        strike: dict[str, Any] | None = None
        how = None
        if self._raging and self._chance.random() < 0.5:
            how = self._chance.choices((signal.SIGKILL, signal.SIGSTOP), (9, 1))[0]
            point = self._chance.choices(tuple(Point), (3, 1, 1))[0]
            strike = {"point": point.value, "number": self._chance.randint(1, 6), "how": int(how)}
        broken = self._wanted.broken
        child = self._start("dispatcher", do="dispatch", store=self._world.way_in(), strike=strike, broken=broken)
        return _Dispatcher(child, time.monotonic(), how)

    def _reap(self) -> None:
        """See who has ended, or has stopped itself."""
        for dispatcher in list(self._dispatchers):
            if not dispatcher.child.is_alive:
                self._dispatchers.remove(dispatcher)
                self._gone(dispatcher.child)
                if dispatcher.strikes is signal.SIGKILL:
                    self._killed("dispatchers_killed_between_steps")
                else:
                    self._find("unexpected", "", f"{dispatcher.child.name} ended by itself")
            elif dispatcher.strikes is signal.SIGSTOP and dispatcher.child.is_stopped:
                self._dispatchers.remove(dispatcher)
                dispatcher.strikes = None
                self._sleep(dispatcher)
        for operator in list(self._operators):
            if not operator.child.is_alive:
                self._operators.remove(operator)
                operator.run.operators -= 1
                self._gone(operator.child)
        for end, child in list(self._leaving):
            if not child.is_alive:
                self._leaving.remove((end, child))
                self._gone(child)
            elif child.is_stopped:
                # It had still to strike itself.
                child.send(signal.SIGCONT)
            elif time.monotonic() > end:
                self._leaving.remove((end, child))
                self._hangs(child)
        if self._server is not None and not self._server.is_alive:
            self._find("unexpected", "", f"{self._server.name} ended by itself")
            self._gone(self._server)
            self._server = None

    def _killed(self, what: str) -> None:
        self._count["sigkill"] += 1
        self._count[what] += 1

    def _sleep(self, dispatcher: _Dispatcher) -> None:
        """Wake it after its time, whatever we wait for meanwhile: it may hold what we wait for."""
        self._count["sigstop"] += 1
        timer = threading.Timer(ASLEEP_SECONDS, dispatcher.child.send, (signal.SIGCONT,))
        self._asleep.append((timer, dispatcher))
        timer.start()

    def _wake(self, *, at_once: bool = False) -> None:
        """Count those in again that go on."""
        for timer, dispatcher in list(self._asleep):
            if at_once:
                timer.cancel()
                dispatcher.child.send(signal.SIGCONT)
            if at_once or not timer.is_alive():
                timer.join()
                self._asleep.remove((timer, dispatcher))
                self._dispatchers.append(dispatcher)

    def _hangs(self, child: Child) -> None:
        """It does not end: tell where it stands, and end it."""
        before = self._errors.stat().st_size
        child.send(signal.SIGUSR1)
        self._moment.wait(1.0)
        with self._errors.open("rb") as file:
            file.seek(before)
            stands = file.read().decode("utf-8", "replace")
        self._find("unexpected", "", f"{child.name} does not end:\n{stands}")
        child.send(signal.SIGKILL)

    def _gone(self, child: Child) -> None:
        """Take the lines of a process that has ended."""
        child.close()
        path = self._directory / f"{child.name}.lines"
        if path.exists():
            self._merged.add(read_lines(path))
            path.unlink()

    def _collect(self) -> None:
        for path in sorted(self._directory.glob("*.lines")):
            self._merged.add(read_lines(path))
            path.unlink()

    # -- faults --

    def _strike(self) -> None:
        """Somebody is struck at whatever it is doing."""
        which = self._chance.random()
        if which < 0.06 and self._server is not None:
            self._server.send(signal.SIGKILL)
            self._awaited(self._server)
            self._server = None
            self._killed("servers_killed")
            return
        if which < 0.12 and self._operators:
            operator = self._chance.choice(self._operators)
            if operator.child.send(signal.SIGKILL):
                self._killed("operators_killed")
            return
        # One that strikes itself is given time to get there.
        age = time.monotonic() - 2.0
        ripe = [one for one in self._dispatchers if one.strikes is None or one.born < age]
        if not ripe:
            return
        struck = self._chance.choice(ripe)
        how = self._chance.choices((signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM), (16, 2, 2))[0]
        if not struck.child.send(how):
            return
        self._dispatchers.remove(struck)
        if how is signal.SIGSTOP:
            self._sleep(struck)
            return
        if how is signal.SIGKILL:
            self._awaited(struck.child)
            self._killed("dispatchers_killed_anywhere")
        else:
            # One that stopped itself just now goes on, too.
            struck.child.send(signal.SIGCONT)
            self._leaving.append((time.monotonic() + TERMINATION_SECONDS, struck.child))
            self._count["sigterm"] += 1

    def _awaited(self, child: Child) -> None:
        """Wait for the end of a process that was killed."""
        end = time.monotonic() + TERMINATION_SECONDS
        while child.is_alive:
            if time.monotonic() > end:
                self._hangs(child)
                return
            self._moment.wait(0.002)
        self._gone(child)

    # -- runs --

    def _create(self) -> None:
        """Create a run.  Whoever does not hear whether it was made makes it again, at another turn."""
        if self._new is None:
            self._count["runs_asked_for"] += 1
            name = f"run{self._count['runs_asked_for']} of seed {self._wanted.seed}"
            made = plan(self._racks(), self._rollout(name))
            self._new = new_run(made, command_id=CommandId(name), actor="test", now=datetime.now(UTC))
        new = self._new
        try:
            self._store.create(new)
        except Unavailable:
            return
        self._new = None
        self._count["runs"] += 1
        self._count["targets"] += len(new.targets)
        self._runs.append(_Run(new.run.id, targets=tuple(str(target.id) for target in new.targets)))

    def _racks(self) -> list[Candidate]:
        count = self._chance.randint(*SIZES)
        return [
            Candidate(
                id=RackId(rack_id(number)),
                name=f"r{number}",
                components={"compute": (ComponentId(component(number)),)},
            )
            for number in self._chance.sample(range(1, RACKS + 1), count)
        ]

    def _rollout(self, name: str) -> Rollout:
        return Rollout(
            name=name,
            operation=Operation(type="test", code="history"),
            selector=PercentageSelector(percentage=100, seed=name),
            ordering=RandomOrdering(seed=name),
            max_concurrent_targets=self._chance.randint(2, 5),
            gates=(FailureCountGate(threshold_count=self._chance.choice((2, 100))),),
            phases=EqualPhases(count=self._chance.randint(1, 3)),
            auto_advance=self._chance.random() < 0.6,
            conflict=ConflictRetry(
                window=timedelta(minutes=10), initial_delay=timedelta(seconds=0.2), max_delay=timedelta(seconds=0.5)
            ),
        )

    def _look(self) -> None:
        """Look at the next run: judge it when it is over, help it on when it waits for an operator."""
        if not self._runs or not self._is_due("look", LOOK_SECONDS):
            return
        self._runs.rotate(-1)
        run = self._runs[0]
        name = str(run.run_id)
        try:
            with self._lines.call("store", "read", run=name) as answer:
                overview = self._store.get(run.run_id)
                answer.be(Outcome.OK, str(overview.run.revision))
        except Unavailable:
            return
        if overview.trouble is not None and overview.trouble.quarantined_at is not None:
            self._find("unexpected", name, f"it is in quarantine: {overview.trouble.message}")
            self._store.release(run.run_id)
        in_flight = sum(tally.claimed + tally.submitted for tally in overview.phases)
        if overview.run.status.is_terminal:
            if not in_flight and not overview.open_strays and not run.operators:
                run.over_since = run.over_since or time.monotonic()
                if self._may_pass(run, overview.trouble is not None):
                    return
                with suppress(Unavailable):
                    self._judge(run)
        elif overview.run.status is RunStatus.PAUSED:
            # Claims without an answer stay so while it waits.
            self._attend(run, overview)

    def _may_pass(self, run: _Run, is_troubled: bool) -> bool:
        """True for the trouble of a run that was over a moment ago.

        A dispatcher that lost its store after the last decision leaves word of it, until the next one looks.
        """
        return is_troubled and time.monotonic() < run.over_since + TROUBLE_SECONDS

    def _attend(self, run: _Run, overview: Overview) -> None:
        """Do what a paused run waits for, now and then; at last always."""
        if run.operators or time.monotonic() < run.attended + (0.5 if self._raging else 0.2):
            return
        run.attended = time.monotonic()
        if overview.run.status_reason is StatusReason.PHASE_GATE:
            self._command(run, "advance", phase=overview.run.phase + 1)
        else:
            failed = sum(
                tally.failed + tally.terminated + tally.failed_before + tally.terminated_before
                for tally in overview.phases
            )
            self._command(run, "resume", failures=failed)

    # -- operators --

    def _command(self, run: _Run, verb: str | None = None, *, phase: int = 1, failures: int | None = None) -> None:
        """Ask something of a run, through the program or the server, and often twice."""
        if verb is None:
            verbs = {"pause": 5, "resume": 4, "advance": 3, "retry": 3, "settle": 2, "cancel": 1}
            (verb,) = self._chance.choices(tuple(verbs), tuple(verbs.values()))
            phase = self._chance.randint(1, 2)
            failures = self._chance.choice((None, 0, 2, 100))
        arguments: list[str] = []
        metadata: list[tuple[str, str]] = []
        target = self._chance.choice(run.targets)
        match verb:
            case "resume" if failures is not None:
                arguments = ["--accept-failures", str(failures)]
                metadata = [("x-accept-failures", str(failures))]
            case "advance":
                arguments = ["--expect", str(phase)]
            case "cancel":
                arguments = ["--reason", "enough", "--no-wait"]
            case "retry":
                arguments = [target]
            case "settle":
                status = self._chance.choice(("completed", "failed", "skipped"))
                arguments = [target, "--as", status, "--reason", "it hangs"]
        self._count["commands"] += 1
        order = {
            "do": "operate",
            "verb": verb,
            "run": str(run.run_id),
            "request": f"{self._wanted.seed}-{self._count['commands']}",
            "arguments": arguments,
            "metadata": metadata,
            "phase": phase,
        }
        self._operate(run, order)
        while self._chance.random() < 0.35:
            # Somebody did not hear the answer, or did not wait for it.
            self._count["commands_repeated"] += 1
            run.operators += 1
            after = self._chance.choice((0.0, 0.0, 0.3, 2.0))
            self._number += 1
            heapq.heappush(self._queued, (time.monotonic() + after, self._number, run, order))

    def _operate(self, run: _Run, order: dict[str, Any]) -> None:
        by_wire = order["verb"] not in ("retry", "settle") and self._chance.random() < 0.5
        run.operators += 1
        way = "grpc" if by_wire else "cli"
        child = self._start("operator", way=way, store=self._world.way_in(), **order)
        self._operators.append(_Operator(child, run, time.monotonic()))

    def _ask_again(self) -> None:
        while self._queued and self._queued[0][0] <= time.monotonic():
            _, _, run, order = heapq.heappop(self._queued)
            run.operators -= 1
            self._operate(run, order)

    # -- the judge --

    def _judge(self, run: _Run) -> None:
        name = str(run.run_id)
        # What dispatchers that live have told of it is not needed: it is told by the record, too.
        self._observed()
        try:
            judged = judge(self._store, self._tasks, run.run_id, self._calls(name), self._clocks, self._chance)
        except NotFound:
            self._find("lost", name, "the run is gone")
            self._runs.remove(run)
            return
        if self._may_pass(run, bool(judged.history.trouble)):
            # It came after the look.
            return
        self._merged.take(name)
        self._runs.remove(run)
        self._tally(judged)
        self._tasks.forget(name)
        self._to_prune += 1
        if self._to_prune >= PRUNED_AT_ONCE:
            self._prune()
            self._check_counters()
            self._look_at_errors()

    def _calls(self, run: str) -> tuple[Any, ...]:
        mine = (call for call in self._merged.calls.values() if call.run == run)
        return tuple(sorted(mine, key=lambda call: call.began))

    def _observed(self) -> None:
        """Take our own lines."""
        path = self._directory / "observer.lines"
        self._lines.close()
        self._merged.add(read_lines(path))
        path.unlink()
        self._judged += 1
        self._lines = Lines(path, f"observer-{self._judged}")

    def _tally(self, judged: Judged) -> None:
        history, count = judged.history, self._count
        count["judged_runs"] += 1
        count[f"runs_{history.status}"] += 1
        count["tasks"] += len(history.tasks)
        count["requests"] += len(history.requests)
        count["journal_entries"] += len(history.entries)
        count["decisions_replayed"] += judged.decisions
        count["replayed_runs"] += not any(found.checker == "unreplayed" for found in judged.findings)
        if judged.is_altered_refused is not None:
            count["altered_journals"] += 1
            count["altered_journals_refused"] += judged.is_altered_refused
        for call in history.calls:
            if call.command:
                count[f"commands_{call.outcome.value}"] += 1
                count[f"commands_by_{call.way}"] += 1
            elif call.what == "read":
                count["reads"] += 1
        self._told.findings.extend(judged.findings)
        if judged.findings and len(self._told.broken) < 3:
            self._told.broken.append(history)

    def _prune(self) -> None:
        """Let go of the runs that were judged; those that ended lately are for the next time."""
        self._merged.keep({str(run.run_id) for run in self._runs})
        unjudged = [SPARED]
        try:
            for run in self._runs:
                finished = self._store.get(run.run_id).run.finished_at
                if finished is not None:
                    unjudged.append(datetime.now(UTC) - finished + SPARED)
            self._count["pruned_runs"] += prune(self._store, max(unjudged)).runs
            self._to_prune = 0
        except Unavailable:
            return

    def _check_counters(self) -> None:
        """Recount everything; a file is looked through, too."""
        try:
            differences = self._store.check()
        except Unavailable:
            return
        self._count["recounts"] += 1
        for difference in differences:
            self._find("counters", "", difference)

    def _look_at_errors(self) -> None:
        """What the processes logged since the last time."""
        with self._errors.open("rb") as file:
            file.seek(self._errors_read)
            # A line that is being written is for the next time.
            whole, _, _ = file.read().rpartition(b"\n")
        self._errors_read += len(whole)
        lines, told = whole.decode("utf-8", "replace").splitlines(), 0
        for index, line in enumerate(lines):
            if index >= told and any(sign in line for sign in _UNEXPECTED):
                told = index + _TOLD_LINES
                self._find("unexpected", "", "\n".join(lines[index:told]))

    def _find(self, checker: str, run: str, text: str) -> None:
        self._told.findings.append(Finding(checker=checker, run=run, text=text))


def verdicts(told: Told) -> dict[str, int]:
    """How often each checker found something."""
    found = Counter(finding.checker for finding in told.findings)
    return {name: found[name] for name in (*CHECKERS, *OTHER_CHECKERS)}
