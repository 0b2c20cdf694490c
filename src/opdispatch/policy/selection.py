"""Selection: which share of the candidates a run takes, and the seeded order that chooses them.

The order is the reference's, byte for byte, so that the same seed picks the same cohort as it does
(flow-grpc contract, planning facts): ascending by the SHA-256 of ``<seed>:<rack id>``, then by rack id text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from ..candidate import Candidate
from ..errors import InvalidInput, Problem


def seeded(candidates: Sequence[Candidate], seed: str) -> tuple[Candidate, ...]:
    """The candidates in the order that ``seed`` gives; each seed gives one order, whatever the input order."""
    prefix = f"{seed}:"

    def rank(candidate: Candidate) -> tuple[bytes, str]:
        rack = str(candidate.id)
        return sha256(f"{prefix}{rack}".encode()).digest(), rack

    return tuple(sorted(candidates, key=rank))


@dataclass(frozen=True, slots=True, kw_only=True)
class PercentageSelector:
    """Take ``percentage`` (1 to 100) percent of the candidates, rounded up, in the order of ``seed``."""

    percentage: int
    seed: str

    def __post_init__(self) -> None:
        wrong: list[Problem] = []
        if not 1 <= self.percentage <= 100:
            wrong.append(Problem(place="$.selector.percentage", found=f"{self.percentage} is not within 1 and 100"))
        if not self.seed:
            wrong.append(
                Problem(
                    place="$.selector.seed",
                    found="it is empty",
                    remedy="give any text; it decides which racks are chosen",
                )
            )
        if wrong:
            raise InvalidInput(wrong)


def select(candidates: Sequence[Candidate], selector: PercentageSelector) -> tuple[Candidate, ...]:
    """The chosen candidates, in the selector's order: the first ceil(N * percentage / 100)."""
    count = -(-len(candidates) * selector.percentage // 100)
    return seeded(candidates, selector.seed)[:count]
