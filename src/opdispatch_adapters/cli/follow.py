"""What a worker says: the events of its own decisions, run by run, as they are recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opdispatch.errors import OpdispatchError
from opdispatch.identity import RunId, TargetId
from opdispatch.ports import Store
from opdispatch.query import RunQuery
from opdispatch.run import TERMINAL, RunStatus

from .plain import PlainView

_ACTIVE: Final = RunQuery.in_statuses(frozenset(RunStatus) - TERMINAL)
_MOST: Final = 1000
"""Runs that are followed at one time; the others are served, and not told of."""


class Follower:
    """Reads the journals of the runs that have not ended, and shows the entries of one actor."""

    def __init__(self, store: Store, view: PlainView, actor: str) -> None:
        self._store = store
        self._view = view
        self._actor = actor
        self._seen: dict[RunId, int] = {}
        self._racks: dict[RunId, Mapping[TargetId, str]] = {}
        self._is_first = True

    def look(self) -> None:
        """Show what is new.  Trouble of the store is the dispatcher's to tell."""
        try:
            active = self._active()
            for run_id in tuple(self._seen):
                entries = self._store.journal(run_id, after=self._seen[run_id])
                if entries:
                    self._seen[run_id] = entries[-1].number
                ours = [entry for entry in entries if entry.actor == self._actor]
                self._view.events(ours, self._racks[run_id])
                if run_id not in active:
                    del self._seen[run_id], self._racks[run_id]
        except OpdispatchError:
            return
        self._is_first = False

    def _active(self) -> set[RunId]:
        found = self._store.list(_ACTIVE, limit=_MOST)
        for one in found:
            if one.run_id not in self._seen:
                before = one.run.revision if self._is_first and one.run is not None else 0
                self._racks[one.run_id] = {target.id: target.rack_name for target in self._store.targets(one.run_id)}
                self._seen[one.run_id] = before
        return {one.run_id for one in found}
