"""Play random schedules: ``python -m tests.simulation [--schedules 10000]``.

1 when one breaks a law, or when something that must happen somewhere did not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from typing import Final

from opdispatch.errors import OpdispatchError
from opdispatch.testing import Broken
from opdispatch_adapters.testing.simulation import RARE, play
from tests.parallel import shared, write_figures

_CHUNK: Final = 100


def _played(first: int, count: int, steps: int) -> tuple[Counter[str], list[str]]:
    events, broken = Counter[str](), []
    for seed in range(first, first + count):
        try:
            events += play(seed, steps).events
        except (Broken, OpdispatchError, LookupError) as error:
            # What the core raises is found, too, and must not end the search.
            broken.append(f"seed {seed}, {steps} steps: {type(error).__name__}: {error}")
    return events, broken


def main() -> int:
    """Print what happened, and how often."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=200, help="of each, before it heals")
    parser.add_argument("--seed", type=int, default=0, help="of the first schedule; each has the next")
    parser.add_argument("--workers", type=int, help="processes; as many as there are processors")
    parser.add_argument("--json", help="where the figures go")
    given = parser.parse_args()
    began, events, broken = time.monotonic(), Counter[str](), list[str]()
    last = given.seed + given.schedules
    pieces = [(first, min(_CHUNK, last - first), given.steps) for first in range(given.seed, last, _CHUNK)]
    for found, failures in shared(_played, pieces, given.workers):
        events += found
        broken += failures
    seconds = round(time.monotonic() - began)
    never = [event for event in RARE if not events[event]]
    print(f"{given.schedules} schedules of {given.steps} steps from seed {given.seed} in {seconds} s\n")
    print("| event | times |\n| --- | ---: |")
    for event in sorted(events):
        print(f"| {event} | {events[event]} |")
    for failure in broken:
        print(f"\n{failure}")
    if broken:
        print("\nEach is played again by opdispatch_adapters.testing.simulation.play(seed, steps).")
    print(f"\n{len(broken)} schedules broke a law; never happened: {', '.join(never) or 'nothing'}")
    figures = {
        "schedules": given.schedules,
        "steps": given.steps,
        "violations": len(broken),
        "rare_events": {event: events[event] for event in RARE},
        "never_happened": never,
        "decisions_replayed": events["decision replayed"],
        "seed": given.seed,
        "seconds": seconds,
    }
    write_figures(given.json, figures)
    return 1 if broken or never else 0


if __name__ == "__main__":
    sys.exit(main())
