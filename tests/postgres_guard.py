"""The guardian of a PostgreSQL server of the tests: it makes the server, keeps it, and takes everything away again.

    python -I tests/postgres_guard.py TASK

It is a process of its own, with its own session, that lives as long as somebody holds on to it: whoever started it, by
the socket that is its standard input, and everybody who joined later, by the socket in its directory.  However they
end, by leaving, by Ctrl-C or by a kill, the kernel closes their sockets; with the last one the server stops and its
directory goes.  So nothing depends on a test session getting as far as its end.

Who holds on is told at once where the server is, and may then ask, one JSON object per line each way: ``start``,
``stop`` (with a mode) and ``leave``.  A server of our own needs the standard library only, so that it starts fast.
"""

from __future__ import annotations

import json
import os
import pwd
import random
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

PATIENCE_SECONDS: Final = 60.0
"""How long a server may take to come up or to go down: far more than either takes on a busy machine."""
PORTS: Final = range(20000, 32000)
"""Below the ports that the kernel hands out, so that nobody is given the port of a server that is down for a moment."""
ACCOUNTS: Final = ("postgres", "nobody")
"""As whom to run when started as root, which PostgreSQL refuses: the first that the system has."""
STOPS: Final[Mapping[str, signal.Signals]] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": "'127.0.0.1'",
    "unix_socket_directories": "''",
    "max_connections": "200",
    "shared_buffers": "'32MB'",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # Kept in the data directory, so that even a killed server leaves no segment behind in the system.
    "dynamic_shared_memory_type": "mmap",
    "log_line_prefix": "'%m [%p] %d '",
}


class Failed(Exception):
    """What was asked for cannot be done; the text says why."""


class Kept(Protocol):
    """What a guardian keeps."""

    def begin(self) -> None: ...

    def where(self) -> Mapping[str, Any]:
        """What to tell whoever holds on."""
        ...

    def do(self, request: Mapping[str, Any]) -> None:
        """Raises Failed."""
        ...

    def end(self) -> None:
        """However far it got."""
        ...


class LocalServer:
    """A server of our own: a data directory, a port that stays the same, and a process that is our child."""

    def __init__(self, directory: Path, programs: Mapping[str, Any], settings: Mapping[str, str]) -> None:
        self._directory = directory
        self._data = directory / "data"
        self._programs = programs
        self._settings = settings
        self._account = _account()
        self._password = secrets.token_hex(16)
        self._postmaster: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        if self._account:
            os.chown(self._directory, self._account["user"], self._account["group"])
        self._bin, self._major = self._reachable(self._programs)
        self._make()
        for attempt in reversed(range(5)):
            self._port = _free_port()
            self._configure()
            try:
                self._start()
                break
            except Failed:  # somebody else may have taken the port meanwhile
                if attempt == 0:
                    raise

    def where(self) -> Mapping[str, Any]:
        url = f"postgresql://postgres:{self._password}@127.0.0.1:{self._port}/postgres"
        pid = None if self._postmaster is None else self._postmaster.pid
        return {
            "url": f"{url}?sslmode=disable&gssencmode=disable",
            "directory": str(self._directory),
            "major": self._major,
            "pid": pid,
        }

    def do(self, request: Mapping[str, Any]) -> None:
        if request["do"] == "start":
            if self._postmaster is not None:
                raise Failed("the server is running")
            self._start()
        elif request["do"] == "stop":
            if self._postmaster is None:
                raise Failed("the server is not running")
            self._stop(STOPS[request["mode"]])
        else:
            raise Failed(f"not understood: {request}")

    def end(self) -> None:
        if self._postmaster is not None:
            self._stop(signal.SIGQUIT)

    def _reachable(self, programs: Mapping[str, Any]) -> tuple[Path, int]:
        """The programs, where the account can run them, and their major version.

        An account without rights cannot enter, say, a checkout in somebody's private directory: it is given a copy.
        """
        root, where = Path(programs["root"]), programs["bin"]
        try:
            version = self._run(root / where / "postgres", "--version")
        except PermissionError:
            for part in programs["parts"]:
                shutil.copytree(root / part, self._directory / part)
            root = self._directory
            version = self._run(root / where / "postgres", "--version")
        return root / where, int(version.split()[2].split(".")[0])

    def _run(self, *arguments: str | Path) -> str:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [str(argument) for argument in arguments],
            cwd=self._directory,
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
            **self._account,
        )
        if done.returncode != 0:
            raise Failed(f"{arguments[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def _make(self) -> None:
        password = self._directory / "password"
        password.touch(0o600)
        if self._account:
            os.chown(password, self._account["user"], self._account["group"])
        password.write_text(self._password + "\n", encoding="ascii")
        # The password keeps the other accounts of the machine out; nobody sees its hash, so it need not cost anything.
        cheap = ("-c", "scram_iterations=1") if self._major >= 16 else ()
        self._run(
            self._bin / "initdb",
            *("--pgdata", self._data, "--username", "postgres", "--pwfile", password, "--auth", "scram-sha-256"),
            *("--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions", *cheap),
        )

    def _configure(self) -> None:
        settings = {**SETTINGS, **self._settings, "port": str(self._port)}
        with (self._data / "postgresql.conf").open("a", encoding="ascii") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())

    def _start(self) -> None:
        with (self._directory / "log").open("ab") as log:
            self._postmaster = subprocess.Popen(
                [str(self._bin / "postgres"), "-D", str(self._data)],
                cwd=self._directory,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._account,
            )
        end = time.monotonic() + PATIENCE_SECONDS
        while not self._is_ready(self._postmaster.pid):
            if self._postmaster.poll() is not None or time.monotonic() > end:
                self._stop(signal.SIGQUIT)
                said = (self._directory / "log").read_text(encoding="utf-8", errors="replace")
                raise Failed(f"the server did not start: {said[-2000:]}")
            time.sleep(0.003)

    def _is_ready(self, pid: int) -> bool:
        """The server says so in the last line of its lock file; its first line tells it from a server that crashed."""
        try:
            lines = (self._data / "postmaster.pid").read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return False
        return lines[0] == str(pid) and len(lines) > 7 and lines[7].strip() == "ready"

    def _stop(self, how: signal.Signals) -> None:
        assert self._postmaster is not None
        self._postmaster.send_signal(how)
        try:
            self._postmaster.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._postmaster.kill()
            self._postmaster.wait()
        self._postmaster = None


class BorrowedServer:
    """Somebody else's server, which is only looked after: the databases of this session go in the end."""

    def __init__(self, url: str, prefix: str) -> None:
        self._url = url
        self._prefix = prefix
        self._major = 0

    def begin(self) -> None:
        with self._connected() as connection:
            self._major = connection.info.server_version // 10000

    def where(self) -> Mapping[str, Any]:
        return {"url": self._url, "directory": None, "major": self._major, "pid": None}

    def do(self, request: Mapping[str, Any]) -> None:
        raise Failed("the server is borrowed")

    def end(self) -> None:
        from psycopg.sql import SQL, Identifier

        with self._connected() as connection:
            found = connection.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [self._prefix])
            for (name,) in found.fetchall():
                connection.execute(SQL("ALTER DATABASE {} IS_TEMPLATE false").format(Identifier(name)))
                connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))

    def _connected(self) -> Any:
        import psycopg

        return psycopg.connect(self._url, autocommit=True)


def _account() -> dict[str, Any]:
    """As whom to run the programs, in the words of ``subprocess``."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in ACCOUNTS:
        if name in known:
            return {"user": known[name].pw_uid, "group": known[name].pw_gid, "extra_groups": []}
    raise Failed(f"PostgreSQL does not run as root, and there is none of {', '.join(ACCOUNTS)}")


def _environment() -> dict[str, str]:
    """Nothing of the session's: a variable of PostgreSQL, a language or a time zone there must not change a test."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _free_port() -> int:
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Failed("no port is free")


def _kept(task: Mapping[str, Any], directory: Path) -> Kept:
    if "borrow" in task:
        return BorrowedServer(task["borrow"], task["prefix"])
    return LocalServer(directory, task["programs"], task["settings"])


def _tell(member: socket.socket, answer: Mapping[str, Any]) -> None:
    """Who is gone hears nothing; that is noticed when it is listened to."""
    try:
        member.sendall(json.dumps(answer).encode() + b"\n")
    except OSError:
        return


def _serve(kept: Kept, directory: Path, prefix: str, first: socket.socket) -> socket.socket:
    """Until the last one who holds on lets go; this one is returned."""
    gate = str(directory / "guard")
    greeting = {"gate": gate, "prefix": prefix}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(gate)
        listener.listen()
        _tell(first, {**kept.where(), **greeting})
        members = {first: first.makefile("rb")}
        while True:
            for ready in select.select([listener, *members], [], [])[0]:
                if ready is listener:
                    member, _ = listener.accept()
                    members[member] = member.makefile("rb")
                    _tell(member, {**kept.where(), **greeting})
                elif _hears_out(kept, ready, members[ready]):
                    members.pop(ready).close()
                    if not members:
                        return ready
                    _tell(ready, {"ended": False})
                    ready.close()


def _hears_out(kept: Kept, member: socket.socket, said: Any) -> bool:
    """Whether the member is gone, after doing what it asks for if it is not."""
    try:
        line = said.readline()
    except OSError:
        return True
    if not line or json.loads(line)["do"] == "leave":
        return True
    try:
        kept.do(json.loads(line))
        _tell(member, kept.where())
    except Failed as failed:
        _tell(member, {"error": str(failed)})
    return False


def main(text: str) -> None:
    task = json.loads(text)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    first = socket.socket(fileno=0)
    directory = Path(tempfile.mkdtemp(prefix="opdispatch-postgres-", dir=task["place"]))
    last = first
    try:
        kept = _kept(task, directory)
        try:
            kept.begin()
            last = _serve(kept, directory, task["prefix"], first)
        finally:
            kept.end()
            shutil.rmtree(directory)
    except Exception as error:
        _tell(last, {"error": str(error) if isinstance(error, Failed) else traceback.format_exc()})
        raise
    _tell(last, {"ended": True})


if __name__ == "__main__":
    main(sys.argv[1])
