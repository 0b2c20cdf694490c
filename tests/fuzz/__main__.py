"""Fuzz the surfaces: ``python -m tests.fuzz [--inputs N] [--surface NAME] [--seed S] [--json FILE]``.

1 when something is broken; each input that broke something is shown as a test.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

from tests.parallel import shared, write_figures

from .engine import Found, fuzz
from .surfaces import SURFACES, surface_of


def figures(found: Found) -> dict[str, int | float | str]:
    """The figures of one surface, as they are kept."""
    return {
        "surface": found.surface,
        "seeds": found.seeds,
        "inputs": found.inputs,
        "values": found.values,
        "rejections": found.rejections,
        "broken": len(found.faults),
        "seconds": round(found.seconds, 1),
        "longest_input_seconds": round(found.longest_seconds, 3),
        "memory_mib_in_the_first_half": found.memory_first >> 20,
        "memory_mib_in_the_second_half": found.memory_last >> 20,
    }


def _fuzzed(name: str, inputs: int, seed: int) -> Found:
    # What is refused is logged by some adapters, once for each input.
    for logger in ("opdispatch", "opdispatch_adapters"):
        logging.getLogger(logger).addHandler(logging.NullHandler())
    with surface_of(name) as surface:
        return fuzz(surface, inputs, seed, told=lambda fault: print(f"\n{fault}", file=sys.stderr, flush=True))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20_000, help="so many of each surface")
    parser.add_argument("--surface", choices=sorted(SURFACES), action="append", help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--workers", type=int, help="processes; as many as there are processors")
    parser.add_argument("--json", help="write the figures here")
    given = parser.parse_args()
    began = time.perf_counter()
    names = given.surface or list(SURFACES)
    every: dict[str, dict[str, int | float | str]] = {}
    print("| surface | seeds | inputs | values | rejections | broken | s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for found in shared(_fuzzed, [(name, given.inputs, given.seed) for name in names], given.workers):
        every[found.surface] = figures(found)
        counts = f"{found.seeds} | {found.inputs} | {found.values} | {found.rejections} | {len(found.faults)}"
        print(f"| {found.surface} | {counts} | {found.seconds:.0f} |", flush=True)
    broken = sum(int(one["broken"]) for one in every.values())
    told_of: dict[str, object] = {
        "seed": given.seed,
        "seconds": round(time.perf_counter() - began, 1),
        "inputs": sum(int(one["inputs"]) for one in every.values()),
        "broken": broken,
        "surfaces": [every[name] for name in names],
    }
    write_figures(given.json, told_of)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
