"""Breadth first through every state of a configuration, with the shortest way to whatever breaks a law."""

from __future__ import annotations

import gc
import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from opdispatch.errors import OpdispatchError

from .world import Configuration, Model, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search came to.  ``is_whole`` is False when it ended at its limit of states; then ``walks`` is from how
    many states the way to an end or a hold was walked, because it leads out of what was searched."""

    configuration: str
    states: int
    edges: int
    decisions: int
    depth: int
    walks: int
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


_BEYOND: Final = -1
"""Where a step leads that is not searched any more."""
_LONGEST_WALK: Final = 20_000
_HELPFUL: Final = (
    re.compile(r"\w+ of \d+ (comes|begins|is known|is barred)"),
    re.compile(r"rack \d+ is busy"),
    re.compile(r"\d+ decides"),
    re.compile(r"\d+ looks"),
    re.compile(r"\S+ is completed|\S+ is found again|rack \d+ is free"),
    re.compile(r"time passes"),
)
"""The steps of a world in which nothing more goes wrong and nobody commands, those that lead on fastest first."""
_HARMS: Final = len(_HELPFUL)


def _helps(name: str) -> int:
    """The place of a step among the helpful ones."""
    return next((place for place, one in enumerate(_HELPFUL) if one.fullmatch(name)), _HARMS)


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
        self._on_the_way: tuple[str, ...] = ()
        """What a walk would have broken that was not gone."""

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
            for name, after, breaks in self._edges(number):
                if breaks:
                    raise self._broken(number, "; ".join(breaks), name)
                known = numbers.get(after)
                if known is None:
                    if len(states) < most:
                        known = numbers[after] = len(states)
                        states.append(after)
                        parents.append(number)
                    else:
                        known = _BEYOND
                leads.append(known)
            starts.append(len(leads))
            number += 1
        walks = self._come_to_rest()
        return Found(
            configuration=model.configuration.name,
            states=len(states),
            edges=len(leads),
            decisions=model.decisions,
            depth=depth,
            walks=walks,
            is_whole=len(states) < most,
        )

    def _edges(self, number: int) -> Iterator[tuple[str, State, tuple[str, ...]]]:
        try:
            yield from self._model.edges(self._states[number])
        except (OpdispatchError, LookupError) as error:
            raise self._broken(number, f"the core raises {type(error).__name__}: {error}") from error

    def _come_to_rest(self) -> int:
        """Find a way to an end or a stated hold from every state: among what was searched, or by a walk out of it.

        How many states it was walked from.  Raises Broken for the first from which there is none.
        """
        leads, starts, count = self._leads, self._starts, len(self._states)
        rested = bytearray(map(self._model.is_at_rest, self._states))
        firsts, sources = self._incoming()

        def rest(waiting: list[int]) -> None:
            while waiting:
                index = waiting.pop()
                for place in range(firsts[index], firsts[index + 1]):
                    before = sources[place]
                    if not rested[before]:
                        rested[before] = 1
                        waiting.append(before)

        rest([index for index in range(count) if rested[index]])
        walks, beyond = 0, set[State]()
        # From the last to the first: most ways lead through the later ones.
        for index in range(count - 1, -1, -1):
            if rested[index] or _BEYOND not in leads[starts[index] : starts[index + 1]]:
                continue
            walks += 1
            if self._walks_to_rest(self._states[index], rested, beyond):
                rested[index] = 1
                rest([index])
        wedged = rested.find(0)
        if wedged >= 0:
            broken = f"; on the way, {'; '.join(self._on_the_way)}" if self._on_the_way else ""
            raise self._broken(wedged, f"wedged: no end and no hold can be reached any more{broken}")
        return walks

    def _incoming(self) -> tuple[array[int], array[int]]:
        """Whence each state is come by: from ``sources[firsts[n]]`` to before ``sources[firsts[n + 1]]``."""
        leads, starts, count = self._leads, self._starts, len(self._states)
        firsts = array("q", bytes(8 * (count + 1)))
        for after in leads:
            if after != _BEYOND:
                firsts[after + 1] += 1
        for index in range(count):
            firsts[index + 1] += firsts[index]
        place_of = array("q", firsts)
        sources = array("i", bytes(4 * firsts[count]))
        for index in range(count):
            for place in range(starts[index], starts[index + 1]):
                after = leads[place]
                if after != _BEYOND:
                    sources[place_of[after]] = index
                    place_of[after] += 1
        return firsts, sources

    def _walks_to_rest(self, start: State, rested: bytearray, beyond: set[State]) -> bool:
        """Whether a way leads from a state to rest on which nothing more goes wrong.  ``beyond`` are the states out of
        what was searched that have one."""
        model, numbers = self._model, self._numbers
        way, waiting, seen = dict[State, State](), [start], {start}
        while waiting:
            state = waiting.pop()
            known = numbers.get(state)
            if state in beyond or model.is_at_rest(state) or (known is not None and rested[known]):
                while state != start:
                    beyond.add(state)
                    state = way[state]
                return True
            if len(seen) > _LONGEST_WALK:
                return False
            # The most helpful is gone first, because it is put there last.
            following = [
                (place, after, breaks) for name, after, breaks in model.edges(state) if (place := _helps(name)) < _HARMS
            ]
            for _, after, breaks in sorted(following, reverse=True):
                if breaks:
                    self._on_the_way = breaks
                    continue
                if after not in seen:
                    seen.add(after)
                    way[after] = state
                    waiting.append(after)
        return False

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
