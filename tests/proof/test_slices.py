"""A deep part that was left is gone on with, and its figures are those of all its slices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .__main__ import ROOT, _begun
from .merging import merged
from .parts import PARTS, Part

_SLICES = (("--seed", "1"), ("--seed", "2"))
_KNOWN = {"passed": True, "tree": "a b", "slices": 2, "done": 1, "arguments": "--seed 1", "figures": {"runs": 3}}


def test_counts_are_added_up() -> None:
    one = {"seed": 7, "runs": 2, "seconds": 0.5, "rare": {"a": 1, "b": 2}, "never": ["c", "d"], "per": {"x": {"n": 1}}}
    other = {"seed": 8, "runs": 3, "seconds": 0.7, "rare": {"b": 5}, "never": ["d"], "per": {"y": {"n": 2}}}

    assert merged(one, other) == {
        "seed": 7,
        "runs": 5,
        "seconds": 1.2,
        "rare": {"a": 1, "b": 7},
        "never": ["d"],
        "per": {"x": {"n": 1}, "y": {"n": 2}},
    }


def test_rows_are_added_up_by_name_and_measures_are_the_most() -> None:
    row = {"surface": "rows", "seeds": 5, "inputs": 10, "longest_input_seconds": 0.2}
    again = {"surface": "rows", "seeds": 5, "inputs": 20, "longest_input_seconds": 0.1}
    new = {"surface": "answers", "seeds": 1, "inputs": 4, "longest_input_seconds": 0.1}

    both = merged({"surfaces": [row], "kills_per_second": 5.0}, {"surfaces": [new, again], "kills_per_second": 6.0})

    assert both == {"surfaces": [{**row, "inputs": 30}, new]}


@pytest.mark.parametrize(
    ("known", "tree", "goes_on"),
    [
        (_KNOWN, "a b", True),
        (None, "a b", False),
        (_KNOWN, "a c", False),
        (_KNOWN, "a b and changes", False),
        ({**_KNOWN, "tree": "a b and changes"}, "a b and changes", False),
        ({**_KNOWN, "passed": False}, "a b", False),
        ({**_KNOWN, "done": 2}, "a b", False),
        ({**_KNOWN, "slices": 3}, "a b", False),
        ({**_KNOWN, "arguments": "--seed 5"}, "a b", False),
    ],
)
def test_what_was_begun_is_gone_on_with_while_nothing_has_changed(
    known: dict[str, Any] | None, tree: str, goes_on: bool
) -> None:
    assert (_begun(known, _SLICES, tree) is not None) is goes_on


@pytest.mark.parametrize("part", [part for part in PARTS if "src" not in part.needs], ids=lambda part: part.name)
def test_a_part_needs_no_more_of_the_project_than_it_says(part: Part) -> None:
    script = f"import sys, {part.module}.__main__; print(*(getattr(m, '__file__', None) for m in sys.modules.values()))"
    told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    loaded = {
        Path(name).relative_to(ROOT) for name in told.split() if name.startswith((f"{ROOT}/src/", f"{ROOT}/tests/"))
    }
    needed = [Path(path) for path in part.needs]

    assert any(name.is_relative_to("src/opdispatch") for name in loaded)
    assert [
        str(name)
        for name in loaded
        if name.name != "__init__.py" and not any(name == path or path in name.parents for path in needed)
    ] == []


def test_no_slice_does_what_another_did() -> None:
    for part in PARTS:
        assert len(set(part.deep)) == len(part.deep)
