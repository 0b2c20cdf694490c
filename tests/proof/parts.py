"""The parts of the proof: what each runs, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Arguments = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One search: a module that writes its figures with ``--json``, and its arguments in the proof and in the deep one.

    The deep one is done in slices, one after the other, so that hours of it can be left and taken up.  It is empty for
    a part that the deep proof leaves as it is; ``proof`` is None for one that is deep only.  ``tests`` is a file of the
    suite instead, whose tests are counted.  ``needs`` is what the search depends on: files and directories.
    """

    name: str
    title: str
    module: str = ""
    proof: Arguments | None = ()
    deep: tuple[Arguments, ...] = ()
    tests: str = ""
    needs: tuple[str, ...] = ("src", "tests")

    def slices(self, *, deep: bool) -> tuple[Arguments, ...]:
        """What is to be done, in this order."""
        return self.deep if deep else () if self.proof is None else (self.proof,)


PARTS: Final = (
    Part(
        name="states",
        title="State by state",
        module="tests.model",
        proof=("--states", "400000"),
        deep=tuple(("--deeper", "--states", "2500000", "--share", f"{share}/5") for share in range(5)),
        needs=("src/opdispatch", "tests/model", "tests/racks.py", "tests/parallel.py"),
    ),
    Part(
        name="schedules",
        title="Random schedules",
        module="tests.simulation",
        proof=("--schedules", "10000"),
        deep=tuple(("--schedules", "10000", "--seed", str(seed)) for seed in range(1_000_000, 1_300_000, 10_000)),
        needs=(
            "src/opdispatch",
            "src/opdispatch_adapters/dispatcher",
            "src/opdispatch_adapters/memory.py",
            "src/opdispatch_adapters/testing",
            "tests/simulation",
            "tests/parallel.py",
        ),
    ),
    Part(
        name="kills_postgresql",
        title="Killed on PostgreSQL",
        module="tests.histories",
        proof=("--store", "postgresql", "--kills", "1000", "--runs", "50", "--seed", "21"),
        deep=tuple(
            ("--store", "postgresql", "--kills", "1000", "--runs", "50", "--seed", str(seed))
            for seed in range(101, 109)
        ),
    ),
    Part(
        name="kills_sqlite",
        title="Killed on SQLite",
        module="tests.histories",
        proof=("--store", "sqlite", "--kills", "2000", "--runs", "50", "--seed", "23"),
        deep=tuple(
            ("--store", "sqlite", "--kills", "2000", "--runs", "50", "--seed", str(seed)) for seed in range(201, 207)
        ),
    ),
    Part(
        name="statements",
        title="Every statement cut",
        tests="tests/integration/test_postgres_cuts.py",
    ),
    Part(name="mutants", title="Wrong protocols", module="tests.mutants"),
    Part(name="mutation", title="Mutations of the core", module="tests.mutation", proof=None, deep=((),)),
    Part(
        name="fuzz",
        title="Inputs",
        module="tests.fuzz",
        proof=("--inputs", "20000"),
        deep=tuple(
            ("--inputs", "100000", "--surface", "documents", "--surface", "requests", "--seed", str(seed))
            for seed in range(3001, 3011)
        ),
    ),
)
BY_NAME: Final = {part.name: part for part in PARTS}
