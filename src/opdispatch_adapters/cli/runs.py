"""What the program reads of runs: the part that a store and a server have in common."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from opdispatch.identity import RunId
from opdispatch.journal import JournalEntry
from opdispatch.ports import Listed, Overview
from opdispatch.query import EVERY_RUN, RunQuery
from opdispatch.target import Stray, Target, TargetStatus


class Runs(Protocol):
    """See ``opdispatch.ports.Store``, of which these are methods."""

    def get(self, run_id: RunId) -> Overview:
        """One run with its counts."""
        ...

    def list(self, where: RunQuery = EVERY_RUN, *, limit: int = 100, offset: int = 0) -> Sequence[Listed]:
        """The runs that are asked for."""
        ...

    def targets(
        self,
        run_id: RunId,
        *,
        statuses: AbstractSet[TargetStatus] = frozenset(),
        phases: AbstractSet[int] = frozenset(),
        limit: int | None = None,
        offset: int = 0,
    ) -> Sequence[Target]:
        """Targets by sequence."""
        ...

    def strays(self, run_id: RunId) -> Sequence[Stray]:
        """All strays ever recorded."""
        ...

    def journal(self, run_id: RunId, *, after: int = 0, limit: int | None = None) -> Sequence[JournalEntry]:
        """What was decided."""
        ...

    def wake(self, run_id: RunId) -> None:
        """Make a run due at once."""
        ...
