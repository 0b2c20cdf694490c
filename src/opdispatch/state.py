"""The state: all that one decision may look at.

It is a *window*: what is in flight, what an observation or a command names, the next candidates, and counts of
everything else; so its size follows the concurrency limit and not the size of a phase.  The law is that a
decision on the window equals the decision on the whole record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from .errors import InvalidInput
from .identity import RunId, TargetId, TaskId, idempotency_key_of
from .observation import (
    Observation,
    SubmissionAccepted,
    SubmissionConflicted,
    SubmissionRefused,
    TaskMissing,
    TaskObserved,
)
from .run import Run
from .tally import Tallies
from .target import Claimed, Stray, Submitted, Target
from .task import ClaimRef, Ref, TaskRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The numbers that bound one decision.  Their defaults are the table of the reference page.

    ``claims`` is how many targets may be claimed now (None: as many as the slots allow); the waits are above
    zero.
    """

    claims: int | None = None
    poll: timedelta = timedelta(seconds=10)
    """How long until what is in flight is looked at again."""
    claim_lease: timedelta = timedelta(seconds=30)
    """How long a claim may go unanswered before its key is looked up; at least three call deadlines."""
    missing_grace: timedelta = timedelta(seconds=300)
    """How far apart two looks that miss a task must be before it counts as lost."""
    cancel_delay: timedelta = timedelta(seconds=10)
    """The first wait before a cancellation is asked for again; it doubles."""
    cancel_max_delay: timedelta = timedelta(seconds=300)

    def __post_init__(self) -> None:
        for name in ("poll", "claim_lease", "missing_grace", "cancel_delay", "cancel_max_delay"):
            if getattr(self, name) <= timedelta(0):
                raise InvalidInput.at(f"limits.{name}", f"{getattr(self, name)} is not above zero")
        if self.cancel_max_delay < self.cancel_delay:
            raise InvalidInput.at(
                "limits.cancel_max_delay", f"{self.cancel_max_delay} is below cancel_delay, {self.cancel_delay}"
            )
        if self.claims is not None and self.claims < 0:
            raise InvalidInput.at("limits.claims", f"{self.claims} is below 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """One run as a decision sees it.

    ``tallies`` counts every target of the run.  ``in_flight`` holds every claimed or
    submitted target of the run, by sequence; ``named`` the others that an observation or a command names.
    ``ready`` holds the next candidates of the current phase in sequence order (pending, and blocked with
    ``retry_at`` <= now), at least as many as can be claimed.  ``next_retry`` is the earliest ``retry_at`` of a
    blocked target of the current phase that is later than ``now``.  ``strays`` holds the open ones and those whose
    task an observation names, by task id.  ``now`` is the store's clock, read under the lock and never below
    ``run.decided_at``.
    """

    run: Run
    tallies: Tallies
    in_flight: tuple[Target, ...]
    named: tuple[Target, ...]
    ready: tuple[Target, ...]
    next_retry: datetime | None
    strays: tuple[Stray, ...]
    observations: tuple[Observation, ...]
    limits: Limits
    now: datetime
    _targets: Mapping[int, Target] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # By the number of the id: a UUID is hashed and compared in Python, a number is not.
        targets = {t.id.int: t for group in (self.ready, self.named, self.in_flight) for t in group}
        object.__setattr__(self, "_targets", targets)

    def target(self, target_id: TargetId) -> Target | None:
        """A target that the window holds, by id; None when it does not."""
        return self._targets.get(target_id.int)

    def by_number(self) -> dict[int, Target]:
        """The targets that the window holds, each by the number of its id; a copy."""
        return dict(self._targets)

    def stray(self, task_id: TaskId) -> Stray | None:
        """A stray that the window holds, by task."""
        return next((stray for stray in self.strays if stray.task_id == task_id), None)


def ready_bound(run: Run, limits: Limits, observations: Sequence[Observation], slots_used: int) -> int:
    """How many candidates a window must hold so that no decision could tell it from the whole record.

    No more can be claimed than slots are free (``slots_used`` are not) or fall free by these observations, nor than
    the capacity allows; one more candidate then shows that something is left.  A late acceptance may take a candidate
    out (it is adopted).  While no slot can be free, none is needed.
    """
    slots = run.rollout.max_concurrent_targets - slots_used + sum(map(_may_free_a_slot, observations))
    if slots <= 0:
        return 0
    if limits.claims is not None:
        slots = min(slots, limits.claims + 1)
    return slots + sum(isinstance(observation, SubmissionAccepted) for observation in observations)


def _may_free_a_slot(observation: Observation) -> bool:
    if isinstance(observation, TaskObserved):
        return observation.status.is_over
    return isinstance(observation, (TaskMissing, SubmissionConflicted, SubmissionRefused))


def refs_of(
    run_id: RunId, in_flight: Iterable[Target], strays: Iterable[Stray], now: datetime, *, is_ended: bool
) -> tuple[Ref, ...]:
    """What to look at before the next decision: the tasks of submitted targets, the keys of claims whose lease is
    over, and open strays, in that order of the inputs.  In a run that has ended the keys are to be barred."""
    refs: list[Ref] = []
    for target in in_flight:
        match target.state:
            case Submitted(task_id=task_id):
                refs.append(TaskRef(target_id=target.id, task_id=task_id))
            case Claimed(lease_until=lease_until) if lease_until <= now:
                key = idempotency_key_of(run_id, target.id, target.attempt)
                refs.append(
                    ClaimRef(
                        target_id=target.id,
                        attempt=target.attempt,
                        fence=target.fence,
                        key=key,
                        rack_id=target.rack_id,
                        bar=is_ended,
                    )
                )
            case _:
                pass
    refs.extend(TaskRef(target_id=s.target_id, task_id=s.task_id) for s in strays if s.is_open)
    return tuple(refs)
