"""Selection: the reference's order, byte for byte, and its share."""

from __future__ import annotations

from hashlib import sha256

import pytest

from opdispatch.errors import InvalidInput
from opdispatch.policy.selection import PercentageSelector, seeded, select
from tests.racks import places, rack_id, racks


def names(candidates: object) -> list[str]:
    return [candidate.name for candidate in candidates]  # type: ignore[attr-defined]  # any iterable of racks


@pytest.mark.parametrize(
    ("seed", "number", "digest"),
    [
        ("sel-seed", 2, "1604451b"),
        ("sel-seed", 4, "33ea756e"),
        ("sel-seed", 5, "4488e801"),
        ("sel-seed", 3, "5f740f1b"),
        ("sel-seed", 1, "b18b28b6"),
        ("sel-seed", 6, "eedc8c98"),
        ("ord-seed", 2, "65b334d2"),
        ("ord-seed", 5, "900593a5"),
        ("ord-seed", 4, "b22f01fa"),
    ],
)
def test_the_digest_of_seed_and_rack_is_the_references(seed: str, number: int, digest: str) -> None:
    assert sha256(f"{seed}:{rack_id(number)}".encode()).hexdigest().startswith(digest)


def test_the_order_of_a_seed_is_the_references() -> None:
    assert names(seeded(racks(6), "sel-seed")) == ["r2", "r4", "r5", "r3", "r1", "r6"]


def test_half_of_six_racks_are_the_references_three() -> None:
    assert names(select(racks(6), PercentageSelector(percentage=50, seed="sel-seed"))) == ["r2", "r4", "r5"]


def test_the_selected_run_in_the_references_order() -> None:
    selected = select(racks(6), PercentageSelector(percentage=50, seed="sel-seed"))

    assert names(seeded(selected, "ord-seed")) == ["r2", "r5", "r4"]


def test_the_order_of_the_input_does_not_matter() -> None:
    assert seeded(racks(6)[::-1], "sel-seed") == seeded(racks(6), "sel-seed")


def test_another_seed_gives_another_order() -> None:
    assert seeded(racks(6), "ord-seed") != seeded(racks(6), "sel-seed")


@pytest.mark.parametrize(
    ("count", "percentage", "selected"), [(10, 25, 3), (10, 1, 1), (100, 1, 1), (101, 1, 2), (7, 100, 7), (3, 99, 3)]
)
def test_a_share_is_rounded_up(count: int, percentage: int, selected: int) -> None:
    assert len(select(racks(count), PercentageSelector(percentage=percentage, seed="s"))) == selected


@pytest.mark.parametrize("percentage", [1, 100])
def test_a_percentage_may_be_at_its_border(percentage: int) -> None:
    assert PercentageSelector(percentage=percentage, seed="s").percentage == percentage


@pytest.mark.parametrize("percentage", [-1, 0, 101])
def test_a_percentage_beyond_its_border_is_refused(percentage: int) -> None:
    with pytest.raises(InvalidInput, match=f"{percentage} is not within 1 and 100"):
        PercentageSelector(percentage=percentage, seed="s")


def test_everything_that_is_wrong_with_a_selector_is_told() -> None:
    with pytest.raises(InvalidInput) as error:
        PercentageSelector(percentage=0, seed="")

    assert places(error.value) == ["$.selector.percentage", "$.selector.seed"]
