"""The PostgreSQL store where it is more than the memory store: a server, other processes, and people who go round it.

That both mean the same is the conformance suite's subject; what a broken connection does to it is that of the cuts.
"""

from __future__ import annotations

import logging
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from sqlalchemy.exc import NoResultFound

from opdispatch.command import Cancel, Pause, Retry
from opdispatch.decide import decide
from opdispatch.errors import CorruptRecord, InvalidInput, NotFound, OpdispatchError, Unavailable
from opdispatch.identity import CommandId, TaskId
from opdispatch.observation import (
    Observation,
    SubmissionAccepted,
    SubmissionConflicted,
    SubmissionRefused,
    TaskObserved,
)
from opdispatch.ports import Trouble
from opdispatch.run import Run, RunStatus
from opdispatch.state import Limits
from opdispatch.target import TargetStatus
from opdispatch.task import TaskStatus
from opdispatch_adapters.dispatcher import Dispatcher, Settings
from opdispatch_adapters.sql import PostgresSettings, PostgresStore, SqliteStore, migrate, open_store
from opdispatch_adapters.sql.locate import is_postgres
from opdispatch_adapters.sql.postgres import listen
from opdispatch_adapters.sql.postgres.engine import core_error, translated
from opdispatch_adapters.sql.postgres.settings import url_of
from opdispatch_adapters.sql.standing import REVISIONS
from opdispatch_adapters.sql.strict import Unreadable
from tests.postgres import Server

from .proxy import Moment, Proxy
from .store_kit import NO_WAIT, NOW, a_command, a_round, a_run, accepted, in_the_middle, over, to_its_end
from .test_dispatcher import InstantTasks
from .waiting import eventually

SOON = timedelta(milliseconds=100)
QUICK = PostgresSettings(pool_wait=SOON, lock_timeout=SOON)


@pytest.fixture
def store(postgres_url: str) -> Iterator[PostgresStore]:
    with PostgresStore(postgres_url, clock=lambda: NOW, settings=QUICK) as store:
        yield store


@contextmanager
def by_hand(url: str) -> Iterator[psycopg.Connection]:
    """What somebody with a shell does, who says that he knows what he is doing."""
    with psycopg.connect(url, options="-c opdispatch.writer=on") as connection:
        yield connection


def changed(url: str, *statements: str) -> None:
    with by_hand(url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def backends(url: str, role: str) -> list[int]:
    """The server's processes for our connections of this role."""
    with psycopg.connect(url, autocommit=True) as connection:
        asked = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
        return [pid for (pid,) in connection.execute(asked, [f"opdispatch {role}"]).fetchall()]


def terminate(url: str, pids: list[int]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for pid in pids:
            connection.execute("SELECT pg_terminate_backend(%s, 30000)", [pid])


@contextmanager
def a_role(server: Server, url: str, options: str = "LOGIN", *grants: str) -> Iterator[str]:
    """The URL of another role on the database, for a while."""
    name = f"opdispatch_{secrets.token_hex(4)}"
    role = Identifier(name)
    with server.connected() as connection:
        connection.execute(SQL("CREATE ROLE {} PASSWORD 'hush' " + options).format(role))
    try:
        with psycopg.connect(url) as connection:
            for grant in grants:
                connection.execute(SQL(f"GRANT {grant} TO {{}}").format(role))
        yield server.url_of(urlsplit(url).path.removeprefix("/"), user=name, password="hush")
    finally:
        with psycopg.connect(url) as connection:
            connection.execute(SQL("DROP OWNED BY {}").format(role))
            connection.execute(SQL("DROP ROLE {}").format(role))


# -- what a source says --


def test_settings_stand_in_the_query_of_a_url(postgres_url: str) -> None:
    told = "pool_size=2&pool_wait=0.5&lock_timeout=1.5&listen=off&pooler=on&known=7&application_name=mine"

    with PostgresStore(f"{postgres_url}&{told}", settings=PostgresSettings(pool_size=9, connect_timeout=SOON)) as store:
        assert store.settings == PostgresSettings(
            pool_size=2,
            pool_wait=timedelta(seconds=0.5),
            connect_timeout=SOON,
            lock_timeout=timedelta(seconds=1.5),
            listen=False,
            pooler=True,
            known=7,
        )
        with store._reading() as connection:
            assert connection.exec_driver_sql("SHOW application_name").scalar() == "mine"


@pytest.mark.parametrize("pooler", ["on", "off"])
def test_every_transaction_is_told_what_keeps_it_safe(postgres_url: str, pooler: str) -> None:
    with PostgresStore(f"{postgres_url}&pooler={pooler}&lock_timeout=1.5&options=-c%20work_mem%3D3MB") as store:
        for opened in (store._reading, store._writing, store._looking):
            with opened() as connection:
                found = [
                    connection.exec_driver_sql(f"SHOW {name}").scalar()
                    for name in ("opdispatch.writer", "lock_timeout", "statement_timeout", "timezone", "work_mem")
                ]
                assert found == ["on", "1500ms", "30s", "UTC", "3MB"]


@pytest.mark.parametrize(
    ("source", "place", "found"),
    [
        ("postgresql:runs", "store", "it is not a URL"),
        ("postgresql://ada:hush@host:port/runs", "store", "it is not a URL"),
        ("postgresql://ada:hush@[::1/runs", "store", "it is not a URL"),
        ("mysql://ada:hush@host/runs", "store", "mysql is not supported"),
        ("postgresql://ada:hush@host", "store", r"postgresql://ada:\*\*\*@host names no database"),
        ("postgresql://ada@host?password=hush", "store", "postgresql://ada@host names no database"),
        ("postgresql://ada:hush@host/runs?pool_size=0", "store.pool_size", "0 is not above zero"),
        ("postgresql://ada:hush@host/runs?pool_size=few", "store.pool_size", "'few' is not a value for it"),
        ("postgresql://ada:hush@host/runs?pool_wait=nan", "store.pool_wait", "'nan' is not a value for it"),
        ("postgresql://ada:hush@host/runs?pool_wait=1e999", "store.pool_wait", "'1e999' is not a value for it"),
        ("postgresql://ada:hush@host/runs?lock_timeout=-1", "store.lock_timeout", "is not above zero"),
        ("postgresql://ada:hush@host/runs?listen=maybe", "store.listen", "'maybe' is not a value for it"),
        ("postgresql://ada:hush@host/runs?known=1&known=none", "store.known", "is not a value for it"),
        ("postgresql://ada:hush@host/runs?mood=good", "store", 'invalid connection option "mood"'),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_and_shows_no_password(source: str, place: str, found: str) -> None:
    with pytest.raises(InvalidInput, match=found) as refused:
        PostgresStore(source)

    assert [problem.place for problem in refused.value.problems] == [place]
    shown: BaseException | None = refused.value
    while shown is not None:
        assert "hush" not in str(shown)
        shown = shown.__cause__


def test_several_hosts_are_tried_in_turn(postgres_url: str) -> None:
    parts = urlsplit(postgres_url)
    login = parts.netloc.rpartition("@")[0]
    hosts = f"host=127.0.0.1&port=1&host={parts.hostname}&port={parts.port}"

    with PostgresStore(f"postgresql://{login}@{parts.path}?{parts.query}&{hosts}") as store:
        assert store.list() == ()


def test_a_source_is_a_postgresql_database_or_a_file(postgres_url: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    migrate(path)

    with open_store(postgres_url) as there, open_store(path) as here:
        assert (type(there), type(here)) == (PostgresStore, SqliteStore)
        assert is_postgres("postgres://host/runs")
        assert not is_postgres(path)


def test_without_the_driver_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(InvalidInput, match=r"pip install 'opdispatch\[postgres\]'"):
        open_store("postgresql://host/runs")


# -- a server that does not let in --


def refusal(source: str, settings: PostgresSettings | None = None) -> str:
    """What is said when this source is opened: where it was, and no password."""
    with pytest.raises(OpdispatchError) as refused:
        PostgresStore(source, settings=settings)
    told = str(refused.value)
    assert isinstance(refused.value, Unavailable)
    assert told.startswith("store postgresql://")
    password = urlsplit(source).password
    assert password is None or password not in told
    return told


def test_a_wrong_password_is_told(postgres_server: Server) -> None:
    told = refusal(postgres_server.url_of("postgres", user="nobody", password="hush"))

    assert told.endswith("; check user and password")


def test_a_role_that_may_not_log_in_is_told(postgres_server: Server, postgres_url: str) -> None:
    with a_role(postgres_server, postgres_url, "NOLOGIN") as url:
        assert refusal(url).endswith("; check user and password, and what the server lets in")


def test_a_database_that_is_not_there_is_told(postgres_server: Server) -> None:
    assert refusal(postgres_server.url_of("nowhere")).endswith("; create the database, or name another")


@pytest.mark.parametrize(
    "source",
    ["postgresql://ada:hush@127.0.0.1:1/runs", "postgresql:///runs?host=/nowhere", "postgresql://no.invalid/r"],
)
def test_a_server_that_is_not_there_is_told(source: str) -> None:
    assert refusal(source).endswith("; check host and port, and that the server runs")


def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_was_said(postgres_url: str) -> None:
    with Proxy(postgres_url) as proxy:
        proxy.silence()
        began = time.monotonic()

        told = refusal(f"{proxy.url}&connect_timeout=1")

        assert time.monotonic() - began < 20
        assert "timeout" in told
        proxy.heal()


def test_a_server_that_is_full_is_told(postgres_server: Server, postgres_url: str) -> None:
    with a_role(postgres_server, postgres_url, "LOGIN CONNECTION LIMIT 0") as url:
        assert refusal(url).endswith("; lower pool_size, or let the server take more connections")


def test_a_role_that_may_not_connect_is_told(postgres_server: Server, postgres_url: str) -> None:
    database = urlsplit(postgres_url).path.removeprefix("/")
    with a_role(postgres_server, postgres_url) as url:
        changed(postgres_url, f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")
        assert refusal(url).endswith("; grant the role CONNECT on the database")


def test_a_role_that_may_not_read_is_told(postgres_server: Server, postgres_url: str) -> None:
    with (
        a_role(postgres_server, postgres_url, "LOGIN", "SELECT ON opdispatch_revision") as url,
        PostgresStore(url) as store,
        pytest.raises(Unavailable, match="permission denied for table operation_run; grant the role what it needs"),
    ):
        store.list()


def test_a_value_of_the_driver_that_is_none_is_told(postgres_url: str) -> None:
    assert refusal(postgres_url.replace("sslmode=disable", "sslmode=odd")).endswith("; mend the query of the URL")


# -- what the database is --


def test_a_database_that_was_not_migrated_names_the_remedy(postgres_server: Server) -> None:
    url = postgres_server.create()
    try:
        assert "at revision base" in refusal(url)
        assert refusal(url).endswith("run `opdispatch store migrate` while no dispatcher is running")
    finally:
        postgres_server.drop(url)


def test_a_database_of_a_newer_version_is_left_alone(postgres_url: str) -> None:
    changed(postgres_url, "UPDATE opdispatch_revision SET version_num = '9999'")

    with pytest.raises(CorruptRecord, match=r"newer version \(revision '9999'\); use that version of opdispatch"):
        PostgresStore(postgres_url)


def test_tables_that_are_not_ours_any_more_are_told(postgres_url: str, store: PostgresStore) -> None:
    changed(postgres_url, "ALTER TABLE operation_run RENAME COLUMN wake_at TO woken_at")

    with pytest.raises(CorruptRecord, match="its tables are not those of this version"):
        store.list()


def test_the_store_can_be_used_after_it_was_closed(store: PostgresStore) -> None:
    run_id = store.create(a_run()).id
    store.close()

    assert store.get(run_id).run.id == run_id
    assert "***" in store.name


# -- waiting --


def test_a_run_that_another_process_holds_is_not_waited_for(postgres_url: str, store: PostgresStore) -> None:
    run_id = store.create(a_run()).id

    with PostgresStore(postgres_url) as other, other.lock(run_id, NO_WAIT) as held:
        assert held is not None
        with store.lock(run_id, NO_WAIT) as again:
            assert again is None
        with store.lock(run_id, SOON) as again:
            assert again is None
        store.wake(run_id)
        assert store.due(1, SOON) == ()
        assert store.get(run_id).run.status is RunStatus.PENDING

    a_round(store, run_id)


def test_a_run_that_a_thread_of_ours_holds_is_waited_for_without_a_connection(store: PostgresStore) -> None:
    run_id = store.create(a_run()).id

    with store.lock(run_id, NO_WAIT) as held:
        assert held is not None
        with store.lock(run_id, SOON) as again:
            assert again is None

    a_round(store, run_id)


@pytest.mark.parametrize("here", [True, False], ids=["by a thread", "by another process"])
def test_a_run_that_is_let_go_in_time_is_locked(postgres_url: str, here: bool) -> None:
    with PostgresStore(postgres_url) as store, PostgresStore(postgres_url) as other:
        run_id = store.create(a_run()).id
        locked, let_go = threading.Event(), threading.Event()

        def hold() -> None:
            with (store if here else other).lock(run_id, NO_WAIT):
                locked.set()
                let_go.wait(30)

        def is_awaited() -> bool:
            with psycopg.connect(postgres_url, autocommit=True) as connection:
                asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
                found = connection.execute(asked, [urlsplit(postgres_url).path[1:]]).fetchone()
            return here or found == (1,)

        holder = threading.Thread(target=hold)
        holder.start()
        assert locked.wait(30)

        def free() -> None:
            eventually(is_awaited)
            let_go.set()

        freeing = threading.Thread(target=free)
        freeing.start()
        with store.lock(run_id, timedelta(seconds=30)) as held:
            assert held is not None
        holder.join()
        freeing.join()


def test_a_run_that_goes_while_it_is_waited_for_is_busy_and_then_not_found(
    postgres_url: str, store: PostgresStore
) -> None:
    run_id = store.create(a_run()).id
    with by_hand(postgres_url) as connection:
        connection.execute("DELETE FROM operation_run")
        waited: list[object] = []

        def wait() -> None:
            with store.lock(run_id, timedelta(seconds=30)) as held:
                waited.append(held)

        waiting = threading.Thread(target=wait)
        waiting.start()
        eventually(lambda: connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone())
        connection.commit()
        waiting.join()

    assert waited == [None]
    with pytest.raises(NotFound), store.lock(run_id, NO_WAIT):
        pass


def test_a_write_that_waits_too_long_for_a_run_says_so(postgres_url: str, store: PostgresStore) -> None:
    run_id = store.create(a_run()).id
    with (
        PostgresStore(postgres_url) as other,
        other.lock(run_id, NO_WAIT),
        pytest.raises(Unavailable, match=r"lock timeout .*; try again later"),
    ):
        store.report(run_id, "trouble", lambda _: SOON, 9)

    assert store.get(run_id).trouble is None


def test_any_other_trouble_of_a_hint_is_told(postgres_url: str, store: PostgresStore) -> None:
    run_id = store.create(a_run()).id
    with Proxy(postgres_url) as proxy, PostgresStore(proxy.url, clock=lambda: NOW + SOON) as other:
        proxy.arm(Moment.BEFORE, matching=lambda statement: statement.verb == "UPDATE")
        with pytest.raises(Unavailable, match="connection"):
            other.wake(run_id)


def test_a_process_that_waits_for_a_connection_says_when_there_is_none(postgres_url: str) -> None:
    with PostgresStore(postgres_url, settings=attrs.evolve(QUICK, pool_size=1)) as store:
        run_id = store.create(a_run()).id
        with (
            store.lock(run_id, NO_WAIT),
            pytest.raises(Unavailable, match="all its connections are in use; raise pool_s"),
        ):
            store.get(run_id)

        assert store.get(run_id).run.id == run_id


@pytest.mark.parametrize("more", ["pool_size=1", "pooler=on", "pool_size=1&known=1&pooler=on"])
def test_one_connection_or_a_pooler_is_enough_for_everything(postgres_url: str, more: str) -> None:
    with PostgresStore(f"{postgres_url}&pool_wait=1&{more}") as store:
        runs = [store.create(a_run(6, name=f"run {number}")).id for number in range(2)]
        with Dispatcher(store, InstantTasks(), Settings(poll=SOON), listen=store.listening) as dispatcher:
            dispatcher.command(runs[0], Pause(command_id=CommandId("p"), actor="ada"))
            eventually(lambda: store.get(runs[1]).run.status.is_terminal)
            assert not store.get(runs[0]).run.status.is_terminal
            dispatcher.command(runs[0], Cancel(command_id=CommandId("c"), actor="ada"))
            eventually(lambda: store.get(runs[0]).run.status.is_terminal)
        assert store.check() == ()


def test_a_statement_that_takes_too_long_is_ended(postgres_url: str) -> None:
    url = f"{postgres_url}&statement_timeout=0.1&lock_timeout=30"
    with PostgresStore(url) as store, psycopg.connect(postgres_url) as connection:
        connection.execute("LOCK TABLE operation_run IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Unavailable, match="statement timeout"):
            store.list()
        connection.rollback()

        assert store.list() == ()


def test_a_dispatcher_that_hangs_in_a_transaction_loses_its_lock(postgres_url: str, store: PostgresStore) -> None:
    run_id = store.create(a_run()).id
    with PostgresStore(f"{postgres_url}&idle_in_transaction_timeout=1&pool_size=1") as hanging:
        with pytest.raises(Unavailable, match="is not available"), hanging.lock(run_id, NO_WAIT) as held:
            assert held is not None
            held.load((), Limits())
            eventually(lambda: locked_now(store, run_id), what="the lock, for somebody else")
            held.replied(Pause(command_id=CommandId("too late"), actor="operator"))
        before = hanging.get(run_id)
        a_round(hanging, run_id)

    assert before.run.status is RunStatus.PENDING
    assert store.get(run_id).run.status is RunStatus.RUNNING


def locked_now(store: PostgresStore, run_id: Any) -> bool:
    with store.lock(run_id, NO_WAIT) as held:
        return held is not None


def test_time_is_the_database_s(postgres_url: str) -> None:
    with PostgresStore(postgres_url) as store, psycopg.connect(postgres_url) as connection:
        run_id = store.create(a_run()).id
        wake_at = store.get(run_id).wake_at
        row = connection.execute("SELECT clock_timestamp()").fetchone()

    assert row is not None
    assert wake_at is not None
    assert abs(row[0] - wake_at) < timedelta(seconds=30)
    assert wake_at > NOW


# -- what cannot be stored --


@pytest.mark.parametrize("text", ["a\0b", "\udcff"], ids=["NUL", "a lone surrogate"])
def test_a_text_that_is_none_is_refused_and_nothing_is_stored(store: PostgresStore, text: str) -> None:
    new = a_run()
    there = store.create(a_run(name="there")).id
    actor = replace(new, actor=text)
    target = replace(new, targets=(replace(new.targets[0], message=text), *new.targets[1:]))
    for odd in (actor, target):
        with pytest.raises(InvalidInput, match="cannot be stored"):
            store.create(odd)
    with pytest.raises(InvalidInput, match="cannot be stored"):
        store.report(there, text, lambda _: SOON, 9)
    decision = a_round(store, there)
    found = accepted(decision)[0]
    assert isinstance(found, SubmissionAccepted)
    with pytest.raises(InvalidInput, match="cannot be stored"):
        a_round(store, there, replace(found, task_id=TaskId(text)))

    assert [line.run_id for line in store.list()] == [there]
    assert store.get(there).phases[0].claimed == 2
    assert store.check() == ()


def test_texts_with_every_sign_of_an_array_come_back_as_they_were(store: PostgresStore) -> None:
    run_id = store.create(a_run(2, quota=2)).id
    odd = '{"a\\\\b", NULL} \'é\n%s'
    first, second = accepted(a_round(store, run_id))
    assert isinstance(first, SubmissionAccepted)
    assert isinstance(second, SubmissionAccepted)

    refused = SubmissionRefused(target_id=second.target_id, attempt=1, fence=1, message=odd)
    a_round(store, run_id, replace(first, task_id=TaskId(odd)), refused)

    one, other = store.targets(run_id)
    assert (one.task_id, other.message, other.status) == (odd, odd, TargetStatus.FAILED)


# -- two at once --


def test_two_that_create_the_same_run_at_once_have_one_run(postgres_url: str) -> None:
    """The second looks before the first commits, and inserts after."""
    with Proxy(postgres_url) as proxy, PostgresStore(proxy.url) as slow, PostgresStore(postgres_url) as quick:
        made: list[object] = []
        proxy.arm(
            Moment.BEFORE,
            matching=lambda statement: statement.text.startswith("INSERT INTO operation_run "),
            effect=lambda _: made.append(quick.create(a_run())),
        )

        found = slow.create(a_run())

        assert made == [found]
        assert len(slow.list()) == 1
        assert len(slow.targets(found.id)) == 4
        assert slow.check() == ()


def test_two_that_create_different_runs_with_one_command_are_told_apart(postgres_url: str) -> None:
    other = a_run()
    other = replace(other, run=replace(other.run, rollout=replace(other.run.rollout, max_concurrent_targets=3)))
    made: list[Run] = []
    with Proxy(postgres_url) as proxy, PostgresStore(proxy.url) as slow, PostgresStore(postgres_url) as quick:
        proxy.arm(
            Moment.BEFORE,
            matching=lambda statement: statement.text.startswith("INSERT INTO operation_run "),
            effect=lambda _: made.append(quick.create(a_run())),
        )
        with pytest.raises(InvalidInput, match=r"made run .* of another rollout"):
            slow.create(other)

        assert [line.run_id for line in slow.list()] == [one.id for one in made]


def test_threads_and_processes_that_take_due_runs_never_take_one_twice(postgres_url: str) -> None:
    with PostgresStore(postgres_url) as store, PostgresStore(postgres_url) as other:
        runs = {store.create(a_run(1, name=f"run {number}")).id for number in range(40)}
        taken: list[Any] = []

        def take(from_: PostgresStore) -> None:
            while found := from_.due(3, timedelta(minutes=1)):
                taken.extend(found)

        threads = [threading.Thread(target=take, args=(one,)) for one in (store, other, store, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(taken) == 40
        assert set(taken) == runs


# -- hearing --


class Ear:
    """Counts what is heard."""

    def __init__(self) -> None:
        self.times = 0
        self.deaf = threading.Event()
        self.deaf.set()

    def __call__(self) -> None:
        self.times += 1
        self.deaf.wait(30)

    def hears(self, act: Callable[[], object]) -> None:
        before = self.times
        act()
        eventually(lambda: self.times > before, what="a notification")


def hearing(store: PostgresStore, ear: Ear, listener: object) -> None:
    """Wait until it listens, and has said so once."""
    assert listener is not None
    eventually(lambda: ear.times > 0 and backends_idle(store), what="the listener")


def backends_idle(store: PostgresStore) -> bool:
    return bool(backends(store.url.render_as_string(hide_password=False), "listener"))


def test_new_runs_and_commands_of_other_processes_are_heard(postgres_url: str, store: PostgresStore) -> None:
    ear = Ear()
    with PostgresStore(postgres_url) as other, store.listening(ear) as listener:
        hearing(store, ear, listener)
        ear.hears(lambda: other.create(a_run()))
        run_id = other.list()[0].run_id
        ear.hears(lambda: a_command(other, run_id, Pause(command_id=CommandId("p"), actor="ada")))
        other.report(run_id, "trouble", lambda _: SOON, 1)
        ear.hears(lambda: other.release(run_id))


def test_many_notifications_at_once_are_heard_as_few(postgres_url: str, store: PostgresStore) -> None:
    ear = Ear()
    with psycopg.connect(postgres_url, autocommit=True) as connection, store.listening(ear) as listener:
        hearing(store, ear, listener)
        ear.deaf.clear()
        ear.hears(lambda: connection.execute("NOTIFY opdispatch_run, 'first'"))
        for number in range(50):
            connection.execute("SELECT pg_notify('opdispatch_run', %s)", [str(number)])
        before = ear.times
        ear.hears(ear.deaf.set)

    assert ear.times - before <= 3


def test_a_listener_that_is_cut_off_comes_back_and_says_so_once_each_way(
    postgres_url: str, store: PostgresStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "opdispatch.store")
    ear = Ear()
    with store.listening(ear) as listener:
        hearing(store, ear, listener)
        ear.hears(lambda: terminate(postgres_url, backends(postgres_url, "listener")))
        eventually(lambda: backends(postgres_url, "listener"))
        ear.hears(lambda: store.create(a_run()))

    gone, back = caplog.messages
    assert gone.startswith("notifications are not heard, so new runs and commands are noticed ")
    assert back == "notifications of new runs and commands are heard again"


def test_a_listener_that_cannot_come_back_says_so_once_and_goes_on_trying(
    postgres_url: str, store: PostgresStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "_RETRY_SECONDS", (0.01,))
    caplog.set_level(logging.INFO, "opdispatch.store")
    ear = Ear()
    with Proxy(postgres_url) as proxy, PostgresStore(proxy.url) as other, other.listening(ear) as listener:
        hearing(store, ear, listener)
        for number in (1, 2, 3):
            proxy.arm(Moment.BEFORE, number, matching=lambda statement: statement.verb == "LISTEN")
        before = proxy.connections
        proxy.cut()
        eventually(lambda: proxy.connections >= before + 4)
        eventually(lambda: len(caplog.messages) == 2)
        ear.hears(lambda: store.create(a_run()))

    assert len(caplog.messages) == 2


def test_a_listener_that_hears_nothing_looks_whether_it_is_still_connected(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "_LOOK_SECONDS", 0.01)
    ear = Ear()
    with Proxy(postgres_url) as proxy, PostgresStore(proxy.url) as store, store.listening(ear):
        eventually(lambda: sum(statement.text == "SELECT 1" for statement in proxy.statements) > 2)

    assert ear.times == 1


@pytest.mark.parametrize("silent", ["no", "while it listens", "while it connects"])
def test_a_listener_stops_at_once_and_tells_nothing_afterwards(postgres_url: str, silent: str) -> None:
    ear = Ear()
    with Proxy(postgres_url) as proxy, PostgresStore(f"{proxy.url}&connect_timeout=30") as store:
        connections = proxy.connections
        if silent == "while it connects":
            proxy.silence()
        with store.listening(ear) as listener:
            assert listener is not None
            if silent == "while it connects":
                eventually(lambda: proxy.connections > connections)
            else:
                eventually(lambda: ear.times)
            if silent == "while it listens":
                proxy.silence()
            began = time.monotonic()
        took, before = time.monotonic() - began, ear.times
        proxy.heal()
        eventually(lambda: not backends(postgres_url, "listener"))

    assert took < 5
    assert ear.times == before


@pytest.mark.parametrize("more", ["listen=off", "pooler=on"])
def test_where_there_are_no_notifications_nothing_listens(postgres_url: str, more: str) -> None:
    with PostgresStore(f"{postgres_url}&{more}") as store, store.listening(Ear()) as listener:
        assert listener is False
        assert backends(postgres_url, "listener") == []


@pytest.mark.parametrize("more", ["listen=off", "pooler=on"])
def test_where_nothing_is_heard_the_loop_asks_and_waits_for_no_poll(postgres_url: str, more: str) -> None:
    settings, tasks = Settings(poll=timedelta(hours=1), glance=timedelta(seconds=0.01)), InstantTasks()
    with (
        PostgresStore(f"{postgres_url}&{more}") as store,
        Dispatcher(store, tasks, settings, listen=store.listening) as dispatcher,
        PostgresStore(postgres_url) as other,
    ):
        eventually(lambda: dispatcher.age is not None, what="a first pass")
        other.create(a_run())
        eventually(lambda: bool(tasks.submitted), what="a submission")


def test_who_cannot_pass_on_what_it_heard_hears_the_next(
    postgres_url: str, store: PostgresStore, caplog: pytest.LogCaptureFixture
) -> None:
    ear = Ear()

    def heard() -> None:
        ear()
        raise RuntimeError("nobody is there")

    with PostgresStore(postgres_url) as other, store.listening(heard) as listener:
        hearing(store, ear, listener)
        ear.hears(lambda: other.create(a_run(name="one")))
        ear.hears(lambda: other.create(a_run(name="two")))

    assert set(caplog.messages) == {"a notification was heard, and could not be passed on"}


@pytest.mark.parametrize(
    "setting",
    ["default_transaction_isolation TO 'repeatable read'", "default_transaction_isolation TO 'serializable'"],
)
@pytest.mark.parametrize("more", ["", "&pooler=on"])
def test_a_lock_is_waited_for_however_the_database_isolates(postgres_url: str, setting: str, more: str) -> None:
    set_in(postgres_url, setting)
    with PostgresStore(f"{postgres_url}{more}") as holder, PostgresStore(f"{postgres_url}{more}") as other:
        run_id = holder.create(a_run()).id
        found: list[object] = []

        def wait() -> None:
            with other.lock(run_id, timedelta(seconds=30)) as held:
                found.append(held is not None)
            found.append(other.report(run_id, "trouble", lambda _: SOON, 9).count)

        with holder.lock(run_id, NO_WAIT) as held:
            assert held is not None
            waiter = threading.Thread(target=wait)
            waiter.start()
            eventually(lambda: waits_for_a_lock(postgres_url), what="a wait for the lock")
            state = held.load((), Limits())
            held.apply(state, decide(state), actor="d", served=True)
        waiter.join()

    assert found == [True, 1]


def test_instants_are_read_however_the_database_shows_them(postgres_url: str) -> None:
    set_in(postgres_url, "datestyle TO 'German'")
    with PostgresStore(postgres_url) as store, PostgresStore(f"{postgres_url}&pooler=on") as pooled:
        run_id = store.create(a_run()).id
        assert store.get(run_id) == pooled.get(run_id)
        assert store.next_due() == timedelta(0)


def test_text_is_unicode_whatever_the_host_says(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "SQL_ASCII")

    with PostgresStore(postgres_url) as store:
        run_id = store.create(a_run()).id
        assert store.get(run_id).run.name == "firmware"
    assert migrate(postgres_url)[1] == REVISIONS[-1]


def set_in(url: str, setting: str) -> None:
    """Have the database say otherwise, to whoever connects from now on."""
    with psycopg.connect(url, autocommit=True) as connection:
        statement = SQL(f"ALTER DATABASE {{}} SET {setting}")
        connection.execute(statement.format(Identifier(connection.info.dbname)))


def waits_for_a_lock(url: str) -> bool:
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ).fetchone()
    return found is not None and found[0] > 0


def test_a_listener_that_was_stopped_does_nothing_more(postgres_url: str) -> None:
    ear = Ear()
    url, settings = url_of(postgres_url)
    stopped = listen.Listener(url, settings, ear)
    stopped._stopping.set()

    stopped._listen()
    stopped._tell()

    assert ear.times == 0
    assert backends(postgres_url, "listener") == []


def test_a_listener_that_is_stopped_while_it_hears_nothing_does_not_try_its_connection(postgres_url: str) -> None:
    url, settings = url_of(postgres_url)
    listener = listen.Listener(url, settings, Ear())

    class Silent:
        def notifies(self, **_: object) -> list[object]:
            listener._stopping.set()
            return []

    listener._hear(Silent())  # type: ignore[arg-type]


# -- waiting for a run --


def test_a_hint_for_a_run_that_is_held_too_long_is_lost(postgres_url: str, store: PostgresStore) -> None:
    run_id = store.create(a_run()).id
    store.due(1, timedelta(minutes=1))
    with PostgresStore(postgres_url) as other, other.lock(run_id, NO_WAIT):
        store.wake(run_id)

    assert store.get(run_id).wake_at == NOW + timedelta(minutes=1)


def test_a_connection_that_breaks_while_a_run_is_waited_for_is_told(postgres_url: str, store: PostgresStore) -> None:
    run_id = store.create(a_run()).id
    with Proxy(postgres_url) as proxy, PostgresStore(proxy.url) as other, store.lock(run_id, NO_WAIT):
        proxy.arm(Moment.BEFORE, matching=lambda one: "FOR NO KEY UPDATE" in one.text and "SKIP LOCKED" not in one.text)
        with pytest.raises(Unavailable, match="connection"), other.lock(run_id, timedelta(seconds=30)):
            pass


# -- connections that ended meanwhile --


def test_connections_that_the_server_ended_meanwhile_are_no_trouble_of_the_next_operation(
    postgres_url: str, store: PostgresStore
) -> None:
    run_id = store.create(a_run()).id
    with store._reading(), store._reading():
        ended = backends(postgres_url, "store")
    assert len(ended) == 2

    terminate(postgres_url, ended)

    with store._reading(), store._reading():
        assert not set(ended) & set(backends(postgres_url, "store"))
    assert store.get(run_id).run.revision == 0


# -- records that cannot be read, and counts that are wrong --


def test_a_run_of_a_newer_version_is_told_and_left_as_it_is(postgres_url: str, store: PostgresStore) -> None:
    run_id, good = store.create(a_run()).id, store.create(a_run(name="good")).id
    changed(
        postgres_url,
        f"""UPDATE operation_run SET selector = '{{"kind": "lottery", "payload": {{}}}}' WHERE id = '{run_id}'""",
    )

    with PostgresStore(postgres_url) as fresh:
        for read in (fresh.get, lambda run_id: a_round(fresh, run_id)):
            with pytest.raises(CorruptRecord, match=f'run {run_id}, column selector .*unknown kind "lottery"'):
                read(run_id)
        listed = {line.run_id: line for line in fresh.list()}
        assert listed[good].trouble is None
        assert isinstance(listed[run_id].trouble, Trouble)
        assert fresh.report(run_id, "cannot be read", lambda _: SOON, 1).quarantined_at is not None
        assert fresh.release(run_id)
        assert fresh.release(run_id) is False


@pytest.mark.parametrize(
    ("statement", "place"),
    [
        ("UPDATE operation_run_target SET components_by_type = '[]'", "target {target}, column components_by_type"),
        ("UPDATE operation_run_target SET status = 'sleeping'", "target {target}"),
        ("UPDATE operation_run_target SET status = 'claimed', lease_until = NULL", "target {target}"),
        ("UPDATE operation_run_target SET status = 'submitted', task_ref = NULL", "target {target}"),
        ("UPDATE operation_run SET accepted = '7'", "column accepted"),
        ("UPDATE operation_run SET status_reason = 'mood'", "'mood' is not a valid StatusReason"),
        ("UPDATE operation_run SET options = '{}'", "column options"),
    ],
)
def test_a_row_that_cannot_be_is_told_by_its_name(
    postgres_url: str, store: PostgresStore, statement: str, place: str
) -> None:
    run_id = store.create(a_run(1)).id
    a_round(store, run_id)
    (found,) = store.targets(run_id)
    changed(
        postgres_url,
        *(
            f"ALTER TABLE {name.rpartition(' ')[0]} DROP CONSTRAINT {name.rpartition(' ')[2]}"
            for name in (
                "operation_run_target operation_run_target_status_check",
                "operation_run_target operation_run_target_lease_check",
                "operation_run_target operation_run_target_task_check",
                "operation_run operation_run_status_reason_check",
            )
        ),
        statement,
    )

    with PostgresStore(postgres_url) as fresh, pytest.raises(CorruptRecord, match=f"run {run_id}.*") as told:
        fresh.targets(run_id)
        a_round(fresh, run_id)
        fresh.get(run_id)

    assert place.format(target=found.id) in str(told.value)


def test_an_instant_that_is_none_is_told(postgres_url: str, store: PostgresStore) -> None:
    run_id = store.create(a_run()).id
    changed(postgres_url, "UPDATE operation_run SET wake_at = 'infinity'")

    with pytest.raises(CorruptRecord, match=r"a value cannot be read: .*infinity"):
        store.get(run_id)


def test_a_journal_entry_that_cannot_be_read_names_its_column(postgres_url: str, store: PostgresStore) -> None:
    run_id = store.create(a_run()).id
    a_round(store, run_id)
    changed(postgres_url, "UPDATE operation_run_journal SET steps = '[]'")

    with pytest.raises(CorruptRecord, match="journal entry 1, column steps"):
        store.journal(run_id)


def test_counters_and_cursors_that_were_changed_by_hand_are_found(postgres_url: str, store: PostgresStore) -> None:
    run_id = store.create(a_run()).id
    a_round(store, run_id)
    changed(postgres_url, "UPDATE operation_run_phase SET completed = 3, in_flight = '{1,4}', next_seq = 4")

    assert store.check() == (
        f"run {run_id}, phase 0: 3 targets are counted as completed, and 0 are",
        f"run {run_id}, phase 0: targets in flight are noted at 1, 4, and stand at 0, 1",
        f"run {run_id}, phase 0: a pending target stands at 2, below 4",
    )


def test_counters_that_are_gone_are_found(postgres_url: str, store: PostgresStore) -> None:
    run_id = store.create(a_run()).id
    changed(postgres_url, "DELETE FROM operation_run_phase")

    assert store.check() == (f"run {run_id}, phase 0: it has targets and no counters",)


def test_a_run_whose_counters_miss_a_target_in_flight_is_not_decided_on(
    postgres_url: str, store: PostgresStore
) -> None:
    run_id = store.create(a_run()).id
    a_round(store, run_id)
    changed(postgres_url, "UPDATE operation_run_phase SET in_flight = '{1}'")

    with PostgresStore(postgres_url) as fresh:
        with pytest.raises(CorruptRecord, match="2 targets are counted in flight, and 1 are"):
            a_round(fresh, run_id)
        with pytest.raises(CorruptRecord, match="run `opdispatch store check`"):
            fresh.unsettled(run_id)


def test_a_target_that_was_changed_under_our_lock_undoes_the_decision(postgres_url: str, store: PostgresStore) -> None:
    run_id = store.create(a_run()).id
    with pytest.raises(Unavailable, match="a row of it changed under its lock"), store.lock(run_id, NO_WAIT) as held:
        assert held is not None
        state = held.load((), Limits())
        changed(postgres_url, "UPDATE operation_run_target SET fence = fence + 1 WHERE sequence_index = 0")
        held.apply(state, decide(state), actor="dispatcher", served=True)

    assert store.get(run_id).run.revision == 0
    assert store.journal(run_id) == ()
    a_round(store, run_id)
    assert store.check() == ()


# -- people who go round the Python --


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("UPDATE operation_run SET status = 'paussed'", "operation_run_status_check"),
        ("UPDATE operation_run SET status_reason = 'mood'", "operation_run_status_reason_check"),
        ("UPDATE operation_run SET status = 'completed'", "operation_run_finished_check"),
        ("UPDATE operation_run SET current_phase_index = -1", "operation_run_current_phase_index_check"),
        ("UPDATE operation_run SET total_phases = -1", "operation_run_total_phases_check"),
        ("UPDATE operation_run SET current_phase_index = 5", "operation_run_opened_phase_check"),
        ("UPDATE operation_run SET revision = -1", "operation_run_revision_check"),
        ("UPDATE operation_run SET quarantined_at = created_at", "operation_run_error_check"),
        ("UPDATE operation_run_target SET status = 'done'", "operation_run_target_status_check"),
        ("UPDATE operation_run_target SET lease_until = created_at", "operation_run_target_lease_check"),
        ("UPDATE operation_run_target SET retry_at = created_at", "operation_run_target_retry_check"),
        ("UPDATE operation_run_target SET status = 'submitted', fence = 1", "operation_run_target_task_check"),
        ("UPDATE operation_run_target SET task_ref = 't'", "operation_run_target_task_check"),
        (
            "UPDATE operation_run_target SET status = 'claimed', lease_until = created_at",
            "operation_run_target_fence_check",
        ),
        ("UPDATE operation_run_target SET attempt = 0", "operation_run_target_attempt_check"),
        ("UPDATE operation_run_target SET conflict_since = created_at", "operation_run_target_conflict_check"),
        ("UPDATE operation_run_target SET cancel_due = created_at", "operation_run_target_cancel_check"),
        ("UPDATE operation_run_target SET phase_index = -1", "operation_run_target_phase_index_check"),
        (
            "UPDATE operation_run_target SET sequence_index = -1 WHERE sequence_index = 0",
            "operation_run_target_sequence_index_check",
        ),
        (
            "UPDATE operation_run_target SET sequence_index = 0",
            "operation_run_target_operation_run_id_sequence_index_key",
        ),
        (
            "UPDATE operation_run_target SET rack_id = (SELECT min(rack_id::text)::uuid FROM operation_run_target)",
            "operation_run_target_operation_run_id_rack_id_key",
        ),
        ("UPDATE operation_run_phase SET pending = -1", "operation_run_phase_counts_check"),
        ("UPDATE operation_run_phase SET phase_index = -1", "operation_run_phase_phase_index_check"),
        ("UPDATE operation_run_phase SET next_seq = -1", "operation_run_phase_cursors_check"),
        ("UPDATE operation_run_journal SET number = 0", "operation_run_journal_number_check"),
    ],
)
def test_the_database_refuses_what_cannot_be(
    postgres_url: str, store: PostgresStore, statement: str, constraint: str
) -> None:
    run_id = store.create(a_run()).id
    if "journal" in statement:
        a_round(store, run_id)

    with pytest.raises(psycopg.IntegrityError) as refused:
        changed(postgres_url, statement)

    assert refused.value.diag.constraint_name == constraint


def test_nobody_can_write_a_lane(postgres_url: str, store: PostgresStore) -> None:
    store.create(a_run())

    with pytest.raises(psycopg.errors.GeneratedAlways):
        changed(postgres_url, "UPDATE operation_run_target SET lane = 3")


def test_what_the_database_refuses_is_told(postgres_url: str, store: PostgresStore) -> None:
    run_id = store.create(a_run()).id
    changed(postgres_url, "ALTER TABLE operation_run_phase ADD CONSTRAINT no_claims CHECK (claimed = 0)")

    with pytest.raises(CorruptRecord, match=r"refused a change: .*no_claims.*; run `opdispatch store check`"):
        a_round(store, run_id)

    assert store.get(run_id).run.revision == 0


def test_a_damaged_page_is_told(store: PostgresStore) -> None:
    told = core_error(store.name, psycopg.errors.DataCorrupted("invalid page in block 7"))

    assert isinstance(told, CorruptRecord)
    assert str(told).endswith("invalid page in block 7; look at the server's log; restore the database from a copy")


def test_an_error_of_sqlalchemy_itself_is_told(store: PostgresStore) -> None:
    with pytest.raises(Unavailable, match="no row"), translated(store.name):
        raise NoResultFound("no row")


def test_a_value_that_does_not_fit_is_told(store: PostgresStore) -> None:
    told = core_error(store.name, psycopg.errors.StringDataRightTruncation("value too long"))

    assert isinstance(told, InvalidInput)
    assert "a value cannot be stored: value too long" in str(told)


def test_a_value_that_cannot_be_read_is_told(store: PostgresStore) -> None:
    with pytest.raises(CorruptRecord, match="no date"), translated(store.name):
        raise Unreadable("no date")


# -- every way in which a target is written --


def test_targets_that_change_alike_and_otherwise_come_back_as_they_were_decided(store: PostgresStore) -> None:
    """Several conflicts, acceptances and ends in one round: some parts are plain, and some are written whole."""
    run_id = store.create(a_run(8, quota=6)).id
    answers = accepted(a_round(store, run_id))
    assert all(isinstance(one, SubmissionAccepted) for one in answers)
    busy = [
        SubmissionConflicted(target_id=one.target_id, attempt=1, fence=1, message="busy")
        for one in answers[:2]
        if isinstance(one, SubmissionAccepted)
    ]
    uuid = "0b9f6a52-0000-4000-8000-000000000001"
    third = answers[2]
    assert isinstance(third, SubmissionAccepted)
    seen: list[Observation] = [*busy, replace(third, task_id=TaskId(uuid)), *answers[3:]]

    a_round(store, run_id, *seen)
    a_round(store, run_id, *over(store.targets(run_id)[2:4]))
    found = store.targets(run_id)

    assert [target.status for target in found[:4]] == [TargetStatus.BLOCKED] * 2 + [TargetStatus.COMPLETED] * 2
    assert store.check() == ()
    with PostgresStore(store.url.render_as_string(hide_password=False), clock=lambda: NOW) as fresh:
        with fresh.lock(run_id, NO_WAIT) as held:
            assert held is not None
            state = held.load((), Limits())
        assert state.in_flight == tuple(target for target in found if target.status.holds_slot)


def test_a_target_that_is_retried_is_written_whole(store: PostgresStore) -> None:
    run_id = store.create(a_run(2, quota=2)).id
    first, second = accepted(a_round(store, run_id))
    assert isinstance(first, SubmissionAccepted)
    refused = SubmissionRefused(target_id=first.target_id, attempt=1, fence=1, message="never")
    a_round(store, run_id, refused, second)
    asked = Retry(command_id=CommandId("again"), actor="ada", targets=(first.target_id,))

    reply = a_command(store, run_id, asked)
    again = a_command(store, run_id, asked)

    assert (reply.accepted, again) == (True, reply)
    assert [(target.attempt, target.status) for target in store.targets(run_id)] == [
        (2, TargetStatus.PENDING),
        (1, TargetStatus.SUBMITTED),
    ]
    assert store.get(run_id).phases[0].failed_before == 1
    assert store.check() == ()


def test_a_task_that_nobody_asked_for_is_remembered_when_it_is_over(store: PostgresStore) -> None:
    run_id = store.create(a_run(2, quota=2)).id
    answers = accepted(a_round(store, run_id))
    first = answers[0]
    assert isinstance(first, SubmissionAccepted)
    odd = TaskId('{"o\\d", d}')
    a_round(store, run_id, *answers, replace(first, task_id=odd))
    ended = TaskObserved(
        target_id=first.target_id, task_id=odd, status=TaskStatus.TERMINATED, message="", looked_at=NOW
    )
    a_round(store, run_id, ended)
    (stray,) = store.strays(run_id)
    before = store.get(run_id)

    # Told again, it is known: the window holds it although it is closed.
    a_round(store, run_id, ended)

    assert (stray.task_id, stray.is_open) == (odd, False)
    assert store.strays(run_id) == (stray,)
    assert store.get(run_id) == before
    with PostgresStore(store.url.render_as_string(hide_password=False), clock=lambda: NOW) as fresh:
        seen = fresh.glance(run_id, (ended,), Limits())
        assert seen is not None
        assert seen.state.strays == (stray,)


def test_nothing_is_known_of_a_run_that_is_not_there(store: PostgresStore) -> None:
    nobody = a_run().run.id

    for ask in (store.unsettled, store.get, store.targets, store.strays, store.journal, store.release):
        with pytest.raises(NotFound):
            ask(nobody)
    with pytest.raises(NotFound):
        store.glance(nobody, (), Limits())
    with pytest.raises(NotFound):
        store.report(nobody, "trouble", lambda _: SOON, 9)
    store.wake(nobody)


def test_a_run_that_goes_while_it_is_looked_at_is_not_found(postgres_url: str) -> None:
    with Proxy(postgres_url) as proxy, PostgresStore(proxy.url) as store:
        run_id = store.create(a_run()).id
        proxy.arm(
            Moment.BEFORE,
            matching=lambda statement: "operation_run_stray" in statement.text,
            effect=lambda _: changed(postgres_url, "DELETE FROM operation_run"),
        )

        with pytest.raises(NotFound):
            store.unsettled(run_id)


# -- revisions --


def test_a_run_in_the_middle_goes_on_after_its_tables_went_back_and_forth(
    postgres_url: str, store: PostgresStore
) -> None:
    run_id = in_the_middle(store)

    migrate(postgres_url, "0002")

    with by_hand(postgres_url) as connection:
        cursors = connection.execute("SELECT low_seq, high_seq, next_seq FROM operation_run_phase").fetchall()
        # The first is tried again; the second and the third are at work.
        assert cursors == [(1, 3, 0)]

    migrate(postgres_url)
    with PostgresStore(postgres_url, clock=lambda: NOW) as again:
        assert again.check() == ()
        to_its_end(again, run_id)
        assert again.check() == ()
