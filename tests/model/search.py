"""Breadth first through every state: what must hold of it and of each step, and the shortest way to what does not."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from opdispatch.action import BlockTarget, ClaimTarget, Decision, OpenPhase, SettleTarget, SubmitTask
from opdispatch.evolve import Record
from opdispatch.holds import standing_holds
from opdispatch.run import TERMINAL
from opdispatch.tally import counted, tallies_at
from opdispatch.target import Claimed, Pending, Settled

from .world import Configuration, Edge, Model, State, is_settled


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search came to.  ``is_whole`` is False when it ended at its limit of states."""

    configuration: str
    states: int
    edges: int
    depth: int
    is_whole: bool
    wedged: int


class Broken(AssertionError):
    """Something does not hold; the message is the shortest way to it."""


def search(configuration: Configuration, most: int = 1_000_000, **other: Any) -> Found:
    """Every state of a configuration, at most so many.  ``other`` are a decider or a controller in the place of the
    core's own.  Raises Broken."""
    model = Model(configuration, **other)
    first = model.first()
    numbers: dict[State, int] = {first: 0}
    parents = array("l", [-1])
    names: list[str] = [""]
    depths = array("l", [0])
    successors: list[array[int]] = []
    good = bytearray(b"\0")
    waiting: deque[State] = deque([first])
    edges = 0
    while waiting:
        state = waiting.popleft()
        number = numbers[state]
        following = array("l")
        record = model.record(state)
        for what in _of_state(model, state, record):
            raise Broken(_way(parents, names, number, what))
        good[number] = is_settled(state, record)
        for edge in model.edges(state):
            edges += 1
            for what in _of_edge(model, state, edge):
                raise Broken(_way(parents, names, number, f"{edge.name}: {what}"))
            known = numbers.get(edge.after)
            if known is None and len(numbers) < most:
                known = numbers[edge.after] = len(numbers)
                parents.append(number)
                names.append(edge.name)
                depths.append(depths[number] + 1)
                good.append(0)
                waiting.append(edge.after)
            # Beyond the limit nothing is known, so nothing is held against what leads there.
            following.append(-1 if known is None else known)
        successors.append(following)
    wedged = _wedged(successors, good)
    if wedged:
        raise Broken(_way(parents, names, wedged[0], "no end and no hold can be reached any more"))
    return Found(
        configuration=configuration.name,
        states=len(numbers),
        edges=edges,
        depth=max(depths),
        is_whole=len(numbers) < most,
        wedged=len(wedged),
    )


def _wedged(successors: list[array[int]], good: bytearray) -> list[int]:
    """The states from which neither an end nor a stated hold can be reached."""
    before: list[array[int]] = [array("l") for _ in successors]
    reached = bytearray(good)
    queue: deque[int] = deque(index for index, one in enumerate(good) if one)
    for index, following in enumerate(successors):
        for other in following:
            if other < 0:
                if not reached[index]:
                    reached[index] = 1
                    queue.append(index)
            else:
                before[other].append(index)
    while queue:
        for index in before[queue.popleft()]:
            if not reached[index]:
                reached[index] = 1
                queue.append(index)
    return [index for index, one in enumerate(reached) if not one]


def _way(parents: array[int], names: list[str], number: int, what: str) -> str:
    steps = []
    while number > 0:
        steps.append(names[number])
        number = parents[number]
    return "\n".join([f"{what}; the shortest way there:", *(f"    {step!r}," for step in reversed(steps))])


# -- what must hold --


def _of_state(model: Model, state: State, record: Record) -> Iterator[str]:
    for phase, tally in enumerate(record.phases):
        recount = counted(t for t in record.targets.values() if t.phase == phase)
        told = tally.numbers[:8]
        if recount.numbers[:8] != told:
            yield f"totals: phase {phase} counts {told} and has {recount.numbers[:8]}"
    slots = sum(t.status.holds_slot for t in record.targets.values())
    if slots > model.configuration.quota:
        yield f"quota: {slots} targets hold a slot"
    alive = [task.sequence for task in state.tasks if task.status == "running"]
    if len(set(alive)) < len(alive):
        yield "once: two tasks of a target are alive"
    if len(alive) > model.configuration.quota and not model.configuration.forgets:
        yield f"quota: {len(alive)} tasks are alive"


def _of_edge(model: Model, state: State, edge: Edge) -> Iterator[str]:
    before, after = edge.before_record, edge.after_record
    if before.run.status in TERMINAL and before.run.status is not after.run.status:
        yield f"terminal: {before.run.status} became {after.run.status}"
    for target_id, was in before.targets.items():
        now = after.targets[target_id]
        if isinstance(was.state, Settled) and now.state != was.state and now.attempt == was.attempt:
            yield f"settled: target {was.sequence} did not stay as it was"
        if now.attempt > was.attempt and (edge.decision is None or edge.decision.command is None):
            yield "attempt: it rises by a command alone"
        if now.fence < was.fence:
            yield "fence: it never falls"
    if edge.decision is not None and edge.decision.command is None:
        yield from _of_decision(model, state, before, after, edge.decision)


def _of_decision(model: Model, state: State, before: Record, edge_after: Record, decision: Decision) -> Iterator[str]:
    for change in decision.changes:
        if isinstance(change, OpenPhase):
            new = change.phase > before.run.opened
            if new and not before.run.rollout.auto_advance:
                yield f"phases: it opens phase {change.phase}, and nobody advanced"
            if any(t.phase < change.phase and not t.status.is_settled for t in edge_after.targets.values()):
                yield f"order: it opens phase {change.phase} before an earlier one is settled"
        if isinstance(change, BlockTarget):
            was = before.targets[change.target_id].conflict
            if was is not None and change.conflict.count < min(was.count + 1, 2):
                yield "backoff: a refusal is forgotten"
            if was is not None and change.conflict.delay < was.delay:
                yield "backoff: the wait falls"
        if isinstance(change, SettleTarget):
            target = before.targets[change.target_id]
            alive = [t for t in state.tasks if (t.sequence, t.attempt) == (target.sequence, target.attempt)]
            if any(t.status == "running" for t in alive):
                yield f"unknown is not failed: target {target.sequence} is settled while its task is at work"
    claims = [change for change in decision.changes if isinstance(change, ClaimTarget)]
    submits = [effect for effect in decision.effects if isinstance(effect, SubmitTask)]
    if len(claims) != len(submits):
        yield f"claims: {len(claims)} claims and {len(submits)} submissions"
    if not claims:
        return
    slots = sum(t.status.holds_slot for t in edge_after.targets.values())
    strays = sum(stray.is_open for stray in edge_after.strays.values())
    fresh = [one for one in claims if not isinstance(before.targets[one.target_id].state, Claimed)]
    if fresh and slots + strays > model.configuration.quota:
        yield f"quota: it claims {len(fresh)}, and {slots + strays} slots are in use then"
    after = decision.outcome
    run = before.run
    if run.status.is_terminal:
        yield "cancel: a run that has ended claims something"
    for change in claims:
        target = before.targets[change.target_id]
        again = isinstance(target.state, Claimed)
        earlier = [t for t in before.targets.values() if t.phase < target.phase]
        settled_now = set() if after is None else {t.id for t in after.targets if isinstance(t.state, Settled)}
        if not again and any(not t.status.is_settled and t.id not in settled_now for t in earlier):
            yield f"order: target {target.sequence} is claimed before an earlier phase is settled"
        if isinstance(target.state, Pending):
            skipped = [
                t.sequence
                for t in before.targets.values()
                if t.phase == target.phase and t.sequence < target.sequence and isinstance(t.state, Pending)
            ]
            claimed = {before.targets[one.target_id].sequence for one in claims}
            if not set(skipped) <= claimed and not settled_now:
                yield f"order: target {target.sequence} is claimed before {skipped}"
    # With what the decision itself took in: a failure that it just learned of holds it, too.
    now = edge_after.run
    held = standing_holds(now, tallies_at(edge_after.phases, now.phase, now.opened))
    if held:
        yield f"holds: it claims though it is held by {held[0].reason}"
