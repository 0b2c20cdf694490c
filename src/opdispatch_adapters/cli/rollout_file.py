"""The rollout file: what an operator writes, in TOML or YAML, to say what is to be done to which racks.

Keys, with their defaults; those without one must be there:

* ``name``, ``description`` (empty), ``inventory`` (a directory, relative to the file), ``max_concurrent_targets``
* ``[operation]`` ``type``, ``code``, ``description`` (empty), ``payload`` (a table, empty)
* ``[scope]`` ``racks``, ``sites``, ``rooms``, ``rows``, ``component_types``, ``excluded_runs``, and ``labels``, a
  table of lists; all empty: nothing is narrowed
* ``[selector]`` ``percentage`` (100), ``seed``
* ``[ordering]`` ``kind`` (random): ``random`` with ``seed``, or ``physical_location`` with ``strategy``
* ``[phases]`` ``kind`` (none): ``none``, ``equal`` with ``count``, ``percentage`` with ``percentages``, ``count`` with
  ``counts``; ``auto_advance`` (false)
* ``[[gates]]``, at least one: ``kind`` failure_rate with ``threshold_percent`` or failure_count with
  ``threshold_count``; ``scope`` (current_phase), ``outcomes`` (failed and terminated)
* ``[conflict]`` ``window`` (1h), ``initial_delay`` (30s), ``max_delay`` (5m)
* ``[command]``, for the local command runner: ``argv``, and ``timeout``, ``cancel_grace``, ``max_output_bytes``,
  ``env``, which are the runner's to default

A seed that is not given is the rollout's name: the same file always makes the same cohort.  Ranges are the
core's to judge, and everything that is wrong with a file is told at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Final
from uuid import UUID

from attrs import field, frozen

from opdispatch.candidate import Scope
from opdispatch.identity import RunId
from opdispatch.policy.conflict import ConflictRetry, spelled
from opdispatch.policy.gates import FailureCountGate, FailureRateGate, Gate, GateScope
from opdispatch.policy.ordering import LocationStrategy, Ordering, PhysicalOrdering, RandomOrdering
from opdispatch.policy.phases import CountPhases, EqualPhases, NoPhases, PercentagePhases, PhasePolicy
from opdispatch.policy.selection import PercentageSelector
from opdispatch.rollout import Rollout
from opdispatch.target import FAILURES, TargetStatus
from opdispatch.task import Operation

from .document import Table, json_of, read_document

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@frozen(kw_only=True)
class CommandSpec:
    """A program of the local command runner; None leaves a value to the runner.  ``argv`` is not empty."""

    argv: tuple[str, ...]
    timeout: timedelta | None = None
    cancel_grace: timedelta | None = None
    max_output_bytes: int | None = None
    env: Mapping[str, str] = field(factory=lambda: MappingProxyType({}))


@frozen(kw_only=True)
class RolloutFile:
    """What a rollout file says: the rollout, where its racks come from, and what to run for each, if it says so."""

    rollout: Rollout
    inventory: Path
    """The inventory directory, joined to the directory of the file; it may not exist."""
    command: CommandSpec | None


def load_rollout(path: Path) -> RolloutFile:
    """Read a rollout file.

    Raises:
        InvalidInput: with every problem of the file and its place; nothing was read but the file itself.
    """
    document = read_document(path)
    rollout = _rollout(document)
    inventory = path.parent / document.text("inventory")
    command = command_spec(document.table("command")) if document.has("command") else None
    document.close()
    document.report.raise_if_any()
    return RolloutFile(rollout=rollout, inventory=inventory, command=command)


def _rollout(document: Table) -> Rollout:
    name = document.text("name")
    description = document.text("description", "", may_be_empty=True)
    operation = _operation(document.table("operation"))
    scope = _scope(document.table("scope", optional=True))
    selector = _selector(document.table("selector", optional=True), name)
    ordering = _ordering(document.table("ordering", optional=True), name)
    phases, auto_advance = _phases(document.table("phases", optional=True))
    gates = _gates(document)
    conflict = _conflict(document.table("conflict", optional=True))
    limit = document.integer("max_concurrent_targets")

    def build(name: str, limit: int) -> Rollout:
        return Rollout(
            name=name,
            operation=operation,
            selector=selector,
            ordering=ordering,
            max_concurrent_targets=limit,
            gates=gates,
            phases=phases,
            auto_advance=auto_advance,
            conflict=conflict,
            scope=scope,
            description=description,
        )

    return document.report.make("$", "$", lambda: build(name, limit), build("?", 1))


def _operation(table: Table) -> Operation:
    kind, code = table.text("type"), table.text("code")
    description = table.text("description", "", may_be_empty=True)
    payload = table.table("payload", optional=True)
    document = json_of(table.report, payload.path, payload.entries())
    table.close()
    harmless = Operation(type="?", code="?")
    # Each by itself first: the core stops at the one that is wrong, and both are to be told.
    table.report.make("$.operation", table.path, lambda: Operation(type=kind, code="?"), harmless)
    table.report.make("$.operation", table.path, lambda: Operation(type="?", code=code), harmless)
    return table.report.make(
        "$.operation",
        table.path,
        lambda: Operation(type=kind, code=code, description=description, payload=document),
        harmless,
    )


def _scope(table: Table) -> Scope:
    racks, sites, rooms, rows = (table.texts(key) for key in ("racks", "sites", "rooms", "rows"))
    label_table = table.table("labels", optional=True)
    labels: dict[str, tuple[str, ...]] = {}
    for key in label_table.entries():
        before = table.report.count
        values = label_table.texts(key)
        if table.report.count == before:
            labels[key] = values
    types = table.texts("component_types")
    runs: list[RunId] = []
    for place, text in table.placed_texts("excluded_runs"):
        if _UUID.fullmatch(text):
            runs.append(RunId(UUID(text)))
        else:
            table.report.add(place, f"{text[:60]!r} is not the id of a run")
    table.close()
    return table.report.make(
        "$.scope",
        table.path,
        lambda: Scope(
            racks=racks,
            sites=sites,
            rooms=rooms,
            rows=rows,
            labels=labels,
            component_types=types,
            excluded_runs=tuple(runs),
        ),
        Scope(),
    )


def _selector(table: Table, name: str) -> PercentageSelector:
    percentage, seed = table.integer("percentage", 100), table.text("seed", name)
    table.close()
    return table.report.make(
        "$.selector",
        table.path,
        lambda: PercentageSelector(percentage=percentage, seed=seed),
        PercentageSelector(percentage=100, seed="?"),
    )


def _ordering(table: Table, name: str) -> Ordering:
    harmless = RandomOrdering(seed="?")
    match table.choice("kind", ("random", "physical_location"), "random"):
        case "random":
            seed = table.text("seed", name)
            table.close()
            return table.report.make("$.ordering", table.path, lambda: RandomOrdering(seed=seed), harmless)
        case "physical_location":
            strategy = table.choice("strategy", tuple(LocationStrategy))
            table.close()
            return PhysicalOrdering(strategy=LocationStrategy(strategy)) if strategy else harmless
        case _:
            return harmless


def _phases(table: Table) -> tuple[PhasePolicy, bool]:
    auto_advance = table.truth("auto_advance", False)
    kind = table.choice("kind", ("none", "equal", "percentage", "count"), "none")
    policy: PhasePolicy = NoPhases()
    match kind:
        case "equal":
            count = table.integer("count")
            policy = table.report.make("$.phases", table.path, lambda: EqualPhases(count=count), policy)
        case "percentage":
            shares = table.integers("percentages")
            policy = table.report.make("$.phases", table.path, lambda: PercentagePhases(percentages=shares), policy)
        case "count":
            counts = table.integers("counts")
            policy = table.report.make("$.phases", table.path, lambda: CountPhases(counts=counts), policy)
    if kind is not None:
        table.close()
    return policy, auto_advance


def _gates(document: Table) -> tuple[Gate, ...]:
    before = document.report.count
    gates = tuple(_gate(table) for table in document.tables("gates"))
    if not gates and document.report.count == before:
        document.refuse("gates", "there is none", "give at least one: a run without gates never stops by itself")
    return gates


def _gate(table: Table) -> Gate:
    harmless = FailureCountGate(threshold_count=1)
    kind = table.choice("kind", ("failure_rate", "failure_count"))
    scope = GateScope(table.choice("scope", tuple(GateScope), GateScope.CURRENT_PHASE) or GateScope.CURRENT_PHASE)
    outcomes = _outcomes(table)
    gate: Gate = harmless
    match kind:
        case "failure_rate":
            percent = table.integer("threshold_percent")
            gate = table.report.make(
                "$.gates",
                table.path,
                lambda: FailureRateGate(threshold_percent=percent, scope=scope, outcomes=outcomes),
                gate,
            )
        case "failure_count":
            count = table.integer("threshold_count")
            gate = table.report.make(
                "$.gates",
                table.path,
                lambda: FailureCountGate(threshold_count=count, scope=scope, outcomes=outcomes),
                gate,
            )
    if kind is not None:
        table.close()
    return gate


def _outcomes(table: Table) -> frozenset[TargetStatus]:
    if not table.has("outcomes"):
        return FAILURES
    outcomes: set[TargetStatus] = set()
    for place, word in table.placed_texts("outcomes"):
        if word in FAILURES:
            outcomes.add(TargetStatus(word))
        else:
            table.report.add(place, f"{word[:60]!r} is not an outcome that can count", "write failed or terminated")
    return frozenset(outcomes)


def _conflict(table: Table) -> ConflictRetry:
    default = ConflictRetry()
    window = table.duration("window", default.window)
    initial_delay = table.duration("initial_delay", default.initial_delay)
    max_delay = table.duration("max_delay", default.max_delay)
    table.close()
    return table.report.make(
        "$.conflict",
        table.path,
        lambda: ConflictRetry(window=window, initial_delay=initial_delay, max_delay=max_delay),
        default,
    )


def command_spec(table: Table) -> CommandSpec:
    """The program that a ``[command]`` table names; what is wrong with it is noted in the table's report."""
    before = table.report.count
    argv = tuple(text for _, text in table.placed_texts("argv", optional=False, may_be_empty=True))
    if table.report.count == before and not (argv and argv[0]):
        table.refuse("argv", "it names no program", "begin with the program; its arguments follow")
    spec = CommandSpec(
        argv=argv,
        timeout=_above_zero(table, "timeout"),
        cancel_grace=_above_zero(table, "cancel_grace"),
        max_output_bytes=_at_least_one(table, "max_output_bytes"),
        env=_environment(table.table("env", optional=True)),
    )
    table.close()
    return spec


def _above_zero(table: Table, key: str) -> timedelta | None:
    if not table.has(key):
        return None
    time = table.duration(key, timedelta.resolution)
    if time <= timedelta(0):
        table.refuse(key, f"{spelled(time)} is not above zero")
    return time


def _at_least_one(table: Table, key: str) -> int | None:
    if not table.has(key):
        return None
    count = table.integer(key)
    if count < 1:
        table.refuse(key, f"{count} is below 1")
    return count


def _environment(table: Table) -> Mapping[str, str]:
    entries = table.text_entries()
    for name in entries:
        if not name or "=" in name or "\0" in name:
            table.refuse(name, f"{name!r} cannot name a variable", "use a name without '='")
    return MappingProxyType(entries)
