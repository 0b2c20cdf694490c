"""Candidates and scopes: what a rack is, and which racks are meant."""

from __future__ import annotations

import pytest

from opdispatch.candidate import Scope
from opdispatch.errors import InvalidInput
from tests.racks import component, places, rack, rack_id


def test_components_are_in_order_of_type_and_id() -> None:
    candidate = rack(1, {"switch": (component(3),), "compute": (component(2), component(1))})

    assert list(candidate.components.items()) == [
        ("compute", (component(1), component(2))),
        ("switch", (component(3),)),
    ]


def test_components_cannot_be_changed_through_what_was_passed_in() -> None:
    given = {"compute": (component(1),)}
    candidate = rack(1, given)

    given["switch"] = (component(2),)

    assert "switch" not in candidate.components


def test_a_component_type_without_a_component_is_refused() -> None:
    with pytest.raises(InvalidInput, match="needs a name and at least one component"):
        rack(1, {"compute": ()})


def test_a_component_type_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidInput, match="needs a name and at least one component"):
        rack(1, {"": (component(1),)})


def test_a_component_that_is_named_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="is named twice"):
        rack(1, {"compute": (component(1),), "switch": (component(1),)})


def test_label_values_are_ascending_and_named_once() -> None:
    candidate = rack(1, labels={"power_domain": ("b", "a", "b")})

    assert candidate.labels == {"power_domain": ("a", "b")}


def test_a_scope_cannot_be_changed_through_what_was_passed_in() -> None:
    given = {"zone": ("a",)}
    scope = Scope(labels=given)

    given["group"] = ("b",)

    assert scope.labels == {"zone": ("a",)}


def test_an_empty_scope_holds_every_rack() -> None:
    assert Scope().holds(rack(1))


def test_a_scope_holds_a_rack_that_it_names() -> None:
    assert Scope(racks=("r1",)).holds(rack(1))


def test_a_scope_holds_a_rack_that_it_names_by_id() -> None:
    assert Scope(racks=(str(rack_id(1)),)).holds(rack(1))


def test_a_scope_does_not_hold_a_rack_that_it_does_not_name() -> None:
    assert not Scope(racks=("r1",)).holds(rack(2))


@pytest.mark.parametrize(
    "scope",
    [Scope(sites=("here", "there")), Scope(rooms=("here", "there")), Scope(rows=("here", "there"))],
    ids=["sites", "rooms", "rows"],
)
def test_a_scope_narrows_to_its_places(scope: Scope) -> None:
    held = [scope.holds(rack(1, site=where, room=where, row=where)) for where in ("here", "there", "elsewhere", None)]

    assert held == [True, True, False, False]


def test_a_scope_asks_for_one_value_of_a_label() -> None:
    scope = Scope(labels={"power_domain": ("a", "b")})

    assert scope.holds(rack(1, labels={"power_domain": ("b", "c")}))


def test_a_scope_asks_for_a_value_of_each_label() -> None:
    scope = Scope(labels={"power_domain": ("a",), "group": ("x",)})

    assert not scope.holds(rack(1, labels={"power_domain": ("a",)}))


def test_a_scope_does_not_narrow_by_component_type() -> None:
    assert Scope(component_types=("switch",)).holds(rack(1))


def test_the_racks_in_scope_keep_their_order() -> None:
    scope = Scope(racks=("r1", "r3"))

    assert [candidate.name for candidate in scope.of([rack(3), rack(2), rack(1)])] == ["r3", "r1"]


def test_every_label_without_a_value_is_told() -> None:
    with pytest.raises(InvalidInput) as error:
        Scope(labels={"group": (), "status": ("x",), "power_domain": ()})

    assert places(error.value) == ["$.scope.labels.group", "$.scope.labels.power_domain"]


def test_labels_and_their_values_are_in_order_however_they_are_given() -> None:
    labels = rack(1, labels={"zone": ("y", "x", "y"), "group": ("a",)}).labels

    assert list(labels.items()) == [("group", ("a",)), ("zone", ("x", "y"))]
