"""Every surface under a thousand inputs, and what the engine itself must be able to see."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final

import pytest

from .engine import Found, Input, Surface, fuzz
from .surface_requests import Requests
from .surfaces import SURFACES, surface_of

INPUTS: Final = 50_000 if os.environ.get("OPDISPATCH_DEEP") else 1_000
SEED: Final = 2026


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", SURFACES)
def test_no_input_breaks_anything(name: str) -> None:
    with surface_of(name) as surface:
        found: Found = fuzz(surface, INPUTS, SEED)

    assert not found.faults, "\n\n".join(map(str, found.faults))
    assert found.values > 0
    assert found.rejections > INPUTS // 10
    assert found.inputs == found.seeds + INPUTS


def test_some_requests_go_over_a_channel() -> None:
    with surface_of("requests") as surface:
        assert isinstance(surface, Requests)
        fuzz(surface, 200, SEED)

        assert surface.over_a_channel >= 3


@pytest.mark.parametrize("name", SURFACES)
def test_the_same_seed_gives_the_same_inputs(name: str) -> None:
    with surface_of(name) as surface:
        assert surface.seeds
        first, second, other = (
            [surface.mutated(chance) for _ in range(20)] for chance in (Random(1), Random(1), Random(2))
        )

    assert first == second != other


class _Picky(Surface):
    """Breaks at a semicolon, and else takes what has an even size."""

    name: ClassVar[str] = "picky"

    @property
    def seeds(self) -> Sequence[Input]:
        return (Input("text", b"ab"),)

    def mutated(self, chance: Random) -> Input:
        return Input("text", bytes(chance.choices(b"abcdefgh;", k=8)))

    def value(self, given: Input) -> Any:
        return given.data

    def takes(self, given: Input) -> bool:
        if b";" in given.data:
            raise KeyError("semicolon")
        return len(given.data) % 2 == 0


def test_a_fault_is_shown_once_as_a_small_test_that_can_be_pasted(tmp_path: Path) -> None:
    with _Picky(tmp_path) as surface:
        found = fuzz(surface, 50, SEED)

    (fault,) = found.faults
    assert fault.given == Input("text", b";")
    assert "KeyError: 'semicolon'" in str(fault)
    assert "surface.takes(Input('text', b';'))" in str(fault)
    assert found.values + found.rejections < found.inputs


def test_a_golden_file_that_is_refused_is_a_fault(tmp_path: Path) -> None:
    class Refusing(_Picky):
        def takes(self, given: Input) -> bool:
            return False

    with Refusing(tmp_path) as surface:
        found = fuzz(surface, 0, SEED)

    assert [fault.how for fault in found.faults] == ["a golden file is refused"]


def test_memory_that_is_not_given_back_is_a_fault(tmp_path: Path) -> None:
    class Hoarding(_Picky):
        def takes(self, given: Input) -> bool:
            kept.append(b"x" * (2 << 20))
            return True

    kept: list[bytes] = []
    with Hoarding(tmp_path) as surface:
        found = fuzz(surface, 80, SEED)

    assert any(fault.given.kind == "all" for fault in found.faults)
