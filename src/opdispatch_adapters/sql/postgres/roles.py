"""Roles with the least that each needs: one that migrates, one that dispatches and commands, one that reads.

========  ===============================================================================
role      what it may
========  ===============================================================================
migrate   own our tables and functions: change, drop and prune them
run       read, insert and update runs, targets, phases and strays; read and append the journal
read      read the same
========  ===============================================================================

Only the migrate role may delete, so whoever dispatches cannot rewrite the journal.  Tables that somebody else made
before there were roles go over to the migrate role.  In a database that was adopted all is the role's that owns the
reference's tables, because its service writes to ours when it creates a run; there the migrate role becomes a member of
that role, unless it is a superuser.  What is not ours is never named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from opdispatch.errors import InvalidInput, Unavailable

from ..locate import is_postgres, require_driver
from ..schema import journal, metadata, run
from ..standing import VERSION_TABLE, NotAdopted, is_reference
from .adopt import ADOPTION, is_adopted

PREFIX: Final = "opdispatch_"
_KINDS: Final = ("migrate", "run", "read")
_LONGEST: Final = 63 - len("migrate")
"""PostgreSQL cuts longer names silently."""
_JOURNAL: Final = journal.name
_RUNS: Final = tuple(table.name for table in metadata.sorted_tables if table.name != _JOURNAL)
_RUN: Final = run.name
_LIMITS: Final = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
_TABLES: Final = """
SELECT c.relname, o.rolname, o.rolsuper FROM pg_class c JOIN pg_roles o ON o.oid = c.relowner
WHERE c.relnamespace = to_regnamespace(quote_ident(current_schema())) AND c.relkind = 'r' AND c.relname = ANY(:names)
"""
_FUNCTIONS: Final = """
SELECT p.proname, o.rolname FROM pg_proc p JOIN pg_roles o ON o.oid = p.proowner
WHERE p.pronamespace = to_regnamespace(quote_ident(current_schema())) AND p.proname LIKE 'opdispatch\\_%'
    AND p.pronargs = 0
ORDER BY p.proname
"""
_ANYBODY_CREATES: Final = """
SELECT EXISTS (SELECT 1 FROM pg_namespace n, aclexplode(n.nspacl) a
    WHERE n.nspname = current_schema() AND a.grantee = 0 AND a.privilege_type = 'CREATE')
"""
_IS_MEMBER: Final = """
SELECT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = :of) AND EXISTS (SELECT 1 FROM pg_roles WHERE rolname = :who)
    AND pg_has_role((SELECT oid FROM pg_roles WHERE rolname = :who), (SELECT oid FROM pg_roles WHERE rolname = :of),
        'MEMBER')
"""


def roles(source: str, *, prefix: str = PREFIX, apply: bool = False) -> Sequence[str]:
    """The statements that bring the roles migrate, run and read about, each named with the prefix; carried out in one
    transaction with ``apply``.  May be repeated: after a migration that made tables it has to be.  What only a person
    can decide is a comment among them.

    The roles have no password.  They belong to the whole server: databases that must not share them need a prefix each.

    Raises:
        InvalidInput: the source is no PostgreSQL database, or the prefix no name.
        Unavailable: the database cannot be used now, is not adopted, or whoever asks may not do it.
    """
    if not is_postgres(source):
        raise InvalidInput.at("store", "a file has no roles: its owner alone can use it", "give postgresql://...")
    if not prefix or "\0" in prefix or len(prefix.encode()) > _LONGEST or prefix.startswith("pg_"):
        raise InvalidInput.at("prefix", f"{prefix!r} cannot begin the names of roles", f"use 1 to {_LONGEST} bytes")
    require_driver()
    from .engine import changing_tables

    with changing_tables(source) as (connection, what):
        if is_reference(connection):
            raise NotAdopted(what)
        found = tuple(_Script(connection, what, prefix).statements())
        if apply:
            _carry_out(connection, what, found)
        return found


def _carry_out(connection: Connection, what: str, statements: Sequence[str]) -> None:
    for statement in statements:
        try:
            # A comment is no statement, and does nothing.
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != "42501":
                raise
            raise Unavailable(
                what,
                f"{' '.join(str(error.orig).split())}; nothing was changed",
                "apply it as a superuser, or as a role with CREATEROLE that owns the database and our tables",
            ) from error


class _Script:
    def __init__(self, connection: Connection, what: str, prefix: str) -> None:
        self._connection = connection
        self._quote: Callable[[str], str] = connection.dialect.identifier_preparer.quote
        self._names = {kind: f"{prefix}{kind}" for kind in _KINDS}
        migrate, run, read = (self._quoted(name) for name in self._names.values())
        self._migrate, self._run, self._read = migrate, run, read
        schema, self._database = connection.execute(text("SELECT current_schema(), current_database()")).one()
        if schema is None:
            raise Unavailable(what, "no schema is on its search path", "create one, or set the role's search_path")
        self._schema = schema
        found = connection.execute(text(_TABLES), {"names": [*_RUNS, _JOURNAL, VERSION_TABLE, ADOPTION]}).all()
        self._is_adopted = is_adopted(connection)
        self._owners: Mapping[str, tuple[str, bool]] = {name: (owner, is_super) for name, owner, is_super in found}

    def statements(self) -> Iterator[str]:
        yield from self._made()
        yield from self._let_in()
        if VERSION_TABLE not in self._owners:
            yield f"-- there are no tables yet: migrate as {self._migrate}, and apply this again"
            return
        yield from self._owned()
        yield from self._granted()

    # -- who --

    def _made(self) -> Iterator[str]:
        query = text("SELECT rolname FROM pg_roles WHERE rolname = ANY(:names)")
        there = set(self._connection.scalars(query, {"names": list(self._names.values())}))
        for name in self._names.values():
            if name not in there:
                yield f"CREATE ROLE {self._quoted(name)} {_LIMITS}"
        who, is_super = self._connection.execute(
            text("SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user")
        ).one()
        if not is_super and not self._is_member(who, self._names["migrate"]):
            # Whoever is no superuser can give a table to a role only as a member of it.
            yield f"GRANT {self._migrate} TO {self._quoted(who)}"

    def _is_member(self, who: str, of: str) -> bool:
        found: bool = self._connection.scalar(text(_IS_MEMBER), {"who": who, "of": of})
        return found

    # -- what --

    def _let_in(self) -> Iterator[str]:
        everybody = f"{self._migrate}, {self._run}, {self._read}"
        schema = self._quoted(self._schema)
        yield f"GRANT CONNECT ON DATABASE {self._quoted(self._database)} TO {everybody}"
        if self._connection.scalar(text(_ANYBODY_CREATES)):
            told = "-- the reference's service may need it, so it is left: " if self._is_adopted else ""
            yield f"{told}REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC"
        yield f"GRANT USAGE ON SCHEMA {schema} TO {everybody}"
        yield f"GRANT CREATE ON SCHEMA {schema} TO {self._migrate}"

    def _owned(self) -> Iterator[str]:
        migrate = self._names["migrate"]
        keeper = migrate
        if self._is_adopted:
            keeper, is_super = self._owners[_RUN]
            if is_super:
                yield f"-- all belongs to the superuser {keeper}: only a superuser can migrate it or give it back"
            elif not self._is_member(migrate, keeper):
                yield f"GRANT {self._quoted(keeper)} TO {self._migrate}"
        for table, (owner, _) in sorted(self._owners.items()):
            if owner != keeper:
                yield f"ALTER TABLE {self._table(table)} OWNER TO {self._quoted(keeper)}"
        for function, owner in self._connection.execute(text(_FUNCTIONS)):
            if owner != keeper:
                yield f"ALTER FUNCTION {self._table(function)}() OWNER TO {self._quoted(keeper)}"

    def _granted(self) -> Iterator[str]:
        run, read = self._run, self._read
        runs, entries = ", ".join(map(self._table, _RUNS)), self._table(_JOURNAL)
        ours = ", ".join(map(self._table, sorted(self._owners)))
        yield f"REVOKE ALL ON {ours} FROM {run}, {read}"
        yield f"GRANT SELECT ON {ours} TO {run}, {read}"
        yield f"GRANT INSERT, UPDATE ON {runs} TO {run}"
        yield f"GRANT INSERT ON {entries} TO {run}"

    def _quoted(self, name: str) -> str:
        # Percent signs are doubled for statements with parameters, and these have none.
        return self._quote(name).replace("%%", "%")

    def _table(self, name: str) -> str:
        return f"{self._quoted(self._schema)}.{self._quoted(name)}"
