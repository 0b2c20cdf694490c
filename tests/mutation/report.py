"""What came of a mutation: the figures, the table, and the survivors as differences with their reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .mutants import Mutant
from .runner import Verdict
from .survivors import Place


def figures_of(
    names: Sequence[str],
    counted: Mapping[str, Counter[Verdict]],
    survivors: Sequence[Mutant],
    reasons: Mapping[Place, str],
    *,
    seed: int,
    seconds: float,
) -> dict[str, Any]:
    """The figures of all modules together, and of each."""
    total: Counter[Verdict] = sum((counted[name] for name in names), Counter())
    places = {mutant.place for mutant in survivors}
    return {
        **_figures(total),
        "killed_by_time_out": total[Verdict.TIMED_OUT],
        "unexplained": len(places - set(reasons)),
        "explained_in_vain": len(set(reasons) - places),
        "modules": {name: _figures(counted[name]) for name in names},
        "seed": seed,
        "seconds": round(seconds, 1),
    }


def _figures(counted: Counter[Verdict]) -> dict[str, float]:
    survived, mutants = counted[Verdict.SURVIVED], counted.total()
    score = round(100 * (mutants - survived) / mutants, 2) if mutants else 100.0
    return {"mutants": mutants, "killed": mutants - survived, "survived": survived, "score_percent": score}


def print_report(figures: Mapping[str, Any], survivors: Sequence[Mutant], reasons: Mapping[Place, str]) -> None:
    """The table, every survivor with its reason, and every reason without a survivor."""
    print("| module | mutants | killed | survived | score |\n| --- | ---: | ---: | ---: | ---: |")
    for name, row in {**figures["modules"], "all": figures}.items():
        print(f"| {name} | {row['mutants']} | {row['killed']} | {row['survived']} | {row['score_percent']:.2f} % |")
    order = list(figures["modules"])
    for mutant in sorted(survivors, key=lambda one: (order.index(one.module), one.number)):
        print(f"\n{mutant.difference}\n= {reasons.get(mutant.place, 'NOT EXPLAINED')}")
    for place in sorted(set(reasons) - {mutant.place for mutant in survivors}):
        print(f"\nexplained, and does not survive: {place}")
    print(
        f"\n{figures['survived']} survived, {figures['unexplained']} of them unexplained; "
        f"{figures['explained_in_vain']} explained in vain; {figures['killed_by_time_out']} killed by a time-out"
    )
