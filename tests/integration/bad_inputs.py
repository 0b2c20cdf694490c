"""The table of bad inputs: what is wrong, what the program ends with, and what it says.

    python -m tests.integration.bad_inputs

calls the program with each of them and prints the table as Markdown, with the messages that it really gave.
"""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from .cli_kit import PATIENCE_SECONDS, Site, environment

Prepare = Callable[[Site], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadInput:
    """One bad input: how it comes about, the call, its exit code, and a part of what it says."""

    what: str
    call: tuple[str, ...]
    code: int
    says: tuple[str, ...]
    prepare: Prepare
    room: int | None = None
    """The size in bytes that no file may pass, as on a full disk."""
    makes: tuple[str, ...] = ()
    """Beginnings of names that may be new after it: what was made before the trouble came."""


def _nothing(site: Site) -> None:
    """The arguments alone are bad."""


def _edit(before: str, after: str) -> Prepare:
    """One change of the rollout file."""

    def prepare(site: Site) -> None:
        text = site.file.read_text()
        assert before in text
        site.file.write_text(text.replace(before, after))

    return prepare


def _file(data: bytes, name: str = "rollout.toml") -> Prepare:
    def prepare(site: Site) -> None:
        (site.path / name).write_bytes(data)

    return prepare


def _all(*steps: Prepare) -> Prepare:
    def prepare(site: Site) -> None:
        for step in steps:
            step(site)

    return prepare


def _pipe(site: Site) -> None:
    os.mkfifo(site.path / "pipe.toml")


def _without_command(site: Site) -> None:
    site.file.write_text(site.file.read_text().split("[command]")[0])


def _without_inventory(site: Site) -> None:
    shutil.rmtree(site.path / "inventory")


def _inventory(file: str, before: str, after: str) -> Prepare:
    def prepare(site: Site) -> None:
        path = site.path / "inventory" / file
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after, 1))

    return prepare


def _made(site: Site) -> None:
    """A store with one run that nobody dispatched."""
    done = site.opd("create", str(site.file))
    assert done.returncode == 0, done.stderr


def _from_the_future(site: Site) -> None:
    _made(site)
    with sqlite3.connect(site.store) as connection:
        connection.execute("UPDATE opdispatch_revision SET version_num = '9999'")
    connection.close()


def _cut_short(site: Site) -> None:
    _made(site)
    os.truncate(site.store, 20_000)


def _miscounted(site: Site) -> None:
    _made(site)
    with sqlite3.connect(site.store) as connection:
        connection.execute("UPDATE operation_run_phase SET pending = pending + 1")
    connection.close()


def _somebody_elses(site: Site) -> None:
    with sqlite3.connect(site.store) as connection:
        connection.execute("CREATE TABLE invoices (id INTEGER)")
    connection.close()


def _linked(site: Site) -> None:
    (site.path / "elsewhere.db").write_bytes(b"")
    site.store.symlink_to(site.path / "elsewhere.db")


def _tasks_without_store(site: Site) -> None:
    (site.path / "store.db.tasks" / "tasks").mkdir(parents=True, mode=0o700)


def _open_tasks(site: Site) -> None:
    (site.path / "store.db.tasks").mkdir()
    (site.path / "store.db.tasks").chmod(0o777)


def _rack(number: int) -> str:
    return str(UUID(int=number))


_RUN: Final = ("run", "rollout.toml")
_PLAN: Final = ("plan", "rollout.toml")


def _bad(
    what: str,
    call: tuple[str, ...],
    code: int,
    *says: str,
    prepare: Prepare = _nothing,
    room: int | None = None,
    makes: tuple[str, ...] = (),
) -> BadInput:
    return BadInput(what=what, call=call, code=code, says=says, prepare=prepare, room=room, makes=makes)


TABLE: Final = (
    # -- the rollout file --
    _bad("no such rollout file", ("run", "nosuch.toml"), 2, "nosuch.toml: there is no such file"),
    _bad("a directory for a rollout file", ("run", "inventory"), 2, "the ending '' is not known"),
    _bad("a pipe for a rollout file", ("plan", "pipe.toml"), 2, "it is not a regular file", prepare=_pipe),
    _bad("not TOML", _RUN, 2, "rollout.toml:1:", prepare=_file(b"name = = 3\n")),
    _bad("not UTF-8", _RUN, 2, "rollout.toml", "UTF-8", prepare=_file(b'name = "\xff\xfe"\n')),
    _bad("an empty file", _RUN, 2, "$.name: it is missing", "$.operation", "gates", prepare=_file(b"\n")),
    _bad(
        "not YAML",
        ("plan", "rollout.yaml"),
        2,
        "rollout.yaml:2:1: it is not YAML",
        prepare=_file(b"name: [1,\n", "rollout.yaml"),
    ),
    _bad(
        "several errors, told at once",
        _RUN,
        2,
        "$.operation.typ: there is no such key; did you mean 'type'?",
        "$.max_concurrent_targets: 0 is below 1",
        prepare=_all(_edit("type =", "typ ="), _edit("targets = 4", "targets = 0")),
    ),
    _bad("a text for a number", _PLAN, 2, "and not a whole number", prepare=_edit("targets = 4", 'targets = "4"')),
    _bad(
        "no gate",
        _RUN,
        2,
        "$.gates",
        "there is no such key; did you mean 'gates'?",
        prepare=_edit("[[gates]]", "[[gate]]"),
    ),
    _bad("a gate that never trips", _RUN, 2, "is not within 1 and 100", prepare=_edit("percent = 100", "percent = 0")),
    _bad(
        "a phase that would be empty",
        _PLAN,
        2,
        "$.phases",
        prepare=_edit("[ordering]", '[phases]\nkind = "equal"\ncount = 9\n[ordering]'),
    ),
    _bad(
        "a rack that is not there",
        _PLAN,
        2,
        "no rack in scope is called 'r99'",
        prepare=_edit("[ordering]", '[scope]\nracks = ["r99"]\n[ordering]'),
    ),
    _bad(
        "a run to leave out that is not there",
        _PLAN,
        2,
        "there is no such file",
        prepare=_edit("[ordering]", '[scope]\nexcluded_runs = ["00000000-0000-4000-8000-000000000001"]\n[ordering]'),
    ),
    _bad(
        "a program that is not there", _RUN, 2, "$.command.argv[0]", "install it", prepare=_edit("./work", "./nosuch")
    ),
    _bad("a program with an unknown placeholder", _RUN, 2, "$.command.argv", prepare=_edit("{key}", "{kez}")),
    _bad(
        "a shell line for a list",
        _RUN,
        2,
        "$.command.argv",
        prepare=_edit('["./work", "{key}", "{rack_name}"]', '"rm -rf /"'),
    ),
    _bad("no program at all", _RUN, 2, "names no program", prepare=_without_command),
    _bad(
        "an allowlist without the operation",
        ("--commands", "allowed.toml", *_RUN),
        2,
        "it has no program for firmware_control/upgrade",
        prepare=_file(b'["power/off"]\nargv = ["/bin/true"]\n', "allowed.toml"),
    ),
    # -- the inventory --
    _bad("no inventory", _RUN, 2, "there is no such inventory directory", prepare=_without_inventory),
    _bad(
        "an inventory without its columns",
        _PLAN,
        2,
        "racks.csv",
        "rack_uuid",
        prepare=_inventory("racks.csv", "rack_uuid,", ""),
    ),
    _bad("a rack twice", _PLAN, 2, "racks.csv:3", prepare=_inventory("racks.csv", _rack(2), _rack(1))),
    _bad(
        "a device in a rack that is not there",
        _PLAN,
        2,
        "devices.csv:2",
        prepare=_inventory("devices.csv", f",{_rack(1)},", f",{_rack(99)},"),
    ),
    _bad(
        "an id that is none",
        ("inventory", "check", "inventory"),
        2,
        "racks.csv:2:rack_uuid",
        prepare=_inventory("racks.csv", _rack(1), "rack-1"),
    ),
    # -- the arguments --
    _bad("no command of that name", ("rnu", "rollout.toml"), 2, "No such command 'rnu'"),
    _bad("no option of that name", ("run", "--requestid", "x", "rollout.toml"), 2, "No such option '--requestid'"),
    _bad("no file", ("run",), 2, "Missing argument 'FILE'"),
    _bad("a time that is none", ("run", "--timeout", "soon", "rollout.toml"), 2, "'soon' is not a duration"),
    _bad("times that do not go together", ("worker", "--claim-lease", "1s"), 2, "is below three call deadlines"),
    _bad("an empty request id", ("run", "--request-id", "", "rollout.toml"), 2, "1 to 200 characters"),
    _bad("no run of that name", ("show", "nosuch"), 2, "run 'nosuch' was not found", prepare=_made),
    _bad("an advance without what is expected", ("advance", "fw"), 2, "Missing option '--expect'"),
    _bad(
        "a settle without a reason",
        ("settle", "fw", "r1", "--as", "skipped", "--reason", " "),
        2,
        "no reason is given",
        prepare=_made,
    ),
    _bad("an outcome that is none", ("settle", "fw", "r1", "--as", "done", "--reason", "x"), 2, "'done' is not one of"),
    _bad("a retry of nothing", ("retry", "fw"), 2, "name the targets to retry"),
    _bad("control characters in a name", ("plan", "\x1b[2Jx.toml"), 2, "\\x1b[2Jx.toml"),
    # -- the store --
    _bad("no store", ("ls",), 2, "there is no such file", "opdispatch store migrate"),
    _bad("a store of another kind", ("--store", "mysql://host/x", "ls"), 2, "mysql is not supported"),
    _bad("a store that is a directory", ("--store", "inventory", "ls"), 2, "is a directory"),
    _bad("a store in a directory that is not there", ("--store", "a/b/c.db", *_RUN), 2, "there is no directory"),
    _bad("a store below a file", ("--store", "rollout.toml/x.db", *_RUN), 2, "there is no directory"),
    _bad(
        "a store where nothing can be written",
        ("--store", "/proc/x.db", *_RUN),
        75,
        "store /proc/x.db is not available",
    ),
    _bad("a store behind a symbolic link", ("ls",), 2, "is a symbolic link", prepare=_linked),
    _bad(
        "not a database", _RUN, 5, "file is not a database", prepare=_file(b"certainly no database\n" * 99, "store.db")
    ),
    _bad("somebody else's database", _RUN, 5, "it holds other tables (invoices)", prepare=_somebody_elses),
    _bad(
        "a store that was never migrated", ("ls",), 75, "run `opdispatch store migrate`", prepare=_file(b"", "store.db")
    ),
    _bad("a store from the future", _RUN, 5, "written by a newer version", prepare=_from_the_future),
    _bad("a store cut short", ("store", "check"), 5, "malformed", prepare=_cut_short),
    _bad("a store that miscounts", ("store", "check"), 5, "targets are counted as pending", prepare=_miscounted),
    _bad(
        "a store that is gone, with its tasks still there",
        _RUN,
        2,
        "it is gone, but its tasks are still",
        prepare=_tasks_without_store,
    ),
    _bad(
        "tasks that others can reach into", _RUN, 2, "others can reach into", prepare=_open_tasks, makes=("store.db",)
    ),
    _bad("a full disk before there is a store", _RUN, 75, "store.db is not available", room=40_000),
    _bad(
        "a full disk when a run is made",
        ("create", "rollout.toml", "--request-id", "more"),
        75,
        "is not available",
        prepare=_made,
        room=40_000,
        makes=("store.db.tasks",),
    ),
)


def call(site: Site, bad: BadInput) -> subprocess.CompletedProcess[str]:
    """Call the program with a bad input."""

    def limit() -> None:
        if bad.room is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (bad.room, bad.room))

    return subprocess.run(
        site.arguments(*bad.call),
        cwd=site.path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        preexec_fn=limit,
        check=False,
    )


def contents(site: Site) -> dict[str, object]:
    """Every file of the site and what is in it: of a database all but its journal, where refusals are noted, too."""
    found: dict[str, object] = {}
    for path in sorted(site.path.rglob("*")):
        name = str(path.relative_to(site.path))
        if path.is_file() and not name.endswith(("-wal", "-shm")) and ".tasks/" not in name:
            found[name] = _rows(path) if path.suffix == ".db" else path.read_bytes()
    return found


def _rows(path: Path) -> object:
    connection = sqlite3.connect(path)
    try:
        return [line for line in connection.iterdump() if not line.startswith('INSERT INTO "operation_run_journal"')]
    except sqlite3.DatabaseError:
        return path.read_bytes()
    finally:
        connection.close()


def markdown() -> str:
    """The table, with what the program really said."""
    lines = ["| bad input | call | exit | it says |", "|---|---|---|---|"]
    for bad in TABLE:
        with tempfile.TemporaryDirectory() as directory:
            site = Site(Path(directory))
            bad.prepare(site)
            done = call(site, bad)
            said = "<br>".join(
                line.replace(directory, ".") for line in done.stderr.splitlines() if "made the" not in line
            )
        cells = (bad.what, f"`{' '.join(bad.call)}`".encode("unicode_escape").decode(), str(done.returncode), said)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
