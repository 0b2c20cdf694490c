"""What ``check`` tells of a PostgreSQL database that is not sound, though its counters fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, create_engine

from opdispatch.errors import OpdispatchError
from opdispatch_adapters.sql import PostgresStore, SqliteStore, adopt, migrate
from opdispatch_adapters.sql.postgres import soundness
from tests.postgres import Server

from .cli_kit import Site
from .reference_database import bring_to
from .reference_seeds import seed
from .store_kit import a_run
from .test_postgres_store import a_role


def checked(url: str, *statements: str) -> Sequence[str]:
    """What check says after somebody did this."""
    with psycopg.connect(url, autocommit=True, options="-c opdispatch.writer=on") as connection:
        for statement in ("SET allow_system_table_mods = on", *statements):
            connection.execute(statement.encode())
    with PostgresStore(url) as store:
        return store.check()


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def test_a_database_as_it_was_made_is_sound(postgres_url: str) -> None:
    assert checked(postgres_url) == ()


def test_a_database_that_was_adopted_is_sound(postgres_server: Server) -> None:
    url = postgres_server.create()
    try:
        with connected(url) as connection, connection.begin():
            bring_to(connection)
            seed(connection)
        adopt(url)

        assert checked(url) == ()
    finally:
        postgres_server.drop(url)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "DROP INDEX idx_operation_run_due",
            "table operation_run: the index idx_operation_run_due is missing",
        ),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_operation_run_due'::regclass",
            "table operation_run: the index idx_operation_run_due is not valid: drop it and make it anew",
        ),
        (
            "ALTER TABLE operation_run_target DROP CONSTRAINT operation_run_target_lease_check",
            "table operation_run_target: the constraint operation_run_target_lease_check is missing",
        ),
        (
            "ALTER TABLE operation_run_phase DROP CONSTRAINT operation_run_phase_operation_run_id_fkey",
            "table operation_run_phase: the constraint operation_run_phase_operation_run_id_fkey is missing",
        ),
        (
            "ALTER TABLE operation_run ADD CONSTRAINT mine CHECK (name <> '') NOT VALID",
            "table operation_run: the constraint mine is not validated: validate it",
        ),
        (
            "ALTER TABLE operation_run_journal DISABLE TRIGGER opdispatch_refused",
            "table operation_run_journal: the guard opdispatch_refused is off, so others can write what does not fit",
        ),
        (
            "DROP TRIGGER opdispatch_changed ON operation_run",
            "table operation_run: the guard opdispatch_changed is missing",
        ),
    ],
)
def test_what_is_missing_or_not_valid_is_told(postgres_url: str, statement: str, said: str) -> None:
    (found,) = checked(postgres_url, statement)

    assert found.startswith(said)


def test_triggers_of_others_are_their_own(postgres_url: str) -> None:
    mine = (
        "CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER mine AFTER INSERT ON operation_run EXECUTE FUNCTION mine()",
        "ALTER TABLE operation_run DISABLE TRIGGER mine",
    )

    assert checked(postgres_url, *mine) == ()


COMPARE = (
    "CREATE OR REPLACE FUNCTION compare(a int, b int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT sign({})::int'"
)


OPERATORS = (
    "CREATE OPERATOR CLASS {} FOR TYPE int4 USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=,"
    " OPERATOR 5 >, FUNCTION 1 compare(int, int)"
)


def test_a_damaged_index_and_a_damaged_table_are_found_where_amcheck_is_installed(postgres_url: str) -> None:
    with PostgresStore(postgres_url) as store:
        store.create(a_run(3))
    before = checked(postgres_url, "CREATE EXTENSION amcheck")

    after = checked(
        postgres_url,
        COMPARE.format("a - b"),
        OPERATORS.format("turning"),
        "CREATE INDEX turned ON operation_run_target (sequence_index turning)",
        COMPARE.format("b - a"),
        "UPDATE pg_class SET relfrozenxid = (SELECT xmin::text::bigint + 1 FROM operation_run)::text::xid"
        " WHERE relname = 'operation_run'",
    )

    assert before == ()
    assert [line.partition(":")[0] for line in after] == [
        "the index turned is damaged",
        "the table operation_run is damaged",
    ]
    assert after[0].endswith("; REINDEX it")


def test_an_index_that_cannot_be_looked_at_is_not_called_damaged(postgres_url: str) -> None:
    with PostgresStore(postgres_url) as store:
        store.create(a_run(3))
    checked(
        postgres_url,
        "CREATE EXTENSION amcheck SCHEMA pg_catalog",
        COMPARE.format("a - b"),
        OPERATORS.format("failing"),
        "CREATE INDEX fails ON operation_run_target (sequence_index failing)",
    )

    with pytest.raises(OpdispatchError, match="division by zero"):
        checked(postgres_url, COMPARE.format("1 / 0"))


def test_a_role_that_may_not_check_pages_checks_the_rest(postgres_server: Server, postgres_url: str) -> None:
    checked(postgres_url, "CREATE EXTENSION amcheck")
    read = "SELECT ON ALL TABLES IN SCHEMA public"
    with a_role(postgres_server, postgres_url, "LOGIN", read) as url, PostgresStore(url) as store:
        assert store.check() == ()


def test_pages_with_a_wrong_checksum_are_told(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundness, "_CHECKSUMS", "SELECT 3")

    (found,) = checked(postgres_url)

    assert found.startswith("the server read 3 pages with a wrong checksum")


# -- risks --


def test_settings_that_endanger_what_is_kept_are_told(postgres_url: str) -> None:
    with connected(postgres_url) as connection:
        before = list(soundness.risks(connection))
        for name in ("synchronous_commit", "autovacuum"):
            assert not any(line.startswith(f"{name} is off") for line in before)
        connection.exec_driver_sql("SET synchronous_commit = off")
        after = list(soundness.risks(connection))

    assert [line.split(" is off")[0] for line in after if line not in before] == ["synchronous_commit"]


def test_an_order_of_texts_that_changed_is_told(postgres_url: str) -> None:
    checked(postgres_url, "UPDATE pg_database SET datcollversion = '0.1' WHERE datname = current_database()")

    with connected(postgres_url) as connection:
        found = list(soundness.risks(connection))

    assert "the order of texts changed" in found[-1]


def test_an_older_server_has_no_version_of_its_order(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundness, "_COLLATION_SINCE", 999_999)
    monkeypatch.setattr(soundness, "_SETTINGS", {})

    with connected(postgres_url) as connection:
        assert list(soundness.risks(connection)) == []


def test_a_store_tells_the_risks_that_its_server_has(postgres_url: str, tmp_path: Path) -> None:
    migrate(tmp_path / "store.db")

    with PostgresStore(postgres_url) as there, SqliteStore(tmp_path / "store.db") as here:
        with connected(postgres_url) as connection:
            assert there.cautions() == tuple(soundness.risks(connection))
        assert here.cautions() == ()


def test_the_program_tells_of_risks_and_ends_with_0(postgres_url: str, tmp_path: Path) -> None:
    checked(postgres_url, "UPDATE pg_database SET datcollversion = '0.1' WHERE datname = current_database()")
    site = Site(tmp_path)

    done = site.opd("--store", postgres_url, "store", "check")
    document = site.json("--store", postgres_url, "store", "check")

    assert done.returncode == 0, done.stderr
    assert "caution: the order of texts changed" in done.stderr
    assert "everything fits" in done.stdout
    assert (document["ok"], document["differences"]) == (True, [])
    assert any(line.startswith("the order of texts changed") for line in document["cautions"])
