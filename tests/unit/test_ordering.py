"""Ordering: seeded, row by row, or one rack of each row in turn."""

from __future__ import annotations

from itertools import pairwise

import pytest

from opdispatch.candidate import Candidate
from opdispatch.errors import InvalidInput
from opdispatch.policy.ordering import LocationStrategy, PhysicalOrdering, RandomOrdering, natural, order
from tests.racks import rack, racks

ROW_BY_ROW = PhysicalOrdering(strategy=LocationStrategy.ROW_BY_ROW)
ROUND_ROBIN = PhysicalOrdering(strategy=LocationStrategy.ONE_PER_ROW_ROUND_ROBIN)


def names(candidates: tuple[Candidate, ...]) -> list[str]:
    return [candidate.name for candidate in candidates]


@pytest.mark.parametrize(
    "ascending",
    [
        ["r2", "r10"],
        ["r", "r0", "r1"],
        ["", "1"],
        ["9", "a"],
        ["r1a", "r1b", "r2a"],
        ["1.9", "1.10"],
        ["r01", "r1", "r02"],
        ["r", "r\u00b2", "r\u00b3"],
        ["1" * 5000, "1" * 5001],
        ["a1b2", "a1b10", "a2"],
        ["a2", "b1"],
    ],
    ids=lambda texts: texts[-1][:8],
)
def test_numbers_in_text_compare_as_numbers(ascending: list[str]) -> None:
    assert all(natural(one) < natural(next_one) for one, next_one in pairwise(ascending))


def test_a_superscript_is_not_a_number() -> None:
    assert natural("\u00b2") > natural("10")


def test_texts_that_differ_in_leading_zeros_alone_have_different_keys() -> None:
    assert natural("r01") != natural("r1")


def test_random_order_is_that_of_its_seed() -> None:
    assert names(order(racks(6), RandomOrdering(seed="sel-seed"))) == ["r2", "r4", "r5", "r3", "r1", "r6"]


def test_an_empty_ordering_seed_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"\$\.ordering\.seed: it is empty"):
        RandomOrdering(seed="")


@pytest.mark.parametrize("known", [rack(1, row="1", site="A"), rack(1, row="1", room="A")], ids=["site", "room"])
def test_a_row_of_no_known_place_comes_before_those_of_a_known_one(known: Candidate) -> None:
    unknown = rack(2, row="1")

    assert names(order([known, unknown], ROW_BY_ROW)) == ["r2", "r1"]


def test_racks_of_a_row_without_a_known_position_are_taken_in_natural_order_of_their_names() -> None:
    given = [rack(1, name="r10", row="1"), rack(2, name="r9", row="1")]

    assert names(order(given, ROW_BY_ROW)) == ["r9", "r10"]


def test_rows_are_taken_in_natural_order() -> None:
    given = [rack(1, row="10"), rack(2, row="9"), rack(3, row="10")]

    assert names(order(given, ROW_BY_ROW)) == ["r2", "r1", "r3"]


def test_racks_in_a_row_are_taken_by_position() -> None:
    given = [rack(1, row="1", position="10"), rack(2, row="1", position="9")]

    assert names(order(given, ROW_BY_ROW)) == ["r2", "r1"]


def test_racks_without_a_position_come_last_in_their_row() -> None:
    given = [rack(1, row="1"), rack(2, row="1", position="7"), rack(3, row="2", position="1")]

    assert names(order(given, ROW_BY_ROW)) == ["r2", "r1", "r3"]


def test_racks_without_a_position_are_taken_by_name() -> None:
    assert names(order([rack(10, row="1"), rack(9, row="1")], ROW_BY_ROW)) == ["r9", "r10"]


def test_racks_of_the_same_name_are_taken_by_id() -> None:
    given = [rack(2, name="x"), rack(1, name="x")]

    assert [candidate.id for candidate in order(given, ROW_BY_ROW)] == [given[1].id, given[0].id]


def test_racks_without_a_row_come_last() -> None:
    assert names(order([rack(1), rack(2, row="1")], ROW_BY_ROW)) == ["r2", "r1"]


def test_rows_of_the_same_name_at_two_sites_are_two_rows() -> None:
    given = [rack(1, site="a", row="1"), rack(2, site="a", row="1"), rack(3, site="b", row="1")]

    assert names(order(given, ROUND_ROBIN)) == ["r1", "r3", "r2"]


def test_rows_of_the_same_name_in_two_rooms_are_two_rows() -> None:
    given = [rack(1, room="2", row="1"), rack(2, room="2", row="1"), rack(3, room="10", row="1")]

    assert names(order(given, ROUND_ROBIN)) == ["r1", "r3", "r2"]


def test_one_rack_of_each_row_is_taken_in_turn_until_all_are() -> None:
    given = [rack(number, row=str(1 + number // 10)) for number in (1, 2, 3, 11, 21, 22)]

    assert names(order(given, ROUND_ROBIN)) == ["r1", "r11", "r21", "r2", "r22", "r3"]


def test_racks_without_a_row_take_turns_as_one_last_row() -> None:
    given = [rack(1), rack(2), rack(3, row="1"), rack(4, row="1"), rack(5, row="1")]

    assert names(order(given, ROUND_ROBIN)) == ["r3", "r1", "r4", "r2", "r5"]


@pytest.mark.parametrize("ordering", [ROW_BY_ROW, ROUND_ROBIN, RandomOrdering(seed="s")])
def test_no_racks_are_in_order(ordering: PhysicalOrdering | RandomOrdering) -> None:
    assert order([], ordering) == ()
