"""The run's documents in the reference's shape: selector, options, operation template, components by type.

Shape and meaning are those of the flow-storage contract, sections 5.1 to 5.5: envelopes of ``kind`` and ``payload``,
durations in nanoseconds, a phase policy of its own shape.  What a rollout says beyond them stands beside them under
keys of ours, which other readers pass over, as we pass over theirs:

* every document: ``version``; one that does not say is of version 1,
* a gate's payload: ``outcomes``, only where they are narrowed,
* ``phase_policy``: ``undivided`` beside an ``equal`` one of a single phase, which is what it is to the reference; the
  kind ``none`` was written for it before,
* the template: ``payload_text`` and ``annex_text``, the operation's payload and the rollout's annex byte for byte
  (``payload`` is the former as an object, where it is one); in ``target_scope`` ``racks``, ``sites``, ``rooms``,
  ``rows`` and ``labels``.

What the reference can say and a rollout cannot (a target spec, a filter by components, a queue) is the rollout's annex,
and no rule reads it: it says which racks were planned, and a run that is stored has its targets, each with its
components; the queue the reference itself does not use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, assert_never
from uuid import UUID

from cattrs.gen import make_dict_unstructure_fn, override

from opdispatch.candidate import Scope
from opdispatch.errors import CorruptRecord, InvalidInput
from opdispatch.identity import ComponentId, RunId
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.policy.gates import FailureCountGate, FailureRateGate, Gate, GateScope
from opdispatch.policy.ordering import Ordering, PhysicalOrdering, RandomOrdering
from opdispatch.policy.phases import CountPhases, EqualPhases, NoPhases, PercentagePhases, PhasePolicy
from opdispatch.policy.selection import PercentageSelector
from opdispatch.rollout import Rollout
from opdispatch.target import Conflict, TargetStatus
from opdispatch.task import Components, Operation

from . import strict
from .strict import Unreadable, object_of, shown

VERSION: Final = 1
_CONVERTER: Final = strict.reference()


def _register_envelope(union: Any, kinds: Mapping[str, type[Any]], **renamed: Any) -> None:
    """Read and write a closed union as ``kind`` and ``payload``; ``renamed`` are the payload's own keys by field."""
    names = {member: name for name, member in kinds.items()}
    overrides = {
        member: {field: how for field, how in renamed.items() if field in member.__dataclass_fields__}
        for member in names
    }
    readers = {name: strict.class_hook(member, _CONVERTER, **overrides[member]) for name, member in kinds.items()}
    writers = {member: make_dict_unstructure_fn(member, _CONVERTER, **overrides[member]) for member in names}

    def structure(value: object, _: object) -> Any:
        pairs = object_of(value)
        name = strict.kind_of(pairs, kinds)
        return readers[name](pairs.get("payload"), kinds[name])

    def unstructure(value: Any) -> dict[str, Any]:
        return {"kind": names[type(value)], "payload": writers[type(value)](value)}

    _CONVERTER.register_structure_hook(union, structure)
    _CONVERTER.register_unstructure_hook(union, unstructure)


def _outcomes_from(value: object, _: object) -> frozenset[TargetStatus]:
    return frozenset(_CONVERTER.structure(value, tuple[TargetStatus, ...]))


def _gate_scope_from(value: object, _: object) -> GateScope:
    """Empty text means the current phase (flow-storage, 5.2)."""
    known = {"": GateScope.CURRENT_PHASE, **{scope.value: scope for scope in GateScope}}
    if type(value) is not str or value not in known:
        raise Unreadable(f"{shown(value)} is not one of {', '.join(GateScope)}")
    return known[value]


_CONVERTER.register_structure_hook_func(lambda kind: kind == frozenset[TargetStatus], _outcomes_from)
_CONVERTER.register_unstructure_hook_func(lambda kind: kind == frozenset[TargetStatus], sorted)
_CONVERTER.register_structure_hook(GateScope, _gate_scope_from)
_register_envelope(
    Gate,
    {"failure_rate": FailureRateGate, "failure_count": FailureCountGate},
    threshold_percent=override(rename="failure_threshold_percent"),
    threshold_count=override(rename="failure_threshold_count"),
    outcomes=override(omit_if_default=True),
)
_register_envelope(Ordering, {"random": RandomOrdering, "physical_location": PhysicalOrdering})
_register_envelope(PercentageSelector, {"percentage": PercentageSelector})
_register_envelope(
    ConflictRetry,
    {"retry": ConflictRetry},
    window=override(rename="retry_timeout"),
    initial_delay=override(rename="initial_retry_delay"),
    max_delay=override(rename="max_retry_delay"),
)


# -- phases: a shape of their own --


@dataclass(frozen=True, slots=True, kw_only=True)
class _EqualPlan:
    phase_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Percentage:
    percentage: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _PercentagePlan:
    phases: tuple[_Percentage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Count:
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _CountPlan:
    phases: tuple[_Count, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _NoPlan:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class _AdvancePolicy:
    auto_advance: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _PhasePolicy:
    phases: PhasePolicy
    auto_advance: bool


_PLANS: Final[Mapping[str, type[Any]]] = {
    "none": _NoPlan,
    "equal": _EqualPlan,
    "percentage": _PercentagePlan,
    "count": _CountPlan,
}


def _phases_from(value: object, _: object) -> _PhasePolicy:
    pairs = object_of(value)
    kind = strict.kind_of(pairs, _PLANS)
    plan = _CONVERTER.structure(pairs.get("plan", {} if kind == "none" else None), _PLANS[kind])
    advance = _CONVERTER.structure(pairs.get("advance_policy", {}), _AdvancePolicy)
    phases: PhasePolicy
    match plan:
        case _EqualPlan(phase_count=1) if pairs.get("undivided") is True:
            phases = NoPhases()
        case _EqualPlan(phase_count=count):
            phases = EqualPhases(count=count)
        case _PercentagePlan():
            phases = PercentagePhases(percentages=tuple(p.percentage for p in plan.phases))
        case _CountPlan():
            phases = CountPhases(counts=tuple(p.count for p in plan.phases))
        case _:
            phases = NoPhases()
    return _PhasePolicy(phases=phases, auto_advance=advance.auto_advance)


def _phases_document(policy: _PhasePolicy) -> dict[str, Any]:
    plan: dict[str, Any]
    match policy.phases:
        case NoPhases():
            kind, plan = "equal", {"phase_count": 1}
        case EqualPhases(count=count):
            kind, plan = "equal", {"phase_count": count}
        case PercentagePhases(percentages=percentages):
            kind, plan = "percentage", {"phases": [{"percentage": percentage} for percentage in percentages]}
        case CountPhases(counts=counts):
            kind, plan = "count", {"phases": [{"count": count} for count in counts]}
        case _:
            assert_never(policy.phases)
    document = {"kind": kind, "plan": plan, "advance_policy": {"auto_advance": policy.auto_advance}}
    return {**document, "undivided": True} if isinstance(policy.phases, NoPhases) else document


_CONVERTER.register_structure_hook(_PhasePolicy, _phases_from)
_CONVERTER.register_unstructure_hook(_PhasePolicy, _phases_document)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SafetyPolicy:
    gates: tuple[Gate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    max_concurrent_targets: int
    safety_policy: _SafetyPolicy
    conflict_policy: ConflictRetry
    ordering_policy: Ordering
    phase_policy: _PhasePolicy = _PhasePolicy(phases=NoPhases(), auto_advance=False)


# -- the operation template --

_FILTER: Final = "default_scope_component_filter"
_ANNEX: Final = ("target_spec", "queue_options")
"""The keys of a template that are the annex of its rollout; a filter by components, in the target scope, is too."""


def _scope_document(scope: Scope) -> dict[str, Any]:
    document: dict[str, Any] = {}
    if scope.excluded_runs:
        document["excluded_operation_run_ids"] = [str(run_id) for run_id in scope.excluded_runs]
    if scope.component_types:
        document[_FILTER] = {"kind": "types", "types": list(scope.component_types)}
    for key in ("racks", "sites", "rooms", "rows"):
        if values := getattr(scope, key):
            document[key] = list(values)
    if scope.labels:
        document["labels"] = {label: list(values) for label, values in scope.labels.items()}
    return document


_TEXTS: Final = tuple[str, ...]


def _scope_from(value: object, _: object) -> Scope:
    pairs = object_of(value)

    def texts(key: str) -> Any:
        return _CONVERTER.structure(pairs.get(key, []), _TEXTS)

    types: Any = ()
    if _FILTER in pairs:
        filtered = object_of(pairs[_FILTER])
        if strict.kind_of(filtered, {"types": None, "components": None}) == "types":
            types = _CONVERTER.structure(filtered.get("types"), _TEXTS)
    labels = object_of(pairs.get("labels", {}))
    excluded = _CONVERTER.structure(pairs.get("excluded_operation_run_ids", []), tuple[UUID, ...])
    return Scope(
        racks=texts("racks"),
        sites=texts("sites"),
        rooms=texts("rooms"),
        rows=texts("rows"),
        labels={label: _CONVERTER.structure(values, _TEXTS) for label, values in labels.items()},
        component_types=types,
        excluded_runs=tuple(RunId(run_id) for run_id in excluded),
    )


_CONVERTER.register_structure_hook(Scope, _scope_from)
_CONVERTER.register_unstructure_hook(Scope, _scope_document)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
    type: str
    code: str
    target_scope: Scope
    description: str = ""
    payload_text: str | None = None
    annex_text: str | None = None


def _object_in(text: str) -> dict[str, Any]:
    """A text as the reference's readers see it; empty where it is not a JSON object."""
    try:
        payload = json.loads(text)
        json.dumps(payload, allow_nan=False)
    except (ValueError, RecursionError):
        return {}
    return payload if type(payload) is dict else {}


# -- what the rows hold --


def selector_text(rollout: Rollout) -> str:
    """``operation_run.selector``."""
    return strict.text_of({**_CONVERTER.unstructure(rollout.selector), "version": VERSION})


def options_text(rollout: Rollout) -> str:
    """``operation_run.options``."""
    options = _Options(
        max_concurrent_targets=rollout.max_concurrent_targets,
        safety_policy=_SafetyPolicy(gates=rollout.gates),
        conflict_policy=rollout.conflict,
        ordering_policy=rollout.ordering,
        phase_policy=_PhasePolicy(phases=rollout.phases, auto_advance=rollout.auto_advance),
    )
    return strict.text_of({**_CONVERTER.unstructure(options), "version": VERSION})


def template_text(rollout: Rollout) -> str:
    """``operation_run.operation_template``."""
    operation = rollout.operation
    document: dict[str, Any] = {"type": operation.type, "code": operation.code}
    if operation.description:
        document["description"] = operation.description
    annex = _object_in(rollout.annex)
    document |= {key: annex[key] for key in _ANNEX if key in annex}
    document["target_scope"] = {key: annex[key] for key in (_FILTER,) if key in annex} | _scope_document(rollout.scope)
    document["payload"] = _object_in(operation.payload)
    document["payload_text"] = operation.payload
    if rollout.annex != "{}":
        document["annex_text"] = rollout.annex
    document["version"] = VERSION
    return strict.text_of(document)


def _versioned(kind: Any) -> Any:
    def structure(document: object) -> Any:
        strict.check_version(object_of(document), VERSION, needed=False)
        return _CONVERTER.structure(document, kind)

    return structure


def _annex_of(template: Mapping[str, object]) -> str:
    """The annex of a template that another program wrote."""
    annex = {key: template[key] for key in _ANNEX if template.get(key) is not None}
    narrowed = object_of(template.get("target_scope", {})).get(_FILTER)
    if narrowed is not None and object_of(narrowed).get("kind") == "components":
        annex[_FILTER] = narrowed
    return strict.text_of(annex)


def _template_from(document: object) -> tuple[Operation, Scope, str]:
    pairs = object_of(document)
    strict.check_version(pairs, VERSION, needed=False)
    template: _Template = _CONVERTER.structure(pairs, _Template)
    text = template.payload_text
    if text is None:
        text = strict.text_of(object_of(pairs.get("payload")))
    operation = Operation(type=template.type, code=template.code, description=template.description, payload=text)
    annex = template.annex_text
    return operation, template.target_scope, _annex_of(pairs) if annex is None else annex


def rollout_from(
    what: str, *, name: str, description: str, selector: object, options: object, template: object
) -> Rollout:
    """The rollout that a run's columns tell.

    Raises CorruptRecord, which names ``what``, the column and every path that is wrong in it.
    """
    chosen: PercentageSelector = strict.read(f"{what}, column selector", selector, _versioned(PercentageSelector))
    opts: _Options = strict.read(f"{what}, column options", options, _versioned(_Options))
    operation, scope, annex = strict.read(f"{what}, column operation_template", template, _template_from)
    try:
        return Rollout(
            name=name,
            description=description,
            operation=operation,
            selector=chosen,
            ordering=opts.ordering_policy,
            max_concurrent_targets=opts.max_concurrent_targets,
            gates=opts.safety_policy.gates,
            phases=opts.phase_policy.phases,
            auto_advance=opts.phase_policy.auto_advance,
            conflict=opts.conflict_policy,
            scope=scope,
            annex=annex,
        )
    except InvalidInput as error:
        raise CorruptRecord(what, strict.brief(str(error))) from error


def components_text(components: Components) -> str:
    """``operation_run_target.components_by_type`` (flow-storage, 5.4)."""
    return strict.text_of(strict.components_document(components))


def components_from(what: str | Callable[[], str], text: object) -> Components:
    """The components of a target; ``what`` names them, or makes the name where it is needed.  Raises CorruptRecord."""
    found = _canonical_components(text)
    if found is None:
        kind: Any = Components
        found = strict.read(what, text, lambda document: _CONVERTER.structure(document, kind))
    return found


_ID: Final = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_GROUP: Final = f'"([^"\\\\\x00-\x1f]+)": ?\\[("{_ID}"(?:, ?"{_ID}")*)\\]'
_GROUPS: Final = re.compile(_GROUP)
_SINGLE: Final = re.compile(f'\\{{"[^"\\\\\x00-\x1f]+": ?\\["{_ID}"\\]\\}}')
_NO_COMPONENTS: Final[Components] = MappingProxyType({})
_CANONICAL: Final = re.compile(f"\\{{{_GROUP}(?:, ?{_GROUP})*\\}}")


def _canonical_components(text: object) -> Components | None:
    """Components as this program writes them, looked through without the strict reader, which takes far longer.

    None for every other text: the strict reader then says what it is.
    """
    if text == "{}":
        return _NO_COMPONENTS
    if type(text) is not str:
        return None
    if _SINGLE.fullmatch(text) is not None:
        # One component has no order, and no double.
        return _Components(text)
    if _CANONICAL.fullmatch(text) is None:
        return None
    groups = [(kind, _names(listed)) for kind, listed in _GROUPS.findall(text)]
    if any(names != sorted(set(names)) for _, names in groups):
        return None
    if len(groups) > 1:
        every = [name for _, names in groups for name in names]
        if len({kind for kind, _ in groups}) != len(groups) or len(set(every)) != len(every):
            return None
    return _Components(text)


def _names(listed: str) -> list[str]:
    return listed.replace(" ", "")[1:-1].split('","')


class _Components(Mapping[str, tuple[ComponentId, ...]]):
    """Components whose text was looked through: the ids are made when somebody asks, which few do, and once."""

    __slots__ = ("_found", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._found: Components | None = None

    def _read(self) -> Components:
        if self._found is None:
            groups = sorted(_GROUPS.findall(self._text))
            found = {kind: tuple(map(_component, _names(listed))) for kind, listed in groups}
            self._found = MappingProxyType(found)
        return self._found

    def __getitem__(self, kind: str) -> tuple[ComponentId, ...]:
        return self._read()[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return repr(self._read())


def _component(text: str) -> ComponentId:
    return ComponentId(UUID(text))


def retry_state_text(conflict: Conflict) -> str:
    """``operation_run_target.retry_state``, a mirror for other readers (flow-storage, 5.5); read only
    at an adoption."""
    return strict.text_of(
        {
            "blocked_since": strict.instant_text(conflict.since),
            "attempts": conflict.count,
            "last_retry_delay_seconds": int(conflict.delay.total_seconds()),
        }
    )


_FINER: Final = re.compile(r"(\.\d{6})\d+(?=Z$)", re.ASCII)


def conflict_from(text: object) -> Conflict | None:
    """The history that a retry state of the reference tells; None where it is missing or cannot be read, which counts
    as no refusal before (flow-storage, 5.5).

    Its instants are finer than ours, and are cut; its waits are cut to seconds, so that none may be nothing.
    """
    try:
        pairs = object_of(json.loads(text) if isinstance(text, str) else None)
        since, attempts, delay = (pairs.get(key) for key in ("blocked_since", "attempts", "last_retry_delay_seconds"))
        if type(since) is not str or type(attempts) is not int or type(delay) is not int or delay < 0:
            return None
        return Conflict(
            since=strict.instant_from(_FINER.sub(r"\1", since)), count=attempts, delay=timedelta(seconds=max(delay, 1))
        )
    except (ValueError, OverflowError, InvalidInput):
        return None
