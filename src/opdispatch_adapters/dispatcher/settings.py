"""The numbers of the driver, with their defaults: one table, shown on the reference page."""

from __future__ import annotations

from datetime import timedelta

import attrs

from opdispatch.errors import InvalidInput
from opdispatch.state import Limits

_LIMITS = Limits()


def _above_zero(_: object, attribute: attrs.Attribute[timedelta], value: timedelta) -> None:
    if value <= timedelta(0):
        raise InvalidInput.at(f"dispatcher.{attribute.name}", f"{value} is not above zero")


def _at_least_one(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if value < 1:
        raise InvalidInput.at(f"dispatcher.{attribute.name}", f"{value} is below 1")


@attrs.frozen(kw_only=True)
class Settings:
    """How a dispatcher works.  Every wait is above zero; a claim lease is at least three call deadlines."""

    poll: timedelta = attrs.field(default=_LIMITS.poll, validator=_above_zero)
    """How often what is in flight is looked at, and the longest sleep of the loop."""
    glance: timedelta = attrs.field(default=timedelta(seconds=0.25), validator=_above_zero)
    """How often to look whether another process changed the store, unless the store tells."""
    service_lease: timedelta = attrs.field(default=timedelta(seconds=30), validator=_above_zero)
    """How long a run that was taken for service is left to its taker; a crash costs one of these."""
    claim_lease: timedelta = attrs.field(default=_LIMITS.claim_lease, validator=_above_zero)
    """How long a claim may go unanswered before its key is looked up."""
    call_deadline: timedelta = attrs.field(default=timedelta(seconds=10), validator=_above_zero)
    """How long one submission may take; after it the answer is unknown."""
    missing_grace: timedelta = attrs.field(default=_LIMITS.missing_grace, validator=_above_zero)
    """How far apart two looks that miss a task must be before it counts as lost."""
    cancel_delay: timedelta = attrs.field(default=_LIMITS.cancel_delay, validator=_above_zero)
    """The first wait before a cancellation is asked for again; it doubles."""
    cancel_max_delay: timedelta = attrs.field(default=_LIMITS.cancel_max_delay, validator=_above_zero)
    """The longest such wait."""
    lock_wait: timedelta = attrs.field(default=timedelta(seconds=5), validator=_above_zero)
    """How long to wait for a run's lock where there is an outcome to record or a command to carry out."""
    max_rounds: int = attrs.field(default=8, validator=_at_least_one)
    """How many decisions one tick may make while each brings something new."""
    run_budget: timedelta = attrs.field(default=timedelta(seconds=20), validator=_above_zero)
    """How long one tick of a run may go on claiming; then it records what is known, and the next run has its turn."""
    batch: int = attrs.field(default=10, validator=_at_least_one)
    """How many due runs are taken at once."""
    error_delay: timedelta = attrs.field(default=timedelta(seconds=5), validator=_above_zero)
    """The wait after a first error of a run; it doubles, with jitter, up to ``error_max_delay``."""
    error_max_delay: timedelta = attrs.field(default=timedelta(minutes=5), validator=_above_zero)
    """The longest such wait."""
    quarantine_after: int = attrs.field(default=10, validator=_at_least_one)
    """So many errors in a row take a run out of service until it is released."""

    def __attrs_post_init__(self) -> None:
        if self.claim_lease < 3 * self.call_deadline:
            raise InvalidInput.at(
                "dispatcher.claim_lease",
                f"{self.claim_lease} is below three call deadlines ({self.call_deadline} each)",
                "lengthen the lease or shorten the deadline",
            )
        if self.cancel_max_delay < self.cancel_delay:
            raise InvalidInput.at(
                "dispatcher.cancel_max_delay",
                f"{self.cancel_max_delay} is below cancel_delay, {self.cancel_delay}",
                "lengthen the longest wait or shorten the first",
            )

    def limits(self, claims: int | None) -> Limits:
        """The limits of one decision that may claim so many targets (None: as many as the slots allow)."""
        return Limits(
            claims=claims,
            poll=self.poll,
            claim_lease=self.claim_lease,
            missing_grace=self.missing_grace,
            cancel_delay=self.cancel_delay,
            cancel_max_delay=self.cancel_max_delay,
        )
