"""Runs that want the same racks: conflicts back off, windows end, a resume tries at once; real commands throughout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from opdispatch.action import BlockTarget, ClaimTarget, SetConflictHold
from opdispatch.command import Cancel, Resume
from opdispatch.identity import CommandId, RunId
from opdispatch.plan import new_run, plan
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.policy.phases import EqualPhases
from opdispatch.run import RunStatus, StatusReason
from opdispatch.target import TargetStatus
from opdispatch_adapters.commands import CommandTaskManager
from opdispatch_adapters.dispatcher import Dispatcher

from .test_kills import Site, a_rollout, check, racks
from .waiting import eventually
from .worker import SHORT, command_settings

HOLDING = """#!/bin/sh
# Holds its rack until the file of that name is there.
echo "$1" >> "$LOG"
trap 'exit 143' TERM
while [ ! -e "$LOG.$2" ]; do sleep 0.02; done
"""


def create(site: Site, name: str, policy: ConflictRetry, count: int) -> RunId:
    """A run over the same racks as every other run of this site."""
    phases = EqualPhases(count=min(count, 3))
    rollout = replace(a_rollout(name), conflict=policy, phases=phases)
    new = new_run(
        plan(racks("shared", count), rollout), command_id=CommandId(name), actor="test", now=datetime.now(UTC)
    )
    return site.store.create(new).id


@contextmanager
def dispatching(site: Site) -> Iterator[Dispatcher]:
    manager = CommandTaskManager(command_settings(site.tasks, site.program, site.log))
    with manager, Dispatcher(site.store, manager, SHORT) as dispatcher:
        yield dispatcher


def status(site: Site, run_id: RunId) -> RunStatus:
    return site.store.get(run_id).run.status


def waits(site: Site, run_id: RunId) -> dict[str, list[timedelta]]:
    """The delays of each target that met a conflict, in the order of the journal."""
    found: dict[str, list[timedelta]] = {}
    for entry in site.store.journal(run_id):
        for step in entry.steps:
            if isinstance(step.action, BlockTarget):
                found.setdefault(str(step.action.target_id), []).append(step.action.conflict.delay)
    return found


def test_two_runs_on_the_same_racks_wait_for_each_other_with_doubling_delays_and_both_end(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.program.write_text(HOLDING)
    policy = ConflictRetry(
        window=timedelta(minutes=5), initial_delay=timedelta(seconds=0.1), max_delay=timedelta(seconds=0.8)
    )
    first = create(site, "first", policy, 4)

    with dispatching(site) as dispatcher:
        eventually(lambda: site.store.get(first).phases[0].submitted == 2, what="the first run holds its racks")
        second = create(site, "second", policy, 4)
        dispatcher.wake()
        eventually(lambda: any(len(w) >= 4 for w in waits(site, second).values()), what="four refusals of one rack")
        for rack in racks("shared", 4):
            Path(f"{site.log}.{rack.name}").touch()
        eventually(lambda: site.ended([first, second]), patience_seconds=90)

    seconds = [[round(wait.total_seconds(), 3) for wait in series] for series in waits(site, second).values()]
    doubling = [0.1, 0.2, 0.4] + [0.8] * 100
    assert seconds != []
    assert all(series == doubling[: len(series)] for series in seconds)
    check(site, [first, second], failing=False)


def test_a_rack_that_never_frees_holds_the_run_at_the_window_and_a_resume_tries_it_at_once(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.program.write_text(HOLDING)
    patient = ConflictRetry()
    short = ConflictRetry(
        window=timedelta(seconds=2.5), initial_delay=timedelta(seconds=0.2), max_delay=timedelta(seconds=60)
    )
    holder = create(site, "holder", patient, 1)

    with dispatching(site) as dispatcher:
        eventually(lambda: site.store.get(holder).phases[0].submitted == 1)
        waiting = create(site, "waiting", short, 1)
        dispatcher.wake()
        held = eventually(
            lambda: site.store.get(waiting).run,
            until=lambda run: run.status_reason is StatusReason.CONFLICT_RETRY_TIMEOUT,
        )
        tries = len(claims(site, waiting))
        reply = dispatcher.command(waiting, Resume(command_id=CommandId("again"), actor="op"))
        eventually(lambda: len(claims(site, waiting)) > tries, what="a try right after the resume")
        resumed_at = site.store.get(waiting).run.resumed_at
        assert resumed_at is not None
        tried_at = claims(site, waiting)[tries]
        dispatcher.command(holder, Cancel(command_id=CommandId("enough"), actor="op"))
        eventually(lambda: [t.status for t in site.store.targets(holder)] == [TargetStatus.TERMINATED])
        Path(f"{site.log}.{racks('shared', 1)[0].name}").touch()
        eventually(lambda: status(site, waiting) is RunStatus.COMPLETED, patience_seconds=60)

    assert "blocked by rack conflict for 2.5s" in held.status_message
    assert reply.accepted
    assert tried_at - resumed_at < timedelta(seconds=1)
    assert hold_came_with_a_refusal(site, waiting)
    assert status(site, holder) is RunStatus.CANCELLED


def claims(site: Site, run_id: RunId) -> list[datetime]:
    entries = site.store.journal(run_id)
    return [entry.at for entry in entries for step in entry.steps if isinstance(step.action, ClaimTarget)]


def hold_came_with_a_refusal(site: Site, run_id: RunId) -> bool:
    """The hold is set by a refusal at the end of the window: the last wait ended there, whatever its backoff."""
    entries = site.store.journal(run_id)
    holding = [e for e in entries if any(isinstance(s.action, SetConflictHold) for s in e.steps)]
    return all(any(isinstance(s.action, BlockTarget) for s in entry.steps) for entry in holding) and bool(holding)


def test_a_cancelled_run_ends_its_commands_and_skips_what_had_not_started(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.program.write_text(HOLDING.replace('echo "$1"', 'echo "$1 $$"'))
    run = create(site, "cancelled", ConflictRetry(), 20)

    with dispatching(site) as dispatcher:
        eventually(lambda: site.store.get(run).phases[0].submitted == 6)
        eventually(lambda: len(site.log.read_text().splitlines()) == 6)
        processes = [int(line.split()[1]) for line in site.log.read_text().splitlines()]
        dispatcher.command(run, Cancel(command_id=CommandId("c"), actor="op", why="wrong firmware"))
        eventually(lambda: all(t.status.is_settled for t in site.store.targets(run)), patience_seconds=60)

    found = site.store.get(run)
    assert found.run.status is RunStatus.CANCELLED
    assert found.run.status_message == "operation run cancelled: wrong firmware"
    assert sum(tally.terminated for tally in found.phases) == 6
    assert sum(tally.skipped for tally in found.phases) == 14
    assert not any(is_alive(process) for process in processes)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
