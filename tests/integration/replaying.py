"""A run that was recorded, decided again: what any run of any store must stand."""

from __future__ import annotations

from opdispatch.identity import RunId
from opdispatch.ports import Store
from opdispatch.replay import beginning, difference_of, replay


def check_replay(store: Store, run_id: RunId) -> None:
    """Every decision of a run comes out as it was recorded, and the run stands as they say."""
    run, targets = store.get(run_id).run, store.targets(run_id)
    found = replay(beginning(run, targets), store.journal(run_id))
    assert found.difference is None, f"run {run_id}: {found.difference}"
    assert found.unknown == 0
    end = difference_of(found.record, run, targets, store.strays(run_id))
    assert end is None, f"run {run_id}: {end}"
    assert found.record.phases == store.get(run_id).phases
