"""What the program says where a run cannot be read, where its tasks are not, and where a driver cannot be loaded."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from opdispatch.identity import RunId
from opdispatch_adapters.sql import SqliteStore

from .cli_kit import REPOSITORY, SHORT, Site
from .waiting import eventually


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, racks=1)


def test_a_run_that_cannot_be_read_is_shown_with_what_is_kept_beside_it(site: Site) -> None:
    site.opd("create", str(site.file))
    run = site.run_id
    with sqlite3.connect(site.store) as connection:
        connection.execute("UPDATE operation_run SET options = '{}'")
    connection.close()

    bare = site.opd("show", run)
    with SqliteStore(site.store) as store:
        store.report(RunId(UUID(run)), "it broke", lambda _: timedelta(seconds=1), 9)
    troubled = site.opd("show", run)
    with SqliteStore(site.store) as store:
        store.report(RunId(UUID(run)), "it broke", lambda _: timedelta(seconds=1), 2)
    left = site.opd("show", run)
    listed = site.opd("ls")

    assert [done.returncode for done in (bare, troubled, left, listed)] == [5, 5, 5, 0]
    assert "trouble:" not in bare.stderr
    assert "trouble: tried again after 1 error in a row" in troubled.stderr
    assert "release" not in troubled.stderr
    assert "trouble: in quarantine since " in left.stderr
    assert f"release {run[:8]}" in left.stderr
    assert f"release {run[:8]}" in listed.stdout


def test_a_store_that_was_moved_without_its_tasks_is_not_dispatched(site: Site) -> None:
    serve = ("serve", "--listen", "127.0.0.1:0", "--inventory", "inventory", "--commands", "allowed.toml")
    (site.path / "allowed.toml").write_text(f'["firmware_control/upgrade"]\nargv = ["{site.program}"]\n')
    site.hold()
    site.opd("create", str(site.file))
    site.opd("tick", *SHORT)
    moved = site.store.rename(site.path / "moved.db")

    for words in (("tick",), ("worker",), ("attach", "fw"), ("run", "rollout.toml"), serve):
        refused = site.opd("--store", str(moved), *words)
        assert refused.returncode == 75, refused.stderr
        assert f"has tasks in flight, and {moved}.tasks knows of none" in refused.stderr
    moved.rename(site.store)
    site.let_go()

    assert not (site.path / "moved.db.tasks").exists()
    assert site.opd("attach", "fw", *SHORT).returncode == 0
    assert len(site.began()) == 1


def test_a_claimed_target_is_not_settled_where_its_task_cannot_be_looked_up(site: Site) -> None:
    (site.path / "none.toml").write_text("")
    site.opd("create", str(site.file))
    site.opd("--commands", "none.toml", "tick", *SHORT)
    run = RunId(UUID(site.run_id))
    with SqliteStore(site.store) as store:
        eventually(lambda: store.unsettled(run).refs, what="the end of the lease")

    refused = site.opd("--tasks", "elsewhere", "settle", "fw", "r1", "--as", "completed", "--reason", "done by hand")
    again = site.opd("--tasks", "elsewhere", "tick")

    assert refused.returncode == 5
    assert "has tasks in flight, and" in refused.stderr
    assert "ANSWER_OPEN" in refused.stderr
    assert again.returncode == 75
    assert not (site.path / "elsewhere").exists()
    assert site.opd("attach", "fw", *SHORT).returncode == 0
    assert site.totals() == {"completed": 1}


WORDS = (("ls",), ("store", "migrate"), ("store", "check"), ("store", "roles"), ("store", "adopt"), ("worker",))


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_without_the_driver_it_is_said_what_to_install(site: Site, words: tuple[str, ...]) -> None:
    (site.path / "psycopg.py").write_text("raise ImportError('no libpq')")

    path = f"{site.path}:{REPOSITORY / 'src'}"
    done = site.opd("--store", "postgresql://ada:hunter2@host/runs", *words, PYTHONPATH=path)

    assert done.returncode == 2
    assert "the driver of PostgreSQL cannot be loaded: no libpq; pip install 'opdispatch[postgres]'" in done.stderr
