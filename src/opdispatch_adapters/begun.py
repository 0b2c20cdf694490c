"""Whether tasks of a run were begun before the run is made, for those who make runs.

The id of a run and the keys of its tasks are derived from the request.  So a request that is repeated after its run was
pruned makes the same run again, and whatever the task manager still knows of the first one would answer for it: racks
would be told as done for which nothing was executed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from opdispatch.errors import Unavailable
from opdispatch.identity import idempotency_key_of
from opdispatch.observation import Observation, SubmissionAccepted
from opdispatch.plan import NewRun
from opdispatch.task import ClaimRef, Ref

Observe = Callable[[Sequence[Ref], datetime], Sequence[Observation]]
"""Looks at tasks, as a task manager does."""


def was_begun(new: NewRun, observe: Observe, most: int | None = None) -> bool:
    """True when the task manager knows a task of this run, which the store does not know.

    At most the first ``most`` targets are looked up, all for None: those that come first are begun first.  Raises
    Unavailable when no key is answered.
    """
    refs = [
        ClaimRef(
            target_id=target.id,
            attempt=target.attempt,
            fence=target.fence,
            key=idempotency_key_of(new.run.id, target.id, target.attempt),
            rack_id=target.rack_id,
            bar=False,
        )
        for target in new.targets[:most]
    ]
    found = observe(refs, new.run.created_at)
    if not found:
        raise Unavailable("the task manager", f"it does not tell whether run {new.run.id} was begun before")
    return any(isinstance(one, SubmissionAccepted) for one in found)
