"""Run the proof: ``python -m tests.proof [--deep] [--only PART]``; ``make proof`` and ``make proof-deep``.

Each part is a program of its own, and writes what it counted; nothing is typed.  The figures go to docs/evidence.json,
from which the page Evidence is made.  1 when a part finds something: its figures are kept, too, and say so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from .parts import BY_NAME, PARTS, Part

ROOT: Final = Path(__file__).parents[2]
EVIDENCE: Final = ROOT / "docs" / "evidence.json"


def _run(part: Part, arguments: tuple[str, ...], file: Path) -> int:
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


def _commit() -> str:
    told = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "src", "tests"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return told.stdout.strip() + (" and changes" if changed.stdout.strip() else "")


def main() -> int:
    """Run the parts, and keep their figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--deep", action="store_true", help="as much as takes hours")
    parser.add_argument("--only", action="append", choices=sorted(BY_NAME), help="only this part; may be repeated")
    given = parser.parse_args()
    which, failed = "deep" if given.deep else "proof", list[str]()
    for part in PARTS:
        arguments = part.deep if given.deep else part.proof
        if arguments is None or (given.only and part.name not in given.only):
            continue
        began, commit, day = time.monotonic(), _commit(), datetime.now(UTC).date().isoformat()
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "figures"
            code = _run(part, arguments, file)
            found = _figures(part, file)
        if code or not found:
            failed.append(part.name)
        after = _commit()
        everything = json.loads(EVIDENCE.read_text("utf-8")) if EVIDENCE.exists() else {}
        everything.setdefault(which, {})[part.name] = {
            "arguments": " ".join(arguments),
            # What ended without figures found something, too: something that its makers did not think of.
            "passed": code == 0 and bool(found),
            "commit": commit if after == commit else f"{commit}, changed meanwhile to {after}",
            "day": day,
            "wall_seconds": round(time.monotonic() - began),
            "processors": os.cpu_count(),
            "python": platform.python_version(),
            "figures": found,
        }
        # After each part, so that one that never ends takes nothing with it.
        EVIDENCE.write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n", "utf-8")
    print(f"\n{EVIDENCE.relative_to(ROOT)} has the figures; {', '.join(failed) or 'nothing'} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
