"""Make histories and judge them: ``python -m tests.histories --store postgresql --kills 1000``.

Prints what was done and what each checker found, as a table; 1 when anything was found, with the history of the runs
in which it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .chaos import ALWAYS, Told, Wanted, history, verdicts
from .judging import tell
from .worlds import STORES


def main() -> int:
    """Make one history."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", choices=STORES, required=True, help="what the runs are in")
    parser.add_argument("--kills", type=int, default=100, help="at least so many SIGKILLs")
    parser.add_argument("--runs", type=int, default=10, help="at least so many runs")
    parser.add_argument("--seed", type=int, default=1, help="decides what is done when, as far as chance does")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--broken", default="", metavar="RULE", help="let the dispatchers break it (tests.mutants)")
    given = parser.parse_args()
    wanted = Wanted(store=given.store, kills=given.kills, runs=given.runs, seed=given.seed, broken=given.broken)
    told = history(wanted, say=lambda line: print(line, file=sys.stderr, flush=True))
    figures = figures_of(wanted, told)
    print("| what | count |\n| --- | ---: |")
    for name, value in figures.items():
        print(f"| {name.replace('_', ' ')} | {value} |")
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    for finding in told.findings[:50]:
        print(f"\n{finding}")
    for broken in told.broken:
        print(f"\nthe history of run {broken.run}:\n")
        print("\n".join(tell(broken)))
    return 1 if told.findings else 0


def figures_of(wanted: Wanted, told: Told) -> dict[str, int | float | str]:
    """The figures by name: what was done, then what each checker found."""
    always = {name: told.counts[name] for name in ALWAYS}
    others = {name: count for name, count in sorted(told.counts.items()) if name not in always}
    return {
        "store": wanted.store,
        "seed": wanted.seed,
        "seconds": round(told.seconds, 1),
        "sigkill_per_second": round(told.counts["sigkill"] / told.seconds, 2),
        **always,
        **others,
        **verdicts(told),
        "findings": len(told.findings),
    }


if __name__ == "__main__":
    sys.exit(main())
