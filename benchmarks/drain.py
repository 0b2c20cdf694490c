"""A snapshot held open while a run drains: an old reader must not make the ticks slow.

    python -m benchmarks.drain [--check] [--targets 90000] [--concurrency 100]

As long as a transaction holds its snapshot, the dead versions of every row that a tick changes must be kept, and a
scan that is not bounded at both ends walks over all of them.  Two runs drain to their end, each in a database of its
own, turn by turn: beside one a transaction stays open that has read once.  The result is the last tenth's median tick
divided by the first's, and that again divided by the same without a snapshot: whatever else the machine does meanwhile
is in the first quotient and not in the second.  ``--check`` exits with 1 when either is above the goal.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Final

import psycopg

from benchmarks.contender import Subject
from benchmarks.ours import Ours, postgres_store
from benchmarks.server import server

FLAT: Final = 1.5
"""What a tick of the last tenth may cost at most beside a held snapshot, in ticks of the first."""


def hold_snapshot(stack: ExitStack, url: str) -> None:
    """Read once and stay in the transaction, as a forgotten session does."""
    connection = stack.enter_context(closing(psycopg.connect(url)))
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.execute("SELECT count(*) FROM pg_class")


def drained(subjects: Sequence[Subject], cycles: int) -> list[list[float]]:
    """The seconds of every cycle of each subject, which take turns."""
    seconds: list[list[float]] = [[] for _ in subjects]
    for _ in range(cycles):
        for subject, measured in zip(subjects, seconds, strict=True):
            measured.append(subject.cycle())
    return seconds


def heap_megabytes(url: str) -> float:
    """The size of the table of targets, dead versions included."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_relation_size('operation_run_target') / 1e6").fetchone()
    assert row is not None
    return float(row[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=90_000)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--check", action="store_true", help="exit with 1 when the goal is missed")
    options = parser.parse_args()
    grown: list[float] = []
    with server() as running, ExitStack() as stack:
        urls = [stack.enter_context(running.database()) for _ in range(2)]
        ours = [Ours(postgres_store(url), options.targets, options.concurrency) for url in urls]
        for one in ours:
            stack.enter_context(closing(one))
        # The first cycle makes the run; a snapshot from before it would hold nothing back that matters.
        drained(ours, 1)
        hold_snapshot(stack, urls[1])
        measured = drained(ours, options.targets // options.concurrency - 2)
        print(f"{running.about()}; {options.targets} targets, {options.concurrency} in flight\n")
        print("| snapshot | first tenth, ms | last tenth, ms | last ÷ first | ÷ none | targets, MB |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for name, one, url, seconds in zip(("none", "held"), ours, urls, measured, strict=True):
            one.check()
            tenth = max(1, len(seconds) // 10)
            first, last = statistics.median(seconds[:tenth]), statistics.median(seconds[-tenth:])
            grown.append(last / first)
            cells = (f"{first * 1000:.2f}", f"{last * 1000:.2f}", f"{grown[-1]:.2f}", f"{grown[-1] / grown[0]:.2f}")
            print(f"| {name} | {' | '.join(cells)} | {heap_megabytes(url):.0f} |")
    # The last line is the one with the snapshot.
    worst = max(grown[-1], grown[-1] / grown[0])
    if options.check and worst > FLAT:
        sys.exit(f"\nmissed: the last tenth's tick costs {worst:.2f} times the first's, more than {FLAT}")


if __name__ == "__main__":
    main()
