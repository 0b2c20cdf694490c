"""The core stands alone: it imports with nothing but itself and the standard library, each room only from those below.

The order of the rooms is written once, as the import contract in ``pyproject.toml``; it is read from there.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "src"
CORE: Final = SOURCE / "opdispatch"
FILES: Final = sorted(CORE.rglob("*.py"))


def _module(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(module: str) -> str:
    """The room of a module: the part after the package's name; nothing for the package itself."""
    return module.split(".")[1] if "." in module else ""


def _contracts() -> list[dict[str, Any]]:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts: list[dict[str, Any]] = configuration["tool"]["importlinter"]["contracts"]
    return contracts


def _order() -> dict[str, int]:
    """Each room and its height, the lowest 0; rooms beside each other share one."""
    (layers,) = (contract["layers"] for contract in _contracts() if contract["type"] == "layers")
    return {room.strip(): height for height, beside in enumerate(reversed(layers)) for room in beside.split("|")}


def _imports(path: Path) -> list[str]:
    """The full names of all that a file imports, wherever in it the import stands."""
    module = _module(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            found.append(".".join([*above, *filter(None, [node.module])]))
    return found


def test_every_module_of_the_core_imports_where_nothing_else_can_be_reached() -> None:
    modules = [_module(path) for path in FILES]
    program = (
        "import importlib, sys\n"
        f"sys.path.insert(0, {str(SOURCE)!r})\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "print([n for n in sys.modules if n.split('.')[0] not in {*sys.stdlib_module_names, 'opdispatch', '__main__'}])"
    )

    alone = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", program], capture_output=True, text=True, timeout=60
    )

    assert (alone.stderr, alone.stdout.strip()) == ("", "[]")


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_a_room_imports_only_from_the_rooms_below_it(path: Path) -> None:
    order, room = _order(), _room(_module(path))
    inside = {_room(name) for name in _imports(path) if name.split(".")[0] == "opdispatch"} - {room}

    if room:
        assert {name for name in inside if order[name] >= order[room]} == set()
    assert inside <= set(order)


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_the_core_imports_nothing_but_itself_and_what_of_the_standard_library_reaches_nowhere(path: Path) -> None:
    (forbidden,) = (
        set(contract["forbidden_modules"])
        for contract in _contracts()
        if contract["type"] == "forbidden" and contract["source_modules"] == ["opdispatch"]
    )
    outside = {name.split(".")[0] for name in _imports(path)} - {"opdispatch"}

    assert outside <= set(sys.stdlib_module_names)
    assert outside & forbidden == set()


def test_every_room_has_its_place_in_the_order() -> None:
    assert set(_order()) == {_room(_module(path)) for path in FILES} - {""}
