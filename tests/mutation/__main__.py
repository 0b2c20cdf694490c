"""Mutate the core and run its tests: ``python -m tests.mutation [--module NAME] [--json FILE]``.

1 when a mutant survives that survivors.toml does not explain, or when it explains one that does not survive.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Final

from .core import CORE
from .mutants import Mutant
from .runner import Verdict, verdicts
from .survivors import SURVIVORS, Place, explained

SEED: Final = 0
"""What texts are hashed with; nothing else here is left to chance."""


def main() -> int:
    """Print the table, and the survivors as differences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--module", action="append", help="only this one (decide, policy.gates); may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    given = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != str(SEED):
        # The order of a set must not decide what is noticed.
        os.environ["PYTHONHASHSEED"] = str(SEED)
        os.execv(sys.executable, [sys.executable, "-m", "tests.mutation", *sys.argv[1:]])
    began = time.perf_counter()
    everything = {module: found for module, source in CORE.sources.items() if (found := source.mutants())}
    names = given.module or list(everything)
    if wrong := [name for name in names if name not in everything]:
        parser.error(f"no module has the name {wrong[0]}; there are {', '.join(everything)}")
    counted: dict[str, Counter[Verdict]] = defaultdict(Counter)
    survivors: list[Mutant] = []
    chosen = [mutant for name in names for mutant in everything[name]]
    for done, (mutant, verdict) in enumerate(verdicts(CORE, chosen), 1):
        counted[mutant.module][verdict] += 1
        if verdict is Verdict.SURVIVED:
            survivors.append(mutant)
            print(f"survived: {mutant.difference}", file=sys.stderr, flush=True)
        if done % 100 == 0:
            print(f"{done} of {len(chosen)} mutants, {len(survivors)} survived", file=sys.stderr, flush=True)
    reasons = {place: why for place, why in explained(SURVIVORS).items() if place[0] in names}
    return _report(names, counted, survivors, reasons, given.json, time.perf_counter() - began)


def _report(
    names: list[str],
    counted: dict[str, Counter[Verdict]],
    survivors: list[Mutant],
    reasons: dict[Place, str],
    file: Path | None,
    seconds: float,
) -> int:
    print("| module | mutants | killed | survived | score |\n| --- | ---: | ---: | ---: | ---: |")
    modules = {name: _figures(counted[name]) for name in names}
    total: Counter[Verdict] = sum((counted[name] for name in names), Counter())
    for name, figures in {**modules, "all": _figures(total)}.items():
        print(
            f"| {name} | {figures['mutants']} | {figures['killed']} | {figures['survived']} "
            f"| {figures['score_percent']:.1f} % |"
        )
    survivors.sort(key=lambda mutant: (names.index(mutant.module), mutant.number))
    unexplained = [mutant for mutant in survivors if mutant.place not in reasons]
    gone = sorted(set(reasons) - {mutant.place for mutant in survivors})
    for mutant in survivors:
        print(f"\n{mutant.difference}\n= {reasons.get(mutant.place, 'NOT EXPLAINED')}")
    for place in gone:
        print(f"\nexplained, but it does not survive (any more): {place}")
    print(f"\n{len(survivors)} survived, {len(unexplained)} of them unexplained; {len(gone)} explained in vain")
    if file is not None:
        figures_of_all = {
            **_figures(total),
            "killed_by_time_out": total[Verdict.TIMED_OUT],
            "unexplained": len(unexplained),
            "explained_in_vain": len(gone),
            "modules": modules,
            "seed": SEED,
            "seconds": round(seconds, 1),
        }
        file.write_text(json.dumps(figures_of_all, indent=2) + "\n", encoding="utf-8")
    return 1 if unexplained or gone else 0


def _figures(counted: Counter[Verdict]) -> dict[str, float]:
    survived, mutants = counted[Verdict.SURVIVED], counted.total()
    score = round(100 * (mutants - survived) / mutants, 2) if mutants else 100.0
    return {"mutants": mutants, "killed": mutants - survived, "survived": survived, "score_percent": score}


if __name__ == "__main__":
    sys.exit(main())
