"""What every value of the core promises: it never changes, has no spare room, and is made by its fields' names."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import MISSING, FrozenInstanceError, fields, is_dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

import pytest

import opdispatch
from opdispatch.candidate import Scope
from opdispatch.command import Refusal
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.policy.gates import GateScope
from opdispatch.policy.phases import NoPhases
from opdispatch.run import RunStatus, StatusReason
from opdispatch.tally import Tally
from opdispatch.target import FAILURES, Pending

MODULES: Final = sorted(
    module.name
    for module in pkgutil.walk_packages(opdispatch.__path__, "opdispatch.")
    if not module.name.startswith("opdispatch.testing")
)
"""Those of the core; what users test with has things that change."""
VALUES: Final[dict[str, type[Any]]] = {
    f"{found.__module__.removeprefix('opdispatch.')}.{found.__qualname__}": found
    for module in map(importlib.import_module, MODULES)
    for found in vars(module).values()
    if isinstance(found, type) and is_dataclass(found) and found.__module__ == module.__name__
}


WORDS: Final = {
    found
    for module in map(importlib.import_module, MODULES)
    for found in vars(module).values()
    if isinstance(found, type) and issubclass(found, StrEnum) and found not in (StrEnum, Refusal)
}


def test_a_value_never_changes() -> None:
    for value in VALUES.values():
        for field in fields(value):
            with pytest.raises(FrozenInstanceError):
                setattr(object.__new__(value), field.name, None)


def test_a_value_has_a_hash_because_it_never_changes() -> None:
    assert [name for name, value in VALUES.items() if value.__hash__ is None] == []


def test_a_value_has_no_room_for_anything_but_its_fields() -> None:
    assert [name for name, value in VALUES.items() if hasattr(object.__new__(value), "__dict__")] == []


def test_a_value_is_made_by_the_names_of_its_fields() -> None:
    assert [f"{name}.{f.name}" for name, value in VALUES.items() for f in fields(value) if not f.kw_only] == []


def test_what_is_not_said_of_a_value_is_nothing_but_for_these() -> None:
    given = {
        f"{name}.{field.name}": field.default if field.default_factory is MISSING else field.default_factory()
        for name, value in VALUES.items()
        for field in fields(value)
        if field.init
    }

    assert {name: start for name, start in given.items() if start is not MISSING and start} == {
        "policy.conflict.ConflictRetry.window": timedelta(hours=1),
        "policy.conflict.ConflictRetry.initial_delay": timedelta(seconds=30),
        "policy.conflict.ConflictRetry.max_delay": timedelta(minutes=5),
        "policy.gates.FailureCountGate.outcomes": FAILURES,
        "policy.gates.FailureCountGate.scope": GateScope.CURRENT_PHASE,
        "policy.gates.FailureRateGate.outcomes": FAILURES,
        "policy.gates.FailureRateGate.scope": GateScope.CURRENT_PHASE,
        "rollout.Rollout.annex": "{}",
        "rollout.Rollout.conflict": ConflictRetry(),
        "rollout.Rollout.phases": NoPhases(),
        "rollout.Rollout.scope": Scope(),
        "run.Run.status": RunStatus.PENDING,
        "run.Run.status_reason": StatusReason.NONE,
        "state.Limits.cancel_delay": timedelta(seconds=10),
        "state.Limits.cancel_max_delay": timedelta(minutes=5),
        "state.Limits.claim_lease": timedelta(seconds=30),
        "state.Limits.missing_grace": timedelta(minutes=5),
        "state.Limits.poll": timedelta(seconds=10),
        "tally.Tallies.ahead": Tally(),
        "tally.Tallies.current": Tally(),
        "tally.Tallies.earlier": Tally(),
        "tally.Tallies.later": Tally(),
        "target.Stray.is_open": True,
        "target.Target.attempt": 1,
        "target.Target.state": Pending(),
        "task.Operation.payload": "{}",
    }


def test_a_word_is_written_as_it_is_called() -> None:
    assert [word for words in WORDS for word in words if word.value != word.name.lower()] == []
    assert len(WORDS) > 5
