"""A connection to PostgreSQL that breaks at any statement of any operation, in any way: never half, never twice.

Each operation is done once to learn its statements.  Then it is done anew for each of them and for each way to lose the
connection there, and judged by another connection: the database is as before or as after, its counts are true, the
caller was told, the next operation works, and doing it again leaves what doing it once would have left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import psycopg
import pytest

from opdispatch.command import Cancel, Resume
from opdispatch.errors import NotFound, Unavailable
from opdispatch.identity import CommandId, TaskId
from opdispatch.observation import Observation, SubmissionAccepted, SubmissionConflicted
from opdispatch.policy.phases import EqualPhases
from opdispatch.run import RunStatus
from opdispatch.state import Limits
from opdispatch.target import TargetStatus
from opdispatch.task import ClaimRef, Ref, SubmissionRequest
from opdispatch_adapters.dispatcher import Dispatcher
from opdispatch_adapters.sql import PostgresStore, schema

from .proxy import Effect, Moment, Proxy, Statement, is_commit
from .store_kit import NO_WAIT, NOW, a_command, a_round, a_run, accepted, over
from .test_dispatcher import InstantTasks

LEASE: Final = timedelta(minutes=1)
POLL: Final = timedelta(seconds=10)
LATER: Final = timedelta(hours=2)
"""Longer than a rack may be busy."""
RUN: Final = a_run(6, quota=4, phases=EqualPhases(count=2))
ID: Final = RUN.run.id
SHORT: Final = a_run(4, quota=2, name="short")
WAYS: Final = (*((moment, "cut") for moment in Moment), (Moment.BEFORE, "terminated"), (Moment.SENT, "terminated"))
FEWEST: Final = 600
"""So many breaks there are at least, over all operations: with fewer, statements were not seen."""

TABLES: Final = (schema.run, schema.phase, schema.target, schema.stray, schema.journal)
SAVE: Final = "".join(
    f"DROP TABLE IF EXISTS saved_{table.name}; CREATE TABLE saved_{table.name} AS TABLE {table.name};"
    for table in TABLES
)
RESTORE: Final = "DELETE FROM operation_run;" + "".join(
    f"INSERT INTO {table.name} ({names}) SELECT {names} FROM saved_{table.name};"
    for table in TABLES
    for names in [", ".join(column.name for column in table.c if column.name != "lane")]
)
"""What an operation finds, put back by the server: many times faster than anew."""


class Clock:
    """The time of every store and dispatcher here."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return (self.now - NOW).total_seconds()


class Bench:
    """A database, the way to it that breaks, and the one by which it is judged."""

    def __init__(self, url: str, proxy: Proxy) -> None:
        self.clock = Clock()
        self.proxy = proxy
        self._prepared: Operation | None = None
        self._began = NOW
        self.judge = PostgresStore(url, clock=self.clock)
        self.hand = psycopg.connect(url, autocommit=True, options="-c opdispatch.writer=on")

    @contextmanager
    def prepared(self, operation: Operation) -> Iterator[PostgresStore]:
        """The database as before the operation, and a store that knows nothing and is connected through the proxy."""
        if operation is not self._prepared:
            self._prepare(operation)
        elif not operation.reads:
            self.hand.execute(RESTORE.encode())
        self.clock.now = self._began
        with PostgresStore(self.proxy.url, clock=self.clock) as store:
            yield store
        self.proxy.disarm()

    def _prepare(self, operation: Operation) -> None:
        self.hand.execute("DELETE FROM operation_run")
        self.clock.now = NOW
        operation.prepare(self)
        self.hand.execute(SAVE.encode())
        self._prepared, self._began = operation, self.clock.now

    def state(self) -> tuple[object, ...]:
        """All that a reader can see of the run; nothing when there is none."""
        judge = self.judge
        try:
            return (judge.get(ID), judge.targets(ID), judge.strays(ID), judge.journal(ID))
        except NotFound:
            return ()

    def terminate(self, statement: Statement) -> None:
        self.hand.execute("SELECT pg_terminate_backend(%s, 30000)", [statement.backend])

    def close(self) -> None:
        self.judge.close()
        self.hand.close()


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What is done to a store, and what must stand in the database before."""

    name: str
    prepare: Callable[[Bench], object]
    do: Callable[[PostgresStore], object]
    reads: bool = False
    """It changes nothing, and gives the same every time."""
    is_repeatable: bool = True
    """Done twice it leaves what it leaves when done once; else only the targets and the strays do."""


# -- what stands before --


def nothing(_: Bench) -> None:
    pass


def created(bench: Bench) -> None:
    bench.judge.create(RUN)


def taken(bench: Bench) -> None:
    created(bench)
    assert bench.judge.due(1, LEASE) == (ID,)


def claimed(bench: Bench) -> None:
    taken(bench)
    a_round(bench.judge, ID)


def submitted(bench: Bench) -> None:
    taken(bench)
    a_round(bench.judge, ID, *accepted(a_round(bench.judge, ID)))


def with_stray(bench: Bench) -> None:
    """Something of everything: what is settled, in flight, pending, and a task that nobody asked for."""
    submitted(bench)
    judge = bench.judge
    first, second = judge.targets(ID, statuses={TargetStatus.SUBMITTED})[:2]
    other = SubmissionAccepted(
        target_id=first.id,
        attempt=first.attempt,
        fence=first.fence,
        task_id=type(first.task_id)("another"),  # type: ignore[misc]
    )
    a_round(judge, ID, *over([second]), other)


def troubled(bench: Bench) -> None:
    created(bench)
    bench.judge.report(ID, "it cannot be served", lambda _: LEASE, 1)


def held_by_conflict(bench: Bench) -> None:
    """Racks were busy for so long that the run waits for an operator."""
    taken(bench)
    a_round(bench.judge, ID, *busy(accepted(a_round(bench.judge, ID))))
    bench.clock.now += LATER
    a_round(bench.judge, ID, *busy(accepted(a_round(bench.judge, ID))))
    assert bench.judge.get(ID).run.conflict_hold is not None


def busy(answers: list[Observation]) -> list[Observation]:
    return [
        SubmissionConflicted(target_id=one.target_id, attempt=one.attempt, fence=one.fence, message="busy")
        for one in answers
        if isinstance(one, SubmissionAccepted)
    ]


# -- what is done --


def record(store: PostgresStore) -> object:
    """The tasks of what is claimed; told twice it is told late."""
    tasks: list[Observation] = [
        SubmissionAccepted(
            target_id=found.id,
            attempt=found.attempt,
            fence=found.fence,
            task_id=type(CommandId("t"))(f"t{found.rack_name}"),  # type: ignore[arg-type]
        )
        for found in store.targets(ID, statuses={TargetStatus.CLAIMED})
    ]
    return a_round(store, ID, *tasks)


def settle(store: PostgresStore) -> object:
    return a_round(store, ID, *over(store.targets(ID, statuses={TargetStatus.SUBMITTED}, phases={0})))


def conflict(store: PostgresStore) -> object:
    """Of what is claimed the first two racks are busy."""
    claims = [SubmissionConflicted(target_id=found.id, attempt=1, fence=1, message="busy") for found in RUN.targets[:2]]
    return a_round(store, ID, *claims)


def second_tasks(store: PostgresStore) -> object:
    """Two targets turn out to have another task besides: strays."""
    found = store.targets(ID, statuses={TargetStatus.SUBMITTED})[:2]
    others = [
        SubmissionAccepted(
            target_id=one.id, attempt=one.attempt, fence=one.fence, task_id=TaskId(f"other {one.rack_name}")
        )
        for one in found
    ]
    return a_round(store, ID, *others)


def skip(store: PostgresStore) -> object:
    return a_command(store, ID, Cancel(command_id=CommandId("cancel"), actor="operator", why="cut"))


def rearm(store: PostgresStore) -> object:
    return a_command(store, ID, Resume(command_id=CommandId("resume"), actor="operator"))


def glance(store: PostgresStore) -> object:
    return store.glance(ID, (), Limits())


def only_load(store: PostgresStore) -> object:
    with store.lock(ID, NO_WAIT) as held:
        assert held is not None
        return held.load((), Limits())


OPERATIONS: Final = (
    Operation(name="create", prepare=nothing, do=lambda store: store.create(RUN)),
    Operation(name="create again", prepare=submitted, do=lambda store: store.create(RUN), reads=True),
    Operation(name="due", prepare=created, do=lambda store: store.due(10, LEASE)),
    Operation(name="due of one", prepare=created, do=lambda store: store.due(10, LEASE, only=ID)),
    Operation(name="next_due", prepare=taken, do=lambda store: store.next_due(), reads=True),
    Operation(name="wake", prepare=taken, do=lambda store: store.wake(ID)),
    Operation(name="unsettled", prepare=with_stray, do=lambda store: store.unsettled(ID), reads=True),
    Operation(name="glance", prepare=with_stray, do=glance, reads=True),
    Operation(name="lock, load", prepare=with_stray, do=only_load, reads=True),
    # A round that finds nothing to claim says what the run waits for.
    Operation(name="claim", prepare=taken, do=lambda store: a_round(store, ID), is_repeatable=False),
    Operation(name="record", prepare=claimed, do=record),
    Operation(name="settle", prepare=submitted, do=settle),
    Operation(name="conflict", prepare=claimed, do=conflict),
    Operation(name="stray", prepare=submitted, do=second_tasks),
    Operation(name="skip", prepare=submitted, do=skip),
    Operation(name="rearm", prepare=held_by_conflict, do=rearm),
    Operation(
        name="report",
        prepare=taken,
        do=lambda store: store.report(ID, "trouble", lambda _: LEASE, 9),
        is_repeatable=False,
    ),
    Operation(name="release", prepare=troubled, do=lambda store: store.release(ID)),
    Operation(name="get", prepare=with_stray, do=lambda store: store.get(ID), reads=True),
    Operation(name="list", prepare=with_stray, do=lambda store: store.list(), reads=True),
    Operation(name="targets", prepare=with_stray, do=lambda store: store.targets(ID), reads=True),
    Operation(name="strays", prepare=with_stray, do=lambda store: store.strays(ID), reads=True),
    Operation(name="journal", prepare=with_stray, do=lambda store: store.journal(ID), reads=True),
    Operation(name="check", prepare=with_stray, do=lambda store: store.check(), reads=True),
)


@pytest.fixture
def bench(postgres_url: str) -> Iterator[Bench]:
    with Proxy(postgres_url) as proxy:
        bench = Bench(postgres_url, proxy)
        yield bench
        bench.close()


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """What an operation is when nothing breaks."""

    statements: tuple[Statement, ...]
    result: object
    before: tuple[object, ...]
    after: tuple[object, ...]
    again: tuple[object, ...]
    """After it was done twice."""


def undisturbed(bench: Bench, operation: Operation) -> Undisturbed:
    with bench.prepared(operation) as store:
        before = bench.state()
        with bench.proxy.recording() as statements:
            result = operation.do(store)
        after = bench.state()
        operation.do(store)
        again = bench.state()
    assert (before == after) == operation.reads
    assert (after == again) == operation.is_repeatable
    assert after[1:3] == again[1:3]
    return Undisturbed(statements=tuple(statements), result=result, before=before, after=after, again=again)


def broken(bench: Bench, operation: Operation, whole: Undisturbed, number: int, moment: Moment, how: str) -> bool:
    """Do it with one break; True when the caller was told of it."""
    where = f"{operation.name}: {how} {moment} statement {number}, {whole.statements[number - 1].text}"
    with bench.prepared(operation) as store:
        fault = bench.proxy.arm(moment, number, effect=Effect.CUT if how == "cut" else bench.terminate)
        told = False
        try:
            result = operation.do(store)
        except Unavailable:
            told = True
        fault.wait()
        bench.proxy.settle()

        state = bench.state()
        assert state in ((whole.before, whole.after) if told else (whole.after,)), where
        assert told or result == whole.result, where
        assert moment is not Moment.BEFORE or (told and state == whole.before), where
        assert bench.judge.check() == (), where
        # The next operation finds a connection that works, and the same one again does what is left to do.
        repeated = operation.do(store)
        assert not operation.reads or repeated == whole.result, where
        assert operation.reads or bench.state() == (whole.after if state == whole.before else whole.again), where
        assert operation.reads or bench.judge.check() == (), where
    return told


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_connection_that_breaks_at_any_statement_leaves_all_or_nothing_and_is_told(
    bench: Bench, operation: Operation
) -> None:
    whole = undisturbed(bench, operation)
    last = len(whole.statements)
    assert last >= 1

    for number in range(1, last + 1):
        for moment, how in WAYS:
            told = broken(bench, operation, whole, number, moment, how)
            if how == "cut" and (moment is not Moment.AFTER or number == last):
                # Whoever has the last answer has all of it, and meets the break no more.
                assert told == (moment is not Moment.AFTER), (number, moment)
            elif how == "cut":
                # Between two transactions the pool notices a break, unless it gave the connection out before.
                assert told or is_commit(whole.statements[number - 1]), (number, moment)


def test_every_statement_is_seen(bench: Bench) -> None:
    found = {operation.name: undisturbed(bench, operation).statements for operation in OPERATIONS}

    breaks = sum(map(len, found.values())) * len(WAYS)
    assert breaks >= FEWEST, {name: [one.text for one in statements] for name, statements in found.items()}


@pytest.mark.parametrize("more", ["", "&pooler=on"], ids=["alone", "behind a pooler"])
def test_a_store_whose_connection_breaks_while_it_is_opened_is_told_and_can_be_opened_again(
    bench: Bench, more: str
) -> None:
    url = f"{bench.proxy.url}{more}"
    with bench.proxy.recording() as statements:
        PostgresStore(url).close()

    for number, statement in enumerate(statements, start=1):
        for moment, how in WAYS:
            fault = bench.proxy.arm(moment, number, effect=Effect.CUT if how == "cut" else bench.terminate)
            try:
                with PostgresStore(url) as store:
                    # Whoever has the answer that ends a transaction meets the break no more.
                    assert moment is Moment.AFTER or (moment, how) == (Moment.SENT, "terminated"), statement.text
                    assert statement.verb in ("ROLLBACK", "COMMIT"), statement.text
                    assert store.list() == ()
            except Unavailable:
                assert fault.statement is not None
            bench.proxy.settle()
            with PostgresStore(url) as store:
                assert store.list() == ()


# -- whole passes of a dispatcher --


class KeptTasks(InstantTasks):
    """Every task completes at once, and is found by its key."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: dict[str, SubmissionRequest] = {}

    def submit(self, requests: Sequence[SubmissionRequest], deadline: timedelta) -> Sequence[Observation]:
        for request in requests:
            self.begun.setdefault(request.key, request)
        return super().submit(requests, deadline)

    def _look(self, ref: Ref, looked_at: datetime) -> Observation:
        if isinstance(ref, ClaimRef) and ref.key in self.begun:
            return SubmissionAccepted(
                target_id=ref.target_id, attempt=ref.attempt, fence=ref.fence, task_id=TaskId(ref.key)
            )
        return super()._look(ref, looked_at)


def passes(bench: Bench, store: PostgresStore, tasks: KeptTasks) -> bool:
    """A pass that begins tasks, and one that finds them done and begins others; True when trouble was told."""
    told = False
    dispatcher = a_dispatcher(bench, store, tasks)
    for _ in range(2):
        try:
            told = bool(dispatcher.run_once().failed) or told
        except Unavailable:
            told = True
        bench.clock.now += POLL
    return told


def a_dispatcher(bench: Bench, store: PostgresStore, tasks: KeptTasks) -> Dispatcher:
    return Dispatcher(store, tasks, actor="dispatcher", monotonic=bench.clock.monotonic, jitter=lambda: 1.0)


def finish(bench: Bench, store: PostgresStore, tasks: KeptTasks) -> None:
    """Pass after pass until the run has ended; whatever waits for a lease or a delay has it between two."""
    dispatcher = a_dispatcher(bench, store, tasks)
    for _ in range(20):
        if bench.judge.get(SHORT.run.id).run.status.is_terminal:
            return
        bench.clock.now += LEASE
        assert dispatcher.run_once().failed == ()
    raise AssertionError(bench.judge.get(SHORT.run.id))


PASS: Final = Operation(name="pass", prepare=lambda bench: bench.judge.create(SHORT), do=lambda _: None)


@pytest.mark.parametrize(("moment", "how"), WAYS)
def test_a_dispatcher_whose_connection_breaks_at_any_statement_begins_no_task_twice_and_ends_the_run(
    bench: Bench, moment: Moment, how: str
) -> None:
    with bench.prepared(PASS) as store, bench.proxy.recording() as statements:
        assert not passes(bench, store, KeptTasks())
    assert len(statements) > 20

    for number, statement in enumerate(statements, start=1):
        where = f"{how} {moment} statement {number}, {statement.text}"
        with bench.prepared(PASS) as store:
            tasks = KeptTasks()
            fault = bench.proxy.arm(moment, number, effect=Effect.CUT if how == "cut" else bench.terminate)
            passes(bench, store, tasks)
            fault.wait()
            bench.proxy.settle()
            assert bench.judge.check() == (), where

            finish(bench, store, tasks)
            found = bench.judge.targets(SHORT.run.id)
            assert {target.status for target in found} == {TargetStatus.COMPLETED}, where
            assert {target.attempt for target in found} == {1}, where
            assert sorted(target.task_id or "" for target in found) == sorted(tasks.begun), where
            assert bench.judge.get(SHORT.run.id).run.status is RunStatus.COMPLETED, where
            assert bench.judge.strays(SHORT.run.id) == (), where
            assert bench.judge.check() == (), where
