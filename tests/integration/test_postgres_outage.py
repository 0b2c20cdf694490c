"""The server goes while runs are dispatched, and comes back: nothing fails or is done twice, and two lines tell of it.

``OPDISPATCH_DEEP=1`` lets it be away for twenty seconds instead of two.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from opdispatch.command import Pause, Resume
from opdispatch.errors import Unavailable
from opdispatch.identity import CommandId
from opdispatch.run import RunStatus
from opdispatch.target import TargetStatus
from opdispatch_adapters.dispatcher import Dispatcher
from opdispatch_adapters.sql import PostgresStore
from tests.postgres import OwnServer

from .recorded_tasks import RecordedTasks
from .recorded_worker import LASTING, SHORT
from .test_kills import RACKS, a_rollout, create
from .waiting import PATIENCE_SECONDS, eventually

AWAY_SECONDS: Final = 20.0 if os.environ.get("OPDISPATCH_DEEP") == "1" else 2.0
RUNS: Final = 3
ENDINGS: Final[dict[str, Callable[[OwnServer], None]]] = {"stopped": OwnServer.stop, "crashed": OwnServer.crash}


def stay_away(seconds: float) -> None:
    """How long it lasts is what is under test."""
    end = time.monotonic() + seconds
    eventually(lambda: time.monotonic() > end, patience_seconds=seconds + PATIENCE_SECONDS)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_server_that_goes_and_comes_back_costs_no_target_and_two_lines_in_the_log(
    own_postgres: OwnServer, tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tasks, url = RecordedTasks(tmp_path / "record", LASTING), own_postgres.clone()
    with PostgresStore(url) as store:
        runs = [create(store, f"run{number}") for number in range(RUNS)]
        with Dispatcher(store, tasks, SHORT, listen=store.listening) as dispatcher:
            eventually(lambda: store.get(runs[0]).phases[0].completed >= 3)
            before = len(tasks.begun())

            ENDINGS[ending](own_postgres)
            went = time.monotonic()
            eventually(lambda: any("the store is gone" in line for line in caplog.messages))
            with pytest.raises(Unavailable):
                dispatcher.command(runs[0], Pause(command_id=CommandId("p"), actor="ada"))
            stay_away(AWAY_SECONDS)
            during = len(tasks.begun())
            own_postgres.start()
            came = time.monotonic()
            eventually(lambda: len(tasks.begun()) > during, what="a task that is begun after the outage")
            resumed = time.monotonic()
            # An operator who was not heard asks again.
            dispatcher.command(runs[0], Pause(command_id=CommandId("p"), actor="ada"))
            dispatcher.command(runs[0], Resume(command_id=CommandId("r"), actor="ada"))
            eventually(lambda: all(store.get(run_id).run.status.is_terminal for run_id in runs), patience_seconds=120)
            eventually(lambda: any("heard again" in line for line in caplog.messages))
        print(f"{ending} for {came - went:.1f} s; the next task began {resumed - came:.1f} s after it was back")

        assert 0 < before <= during < RUNS * RACKS
        begun = tasks.begun()
        for run_id in runs:
            overview, targets = store.get(run_id), store.targets(run_id)
            assert (overview.run.status, overview.trouble) == (RunStatus.COMPLETED, None)
            assert {target.status for target in targets} == {TargetStatus.COMPLETED}
            assert {target.task_id for target in targets} == {task.key for task in begun if task.run == str(run_id)}
            assert store.strays(run_id) == ()
        assert len(begun) == RUNS * RACKS
        assert {(task.attempt, task.twins) for task in begun} == {(1, 0)}
        assert max(task.alive_then for task in begun) <= a_rollout("any").max_concurrent_targets
        assert store.check() == ()

    told = [(record.name, record.getMessage()) for record in caplog.records]
    gone, back = [message for name, message in told if name == "opdispatch.dispatcher"]
    assert gone.startswith("the store is gone; dispatching resumes by itself when it is back: store postgresql://")
    assert back == "the store is back"
    deaf, hears = [message for name, message in told if name == "opdispatch.store"]
    assert deaf.startswith("notifications are not heard")
    assert hears == "notifications of new runs and commands are heard again"
    assert {name for name, _ in told} == {"opdispatch.dispatcher", "opdispatch.store"}
