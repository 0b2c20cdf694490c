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
from .report import figures_of, print_report
from .runner import Verdict, verdicts
from .survivors import SURVIVORS, explained

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
    figures = figures_of(names, counted, survivors, reasons, seed=SEED, seconds=time.perf_counter() - began)
    print_report(figures, survivors, reasons)
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 1 if figures["unexplained"] or figures["explained_in_vain"] else 0


if __name__ == "__main__":
    sys.exit(main())
