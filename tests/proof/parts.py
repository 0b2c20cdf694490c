"""The parts of the proof: what each runs, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One search: a module that writes its figures with ``--json``, and its arguments in the proof and in the deep one.

    ``deep`` is None for a part that the deep proof leaves as it is.  ``tests`` is a file of the suite instead, whose
    tests are counted.
    """

    name: str
    title: str
    module: str = ""
    proof: tuple[str, ...] | None = ()
    deep: tuple[str, ...] | None = None
    tests: str = ""


PARTS: Final = (
    Part(
        name="states",
        title="State by state",
        module="tests.model",
        proof=("--states", "400000"),
        deep=("--deeper", "--states", "2500000"),
    ),
    Part(
        name="schedules",
        title="Random schedules",
        module="tests.simulation",
        proof=("--schedules", "10000"),
        deep=("--schedules", "300000", "--seed", "1000000"),
    ),
    Part(
        name="kills_postgresql",
        title="Killed on PostgreSQL",
        module="tests.histories",
        proof=("--store", "postgresql", "--kills", "1000", "--runs", "50", "--seed", "21"),
        deep=("--store", "postgresql", "--kills", "8000", "--runs", "500", "--seed", "22"),
    ),
    Part(
        name="kills_sqlite",
        title="Killed on SQLite",
        module="tests.histories",
        proof=("--store", "sqlite", "--kills", "2000", "--runs", "50", "--seed", "23"),
        deep=("--store", "sqlite", "--kills", "12000", "--runs", "500", "--seed", "24"),
    ),
    Part(
        name="statements",
        title="Every statement cut",
        tests="tests/integration/test_postgres_cuts.py",
    ),
    Part(name="mutants", title="Wrong protocols", module="tests.mutants"),
    Part(name="mutation", title="Mutations of the core", module="tests.mutation", proof=None, deep=()),
    Part(
        name="fuzz",
        title="Inputs",
        module="tests.fuzz",
        proof=("--inputs", "20000"),
        deep=("--inputs", "1000000", "--surface", "documents", "--surface", "requests"),
    ),
)
BY_NAME: Final = {part.name: part for part in PARTS}
