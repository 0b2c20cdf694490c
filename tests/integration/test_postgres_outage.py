"""The server goes while runs are dispatched, and comes back: nothing fails or is done twice, and two lines tell of it.

``OPDISPATCH_DEEP=1`` lets it be away for twenty seconds instead of two.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from datetime import timedelta
from typing import Final

import pytest

from opdispatch.run import RunStatus
from opdispatch.target import TargetStatus
from opdispatch_adapters.dispatcher import Dispatcher, Settings
from opdispatch_adapters.sql import PostgresStore
from tests.postgres import OwnServer

from .store_kit import a_run
from .test_dispatcher import InstantTasks
from .waiting import eventually

AWAY_SECONDS: Final = 20.0 if os.environ.get("OPDISPATCH_DEEP") == "1" else 2.0
RACKS: Final = 60
QUICK: Final = Settings(
    poll=timedelta(seconds=0.2),
    service_lease=timedelta(seconds=2),
    claim_lease=timedelta(seconds=3),
    call_deadline=timedelta(seconds=1),
    error_delay=timedelta(seconds=0.2),
)


@pytest.mark.parametrize("how", ["stopped", "crashed"])
def test_a_server_that_goes_and_comes_back_costs_no_target_and_two_lines_in_the_log(
    own_postgres: OwnServer, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    tasks = InstantTasks()
    with own_postgres.database() as url, PostgresStore(url) as store:
        run_id = store.create(a_run(RACKS)).id
        with Dispatcher(store, tasks, QUICK, listen=store.listening):
            eventually(lambda: len(tasks.submitted) > 6)
            if how == "stopped":
                own_postgres.stop()
            else:
                own_postgres.crash()
            eventually(lambda: caplog.messages)
            # This is the time that it is away, and no wait for anything.
            threading.Event().wait(AWAY_SECONDS)
            before = len(tasks.submitted)
            own_postgres.start()
            eventually(lambda: len(tasks.submitted) > before)
            eventually(lambda: store.get(run_id).run.status.is_terminal, patience_seconds=60)

        assert store.get(run_id).run.status is RunStatus.COMPLETED
        assert store.get(run_id).trouble is None
        assert Counter(target.status for target in store.targets(run_id)) == {TargetStatus.COMPLETED: RACKS}
        assert Counter(request.key for request in tasks.submitted).keys() == {
            target.task_id for target in store.targets(run_id)
        }
        assert store.check() == ()

    gone, back = caplog.messages
    assert gone.startswith("the store is gone; dispatching resumes by itself when it is back: ")
    assert back == "the store is back"
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
