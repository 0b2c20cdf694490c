"""A run that the store has forgotten and whose tasks are still known: its request is not taken for done."""

from __future__ import annotations

from pathlib import Path

import pytest

from opdispatch.identity import CommandId, RunId
from opdispatch.plan import new_run, plan
from opdispatch_adapters import begun as begun_before
from opdispatch_adapters.cli import planning
from opdispatch_adapters.cli.session import Session
from opdispatch_adapters.memory import MemoryStore
from tests.racks import racks, rollout

from .cli_kit import Site
from .store_kit import NOW

PRUNE = ("store", "prune", "--older-than", "0.001s")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, racks=2)


def test_a_request_is_not_done_by_what_an_earlier_run_did(site: Site) -> None:
    site.run()
    assert site.opd(*PRUNE).returncode == 0

    again = site.run()
    other = site.run("--request-id", "second")

    assert again.returncode == 2
    assert "a new run would take their outcomes for its own" in again.stderr
    assert "give another --request-id" in again.stderr
    assert other.returncode == 0
    assert sorted(site.began().values()) == [1] * 4
    assert len(site.json("ls")["runs"]) == 1


def test_a_run_of_which_nothing_began_is_made_anew(site: Site) -> None:
    site.opd("create", str(site.file))
    site.opd("cancel", "fw")
    site.opd(*PRUNE)

    assert site.run().returncode == 0
    assert site.totals() == {"completed": 2}


def test_a_run_that_another_process_makes_meanwhile_is_met(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.run()
    session = Session()
    session.store_option = str(site.store)
    new = new_run(plan(racks(1), rollout()), command_id=CommandId("x"), actor="me", now=NOW)
    with session.store() as store, monkeypatch.context() as patch:
        known = store.list()[0].run_id
        begun = [target.id for target in store.targets(known)]
        assert begun

        def key(run_id: RunId, target_id: object, attempt: int) -> str:
            return f"{known}.{begun[0]}.1"

        patch.setattr(begun_before, "idempotency_key_of", key)
        there = MemoryStore()
        there.create(new)

        assert planning._is_forgotten(session, MemoryStore(), new)
        assert not planning._is_forgotten(session, there, new)


@pytest.mark.parametrize("url", ["postgresql//ada:hunter2@host/runs", "postgres+x://ada:hunter2@host/runs"])
def test_a_url_that_was_mistyped_is_not_shown(site: Site, url: str) -> None:
    done = site.opd("--store", url, "-v", "ls")

    assert done.returncode == 2
    assert "give postgresql://user@host/database" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
