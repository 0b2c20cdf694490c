"""Attending to one run: dispatch it, or only look, and show it until something is reached.

Everything that is shown is read from the store, so it is as true for a run that another process dispatches.
The end of this process, however it comes, ends no task.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from types import FrameType
from typing import Final, Protocol

from opdispatch.errors import Unavailable
from opdispatch.identity import RunId, TargetId
from opdispatch.journal import JournalEntry
from opdispatch.ports import Overview
from opdispatch_adapters.dispatcher import Dispatcher

from .logs import logged_to
from .runs import Runs

_LOOK_SECONDS: Final = 0.2
"""Between two looks: five frames a second, and a few reads of a file that is in memory anyway."""
_STOP: Final = timedelta(seconds=20)
"""How long to let calls in flight end: a submission ends within its deadline of 10 s."""


class Ended(Enum):
    """Why attending ended."""

    REACHED = auto()
    STOPPED = auto()
    TIMED_OUT = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attended:
    """How attending ended, and the run as it stood then."""

    why: Ended
    overview: Overview


class View(Protocol):
    """Shows a run.  Never raises for what is wrong with a terminal."""

    recent: int
    """How many decisions before the first look are shown, too."""

    def events(self, entries: Sequence[JournalEntry], racks: Mapping[TargetId, str]) -> None:
        """Decisions that were recorded since the last call, in order."""
        ...

    def frame(self, overview: Overview) -> None:
        """The run as it stands now."""
        ...

    def note(self, line: str) -> None:
        """Something about this program, not about the run."""
        ...

    def close(self) -> None:
        """Leave the last frame standing."""
        ...


def signals_to_stop() -> list[signal.Signals]:
    """SIGTERM, and SIGINT and SIGHUP unless whoever began this program had them ignored, as ``nohup`` does."""
    by_terminal = (signal.SIGINT, signal.SIGHUP)
    return [signal.SIGTERM, *(number for number in by_terminal if signal.getsignal(number) is not signal.SIG_IGN)]


class Stop:
    """A request to stop, by Ctrl-C, SIGTERM or SIGHUP; a second Ctrl-C does not wait for anything."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until the request comes; True when it did."""
        return self._event.wait(seconds)

    @contextmanager
    def on_signals(self) -> Iterator[Stop]:
        """Take the signals for as long as the block lasts."""
        before = {number: signal.signal(number, self._take) for number in signals_to_stop()}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._event.set()


def attend(
    store: Runs,
    run_id: RunId,
    view: View,
    stop: Stop,
    *,
    dispatcher: Dispatcher | None,
    until: Callable[[Overview], bool],
    patience: timedelta | None = None,
) -> Attended:
    """Show a run, and dispatch it when there is a dispatcher, until ``until`` holds of it.

    Stops the dispatcher before it returns.  Raises NotFound and CorruptRecord; waits while the store is unavailable.
    """
    end = None if patience is None else time.monotonic() + patience.total_seconds()
    why = Ended.REACHED
    try:
        with logged_to(view.note):
            racks = {target.id: target.rack_name for target in store.targets(run_id)}
            overview = store.get(run_id)
            # Every revision has an entry, and a refused command has one without: this shows too many, never too few.
            seen = max(overview.run.revision - view.recent, 0)
            if dispatcher is not None:
                # A dispatcher that was killed may have left the run taken for a while.
                store.wake(run_id)
                dispatcher.start()
            while True:
                try:
                    entries = store.journal(run_id, after=seen)
                    overview = store.get(run_id)
                except Unavailable as error:
                    view.note(str(error))
                else:
                    if entries:
                        seen = entries[-1].number
                        view.events(entries, racks)
                    view.frame(overview)
                    if until(overview):
                        break
                if end is not None and time.monotonic() >= end:
                    why = Ended.TIMED_OUT
                    break
                if stop.wait(_LOOK_SECONDS):
                    why = Ended.STOPPED
                    break
            if dispatcher is not None and not dispatcher.stop(_STOP):
                view.note("a call to the task manager does not end; the next dispatcher looks up what came of it")
            overview = store.get(run_id)
            view.events(store.journal(run_id, after=seen), racks)
            view.frame(overview)
    finally:
        if dispatcher is not None:
            dispatcher.stop(timedelta(0))
        view.close()
    if why is not Ended.REACHED and until(overview):
        why = Ended.REACHED
    return Attended(why=why, overview=overview)
