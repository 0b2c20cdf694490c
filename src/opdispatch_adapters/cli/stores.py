"""Where a store is, and what lies beside it."""

from __future__ import annotations

import os
from pathlib import Path

from opdispatch.errors import InvalidInput


def locate(option: str) -> Path:
    """The absolute path of a store's file.  Raises InvalidInput for what no store can be in."""
    if not option or "\0" in option:
        raise InvalidInput.at("--store", f"{option!r} names no file", "give a path, or sqlite:///path")
    if "://" in option:
        from opdispatch_adapters.sql.engine import file_of

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


def tasks_of(store: Path) -> Path:
    """The directory of a store's tasks and programs."""
    return store.with_name(f"{store.name}.tasks")
