"""Stored documents: there and back is identity, and nothing is read that was not meant."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opdispatch.action import Action, HeldBack, RecordTask, Step, SubmitTask, Wait
from opdispatch.candidate import Scope
from opdispatch.command import Command, Reply, Retry, Settle
from opdispatch.errors import CorruptRecord
from opdispatch.identity import CommandId, ComponentId, IdempotencyKey, RackId, RunId, TargetId, TaskId
from opdispatch.observation import Observation, TaskMissing
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.policy.gates import FailureCountGate, FailureRateGate, Gate, GateScope
from opdispatch.policy.ordering import LocationStrategy, PhysicalOrdering, RandomOrdering
from opdispatch.policy.phases import CountPhases, EqualPhases, NoPhases, PercentagePhases, PhasePolicy
from opdispatch.policy.selection import PercentageSelector
from opdispatch.rollout import Rollout
from opdispatch.run import Accepted
from opdispatch.target import FAILURES, SETTLED, Conflict, TargetStatus
from opdispatch.task import Components, Operation, SubmissionRequest, frozen_components
from opdispatch_adapters.sql import documents, rollout_documents, strict

# -- values of any class of the core, from its annotations --

_TEXT = st.text(max_size=12)
_SPECIAL: dict[tuple[type[Any], str], st.SearchStrategy[Any]] = {
    (Operation, "type"): st.text(min_size=1, max_size=64),
    (Operation, "code"): st.text(min_size=1, max_size=64),
    (Retry, "targets"): st.lists(st.uuids().map(TargetId), min_size=1, max_size=3, unique=True).map(tuple),
    (Settle, "status"): st.sampled_from(SETTLED),
    (Settle, "why"): st.text("abc\N{SNOWMAN}", min_size=1, max_size=5),
}


def _components() -> st.SearchStrategy[Components]:
    ids = st.lists(st.uuids().map(ComponentId), min_size=1, max_size=6, unique=True)
    return ids.map(
        lambda found: frozen_components(
            {"Compute": tuple(found[:1])} | ({"CDU": tuple(found[1:])} if found[1:] else {})
        )
    )


def _of(kind: Any) -> st.SearchStrategy[Any]:
    if kind is CommandId:
        return st.text(min_size=1, max_size=20)
    if kind == Components:
        return _components()
    if hasattr(kind, "__supertype__"):
        return _of(kind.__supertype__)
    if get_origin(kind) in (Union, UnionType):
        return st.one_of(*(_of(member) for member in get_args(kind)))
    if get_origin(kind) is tuple:
        return st.lists(_of(get_args(kind)[0]), max_size=3).map(tuple)
    if is_dataclass(kind) and isinstance(kind, type):
        return _built(kind)
    if issubclass(kind, Enum):
        return st.sampled_from(kind)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: _TEXT,
        int: st.integers(1),
        bool: st.booleans(),
        UUID: st.uuids(),
        datetime: st.datetimes(timezones=st.just(UTC)),
        timedelta: st.timedeltas(min_value=timedelta(microseconds=1)),
        type(None): st.none(),
    }
    return plain[kind]


def _of_field(owner: type[Any], name: str, kind: Any) -> st.SearchStrategy[Any]:
    return _SPECIAL[owner, name] if (owner, name) in _SPECIAL else _of(kind)


def _built(kind: type[Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind)
    return st.builds(kind, **{f.name: _of_field(kind, f.name, hints[f.name]) for f in fields(kind) if f.init})


# -- our own documents --

_ROUND_TRIPS: list[tuple[str, Any, Callable[[Any], str], Callable[[str, object], Any]]] = [
    ("observations", tuple[Observation, ...], documents.observations_text, documents.observations_from),
    ("steps", tuple[Step, ...], documents.steps_text, documents.steps_from),
    ("held_back", tuple[HeldBack, ...], documents.held_back_text, documents.held_back_from),
    ("command", Command, documents.command_text, documents.command_from),
    ("reply", Reply, documents.reply_text, documents.reply_from),
    ("accepted", tuple[Accepted, ...], documents.accepted_text, documents.accepted_from),
]


@pytest.mark.parametrize(("kind", "write", "read"), [r[1:] for r in _ROUND_TRIPS], ids=[r[0] for r in _ROUND_TRIPS])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_as_it_was(
    kind: Any, write: Callable[[Any], str], read: Callable[[str, object], Any], data: st.DataObject
) -> None:
    value = data.draw(_of(kind))

    assert read("it", write(value)) == value


@pytest.mark.parametrize(
    ("union", "kinds"),
    [
        (Action, documents.ACTIONS),
        (Observation, documents.OBSERVATIONS),
        (Command, documents.COMMANDS),
    ],
    ids=["actions", "observations", "commands"],
)
def test_every_member_of_a_union_has_one_kind(union: Any, kinds: dict[str, type[Any]]) -> None:
    assert set(kinds.values()) == set(get_args(union))
    assert len(kinds) == len(get_args(union))


@pytest.mark.parametrize("kind", get_args(Action), ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_every_action_comes_back_as_its_own_class(kind: type[Any], data: st.DataObject) -> None:
    step = Step(action=data.draw(_built(kind)), because="so")

    (found,) = documents.steps_from("it", documents.steps_text((step,)))

    assert type(found.action) is kind
    assert found == step


_IDS = st.uuids().map(str) | st.sampled_from(["t1", "", str(UUID(int=7)).upper(), f"{UUID(int=7).hex}    ", "é" * 36])


@given(tasks=st.lists(_IDS, min_size=1, max_size=4), targets=st.lists(st.uuids(), min_size=4, max_size=4))
def test_ids_come_back_as_they_were_whatever_they_look_like(tasks: list[str], targets: list[UUID]) -> None:
    steps = tuple(
        Step(action=RecordTask(target_id=TargetId(target), task_id=TaskId(task)), because="so")
        for target, task in zip(targets, tasks, strict=False)
    )

    assert documents.steps_from("it", documents.steps_text(steps)) == steps


_TWO = tuple(
    Step(action=RecordTask(target_id=TargetId(UUID(int=n)), task_id=TaskId(str(UUID(int=10 + n)))), because="so")
    for n in (1, 2)
)


def _batched(version: int, target_ids: object) -> str:
    columns = {"target_id": target_ids, "task_id": [str(UUID(int=11)), str(UUID(int=12))]}
    batch = {"kind": "record_task", "count": 2, "columns": columns, "because": ["so"]}
    return json.dumps({"version": version, "value": [batch]})


def test_a_document_that_has_every_id_by_itself_is_read_too() -> None:
    assert documents.steps_from("it", _batched(2, [str(UUID(int=1)), str(UUID(int=2))])) == _TWO


def test_many_ids_take_little_more_room_than_their_bytes() -> None:
    text = documents.steps_text(_TWO)

    assert base64.b64encode(UUID(int=1).bytes + UUID(int=2).bytes).decode() in text
    assert documents.steps_from("it", text) == _TWO


@pytest.mark.parametrize("ids", ["AAAA", "AAA", "?", base64.b64encode(bytes(48)).decode(), ""])
def test_ids_that_are_not_so_many_are_not_read(ids: str) -> None:
    with pytest.raises(CorruptRecord, match="it cannot be read"):
        documents.steps_from("it", _batched(3, ids))


def test_components_in_a_submission_come_back_in_canonical_form() -> None:
    request = SubmissionRequest(
        key=IdempotencyKey("k"),
        run_id=RunId(UUID(int=1)),
        target_id=TargetId(UUID(int=2)),
        attempt=1,
        fence=1,
        rack_id=RackId(UUID(int=3)),
        rack_name="r3",
        components=frozen_components({"b": (ComponentId(UUID(int=9)),), "a": (ComponentId(UUID(int=8)),)}),
        operation=Operation(type="t", code="c", payload="not json"),
        resubmission=False,
    )
    step = Step(action=SubmitTask(request=request), because="so")

    (found,) = documents.steps_from("it", documents.steps_text((step,)))

    assert found == step


_REPLY = {"command_id": "c", "message": "m", "revision": 3, "open_claims": 0, "refusal": None}


def _reply(**changes: object) -> str:
    return json.dumps({"version": 1, "value": {**_REPLY, **changes}})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (_reply(revision=True), "true is not an integer @ $.revision"),
        (_reply(revision="3"), '"3" is not an integer @ $.revision'),
        (_reply(revision=2.9), "2.9 is not an integer @ $.revision"),
        (_reply(message=5), "5 is not text @ $.message"),
        (_reply(message=None), "null is not text @ $.message"),
        (_reply(refusal="NO_SUCH_CODE"), '"NO_SUCH_CODE" is not one of'),
        (_reply(more=1), "more"),
        (json.dumps({"version": 2, "value": _REPLY}), "version 2 is not known"),
        (json.dumps({"version": True, "value": _REPLY}), "version true is not known"),
        (json.dumps({"value": _REPLY}), "version null is not known"),
        (json.dumps({"version": 1, "value": _REPLY, "more": 1}), "instead of version and value"),
        (json.dumps({"version": 1, "value": {"command_id": "c"}}), "the key 'message' is missing"),
        (json.dumps({"version": 1, "value": [_REPLY]}), "is not an object"),
        ("[]", "[] is not an object"),
        ("{", "Expecting property name"),
        (None, "null is not the text of a document"),
    ],
)
def test_a_document_that_says_something_else_is_not_read(text: object, told: str) -> None:
    with pytest.raises(CorruptRecord) as refused:
        documents.reply_from("run r, column reply", text)

    assert refused.value.what == "run r, column reply"
    assert told in refused.value.detail


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(CorruptRecord) as refused:
        documents.reply_from("it", _reply(revision="3", message=5))

    assert "$.revision" in refused.value.detail
    assert "$.message" in refused.value.detail


@pytest.mark.parametrize(
    "observation",
    [
        {"kind": "task_vanished", "target_id": str(UUID(int=1))},
        {"target_id": str(UUID(int=1))},
        {"kind": ["task_missing"]},
        "task_missing",
    ],
    ids=["unknown kind", "no kind", "kind of another type", "not an object"],
)
def test_an_unknown_kind_is_not_read(observation: object) -> None:
    text = json.dumps({"version": 1, "value": [observation]})

    with pytest.raises(CorruptRecord, match=r"\$"):
        documents.observations_from("it", text)


@pytest.mark.parametrize(
    "looked_at",
    [
        "2026-01-01 00:00:00Z",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00+00:00",
        "2026-13-01T00:00:00Z",
        "2026-01-01T00:00:00.1234567Z",
        1767225600,
    ],
)
def test_an_instant_is_rfc_3339_in_utc_to_the_microsecond(looked_at: object) -> None:
    seen = {"kind": "task_missing", "target_id": str(UUID(int=1)), "task_id": "t", "looked_at": looked_at}

    with pytest.raises(CorruptRecord, match=r"\$\[0\]\.looked_at"):
        documents.observations_from("it", json.dumps({"version": 1, "value": [seen]}))


@pytest.mark.parametrize("because", [{}, {"because": None}, {"because": "a word"}, {"because": {"a": "word"}}])
def test_steps_without_a_list_of_reasons_are_not_read(because: dict[str, object]) -> None:
    batch = {"kind": "set_operator_hold", "count": 1, "columns": {}, **because}

    with pytest.raises(CorruptRecord, match="is not a list"):
        documents.steps_from("it", json.dumps({"version": 2, "value": [batch]}))


@pytest.mark.parametrize("version", [1, 2])
def test_a_document_of_several_values_without_a_list_is_not_read(version: int) -> None:
    with pytest.raises(CorruptRecord, match="null is not a list"):
        documents.observations_from("it", json.dumps({"version": version}))


def test_an_instant_is_written_with_six_digits_in_utc() -> None:
    seen = TaskMissing(target_id=TargetId(UUID(int=1)), task_id=TaskId("t"), looked_at=datetime(2026, 1, 1, tzinfo=UTC))

    assert '"2026-01-01T00:00:00.000000Z"' in documents.observations_text((seen,))


def test_an_instant_without_a_zone_is_not_written() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        strict.instant_text(datetime(2026, 1, 1))  # noqa: DTZ001  # that is the point


@given(first=st.datetimes(timezones=st.just(UTC)), second=st.datetimes(timezones=st.just(UTC)))
def test_the_text_of_instants_sorts_like_the_instants(first: datetime, second: datetime) -> None:
    assert (strict.instant_text(first) < strict.instant_text(second)) == (first < second)


# -- the reference's documents --

_WAITS = st.timedeltas(timedelta(microseconds=1), timedelta(days=30))
_WORDS = st.lists(st.text(min_size=1, max_size=6), max_size=3).map(tuple)


@st.composite
def _conflicts(draw: st.DrawFn) -> ConflictRetry:
    initial, longest = sorted((draw(_WAITS), draw(_WAITS)))
    return ConflictRetry(window=draw(_WAITS), initial_delay=initial, max_delay=longest)


def _gates() -> st.SearchStrategy[Gate]:
    outcomes = st.sampled_from((FAILURES, frozenset({TargetStatus.FAILED}), frozenset({TargetStatus.TERMINATED})))
    rate = st.builds(
        FailureRateGate, threshold_percent=st.integers(1, 100), scope=st.sampled_from(GateScope), outcomes=outcomes
    )
    count = st.builds(
        FailureCountGate, threshold_count=st.integers(1), scope=st.sampled_from(GateScope), outcomes=outcomes
    )
    return rate | count


def _phases() -> st.SearchStrategy[PhasePolicy]:
    shares = st.sampled_from(((100,), (1, 99), (20, 30, 50)))
    return st.one_of(
        st.just(NoPhases()),
        st.builds(EqualPhases, count=st.integers(1)),
        st.builds(PercentagePhases, percentages=shares),
        st.builds(CountPhases, counts=st.lists(st.integers(1), min_size=1, max_size=3).map(tuple)),
    )


_ROLLOUTS = st.builds(
    Rollout,
    name=st.text("ab c", min_size=1, max_size=10).filter(str.strip),
    description=_TEXT,
    operation=st.builds(
        Operation,
        type=st.text(min_size=1, max_size=64),
        code=st.text(min_size=1, max_size=64),
        description=_TEXT,
        payload=_TEXT | st.sampled_from(('{"a": 1.0, "a": 2}', "[1]", '{"x": 1e999}', '{"n": NaN}', "{ }")),
    ),
    selector=st.builds(PercentageSelector, percentage=st.integers(1, 100), seed=st.text(min_size=1, max_size=5)),
    ordering=st.builds(RandomOrdering, seed=st.text(min_size=1, max_size=5))
    | st.builds(PhysicalOrdering, strategy=st.sampled_from(LocationStrategy)),
    max_concurrent_targets=st.integers(1),
    gates=st.lists(_gates(), max_size=3).map(tuple),
    phases=_phases(),
    auto_advance=st.booleans(),
    conflict=_conflicts(),
    scope=st.builds(
        Scope,
        racks=_WORDS,
        sites=_WORDS,
        rooms=_WORDS,
        rows=_WORDS,
        labels=st.dictionaries(_TEXT, st.lists(_TEXT, min_size=1, max_size=2).map(tuple), max_size=2),
        component_types=_WORDS,
        excluded_runs=st.lists(st.uuids().map(RunId), max_size=2).map(tuple),
    ),
)


def _read(rollout: Rollout, **columns: object) -> Rollout:
    texts: dict[str, Any] = {
        "selector": rollout_documents.selector_text(rollout),
        "options": rollout_documents.options_text(rollout),
        "template": rollout_documents.template_text(rollout),
        **columns,
    }
    return rollout_documents.rollout_from("run r", name=rollout.name, description=rollout.description, **texts)


@given(rollout=_ROLLOUTS)
@settings(max_examples=150, deadline=None)
def test_a_rollout_comes_back_as_it_was(rollout: Rollout) -> None:
    assert _read(rollout) == rollout


# The examples of the flow-storage contract, sections 5.1 to 5.3.
_SELECTOR = '{"kind": "percentage", "payload": {"percentage": 25, "seed": "canary-1"}}'
_OPTIONS: dict[str, Any] = {
    "max_concurrent_targets": 4,
    "safety_policy": {
        "gates": [
            {"kind": "failure_rate", "payload": {"scope": "", "failure_threshold_percent": 20}},
            {"kind": "failure_count", "payload": {"scope": "cumulative_run", "failure_threshold_count": 3}},
        ]
    },
    "conflict_policy": {
        "kind": "retry",
        "payload": {
            "retry_timeout": 3600000000000,
            "initial_retry_delay": 30000000000,
            "max_retry_delay": 300000000000,
        },
    },
    "ordering_policy": {"kind": "random", "payload": {"seed": "shuffle-7"}},
    "phase_policy": {
        "kind": "count",
        "plan": {"phases": [{"count": 1}, {"count": 4}]},
        "advance_policy": {"auto_advance": False},
    },
}
_TEMPLATE: dict[str, Any] = {
    "type": "firmware_control",
    "code": "upgrade",
    "target_scope": {"default_scope_component_filter": {"kind": "types", "types": ["Compute"]}},
    "payload": {"operation": 1, "target_version": "2.4.1"},
}
_OURS = Rollout(
    name="n",
    operation=Operation(type="firmware_control", code="upgrade", payload='{"operation":1,"target_version":"2.4.1"}'),
    selector=PercentageSelector(percentage=25, seed="canary-1"),
    ordering=RandomOrdering(seed="shuffle-7"),
    max_concurrent_targets=4,
    gates=(
        FailureRateGate(threshold_percent=20),
        FailureCountGate(threshold_count=3, scope=GateScope.CUMULATIVE_RUN),
    ),
    phases=CountPhases(counts=(1, 4)),
    conflict=ConflictRetry(),
    scope=Scope(component_types=("Compute",)),
)


def _without(document: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in document.items() if k != key}


def test_the_documents_of_the_reference_are_read() -> None:
    assert _read(_OURS, selector=_SELECTOR, options=json.dumps(_OPTIONS), template=json.dumps(_TEMPLATE)) == _OURS


def test_keys_that_are_not_known_are_passed_over_in_the_documents_of_the_reference() -> None:
    options = json.loads(json.dumps(_OPTIONS))
    options["more"] = options["phase_policy"]["more"] = options["safety_policy"]["gates"][0]["payload"]["more"] = 1

    assert _read(_OURS, options=json.dumps(options)) == _OURS


def test_options_are_written_as_the_reference_writes_them() -> None:
    written = json.loads(rollout_documents.options_text(_OURS))

    expected = json.loads(json.dumps(_OPTIONS))
    expected["safety_policy"]["gates"][0]["payload"]["scope"] = "current_phase"
    assert written == {**expected, "version": 1}


_SPEC = {"Racks": [{"Identifier": {"id": "", "name": "r1"}, "ComponentTypes": None}], "Components": None}
_PICKED = {
    "default_scope_component_filter": {"kind": "components", "components": ["9a000000-0000-4000-8000-00000000000f"]}
}


def test_the_words_in_which_the_reference_named_the_racks_are_the_annex() -> None:
    template = {**_TEMPLATE, "target_spec": _SPEC, "queue_options": None, "target_scope": _PICKED}

    found = _read(_OURS, template=json.dumps(template))

    assert json.loads(found.annex) == {"target_spec": _SPEC, **_PICKED}
    assert found.scope == Scope()


def test_an_annex_is_written_where_the_reference_looks_and_read_byte_for_byte() -> None:
    annex = json.dumps({"queue_options": {"conflict_strategy": 1}, "target_spec": _SPEC, **_PICKED, "more": 1.0})
    ours = replace(_OURS, annex=annex, scope=Scope())

    text = rollout_documents.template_text(ours)

    document = json.loads(text)
    assert (document["target_spec"], document["queue_options"]) == (_SPEC, {"conflict_strategy": 1})
    assert document["target_scope"] == _PICKED
    assert "more" not in document
    assert _read(_OURS, template=text) == ours


_UNDIVIDED = {"kind": "equal", "plan": {"phase_count": 1}, "advance_policy": {"auto_advance": False}}


def test_a_single_phase_is_written_so_that_the_reference_reads_one() -> None:
    written = json.loads(rollout_documents.options_text(replace(_OURS, phases=NoPhases())))

    assert written["phase_policy"] == {**_UNDIVIDED, "undivided": True}


@pytest.mark.parametrize(
    ("policy", "phases"),
    [
        ({"phase_policy": {**_UNDIVIDED, "undivided": True}}, NoPhases()),
        ({"phase_policy": {**_UNDIVIDED, "undivided": 1}}, EqualPhases(count=1)),
        ({"phase_policy": _UNDIVIDED}, EqualPhases(count=1)),
        ({"phase_policy": {**_UNDIVIDED, "plan": {"phase_count": 2}, "undivided": True}}, EqualPhases(count=2)),
        ({"phase_policy": {"kind": "none"}}, NoPhases()),
        ({}, NoPhases()),
    ],
)
def test_a_single_phase_is_read_however_it_was_written(policy: dict[str, Any], phases: PhasePolicy) -> None:
    options = {**_without(_OPTIONS, "phase_policy"), **policy}

    assert _read(_OURS, options=json.dumps(options)) == replace(_OURS, phases=phases)


def test_outcomes_are_written_only_where_they_are_narrowed() -> None:
    narrowed = FailureCountGate(threshold_count=1, outcomes=frozenset({TargetStatus.FAILED}))
    rollout = Rollout(
        name="n",
        operation=_OURS.operation,
        selector=_OURS.selector,
        ordering=_OURS.ordering,
        max_concurrent_targets=1,
        gates=(narrowed, FailureCountGate(threshold_count=1)),
    )

    first, second = json.loads(rollout_documents.options_text(rollout))["safety_policy"]["gates"]

    assert first["payload"]["outcomes"] == ["failed"]
    assert "outcomes" not in second["payload"]


def _waiting(window: object) -> dict[str, Any]:
    policy = _OPTIONS["conflict_policy"]
    return {**_OPTIONS, "conflict_policy": {**policy, "payload": {**policy["payload"], "retry_timeout": window}}}


@pytest.mark.parametrize(
    ("column", "document", "told"),
    [
        ("selector", {"kind": "lottery", "payload": {}}, 'unknown kind "lottery"'),
        ("selector", {"kind": "percentage"}, "null is not an object"),
        ("selector", {"kind": "percentage", "payload": {"percentage": 101, "seed": "s"}}, "101 is not within"),
        ("options", {**_OPTIONS, "max_concurrent_targets": True}, "$.max_concurrent_targets"),
        ("options", {**_OPTIONS, "version": 2}, "version 2 is not known"),
        ("options", _without(_OPTIONS, "conflict_policy"), "'conflict_policy' is missing"),
        ("options", {**_OPTIONS, "safety_policy": {"gates": [{"kind": "mood", "payload": {}}]}}, "gates[0]"),
        ("options", {**_OPTIONS, "phase_policy": {"kind": "equal", "plan": {"phase_count": "3"}}}, "phase_count"),
        (
            "options",
            {**_OPTIONS, "safety_policy": {"gates": [{"kind": "failure_count", "payload": {"scope": "mood"}}]}},
            '"mood" is not one of current_phase, cumulative_run',
        ),
        ("options", _waiting("soon"), '"soon" is not an integer @ $.conflict_policy.window'),
        ("options", _waiting(10**40), "is too long @ $.conflict_policy.window"),
        (
            "template",
            {**_TEMPLATE, "target_scope": {"default_scope_component_filter": {"kind": "moods"}}},
            'unknown kind "moods"',
        ),
        ("template", _without(_TEMPLATE, "payload"), "null is not an object"),
    ],
)
def test_a_document_that_cannot_be_carried_out_is_not_read(column: str, document: object, told: str) -> None:
    with pytest.raises(CorruptRecord) as refused:
        _read(_OURS, **{column: json.dumps(document)})

    assert refused.value.what.startswith("run r, column ")
    assert told in refused.value.detail


def test_documents_that_make_no_rollout_name_the_run() -> None:
    with pytest.raises(CorruptRecord, match=r"run r .*max_concurrent_targets: 0 is below 1"):
        _read(_OURS, options=json.dumps({**_OPTIONS, "max_concurrent_targets": 0}))


@pytest.mark.parametrize(
    ("more", "annex"),
    [
        ({"target_spec": {"Racks": [], "Components": None}}, {"target_spec": {"Racks": [], "Components": None}}),
        ({"queue_options": {"conflict_strategy": 1}}, {"queue_options": {"conflict_strategy": 1}}),
        ({"target_spec": None, "queue_options": None}, {}),
    ],
)
def test_what_only_the_planning_of_the_reference_needed_is_kept_as_it_is(
    more: dict[str, Any], annex: dict[str, Any]
) -> None:
    found = _read(_OURS, template=json.dumps({**_TEMPLATE, **more}))

    assert json.loads(found.annex) == annex
    assert replace(found, annex="{}") == _OURS


@pytest.mark.parametrize(("more", "microseconds"), [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2)])
def test_a_duration_finer_than_a_microsecond_is_rounded_up(more: int, microseconds: int) -> None:
    options = json.loads(json.dumps(_OPTIONS))
    options["conflict_policy"]["payload"]["retry_timeout"] += more

    found = _read(_OURS, options=json.dumps(options))

    assert found.conflict.window == timedelta(hours=1, microseconds=microseconds)


_BLOCKED_SINCE = datetime(2026, 3, 2, 8, 15, 30, 250000, tzinfo=UTC)
_RETRY_STATE = {"blocked_since": "2026-03-02T08:15:30.25Z", "attempts": 3, "last_retry_delay_seconds": 30}


@pytest.mark.parametrize(
    ("state", "conflict"),
    [
        (_RETRY_STATE, Conflict(since=_BLOCKED_SINCE, count=3, delay=timedelta(seconds=30))),
        (
            {**_RETRY_STATE, "blocked_since": "2026-03-02T08:15:30.250000999Z", "more": 1},
            Conflict(since=_BLOCKED_SINCE, count=3, delay=timedelta(seconds=30)),
        ),
        (
            {**_RETRY_STATE, "last_retry_delay_seconds": 0},
            Conflict(since=_BLOCKED_SINCE, count=3, delay=timedelta(seconds=1)),
        ),
        ({**_RETRY_STATE, "attempts": 0}, None),
        ({**_RETRY_STATE, "attempts": "3"}, None),
        ({**_RETRY_STATE, "attempts": True}, None),
        ({**_RETRY_STATE, "last_retry_delay_seconds": -1}, None),
        ({**_RETRY_STATE, "last_retry_delay_seconds": 10**18}, None),
        ({**_RETRY_STATE, "blocked_since": "2026-02-30T00:00:00Z"}, None),
        ({**_RETRY_STATE, "blocked_since": None}, None),
        ([1], None),
        (None, None),
    ],
)
def test_a_retry_state_of_the_reference_is_kept_where_it_can_be_read(state: object, conflict: Conflict | None) -> None:
    assert rollout_documents.conflict_from(json.dumps(state)) == conflict


def test_a_retry_state_that_is_no_text_or_no_document_says_nothing() -> None:
    assert (rollout_documents.conflict_from(None), rollout_documents.conflict_from("{")) == (None, None)


@pytest.mark.parametrize("seconds", [1, 30, 300])
def test_a_mirrored_retry_state_is_read_as_it_was_written(seconds: int) -> None:
    conflict = Conflict(since=_BLOCKED_SINCE, count=2, delay=timedelta(seconds=seconds))

    assert rollout_documents.conflict_from(rollout_documents.retry_state_text(conflict)) == conflict


@given(components=_components())
def test_components_come_back_as_they_were(components: Components) -> None:
    text = rollout_documents.components_text(components)

    for spaced in (text, json.dumps(json.loads(text))):
        found = rollout_documents.components_from("it", spaced)

        assert found == components
        assert components == found
        assert list(found) == list(components)
        assert len(found) == len(components)
        assert repr(found) == repr(components)


_FIRST, _SECOND = f'"{UUID(int=1)}"', f'"{UUID(int=2)}"'


@pytest.mark.parametrize(
    "text",
    [
        *('{"Compute": []}', '{"Compute": ["x"]}', '{"Compute": "x"}', "[]", None),
        f'{{"Compute": [{_FIRST}, {_FIRST}]}}',
        f'{{"Compute": [{_FIRST}], "Other": [{_FIRST}]}}',
        f'{{"Compute": [{_FIRST}]',
        f'{{"": [{_FIRST}]}}',
    ],
)
def test_components_that_cannot_be_are_not_read(text: object) -> None:
    with pytest.raises(CorruptRecord, match="it cannot be read"):
        rollout_documents.components_from("it", text)


@pytest.mark.parametrize("kind", ["Com\\u0070ute", "Compute"])
def test_components_in_another_order_are_put_in_order(kind: str) -> None:
    found = rollout_documents.components_from("it", f'{{"{kind}": [{_SECOND}, {_FIRST}]}}')

    assert found == {"Compute": (UUID(int=1), UUID(int=2))}


def test_a_wait_is_told_apart_to_the_microsecond() -> None:
    held = HeldBack(wait=Wait.CONFLICT, message="", count=1, until=datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC))

    assert documents.held_back_from("it", documents.held_back_text((held,))) == (held,)
