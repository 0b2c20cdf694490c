"""Breadth first through every state of a configuration, with the shortest way to whatever breaks a law."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .world import Configuration, Model, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search came to.  ``is_whole`` is False when it ended at its limit of states."""

    configuration: str
    states: int
    edges: int
    decisions: int
    depth: int
    is_whole: bool


class Broken(AssertionError):
    """Something does not hold; the message is a test of the shortest way to it, to be pasted.  ``states`` is how many
    states were met before."""

    def __init__(self, configuration: str, what: str, steps: list[str], states: int) -> None:
        self.what = what
        self.steps = steps
        self.states = states
        listed = "".join(f"        {step!r},\n" for step in steps)
        super().__init__(
            f"{what}\n\ndef test_the_shortest_way_there() -> None:\n"
            f"    walk(BY_NAME[{configuration!r}], [\n{listed}    ])\n"
        )


def search(configuration: Configuration, most: int = 1_000_000, **other: Any) -> Found:
    """Every state of a configuration, at most so many.  ``other`` are a decider or a controller in the place of the
    core's own.  Raises Broken."""
    with _no_collector():
        return _Search(Model(configuration, **other), most).run()


@contextmanager
def _no_collector() -> Iterator[None]:
    """Millions of tuples, none in a cycle: the collector would only look at them again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Search:
    def __init__(self, model: Model, most: int) -> None:
        self._model = model
        self._most = most
        first = model.first()
        self._numbers: dict[State, int] = {first: 0}
        self._states: list[State] = [first]
        self._parents = array("i", [-1])
        # Where a state leads, one after the other: those of state n are from _starts[n] to _starts[n + 1].
        self._leads = array("i")
        self._starts = array("q", [0])

    def run(self) -> Found:
        model, numbers, states, parents = self._model, self._numbers, self._states, self._parents
        leads, starts, most = self._leads, self._starts, self._most
        number, level_end, depth = 0, 1, 0
        while number < len(states):
            if number == level_end:
                level_end, depth = len(states), depth + 1
            state = states[number]
            broken = model.broken_by(state)
            if broken:
                raise self._broken(number, "; ".join(broken))
            for name, after, breaks in model.edges(state):
                if breaks:
                    raise self._broken(number, "; ".join(breaks), name)
                known = numbers.get(after)
                if known is None:
                    if len(states) < most:
                        known = numbers[after] = len(states)
                        states.append(after)
                        parents.append(number)
                    else:
                        # Beyond the limit nothing is known, so nothing is held against what leads there.
                        known = -1
                leads.append(known)
            starts.append(len(leads))
            number += 1
        wedged = self._wedged()
        if wedged is not None:
            raise self._broken(wedged, "wedged: no end and no hold can be reached any more")
        return Found(
            configuration=model.configuration.name,
            states=len(states),
            edges=len(leads),
            decisions=model.decisions,
            depth=depth,
            is_whole=len(states) < most,
        )

    def _wedged(self) -> int | None:
        """The first state from which neither an end nor a stated hold can be reached."""
        leads, starts, count = self._leads, self._starts, len(self._states)
        is_at_rest = self._model.is_at_rest
        reached = bytearray(map(is_at_rest, self._states))
        incoming = array("q", bytes(8 * (count + 1)))
        for index in range(count):
            for place in range(starts[index], starts[index + 1]):
                after = leads[place]
                if after < 0:
                    reached[index] = 1
                else:
                    incoming[after + 1] += 1
        for index in range(count):
            incoming[index + 1] += incoming[index]
        place_of = array("q", incoming)
        sources = array("i", bytes(4 * incoming[count]))
        for index in range(count):
            for place in range(starts[index], starts[index + 1]):
                after = leads[place]
                if after >= 0:
                    sources[place_of[after]] = index
                    place_of[after] += 1
        waiting = [index for index in range(count) if reached[index]]
        while waiting:
            index = waiting.pop()
            for place in range(incoming[index], incoming[index + 1]):
                before = sources[place]
                if not reached[before]:
                    reached[before] = 1
                    waiting.append(before)
        missed = reached.find(0)
        return None if missed < 0 else missed

    def _broken(self, number: int, what: str, last: str | None = None) -> Broken:
        way = [number]
        while way[-1] > 0:
            way.append(self._parents[way[-1]])
        way.reverse()
        steps = []
        for before, after in pairwise(way):
            names = (n for n, to, _ in self._model.edges(self._states[before]) if to == self._states[after])
            steps.append(next(names))
        steps.extend([] if last is None else [last])
        return Broken(self._model.configuration.name, what, steps, len(self._states))


def walk(configuration: Configuration, steps: list[str], **other: Any) -> State:
    """Go through these steps, and come to the state at their end.  Raises Broken where a law does not hold."""
    model = Model(configuration, **other)
    state = model.first()
    for count, wanted in enumerate(steps, 1):
        following = {name: (after, breaks) for name, after, breaks in model.edges(state)}
        if wanted not in following:
            raise ValueError(f"step {count}, {wanted!r}, cannot be made; there are {sorted(following)}")
        state, breaks = following[wanted]
        found = (*breaks, *model.broken_by(state))
        if found:
            raise Broken(configuration.name, "; ".join(found), steps[:count], count)
    return state
