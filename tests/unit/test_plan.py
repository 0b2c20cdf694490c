"""Planning: from candidates and a rollout to a frozen cohort, and from that to a run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from opdispatch.candidate import Candidate, Scope
from opdispatch.errors import InvalidInput
from opdispatch.identity import CommandId, run_id_of, target_id_of
from opdispatch.plan import Plan, components_of, new_run, plan, require_same_rollout
from opdispatch.policy.ordering import LocationStrategy, PhysicalOrdering
from opdispatch.policy.phases import CountPhases, EqualPhases, PercentagePhases
from opdispatch.rollout import Rollout
from opdispatch.run import RunStatus
from opdispatch.target import TargetStatus
from tests.racks import component, places, rack, rack_id, racks, rollout

NOW = datetime(2031, 4, 2, 10, 0, tzinfo=UTC)
ROW_BY_ROW = PhysicalOrdering(strategy=LocationStrategy.ROW_BY_ROW)


def names(made: Plan) -> list[str]:
    return [candidate.name for candidate in made.racks]


def two_types(number: int) -> Candidate:
    return rack(number, {"compute": (component(number),), "switch": (component(100 + number),)})


def test_the_references_worked_selection_is_reproduced() -> None:
    assert names(plan(racks(6), rollout(percentage=50))) == ["r2", "r5", "r4"]


def test_racks_that_the_selector_did_not_take_are_counted() -> None:
    assert plan(racks(6), rollout(percentage=50)).unselected == 3


def test_the_cohort_is_cut_in_order() -> None:
    made = plan(racks(6), rollout(ordering=ROW_BY_ROW, phases=CountPhases(counts=(1, 2))))

    phases = [[candidate.name for candidate in made.phase(index)] for index in range(3)]

    assert phases == [["r1"], ["r2", "r3"], ["r4", "r5", "r6"]]


def test_phases_are_cut_from_the_selected_racks() -> None:
    assert plan(racks(10), rollout(percentage=50, phases=EqualPhases(count=3))).sizes == (2, 2, 1)


def test_a_phase_without_targets_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"phase 2 of 3 would get none of the 2 targets; use counts = \[1, 1\]"):
        plan(racks(2), rollout(phases=PercentagePhases(percentages=(10, 30, 60))))


def test_a_rack_without_components_is_dropped_and_listed() -> None:
    dropped = plan([rack(1), rack(2, {})], rollout()).dropped

    assert [(entry.candidate.name, entry.why) for entry in dropped] == [("r2", "it has no component")]


def test_a_rack_without_a_component_of_the_types_in_scope_is_dropped_and_listed() -> None:
    made = plan([rack(1), two_types(2)], rollout(scope=Scope(component_types=("switch", "power"))))

    assert [(entry.candidate.name, entry.why) for entry in made.dropped] == [
        ("r1", "it has no component of type power, switch")
    ]


def test_the_types_in_scope_are_told_in_order() -> None:
    made = plan([rack(1), two_types(2)], rollout(scope=Scope(component_types=("switch", "e", "d", "c", "b", "a"))))

    assert [entry.why for entry in made.dropped] == ["it has no component of type a, b, c, d, e, switch"]


def test_a_rack_whose_components_are_all_excluded_is_dropped_and_listed() -> None:
    made = plan(racks(2), rollout(), excluded=frozenset({component(1)}))

    assert [(entry.candidate.name, entry.why) for entry in made.dropped] == [
        ("r1", "all its components are in excluded runs")
    ]


def test_a_rack_whose_components_of_the_types_in_scope_are_excluded_is_dropped_for_that() -> None:
    scope = Scope(component_types=("compute",))

    made = plan([two_types(1), two_types(2)], rollout(scope=scope), excluded=frozenset({component(1)}))

    assert [(entry.candidate.name, entry.why) for entry in made.dropped] == [
        ("r1", "all its components are in excluded runs")
    ]


def test_dropped_racks_are_listed_as_the_inventory_has_them() -> None:
    made = plan(racks(2), rollout(), excluded=frozenset({component(1)}))

    assert made.dropped[0].candidate == rack(1)


def test_dropped_racks_are_listed_in_order_of_id() -> None:
    made = plan([rack(3, {}), rack(1), rack(2, {})], rollout())

    assert [entry.candidate.name for entry in made.dropped] == ["r2", "r3"]


def test_a_rack_is_narrowed_to_the_types_in_scope() -> None:
    made = plan([two_types(1)], rollout(scope=Scope(component_types=("switch",))))

    assert made.racks[0].components == {"switch": (component(101),)}


def test_excluded_components_are_taken_away_type_by_type() -> None:
    made = plan([two_types(1)], rollout(), excluded=frozenset({component(1)}))

    assert made.racks[0].components == {"switch": (component(101),)}


def test_a_type_keeps_the_components_that_are_not_excluded() -> None:
    given = rack(1, {"compute": (component(1), component(2))})

    assert plan([given], rollout(), excluded=frozenset({component(1)})).racks[0].components == {
        "compute": (component(2),)
    }


def test_a_rack_that_nothing_narrows_is_planned_as_it_is() -> None:
    assert plan([rack(1)], rollout(), excluded=frozenset({component(9)})).racks == (rack(1),)


def test_a_rack_that_is_met_twice_is_planned_once() -> None:
    assert names(plan([rack(1), rack(1)], rollout())) == ["r1"]


def test_the_components_of_a_rack_that_is_met_twice_are_joined() -> None:
    halves = [rack(1, {"compute": (component(1),)}), rack(1, {"compute": (component(2),), "switch": (component(3),)})]

    assert plan(halves, rollout()).racks[0].components == {
        "compute": (component(1), component(2)),
        "switch": (component(3),),
    }


def test_of_two_names_of_one_rack_the_same_one_stands_whichever_is_met_first() -> None:
    twins = [rack(1, name="b", row="1", labels={"group": ("x",)}), rack(1, name="a")]

    assert plan(twins, rollout()).racks == plan(twins[::-1], rollout()).racks


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"name": "a"}, {"name": "b"}),
        ({"site": None}, {"site": "A"}),
        ({"room": "1"}, {"room": "2"}),
        ({"row": "1"}, {"row": "2"}),
        ({"position": "1"}, {"position": "2"}),
        ({"labels": {}}, {"labels": {"zone": ("x",)}}),
        ({"labels": {"group": ("x",)}}, {"labels": {"zone": ("x",)}}),
        ({"labels": {"zone": ("x",)}}, {"labels": {"zone": ("y",)}}),
    ],
    ids=["name", "site", "room", "row", "position", "no label", "label", "value of a label"],
)
def test_where_two_entries_of_one_rack_disagree_the_one_that_sorts_first_stands(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    twins = [rack(1, **first), rack(1, **second)]

    assert plan(twins, rollout()).racks == plan(twins[::-1], rollout()).racks == (twins[0],)


def test_a_rack_out_of_scope_is_passed_over() -> None:
    made = plan(racks(2), rollout(scope=Scope(racks=("r1",))))

    assert (names(made), made.dropped, made.unselected) == (["r1"], (), 0)


def test_every_named_rack_that_is_not_in_scope_is_told() -> None:
    with pytest.raises(InvalidInput) as error:
        plan(racks(2), rollout(scope=Scope(racks=("r7", "r1", "r8"))))

    assert [str(problem) for problem in error.value.problems] == [
        "$.scope.racks[0]: no rack in scope is called 'r7'",
        "$.scope.racks[2]: no rack in scope is called 'r8'",
    ]


def test_a_name_on_two_racks_is_refused() -> None:
    with pytest.raises(InvalidInput, match="2 racks in scope are called 'closet'; use the rack's id"):
        plan([rack(1, name="closet"), rack(2, name="closet")], rollout(scope=Scope(racks=("closet",))))


def test_a_name_on_two_racks_may_be_used_where_one_is_in_scope() -> None:
    given = [rack(1, name="closet", site="a"), rack(2, name="closet", site="b")]

    made = plan(given, rollout(scope=Scope(racks=("closet",), sites=("b",))))

    assert [candidate.id for candidate in made.racks] == [rack_id(2)]


def test_a_rack_may_be_named_by_its_id() -> None:
    assert names(plan(racks(2), rollout(scope=Scope(racks=(str(rack_id(2)),))))) == ["r2"]


def test_a_rack_that_is_called_by_its_id_means_one_rack() -> None:
    given = rack(1, name=str(rack_id(1)))

    assert plan([given], rollout(scope=Scope(racks=(given.name,)))).racks == (given,)


def test_a_component_in_two_racks_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"is in rack 'r1' .* and in rack 'r2' .*mend the inventory"):
        plan([rack(1, {"a": (component(7),)}), rack(2, {"b": (component(7),)})], rollout())


def test_a_component_in_two_racks_that_is_out_of_scope_does_not_matter() -> None:
    given = [rack(n, {"compute": (component(n),), "power": (component(99),)}) for n in (1, 2)]

    assert plan(given, rollout(scope=Scope(component_types=("compute",)))).sizes == (2,)


def test_a_plan_without_targets_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no target is left: 1 racks are in scope, and 1 of them have no component"):
        plan([rack(1, {})], rollout())


def test_a_plan_without_racks_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no target is left: 0 racks are in scope"):
        plan([], rollout())


def test_a_plan_that_cannot_be_says_what_to_do() -> None:
    with pytest.raises(InvalidInput) as empty:
        plan([rack(1, {})], rollout())
    with pytest.raises(InvalidInput) as ambiguous:
        plan([rack(1, name="closet"), rack(2, name="closet")], rollout(scope=Scope(racks=("closet",))))
    with pytest.raises(InvalidInput) as shared:
        plan([rack(1, {"a": (component(7),)}), rack(2, {"b": (component(7),)})], rollout())

    assert [str(error.value) for error in (empty, ambiguous, shared)] == [
        (
            "$.scope: no target is left: 1 racks are in scope, and 1 of them have no component left; "
            "widen the scope, or look at the inventory"
        ),
        "$.scope.racks[0]: 2 racks in scope are called 'closet'; use the rack's id, or name its site",
        (
            f"inventory: component {component(7)} is in rack 'r1' ({rack_id(1)}) and in rack 'r2' ({rack_id(2)}); "
            "a component can be upgraded by one target alone; mend the inventory"
        ),
    ]


def test_the_components_of_targets_are_put_together() -> None:
    assert components_of([{"a": (component(1),), "b": (component(2),)}, {"a": (component(3),)}]) == {
        component(1),
        component(2),
        component(3),
    }


def test_a_run_has_the_id_of_its_command() -> None:
    made = new_run(plan(racks(1), rollout()), command_id=CommandId("c-1"), actor="alice", now=NOW)

    assert made.run.id == run_id_of(CommandId("c-1"))


def test_a_run_begins_pending_at_the_given_instant_with_all_its_phases() -> None:
    run = new_run(
        plan(racks(4), rollout(phases=EqualPhases(count=2))), command_id=CommandId("c-1"), actor="alice", now=NOW
    ).run

    assert (run.status, run.created_at, run.phases, run.name) == (RunStatus.PENDING, NOW, 2, "firmware")


def test_targets_are_numbered_in_order_and_know_their_phase() -> None:
    made = plan(racks(4), rollout(ordering=ROW_BY_ROW, phases=CountPhases(counts=(1,))))

    targets = new_run(made, command_id=CommandId("c-1"), actor="alice", now=NOW).targets

    assert [(target.rack_name, target.sequence, target.phase) for target in targets] == [
        ("r1", 0, 0),
        ("r2", 1, 1),
        ("r3", 2, 1),
        ("r4", 3, 1),
    ]


def test_a_target_begins_pending_with_the_components_of_its_rack() -> None:
    new = new_run(plan([two_types(1)], rollout()), command_id=CommandId("c-1"), actor="alice", now=NOW)

    target = new.targets[0]

    assert (target.status, target.components) == (TargetStatus.PENDING, two_types(1).components)


@pytest.mark.parametrize(
    ("place", "told"),
    [({}, "command_id: 'create' made run "), ({"place": "--request-id"}, "--request-id: 'create' made run ")],
    ids=["in the core's words", "in the caller's"],
)
def test_a_repeated_create_must_ask_for_the_rollout_that_its_run_is_of(place: dict[str, str], told: str) -> None:
    command_id = CommandId("create")
    known = new_run(plan(racks(2), rollout()), command_id=command_id, actor="ana", now=datetime(2026, 1, 1, tzinfo=UTC))

    require_same_rollout(known.run, rollout(), command_id, **place)

    with pytest.raises(InvalidInput) as refused:
        require_same_rollout(known.run, rollout(percentage=50), command_id, **place)
    assert str(refused.value) == f"{told}{known.run.id} of another rollout; use a new one for a new run"


def test_a_target_has_the_id_of_its_run_and_rack() -> None:
    new = new_run(plan(racks(1), rollout()), command_id=CommandId("c-1"), actor="alice", now=NOW)

    assert new.targets[0].id == target_id_of(new.run.id, rack_id(1))
    assert new.targets[0].rack_id == rack_id(1)


def test_the_caller_is_on_record() -> None:
    new = new_run(plan(racks(1), rollout()), command_id=CommandId("c-1"), actor="alice", now=NOW)

    assert (new.command_id, new.actor) == ("c-1", "alice")


@pytest.mark.parametrize("name", ["", "  ", "x" * 256])
def test_a_rollout_needs_a_name(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"\$\.name: .* is not a name of 1 to 255 characters"):
        rollout(name=name)


def test_a_rollout_may_have_the_longest_name() -> None:
    assert isinstance(rollout(name="x" * 255), Rollout)


def test_everything_that_is_wrong_with_a_rollout_is_told() -> None:
    with pytest.raises(InvalidInput) as error:
        rollout(name="", max_concurrent_targets=0)

    assert places(error.value) == ["$.name", "$.max_concurrent_targets"]
