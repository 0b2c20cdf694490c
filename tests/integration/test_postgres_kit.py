"""The tools of the tests with PostgreSQL are tested themselves: the server, its clones, and the proxy that fails."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import psycopg
import pytest

from tests import postgres
from tests.postgres import BORROWED, OwnServer, Server, ServerFailed, own_server, shared_server

from .proxy import Effect, Moment, Proxy, Statement, is_commit
from .waiting import eventually

ROOT: Final = Path(__file__).parents[2]
MODES: Final = ("simple", "extended", "prepared")
"""How a client may send its statements."""


def rows(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [number for (number,) in connection.execute("SELECT n FROM kit ORDER BY n").fetchall()]


def names(server: Server) -> set[str]:
    with server.connected() as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall()}


def with_a_table(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kit (n integer)")


def is_alive(pid: int) -> bool:
    """Whether the process is there, and not just waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- databases --


@pytest.mark.parametrize("other", [1, 2])
def test_each_test_has_a_database_of_its_own(postgres_url: str, other: int) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE kit AS SELECT %s AS n", [other])

    assert rows(postgres_url) == [other]


def test_a_clone_is_dropped_although_somebody_is_connected(postgres_server: Server) -> None:
    with postgres_server.database() as url:
        connection = psycopg.connect(url)

    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)
    connection.close()


def test_clones_are_like_the_template_which_is_prepared_once(tmp_path: Path) -> None:
    prepared: list[str] = []

    def prepare(url: str) -> None:
        prepared.append(url)
        with_a_table(url)

    with shared_server(tmp_path, prepare) as first, shared_server(tmp_path, prepare) as second:
        one, other = first.clone(), second.clone()
        with psycopg.connect(one) as connection:
            connection.execute("INSERT INTO kit VALUES (1)")

        assert len(prepared) == 1
        assert (rows(one), rows(other)) == ([1], [])
        with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
            psycopg.connect(prepared[0])


def test_a_template_that_could_not_be_prepared_is_prepared_anew(tmp_path: Path) -> None:
    def fail(url: str) -> None:
        raise LookupError(url)

    with shared_server(tmp_path, lambda url: None) as server:
        server.drop(server.url_of("none"))
    with own_server() as server:
        with pytest.raises(LookupError):
            server.prepare(fail)
        server.prepare(with_a_table)

        assert rows(server.clone()) == []


def test_another_user_has_a_url_too(postgres_server: Server) -> None:
    with postgres_server.connected() as connection:
        connection.execute("CREATE ROLE kit_reader LOGIN PASSWORD 'open'")
        try:
            with psycopg.connect(postgres_server.url_of("postgres", user="kit_reader", password="open")) as other:
                assert other.execute("SELECT current_user").fetchone() == ("kit_reader",)
        finally:
            connection.execute("DROP ROLE kit_reader")


# -- the life of a server --


def test_a_server_is_shared_and_goes_with_the_last_one(tmp_path: Path) -> None:
    first = shared_server(tmp_path, with_a_table)
    second = shared_server(tmp_path, with_a_table)

    assert first.superuser_url == second.superuser_url
    first.leave()
    first.leave()
    with second.database() as url:
        assert rows(url) == []
    assert second.gate.exists()
    second.leave()
    assert not second.gate.parent.exists()
    with pytest.raises(psycopg.OperationalError):
        second.connected()


def test_who_comes_after_the_last_one_finds_a_new_server(tmp_path: Path) -> None:
    shared_server(tmp_path, with_a_table).leave()

    with shared_server(tmp_path, with_a_table) as server, server.database() as url:
        assert rows(url) == []


HOLDING: Final = """
import signal, sys
from pathlib import Path
from tests.postgres import shared_server
# A program that was started in the background ignores it, and so do all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
server = shared_server(Path(sys.argv[1]), lambda url: None)
with server.connected() as connection:
    (data,) = connection.execute("SELECT current_setting('data_directory')").fetchone()
print(Path(data, "postmaster.pid").read_text().split()[0], server.gate.parent, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT], ids=lambda ending: ending.name)
def test_nothing_is_left_of_a_server_whose_session_is_killed(tmp_path: Path, ending: signal.Signals) -> None:
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDING, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        for _ in range(2)
    ]
    said = set()
    for holder in holders:
        assert holder.stdout is not None
        said.add(tuple(holder.stdout.readline().split()))
    ((pid, directory),) = said  # both hold the same server

    holders[0].send_signal(ending)
    holders[0].wait()
    assert is_alive(int(pid))
    os.killpg(holders[1].pid, ending)
    holders[1].wait()

    eventually(lambda: not Path(directory).exists(), what="the end of the directory")
    eventually(lambda: not is_alive(int(pid)), what="the end of the server")
    for holder in holders:
        assert holder.stdout is not None
        holder.stdout.close()


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        # The account that the server runs as must get there, where it is not the one of the tests.
        place.chmod(0o711)
        monkeypatch.setenv(postgres.PLACE, name)

        with pytest.raises(ServerFailed, match="no_such_setting"):
            own_server({"no_such_setting": "1"})

        assert list(place.iterdir()) == []


def test_a_server_is_made_from_programs_that_its_account_cannot_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dict(postgres.programs())
    hidden = tmp_path / "hidden"
    hidden.mkdir(0o700)
    (hidden / "root").symlink_to(str(found["root"]))
    monkeypatch.setattr(postgres, "programs", lambda: {**found, "root": str(hidden / "root")})

    with own_server() as server, server.connected() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_of_a_borrowed_server_only_the_own_databases_go(
    own_postgres: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BORROWED, own_postgres.superuser_url)
    before = names(own_postgres)

    with shared_server(tmp_path, with_a_table) as server:
        assert rows(server.clone()) == []
        assert len(names(own_postgres) - before) == 2  # the template, too

    assert names(own_postgres) == before


def test_what_was_committed_is_there_after_a_crash(own_postgres: OwnServer) -> None:
    url = own_postgres.create()
    with_a_table(url)
    open_one = psycopg.connect(url)
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO kit VALUES (1)")
    open_one.execute("INSERT INTO kit VALUES (2)")

    own_postgres.crash()
    assert own_postgres.pid is None
    with pytest.raises(psycopg.OperationalError):
        open_one.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    own_postgres.start()

    assert rows(url) == [1]
    assert "automatic recovery in progress" in own_postgres.log()
    open_one.close()


def test_an_orderly_stop_has_nothing_to_recover(own_postgres: OwnServer) -> None:
    url = own_postgres.create()
    with_a_table(url)
    pid = own_postgres.pid

    own_postgres.restart()

    assert rows(url) == []
    assert own_postgres.pid != pid
    assert "automatic recovery in progress" not in own_postgres.log()
    with pytest.raises(ServerFailed, match="is running"):
        own_postgres.start()


def test_a_server_of_ones_own_syncs_and_the_shared_one_need_not(
    own_postgres: OwnServer, postgres_server: Server
) -> None:
    settings = ("fsync", "full_page_writes", "synchronous_commit", "autovacuum")
    with own_postgres.connected() as connection:
        assert [connection.execute(f"SHOW {name}").fetchone() for name in settings] == [("on",)] * 4
    if BORROWED not in os.environ:
        with postgres_server.connected() as connection:
            found = [connection.execute(f"SHOW {name}").fetchone() for name in settings]
            assert found == [("off",), ("off",), ("on",), ("on",)]


# -- the proxy --


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    with_a_table(postgres_url)
    with Proxy(postgres_url) as proxy:
        yield proxy


Work = Callable[[psycopg.Connection], None]


def insert_two(connection: psycopg.Connection, mode: str) -> None:
    """BEGIN, two rows, COMMIT: four statements, in every mode."""
    prepare = {"simple": None, "extended": False, "prepared": True}[mode]
    cursor: psycopg.Cursor = psycopg.ClientCursor(connection) if mode == "simple" else connection.cursor()
    for number in (1, 2):
        cursor.execute("INSERT INTO kit VALUES (%s)", [number], prepare=prepare)
    connection.commit()


FAR: Final = "the connection to the server is gone"


@pytest.mark.parametrize("mode", MODES)
def test_statements_are_told_apart_however_they_are_sent(proxy: Proxy, mode: str) -> None:
    with psycopg.connect(proxy.url) as connection:
        backend = connection.info.backend_pid
        with proxy.recording() as statements:
            insert_two(connection, mode)
        if mode == "prepared":
            insert_two(connection, mode)

    assert [statement.verb for statement in statements] == ["BEGIN", "INSERT", "INSERT", "COMMIT"]
    assert {statement.backend for statement in statements} == {backend}
    assert statements[1].way == ("Query" if mode == "simple" else "Execute")
    parsed = [message.text for message in proxy.messages if message.name == "Parse" and "INSERT" in message.text]
    assert len(parsed) == {"simple": 0, "extended": 2, "prepared": 1}[mode]
    assert [s.verb for s in proxy.statements[4:]] == (
        ["BEGIN", "INSERT", "INSERT", "COMMIT"] if mode == "prepared" else []
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_cut_is_where_it_was_armed(proxy: Proxy, postgres_url: str, number: int, moment: Moment, mode: str) -> None:
    connection = psycopg.connect(proxy.url)
    fault = proxy.arm(moment, number)

    heard = None
    with pytest.raises(psycopg.OperationalError) as failed:
        insert_two(connection, mode)
        heard = "all"
        connection.execute("SELECT 1")
    proxy.settle()
    assert failed.value.sqlstate is None  # it is the connection that failed, and no answer of the server

    assert fault.wait() == proxy.statements[number - 1]
    assert len(proxy.statements) == number
    assert heard == ("all" if (number, moment) == (4, Moment.AFTER) else None)
    assert rows(postgres_url) == ([1, 2] if number == 4 and moment is not Moment.BEFORE else [])
    connection.close()


@pytest.mark.parametrize("moment", list(Moment))
def test_a_statement_that_is_its_own_transaction_is_done_unless_it_was_cut_before(
    proxy: Proxy, postgres_url: str, moment: Moment
) -> None:
    with psycopg.connect(proxy.url, autocommit=True) as connection:
        proxy.arm(moment, matching=lambda statement: statement.verb == "INSERT")
        if moment is Moment.AFTER:
            connection.execute("INSERT INTO kit VALUES (%s)", [7])
        else:
            with pytest.raises(psycopg.OperationalError):
                connection.execute("INSERT INTO kit VALUES (%s)", [7])
    proxy.settle()

    assert rows(postgres_url) == ([] if moment is Moment.BEFORE else [7])


def test_a_commit_whose_reply_is_lost_was_done(proxy: Proxy, postgres_url: str) -> None:
    connection = psycopg.connect(proxy.url)
    fault = proxy.arm(Moment.UNANSWERED, matching=is_commit)

    with pytest.raises(psycopg.OperationalError):
        insert_two(connection, "extended")

    assert rows(postgres_url) == [1, 2]  # at once: the server had answered before the client saw anything
    assert fault.wait().text == "COMMIT"
    connection.close()


@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_a_pipeline_is_cut_between_its_statements(proxy: Proxy, postgres_url: str, number: int, moment: Moment) -> None:
    connection = psycopg.connect(proxy.url)
    fault = proxy.arm(moment, number)

    try:
        connection.cursor().executemany("INSERT INTO kit VALUES (%s)", [[1], [2], [3]])
        connection.commit()
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        pass
    proxy.settle()

    assert [statement.verb for statement in proxy.statements[:5]] == ["BEGIN", *["INSERT"] * 3, "COMMIT"][
        : len(proxy.statements)
    ]
    assert fault.wait() == proxy.statements[number - 1]
    assert rows(postgres_url) == ([1, 2, 3] if number == 5 and moment is not Moment.BEFORE else [])
    connection.close()


@pytest.mark.parametrize("moment", list(Moment))
def test_an_answer_may_be_an_error(proxy: Proxy, moment: Moment) -> None:
    connection = psycopg.connect(proxy.url)
    fault = proxy.arm(moment, 2)

    with pytest.raises(psycopg.Error) as caught:
        connection.execute("SELECT 1 / %s", [0])
    if moment is Moment.AFTER:
        with pytest.raises(psycopg.OperationalError):
            connection.execute("ROLLBACK")
    proxy.settle()

    assert isinstance(caught.value, psycopg.errors.DivisionByZero) == (moment is Moment.AFTER)
    assert fault.wait().text == "SELECT 1 / $1"
    connection.close()


@pytest.mark.parametrize("number", [2, 3, 4])
@pytest.mark.parametrize("moment", [Moment.UNANSWERED, Moment.AFTER])
def test_what_the_server_skips_after_an_error_strikes_too(proxy: Proxy, number: int, moment: Moment) -> None:
    connection = psycopg.connect(proxy.url)
    fault = proxy.arm(moment, number)

    with pytest.raises(psycopg.Error):
        connection.cursor().executemany("SELECT 1 / %s", [[1], [0], [1]])

    assert fault.wait().text == "SELECT 1 / $1"
    proxy.settle()
    connection.close()


def test_only_what_matches_is_counted_and_a_fault_strikes_once(proxy: Proxy) -> None:
    fault = proxy.arm(Moment.BEFORE, 2, matching=is_commit)
    forgotten = proxy.arm(Moment.BEFORE, 3)
    proxy.disarm()
    fault = proxy.arm(Moment.BEFORE, 2, matching=is_commit)
    for number in (1, 2, 3):
        connection = psycopg.connect(proxy.url)
        if number == 2:
            with pytest.raises(psycopg.OperationalError):
                insert_two(connection, "extended")
        else:
            insert_two(connection, "extended")
        connection.close()

    assert fault.wait().connection == 2
    assert forgotten.statement is None
    assert proxy.connections == 3


@pytest.mark.parametrize("moment", list(Moment))
def test_a_silence_holds_everything_back_until_it_heals(proxy: Proxy, postgres_url: str, moment: Moment) -> None:
    connection = psycopg.connect(proxy.url, autocommit=True)
    fault = proxy.arm(moment, effect=Effect.SILENCE)
    answers: list[object] = []

    def work() -> None:
        insert = "INSERT INTO kit VALUES (%s) RETURNING n"
        answers.append(connection.execute(insert, [1]).fetchone())
        answers.append(connection.execute(insert, [2]).fetchone())

    worker = threading.Thread(target=work)
    worker.start()
    fault.wait()

    if moment is Moment.AFTER:
        eventually(lambda: answers, until=lambda found: found == [(1,)])
        eventually(lambda: len(proxy.statements), until=lambda count: count == 2)
    seen = [] if moment is Moment.BEFORE else [1]
    eventually(lambda: rows(postgres_url), until=lambda found: found == seen)
    assert answers == ([(1,)] if moment is Moment.AFTER else [])
    proxy.heal()
    worker.join()

    assert answers == [(1,), (2,)]
    assert rows(postgres_url) == [1, 2]
    connection.close()


def test_in_a_silence_nobody_gets_a_connection(proxy: Proxy) -> None:
    proxy.silence()

    with pytest.raises(psycopg.OperationalError, match="timeout"):
        psycopg.connect(proxy.url, connect_timeout=2)
    proxy.heal()

    psycopg.connect(proxy.url).close()


def test_the_server_does_not_hear_through_a_silence_that_a_client_has_gone(proxy: Proxy, postgres_url: str) -> None:
    connection = psycopg.connect(proxy.url)
    backend = connection.info.backend_pid
    proxy.silence()
    connection.close()

    def is_there() -> bool:
        with psycopg.connect(postgres_url) as other:
            return other.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [backend]).fetchone() is not None

    assert is_there()
    proxy.heal()
    eventually(lambda: not is_there())


def test_a_function_may_do_what_else_can_go_wrong(proxy: Proxy, postgres_url: str) -> None:
    def terminate(statement: Statement) -> None:
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 60000)", [statement.backend])

    connection = psycopg.connect(proxy.url)
    fault = proxy.arm(Moment.BEFORE, matching=is_commit, effect=terminate)

    with pytest.raises(psycopg.errors.AdminShutdown):
        insert_two(connection, "extended")

    assert fault.wait().verb == "COMMIT"
    assert rows(postgres_url) == []
    connection.close()


def test_a_delay_holds_every_statement_back(proxy: Proxy) -> None:
    with psycopg.connect(proxy.url, autocommit=True) as connection:
        connection.execute("SET statement_timeout = 0")
        proxy.delay(0.2)
        asked = connection.execute("SELECT clock_timestamp()").fetchone()
        answered = connection.execute("SELECT clock_timestamp()").fetchone()
        proxy.delay(0)

    assert asked is not None
    assert answered is not None
    assert (answered[0] - asked[0]).total_seconds() >= 0.2


def test_every_connection_can_be_cut_at_once_and_new_ones_are_served(proxy: Proxy) -> None:
    connections = [psycopg.connect(proxy.url) for _ in range(3)]

    proxy.cut()
    proxy.settle()

    for connection in connections:
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        connection.close()
    psycopg.connect(proxy.url).close()


def test_a_cancellation_goes_through(proxy: Proxy) -> None:
    with psycopg.connect(proxy.url) as connection:
        proxy.arm(Moment.SENT, 2, effect=lambda statement: connection.cancel_safe())

        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(60)")


def test_large_answers_copies_and_notifications_go_through(proxy: Proxy, postgres_url: str) -> None:
    with psycopg.connect(proxy.url, autocommit=True) as connection:
        found = connection.execute("SELECT n, repeat('x', 1000) FROM generate_series(1, 3000) AS n").fetchall()
        with connection.cursor().copy("COPY kit FROM STDIN") as copy:
            for number in range(100):
                copy.write_row([number])
        connection.execute("LISTEN kit")
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute("NOTIFY kit, 'hello'")
        (notification,) = connection.notifies(timeout=60, stop_after=1)

    assert len(found) == 3000
    assert rows(postgres_url) == list(range(100))
    assert notification.payload == "hello"


def test_a_server_that_is_down_ends_the_connections_of_the_proxy(own_postgres: OwnServer) -> None:
    with Proxy(own_postgres.superuser_url) as proxy:
        connection = psycopg.connect(proxy.url)
        own_postgres.crash()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(proxy.url)
        own_postgres.start()
        psycopg.connect(proxy.url).close()
        connection.close()


def test_a_proxy_leaves_no_thread_and_no_port(postgres_url: str) -> None:
    before = set(threading.enumerate())
    with Proxy(postgres_url) as proxy:
        connections = [psycopg.connect(proxy.url) for _ in range(3)]
        connections[0].close()
        proxy.silence()

    assert set(threading.enumerate()) == before
    with pytest.raises(psycopg.OperationalError, match=re.escape("refused")):
        psycopg.connect(proxy.url)
    for connection in connections:
        connection.close()
