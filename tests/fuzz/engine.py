"""The loop: inputs for a surface, what became of each, and what must hold of the whole run.

An input is a kind and bytes; a surface says what kinds it has and what is broken.  Whatever it raises is a fault, and
is shown as a test that can be pasted.  Beside its own laws each input is held to these:

* it is done within ``PATIENCE`` seconds, or the program ends there and shows it;
* the most memory that the process ever had grows by no more than ``ROOM`` and ``PER_BYTE`` for each byte of it;
* what the process has in use after the warm-up is what it has at the end, up to ``SLACK``.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import resource
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, ClassVar, Final, Self

PATIENCE: Final = 30.0
ROOM: Final = 64 << 20
PER_BYTE: Final = 128
SLACK: Final = 48 << 20
_KIB: Final = 1024
_SAMPLES: Final = 40
_SHOWN: Final = 4_000
_SHRUNK: Final = 20_000
_TRIES: Final = 300


@dataclass(frozen=True, slots=True)
class Input:
    """One input: what it is given to, and its bytes."""

    kind: str
    data: bytes


class Surface(ABC):
    """A place where bytes of others come in.  ``directory`` is for its own use, and is in memory where that is had."""

    name: ClassVar[str]
    takes_every_seed: ClassVar[bool] = True
    """False where some golden files are inputs that are rejected."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def use(self, seeds: Sequence[Input]) -> None:
        """Take these for the golden files: they are being recorded.  Most surfaces read each by itself."""
        return

    @property
    @abstractmethod
    def seeds(self) -> Sequence[Input]:
        """The golden files, as inputs."""

    @abstractmethod
    def mutated(self, chance: Random) -> Input:
        """Another input, which follows from ``chance``."""

    @abstractmethod
    def value(self, given: Input) -> Any:
        """What the input is read to, so that a reader can see it (``golden.readable``)."""

    @abstractmethod
    def takes(self, given: Input) -> bool:
        """Whether the input is a value (else it was rejected).  Raises for what must not happen."""

    def close(self) -> None:
        """Give up what it holds."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An input that broke something, and how."""

    surface: str
    given: Input
    how: str

    def __str__(self) -> str:
        return f"{self.how}\n\n{as_test(self.surface, self.given)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a run over one surface came to."""

    surface: str
    seeds: int
    inputs: int
    values: int
    rejections: int
    seconds: float
    longest_seconds: float
    memory_first: int
    memory_last: int
    faults: tuple[Fault, ...]


def as_test(surface: str, given: Input) -> str:
    """The input as a test that can be pasted."""
    shown = repr(given.data)
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}  # and so on: {len(given.data)} bytes in all; run it again with its seed\n"
    return (
        f"def test_it() -> None:\n    with surface_of({surface!r}) as surface:\n"
        f"        surface.takes(Input({given.kind!r}, {shown}))\n"
    )


def _raised(surface: Surface, given: Input) -> tuple[str, str] | None:
    """Where an input breaks something, and how; None where it does not."""
    try:
        surface.takes(given)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        words = "".join(character for character in str(error)[:60] if not character.isdigit())
        where = f"{type(error).__name__} {frames[-1].filename}:{frames[-1].lineno} {words}"
        return where, traceback.format_exc(limit=-6)
    return None


def smallest(surface: Surface, given: Input, where: str, trying: Callable[[Input], None]) -> Input:
    """A smaller input that breaks at the same place, as far as taking pieces out comes in ``PATIENCE`` seconds; each
    is told before it is tried."""
    tries = _TRIES if len(given.data) <= _SHRUNK else 0
    end = time.monotonic() + PATIENCE
    size = max(len(given.data) // 2, 1)
    while tries > 0 and time.monotonic() < end:
        start, before = 0, len(given.data)
        while start < len(given.data) and tries > 0:
            tries -= 1
            less = Input(given.kind, given.data[:start] + given.data[start + size :])
            trying(less)
            found = _raised(surface, less)
            if found is not None and found[0] == where:
                given = less
            else:
                start += size
        if size == 1 and len(given.data) == before:
            break
        size = max(size // 2, 1)
    return given


class _Watchdog:
    """Ends the process when one input takes longer than ``PATIENCE``, and shows the input."""

    def __init__(self, surface: str) -> None:
        self._surface = surface
        self._stop = threading.Event()
        self.given: Input | None = None
        self._number = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def begins(self, given: Input) -> None:
        """The next input; the one before has come to its end."""
        self.given = given
        self._number += 1

    def _watch(self) -> None:
        number, since = -1, time.monotonic()
        while not self._stop.wait(1.0):
            now = time.monotonic()
            if number != self._number:
                number, since = self._number, now
            elif now - since > PATIENCE and self.given is not None:
                # Past whatever a test runner put in its place: the process ends here.
                os.write(2, f"an input takes too long\n\n{as_test(self._surface, self.given)}".encode())
                faulthandler.dump_traceback(file=2)
                os._exit(1)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def _in_use() -> int:
    """The memory that the process has now, in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def fuzz(
    surface: Surface,
    inputs: int,
    seed: int,
    *,
    most_faults: int = 10,
    told: Callable[[Fault], None] = lambda fault: None,
) -> Found:
    """Give a surface each seed, and then so many mutations; the same seed gives the same inputs."""
    chance = Random(f"{surface.name} {seed}")
    faults: dict[str, Fault] = {}
    values = broken = done = 0
    samples: list[int] = []
    longest = 0.0
    watchdog = _Watchdog(surface.name)
    began = time.perf_counter()
    try:
        seeds = surface.seeds
        most_ever = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
        every = max(inputs // _SAMPLES, 1)
        for number in range(len(seeds) + inputs):
            is_seed = number < len(seeds)
            given = seeds[number] if is_seed else surface.mutated(chance)
            watchdog.begins(given)
            start = time.perf_counter()
            where = how = None
            try:
                is_value = surface.takes(given)
                values += is_value
                if is_seed and not is_value and surface.takes_every_seed:
                    where = how = "a golden file is refused"
            except Exception:
                found = _raised(surface, given)
                where, how = found if found is not None else ("once", traceback.format_exc(limit=-6))
            longest = max(longest, time.perf_counter() - start)
            done += 1
            most_now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
            if most_now - most_ever > ROOM + PER_BYTE * len(given.data) and how is None:
                where, how = "memory", f"{len(given.data)} bytes took {(most_now - most_ever) >> 20} MiB"
            most_ever = most_now
            if where is not None and how is not None:
                broken += 1
                if where not in faults:
                    least = smallest(surface, given, where, watchdog.begins)
                    faults[where] = Fault(surface=surface.name, given=least, how=how)
                    told(faults[where])
                if len(faults) >= most_faults:
                    break
            if number % every == 0:
                samples.append(_in_use())
    finally:
        watchdog.close()
    gc.collect()
    first, last = _settled(samples[: len(samples) // 2]), _settled(samples[len(samples) // 2 :])
    if len(samples) >= _SAMPLES and last - first > SLACK:
        how = f"the process has {first >> 20} MiB in the first half and {last >> 20} MiB in the second"
        faults["growth"] = Fault(surface=surface.name, given=Input("all", b""), how=how)
        told(faults["growth"])
    return Found(
        surface=surface.name,
        seeds=len(surface.seeds),
        inputs=done,
        values=values,
        rejections=done - values - broken,
        seconds=time.perf_counter() - began,
        longest_seconds=longest,
        memory_first=first,
        memory_last=last,
        faults=tuple(faults.values()),
    )


def _settled(samples: Sequence[int]) -> int:
    """What the process had at a quiet moment: a sample is taken right after whatever input came then."""
    ordered = sorted(samples)
    return ordered[len(ordered) // 2] if ordered else 0
