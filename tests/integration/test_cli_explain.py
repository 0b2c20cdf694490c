"""``why`` and ``replay`` as a user has them: the reasons and what to type, and a journal that somebody touched."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pytest

from tests.integration.cli_kit import SHORT, Site
from tests.integration.waiting import eventually


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


GATE = '[[gates]]\nkind = "failure_count"\nthreshold_count = 1'


def test_a_run_that_a_gate_holds_says_so_and_what_to_type(site: Site) -> None:
    site.fail("r1")
    site.rollout(at_once=1, gates=[GATE])
    assert site.run().returncode == 4

    done = site.opd("why", "fw")

    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"run [0-9a-f]{8}: 1 reason, inspected .+", lines[0])
    assert lines[1].split() == ["REASON", "EVIDENCE", "SINCE", "UNTIL", "CLEARED", "BY"]
    assert lines[2].startswith("safety_gate")
    assert "failure_count safety gate tripped for current_phase: 1/4 targets failed" in lines[2]
    assert lines[2].endswith("an operator")
    assert re.fullmatch(r"next: opdispatch --store \S+ resume [0-9a-f]{8} --accept-failures 1", lines[3])
    command = lines[3].split("opdispatch ", 1)[1].split()
    assert site.opd(*command[2:]).returncode == 0


def test_a_target_says_its_own_reasons_and_those_of_its_run(site: Site) -> None:
    site.hold()
    site.rollout(at_once=1)
    process = site.start("run", str(site.file), *SHORT)
    eventually(lambda: site.store.exists() and site.opd("ls").stdout.count("fw"))
    eventually(lambda: site.overview().phases[0].submitted)

    flying = site.json("why", "fw", "r1")
    waiting = site.json("why", "fw", "r3")
    table = site.opd("why", "fw", "r3").stdout
    assert site.opd("pause", "fw").returncode == 0
    paused = site.json("why", "fw", "r3")

    assert flying["schema"] == "opdispatch/why/v1"
    assert [reason["code"] for reason in flying["reasons"]] == ["in_flight"]
    assert flying["reasons"][0]["command"]["name"] == "settle"
    assert [reason["code"] for reason in waiting["reasons"]] == ["turn", "quota"]
    assert waiting["reasons"][0]["evidence"] == "1 target of its phase before it"
    assert table.startswith("rack r3 of run ")
    assert [reason["code"] for reason in paused["reasons"]] == ["turn", "operator_hold", "quota"]
    site.let_go()
    process.terminate()
    process.communicate(timeout=60)


def test_what_is_not_there_is_not_explained(site: Site) -> None:
    assert site.run().returncode == 0

    assert site.opd("why", "nothing").returncode == 2
    assert site.opd("why", "fw", "r99").returncode == 2
    assert "ended" in site.opd("why", "fw").stdout
    assert "settled" in site.opd("why", "fw", "r1").stdout


def test_a_run_is_replayed(site: Site) -> None:
    site.fail("r2")
    assert site.run().returncode == 3

    done, document = site.opd("replay", "fw"), site.json("replay", "fw")

    assert done.returncode == 0
    assert re.search(r"\d+ decisions made again, each as recorded; the run stands as they say", done.stdout)
    assert document["difference"] is None
    assert document["decided"] > 2
    assert document["unknown"] == 0


@pytest.mark.parametrize("number", [1, 2, 3])
def test_one_altered_byte_of_the_journal_is_refused_with_its_place(site: Site, number: int) -> None:
    assert site.run().returncode == 0
    with sqlite3.connect(site.store) as connection:
        (text,) = connection.execute("SELECT steps FROM operation_run_journal WHERE number = ?", (number,)).fetchone()
        place = next(match.start() for match in re.finditer(r"\d", text) if match.start() > len(text) // 2)
        digit = str((int(text[place]) + 1) % 10)
        altered = text[:place] + digit + text[place + 1 :]
        connection.execute("UPDATE operation_run_journal SET steps = ? WHERE number = ?", (altered, number))

    done = site.opd("replay", "fw")

    assert done.returncode == 5
    told = done.stdout + done.stderr
    assert f"not as recorded. entry {number}, " in told or f"journal entry {number}, column steps" in told


def test_a_row_that_was_changed_beside_the_journal_is_told(site: Site) -> None:
    assert site.run().returncode == 0
    with sqlite3.connect(site.store) as connection:
        connection.execute("UPDATE operation_run SET status_message = 'all is well'")

    done = site.opd("-o", "json", "replay", "fw")

    assert done.returncode == 5
    difference = json.loads(done.stdout)["difference"]
    assert (difference["entry"], difference["place"]) == (0, "run.status_message")
