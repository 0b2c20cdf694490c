"""Hunt every mutant: ``python -m tests.mutants``.  1 when one of them goes unnoticed."""

from __future__ import annotations

import argparse
import sys
import time

from tests.model.configurations import CONFIGURATIONS
from tests.parallel import shared, write_figures

from . import MUTANTS
from .hunt import Caught, by_model, by_simulation


def _hunted(index: int, schedules: int, states: int) -> tuple[int, Caught | None, Caught | None]:
    mutant = MUTANTS[index]
    return index, by_simulation(mutant, schedules), by_model(mutant, CONFIGURATIONS, states)


def _told(caught: Caught | None, unit: str) -> str:
    return "" if caught is None else f"{caught.by}, {caught.after} {unit}"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--schedules", type=int, default=1_000, help="at most so many for each")
    parser.add_argument("--states", type=int, default=10_000, help="at most so many of each configuration")
    parser.add_argument("--only", default="", help="those whose name has this in it")
    parser.add_argument("--workers", type=int, help="processes; as many as there are processors")
    parser.add_argument("--json", help="where the figures go")
    given = parser.parse_args()
    began = time.monotonic()
    pieces = [(i, given.schedules, given.states) for i, one in enumerate(MUTANTS) if given.only in one.name]
    rows = sorted(shared(_hunted, pieces, given.workers), key=lambda row: row[0])
    print("| mutant | rule | simulation | states |\n| --- | --- | --- | --- |")
    unnoticed = []
    for index, simulated, modelled in rows:
        mutant = MUTANTS[index]
        print(f"| {mutant.name} | {mutant.rule} | {_told(simulated, 'schedules')} | {_told(modelled, 'states')} |")
        if simulated is None and modelled is None:
            unnoticed.append(mutant.name)
    print(f"\n{len(rows)} mutants; unnoticed: {', '.join(unnoticed) or 'none'}")
    figures = {
        "mutants": len(rows),
        "caught": len(rows) - len(unnoticed),
        "caught_by_simulation": sum(row[1] is not None for row in rows),
        "caught_by_states": sum(row[2] is not None for row in rows),
        "unnoticed": unnoticed,
        "each": {
            MUTANTS[index].name: {
                "rule": MUTANTS[index].rule,
                "simulation": _told(simulated, "schedules"),
                "states": _told(modelled, "states"),
            }
            for index, simulated, modelled in rows
        },
        "seed": 0,
        "seconds": round(time.monotonic() - began),
    }
    write_figures(given.json, figures)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
