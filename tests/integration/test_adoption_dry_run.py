"""An adoption that is only tried: it tells what it would do, and leaves the database as it was."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from opdispatch_adapters.sql import adopt
from tests.postgres import Server

from .adoption_kit import reference_database
from .cli_kit import Site

COLUMNS = """
SELECT table_name, column_name, data_type, column_default FROM information_schema.columns
WHERE table_schema = 'public' ORDER BY 1, 2
"""


def columns(url: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(COLUMNS).fetchall()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_tried_adoption_tells_all_and_changes_nothing(postgres_server: Server, site: Site) -> None:
    with reference_database(postgres_server) as url:
        before = columns(url)

        tried = adopt(url, dry_run=True)
        said = site.opd("--store", url, "store", "adopt", "--dry-run")
        document = site.json("--store", url, "store", "adopt", "--dry-run")
        after = columns(url)
        done = adopt(url)

        assert said.returncode == 0, said.stderr
        assert "would be adopted, from the reference's state" in said.stdout
        assert (document["dry_run"], document["runs"]) == (True, tried.runs)
        assert after == before
        assert tried == done
        assert columns(url) != before
