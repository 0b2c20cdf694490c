"""Decide: from the state of one run to what is to be done about it.  A pure function of one value.

The rules are taken in this order, and a later one never undoes an earlier one:

1. Fold in the observations.
2. Cancel strays whose next cancellation is due; in a run that has ended, its tasks too, and what never started is
   skipped.  It does nothing else.
3. A plan that cannot be fails the run.
4. Every target of every phase is settled: the run ends, whatever holds it.
5. A hold stands: the run is paused, and nothing new starts.
6. The current phase is settled and another follows: it opens; the next decision sees it.
7. Claim: first claims whose key was looked up and not found, then the next candidates, up to the free slots.

Equal states give equal decisions.  The decision on a window equals the one on the whole record, and without new
observations a few decisions in a row come to one that changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from .action import (
    AnnotateRun,
    CancelTask,
    ClaimTarget,
    ContinueRun,
    Decision,
    FinishRun,
    HeldBack,
    NoteTarget,
    OpenPhase,
    PauseRun,
    SkipUnstarted,
    StartRun,
    SubmitTask,
    UpdateStray,
    Wait,
)
from .draft import Draft
from .fold import claim_of, doubled, fold
from .holds import Hold, next_phase, standing_holds
from .identity import idempotency_key_of
from .observation import SubmissionAbsent
from .run import RunStatus
from .state import RunState
from .target import FAILURES, Blocked, Cancelling, Claimed, Submitted, Target, TargetStatus
from .task import SubmissionRequest, TaskRef


def decide(state: RunState) -> Decision:
    """What is to be done to this run now, and why; reads nothing but ``state``."""
    draft = Draft(state)
    for index, observation in enumerate(state.observations):
        before = draft.length
        fold(draft, observation)
        # An absence may also let a claim be made anew, by the last rule.
        if draft.length > before or isinstance(observation, SubmissionAbsent):
            draft.take(index)
    _cancel_what_is_due(draft)
    at_once = False
    if draft.run.status.is_terminal:
        _skip_what_never_started(draft)
        _say_what_drains(draft)
    elif (broken := _why_it_cannot_be(draft)) is not None:
        _fail(draft, broken)
        at_once = True
    elif draft.tallies.everything.unsettled == 0:
        _finish(draft)
    elif holds := standing_holds(draft.run, draft.tallies):
        _pause(draft, holds)
    elif (following := next_phase(draft.run, draft.tallies)) is not None:
        _advance(draft, following)
        at_once = True
    else:
        at_once = _claim(draft)
    return draft.decision(state.now if at_once else _wake_at(draft))


# -- rule 2 --


def _cancel_what_is_due(draft: Draft) -> None:
    limits = draft.state.limits
    for stray in sorted(draft.open_strays, key=lambda s: s.task_id):
        if stray.cancelling.due <= draft.now:
            again = _asked(stray.cancelling, draft)
            draft.change(UpdateStray(stray=replace(stray, cancelling=again)), "the stray is asked to end")
            ref = TaskRef(target_id=stray.target_id, task_id=stray.task_id)
            draft.effect(CancelTask(ref=ref), "a stray is cancelled until it is seen to be over")
    if not draft.run.status.is_terminal:
        return
    for target in draft.in_flight:
        if not isinstance(target.state, Submitted):
            continue
        cancelling = target.state.cancelling or Cancelling(due=draft.now, delay=limits.cancel_delay)
        if cancelling.due <= draft.now:
            note = NoteTarget(
                target_id=target.id,
                message=target.message,
                missing_since=target.state.missing_since,
                cancelling=_asked(cancelling, draft),
            )
            draft.change(note, "its task is asked to end")
            ref = TaskRef(target_id=target.id, task_id=target.state.task_id)
            draft.effect(CancelTask(ref=ref), "the run has ended; its tasks are cancelled until they are over")


def _asked(cancelling: Cancelling, draft: Draft) -> Cancelling:
    longest = draft.state.limits.cancel_max_delay
    return Cancelling(due=draft.now + cancelling.delay, delay=doubled(cancelling.delay, longest))


def _skip_what_never_started(draft: Draft) -> None:
    """A cancel skips at once what has not started; one that was written into the store by somebody else did not."""
    if draft.tallies.everything.pending + draft.tallies.everything.blocked:
        draft.change(SkipUnstarted(message="skipped: the run had ended before it started"), "the run has ended")


def _say_what_drains(draft: Draft) -> None:
    left = draft.slots_used
    if left:
        draft.hold_back(HeldBack(wait=Wait.DRAINING, message="the run has ended; its tasks are ending", count=left))


# -- rules 3 and 4 --


def _why_it_cannot_be(draft: Draft) -> str | None:
    if draft.tallies.everything.total == 0:
        return "operation run has no targets"
    if draft.tallies.current.total == 0:
        return f"operation run phase {draft.run.phase} has no targets; persisted phase plan is invalid"
    return None


def _fail(draft: Draft, message: str) -> None:
    draft.change(SkipUnstarted(message=f"skipped: {message}"), "the run fails")
    draft.change(FinishRun(status=RunStatus.FAILED, at=draft.now, message=message), "its plan cannot be carried out")


def _finish(draft: Draft) -> None:
    tally = draft.tallies.everything
    failed = sum(tally.of(status) for status in FAILURES)
    if failed == 0:
        status, message = RunStatus.COMPLETED, "operation run completed"
    elif failed < tally.total:
        status, message = RunStatus.COMPLETED_WITH_FAILURES, "operation run completed with failed targets"
    else:
        status, message = RunStatus.FAILED, "operation run failed"
    if draft.run.status is RunStatus.PENDING:
        draft.change(StartRun(at=draft.now, message=""), "it ends at its first decision")
    draft.change(FinishRun(status=status, at=draft.now, message=message), "every target is settled")


# -- rules 5 and 6 --


def _pause(draft: Draft, holds: tuple[Hold, ...]) -> None:
    first = holds[0]
    shown = (RunStatus.PAUSED, first.reason, first.message)
    if (draft.run.status, draft.run.status_reason, draft.run.status_message) != shown:
        draft.change(PauseRun(reason=first.reason, message=first.message), f"held by {first.wait}")
    waiting = draft.tallies.everything.pending + draft.tallies.everything.blocked
    for hold in holds:
        draft.hold_back(HeldBack(wait=hold.wait, message=hold.message, count=waiting))
    _say_what_is_unanswered(draft)


def _advance(draft: Draft, following: int) -> None:
    again = following <= draft.run.opened
    draft.change(OpenPhase(phase=following), "the current phase is settled")
    message = f"returned to phase {following}" if again else "advanced to next phase"
    _be_running(draft, message)


def _be_running(draft: Draft, message: str | None) -> None:
    """Make the run running, and let it say ``message`` (None: keep what it says)."""
    text = draft.run.status_message if message is None else message
    if draft.run.status is RunStatus.PENDING:
        draft.change(StartRun(at=draft.now, message=text), "its first decision")
    elif draft.run.status is RunStatus.PAUSED:
        draft.change(ContinueRun(at=draft.now, message=text), "no hold stands any more")
    elif text != draft.run.status_message:
        draft.change(AnnotateRun(message=text), "it waits for something else than it says")


# -- rule 7 --


def _claim(draft: Draft) -> bool:
    """Claim what can be claimed.  True when more could be claimed at once, if the task manager could take it."""
    quota = draft.run.rollout.max_concurrent_targets
    free = quota - draft.slots_used
    again = _looked_up_and_absent(draft) if free >= 0 else ()
    possible = (*again, *_candidates(draft)[: max(free, 0)])
    claims = possible[: draft.state.limits.claims]
    run_text, lease_until = str(draft.run.id), draft.now + draft.state.limits.claim_lease
    for target in claims:
        _submit(draft, target, run_text, lease_until)
    more = len(possible) > len(claims)
    if more:
        message = "the task manager can begin no more at once"
        draft.hold_back(HeldBack(wait=Wait.CAPACITY, message=message, count=draft.tallies.current.pending))
    _be_running(draft, _what_is_done(draft, len(claims), more))
    _say_what_is_waited_for(draft)
    return more


def _looked_up_and_absent(draft: Draft) -> tuple[Target, ...]:
    """Claims whose lease is over and whose key was looked up and not found, by sequence; they hold their slots."""
    found = {
        target.id: target
        for observation in draft.state.observations
        if isinstance(observation, SubmissionAbsent) and (target := claim_of(draft, observation)) is not None
    }
    return tuple(sorted(found.values(), key=lambda target: target.sequence))


def _candidates(draft: Draft) -> tuple[Target, ...]:
    now = draft.now
    standing = (draft.target(target.id) or target for target in draft.state.ready)
    return tuple(sorted((t for t in standing if _is_ready(t, now)), key=lambda target: target.sequence))


def _is_ready(target: Target, now: datetime) -> bool:
    state = target.state
    if isinstance(state, Blocked):
        return state.retry_at <= now
    return state.status is TargetStatus.PENDING


def _submit(draft: Draft, target: Target, run_text: str, lease_until: datetime) -> None:
    run = draft.run
    resubmission = isinstance(target.state, Claimed)
    because = "its key was looked up and not found" if resubmission else "a slot is free and it is next"
    draft.change(ClaimTarget(target_id=target.id, lease_until=lease_until), because)
    request = SubmissionRequest(
        key=idempotency_key_of(run_text, target.id, target.attempt),
        run_id=run.id,
        target_id=target.id,
        attempt=target.attempt,
        fence=target.fence + 1,
        rack_id=target.rack_id,
        rack_name=target.rack_name,
        components=target.components,
        operation=run.rollout.operation,
        resubmission=resubmission,
    )
    draft.effect(SubmitTask(request=request), because)


def _counted(count: int, singular: str, plural: str) -> str:
    return f"{count} {singular if count == 1 else plural}"


def _has_free_slot(draft: Draft) -> bool:
    return draft.slots_used < draft.run.rollout.max_concurrent_targets


def _what_is_done(draft: Draft, claimed: int, more: bool) -> str | None:
    """The run's text, in the reference's words (behaviour contract, 10.1); None keeps the one that stands."""
    if more and not claimed:
        return None
    current, parts = draft.tallies.current, []
    if claimed:
        parts.append(f"submitted {_counted(claimed, 'operation run target', 'operation run targets')}")
    if current.blocked and (claimed or _has_free_slot(draft)):
        parts.append(f"{_counted(current.blocked, 'target', 'targets')} waiting on rack conflicts")
    if parts:
        return "; ".join(parts)
    if current.pending + current.blocked:
        return "waiting for active targets quota"
    return f"waiting for {_counted(draft.slots_used, 'target', 'targets')} in flight"


def _say_what_is_waited_for(draft: Draft) -> None:
    current, quota = draft.tallies.current, draft.run.rollout.max_concurrent_targets
    waiting = current.pending + current.blocked
    if waiting and not _has_free_slot(draft):
        strays = len(draft.open_strays)
        message = f"all {quota} slots are in use" + (f"; open strays use {strays}" if strays else "")
        draft.hold_back(HeldBack(wait=Wait.QUOTA, message=message, count=waiting))
    if current.blocked:
        message, until = "the racks are busy with other work", _next_retry(draft)
        draft.hold_back(HeldBack(wait=Wait.CONFLICT, message=message, count=current.blocked, until=until))
    _say_what_is_unanswered(draft)


def _say_what_is_unanswered(draft: Draft) -> None:
    everything = draft.tallies.everything
    if everything.claimed:
        leases = [t.state.lease_until for t in draft.in_flight if isinstance(t.state, Claimed)]
        message, until = (
            "their submissions are not answered yet",
            min((at for at in leases if at > draft.now), default=None),
        )
        draft.hold_back(HeldBack(wait=Wait.ANSWER, message=message, count=everything.claimed, until=until))
    if everything.submitted:
        message = "their tasks have not ended yet"
        draft.hold_back(HeldBack(wait=Wait.IN_FLIGHT, message=message, count=everything.submitted))


# -- when to look again --


def _next_retry(draft: Draft) -> datetime | None:
    """When the next blocked target of the current phase may be tried, later than now."""
    phase, now = draft.run.phase, draft.now
    times = [state.retry_at for t in draft.changed if t.phase == phase and isinstance(state := t.state, Blocked)]
    if draft.state.next_retry is not None:
        times.append(draft.state.next_retry)
    return min((at for at in times if at > now), default=None)


def _wake_at(draft: Draft) -> datetime | None:
    now, poll = draft.now, draft.now + draft.state.limits.poll
    states = [target.state for target in draft.in_flight]
    leases = [state.lease_until for state in states if isinstance(state, Claimed)]
    asks = [state.cancelling for state in states if isinstance(state, Submitted)]
    times = [lease_until if lease_until > now else poll for lease_until in leases]
    times.extend(poll if cancelling is None else min(poll, cancelling.due) for cancelling in asks)
    times.extend(min(poll, stray.cancelling.due) for stray in draft.open_strays)
    if draft.run.status is RunStatus.RUNNING:
        retry = _next_retry(draft)
        if retry is not None:
            times.append(retry)
    return min(times, default=None)
