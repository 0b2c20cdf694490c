"""What the tests of adopted databases share: the reference's database at a URL, and serving it to the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid5

from sqlalchemy import Connection, Row, create_engine, text
from sqlalchemy.pool import NullPool

from opdispatch.identity import RunId, TaskId
from opdispatch.observation import Observation, SubmissionAbsent, SubmissionAccepted, TaskObserved
from opdispatch.task import Ref, SubmissionRequest, TaskRef, TaskStatus
from opdispatch_adapters.dispatcher import Dispatcher, Settings
from opdispatch_adapters.sql import PostgresSettings, PostgresStore
from tests.postgres import Server

from .reference_database import HEAD, bring_to
from .reference_seeds import COMPONENTS, documents, run_id, seed
from .reference_statements import create_run

_PASSES: Final = 12
"""More than any seeded run needs from where it stands to its end or to a hold."""


@contextmanager
def foreign(url: str) -> Iterator[Connection]:
    """One transaction of somebody else on this database."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=NullPool)
    with engine.begin() as connection:
        yield connection


@contextmanager
def reference_database(server: Server, state: str = HEAD, *, seeded: bool = True) -> Iterator[str]:
    """A database that the reference made, in this state of its migrations."""
    url = server.create()
    try:
        with foreign(url) as connection:
            bring_to(connection)
            if seeded:
                seed(connection)
            bring_to(connection, state)
        yield url
    finally:
        server.drop(url)


class Tasks:
    """A task manager in the process: every task completes at once, and has an id that the reference's would have."""

    capacity: int | None = None

    def __init__(self) -> None:
        self.submitted: list[SubmissionRequest] = []
        self.cancelled: list[TaskId] = []

    def submit(self, requests: Sequence[SubmissionRequest], deadline: timedelta) -> Sequence[Observation]:
        self.submitted.extend(requests)
        return [
            SubmissionAccepted(
                target_id=r.target_id,
                attempt=r.attempt,
                fence=r.fence,
                task_id=TaskId(str(uuid5(r.target_id, r.key))),
            )
            for r in requests
        ]

    def observe(self, refs: Sequence[Ref], looked_at: datetime) -> Sequence[Observation]:
        return [self._look(ref, looked_at) for ref in refs]

    def _look(self, ref: Ref, looked_at: datetime) -> Observation:
        if isinstance(ref, TaskRef):
            done = TaskStatus.COMPLETED
            return TaskObserved(
                target_id=ref.target_id, task_id=ref.task_id, status=done, message="Succeeded", looked_at=looked_at
            )
        return SubmissionAbsent(
            target_id=ref.target_id, attempt=ref.attempt, fence=ref.fence, barred=ref.bar, looked_at=looked_at
        )

    def cancel(self, refs: Sequence[TaskRef]) -> Sequence[Observation]:
        self.cancelled.extend(ref.task_id for ref in refs)
        return []

    def on_change(self, callback: Any) -> None:
        """Nothing changes but by a submission."""


def serve(url: str, tasks: Tasks | None = None) -> Tasks:
    """Dispatch every run of this database as far as it comes, ten seconds from pass to pass."""
    tasks = tasks or Tasks()
    begun, passed = datetime.now(UTC), timedelta(0)
    settings = PostgresSettings(listen=False)
    with PostgresStore(url, clock=lambda: max(begun, datetime.now(UTC)) + passed, settings=settings) as store:
        dispatcher = Dispatcher(store, tasks, Settings(batch=100))
        for _ in range(_PASSES):
            dispatcher.run_once()
            passed += timedelta(seconds=10)
        assert store.check() == ()
    return tasks


def row_of(url: str, name: str) -> Row[Any]:
    """A seeded run's row."""
    with foreign(url) as connection:
        query = "SELECT * FROM operation_run WHERE id = :id"
        return connection.execute(text(query), {"id": run_id(name)}).one()


def statuses(url: str) -> dict[str, tuple[str, str]]:
    """Status and reason of every run by name."""
    with foreign(url) as connection:
        rows = connection.execute(text("SELECT name, status, status_reason FROM operation_run"))
        return {name: (status, reason) for name, status, reason in rows}


def created(connection: Connection, racks: Sequence[UUID], phases: Sequence[int], **chosen: Any) -> RunId:
    """A run as the reference creates one, named ``created``."""
    found = create_run(
        connection,
        name="created",
        documents=documents(auto_advance=True, **chosen),
        racks=racks,
        phases=phases,
        components=COMPONENTS,
    )
    return RunId(found)
