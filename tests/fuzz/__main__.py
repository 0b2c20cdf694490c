"""Fuzz the surfaces: ``python -m tests.fuzz [--inputs N] [--surface NAME] [--seed S] [--json FILE]``.

1 when something is broken; each input that broke something is shown as a test.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path

from .engine import Fault, Found, fuzz
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


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20_000, help="so many of each surface")
    parser.add_argument("--surface", choices=sorted(SURFACES), action="append", help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    # What is refused is logged by some adapters, once for each input.
    for name in ("opdispatch", "opdispatch_adapters"):
        logging.getLogger(name).addHandler(logging.NullHandler())

    def told(fault: Fault) -> None:
        print(f"\n{fault}", file=sys.stderr, flush=True)

    began = time.perf_counter()
    every: list[dict[str, int | float | str]] = []
    print("| surface | seeds | inputs | values | rejections | broken | s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for name in given.surface or SURFACES:
        with surface_of(name) as surface:
            found = fuzz(surface, given.inputs, given.seed, told=told)
        every.append(figures(found))
        print(
            f"| {name} | {found.seeds} | {found.inputs} | {found.values} | {found.rejections} | {len(found.faults)} "
            f"| {found.seconds:.0f} |",
            flush=True,
        )
    broken = sum(int(one["broken"]) for one in every)
    if given.json is not None:
        told_of = {
            "seed": given.seed,
            "seconds": round(time.perf_counter() - began, 1),
            "inputs": sum(int(one["inputs"]) for one in every),
            "broken": broken,
            "surfaces": every,
        }
        given.json.write_text(json.dumps(told_of, indent=1) + "\n", "utf-8")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
