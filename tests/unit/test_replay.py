"""A run is decided again from its journal, and whatever was changed in it shows, with its place."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest

from opdispatch.action import ClaimTarget, Step
from opdispatch.command import Pause, Reply
from opdispatch.evolve import Record
from opdispatch.identity import CommandId, RunId, TargetId, TaskId
from opdispatch.journal import JournalEntry
from opdispatch.observation import TaskMissing
from opdispatch.replay import Difference, Replayed, beginning, difference_of, replay
from opdispatch.target import Cancelling, Stray, Target
from opdispatch_adapters.testing.simulation import Operators, World, a_setup, heal


def _played(seed: int = 4, steps: int = 120) -> World:
    """A run that went through a good deal."""
    random = Random(seed)

    def choose(n: int) -> int:
        return random.randrange(n)

    world = World(a_setup(choose))
    operators = Operators(world)
    for number in range(steps):
        if number % 7 == 3:
            operators.operate(choose)
        elif number % 3 == 1:
            world.task_ends(choose)
        else:
            world.step(choose(len(world.hands)), choose)
            world.pass_time(choose)
    heal(world, operators)
    return world


@pytest.fixture(scope="module")
def world() -> World:
    return _played()


def _entries(world: World) -> list[JournalEntry]:
    return list(world.store.journal(world.run_id))


def _replayed(world: World, entries: Sequence[JournalEntry]) -> Replayed:
    record = world.record
    return replay(beginning(record.run, record.targets.values()), entries)


def test_every_decision_is_made_again_and_the_end_is_the_same(world: World) -> None:
    entries = _entries(world)

    found = _replayed(world, entries)

    assert found.difference is None
    assert (found.decided, found.unknown) == (len(entries), 0)
    assert len(entries) > 10
    record = world.record
    assert difference_of(found.record, record.run, record.targets.values(), record.strays.values()) is None
    assert found.record.phases == record.phases
    assert found.record.strays == record.strays


def _first(entries: Sequence[JournalEntry], fits: Callable[[JournalEntry], Any]) -> int:
    return next(index for index, entry in enumerate(entries) if fits(entry))


def _with_steps(entry: JournalEntry) -> JournalEntry:
    index = next(i for i, step in enumerate(entry.steps) if isinstance(step.action, ClaimTarget))
    step = entry.steps[index]
    assert isinstance(step.action, ClaimTarget)
    later = replace(step.action, lease_until=step.action.lease_until + timedelta(seconds=1))
    return replace(entry, steps=(*entry.steps[:index], replace(step, action=later), *entry.steps[index + 1 :]))


def _reply(entry: JournalEntry) -> Any:
    return entry.reply


@pytest.mark.parametrize(
    ("fits", "change", "place"),
    [
        (
            lambda e: any(isinstance(s.action, ClaimTarget) for s in e.steps),
            _with_steps,
            r"steps\[\d+\]\.lease_until",
        ),
        (lambda e: e.steps, lambda e: replace(e, steps=e.steps[:-1]), "steps"),
        (
            lambda e: e.steps,
            lambda e: replace(e, steps=(Step(action=e.steps[0].action, because="x"), *e.steps[1:])),
            r"steps\[0\]\.because",
        ),
        (
            lambda e: e.observations,
            lambda e: replace(e, observations=e.observations[1:]),
            r"steps.*|observations|held_back",
        ),
        (lambda e: e.steps, lambda e: replace(e, digest="0" * 32), "digest"),
        (_reply, lambda e: replace(e, reply=replace(e.reply, message="yes")), "reply.message"),
        (_reply, lambda e: replace(e, actor="mallory"), "actor"),
        (lambda e: e.held_back, lambda e: replace(e, held_back=()), "held_back"),
        (
            lambda e: any(isinstance(s.action, ClaimTarget) for s in e.steps),
            lambda e: replace(e, at=e.at + timedelta(seconds=1)),
            r"steps\[\d+\]\.(lease_until|at)",
        ),
    ],
    ids=[
        "a lease",
        "a step less",
        "a reason",
        "an observation",
        "a digest",
        "a reply",
        "an actor",
        "a hold",
        "an instant",
    ],
)
def test_what_was_changed_in_an_entry_is_told_with_its_place(
    world: World, fits: Callable[[JournalEntry], Any], change: Callable[[JournalEntry], JournalEntry], place: str
) -> None:
    entries = _entries(world)
    index = _first(entries, fits)
    entries[index] = change(entries[index])

    found = _replayed(world, entries).difference

    assert found is not None
    assert found.number == entries[index].number
    assert re.fullmatch(place, found.place), found
    assert str(found).startswith(f"entry {found.number}, {found.place}: recorded is ")


def test_an_entry_that_is_missing_is_told(world: World) -> None:
    entries = _entries(world)
    del entries[3]

    found = _replayed(world, entries).difference

    assert found is not None
    assert (found.number, found.place) == (5, "number")


def test_a_replay_that_ends_early_tells_how_far_it_came(world: World) -> None:
    entries = _entries(world)
    older = [replace(entry, limits=None, digest=None) for entry in entries[:2]]
    before = _replayed(world, [*older, *entries[2:5]])
    forged = replace(entries[5], digest="0" * 32)

    at_a_gap = _replayed(world, [*older, *entries[2:5], *entries[6:]])
    at_a_forgery = _replayed(world, [*older, *entries[2:5], forged, *entries[6:]])

    assert at_a_gap == replace(before, difference=Difference(number=7, place="number", recorded="7", decided="6"))
    assert at_a_forgery == replace(
        before,
        difference=Difference(number=6, place="digest", recorded="0" * 32, decided=str(entries[5].digest)),
    )
    assert (before.unknown, before.decided) == (2, 3)


def test_an_entry_of_another_run_is_told(world: World) -> None:
    entries = _entries(world)
    entries[1] = replace(entries[1], run_id=RunId(UUID(int=7)))

    found = _replayed(world, entries).difference

    assert found is not None
    assert (found.number, found.place, found.recorded) == (2, "run_id", repr(UUID(int=7)))


def test_an_entry_from_before_the_last_decision_is_told(world: World) -> None:
    entries = _entries(world)
    entries[1] = replace(entries[1], at=entries[0].at - timedelta(seconds=1))

    found = _replayed(world, entries).difference

    assert found is not None
    assert (found.number, found.place) == (2, "at")


def test_an_observation_that_was_put_in_and_changes_nothing_is_told(world: World) -> None:
    entries = _entries(world)
    # A command takes every look into account.
    index = _first(entries, lambda e: e.command is None and e.number > 1)
    entry = entries[index]
    seen = TaskMissing(target_id=TargetId(UUID(int=7)), task_id=TaskId("forged"), looked_at=entry.at)
    entries[index] = replace(entry, observations=(*entry.observations, seen))

    found = _replayed(world, entries).difference

    told = len(entry.observations)
    assert found == Difference(
        number=entry.number, place="observations", recorded=f"{told + 1} of them", decided=str(told)
    )


def test_a_difference_is_told_with_both_values() -> None:
    assert [str(Difference(number=n, place="run.phase", recorded="1", decided="2")) for n in (3, 0)] == [
        "entry 3, run.phase: recorded is 1, and decided is 2",
        "the end, run.phase: recorded is 1, and decided is 2",
    ]


def test_an_entry_of_a_command_that_cannot_be_is_told(world: World) -> None:
    entries = _entries(world)
    index = _first(entries, lambda e: e.command is None and e.steps)
    other = Pause(command_id=CommandId("forged"), actor=entries[index].actor)
    entries[index] = replace(entries[index], command=other)

    found = _replayed(world, entries).difference

    assert found is not None
    assert found.number == entries[index].number


def test_a_decision_that_cannot_be_made_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise LookupError("target is not in the window")

    # The package has a function of the module's name.
    monkeypatch.setattr(sys.modules["opdispatch.replay"], "decide", broken)

    found = _replayed(world, _entries(world)).difference

    assert found is not None
    assert found == Difference(
        number=1,
        place="decision",
        recorded="a decision",
        decided="LookupError: target is not in the window",
    )


def test_entries_of_before_limits_were_kept_are_taken_as_they_stand(world: World) -> None:
    entries = _entries(world)
    older = [replace(entry, limits=None, digest=None) for entry in entries[:5]]

    found = _replayed(world, [*older, *entries[5:]])

    assert found.difference is None
    assert (found.unknown, found.decided) == (5, len(entries) - 5)


@pytest.mark.parametrize("lost", [{"limits": None}, {"digest": None}], ids=["limits", "digest"])
def test_an_entry_that_lost_its_limits_or_its_digest_is_taken_as_it_stands(world: World, lost: dict[str, Any]) -> None:
    entries = _entries(world)
    entries[4] = replace(entries[4], **lost)

    found = _replayed(world, entries)

    assert (found.unknown, found.decided, found.difference) == (1, len(entries) - 1, None)


def test_an_entry_that_is_taken_as_it_stands_does_not_tell_when_the_run_is_due(world: World) -> None:
    older = [replace(entry, limits=None, digest=None) for entry in _entries(world)]

    record = _replayed(world, older).record

    assert (record.run, record.wake_at) == (world.record.run, world.record.run.created_at)


def test_a_reply_of_before_it_told_the_standing_is_the_same(world: World) -> None:
    entries = _entries(world)
    index = _first(entries, _reply)
    reply = entries[index].reply
    assert reply is not None
    entries[index] = replace(entries[index], reply=replace(reply, after=None))

    assert _replayed(world, entries).difference is None


def _end(world: World) -> Record:
    return _replayed(world, _entries(world)).record


def test_a_row_that_was_changed_by_hand_is_told(world: World) -> None:
    record, end = world.record, _end(world)
    run = replace(record.run, status_message="all is well")
    targets = list(record.targets.values())
    changed = replace(targets[0], fence=targets[0].fence + 1)

    told_of_run = difference_of(end, run, targets, ())
    told_of_target = difference_of(end, record.run, [changed], ())

    assert told_of_run == Difference(
        number=0,
        place="run.status_message",
        recorded="'all is well'",
        decided=repr(record.run.status_message),
    )
    assert told_of_target is not None
    assert (told_of_target.number, told_of_target.place) == (0, f"target {changed.id}.fence")


def test_a_target_that_the_journal_never_had_is_told(world: World) -> None:
    record = world.record
    some = next(iter(record.targets.values()))
    stranger: Target = replace(some, id=TargetId(record.run.id))

    found = difference_of(_end(world), record.run, [stranger], ())

    assert found == Difference(number=0, place=f"target {stranger.id}", recorded=repr(stranger), decided="None")


def test_a_stray_that_is_gone_or_was_closed_by_hand_is_told(world: World) -> None:
    record = world.record
    targets = tuple(record.targets.values())
    cancelling = Cancelling(due=record.run.created_at, delay=timedelta(seconds=10))
    stray = Stray(task_id=TaskId("second"), target_id=targets[0].id, cancelling=cancelling)
    end = replace(_end(world), strays={stray.task_id: stray})

    gone = difference_of(end, record.run, targets, ())
    closed = difference_of(end, record.run, targets, [replace(stray, is_open=False)])

    assert difference_of(end, record.run, targets, [stray]) is None
    assert gone == Difference(number=0, place="stray second", recorded="None", decided=repr(stray))
    assert closed == Difference(number=0, place="stray second.is_open", recorded="False", decided="True")


def test_a_reply_to_nobody_is_told(world: World) -> None:
    entries = _entries(world)
    index = _first(entries, lambda e: e.command is None)
    forged = Reply(command_id=CommandId("forged"), message="yes", revision=0, open_claims=0)
    entries[index] = replace(entries[index], reply=forged)

    assert _replayed(world, entries).difference == Difference(
        number=entries[index].number, place="reply", recorded=repr(forged), decided="None"
    )
