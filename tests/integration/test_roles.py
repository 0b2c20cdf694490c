"""The roles of a database, on a real server: each can do its work, and nothing else."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from datetime import timedelta
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from sqlalchemy import create_engine

from opdispatch.command import Pause
from opdispatch.errors import InvalidInput, Unavailable
from opdispatch.identity import CommandId
from opdispatch.target import TargetStatus
from opdispatch_adapters.sql import PostgresStore, adopt, migrate
from opdispatch_adapters.sql.postgres.roles import roles
from opdispatch_adapters.sql.retention import prune
from tests.postgres import Server

from .adoption_kit import created, foreign, serve, statuses
from .reference_database import bring_to
from .reference_seeds import rack_id, seed
from .store_kit import a_command, a_round, a_run, accepted, over

DUTIES = ("migrate", "run", "read")
TABLES = {
    "operation_run",
    "operation_run_target",
    "operation_run_phase",
    "operation_run_stray",
    "operation_run_journal",
    "opdispatch_revision",
}


@pytest.fixture
def prefix(postgres_server: Server) -> Iterator[str]:
    """The names of roles are the server's: those of a test begin with something of its own, and go with it."""
    begins = f"t{secrets.token_hex(4)}_"
    yield begins
    with postgres_server.connected() as connection:
        for duty in DUTIES:
            connection.execute(SQL("DROP ROLE IF EXISTS {}").format(Identifier(f"{begins}{duty}")))


def database(make: Callable[[], str], server: Server, prefix: str) -> Iterator[str]:
    url = make()
    yield url
    server.drop(url)


@pytest.fixture
def migrated(postgres_server: Server, prefix: str) -> Iterator[str]:
    """A database that goes before the roles do, because it holds what they own."""
    yield from database(postgres_server.clone, postgres_server, prefix)


@pytest.fixture
def empty(postgres_server: Server, prefix: str) -> Iterator[str]:
    yield from database(postgres_server.create, postgres_server, prefix)


@pytest.fixture
def as_role(postgres_server: Server, prefix: str) -> Callable[[str, str], str]:
    """The URL of a database for one of the roles, which has a password then."""

    def url_of(url: str, duty: str) -> str:
        name, password = f"{prefix}{duty}", secrets.token_hex(8)
        with postgres_server.connected() as connection:
            connection.execute(SQL("ALTER ROLE {} PASSWORD {}").format(Identifier(name), password))
        return postgres_server.url_of(urlsplit(url).path[1:], user=name, password=password)

    return url_of


def rights(url: str, role: str) -> dict[str, set[str]]:
    """What a role may do with each table that it may do anything with."""
    query = """
        SELECT relname, array_agg(p) FROM pg_class
        CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND has_table_privilege(%s, oid, p)
        GROUP BY relname
    """
    with psycopg.connect(url) as connection:
        return {name: set(found) for name, found in connection.execute(query, [role])}


def test_the_role_that_runs_dispatches_and_obeys_and_removes_nothing(
    migrated: str, prefix: str, as_role: Callable[[str, str], str]
) -> None:
    roles(migrated, prefix=prefix, apply=True)

    with PostgresStore(as_role(migrated, "run")) as store:
        run_id = store.create(a_run(3)).id
        now = store.unsettled(run_id).looked_at
        a_command(store, run_id, Pause(command_id=CommandId("p"), actor="operator"))
        assert not a_round(store, run_id).effects
        store.report(run_id, "it broke", lambda count: timedelta(0), 1)
        store.release(run_id)
        store.wake(run_id)
        other = store.create(a_run(2, name="other")).id
        a_round(store, other, *accepted(a_round(store, other)))
        a_round(store, other, *over(store.targets(other, statuses={TargetStatus.SUBMITTED}), now))
        assert store.get(other).run.status.is_terminal
        assert store.check() == ()
        with pytest.raises(Unavailable, match="opdispatch store roles"):
            prune(store, timedelta(microseconds=1))
    assert rights(migrated, f"{prefix}run") == {
        "operation_run": {"SELECT", "INSERT", "UPDATE"},
        "operation_run_target": {"SELECT", "INSERT", "UPDATE"},
        "operation_run_phase": {"SELECT", "INSERT", "UPDATE"},
        "operation_run_stray": {"SELECT", "INSERT", "UPDATE"},
        "operation_run_journal": {"SELECT", "INSERT"},
        "opdispatch_revision": {"SELECT"},
    }


def test_the_role_that_reads_looks_and_changes_nothing(
    migrated: str, prefix: str, as_role: Callable[[str, str], str]
) -> None:
    roles(migrated, prefix=prefix, apply=True)
    with PostgresStore(migrated) as store:
        run_id = store.create(a_run(3)).id

    with PostgresStore(as_role(migrated, "read")) as store:
        assert len(store.targets(run_id)) == 3
        assert store.get(run_id).trouble is None
        assert store.check() == ()
        with pytest.raises(Unavailable, match="opdispatch store roles"):
            store.create(a_run(1, name="another"))
        with pytest.raises(Unavailable, match="opdispatch store roles"), store.lock(run_id, timedelta(0)):
            pass
    assert rights(migrated, f"{prefix}read") == {table: {"SELECT"} for table in TABLES}


def test_the_role_that_migrates_makes_the_tables_of_an_empty_database(
    empty: str, prefix: str, as_role: Callable[[str, str], str]
) -> None:
    roles(empty, prefix=prefix, apply=True)
    assert rights(empty, f"{prefix}run") == {}

    migrate(as_role(empty, "migrate"))
    roles(empty, prefix=prefix, apply=True)

    with PostgresStore(as_role(empty, "run")) as store:
        store.create(a_run(1))


def test_the_role_that_migrates_takes_tables_down_and_up_that_another_made_and_prunes(
    migrated: str, prefix: str, as_role: Callable[[str, str], str]
) -> None:
    roles(migrated, prefix=prefix, apply=True)
    url = as_role(migrated, "migrate")

    migrate(url, "0001")
    migrate(url)
    with PostgresStore(url) as store:
        store.create(a_run(1))
        assert prune(store, timedelta(days=1)).runs == 0
    with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("CREATE ROLE nobody")


def test_a_person_migrates_in_the_name_of_the_role(empty: str, prefix: str, as_role: Callable[[str, str], str]) -> None:
    roles(empty, prefix=prefix, apply=True)
    with psycopg.connect(empty) as connection:
        person = SQL("GRANT {} TO {}").format(Identifier(f"{prefix}migrate"), Identifier(f"{prefix}read"))
        connection.execute(person)

    migrate(f"{as_role(empty, 'read')}&options=-crole%3D{prefix}migrate")

    with psycopg.connect(empty) as connection:
        owners = connection.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert owners == [(f"{prefix}migrate",)]


def test_what_is_printed_is_what_is_executed_and_can_be_repeated(migrated: str, prefix: str) -> None:
    printed = roles(migrated, prefix=prefix)
    with psycopg.connect(migrated) as connection:
        known = "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, %s)"
        assert connection.execute(known, [prefix]).fetchone() == (0,)
        connection.execute(";\n".join(printed))

    again = roles(migrated, prefix=prefix, apply=True)

    assert set(again) < set(printed)
    assert roles(migrated, prefix=prefix, apply=True) == again
    assert not any("CREATE ROLE" in statement or "OWNER" in statement for statement in again)


def adopted(url: str) -> None:
    """The reference's tables, of whoever connects, taken over."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        bring_to(connection)
        seed(connection)
    engine.dispose()


def test_the_tables_of_the_reference_stay_its_own(empty: str, prefix: str) -> None:
    adopted(empty)
    with pytest.raises(Unavailable, match="opdispatch store adopt"):
        roles(empty, prefix=prefix)
    adopt(empty)

    done = roles(empty, prefix=prefix, apply=True)

    assert [line.split(":")[0] for line in done if line.startswith("--")] == [
        "-- all belongs to the superuser postgres"
    ]
    assert not any("OWNER" in line for line in done)
    assert "operation_run_target" in rights(empty, f"{prefix}run")
    assert "task" not in rights(empty, f"{prefix}run")


@pytest.fixture
def service(postgres_server: Server, prefix: str, empty: str) -> Iterator[str]:
    """The URL for the role of the reference's service, which made the tables of an adopted database."""
    name = f"{prefix}service"
    with psycopg.connect(empty) as connection:
        connection.execute(SQL("CREATE ROLE {} LOGIN PASSWORD 'hush'").format(Identifier(name)))
        connection.execute(SQL("GRANT CREATE ON SCHEMA public TO {}").format(Identifier(name)))
    url = postgres_server.url_of(urlsplit(empty).path[1:], user=name, password="hush")
    adopted(url)
    adopt(empty)
    yield url
    with psycopg.connect(empty) as connection:
        connection.execute(SQL("DROP OWNED BY {} CASCADE").format(Identifier(name)))
        connection.execute(SQL("DROP ROLE {}").format(Identifier(name)))


def test_an_adopted_database_stays_its_service_s_and_who_migrates_is_a_member(
    empty: str, prefix: str, service: str, as_role: Callable[[str, str], str]
) -> None:
    done = roles(empty, prefix=prefix, apply=True)
    again = roles(empty, prefix=prefix, apply=True)
    with foreign(service) as connection:
        created(connection, [rack_id(0)], [0])
    serve(as_role(empty, "run"))
    after = statuses(empty)["created"]
    migrate(as_role(empty, "migrate"), "base")

    assert done.count(f"GRANT {prefix}service TO {prefix}migrate") == 1
    assert not any("OWNER" in line or line.startswith(f"GRANT {prefix}service") for line in again)
    assert after == ("completed", "none")


def test_what_another_made_in_an_adopted_database_goes_to_its_service(empty: str, prefix: str, service: str) -> None:
    with psycopg.connect(empty) as connection:
        connection.execute("ALTER TABLE operation_run_phase OWNER TO postgres")
        connection.execute("ALTER FUNCTION opdispatch_refuse() OWNER TO postgres")
        connection.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")

    done = roles(empty, prefix=prefix, apply=True)

    assert [line for line in done if "OWNER" in line] == [
        f"ALTER TABLE public.operation_run_phase OWNER TO {prefix}service",
        f"ALTER FUNCTION public.opdispatch_refuse() OWNER TO {prefix}service",
    ]
    assert "-- the reference's service may need it, so it is left: REVOKE CREATE ON SCHEMA public FROM PUBLIC" in done


def test_an_owner_of_the_database_who_may_make_roles_needs_no_superuser(
    postgres_server: Server, prefix: str, as_role: Callable[[str, str], str]
) -> None:
    url, owner = postgres_server.create(), f"{prefix}read"
    try:
        with postgres_server.connected() as connection:
            connection.execute(SQL("CREATE ROLE {} LOGIN CREATEROLE").format(Identifier(owner)))
            name = Identifier(urlsplit(url).path[1:])
            connection.execute(SQL("ALTER DATABASE {} OWNER TO {}").format(name, Identifier(owner)))
        theirs = as_role(url, "read")
        migrate(theirs)
        others = f"{prefix}o_"

        done = roles(theirs, prefix=others, apply=True)

        assert f"GRANT {others}migrate TO {owner}" in done
        assert rights(url, f"{others}read") == {table: {"SELECT"} for table in TABLES}
    finally:
        postgres_server.drop(url)
        with postgres_server.connected() as connection:
            for duty in DUTIES:
                connection.execute(SQL("DROP ROLE IF EXISTS {}").format(Identifier(f"{prefix}o_{duty}")))


def test_nobody_else_makes_tables_beside_ours(migrated: str, prefix: str) -> None:
    with psycopg.connect(migrated) as connection:
        connection.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")

    assert "REVOKE CREATE ON SCHEMA public FROM PUBLIC" in roles(migrated, prefix=prefix, apply=True)
    assert "REVOKE CREATE ON SCHEMA public FROM PUBLIC" not in roles(migrated, prefix=prefix)


def test_a_prefix_may_need_quotes(migrated: str, prefix: str) -> None:
    odd = f'{prefix}% "a"-'

    done = roles(migrated, prefix=odd)

    assert done[0].startswith(f'CREATE ROLE "{prefix}% ""a""-migrate"')
    with psycopg.connect(migrated) as connection:
        connection.execute(";\n".join(done))
        known = "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s) ORDER BY 1"
        assert connection.execute(known, [prefix]).fetchall() == [(f"{odd}{duty}",) for duty in sorted(DUTIES)]
        connection.rollback()


@pytest.mark.parametrize("begins", ["", "pg_", "a\0b", "a" * 57, "\u00e4" * 29])
def test_a_prefix_that_is_no_name_is_refused(begins: str) -> None:
    with pytest.raises(InvalidInput, match="cannot begin the names of roles"):
        roles("postgresql://h/db", prefix=begins)


def test_a_file_has_no_roles() -> None:
    with pytest.raises(InvalidInput, match="a file has no roles"):
        roles("/tmp/store.db")


def test_without_a_schema_there_is_nothing_to_grant(migrated: str, prefix: str) -> None:
    with pytest.raises(Unavailable, match="search_path"):
        roles(f"{migrated}&options=-c%20search_path%3Dnowhere", prefix=prefix)


def test_whoever_may_not_make_roles_is_told_so(migrated: str, prefix: str, as_role: Callable[[str, str], str]) -> None:
    roles(migrated, prefix=prefix, apply=True)

    with pytest.raises(Unavailable, match="apply it as a superuser"):
        roles(as_role(migrated, "read"), prefix=f"{prefix}2_", apply=True)


def test_what_else_goes_wrong_is_told_as_anywhere(migrated: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opdispatch_adapters.sql.postgres.roles._LIMITS", "NOTHING")

    with pytest.raises(Unavailable, match="NOTHING"):
        roles(migrated, prefix=prefix, apply=True)
