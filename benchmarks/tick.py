"""The cost of one tick, by the size of the phase and the targets in flight: it must not grow with the phase.

    python -m benchmarks.tick [--quick] [--check] [--sizes 100,1000,...] [--concurrency 10,100,...] [--cycles 120]

On PostgreSQL the library (*ours*) takes turns, cycle by cycle, with the statements of the reference (*rowwise*) and
with the least that the database needs for the same changes (*floor*); all sizes of one concurrency are in the same
turns, so that a noisy machine is noisy for all.  The medians are comparable, and their ratios are the result.  Rowwise
takes part in fewer turns where a cycle of it is long.  With ``--store sqlite`` the library is alone.

All do the same durable work: as many targets end, as many are claimed and submitted, and all of it is committed, on one
server and with the same settings, each in a database of its own.  They commit as often, but for rowwise, which records
every submission by itself, as the reference does.  What is counted of ours is the whole library, from taking the due
run to the journal, through a dispatcher and a store as anybody would make them; rowwise parses, decides and journals
nothing, and the floor does not even read.  Only the lease by which ours takes a run is not waited for on the disk: a
crash may forget it.  Autovacuum is left on, for all.

Where the phase is as large as the concurrency a cycle is half a cycle (see ``contender``); such a line is comparable
with what stands beside it, not with other lines.  ``--check`` exits with 1 when a goal is missed.  ``--quick`` takes a
minute for what is cheap to measure, and leaves the goals at 100 000 targets out.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.contender import Contender
from benchmarks.floor import Floor
from benchmarks.ours import Ours, postgres_store, sqlite_store
from benchmarks.rowwise import Rowwise
from benchmarks.server import Server, server

FLAT: Final = 1.25
"""What a cycle at 100 000 targets may cost at most, in cycles at 1 000 with as many in flight."""
OVER_ROWWISE: Final[Mapping[int, float]] = {100: 1, 10_000: 15, 100_000: 100}
"""How many times the targets per second of rowwise there must be at least, by size, with 100 in flight."""
OF_THE_FLOOR: Final[Mapping[int, float]] = {10: 0.20, 100: 0.30, 1_000: 0.35}
"""The least share of the floor's targets per second, by how many are in flight."""
LEAST_TURNS: Final = 5
FULL: Final = {"sizes": "100,1000,10000,100000", "concurrency": "10,100,1000", "cycles": 120, "rowwise_seconds": 10.0}
QUICK: Final = {"sizes": "100,1000,10000", "concurrency": "10,100", "cycles": 40, "rowwise_seconds": 4.0}


@dataclass
class Entry:
    """A contender and what was measured of it: it takes every ``stride``-th turn."""

    contender: Contender
    stride: int = 1
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds of a cycle."""
        return statistics.median(self.seconds)

    @property
    def p90(self) -> float:
        """Seconds that nine of ten cycles did not exceed."""
        return sorted(self.seconds)[int(len(self.seconds) * 0.9)]

    @property
    def rate(self) -> float:
        """Targets per second."""
        return self.contender.rate(self.median)


@dataclass
class Line:
    """All contenders at one size, ours first."""

    size: int
    concurrency: int
    entries: Mapping[str, Entry]

    @property
    def ours(self) -> Entry:
        """The library."""
        return self.entries["ours"]

    def over(self, other: str) -> float:
        """Our targets per second divided by another's."""
        return self.ours.rate / self.entries[other].rate


def take_turns(lines: Sequence[Line], cycles: int, rowwise_seconds: float) -> None:
    """Warm every contender up by one cycle, then measure; what a contender leaves behind is checked at both ends."""
    for line in lines:
        for name, entry in line.entries.items():
            seconds = entry.contender.cycle()
            entry.contender.check()
            if name == "rowwise":
                affordable = max(LEAST_TURNS, int(rowwise_seconds / seconds))
                entry.stride = max(1, cycles // affordable)
    entries = [entry for line in lines for entry in line.entries.values()]
    # The plans and runs that the benchmark holds on to are not the library's to be walked through by its collections.
    gc.collect()
    gc.freeze()
    for turn in range(cycles):
        # The first of a turn is another one each time: to come after a certain neighbour is nobody's lot.
        start = turn % len(entries)
        for entry in (*entries[start:], *entries[:start]):
            if turn % entry.stride == 0:
                entry.seconds.append(entry.contender.cycle())
        gc.collect()
    for entry in entries:
        entry.contender.check()


def growth(line: Line, lines: Sequence[Line]) -> float | None:
    """Our cost at this size by that at the base: 1 000 targets, or the next size whose cycles are whole ones."""
    whole = [other for other in lines if other.size >= 1_000 and not other.ours.contender.is_paired]
    base = min(whole, key=lambda other: other.size, default=line)
    return line.ours.median / base.ours.median if base.size < line.size else None


def misses(line: Line, lines: Sequence[Line]) -> Iterator[str]:
    """The goals that this line does not reach."""
    where = f"{line.size} targets, {line.concurrency} in flight"
    grown = growth(line, lines)
    if line.size == 100_000 and grown is not None and grown > FLAT:
        yield f"{where}: a cycle costs {grown:.2f} times what it costs in a small phase, more than {FLAT}"
    if "rowwise" in line.entries and line.concurrency == 100:
        least = OVER_ROWWISE.get(line.size, 0.0)
        if line.over("rowwise") < least:
            yield f"{where}: {line.over('rowwise'):.1f} times the targets/s of rowwise, less than {least:g}"
    if "floor" in line.entries and line.size > line.concurrency:
        least = OF_THE_FLOOR.get(line.concurrency, 0.0)
        if line.over("floor") < least:
            yield f"{where}: {line.over('floor'):.2f} of the floor's targets/s, less than {least:g}"


def head(names: Sequence[str]) -> str:
    """The first two lines of the table."""
    columns = ["targets", "in flight"]
    columns += [f"{name}, ms (p90)" for name in names]
    columns += [f"{name}, targets/s" for name in names]
    columns += [f"ours ÷ {name}" for name in names if name != "ours"]
    columns += ["growth", "statements", "create, s"]
    return "| " + " | ".join(columns) + " |\n" + "| ---: " * len(columns) + "|"


def row(line: Line, lines: Sequence[Line]) -> str:
    """The line as a row of the table; ``ours ÷`` compares targets per second."""
    entries, grown, contender = line.entries, growth(line, lines), line.ours.contender
    assert isinstance(contender, Ours)
    cells = [f"{line.size}", f"{line.concurrency}{' (halves)' if contender.is_paired else ''}"]
    cells += [f"{entry.median * 1000:.2f} ({entry.p90 * 1000:.2f})" for entry in entries.values()]
    cells += [f"{entry.rate:.0f}" for entry in entries.values()]
    cells += [f"{line.over(name):.3g}" for name in entries if name != "ours"]
    cells += ["" if grown is None else f"{grown:.2f}", f"{contender.statements}", f"{contender.created_seconds:.2f}"]
    return "| " + " | ".join(cells) + " |"


Maker = Callable[[ExitStack, int, int], Mapping[str, Entry]]


@contextmanager
def postgres() -> Iterator[tuple[str, Maker]]:
    """What to say of the server, and what makes the contenders of one line, each in a database of its own."""

    def make(stack: ExitStack, size: int, concurrency: int) -> Mapping[str, Entry]:
        kinds: dict[str, Callable[[str], Contender]] = {
            "ours": lambda url: Ours(postgres_store(url), size, concurrency),
            "rowwise": lambda url: Rowwise(url, size, concurrency),
            "floor": lambda url: Floor(url, size, concurrency),
        }
        return {name: Entry(_opened(stack, running, kind)) for name, kind in kinds.items()}

    with server() as running:
        yield running.about(), make


def _opened(stack: ExitStack, running: Server, kind: Callable[[str], Contender]) -> Contender:
    return stack.enter_context(closing(kind(stack.enter_context(running.database()))))


@contextmanager
def sqlite() -> Iterator[tuple[str, Maker]]:
    """The same with a file for each line, and the library alone."""

    def make(stack: ExitStack, size: int, concurrency: int) -> Mapping[str, Entry]:
        path = Path(directory) / f"{size}-{concurrency}.db"
        return {"ours": Entry(stack.enter_context(closing(Ours(sqlite_store(path), size, concurrency))))}

    with tempfile.TemporaryDirectory() as directory:
        yield "SQLite", make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and fewer cycles")
    parser.add_argument("--sizes")
    parser.add_argument("--concurrency")
    parser.add_argument("--cycles", type=int)
    parser.add_argument("--rowwise-seconds", type=float, help="about how long each rowwise may take")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    options = argparse.Namespace(**{**(QUICK if given["quick"] else FULL), **given})
    sizes = [int(size) for size in options.sizes.split(",")]
    missed: list[str] = []
    with sqlite() if options.store == "sqlite" else postgres() as (about, make):
        print(f"{about}; {options.cycles} turns\n")
        for index, concurrency in enumerate(int(number) for number in options.concurrency.split(",")):
            with ExitStack() as stack:
                lines = [Line(s, concurrency, make(stack, s, concurrency)) for s in sizes if s >= concurrency]
                take_turns(lines, options.cycles, options.rowwise_seconds)
                if index == 0:
                    print(head(list(lines[0].entries)))
                for line in lines:
                    print(row(line, lines), flush=True)
                    missed += misses(line, lines)
    if options.check and missed:
        print("\nmissed:", *missed, sep="\n", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
