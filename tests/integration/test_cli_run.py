"""The program from the outside: a run from its file to its end, what interrupts it, and what each ends with."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from .cli_kit import SHORT, Site, environment, interrupt
from .waiting import eventually

PHASES = '[phases]\nkind = "count"\ncounts = [1]\nauto_advance = true'
BY_HAND = '[phases]\nkind = "count"\ncounts = [1]'
TWO_FAILURES = '[[gates]]\nkind = "failure_count"\nthreshold_count = 2'


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_plan_shows_phases_and_the_worst_case_and_writes_nothing(site: Site) -> None:
    site.rollout(PHASES, at_once=2)
    before = sorted(site.path.rglob("*"))

    done = site.opd("plan", str(site.file))

    assert done.returncode == 0
    assert "4 racks in 2 phases" in done.stdout
    assert "worst case at once: 2 racks" in done.stdout
    assert sorted(site.path.rglob("*")) == before


def test_a_run_that_completes_ends_with_0_and_each_rack_was_done_once(site: Site) -> None:
    site.rollout(PHASES)

    done = site.run()

    assert done.returncode == 0, done.stderr
    assert "made the store" in done.stderr
    assert "finished status=completed" in done.stderr
    assert site.totals() == {"completed": 4}
    assert Counter(site.began().values()) == {1: 4}


def test_a_run_with_failures_within_the_gates_ends_with_3_and_names_the_racks(site: Site) -> None:
    site.fail("r2")

    done = site.run()

    assert done.returncode == 3
    assert "exit code 1: rack r2 is bad" in done.stdout
    assert site.totals() == {"completed": 3, "failed": 1}


def test_a_run_of_which_nothing_completed_ends_with_7(site: Site) -> None:
    site.rollout(gates=['[[gates]]\nkind = "failure_count"\nthreshold_count = 9'])
    site.fail(*site.names)

    assert site.run().returncode == 7


def test_a_tripped_gate_ends_with_4_and_goes_on_only_when_its_failures_are_accepted(tmp_path: Path) -> None:
    site = Site(tmp_path, racks=8)
    site.rollout(at_once=1, gates=[TWO_FAILURES])
    site.fail("r1", "r2", "r5", "r6")

    tripped = site.run()
    refused = site.opd("resume", "fw")
    accepted = site.opd("resume", "fw", "--accept-failures", "2")
    again = site.opd("attach", "fw", *SHORT)

    assert tripped.returncode == 4
    gate = "failure_count safety gate tripped for current_phase: 2/8 targets failed (threshold 2)"
    assert gate in tripped.stdout
    assert f"resume {site.run_id[:8]} --accept-failures 2" in tripped.stdout
    assert (refused.returncode, gate in refused.stderr) == (5, True)
    assert accepted.returncode == 0, accepted.stderr
    assert again.returncode == 4
    assert site.totals() == {"completed": 2, "failed": 4, "pending": 2}


def test_a_phase_gate_ends_with_8_and_an_advance_that_expects_another_phase_is_refused(site: Site) -> None:
    site.rollout(BY_HAND)

    held = site.run()
    wrong = site.opd("advance", "fw", "--expect", "2")
    right = site.opd("advance", "fw", "--expect", "1")
    done = site.opd("attach", "fw", *SHORT)

    assert held.returncode == 8
    assert f"advance {site.run_id[:8]} --expect 1" in held.stdout
    assert wrong.returncode == 5
    assert "expected phase 2, next phase is 1" in wrong.stderr
    assert (right.returncode, done.returncode) == (0, 0)


def test_the_same_command_line_meets_its_own_run_and_a_comment_makes_no_other(site: Site) -> None:
    site.run()
    site.file.write_text("# a comment\n" + site.file.read_text())

    done = site.run()

    assert done.returncode == 0
    assert "already created run" in done.stderr
    assert len(site.json("ls")["runs"]) == 1
    assert Counter(site.began().values()) == {1: 4}


@pytest.mark.parametrize("words", [("create",), ("run", *SHORT)])
def test_a_repeat_meets_its_run_though_the_inventory_no_longer_fits(site: Site, words: tuple[str, ...]) -> None:
    site.rollout('[scope]\nracks = ["r1", "r2"]')
    site.run()
    before = site.run_id
    site.inventory(["r1", "r3"])

    done = site.opd(words[0], str(site.file), *words[1:])
    other = site.opd(words[0], str(site.file), *words[1:], "--request-id", "other")

    assert done.returncode == 0, done.stderr
    assert "already created run" in done.stderr
    assert other.returncode == 2
    assert "no rack in scope is called 'r2'" in other.stderr
    assert site.run_id == before
    assert len(site.json("ls")["runs"]) == 1


def test_no_store_is_made_for_an_inventory_that_does_not_fit(site: Site) -> None:
    site.rollout('[scope]\nracks = ["nosuch"]')

    assert site.run().returncode == 2
    assert not site.store.exists()


def test_another_request_id_or_a_changed_file_makes_another_run(site: Site) -> None:
    site.run()
    site.run("--request-id", "again")
    site.rollout(at_once=3)
    site.run()

    assert len(site.json("ls")["runs"]) == 3
    assert "names 3 runs" in site.opd("show", "fw").stderr


def test_a_request_id_is_not_used_again_for_another_rollout(site: Site) -> None:
    site.run("--request-id", "mine")
    site.rollout(at_once=3)

    done = site.run("--request-id", "mine")

    assert done.returncode == 2
    assert "of another rollout" in done.stderr


def test_ctrl_c_detaches_with_130_and_tasks_go_on_until_somebody_attaches(site: Site) -> None:
    site.rollout(at_once=2)
    site.hold()
    process = site.start("run", str(site.file), *SHORT)
    site.until_began(2)

    interrupt(process)
    _, said = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "2 tasks of run" in said
    assert "nothing new starts until" in said
    assert len(site.running()) >= 2
    site.let_go()
    eventually(site.running, until=lambda running: not running, what="the end of the tasks")
    assert sum(site.began().values()) == 2
    assert site.opd("attach", "fw", *SHORT).returncode == 0
    assert Counter(site.began().values()) == {1: 4}


def test_ctrl_c_ends_a_watch_with_130_and_the_end_of_the_run_with_0(site: Site) -> None:
    site.opd("create", str(site.file))
    watch = site.start("show", "fw", "--watch", "--heartbeat", "0.3s")
    assert watch.stderr is not None
    assert watch.stderr.readline()

    interrupt(watch)
    watch.communicate(timeout=30)
    site.run()

    assert watch.returncode == 130
    assert site.opd("show", "fw", "--watch").returncode == 0


def test_a_timeout_ends_with_124_and_tasks_go_on(site: Site) -> None:
    site.hold()

    done = site.run("--timeout", "2s")

    assert done.returncode == 124
    assert "4 tasks of run" in done.stderr
    site.let_go()
    assert site.opd("attach", "fw", *SHORT).returncode == 0


def test_a_run_that_is_killed_is_taken_up_and_no_key_is_started_twice(tmp_path: Path) -> None:
    site = Site(tmp_path, racks=24)
    site.rollout(at_once=6)
    process = site.start("run", str(site.file), *SHORT)
    site.until_began(5)

    process.kill()
    process.communicate(timeout=30)
    done = site.opd("attach", "fw", *SHORT)

    assert done.returncode == 0, done.stderr
    assert site.totals() == {"completed": 24}
    assert Counter(site.began().values()) == {1: 24}


def test_two_workers_serve_one_store_and_leave_with_0(tmp_path: Path) -> None:
    site = Site(tmp_path, racks=24)
    site.rollout(at_once=6)
    assert site.opd("create", str(site.file)).returncode == 0
    workers = [site.start("worker", *SHORT) for _ in range(2)]

    eventually(site.totals, until=lambda totals: totals.get("completed") == 24, what="the end of the run")
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    said = [worker.communicate(timeout=30)[1] for worker in workers]

    assert [worker.returncode for worker in workers] == [0, 0]
    assert not any("error" in text or "Traceback" in text for text in said), said
    assert sum(text.count("target_completed") for text in said) == 24
    assert Counter(site.began().values()) == {1: 24}


def test_a_worker_that_nohup_began_outlives_its_terminal(site: Site) -> None:
    site.opd("create", str(site.file))
    line = site.arguments("worker", *SHORT)
    worker = subprocess.Popen(
        ["/bin/sh", "-c", 'trap "" HUP INT; exec "$@"', "sh", *line],
        cwd=site.path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert worker.stderr is not None
    assert worker.stderr.readline().startswith("worker dispatcher-")

    worker.send_signal(signal.SIGHUP)
    worker.send_signal(signal.SIGINT)
    eventually(site.totals, until=lambda totals: totals == {"completed": 4}, what="the end of the run")
    status = worker.poll()
    worker.send_signal(signal.SIGTERM)
    said = worker.communicate(timeout=30)[1]

    assert (status, worker.returncode) == (None, 0)
    assert "stopping" in said


def test_two_runs_of_one_file_at_the_same_moment_are_one_run(tmp_path: Path) -> None:
    site = Site(tmp_path, racks=12)
    processes = [site.start("run", str(site.file), *SHORT) for _ in range(2)]

    said = [process.communicate(timeout=60)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0], said
    assert len(site.json("ls")["runs"]) == 1
    assert Counter(site.began().values()) == {1: 12}


def test_a_tick_serves_what_is_due_and_leaves(site: Site) -> None:
    site.opd("create", str(site.file))

    done = site.opd("tick", "--budget", "5s", *SHORT)

    assert done.returncode == 0
    assert "served 1 run" in done.stdout
    site.until_began(4)


def test_a_worker_without_the_program_leaves_the_targets_alone_and_says_so(site: Site) -> None:
    site.opd("create", str(site.file))
    (site.path / "store.db.tasks" / "programs" / f"{site.run_id}.json").unlink()

    tick = site.opd("tick", *SHORT)
    attach = site.opd("attach", "fw")

    assert tick.returncode == 0
    assert "none was registered beside this store" in tick.stderr
    assert site.totals() == {"claimed": 4}
    assert (attach.returncode, "--commands" in attach.stderr) == (2, True)


def test_only_the_allowlist_counts_where_there_is_one(site: Site) -> None:
    other = site.path / "other"
    other.write_text("#!/bin/sh\nexit 0\n")
    other.chmod(0o755)
    allowed = site.path / "allowed.toml"
    allowed.write_text('["firmware_control/upgrade"]\nargv = ["./other"]\n')
    with_own = site.run("--commands", str(allowed))
    text = site.file.read_text()
    site.file.write_text(text[: text.index("[command]")])

    done = site.run("--commands", str(allowed))

    assert (with_own.returncode, "it differs from what" in with_own.stderr) == (2, True)
    assert done.returncode == 0, done.stderr
    assert not site.began()
    assert not (site.path / "store.db.tasks" / "programs").exists()


def test_every_option_can_come_from_the_environment(site: Site) -> None:
    done = site.opd("plan", str(site.file), OPDISPATCH_OUTPUT="json")

    assert '"schema": "opdispatch/plan/v1"' in done.stdout
