"""Which tasks the stand-in lets run beside one another: Flow's table, pair by pair."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import pytest

from opdispatch_adapters.flow.standin.tasks import BRING_UP, FIRMWARE, POWER, Fate, StandInTask, conflicts

RACK, NOW = UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC)
TRAY, OTHER_TRAY, SWITCH, OTHER_SWITCH, SHELF, PUMP = (UUID(int=n) for n in range(10, 16))
Side = tuple[str, Mapping[str, tuple[UUID, ...]]]


def _side(type_: str, **components: UUID) -> Side:
    return type_, {kind: (one,) for kind, one in components.items()}


IN_THE_WAY: Final[list[tuple[Side, Side]]] = [
    # A power shelf feeds all: components need not be shared.
    (_side(POWER, PowerShelf=SHELF), _side(POWER, Compute=TRAY)),
    (_side(POWER, PowerShelf=SHELF), _side(POWER, CDU=PUMP)),
    (_side(POWER, PowerShelf=SHELF), _side(FIRMWARE, NVSwitch=SWITCH)),
    (_side(POWER, PowerShelf=SHELF), _side(FIRMWARE, CDU=PUMP)),
    (_side(POWER, Compute=TRAY), _side(POWER, Compute=TRAY)),
    (_side(POWER, NVSwitch=SWITCH), _side(POWER, NVSwitch=SWITCH)),
    (_side(POWER, Compute=TRAY), _side(FIRMWARE, Compute=TRAY)),
    (_side(POWER, NVSwitch=SWITCH), _side(FIRMWARE, NVSwitch=SWITCH)),
    # What is shared may be of any type, as long as both have one of the row's type.
    (_side(POWER, Compute=TRAY, CDU=PUMP), _side(FIRMWARE, Compute=OTHER_TRAY, CDU=PUMP)),
    (_side(FIRMWARE, Compute=TRAY), _side(FIRMWARE, Compute=TRAY)),
    (_side(FIRMWARE, CDU=PUMP), _side(FIRMWARE, CDU=PUMP)),
    *((_side(BRING_UP, Compute=TRAY), _side(type_, CDU=PUMP)) for type_ in (POWER, FIRMWARE, BRING_UP)),
]
SIDE_BY_SIDE: Final[list[tuple[Side, Side]]] = [
    (_side(POWER, Compute=TRAY), _side(POWER, Compute=OTHER_TRAY)),
    (_side(POWER, NVSwitch=SWITCH), _side(POWER, NVSwitch=OTHER_SWITCH)),
    (_side(POWER, Compute=TRAY), _side(FIRMWARE, Compute=OTHER_TRAY)),
    (_side(POWER, NVSwitch=SWITCH), _side(FIRMWARE, NVSwitch=OTHER_SWITCH)),
    (_side(POWER, Compute=TRAY), _side(POWER, NVSwitch=SWITCH)),
    # No row has these types, though the component is the same.
    (_side(POWER, CDU=PUMP), _side(POWER, CDU=PUMP)),
    (_side(POWER, CDU=PUMP), _side(FIRMWARE, CDU=PUMP)),
    (_side(POWER, Compute=TRAY, CDU=PUMP), _side(FIRMWARE, NVSwitch=SWITCH, CDU=PUMP)),
    # Firmware of a power shelf is firmware: only power on one is in the way of all.
    (_side(FIRMWARE, PowerShelf=SHELF), _side(FIRMWARE, Compute=TRAY)),
    (_side(FIRMWARE, PowerShelf=SHELF), _side(POWER, Compute=TRAY)),
    (_side(FIRMWARE, Compute=TRAY), _side(FIRMWARE, Compute=OTHER_TRAY)),
]


def _task(side: Side) -> StandInTask:
    type_, components = side
    return StandInTask(
        id=UUID(int=2),
        type=type_,
        phrase="",
        rack_id=RACK,
        components=components,
        description="",
        created_at=NOW,
        fate=Fate(duration=timedelta(0)),
    )


@pytest.mark.parametrize(("one", "other"), IN_THE_WAY)
def test_tasks_of_a_row_of_the_table_conflict_either_way_round(one: Side, other: Side) -> None:
    assert conflicts(*one, _task(other))
    assert conflicts(*other, _task(one))


@pytest.mark.parametrize(("one", "other"), SIDE_BY_SIDE)
def test_tasks_of_no_row_of_the_table_run_side_by_side(one: Side, other: Side) -> None:
    assert not conflicts(*one, _task(other))
    assert not conflicts(*other, _task(one))
