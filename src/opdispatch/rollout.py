"""A rollout: the configuration that a run is made from.  It never changes once the run exists."""

from __future__ import annotations

from dataclasses import dataclass, field

from .candidate import Scope
from .errors import InvalidInput, Problem
from .policy.conflict import ConflictRetry
from .policy.gates import Gate
from .policy.ordering import Ordering
from .policy.phases import NoPhases, PhasePolicy
from .policy.selection import PercentageSelector
from .task import Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """What to do, to which racks, in what order, how many at once, and when to stop.

    ``gates`` are tested in order and the first that trips gives the message; a run with no gate never stops
    for failures.  ``auto_advance`` opens the next phase as soon as the current one is settled; otherwise the
    run waits for an operator's advance.
    """

    name: str
    operation: Operation
    selector: PercentageSelector
    ordering: Ordering
    max_concurrent_targets: int
    gates: tuple[Gate, ...]
    phases: PhasePolicy = NoPhases()
    auto_advance: bool = False
    conflict: ConflictRetry = field(default=ConflictRetry())
    scope: Scope = field(default=Scope())
    description: str = ""
    annex: str = "{}"
    """What an adapter keeps with the rollout, such as the words in which its caller named the racks: JSON text that the
    core never looks into."""

    def __post_init__(self) -> None:
        wrong: list[Problem] = []
        if not self.name.strip() or len(self.name) > 255:
            wrong.append(Problem(place="$.name", found=f"{self.name[:40]!r} is not a name of 1 to 255 characters"))
        if self.max_concurrent_targets < 1:
            wrong.append(Problem(place="$.max_concurrent_targets", found=f"{self.max_concurrent_targets} is below 1"))
        if wrong:
            raise InvalidInput(wrong)
