"""Explore the configurations: ``python -m tests.model [--states 20000] [--only NAME]``.  1 when something is broken."""

from __future__ import annotations

import argparse
import sys
import time

from .configurations import CONFIGURATIONS
from .search import Broken, search


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--states", type=int, default=20_000, help="at most so many of each configuration")
    parser.add_argument("--only", help="one configuration, by name")
    given = parser.parse_args()
    print("| configuration | states | edges | depth | whole | s |\n| --- | ---: | ---: | ---: | --- | ---: |")
    states = edges = broken = 0
    for configuration in CONFIGURATIONS:
        if given.only not in (None, configuration.name):
            continue
        began = time.perf_counter()
        try:
            found = search(configuration, given.states)
        except Broken as error:
            broken += 1
            print(f"| {configuration.name} | broken |\n\n{error}\n")
            continue
        states, edges = states + found.states, edges + found.edges
        seconds = time.perf_counter() - began
        whole = "yes" if found.is_whole else "no"
        print(
            f"| {found.configuration} | {found.states} | {found.edges} | {found.depth} | {whole} | {seconds:.0f} |",
            flush=True,
        )
    print(f"| all | {states} | {edges} | | | |")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
