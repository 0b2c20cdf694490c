"""The runner on a package of one tiny module, and the list of explained survivors against the source as it stands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from .core import CORE, ROOT
from .mutants import Source, members_of
from .report import figures_of, print_report
from .runner import Verdict
from .survivors import SURVIVORS, explained

MODULE: Final = '''
"""A module with a table, a comparison and a loop."""

from enum import Enum


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


LIMITS = {Colour.RED: 3, Colour.BLUE: 7}


def is_over(number, colour):
    return number > LIMITS[colour]


def counted(number):
    steps = 0
    while number > 0:
        number -= 1
        steps += 1
    return steps


def untested():
    return 1
'''
TESTS: Final = """
from tiny.module import Colour, counted, is_over


def test_nine_is_over_the_limit_of_red():
    assert is_over(9, Colour.RED)


def test_three_is_not_over_the_limit_of_red():
    assert not is_over(3, Colour.RED)


def test_two_are_counted():
    assert counted(2) == 2
"""
PROGRAM: Final = """
import json, sys
from pathlib import Path
from tests.mutation.runner import Suite, verdicts

root = Path(sys.argv[1])
sys.path.insert(0, str(root))
suite = Suite(root=root, source=root, package="tiny", tests=("test_module.py",), seconds=0.2)
mutants = [mutant for source in suite.sources.values() for mutant in source.mutants()]
print(json.dumps([[m.function, m.before, m.after, verdict.value] for m, verdict in verdicts(suite, mutants)]))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], str]:
    """What became of every mutant of the tiny module."""
    root = tmp_path_factory.mktemp("tiny")
    (root / "tiny").mkdir()
    (root / "tiny" / "__init__.py").write_text("")
    (root / "tiny" / "module.py").write_text(MODULE)
    (root / "test_module.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {(function, before, after): verdict for function, before, after, verdict in json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("mutant", "verdict"),
    [
        (("is_over", "return number > LIMITS[colour]", "return number >= LIMITS[colour]"), "killed"),
        (("is_over", "return number > LIMITS[colour]", "return number <= LIMITS[colour]"), "killed"),
        (("counted", "number -= 1", "number += 1"), "timed out"),
        (("counted", "number > 0", "number > 1"), "killed"),
        (("untested", "return 1", "return 2"), "survived"),
    ],
)
def test_a_change_in_a_function_is_noticed_or_not(
    found: dict[tuple[str, str, str], str], mutant: tuple[str, str, str], verdict: str
) -> None:
    assert found[mutant] == verdict


@pytest.mark.parametrize(
    ("mutant", "verdict"),
    [
        (("", "Colour.RED: 3", ""), "killed"),
        (("", "Colour.BLUE: 7", ""), "survived"),
        (("", "LIMITS = {Colour.RED: 3, Colour.BLUE: 7}", "LIMITS = {Colour.RED: 4, Colour.BLUE: 7}"), "survived"),
        (("", "LIMITS = {Colour.RED: 3, Colour.BLUE: 7}", "LIMITS = {Colour.BLUE: 3, Colour.BLUE: 7}"), "killed"),
        (("Colour", "RED = 'red'", "RED = 'XXred'"), "survived"),
    ],
)
def test_a_change_of_a_table_is_noticed_or_not(
    found: dict[tuple[str, str, str], str], mutant: tuple[str, str, str], verdict: str
) -> None:
    assert found[mutant] == verdict


def test_every_mutant_has_a_place_of_its_own_and_differs_from_the_source() -> None:
    members = members_of([MODULE])

    mutants = Source("module", MODULE, members).mutants()

    assert len({mutant.place for mutant in mutants}) == len(mutants)
    assert [mutant for mutant in mutants if mutant.before == mutant.after] == []


def test_a_survivor_without_a_reason_and_a_reason_without_a_survivor_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, other, *_ = Source("module", MODULE, members_of([MODULE])).mutants()
    counted = {"module": Counter({Verdict.KILLED: 7, Verdict.TIMED_OUT: 2, Verdict.SURVIVED: 1})}
    reasons = {other.place: "It is the same."}

    figures = figures_of(["module"], counted, [one], reasons, seed=0, seconds=1)
    print_report(figures, [one], reasons)
    told = capsys.readouterr().out

    assert (figures["mutants"], figures["killed"], figures["survived"], figures["score_percent"]) == (10, 9, 1, 90.0)
    assert (figures["unexplained"], figures["explained_in_vain"]) == (1, 1)
    assert "| module | 10 | 9 | 1 | 90.00 % |" in told
    assert f"{one.difference}\n= NOT EXPLAINED" in told
    assert f"explained, and does not survive: {other.place}" in told
    assert figures_of(["module"], counted, [other], reasons, seed=0, seconds=1)["unexplained"] == 0


def test_every_explained_survivor_is_a_mutant_of_the_source_as_it_stands() -> None:
    places = {mutant.place for source in CORE.sources.values() for mutant in source.mutants()}

    assert set(explained(SURVIVORS)) - places == set()


def test_every_explanation_is_a_sentence() -> None:
    assert [why for why in explained(SURVIVORS).values() if not why.endswith(".") or len(why) < 20] == []


def test_a_survivor_is_listed_once(tmp_path: Path) -> None:
    entry = '[[survivor]]\nmodule = "m"\nfunction = "f"\nbefore = "1"\nafter = "2"\nwhy = "It is the same."\n'
    file = tmp_path / "survivors.toml"
    file.write_text(entry * 2)

    with pytest.raises(ValueError, match="listed twice"):
        explained(file)
