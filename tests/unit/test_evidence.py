"""What the pages say of the proof: its figures are those of the file, and what they name is there."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any, Final

from opdispatch.testing import RECORD_LAWS, TASK_LAWS, TRANSITION_LAWS
from tests.model.configurations import BY_NAME
from tests.mutants import MUTANTS
from tests.proof.parts import PARTS

ROOT: Final = Path(__file__).parents[2]
LEDGER: Final = ROOT / "src" / "opdispatch_adapters" / "testing" / "simulation"
INVARIANTS: Final = (ROOT / "docs" / "explanation" / "invariants.md").read_text("utf-8")


def _writer() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "evidence.py"))


def _evidence() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs" / "evidence.json").read_text("utf-8"))
    return found


def test_the_page_and_the_readme_have_the_figures_of_the_file() -> None:
    writer = _writer()
    readme = (ROOT / "README.md").read_text("utf-8")

    assert writer["PAGE"].read_text("utf-8") == writer["page"](_evidence()), "run python docs/evidence.py"
    assert readme == writer["readme"](readme, _evidence()), "run python docs/evidence.py"


def test_the_figures_are_of_parts_that_there_are_and_found_nothing() -> None:
    for kind in _evidence().values():
        assert set(kind) <= {part.name for part in PARTS}
        assert [name for name, part in kind.items() if not part["passed"]] == []


def test_every_law_that_is_named_is_there() -> None:
    laws = {law.name for law in RECORD_LAWS} | {law.name for law in TRANSITION_LAWS} | {law.name for law in TASK_LAWS}
    source = "".join(path.read_text("utf-8") for path in LEDGER.glob("*.py"))
    laws |= set(re.findall(r'"([a-z ]+)"', source))
    named = {
        name
        for row in re.findall(r"^\| [IL]\d.*$", INVARIANTS, re.MULTILINE)
        for name in re.findall(r"\*([^*]+)\*", row)
    }

    assert named - laws == set()
    assert {law.name for law in RECORD_LAWS} <= named | {"one task"}


def test_every_wrong_protocol_and_every_test_that_is_named_is_there() -> None:
    rows = re.findall(r"^\| (R-\d\d) .*$", INVARIANTS, re.MULTILINE)
    named = re.findall(r"`([^`]+)`", INVARIANTS[INVARIANTS.index("## What must not happen") :])
    known = {mutant.name for mutant in MUTANTS} | set(BY_NAME)

    assert len(set(rows)) == 34
    assert [name for name in named if not name.startswith("tests/") and name not in known] == []
    assert [name for name in named if name.startswith("tests/") and not (ROOT / name).exists()] == []
