"""Phases: how the ordered cohort is cut, and whether the next phase opens by itself.

The sizes are the reference's (flow-grpc contract, planning facts): equal phases put the larger ones first,
percentages end at ceil(N * running sum / 100), counts leave a last phase with the rest.  A phase that would
get no target is refused with a plan that fits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import assert_never

from ..errors import InvalidInput, Problem


@dataclass(frozen=True, slots=True)
class NoPhases:
    """All targets in one phase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualPhases:
    """``count`` (>= 1) phases of nearly equal size."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InvalidInput.at("$.phases.count", f"{self.count} is below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class PercentagePhases:
    """One phase per entry, each 1 to 100 percent of the targets; the entries sum to 100."""

    percentages: tuple[int, ...]

    def __post_init__(self) -> None:
        wrong = [
            Problem(place=f"$.phases.percentages[{index}]", found=f"{percentage} is not within 1 and 100")
            for index, percentage in enumerate(self.percentages)
            if not 1 <= percentage <= 100
        ]
        if wrong:
            raise InvalidInput(wrong)
        if sum(self.percentages) != 100:
            raise InvalidInput.at(
                "$.phases.percentages", f"they sum to {sum(self.percentages)}", "make them sum to 100"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CountPhases:
    """One phase per entry with so many targets (>= 1), and one more with the rest if there is one."""

    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.counts:
            raise InvalidInput.at("$.phases.counts", "no phase is given", "give at least one count")
        wrong = [
            Problem(place=f"$.phases.counts[{index}]", found=f"{count} is below 1")
            for index, count in enumerate(self.counts)
            if count < 1
        ]
        if wrong:
            raise InvalidInput(wrong)


class EmptyPhase(InvalidInput):
    """A phase would get none of the ``targets`` that are selected: the ``phase``-th from one, or, where counts ask for
    more than there are, the last ones (None)."""

    def __init__(self, problem: Problem, phase: int | None, targets: int) -> None:
        super().__init__([problem])
        self.phase = phase
        self.targets = targets


PhasePolicy = NoPhases | EqualPhases | PercentagePhases | CountPhases


def _up(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def phase_sizes(policy: PhasePolicy, targets: int) -> tuple[int, ...]:
    """The size of each phase for so many targets (>= 1): all above zero, summing to ``targets``.

    Raises InvalidInput when a phase would get no target: it names the phase and suggests a plan that fits.
    """
    match policy:
        case NoPhases():
            return (targets,)
        case EqualPhases(count=count):
            # An absurd count is not listed in full: one phase more than there are targets shows an empty one.
            sizes = _sizes(_up(targets * index, count) for index in range(1, min(count, targets + 1) + 1))
            if count > targets:
                raise _empty("$.phases.count", sizes, count, targets, f"use a count of at most {targets}")
            return sizes
        case PercentagePhases(percentages=percentages):
            sizes = _sizes(_up(targets * total, 100) for total in accumulate(percentages))
            if 0 in sizes:
                place = f"$.phases.percentages[{sizes.index(0)}]"
                fitting = [size for size in sizes if size]
                raise _empty(place, sizes, len(sizes), targets, f"use counts = {fitting}")
            return sizes
        case CountPhases(counts=counts):
            if sum(counts) > targets:
                problem = Problem(
                    place="$.phases.counts",
                    found=f"the phases ask for {sum(counts)} targets, and {targets} are selected",
                    remedy=f"use counts = {list(_within(counts, targets))}",
                )
                raise EmptyPhase(problem, None, targets)
            rest = targets - sum(counts)
            return (*counts, rest) if rest else counts
        case _ as never:
            assert_never(never)


def _sizes(ends: Iterable[int]) -> tuple[int, ...]:
    return tuple(end - start for start, end in pairwise((0, *ends)))


def _empty(place: str, sizes: tuple[int, ...], phases: int, targets: int, remedy: str) -> EmptyPhase:
    """The refusal of the first empty phase, counted from one as people (and the reference's message) do."""
    empty = sizes.index(0) + 1
    found = f"phase {empty} of {phases} would get none of the {targets} targets"
    return EmptyPhase(Problem(place=place, found=found, remedy=remedy), empty, targets)


def _within(counts: tuple[int, ...], targets: int) -> tuple[int, ...]:
    """The longest prefix of ``counts`` that the targets fill, the last one cut to what is left."""
    kept: list[int] = []
    for count in counts:
        left = targets - sum(kept)
        if not left:
            break
        kept.append(min(count, left))
    return tuple(kept)
