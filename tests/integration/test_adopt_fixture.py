"""The rebuilt reference database: its steps do to the rows what the flow-storage contract says."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Connection, Row, create_engine, text

from tests.postgres import Server

from .reference_database import HEAD, STATES, bring_to, columns_of
from .reference_seeds import run_id, seed, target_id


@pytest.fixture
def connection(postgres_server: Server) -> Iterator[Connection]:
    """A transaction on a database of the reference at its newest state, with every kind of row."""
    url = postgres_server.create()
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.begin() as begun:
            bring_to(begun)
            seed(begun)
            yield begun
    finally:
        engine.dispose()
        postgres_server.drop(url)


def _run(connection: Connection, name: str) -> Row[Any]:
    return connection.execute(text("SELECT * FROM operation_run WHERE id = :id"), {"id": run_id(name)}).one()


def _target(connection: Connection, run: str, label: str) -> Row[Any]:
    found = connection.execute(text("SELECT * FROM operation_run_target WHERE id = :id"), {"id": target_id(run, label)})
    return found.one()


def test_every_state_can_be_reached_from_every_neighbour(connection: Connection) -> None:
    before: dict[str, dict[str, frozenset[str]]] = {}
    for newer, older in pairwise(reversed(STATES)):
        before[newer] = {t: columns_of(connection, t) for t in ("operation_run", "operation_run_target", "task")}
        bring_to(connection, older)

    for state in STATES[1:]:
        bring_to(connection, state)

        assert {t: columns_of(connection, t) for t in before[state]} == before[state]
    ledger = connection.scalars(text("SELECT id FROM migrations ORDER BY id")).all()
    assert (len(ledger), ledger[-1]) == (29, HEAD)


def test_the_narrow_statuses_lose_claims_and_the_difference_between_two_ends(connection: Connection) -> None:
    mixed = _run(connection, "mixed")
    bring_to(connection, STATES[1])

    claimed = _target(connection, "every row", "claimed")
    blocked = _target(connection, "every row", "blocked")
    found = _run(connection, "mixed")
    assert (claimed.status, claimed.message, claimed.retry_after, claimed.retry_state) == ("pending", None, None, None)
    assert (blocked.status, blocked.retry_state["attempts"]) == ("blocked", 3)
    assert (found.status, found.status_message, found.finished_at) == (
        "failed",
        mixed.status_message,
        mixed.finished_at,
    )
    assert found.updated_at > mixed.updated_at
    bring_to(connection)
    assert _run(connection, "mixed").status == "failed"


def test_the_way_down_and_up_moves_the_pointer_of_a_run_at_a_gate(connection: Connection) -> None:
    assert _run(connection, "gate").current_phase_index == 0

    bring_to(connection, "20260709120000")
    bring_to(connection)

    found = _run(connection, "gate")
    assert (found.status, found.status_reason, found.current_phase_index) == ("paused", "phase_gate", 1)
    assert (found.total_phases, _run(connection, "empty").total_phases) == (2, 0)


def test_an_insert_must_say_how_many_phases_there_are(connection: Connection) -> None:
    default = connection.scalar(
        text(
            "SELECT column_default FROM information_schema.columns"
            " WHERE table_name = 'operation_run' AND column_name = 'total_phases'"
        )
    )
    assert default is None
