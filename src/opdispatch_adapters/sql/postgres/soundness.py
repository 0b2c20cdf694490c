"""Whether a database is sound, as far as the server can tell: what is damaged, and what would not outlive a crash.

What is damaged stands against dispatching: an index or a constraint that is missing or not valid, a guard that is down,
a page whose checksum is wrong, and whatever the extension ``amcheck`` finds where it is installed.  A risk is for
whoever looks after the server.
"""

# ruff: noqa: S608  (every part of a statement here is a constant, or quoted by the server)
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy import Boolean, CheckConstraint, Connection, UniqueConstraint, text
from sqlalchemy.exc import DBAPIError

from ..schema import metadata
from . import guards

_TABLES: Final = tuple(table.name for table in metadata.sorted_tables)
_OURS: Final = """
JOIN pg_class t ON t.oid = x.{owner} AND t.relname = ANY(:tables)
    AND t.relnamespace = to_regnamespace(quote_ident(current_schema()))
"""
_INDEXES: Final = f"""
SELECT i.relname, t.relname, x.indisvalid AND x.indisready, i.oid,
    i.relam = (SELECT oid FROM pg_am WHERE amname = 'btree')
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid {_OURS.format(owner="indrelid")} ORDER BY 1
"""
_CONSTRAINTS: Final = (
    f"SELECT x.conname, t.relname, x.convalidated FROM pg_constraint x {_OURS.format(owner='conrelid')}"
)
_TRIGGERS: Final = f"""
SELECT x.tgname, t.relname, x.tgenabled IN ('O', 'A') FROM pg_trigger x {_OURS.format(owner="tgrelid")}
WHERE NOT x.tgisinternal
"""
_CHECKSUMS: Final = "SELECT checksum_failures FROM pg_stat_database WHERE datname = current_database()"
_AMCHECK: Final = """
SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'amcheck' AND NOT EXISTS (SELECT 1 FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
    WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.classid = 'pg_proc'::regclass
        AND NOT has_function_privilege(p.oid, 'EXECUTE'))
"""
_SETTINGS: Final = {
    "fsync": "a crash of its host can destroy the database",
    "full_page_writes": "a crash of its host can destroy the database",
    "synchronous_commit": "a crash can forget what was committed last, such as which tasks were begun",
    "data_checksums": "nobody notices when the disk changes a page",
    "autovacuum": "tables grow, and plans get worse",
}
_COLLATION: Final = """
SELECT datcollversion, pg_database_collation_actual_version(oid) FROM pg_database WHERE datname = current_database()
"""
_COLLATION_SINCE: Final = 150000


def damage(connection: Connection) -> Iterator[str]:
    """One sentence for each thing that is damaged.  Cost: reads the catalogue; with ``amcheck`` every page."""
    asked = {"tables": list(_TABLES)}
    indexes = connection.execute(text(_INDEXES), asked).all()
    constraints = connection.execute(text(_CONSTRAINTS), asked).all()
    triggers = connection.execute(text(_TRIGGERS), asked).all()
    for kind, wanted, found, bad in (
        ("index", _wanted_indexes(), indexes, "is not valid: drop it and make it anew"),
        ("constraint", _wanted_constraints(), constraints, "is not validated: validate it"),
        ("guard", _wanted_guards(), triggers, "is off, so others can write what does not fit: enable it"),
    ):
        holds = {(row[0], row[1]): bool(row[2]) for row in found}
        for name, table in sorted(wanted):
            if (name, table) not in holds:
                yield f"table {table}: the {kind} {name} is missing"
        for (name, table), is_good in sorted(holds.items()):
            if not is_good and (kind != "guard" or (name, table) in wanted):
                yield f"table {table}: the {kind} {name} {bad}"
    failures = connection.scalar(text(_CHECKSUMS))
    if failures:
        yield f"the server read {failures} pages with a wrong checksum: restore the database from a copy"
    schema = connection.scalar(text(_AMCHECK))
    if schema is not None:
        yield from _amcheck(connection, schema, [(row[0], row[3]) for row in indexes if row[4]])


def risks(connection: Connection) -> Iterator[str]:
    """One sentence for each thing about the server that endangers what is kept there."""
    for name, risk in _SETTINGS.items():
        if connection.scalar(text("SELECT current_setting(:name, true)"), {"name": name}) == "off":
            yield f"{name} is off on the server: {risk}"
    if connection.scalar(text("SELECT current_setting('server_version_num')::int")) >= _COLLATION_SINCE:
        made, now = connection.execute(text(_COLLATION)).one()
        if made != now:
            yield (
                f"the order of texts changed with the server's system (from {made} to {now}), and indexes still have"
                " the old one: REINDEX DATABASE, then ALTER DATABASE ... REFRESH COLLATION VERSION"
            )


def _wanted_indexes() -> set[tuple[str, str]]:
    return {(str(index.name), table.name) for table in metadata.sorted_tables for index in table.indexes}


def _wanted_constraints() -> set[tuple[str, str]]:
    wanted = set()
    for table in metadata.sorted_tables:
        # A boolean is one here, and needs no constraint for it.
        native = {column.type.name for column in table.c if isinstance(column.type, Boolean)}
        wanted.add((f"{table.name}_pkey", table.name))
        for constraint in table.constraints:
            if isinstance(constraint, UniqueConstraint | CheckConstraint) and constraint.name not in native:
                wanted.add((str(constraint.name), table.name))
        wanted |= {(f"{table.name}_{key.parent.name}_fkey", table.name) for key in table.foreign_keys}
    return wanted


def _wanted_guards() -> set[tuple[str, str]]:
    return {(f"opdispatch_{name}", table) for name, table, *_ in guards._TRIGGERS}


def _amcheck(connection: Connection, schema: str, indexes: Sequence[tuple[str, int]]) -> Iterator[str]:
    for name, oid in indexes:
        try:
            with connection.begin_nested():
                connection.execute(text(f"SELECT {schema}.bt_index_check(CAST(:index AS oid))"), {"index": oid})
        except DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None) or ""
            if not state.startswith("XX"):
                raise
            yield f"the index {name} is damaged: {' '.join(str(error.orig).split())}; REINDEX it"
    for table in _TABLES:
        found = f"SELECT msg FROM {schema}.verify_heapam(CAST(:name AS regclass)) LIMIT 3"
        for said in connection.scalars(text(found), {"name": table}):
            yield f"the table {table} is damaged: {said}; restore the database from a copy"
