"""Ordering: the sequence in which the selected racks are taken.

Physical order is row by row, or one rack of each row in turn.  A row is a site, room and row together; rows
are in natural order (2 before 10).  Within a row racks with a known position come first, by position; then the
natural order of names; then the id.  Racks without a row come last, as if they shared one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from itertools import groupby
from typing import Final, assert_never

from ..candidate import Candidate
from ..errors import InvalidInput
from .selection import seeded

_DIGITS: Final = re.compile(r"([0-9]+)")

NaturalKey = tuple[tuple[int, int, str], ...]


def natural(text: str) -> NaturalKey:
    """A sort key under which numbers inside text compare as numbers: ``r2`` before ``r10``, and ``r`` before both.

    Total: texts that differ only in leading zeros are told apart by the last part.  Numbers are compared by
    length and then as text, never converted, so no run of digits is too long.
    """
    return (*(_part(part) for part in _DIGITS.split(text) if part), (0, 0, text))


def _part(part: str) -> tuple[int, int, str]:
    if _DIGITS.fullmatch(part):
        digits = part.lstrip("0")
        return 1, len(digits), digits
    return 2, 0, part


@unique
class LocationStrategy(StrEnum):
    """How physical order walks the rows."""

    ROW_BY_ROW = "row_by_row"
    ONE_PER_ROW_ROUND_ROBIN = "one_per_row_round_robin"


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomOrdering:
    """The seeded order of ``selection.seeded``, with a seed of its own."""

    seed: str

    def __post_init__(self) -> None:
        if not self.seed:
            raise InvalidInput.at("$.ordering.seed", "it is empty", "give any text; it decides the order")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicalOrdering:
    """By the place of the racks on the floor."""

    strategy: LocationStrategy


Ordering = RandomOrdering | PhysicalOrdering

_Row = tuple[bool, NaturalKey, NaturalKey, NaturalKey]


def _row(candidate: Candidate) -> _Row:
    if candidate.row is None:
        return True, (), (), ()
    return False, natural(candidate.site or ""), natural(candidate.room or ""), natural(candidate.row)


def _place(candidate: Candidate) -> tuple[_Row, bool, NaturalKey, NaturalKey, str]:
    position = candidate.position
    return (
        _row(candidate),
        position is None,
        natural(position) if position is not None else (),
        natural(candidate.name),
        str(candidate.id),
    )


def _round_robin(rows: Iterable[Sequence[Candidate]]) -> Iterable[Candidate]:
    waiting = [list(reversed(row)) for row in rows]
    while waiting:
        for row in waiting:
            yield row.pop()
        waiting = [row for row in waiting if row]


def order(candidates: Sequence[Candidate], ordering: Ordering) -> tuple[Candidate, ...]:
    """The candidates in sequence order; the result does not depend on the input order."""
    match ordering:
        case RandomOrdering(seed=seed):
            return seeded(candidates, seed)
        case PhysicalOrdering(strategy=strategy):
            by_place = sorted(candidates, key=_place)
            if strategy is LocationStrategy.ROW_BY_ROW:
                return tuple(by_place)
            return tuple(_round_robin([list(row) for _, row in groupby(by_place, key=_row)]))
        case _ as never:
            assert_never(never)
