"""The page of all situations in which ``why`` is asked, as a user sees them: ``python -m tests.unit.why_page``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from opdispatch.explain import Reason, explain_run
from opdispatch.target import Target
from opdispatch_adapters.cli.cmd_explain import told
from tests.unit.builders import NOW
from tests.unit.test_explain import RUNS, TARGETS, target_of, why_of

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "situations.md"
_HEAD: Final = """\
# What `why` says

Every situation in which a run or a target does not go on, as `opdispatch why` tells it.
A test writes this page, from the values that it also checks.
[How to see why](../how-to/why.md) has the meaning of each code.
"""


def _shown(title: str, reasons: Sequence[Reason], target: Target | None) -> str:
    lines = told(reasons, "opdispatch", "68b95523", target, now=NOW, width=None)
    return "\n".join(["", f"### {title[0].upper()}{title[1:]}", "", ":::{code-block} text", *lines, ":::", ""])


def _parts() -> Iterator[str]:
    yield _HEAD
    yield "\n## A run\n"
    for title, overview, _, _ in RUNS:
        yield _shown(title, explain_run(overview, NOW), None)
    yield "\n## A target\n"
    for title, record, number, _, _ in TARGETS:
        yield _shown(title, why_of(record, number), target_of(record, number))


def page() -> str:
    """The page."""
    return "".join(line.rstrip() + "\n" for line in "".join(_parts()).splitlines())


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
