"""What the program says where a run cannot be read, and where the driver of a database cannot be loaded."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from opdispatch.identity import RunId
from opdispatch_adapters.sql import SqliteStore

from .cli_kit import REPOSITORY, Site


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


WORDS = (("ls",), ("store", "migrate"), ("store", "check"), ("store", "roles"), ("store", "adopt"), ("worker",))


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_without_the_driver_it_is_said_what_to_install(site: Site, words: tuple[str, ...]) -> None:
    (site.path / "psycopg.py").write_text("raise ImportError('no libpq')")

    path = f"{site.path}:{REPOSITORY / 'src'}"
    done = site.opd("--store", "postgresql://ada:hunter2@host/runs", *words, PYTHONPATH=path)

    assert done.returncode == 2
    assert "the driver of PostgreSQL cannot be loaded: no libpq; pip install 'opdispatch[postgres]'" in done.stderr
