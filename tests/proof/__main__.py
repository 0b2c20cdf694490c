"""Run the proof: ``python -m tests.proof [--deep] [--only PART]``; ``make proof`` and ``make proof-deep``.

Each part is a program of its own, and writes what it counted; nothing is typed.  The figures go to docs/evidence.json,
from which the page Evidence is made.  1 when a part finds something: its figures are kept, too, and say so.

A deep part is done in slices.  One that was left is gone on with, as long as all that it needs is the same.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from .merging import merged
from .parts import BY_NAME, PARTS, Arguments, Part

ROOT: Final = Path(__file__).parents[2]
EVIDENCE: Final = ROOT / "docs" / "evidence.json"


def _run(part: Part, arguments: Arguments, file: Path) -> int:
    if part.tests:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "-p",
            "no:cacheprovider",
            f"--junitxml={file}",
            part.tests,
        ]
    else:
        command = [sys.executable, "-m", part.module, *arguments, "--json", str(file)]
    print(f"\n== {part.title}: {' '.join(command[1:])}", flush=True)
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def _figures(part: Part, file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    if part.tests:
        (suite,) = ElementTree.parse(file).getroot().iter("testsuite")
        told = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
        return {**told, "seconds": round(float(suite.get("time", 0)))}
    figures: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return figures


def _told_by_git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def _state(part: Part) -> tuple[str, str]:
    """The commit, and what tells whether all that a part needs is the same as at another commit."""
    changed = " and changes" if _told_by_git("status", "--porcelain", "--", *part.needs) else ""
    hashes = _told_by_git("rev-parse", *(f"HEAD:{path}" for path in part.needs)).split()
    return _told_by_git("rev-parse", "--short=12", "HEAD") + changed, " ".join(one[:12] for one in hashes) + changed


def _begun(known: dict[str, Any] | None, slices: Sequence[Arguments], tree: str) -> dict[str, Any] | None:
    """What was done of a part before, where the rest can be added to it."""
    if known is None or not known["passed"] or "changes" in tree:
        return None
    is_same = known["tree"] == tree and known["slices"] == len(slices) and known["arguments"] == " ".join(slices[0])
    return known if is_same and known["done"] < len(slices) else None


def _done(
    part: Part, arguments: Arguments, before: dict[str, Any] | None, slices: Sequence[Arguments]
) -> dict[str, Any]:
    """A part after one more slice."""
    began, (commit, tree) = time.monotonic(), _state(part)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "figures"
        code = _run(part, arguments, file)
        found = _figures(part, file)
    after, _ = _state(part)
    earlier: dict[str, Any] = {"done": 0, "wall_seconds": 0, "figures": {}} if before is None else before
    return {
        "arguments": " ".join(slices[0]),
        "slices": len(slices),
        "done": earlier["done"] + 1,
        # What ended without figures found something, too: something that its makers did not think of.
        "passed": code == 0 and bool(found),
        "commit": commit if after == commit else f"{commit}, changed meanwhile to {after}",
        "tree": tree,
        "day": datetime.now(UTC).date().isoformat(),
        "wall_seconds": earlier["wall_seconds"] + round(time.monotonic() - began),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "figures": merged(earlier["figures"], found) if earlier["figures"] else found,
    }


def main() -> int:
    """Run the parts, and keep their figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--deep", action="store_true", help="as much as takes hours; what was begun is gone on with")
    parser.add_argument("--only", action="append", choices=sorted(BY_NAME), help="only this part; may be repeated")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing after so many")
    given = parser.parse_args()
    which, failed = "deep" if given.deep else "proof", list[str]()
    end = time.monotonic() + given.minutes * 60
    for part in PARTS:
        slices = part.slices(deep=given.deep)
        if given.only and part.name not in given.only:
            continue
        everything = json.loads(EVIDENCE.read_text("utf-8")) if EVIDENCE.exists() else {}
        known = everything.setdefault(which, {})
        entry = _begun(known.get(part.name), slices, _state(part)[1])
        for arguments in slices[entry["done"] if entry else 0 :]:
            if time.monotonic() > end:
                break
            entry = known[part.name] = _done(part, arguments, entry, slices)
            # After each slice, so that one that never ends takes nothing with it.
            EVIDENCE.write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n", "utf-8")
            if not entry["passed"]:
                failed.append(part.name)
                break
    print(f"\n{EVIDENCE.relative_to(ROOT)} has the figures; {', '.join(failed) or 'nothing'} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
