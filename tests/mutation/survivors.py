"""The mutants that may survive, each with the reason."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final

SURVIVORS: Final = Path(__file__).with_name("survivors.toml")

Place = tuple[str, str, str, str, int]
"""Module, function, text before, text after, and which of several that read the same, from 1."""


def explained(file: Path) -> dict[Place, str]:
    """The reason for every mutant that is listed, by its place; raises ValueError for one that is listed twice."""
    found: dict[Place, str] = {}
    for entry in tomllib.loads(file.read_text(encoding="utf-8"))["survivor"]:
        for after in entry["after"] if isinstance(entry["after"], list) else [entry["after"]]:
            place = (entry["module"], entry["function"], entry["before"], after, entry.get("nth", 1))
            if place in found:
                raise ValueError(f"listed twice: {place}")
            found[place] = entry["why"]
    return found
