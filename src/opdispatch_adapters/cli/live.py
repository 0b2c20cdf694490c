"""A run on a terminal: one frame that is drawn over itself, and stays when the program leaves.

rich is loaded here alone, and only when there is a terminal.  Every text from outside goes through ``clean`` and into
``Text``, which knows no markup.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from rich.console import Console, Group, OverflowMethod
from rich.live import Live
from rich.table import Table
from rich.text import Text

from opdispatch.action import HeldBack
from opdispatch.identity import TargetId
from opdispatch.journal import JournalEntry
from opdispatch.ports import Overview
from opdispatch.run import RunStatus

from . import view
from .events import events_of
from .output import Output
from .render import clean, counted, duration

_EVENTS: Final = 6
_STYLES: Final = {
    RunStatus.PENDING: "dim",
    RunStatus.RUNNING: "cyan",
    RunStatus.PAUSED: "bold yellow",
    RunStatus.COMPLETED: "bold green",
    RunStatus.COMPLETED_WITH_FAILURES: "bold yellow",
    RunStatus.CANCELLED: "bold magenta",
    RunStatus.FAILED: "bold red",
}
_MARKS: Final = {"done": "✓", "running": "▸", "held": "‖", "open": "▸", "waiting": "·", "ended": "-", "ending": "▸"}
_ASCII: Final = {"done": "v", "running": ">", "held": "=", "open": ">", "waiting": ".", "ended": "-", "ending": ">"}
_BAR: Final = 50
_NARROW: Final = 66
"""Below so many columns the table of phases says less rather than cut its numbers."""


class LiveView:
    """A frame on standard error, at most five times a second, without a second screen."""

    recent = 20

    def __init__(self, out: Output, store: str) -> None:
        self._store = store
        self._console = Console(file=out.stderr, no_color=not out.color, highlight=False, markup=False, emoji=False)
        is_unicode = self._console.encoding.startswith("utf")
        self._marks = _MARKS if is_unicode else _ASCII
        self._block = "━" if is_unicode else "#"
        self._overflow: OverflowMethod = "ellipsis" if is_unicode else "crop"
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")
        self._events: deque[Text] = deque(maxlen=_EVENTS)
        self._held_back: tuple[HeldBack, ...] = ()
        self._noted = ""
        self._is_broken = False
        self._guarded(self._live.start)

    def _guarded(self, step: object, *values: object) -> None:
        """A terminal that is gone ends the view, and not the run."""
        if self._is_broken or not callable(step):
            return
        try:
            step(*values)
        except (OSError, ValueError):
            self._is_broken = True

    def events(self, entries: Sequence[JournalEntry], racks: Mapping[TargetId, str]) -> None:
        """Keep the last few that an operator should see."""
        for entry in entries:
            if entry.command is None:
                self._held_back = entry.held_back
            for event in events_of(entry):
                if event.is_detail:
                    continue
                rack = "" if event.target_id is None else f"rack {racks.get(event.target_id, event.target_id)} "
                facts = " ".join(str(value) for value in event.facts.values())
                text = f"{entry.at.astimezone(UTC):%H:%M:%S} {rack}{event.name.removeprefix('target_')} {facts}"
                style = "red" if event.is_bad else "dim"
                self._events.append(Text(clean(text), style=style, no_wrap=True, overflow=self._overflow))

    def note(self, line: str) -> None:
        """Among the events, unless it was the last one said."""
        if line != self._noted:
            self._noted = line
            text = f"{datetime.now(UTC):%H:%M:%S} {clean(line)}"
            self._events.append(Text(text, style="yellow", no_wrap=True, overflow=self._overflow))

    def frame(self, overview: Overview) -> None:
        """Draw the run."""
        self._guarded(self._draw, overview)

    def _draw(self, overview: Overview) -> None:
        self._live.update(self._frame(overview), refresh=True)

    def close(self) -> None:
        """Leave the last frame standing."""
        self._guarded(self._live.stop)

    def _frame(self, overview: Overview) -> Group:
        parts: list[Text | Table] = [self._header(overview), self._phases(overview), self._bar(overview)]
        parts.extend(_line("gate", str(gate), "red" if gate.tripped else "dim") for gate in view.gates_of(overview))
        waits = view.waits_for(overview)
        if waits and not overview.run.status.is_terminal:
            parts.append(_line("waits", waits, "yellow" if view.is_held(overview) else "default"))
            said = {waits}
            for held in self._held_back:
                if held.count and held.message not in said:
                    said.add(held.message)
                    parts.append(_line("", f"{counted(held.count, 'target')}: {held.message}", "dim"))
        parts.extend(self._events)
        if view.is_held(overview):
            parts.extend(_line("next", line, "bold") for line in view.next_commands(overview, self._store))
        return Group(*parts)

    def _header(self, overview: Overview) -> Text:
        run = overview.run
        text = Text(no_wrap=True, overflow=self._overflow)
        text.append(clean(run.name), style="bold")
        text.append(f"  {view.short_id(run)}  ")
        text.append(str(run.status).upper(), style=_STYLES[run.status])
        text.append(f"  {duration(view.elapsed(overview, datetime.now(UTC)))}")
        text.append(f"  phase {run.phase} of 0-{run.phases - 1}" if run.phases > 1 else "")
        return text

    def _phases(self, overview: Overview) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        if self._console.width < _NARROW:
            return self._narrow_phases(overview, table)
        for name in ("PHASE", "STATE"):
            table.add_column(name, no_wrap=True)
        for name in ("TOTAL", "PEND", "BLOCK", "FLIGHT", "DONE", "FAIL", "SKIP"):
            table.add_column(name, justify="right", no_wrap=True)
        for index, counts in enumerate(overview.phases):
            state, failed = view.phase_state(overview, index), counts.failed + counts.terminated
            numbers = (counts.total, counts.pending, counts.blocked, counts.in_flight, counts.completed)
            table.add_row(
                f"{self._marks[state]} {index}",
                state,
                *(str(number) for number in numbers),
                Text(str(failed), style="red" if failed else "default"),
                str(counts.skipped),
            )
        return table

    def _narrow_phases(self, overview: Overview, table: Table) -> Table:
        for name in ("PHASE", "SETTLED", "FLIGHT", "FAIL"):
            table.add_column(name, no_wrap=True, justify="left" if name == "PHASE" else "right")
        for index, counts in enumerate(overview.phases):
            table.add_row(
                f"{self._marks[view.phase_state(overview, index)]} {index}",
                f"{counts.settled}/{counts.total}",
                str(counts.in_flight),
                str(counts.failed + counts.terminated),
            )
        return table

    def _bar(self, overview: Overview) -> Text:
        """One line: completed, failed, skipped, in flight, and what has not started."""
        counts, bar = view.total(overview), Text(no_wrap=True, overflow="crop")
        parts = (
            (counts.completed, "green"),
            (counts.failed + counts.terminated, "red"),
            (counts.skipped, "magenta"),
            (counts.in_flight, "cyan"),
        )
        done = drawn = 0
        for number, style in parts:
            done += number
            upto = done * _BAR // max(counts.total, 1)
            bar.append(self._block * (upto - drawn), style=style)
            drawn = upto
        bar.append("." * (_BAR - drawn), style="dim")
        bar.append(f" {counts.settled}/{counts.total}", style="dim")
        return bar


def _line(label: str, text: str, style: str) -> Text:
    line = Text(overflow="fold")
    line.append(f"{label:5} ", style="dim")
    line.append(clean(text), style=style)
    return line
