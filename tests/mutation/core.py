"""What is mutated, and the tests that should notice.

The laws that a user tests with (``opdispatch.testing``) are left out: they judge, and are judged by tests/mutants.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Final

from .runner import Suite

ROOT: Final = Path(__file__).parents[2]
_ELSEWHERE: Final = re.compile(r"opdispatch_adapters(?!\.testing\.simulation)|subprocess|read_text")
"""A unit test that names one of these is about something else, or reads the source, and not what is loaded."""
_LAWS: Final = ("tests/property/test_planning.py", "tests/mutation/killers.py")


def _tests_of_the_core() -> tuple[str, ...]:
    files = sorted((ROOT / "tests" / "unit").glob("test_*.py"))
    own = [path for path in files if not _ELSEWHERE.search(path.read_text(encoding="utf-8"))]
    return (*(path.relative_to(ROOT).as_posix() for path in own), *_LAWS)


def _prepare() -> None:
    """Load what everything needs but the core: what is forked afterwards need not load it again."""
    sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
    from hypothesis import Phase, settings

    # No examples from earlier runs, and none made smaller: that something fails is enough.
    settings.register_profile("mutation", database=None, deadline=None, phases=(Phase.explicit, Phase.generate))
    settings.load_profile("mutation")
    for name in ("attr", "dataclasses", "datetime", "enum", "random", "tomllib", "uuid"):
        importlib.import_module(name)


CORE: Final = Suite(
    root=ROOT,
    source=ROOT / "src",
    package="opdispatch",
    left_out=("testing",),
    tests=_tests_of_the_core(),
    early=("tests/unit/test_values.py",),
    prepare=_prepare,
)
