"""Where a store is, and what lies beside it."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from opdispatch.errors import InvalidInput, Unavailable


def locate(option: str) -> Path:
    """The absolute path of a store's file.  Raises InvalidInput for what no store can be in."""
    if not option or "\0" in option:
        raise InvalidInput.at("--store", f"{option!r} names no file", "give a path, or sqlite:///path")
    if "://" in option:
        from opdispatch_adapters.sql.sqlite.engine import file_of

        option = str(file_of(option))
    path = Path(os.path.abspath(Path(option).expanduser()))
    # The directory by its real name: two ways to one store must lead to one directory of tasks.
    path = Path(os.path.realpath(path.parent)) / path.name
    if not path.name or path.is_dir():
        raise InvalidInput.at("--store", f"{path} is a directory", "name a file in it, such as opdispatch.db")
    if path.is_symlink():
        raise InvalidInput.at("--store", f"{path} is a symbolic link", "name the file itself")
    return path


def require_store(path: Path) -> None:
    """Refuse a store that is not there."""
    if not os.path.lexists(path):
        raise InvalidInput.at(
            f"store {path}",
            "there is no such file",
            "name the store with --store, or make one with `opdispatch run FILE` or `opdispatch store migrate`",
        )


def new_store(path: Path) -> bool:
    """Make an empty store, whole or not at all; False when somebody else made it meanwhile.

    It is migrated under another name and linked to its own: a full disk leaves no half-made store behind, that the
    next call would stumble over.
    """
    from opdispatch_adapters.sql import migrate

    draft = path.with_name(f".{path.name}.{uuid4().hex[:12]}")
    try:
        migrate(draft)
        os.link(draft, path)
    except FileExistsError:
        return False
    except Unavailable as error:
        raise Unavailable(f"store {path}", error.detail.replace(str(draft), str(path)), error.remedy) from error
    except OSError as error:
        raise Unavailable(f"store {path}", str(error.strerror), "name a file on a file system of its own") from error
    finally:
        for ending in ("", "-wal", "-shm", "-journal"):
            draft.with_name(f"{draft.name}{ending}").unlink(missing_ok=True)
    return True


def tasks_of(store: Path) -> Path:
    """The directory of a store's tasks and programs."""
    return store.with_name(f"{store.name}.tasks")
