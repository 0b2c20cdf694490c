"""The page of the state machines and its drawings are what the tables of the code say."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import pytest

from opdispatch import run, target

GENERATOR: Final[dict[str, Any]] = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "generate.py"))
FILES: Final[dict[Path, str]] = GENERATOR["files"]()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_written_is_what_the_tables_say(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == FILES[path], "run: python docs/generate.py"


@pytest.mark.parametrize(
    ("file", "table"),
    [("run-machine.svg", run.TRANSITIONS), ("target-machine.svg", target.TRANSITIONS)],
    ids=["run", "target"],
)
def test_a_drawing_names_every_status_and_every_change_and_fetches_nothing(file: str, table: Mapping[Any, Any]) -> None:
    (text,) = (text for path, text in FILES.items() if path.name == file)
    drawn = ElementTree.fromstring(text)

    words = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}

    assert {name.value for pair in table for name in pair} <= words
    assert "href" not in text


@pytest.mark.parametrize("machine", ["RUN", "TARGET"])
def test_an_arrow_that_nobody_drew_is_an_error(machine: str) -> None:
    shorter = replace(GENERATOR[machine], table={})

    with pytest.raises(ValueError, match="an arrow without a route"):
        GENERATOR["arrows"](shorter)
