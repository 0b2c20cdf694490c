"""A run off a terminal: a ``key=value`` line for each event, and a heartbeat, to standard error; or JSON lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from opdispatch.identity import TargetId
from opdispatch.journal import JournalEntry
from opdispatch.ports import Overview

from . import json_output, view
from .events import events_of
from .output import Output
from .render import quoted

_QUIET = ("target_submitted", "waiting")
"""Shown with ``-v`` only: they double the lines and say little."""


class PlainView:
    """Lines for a log."""

    recent = 0

    def __init__(self, out: Output, heartbeat: timedelta, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._heartbeat = heartbeat.total_seconds()
        self._monotonic = monotonic
        self._last = monotonic()
        self._noted = ""
        self.names_run = False
        """Whether each line says which run it is about."""

    def events(self, entries: Sequence[JournalEntry], racks: Mapping[TargetId, str]) -> None:
        """One line for each event."""
        for entry in entries:
            for event in events_of(entry):
                if event.name in _QUIET and not self._out.verbose:
                    continue
                facts: dict[str, object] = {"run": str(entry.run_id)[:8]} if self.names_run else {}
                if event.target_id is not None:
                    facts["rack"] = racks.get(event.target_id, event.target_id)
                self._line(entry.at, event.name, {**facts, **event.facts})

    def frame(self, overview: Overview) -> None:
        """A heartbeat, when it is time."""
        now = self._monotonic()
        if now - self._last < self._heartbeat:
            return
        self._last = now
        run, counts = overview.run, view.total(overview)
        self._line(
            datetime.now(UTC),
            "heartbeat",
            {
                "status": run.status,
                "phase": run.phase,
                "settled": f"{counts.settled}/{counts.total}",
                "in_flight": counts.in_flight,
                "blocked": counts.blocked,
                "failed": counts.failed + counts.terminated,
                "waits_for": view.waits_for(overview),
            },
        )

    def note(self, line: str) -> None:
        """One line, unless it was the last one said."""
        if line != self._noted:
            self._noted = line
            self._line(datetime.now(UTC), "note", {"message": line})

    def close(self) -> None:
        """Nothing stands."""

    def _line(self, at: datetime, name: str, facts: Mapping[str, object]) -> None:
        self._last = self._monotonic()
        words = " ".join(f"{key}={quoted(value)}" for key, value in facts.items())
        self._out.note(f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} {name} {words}".rstrip())


class JsonLinesView(PlainView):
    """A document for each event, to standard output; notes and heartbeats stay on standard error."""

    def events(self, entries: Sequence[JournalEntry], racks: Mapping[TargetId, str]) -> None:
        """One line for each event, details included."""
        for entry in entries:
            for line in json_output.event_lines(entry, racks):
                self._out.data({"schema": "opdispatch/event/v1", **line})
