"""What an operator asks of a run through the program, and what programs read of it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from opdispatch.identity import RackId, RunId, target_id_of
from opdispatch_adapters.sql import SqliteStore

from .cli_kit import SHORT, Site, interrupt
from .waiting import eventually

TALLY = [
    "total",
    "pending",
    "claimed",
    "blocked",
    "submitted",
    "completed",
    "failed",
    "terminated",
    "skipped",
    "failed_before",
    "terminated_before",
    "in_flight",
]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def detached(site: Site, at_once: int) -> str:
    """A run with so many tasks that run and nobody who attends to it; its id."""
    site.rollout(at_once=at_once)
    site.hold()
    process = site.start("run", str(site.file), *SHORT)
    site.until_began(at_once)
    eventually(site.totals, until=lambda totals: totals.get("submitted") == at_once, what="the answers")
    interrupt(process)
    process.communicate(timeout=30)
    return site.run_id


def test_a_cancel_ends_what_runs_and_skips_the_rest_though_nobody_dispatches(site: Site) -> None:
    run = detached(site, 2)

    done = site.opd("cancel", run, "--reason", "bad image", *SHORT)

    assert done.returncode == 0, done.stderr
    assert "operation run cancelled: bad image" in done.stdout
    assert "2 terminated, 2 skipped" in done.stderr
    assert site.running() == []
    assert site.totals() == {"terminated": 2, "skipped": 2}
    assert site.opd("attach", run).returncode == 6


def test_a_pause_starts_nothing_new_and_attach_ends_with_8_once_the_rest_is_over(site: Site) -> None:
    run = detached(site, 2)
    paused = site.opd("pause", run)
    site.let_go()

    held = site.opd("attach", run, *SHORT)
    resumed = site.opd("resume", run)

    assert "operation run paused by operator" in paused.stdout
    assert held.returncode == 8
    assert sum(site.began().values()) == 2
    assert f"resume {run[:8]}" in held.stdout
    assert resumed.returncode == 0
    assert site.opd("attach", run, *SHORT).returncode == 0


def test_an_operator_can_pause_when_the_tasks_and_the_allowlist_cannot_be_used(site: Site) -> None:
    run = detached(site, 2)
    tasks = site.store.with_name(site.store.name + ".tasks")
    tasks.chmod(0o750)

    paused = site.opd("--commands", "nosuch.toml", "pause", run)
    tasks.chmod(0o700)
    site.let_go()

    assert (paused.returncode, site.overview().run.operator_hold) == (0, True)


def test_a_retry_gives_a_failed_rack_another_attempt_under_another_key(site: Site) -> None:
    site.rollout('[phases]\nkind = "count"\ncounts = [3]')
    site.fail("r2")
    site.run()
    site.fail()

    unknown = site.opd("retry", "fw", "r2", "nosuch", "neither")
    retried = site.opd("retry", "fw", "r2")
    done = site.opd("attach", "fw", *SHORT)

    assert unknown.returncode == 2
    assert "'nosuch'" in unknown.stderr
    assert "'neither'" in unknown.stderr
    assert "1 target gets a new attempt" in retried.stdout
    assert done.returncode == 8
    rack = next(one for one in site.json("show", "fw", "--targets")["targets"] if one["rack"] == "r2")
    assert (rack["status"], rack["attempt"]) == ("completed", 2)
    assert len(site.began()) == 4


def test_a_retry_of_all_that_failed_is_repeated_with_its_first_reply_also_when_none_has_failed_since(
    site: Site,
) -> None:
    site.rollout('[phases]\nkind = "count"\ncounts = [3]')
    site.fail("r2")
    site.run()
    site.fail()

    retried = site.opd("retry", "fw", "--failed", "--request-id", "q1")
    again = site.opd("retry", "fw", "--failed", "--request-id", "q1")
    other = site.opd("retry", "fw", "--failed", "--request-id", "q2")

    assert "1 target gets a new attempt" in retried.stdout
    assert (again.returncode, again.stdout) == (0, retried.stdout)
    assert other.returncode == 2
    assert f"--failed: no target of run {site.run_id[:8]} has failed" in other.stderr


def test_a_settled_target_is_done_and_its_task_is_ended(site: Site) -> None:
    run = detached(site, 1)

    done = site.opd("settle", run, "r1", "--as", "completed", "--reason", "done by hand")

    assert done.returncode == 0, done.stderr
    site.let_go()
    assert site.opd("attach", run, *SHORT).returncode == 0
    message = next(one["message"] for one in site.json("show", run, "--targets")["targets"] if one["rack"] == "r1")
    assert "settled as completed" in message
    assert "done by hand" in message


def test_a_refused_command_ends_with_5_and_says_why(site: Site) -> None:
    site.run()

    done = site.opd("pause", "fw")

    assert done.returncode == 5
    assert "RUN_ENDED" in done.stderr


def test_a_release_of_a_run_without_trouble_does_nothing(site: Site) -> None:
    site.run()

    assert "nothing to do" in site.opd("release", "fw").stdout


def test_a_run_in_quarantine_ends_with_8_until_it_is_released(site: Site) -> None:
    site.opd("create", str(site.file))
    with SqliteStore(site.store) as store:
        store.report(RunId(UUID(site.run_id)), "it broke", lambda _: timedelta(seconds=1), 1)

    held = site.opd("attach", "fw", *SHORT)
    released = site.opd("release", "fw")
    done = site.opd("attach", "fw", *SHORT)

    assert held.returncode == 8
    assert "in quarantine after 1 error in a row: it broke" in held.stdout
    assert f"release {site.run_id[:8]}" in held.stdout
    assert "released; it is due now" in released.stdout
    assert done.returncode == 0


def test_a_command_with_the_same_request_id_has_one_effect(site: Site) -> None:
    run = detached(site, 1)

    replies = [site.json("pause", run, "--request-id", "p1") for _ in range(2)]

    assert replies[0] == replies[1]
    site.let_go()


def test_a_request_id_is_not_for_another_command(site: Site) -> None:
    run = detached(site, 1)
    site.json("pause", run, "--request-id", "p1")

    told = site.opd("cancel", run, "--request-id", "p1", "--no-wait")

    assert told.returncode == 2
    assert "'p1' named another command before (pause); name a new one" in told.stderr
    assert site.json("show", run)["status"] == "paused"
    site.let_go()


def test_a_run_and_its_racks_are_found_by_name_and_by_the_beginning_of_an_id(site: Site) -> None:
    site.rollout('[phases]\nkind = "count"\ncounts = [3]')
    site.run()
    run = site.run_id
    target = str(target_id_of(RunId(UUID(run)), RackId(UUID(int=1))))

    shown = [site.opd("show", word).returncode for word in ("fw", run, run[:8], run[:3], "nosuch")]
    retried = [site.opd("retry", run, word).returncode for word in (target[:10], str(UUID(int=2)))]

    assert shown == [0, 0, 0, 2, 2]
    assert retried == [0, 0]


def test_the_json_of_a_run_has_this_shape(site: Site) -> None:
    site.fail("r2")
    site.run()

    document = site.json("show", "fw")

    assert list(document) == [
        "schema",
        "id",
        "name",
        "operation",
        "status",
        "status_reason",
        "status_message",
        "phase",
        "opened",
        "auto_advance",
        "max_concurrent_targets",
        "revision",
        "created_at",
        "started_at",
        "finished_at",
        "wake_at",
        "totals",
        "phases",
        "gates",
        "holds",
        "open_strays",
        "trouble",
        "next",
    ]
    assert document["schema"] == "opdispatch/run/v1"
    assert list(document["totals"]) == TALLY
    assert list(document["phases"][0]) == ["phase", "state", *TALLY]
    assert document["finished_at"].endswith("Z")
    assert document["gates"] == [
        {
            "kind": "failure_rate",
            "scope": "current_phase",
            "threshold": 100,
            "failures": 1,
            "accepted": 0,
            "targets": 4,
            "tripped": False,
        }
    ]


def test_the_other_documents_name_their_schema(site: Site) -> None:
    site.run()
    calls = {
        "runs": ("ls",),
        "targets": ("show", "fw", "--targets"),
        "events": ("show", "fw", "--events"),
        "plan": ("plan", str(site.file)),
        "reply": ("pause", "fw"),
        "tick": ("tick",),
        "inventory": ("inventory", "check", "inventory"),
        "store-check": ("store", "check"),
        "migration": ("store", "migrate"),
        "release": ("release", "fw"),
    }

    found = {name: site.json(*words)["schema"] for name, words in calls.items()}

    assert found == {name: f"opdispatch/{name}/v1" for name in calls}


def test_an_error_is_a_document_for_programs_and_a_sentence_for_people(site: Site) -> None:
    done = site.opd("show", "fw", "-o", "json")

    document = site.json("show", "fw")
    assert done.returncode == 2
    assert document["error"]["code"] == "INVALID_INPUT"
    assert document["error"]["retryable"] is False
    assert "--store" in document["error"]["hint"]
    assert "there is no such file" in document["error"]["message"]
    assert "there is no such file" in done.stderr


def test_jsonl_gives_a_line_for_each_thing(site: Site) -> None:
    site.run()

    assert len(site.opd("-o", "jsonl", "show", "fw", "--targets").stdout.splitlines()) == 4


def test_a_run_as_lines_is_a_stream_of_events_and_the_run_at_its_end(site: Site) -> None:
    site.fail("r2")

    lines = [json.loads(line) for line in site.run("-o", "jsonl").stdout.splitlines()]

    failed = [line["rack"] for line in lines if line.get("event") == "target_failed"]
    assert {line["schema"] for line in lines[:-1]} == {"opdispatch/event/v1"}
    assert failed == ["r2"]
    assert (lines[-1]["schema"], lines[-1]["exit"]) == ("opdispatch/run/v1", 3)
