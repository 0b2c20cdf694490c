"""The stand-in's switches and fates: how often a fault hits, what cannot be one, and who decides how a task ends."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from opdispatch.errors import InvalidInput
from opdispatch.task import TaskStatus
from opdispatch_adapters.flow.standin import Fate, Fates, Fault, FaultKind, Faults, Site, SiteRack, StandIn, faults_in
from opdispatch_adapters.flow.standin.tasks import FIRMWARE, Asked


def _hits(fault: Fault, count: int, seed: int = 0) -> list[int]:
    """Which of so many calls it hits, from 1."""
    faults = Faults([fault], seed)
    return [number for number in range(1, count + 1) if faults.on("UpgradeFirmware")]


def test_a_fault_hits_every_nth_of_those_that_it_does_not_spare() -> None:
    assert _hits(Fault(kind=FaultKind.SLOW, every=3), 10) == [3, 6, 9]
    assert _hits(Fault(kind=FaultKind.SLOW, first=2, every=3), 10) == [5, 8]
    assert _hits(Fault(kind=FaultKind.SLOW, every=2, times=2), 10) == [2, 4]


def test_the_same_seed_hits_the_same_calls() -> None:
    fault = Fault(kind=FaultKind.SLOW, probability=0.4)

    assert _hits(fault, 200, seed=1) == _hits(fault, 200, seed=1)
    assert _hits(fault, 200, seed=1) != _hits(fault, 200, seed=2)
    assert 40 < len(_hits(fault, 200, seed=1)) < 120


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('times = "x"', "times: 'x' is no whole number"),
        ("first = true", "first: True is no whole number"),
        ("every = 0", "every: 0 is below 1"),
        ("first = -1", "first: -1 is below 0"),
        ("seconds = -0.5", "seconds: -0.5 is below 0"),
        ("seconds = nan", "seconds: nan is below 0"),
        ("probability = 1.5", "probability: 1.5 is not within 0 and 1"),
        ('code = "SORRY"', "code: 'SORRY' is no code of an error"),
        ('code = "OK"', "code: 'OK' is no code of an error"),
        ("rack = 1", "rack: 1 is no text"),
    ],
)
def test_a_fault_that_cannot_be_names_its_place_in_the_file(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(f'[[fault]]\nkind = "slow"\n[[fault]]\nkind = "refuse"\n{line}\n')

    with pytest.raises(InvalidInput) as error:
        faults_in(path)

    assert str(error.value).startswith(f"{path} fault[1].{told}")


def _site() -> Site:
    empty: dict[str, Any] = dict.fromkeys(("region", "datacenter", "room", "position", "manufacturer", "serial"), "")
    return Site([SiteRack(id=UUID(int=n), name=f"r{n}", domain=None, parts=(), **empty) for n in (1, 2)], {})


def test_a_script_decides_how_the_tasks_of_a_rack_end() -> None:
    def script(rack: SiteRack, before: int) -> Fate:
        fails = rack.name == "r2" and before == 1
        status = TaskStatus.FAILED if fails else TaskStatus.COMPLETED
        return Fate(duration=timedelta(0), status=status, message="no" if fails else "Succeeded")

    standin = StandIn(_site(), script)
    for number in range(4):
        parts = {"Compute": (UUID(int=10),)}
        rack_id = UUID(int=1 + number % 2)
        asked = Asked(type=FIRMWARE, phrase="up", rack_id=rack_id, components=parts, description="d")
        standin.tasks.submit(asked, UUID(int=100 + number))

    ended = [(task.rack_id.int, task.status.value, task.message) for task in standin.tasks.all()]
    assert ended == [
        (1, "completed", "Succeeded"),
        (2, "completed", "Succeeded"),
        (1, "completed", "Succeeded"),
        (2, "failed", "no"),
    ]


def test_fates_are_drawn_by_seed_and_chosen_by_name() -> None:
    site = _site()
    chosen = Fates(failing="r1").of(site)

    def status(before: int, rack: int) -> TaskStatus:
        return chosen(UUID(int=rack), before).status

    assert [status(0, 1), status(1, 1), status(0, 2)] == [
        TaskStatus.FAILED,
        TaskStatus.COMPLETED,
        TaskStatus.COMPLETED,
    ]
    drawn = Fates(share=0.5, seed=3).of(site)
    failed = sum(drawn(UUID(int=1), before).status is TaskStatus.FAILED for before in range(200))
    assert 70 < failed < 130
    assert all(Fates(share=1.0).of(site)(UUID(int=1), n).status is TaskStatus.FAILED for n in range(5))
