"""Explore the configurations: ``python -m tests.model [--states 500000]``.  1 when something is broken."""

from __future__ import annotations

import argparse
import sys
import time

from tests.parallel import shared, write_figures

from .configurations import BY_NAME, CONFIGURATIONS, DEEPER
from .search import Broken, Found, search


def _searched(name: str, states: int) -> tuple[str, Found | str, int]:
    began = time.process_time()
    found: Found | str
    try:
        found = search(BY_NAME[name], states)
    except Broken as error:
        found = str(error)
    return name, found, round(time.process_time() - began)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--states", type=int, default=500_000, help="at most so many of each configuration")
    parser.add_argument("--deeper", action="store_true", help="with more that goes wrong in each")
    parser.add_argument("--only", default="", help="those whose name has this in it")
    parser.add_argument("--share", default="0/1", metavar="K/N", help="every N-th of them, from the K-th (from 0) on")
    parser.add_argument("--workers", type=int, help="processes; as many as there are processors")
    parser.add_argument("--json", help="where the figures go")
    given = parser.parse_args()
    began = time.monotonic()
    first, _, every = given.share.partition("/")
    configurations = (DEEPER if given.deeper else CONFIGURATIONS)[int(first) :: int(every)]
    pieces = [(one.name, given.states) for one in configurations if given.only in one.name]
    print("| configuration | states | edges | decisions | depth | walks | whole | s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |", flush=True)
    each: dict[str, dict[str, object]] = {}
    states = edges = broken = 0
    for name, found, seconds in shared(_searched, pieces, given.workers):
        if isinstance(found, str):
            broken += 1
            each[name] = {"broken": found}
            print(f"| {name} | broken |\n\n{found}\n", flush=True)
            continue
        states, edges = states + found.states, edges + found.edges
        each[name] = {
            "states": found.states,
            "edges": found.edges,
            "decisions": found.decisions,
            "depth": found.depth,
            "walks": found.walks,
            "whole": found.is_whole,
            "seconds": seconds,
        }
        whole = "yes" if found.is_whole else "no"
        counts = (
            f"{found.states} | {found.edges} | {found.decisions} | {found.depth} | {found.walks} | {whole} | {seconds}"
        )
        print(f"| {name} | {counts} |", flush=True)
    print(f"| all | {states} | {edges} | | | | | |")
    figures = {
        "configurations": len(each),
        "deeper": given.deeper,
        "states": states,
        "edges": edges,
        "violations": broken,
        "each": {one.name: each[one.name] for one in configurations if one.name in each},
        "seed": 0,
        "seconds": round(time.monotonic() - began),
    }
    write_figures(given.json, figures)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
