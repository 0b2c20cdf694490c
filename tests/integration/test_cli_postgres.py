"""The program on a store in PostgreSQL: what an operator does with a file, done with a database."""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from sqlalchemy import create_engine

from opdispatch.errors import InvalidInput, Unavailable
from opdispatch.identity import RunId
from opdispatch.ports import Overview
from opdispatch_adapters.cli import view
from opdispatch_adapters.cli.main import main
from opdispatch_adapters.cli.stores import is_of_environment, locate, make_parent
from opdispatch_adapters.sql import PostgresStore
from tests.postgres import Server

from .cli_kit import SHORT, Site, environment, interrupt
from .reference_database import bring_to
from .reference_seeds import seed
from .waiting import eventually

SECRET = "hunter2"
SERVE = ("serve", "--listen", "127.0.0.1:0", "--inventory", "inventory", "--commands", "allowed.toml")


class DatabaseSite(Site):
    """A site whose store is a database; its tasks are in a directory of the test's own."""

    def __init__(self, path: Path, url: str) -> None:
        super().__init__(path)
        self.url = url

    def arguments(self, *words: str) -> list[str]:
        line = super().arguments(*words)
        line[line.index(str(self.store))] = self.url
        return line

    def opd(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Call the program in this process, which is quicker than a new one."""
        out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
        os.chdir(self.path)
        try:
            with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
                main(self.arguments(*words)[3:])
        finally:
            os.chdir(before)
        assert isinstance(left.value.code, int)
        return subprocess.CompletedProcess(words, left.value.code, out.getvalue(), err.getvalue())

    def overview(self) -> Overview:
        with PostgresStore(self.url) as store:
            return store.get(store.list(limit=1)[0].run_id)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "opdispatch"


@pytest.fixture
def site(tmp_path: Path, postgres_url: str, state: Path) -> DatabaseSite:
    return DatabaseSite(tmp_path, postgres_url)


@pytest.fixture
def empty(tmp_path: Path, postgres_server: Server, state: Path) -> Iterator[DatabaseSite]:
    """A site whose database has no tables."""
    url = postgres_server.create()
    yield DatabaseSite(tmp_path, url)
    postgres_server.drop(url)


# -- a run --


def test_a_run_goes_to_its_end_and_its_tasks_are_in_the_state_directory(site: DatabaseSite, state: Path) -> None:
    site.fail("r2")

    done = site.run()

    assert done.returncode == 3, done.stderr
    assert site.totals() == {"completed": 3, "failed": 1}
    (tasks,) = state.iterdir()
    assert urlsplit(site.url).path[1:] in tasks.name
    assert tasks.name.endswith(".tasks")
    assert (tasks / "programs" / f"{site.run_id}.json").exists()
    assert not site.store.exists()


def test_the_tasks_are_where_the_option_says(site: DatabaseSite, state: Path) -> None:
    done = site.run("--tasks", "here")

    assert done.returncode == 0, done.stderr
    assert (site.path / "here" / "programs").is_dir()
    assert not state.exists()


def test_a_worker_hears_of_a_new_run_at_once(site: DatabaseSite) -> None:
    slow = ("--poll", "50s", "--call-deadline", "1s", "--claim-lease", "60s")
    worker = site.start("worker", *slow)
    try:
        assert worker.stderr is not None
        assert worker.stderr.readline().startswith("worker dispatcher-")
        with psycopg.connect(site.url, autocommit=True) as connection:
            listener = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'opdispatch listener'"
            eventually(
                lambda: connection.execute(listener).fetchone(), until=lambda row: row == (1,), what="a listener"
            )

        site.opd("create", str(site.file))
        eventually(site.totals, until=lambda found: found == {"completed": 4}, what="the end of the run")
    finally:
        worker.terminate()
        worker.communicate(timeout=60)

    assert worker.returncode == 0


def test_an_operator_pauses_looks_resumes_and_attaches(site: DatabaseSite) -> None:
    site.rollout(at_once=2)
    site.hold()
    process = site.start("run", str(site.file), *SHORT)
    site.until_began(2)
    eventually(site.totals, until=lambda found: found.get("submitted") == 2, what="the answers")
    interrupt(process)
    process.communicate(timeout=60)
    run = site.run_id

    paused = site.opd("pause", run)
    shown = site.opd("show", run)
    resumed = site.opd("resume", run)
    site.let_go()
    ended = site.opd("attach", run, *SHORT)

    assert [done.returncode for done in (paused, shown, resumed, ended)] == [0, 0, 0, 0]
    assert f"resume {run[:8]}" in shown.stdout
    assert site.totals() == {"completed": 4}
    assert site.json("ls")["runs"][0]["status"] == "completed"
    assert site.opd("tick").stdout == "served 0 runs\n"


@pytest.mark.parametrize("words", [("tick",), ("worker",), ("attach", "fw"), ("tick", "--tasks", "elsewhere"), SERVE])
def test_another_host_does_not_take_tasks_for_lost_that_it_does_not_know(
    site: DatabaseSite, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    (site.path / "allowed.toml").write_text(f'["firmware_control/upgrade"]\nargv = ["{site.program}"]\n')
    site.hold()
    process = site.start("run", str(site.file), *SHORT)
    site.until_began(4)
    eventually(site.totals, until=lambda found: found == {"submitted": 4}, what="the answers")
    interrupt(process)
    process.communicate(timeout=60)
    other = site.path / "other"
    with monkeypatch.context() as patch:
        if "--tasks" not in words:
            patch.setenv("XDG_STATE_HOME", str(other))
        refused = site.opd(*words)

    site.let_go()

    assert refused.returncode == 75
    assert "has tasks in flight, and" in refused.stderr
    assert "--tasks" in refused.stderr
    assert not other.exists()
    assert site.opd("attach", "fw", *SHORT).returncode == 0
    assert site.totals() == {"completed": 4}


def test_a_run_without_tasks_in_flight_can_be_dispatched_with_a_new_directory(site: DatabaseSite) -> None:
    site.opd("create", str(site.file))

    assert site.opd("tick", "--tasks", "fresh").returncode == 0
    assert site.totals() == {"claimed": 4}


# -- the database --


def test_a_run_makes_no_tables_unasked_and_migrate_does(empty: DatabaseSite) -> None:
    refused = empty.run()
    migrated = empty.opd("store", "migrate")
    again = empty.opd("store", "migrate")
    assert empty.json("store", "migrate")["before"] == empty.json("store", "migrate")["after"]
    assert empty.json("store", "check")["ok"] is True
    checked = empty.opd("store", "check")

    assert refused.returncode == 75
    assert "run `opdispatch store migrate`" in refused.stderr
    assert "went from revision base to" in migrated.stdout
    assert "already" in again.stdout
    assert checked.stdout.endswith(": everything fits\n")
    assert empty.run().returncode == 0


def test_check_tells_what_does_not_fit(site: DatabaseSite) -> None:
    site.run()
    with psycopg.connect(site.url) as connection:
        connection.execute("SELECT set_config('opdispatch.writer', 'on', true)")
        connection.execute("UPDATE operation_run_phase SET completed = 9")

    checked = site.opd("store", "check")

    assert checked.returncode == 5
    assert "9 targets are counted as completed, and 4 are" in checked.stdout


@pytest.mark.parametrize("words", [("ls",), ("-o", "json", "ls"), ("-v", "ls"), ("store", "migrate"), ("worker",)])
def test_a_server_that_is_not_there_is_75_and_no_password_is_shown(site: DatabaseSite, words: tuple[str, ...]) -> None:
    site.url = f"postgresql://operator:{SECRET}@127.0.0.1:1/db?sslpassword={SECRET}"

    done = site.opd(*words)

    assert done.returncode == 75
    assert "check host and port" in done.stderr
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("url", ["postgresql://u:hunter2@h:port/db", "postgresql://u:hunter2@h", "postgres:hunter2"])
def test_what_is_no_url_is_a_mistake_and_shows_no_password(site: DatabaseSite, url: str) -> None:
    site.url = url

    done = site.opd("-v", "ls")

    assert done.returncode == 2
    assert SECRET not in done.stdout + done.stderr


def test_no_output_of_a_run_shows_the_password(site: DatabaseSite) -> None:
    secret = urlsplit(site.url).password
    said = []

    for words in (
        ("create", str(site.file)),
        ("-o", "json", "ls"),
        ("pause", "fw"),
        ("show", "fw"),
        ("-o", "json", "show", "fw"),
        ("store", "check"),
    ):
        done = site.opd(*words)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout + done.stderr)

    assert secret
    assert "--store 'postgresql" in "".join(said)
    assert secret not in "".join(said)


def test_a_database_that_the_environment_names_is_left_out_of_the_lines_to_type(site: DatabaseSite) -> None:
    site.opd("create", str(site.file))
    site.opd("pause", "fw")
    line = [word for word in site.arguments("-o", "json", "show", "fw") if word not in ("--store", site.url)]

    done = subprocess.run(
        line, cwd=site.path, env=environment(OPDISPATCH_STORE=site.url), capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout)["next"][0].startswith("opdispatch resume ")


# -- names --


@pytest.fixture
def no_pg(monkeypatch: pytest.MonkeyPatch, state: Path) -> Path:
    for name in ("PGHOST", "PGPORT", "PGDATABASE", "OPDISPATCH_STORE"):
        monkeypatch.delenv(name, raising=False)
    return state


def test_who_connects_and_how_does_not_change_the_directory_of_tasks(no_pg: Path) -> None:
    ways = [
        "postgresql://h/db",
        "postgresql://me@h/db",
        f"postgres://you:{SECRET}@h:5432/db?pool_size=2",
        "postgresql+psycopg:///db?host=h",
        "postgresql:///db?host=h&port=5432",
    ]

    (tasks,) = {locate(way).tasks for way in ways}
    assert tasks.parent == no_pg
    assert tasks.name.startswith("h-5432-db-")


def test_two_databases_have_two_directories(no_pg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = [
        "postgresql://h/db",
        "postgresql://h:5433/db",
        "postgresql://h2/db",
        "postgresql://h/db2",
        "postgresql://h/" + "x" * 200,
        "postgresql://h/" + "x" * 201,
        "postgresql:///db?host=/tmp",
        "postgresql:///db",
        "postgresql://h/a-b",
        "postgresql:///db?host=h&host=h2",
    ]

    found = {locate(way).tasks.name for way in ways}
    monkeypatch.setenv("PGPORT", "5433")
    found.add(locate("postgresql:///db").tasks.name)

    assert len(found) == len(ways) + 1
    assert max(map(len, found)) < 200
    assert not any("/" in name for name in found)


def test_without_a_state_directory_it_is_the_usual_one(no_pg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/operator")

    assert locate("postgresql://h/db").tasks.parent == Path("/home/operator/.local/state/opdispatch")


def test_the_text_of_a_store_keeps_its_settings_and_no_secret(no_pg: Path) -> None:
    text = locate(f"postgresql://me:{SECRET}@h/db?pool_size=2&password={SECRET}&sslpassword={SECRET}").text

    assert text == "postgresql://me@h/db?pool_size=2"
    assert view.program(text) == "opdispatch --store 'postgresql://me@h/db?pool_size=2'"


def test_only_a_database_is_left_to_the_environment(no_pg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_of_environment("postgresql://h/db")
    monkeypatch.setenv("OPDISPATCH_STORE", f"postgresql://me:{SECRET}@h/db")
    assert is_of_environment("postgresql://me@h/db")
    assert not is_of_environment("postgresql://me@h/other")
    assert not is_of_environment("/a/file")


def test_a_state_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(Unavailable, match="--tasks"):
        make_parent(tmp_path / "file" / "opdispatch" / "x.tasks")


@pytest.mark.parametrize("option", ["", "a\0b"])
def test_what_names_nothing_is_refused(option: str) -> None:
    with pytest.raises(InvalidInput, match="names no file"):
        locate(option)


# -- looking after it --


def test_roles_are_printed_and_made(site: DatabaseSite, postgres_server: Server) -> None:
    prefix = f"c{secrets.token_hex(4)}_"
    words = ("store", "roles", "--prefix", prefix)
    try:
        printed = site.opd(*words)
        applied = site.opd(*words, "--apply")
        again = site.json(*words)
        notes = site.opd(*words)

        assert f"CREATE ROLE {prefix}migrate " in printed.stdout
        assert all(line.endswith(";") for line in printed.stdout.splitlines())
        assert applied.stdout.endswith(" statements executed\n")
        assert (again["applied"], again["notes"]) == (False, [])
        assert "CREATE ROLE" not in notes.stdout
    finally:
        postgres_server.drop(site.url)
        with postgres_server.connected() as connection:
            for duty in ("migrate", "run", "read"):
                connection.execute(SQL("DROP ROLE IF EXISTS {}").format(Identifier(f"{prefix}{duty}")))


def test_what_only_a_person_can_decide_is_printed_as_a_comment(empty: DatabaseSite) -> None:
    printed = empty.opd("store", "roles").stdout.splitlines()

    assert printed[-1].startswith("-- there are no tables yet")
    assert not printed[-1].endswith(";")


def test_a_file_has_no_roles_and_cannot_be_adopted(site: DatabaseSite) -> None:
    site.url = str(site.store)

    assert site.opd("store", "roles").returncode == 2
    assert site.opd("store", "adopt").returncode == 2


def test_a_database_of_the_reference_is_looked_at_adopted_and_given_back(empty: DatabaseSite) -> None:
    engine = create_engine(empty.url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        bring_to(connection)
        seed(connection)
    engine.dispose()

    looked = empty.opd("ls")
    refused = empty.run()
    adopted = empty.opd("store", "adopt")
    again = empty.json("store", "adopt")
    back = empty.opd("store", "migrate", "--revision", "base")

    assert looked.returncode == 0, looked.stderr
    assert (refused.returncode, "opdispatch store adopt" in refused.stderr) == (75, True)
    assert adopted.returncode == 0, adopted.stderr
    assert f" is adopted, from the reference's state {again['state']}: {again['runs']} runs with" in adopted.stdout
    assert adopted.stdout.count("made to fit: ") == len(again["healed"]) > 0
    assert again["before"] == again["after"]
    assert "to base" in back.stdout


def test_an_adopted_database_is_told_to_be_one(empty: DatabaseSite) -> None:
    engine = create_engine(empty.url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        bring_to(connection)
    engine.dispose()
    empty.opd("store", "adopt")

    assert "was adopted already, from" in empty.opd("store", "adopt").stdout


def test_old_runs_are_counted_kept_in_a_file_and_removed(site: DatabaseSite) -> None:
    site.run()
    old = ("store", "prune", "--older-than", "0.001s")
    entries = len(site.json("show", "fw", "--events")["events"])

    young = site.opd("store", "prune", "--older-than", "30d")
    counted = site.opd(*old, "--dry-run", "--archive", "archive.jsonl")
    removed = site.opd(*old, "--archive", "archive.jsonl")
    nothing = site.json(*old)

    assert entries
    assert young.stdout == "removed 0 runs, 0 targets and 0 entries of the journal\n"
    assert counted.stdout.startswith("would remove 1 run, 4 targets and ")
    assert removed.stdout.startswith("removed 1 run, 4 targets and ")
    assert removed.stdout.endswith("; they are kept in archive.jsonl\n")
    assert json.loads((site.path / "archive.jsonl").read_text().splitlines()[-1])["table"] == "operation_run"
    assert (nothing["runs"], nothing["archive"]) == (0, None)
    assert site.json("ls")["runs"] == []


def test_prune_needs_an_age(site: DatabaseSite) -> None:
    assert site.opd("store", "prune").returncode == 2


# -- trouble --


def test_trouble_and_quarantine_are_shown_with_what_to_type(site: DatabaseSite) -> None:
    site.opd("create", str(site.file))
    run = site.run_id

    def trouble(times: int) -> None:
        with PostgresStore(site.url) as store:
            for _ in range(times):
                store.report(RunId(UUID(run)), "it broke", lambda count: timedelta(seconds=1), 3)

    trouble(1)
    tried = site.opd("show", run).stdout, site.opd("ls").stdout
    trouble(2)
    left = site.opd("show", run).stdout, site.opd("ls").stdout
    known = site.json("ls")["runs"][0]["trouble"]

    for text in tried:
        assert "tried again after 1 error in a row, the last at 20" in text
        assert ": it broke" in text
        assert "release" not in text
    for text in left:
        assert "in quarantine since 20" in text
        assert " after 3 errors in a row: it broke" in text
        assert f"release {run[:8]}" in text
    assert (known["count"], known["message"], known["quarantined_at"] is not None) == (3, "it broke", True)
    assert site.opd("release", run).returncode == 0
    assert "trouble" not in site.opd("show", run).stdout
