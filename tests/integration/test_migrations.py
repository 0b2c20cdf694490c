"""Migrations: up, down and up again, and every file that is not to be touched."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from opdispatch.errors import CorruptRecord, InvalidInput, Unavailable
from opdispatch_adapters.sql import SqliteStore, check, migrate
from opdispatch_adapters.sql.schema import metadata
from opdispatch_adapters.sql.standing import REVISIONS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def _columns(path: Path) -> dict[str, set[tuple[object, ...]]]:
    """Every column of every table: name, type, whether it may be null, key, and how it is generated.

    Not the defaults: SQLite cannot give one to a column that is there, and a file has no other writers.
    """
    connection = sqlite3.connect(path)
    try:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            table: {(*row[1:4], row[5], row[6] > 1) for row in connection.execute(f"PRAGMA table_xinfo({table})")}
            for table in tables
            if table != "opdispatch_revision"
        }
    finally:
        connection.close()


def _indexes(path: Path) -> dict[str, str]:
    return {name: sql for name, sql in _schema(path).items() if sql.startswith("CREATE INDEX")}


def _schema(path: Path) -> dict[str, str]:
    """Every table and index by name, as SQLite was told to make it; without the record of the revision."""
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    finally:
        connection.close()
    return {name: sql for name, sql in rows if name != "opdispatch_revision"}


def _run(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    try:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    finally:
        connection.close()


def test_the_migrated_schema_is_the_one_that_the_store_is_written_for(path: Path, tmp_path: Path) -> None:
    expected = tmp_path / "metadata.db"
    engine = create_engine(f"sqlite:///{expected}")
    metadata.create_all(engine)
    engine.dispose()

    migrate(path)

    assert _columns(path) == _columns(expected)
    assert _indexes(path) == _indexes(expected)


def test_up_down_and_up_leaves_no_trace(path: Path) -> None:
    migrate(path)
    first = _schema(path)

    assert migrate(path, "base") == (REVISIONS[-1], "base")
    assert _schema(path) == {}
    assert migrate(path) == ("base", REVISIONS[-1])
    assert _schema(path) == first


def test_a_migration_that_is_not_needed_changes_nothing(path: Path) -> None:
    migrate(path)

    assert migrate(path) == (REVISIONS[-1], REVISIONS[-1])


def test_a_url_names_the_same_file_as_its_path(path: Path) -> None:
    migrate(f"sqlite:///{path}")

    check(path)
    assert path.exists()


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "runs.db"

    migrate(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_migration_leaves_the_hosts_logging_alone(path: Path) -> None:
    logger = logging.getLogger("somebody.else")
    before = (logging.getLogger().handlers[:], logging.getLogger().level)

    migrate(path)

    assert (logging.getLogger().handlers[:], logging.getLogger().level) == before
    assert not logger.disabled


def test_a_failed_migration_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import op

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(op, "create_index", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            migrate(path)

    assert _schema(path) == {}
    assert migrate(path) == ("base", REVISIONS[-1])


def test_opening_never_migrates(path: Path) -> None:
    path.touch()

    with pytest.raises(Unavailable, match="opdispatch store migrate"):
        SqliteStore(path)

    assert _schema(path) == {}


def test_a_missing_file_is_not_made_by_opening(path: Path) -> None:
    with pytest.raises(Unavailable, match="there is no such file; run `opdispatch store migrate` first"):
        SqliteStore(path)

    assert not path.exists()


def test_a_file_from_the_future_is_left_alone(path: Path) -> None:
    migrate(path)
    _run(path, "UPDATE opdispatch_revision SET version_num = '9999'")
    before = path.read_bytes()

    for use in (SqliteStore, check, migrate):
        with pytest.raises(CorruptRecord, match="written by a newer version"):
            use(path)

    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_left_alone(path: Path) -> None:
    path.write_bytes(b"rack,site\n" * 200)
    before = path.read_bytes()

    for use in (SqliteStore, check, migrate):
        with pytest.raises(CorruptRecord, match="not a database"):
            use(path)

    assert path.read_bytes() == before


def test_a_database_of_somebody_else_is_left_alone(path: Path) -> None:
    _run(path, "CREATE TABLE songs (title TEXT)")

    for use in (SqliteStore, check, migrate):
        with pytest.raises(CorruptRecord, match=r"it holds other tables \(songs\)"):
            use(path)

    assert set(_schema(path)) == {"songs"}


def test_a_symbolic_link_is_refused(path: Path, tmp_path: Path) -> None:
    migrate(tmp_path / "real.db")
    path.symlink_to(tmp_path / "real.db")

    for use in (SqliteStore, check, migrate):
        with pytest.raises(InvalidInput, match="is a symbolic link"):
            use(path)


def test_a_dangling_link_is_refused_and_nothing_is_made_behind_it(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere.db")

    with pytest.raises(InvalidInput, match="is a symbolic link"):
        migrate(path)

    assert not (tmp_path / "elsewhere.db").exists()


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not a regular file"):
        migrate(tmp_path)


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(Unavailable, match="make its directory usable"):
        migrate(tmp_path / "file" / "runs.db")


@pytest.mark.parametrize("source", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?uri=true", "mysql://h/d"])
def test_a_url_that_names_no_file_of_ours_is_refused(source: str) -> None:
    with pytest.raises(InvalidInput, match="sqlite:///path/to/file"):
        migrate(source)


def test_an_unknown_revision_is_refused_before_anything_is_made(path: Path) -> None:
    with pytest.raises(InvalidInput, match="use head or one of base"):
        migrate(path, "0000")

    assert not path.exists()


def test_the_known_revisions_are_those_of_the_scripts() -> None:
    import opdispatch_adapters.sql as package

    scripts = sorted((Path(package.__file__).parent / "migrations" / "versions").glob("[0-9]*.py"))

    assert tuple(script.name.split("_")[0] for script in scripts) == REVISIONS


def test_a_path_with_odd_characters_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a b%20?#é.db"

    migrate(path)

    with SqliteStore(path) as store:
        assert store.list() == ()
        assert store.version() > 0
    assert os.listdir(tmp_path) == [path.name]


def test_a_database_that_is_refused_is_left_byte_for_byte_as_it_was(path: Path) -> None:
    _run(path, "CREATE TABLE invoices (id INTEGER)", "INSERT INTO invoices VALUES (7)")
    before = path.read_bytes()

    for use in (migrate, check, SqliteStore):
        with pytest.raises(CorruptRecord):
            use(path)

    assert path.read_bytes() == before


_SMALL_DISK = """
import resource, signal, sys
from opdispatch.errors import Unavailable
from opdispatch_adapters.sql import migrate
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
try:
    migrate(sys.argv[1])
except Unavailable as error:
    print(error)
"""


def test_a_store_that_could_not_be_made_leaves_nothing_behind(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _SMALL_DISK, str(path)], capture_output=True, text=True, check=True)

    assert "is not available" in done.stdout
    assert list(path.parent.iterdir()) == []
