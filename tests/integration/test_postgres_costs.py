"""What a tick costs a PostgreSQL server, in numbers that are the same on any machine.

Times differ from machine to machine and from run to run; what is counted here does not: statements, rows that are
returned or changed, buffers that are touched, bytes of write-ahead log, plans.  The task manager is the one of the
benchmarks, so that what is asserted here is what is measured there.

The server is of these tests alone, so that its log grows by what they do and by nothing else.  Full-page images are
off, because their number says how long ago the last checkpoint was, and so is what writes now and then by itself.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import event

from benchmarks.inprocess import InProcess, Maker
from benchmarks.ours import Ours
from opdispatch.observation import Observation, TaskObserved
from opdispatch.task import Ref, TaskRef, TaskStatus
from opdispatch_adapters.dispatcher import Dispatcher, Settings
from opdispatch_adapters.sql import PostgresSettings, PostgresStore
from opdispatch_adapters.sql.postgres import reads, store, writes
from opdispatch_adapters.sql.postgres.engine import session_options
from tests.integration.proxy import Proxy
from tests.integration.waiting import eventually
from tests.postgres import OwnServer, Prepare, own_server

QUIET: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "max_wal_size": "8GB",
    "shared_buffers": "256MB",
    # Otherwise the server tells a standby now and then which transactions there are.
    "wal_level": "minimal",
    "max_wal_senders": "0",
}
EXPLAINING: Final = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_wal": "on",
    "auto_explain.log_format": "json",
    "auto_explain.log_level": "notice",
}
"""By these a server tells its client how it carried each statement out."""
TARGETS: Final = "operation_run_target"
MOST_STATEMENTS: Final = 12

Plan = Mapping[str, Any]


@pytest.fixture(scope="module")
def server(postgres_prepare: Prepare) -> Iterator[OwnServer]:
    with own_server(QUIET) as own:
        own.prepare(postgres_prepare)
        yield own


@pytest.fixture
def url(server: OwnServer) -> Iterator[str]:
    with server.database() as found:
        yield found


@contextmanager
def a_phase(url: str, size: int, concurrency: int) -> Iterator[Ours[PostgresStore]]:
    """A phase that has just begun: as many are in flight as may be, and none has ended."""
    with closing(Ours(PostgresStore(url), size, concurrency)) as ours:
        ours.cycle()
        yield ours


def one_value(url: str, statement: str) -> Any:
    with psycopg.connect(url) as connection:
        row = connection.execute(statement).fetchone()
    assert row is not None
    return row[0]


def analyze(url: str) -> None:
    """Let the planner know how large the tables are."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


# -- how statements were carried out --


@dataclass
class Meter:
    """The plans of what a store does, as they were carried out."""

    plans: list[Plan] = field(default_factory=list)

    @classmethod
    @contextmanager
    def on(cls, url: str, store: PostgresStore) -> Iterator[Meter]:
        """Measures every connection that the store opens from now on; those that it has are closed."""
        meter = cls()
        with psycopg.connect(url, autocommit=True) as connection:
            for name, value in EXPLAINING.items():
                database = connection.info.dbname
                connection.execute(f"ALTER DATABASE {database} SET {name} = '{value}'".encode())

        def opened(driver: psycopg.Connection[Any], _: object) -> None:
            driver.add_notice_handler(meter.note)

        event.listen(store._engine, "connect", opened)
        try:
            store.close()
            yield meter
        finally:
            event.remove(store._engine, "connect", opened)

    def note(self, notice: psycopg.errors.Diagnostic) -> None:
        said = notice.message_primary or ""
        if "plan:" in said:
            found = json.loads(said[said.index("{") :])
            # The checks of foreign keys and the like are statements of the server's own.
            if "ONLY" not in found["Query Text"]:
                self.plans.append(found["Plan"])

    def of(self, work: Callable[[], object]) -> Sequence[Plan]:
        """The plans of a piece of work."""
        self.plans.clear()
        work()
        return tuple(self.plans)


def nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def buffers(plans: Sequence[Plan]) -> int:
    """The pages that were touched, each time that they were."""
    return sum(int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]) for plan in plans)


def buffers_of_targets(plans: Sequence[Plan]) -> int:
    """Those of the scans of targets alone."""
    return buffers(tuple(scans(plans, TARGETS)))


def rows_moved(plans: Sequence[Plan]) -> int:
    """The rows that came to the client or were changed; each change here returns one row."""
    changed = sum(n["Actual Rows"] for plan in plans for n in nodes(plan) if n["Node Type"] == "ModifyTable")
    return int(changed + sum(plan["Actual Rows"] for plan in plans))


def rows_in_vain(plans: Sequence[Plan]) -> int:
    """The rows that were looked at and not wanted."""
    found = 0.0
    for plan in plans:
        for node in nodes(plan):
            removed = sum(value for name, value in node.items() if name.startswith("Rows Removed by"))
            found += removed * node["Actual Loops"]
    return round(found)


def cycle(meter: Meter, ours: Ours[PostgresStore]) -> Sequence[Plan]:
    """The plans of one cycle, without what made the run due."""
    ours.make_due()
    plans = meter.of(ours.serve)
    assert len(plans) >= 5, "the server did not tell how it carried the statements out"
    ours.advanced(ours.concurrency, ours.concurrency)
    return plans


# -- counts --


def test_a_cycle_takes_the_same_few_statements_whatever_the_sizes(server: OwnServer) -> None:
    taken = {}
    for size, concurrency in ((40, 10), (4_000, 10), (4_000, 100), (4_000, 1_000)):
        with server.database() as url, closing(Proxy(url)) as proxy, a_phase(proxy.url, size, concurrency) as ours:
            ours.make_due()
            with proxy.recording() as statements:
                ours.serve()
            ours.advanced(concurrency, concurrency)
            ours.check()
            taken[size, concurrency] = len(statements)
            # Two transactions, and every BEGIN and COMMIT is among them.
            assert [s.verb for s in statements].count("COMMIT") == 2
    assert len(set(taken.values())) == 1, taken
    assert max(taken.values()) <= MOST_STATEMENTS, taken


@pytest.mark.parametrize("concurrency", [10, 100, 1_000])
def test_rows_moved_follow_the_concurrency_and_none_is_looked_at_in_vain(url: str, concurrency: int) -> None:
    with a_phase(url, 10_000, concurrency) as ours, Meter.on(url, ours.store) as meter:
        for _ in range(3):
            plans = cycle(meter, ours)
            ours.check()
            assert rows_moved(plans) <= 6 * concurrency + 10
            # Quadratic work shows here: nested loops remove what does not match.
            assert rows_in_vain(plans) <= concurrency
            assert_by_index(plans)


@pytest.mark.parametrize("concurrency", [10, 100])
def test_buffers_do_not_grow_with_the_phase(server: OwnServer, concurrency: int) -> None:
    touched = {}
    for size in (1_000, 100_000):
        with (
            server.database() as url,
            a_phase(url, size, concurrency) as ours,
            Meter.on(url, ours.store) as meter,
        ):
            measured = [buffers(cycle(meter, ours)) for _ in range(size // concurrency - 2 if size == 1_000 else 40)]
            ours.check()
            touched[size] = statistics.median(measured)
    assert touched[100_000] <= 1.3 * touched[1_000], touched


def test_scans_do_not_grow_while_a_snapshot_is_held(url: str) -> None:
    with a_phase(url, 20_000, 100) as ours, psycopg.connect(url) as forgotten:
        forgotten.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        forgotten.execute("SELECT count(*) FROM pg_class")
        with Meter.on(url, ours.store) as meter:
            measured = [buffers_of_targets(cycle(meter, ours)) for _ in range(20_000 // 100 - 2)]
        ours.check()
    tenth = len(measured) // 10
    assert statistics.median(measured[-tenth:]) <= 1.5 * statistics.median(measured[:tenth])


@pytest.mark.parametrize(("concurrency", "most"), [(10, 1_800), (100, 1_000)])
def test_a_target_costs_little_log_over_its_life(url: str, concurrency: int, most: int) -> None:
    size = 100 * concurrency
    with closing(Ours(PostgresStore(url), size, concurrency)) as ours:
        ours.refill()
        before = one_value(url, "SELECT pg_current_wal_insert_lsn()")
        while not ours.is_over:
            ours.make_due()
            ours.serve()
        written = one_value(url, f"SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '{before}')")
    assert written / size <= most


def test_no_index_is_touched_on_the_straight_way_of_a_target(url: str) -> None:
    with a_phase(url, 10_000, 100) as ours:
        for _ in range(50):
            ours.cycle()
    query = "SELECT n_tup_hot_upd::float / n_tup_upd FROM pg_stat_user_tables WHERE relname = 'operation_run_target'"
    # What is left are pages on which others were still at work when there was no room for another version.
    eventually(lambda: one_value(url, query) >= 0.8, what="the share of updates that touch no index")


# -- nothing to do --


class AtWork(InProcess):
    """Its tasks never end."""

    def __init__(self) -> None:
        self.looks = 0

    def observe(self, refs: Sequence[Ref], looked_at: datetime) -> Sequence[Observation]:
        self.looks += 1
        return [
            TaskObserved(
                target_id=r.target_id, task_id=r.task_id, status=TaskStatus.RUNNING, message="", looked_at=looked_at
            )
            for r in refs
            if isinstance(r, TaskRef)
        ]


def test_an_idle_tick_writes_no_log(url: str) -> None:
    tasks = AtWork()
    settings = Settings(poll=timedelta(milliseconds=10))
    with closing(PostgresStore(url)) as store:
        store.create(Maker(1_000, 100).run())
        with Dispatcher(store, tasks, settings):

            def at_rest(after: int) -> str:
                """Where the log ends after so many looks."""
                end = tasks.looks + after
                eventually(lambda: tasks.looks >= end, what="the looks")
                return str(one_value(url, "SELECT pg_current_wal_insert_lsn()"))

            before = at_rest(after=5)
            assert at_rest(after=20) == before


# -- plans --

PLACEHOLDER: Final = re.compile(r"%\((\w+)\)s(::\w+\[\])?")
BOUNDED: Final = re.compile(
    r"\(id = |sequence_index = ANY|sequence_index >=.*sequence_index <|task_ref = ANY|retry_at <=|retry_at >"
)
"""What bounds a scan: the rows by name, their places, or both ends of their range."""


def with_parts(*parts: writes._Part) -> dict[str, str]:
    return {part.name: f"WITH {part.sql} SELECT count(*) FROM {part.name}" for part in parts}


STATEMENTS: Final[Mapping[str, str]] = {
    "snapshot": reads.SNAPSHOT,
    "pending": reads.PENDING,
    "candidates": reads.CANDIDATES,
    "named": reads.NAMED,
    "strays": reads.STRAYS,
    "due": store._DUE.format(now=store._CLOCK, unhurried=store._UNHURRIED, only=""),
    **with_parts(writes.CLAIMED, writes.SUBMITTED, writes.SETTLED, writes.WHOLE),
    "phases": f"WITH {writes.PHASES} SELECT count(*) FROM phases",
    "entry": f"WITH {writes.ENTRY} SELECT count(*) FROM entry",
    "rearm": writes.REARM,
    "skip": writes.SKIP,
    "upsert strays": writes.UPSERT_STRAYS,
}
AGAIN: Final = "idx_operation_run_target_again"
"""It holds those alone that are tried again and wait for it, so all of them is no more than asked for."""
WHOLE_RUN: Final = frozenset({"rearm", "skip"})
"""What is about every row of a run or a lane: its index is all the bound that there can be."""


def scans(plans: Sequence[Plan], table: str | None = None) -> Iterator[Plan]:
    """What reads a table: this one, or any."""
    for plan in plans:
        for node in nodes(plan):
            is_read = "Relation Name" in node and node["Node Type"] != "ModifyTable"
            if is_read and table in (None, node["Relation Name"]):
                yield node


def limited(plan: Plan, scan: Plan) -> bool:
    """True when a limit stands right above a scan, or a least value is asked for, which is one."""
    return any(node["Node Type"] == "Limit" and scan in nodes(node) for node in nodes(plan))


def assert_by_index(plans: Sequence[Plan], *, whole_run: bool = False) -> None:
    """Nothing is read by walking over a table, and no walk over the index of targets is without an end."""
    for plan in plans:
        for scan in scans([plan]):
            assert scan["Node Type"] != "Seq Scan", json.dumps(plan)
            if scan["Relation Name"] != TARGETS or whole_run:
                continue
            if scan["Node Type"] == "Bitmap Heap Scan":
                scan = scan["Plans"][0]
            condition = scan["Index Cond"]
            begins = "sequence_index >=" in condition or scan["Index Name"] == AGAIN
            assert BOUNDED.search(condition) or (begins and limited(plan, scan)), json.dumps(plan)


def generic_plan(connection: psycopg.Connection[Any], statement: str) -> Plan:
    """The plan for any parameters."""
    names = list(dict.fromkeys(name for name, _ in PLACEHOLDER.findall(statement)))

    def numbered(found: re.Match[str]) -> str:
        return f"${names.index(found[1]) + 1}{found[2] or ''}"

    text = PLACEHOLDER.sub(numbered, statement)
    row = connection.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {text}".encode()).fetchone()
    assert row is not None
    plan: Plan = row[0][0]["Plan"]
    return plan


def custom_plan(connection: psycopg.Connection[Any], name: str, run: UUID) -> Plan:
    """The plan for a window of a hundred in the middle of the run."""
    now, statement = datetime.now(UTC), STATEMENTS[name]
    lease = timedelta(seconds=30) if name == "due" else now
    known = {"run": run, "phase": 0, "bound": 100, "first": 500, "limit": 10, "lease": lease}
    window = "{" + ",".join(map(str, range(500, 600))) + "}"

    def value(name: str, cast: str) -> object:
        if cast:
            return f"{{{run}}}" if cast == "::uuid[]" else window if cast == "::int[]" else "{}"
        return known.get(name, now if name in ("now", "at", "entry_at", "claim_lease") else None)

    values = {name: value(name, cast) for name, cast in PLACEHOLDER.findall(statement)}
    with psycopg.ClientCursor(connection) as cursor:
        row = cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}".encode(), values).fetchone()
    assert row is not None
    plan: Plan = row[0][0]["Plan"]
    return plan


@pytest.mark.parametrize("is_full", [False, True], ids=["empty tables", "full tables"])
def test_every_statement_finds_its_rows_by_index_however_it_is_planned(url: str, is_full: bool) -> None:
    run = UUID(int=0)
    if is_full:
        with closing(PostgresStore(url)) as full:
            run = full.create(Maker(20_000, 100).run()).id
        analyze(url)
    options = session_options(PostgresSettings())
    with psycopg.connect(url, options=options) as connection:
        for name, statement in STATEMENTS.items():
            whole = name in WHOLE_RUN
            assert_by_index([generic_plan(connection, statement)], whole_run=whole)
            assert_by_index([custom_plan(connection, name, run)], whole_run=whole)
