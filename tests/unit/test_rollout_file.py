"""Rollout files: what they say, and that everything wrong with one is told at once with its place."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from opdispatch.candidate import Scope
from opdispatch.errors import InvalidInput
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.policy.gates import FailureCountGate, FailureRateGate, GateScope
from opdispatch.policy.ordering import LocationStrategy, Ordering, PhysicalOrdering, RandomOrdering
from opdispatch.policy.phases import CountPhases, EqualPhases, NoPhases, PercentagePhases, PhasePolicy
from opdispatch.policy.selection import PercentageSelector
from opdispatch.target import TargetStatus
from opdispatch.task import Operation
from opdispatch_adapters.cli.rollout_file import CommandSpec, RolloutFile, load_rollout

HEAD = """\
name = "firmware-7"
inventory = "inventory"
max_concurrent_targets = 4
"""
OPERATION = """\
[operation]
type = "firmware_control"
code = "upgrade"
"""
GATES = """\
[[gates]]
kind = "failure_count"
threshold_count = 3
"""
LEAST = HEAD + OPERATION + GATES
"""A rollout file that says only what must be said."""

RUN = UUID("6b6d7f0e-3f5c-5b7e-9d0a-0d5f1f7a2c11")


@pytest.fixture
def load(tmp_path: Path) -> Loader:
    return Loader(tmp_path)


class Loader:
    """Writes a rollout file and loads it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, content: str | bytes, name: str = "fw.toml") -> RolloutFile:
        path = self.directory / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load_rollout(path)

    def problems(self, content: str | bytes, name: str = "fw.toml") -> list[str]:
        with pytest.raises(InvalidInput) as error:
            self(content, name)
        return [str(problem) for problem in error.value.problems]

    def places(self, content: str, name: str = "fw.toml") -> list[str]:
        """The paths alone, without the file."""
        return [problem.split(" ", 1)[1].split(": ", 1)[0] for problem in self.problems(content, name)]


def test_the_least_file_is_a_rollout(load: Loader) -> None:
    rollout = load(LEAST).rollout

    assert (rollout.name, rollout.max_concurrent_targets, rollout.gates) == (
        "firmware-7",
        4,
        (FailureCountGate(threshold_count=3),),
    )


def test_the_inventory_is_beside_the_file(load: Loader) -> None:
    assert load(LEAST).inventory == load.directory / "inventory"


def test_an_absolute_inventory_stands(load: Loader) -> None:
    assert load(LEAST.replace('"inventory"', '"/srv/racks"')).inventory == Path("/srv/racks")


def test_the_seeds_are_the_rollouts_name_unless_told_otherwise(load: Loader) -> None:
    rollout = load(LEAST).rollout

    assert (rollout.selector, rollout.ordering) == (
        PercentageSelector(percentage=100, seed="firmware-7"),
        RandomOrdering(seed="firmware-7"),
    )


def test_nothing_is_narrowed_or_advanced_or_run_unless_told_otherwise(load: Loader) -> None:
    file = load(LEAST)

    assert (file.rollout.scope, file.rollout.auto_advance, file.rollout.conflict, file.command) == (
        Scope(),
        False,
        ConflictRetry(),
        None,
    )


def test_an_operation_has_a_description_and_a_payload(load: Loader) -> None:
    more = 'description = "to 7"\npayload = {version = "7", parts = [1, 2.5, true], "\u00e9" = {}}\n'

    operation = load(HEAD + OPERATION + more + GATES).rollout.operation

    assert (operation.description, json.loads(operation.payload)) == (
        "to 7",
        {"version": "7", "parts": [1, 2.5, True], "\u00e9": {}},
    )


def test_an_operation_without_a_payload_has_an_empty_one(load: Loader) -> None:
    assert load(LEAST).rollout.operation == Operation(type="firmware_control", code="upgrade", payload="{}")


def test_a_scope_is_read_whole(load: Loader) -> None:
    text = f"""\
[scope]
racks = ["r1"]
sites = ["s"]
rooms = ["m"]
rows = ["1", "2"]
component_types = ["compute"]
excluded_runs = ["{RUN}"]
labels = {{power_domain = ["a", "b"]}}
"""

    assert load(LEAST + text).rollout.scope == Scope(
        racks=("r1",),
        sites=("s",),
        rooms=("m",),
        rows=("1", "2"),
        component_types=("compute",),
        excluded_runs=(RUN,),  # type: ignore[arg-type]  # a plain UUID equals a run's id
        labels={"power_domain": ("a", "b")},
    )


def test_a_selector_has_a_percentage_and_a_seed(load: Loader) -> None:
    text = LEAST + '[selector]\npercentage = 25\nseed = "s"\n'

    assert load(text).rollout.selector == PercentageSelector(percentage=25, seed="s")


@pytest.mark.parametrize(
    ("text", "ordering"),
    [
        ('kind = "random"\nseed = "s"', RandomOrdering(seed="s")),
        (
            'kind = "physical_location"\nstrategy = "row_by_row"',
            PhysicalOrdering(strategy=LocationStrategy.ROW_BY_ROW),
        ),
        (
            'kind = "physical_location"\nstrategy = "one_per_row_round_robin"',
            PhysicalOrdering(strategy=LocationStrategy.ONE_PER_ROW_ROUND_ROBIN),
        ),
    ],
    ids=["random", "row_by_row", "round_robin"],
)
def test_an_ordering_is_of_one_kind(load: Loader, text: str, ordering: Ordering) -> None:
    assert load(f"{LEAST}[ordering]\n{text}\n").rollout.ordering == ordering


@pytest.mark.parametrize(
    ("text", "phases"),
    [
        ("auto_advance = true", NoPhases()),
        ('kind = "none"', NoPhases()),
        ('kind = "equal"\ncount = 3', EqualPhases(count=3)),
        ('kind = "percentage"\npercentages = [10, 90]', PercentagePhases(percentages=(10, 90))),
        ('kind = "count"\ncounts = [1, 5]', CountPhases(counts=(1, 5))),
    ],
    ids=["default", "none", "equal", "percentage", "count"],
)
def test_phases_are_of_one_kind(load: Loader, text: str, phases: PhasePolicy) -> None:
    assert load(f"{LEAST}[phases]\n{text}\n").rollout.phases == phases


def test_phases_may_advance_by_themselves(load: Loader) -> None:
    assert load(LEAST + "[phases]\nauto_advance = true\n").rollout.auto_advance


def test_gates_keep_their_order(load: Loader) -> None:
    text = """\
[[gates]]
kind = "failure_rate"
threshold_percent = 10
scope = "cumulative_run"
outcomes = ["failed"]
"""

    assert load(LEAST + text).rollout.gates == (
        FailureCountGate(threshold_count=3),
        FailureRateGate(
            threshold_percent=10, scope=GateScope.CUMULATIVE_RUN, outcomes=frozenset({TargetStatus.FAILED})
        ),
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ('"90s"', 90),
        ('"5m"', 300),
        ('"1h30m"', 5400),
        ('"2d"', 172_800),
        ('"1d1h1m1.5s"', 90_061.5),
        ("90", 90),
        ("0.5", 0.5),
    ],
)
def test_a_duration_is_written_with_units_or_in_seconds(load: Loader, text: str, seconds: float) -> None:
    window = load(f"{LEAST}[conflict]\nwindow = {text}\n").rollout.conflict.window

    assert window == timedelta(seconds=seconds)


def test_a_conflict_policy_is_read_whole(load: Loader) -> None:
    text = '[conflict]\nwindow = "2h"\ninitial_delay = "1s"\nmax_delay = "2s"\n'

    assert load(LEAST + text).rollout.conflict == ConflictRetry(
        window=timedelta(hours=2), initial_delay=timedelta(seconds=1), max_delay=timedelta(seconds=2)
    )


def test_a_command_leaves_to_the_runner_what_it_does_not_say(load: Loader) -> None:
    assert load(LEAST + '[command]\nargv = ["upgrade", ""]\n').command == CommandSpec(argv=("upgrade", ""))


def test_a_command_is_read_whole(load: Loader) -> None:
    text = """\
[command]
argv = ["upgrade"]
timeout = "1h"
cancel_grace = 10
max_output_bytes = 4096
env = {MODE = "fast", EMPTY = ""}
"""

    assert load(LEAST + text).command == CommandSpec(
        argv=("upgrade",),
        timeout=timedelta(hours=1),
        cancel_grace=timedelta(seconds=10),
        max_output_bytes=4096,
        env={"MODE": "fast", "EMPTY": ""},
    )


def test_a_description_may_be_empty(load: Loader) -> None:
    assert load('description = ""\n' + LEAST).rollout.description == ""


YAML = """\
name: firmware-7
inventory: inventory
max_concurrent_targets: 4
operation: {type: firmware_control, code: upgrade, payload: {at: 22:30, force: no, mask: 22, note: null}}
gates:
  - kind: failure_count
    threshold_count: 3
"""


@pytest.mark.parametrize("name", ["fw.yaml", "fw.yml", "fw.YAML"])
def test_yaml_says_the_same(load: Loader, name: str) -> None:
    plain = YAML.replace(", payload: {at: 22:30, force: no, mask: 22, note: null}", "")

    assert load(plain, name).rollout == load(LEAST).rollout


def test_yaml_is_that_of_version_1_2(load: Loader) -> None:
    payload = load(YAML, "fw.yaml").rollout.operation.payload

    assert json.loads(payload) == {"at": "22:30", "force": "no", "mask": 22, "note": None}


def test_a_byte_order_mark_is_accepted(load: Loader) -> None:
    assert load(b"\xef\xbb\xbf" + LEAST.encode()).rollout.name == "firmware-7"


def test_every_key_that_is_missing_is_told(load: Loader) -> None:
    assert load.problems("") == [
        "fw.toml $.name: it is missing; give a text",
        "fw.toml $.operation: it is missing; give a table",
        "fw.toml $.operation.type: it is missing; give a text",
        "fw.toml $.operation.code: it is missing; give a text",
        "fw.toml $.gates: it is missing; give a list of tables",
        "fw.toml $.max_concurrent_targets: it is missing; give a whole number",
        "fw.toml $.inventory: it is missing; give a text",
    ]


def test_an_empty_yaml_file_misses_its_keys(load: Loader) -> None:
    assert "$.name" in load.places("# nothing\n", "fw.yaml")


@pytest.mark.parametrize(
    ("text", "place", "remedy"),
    [
        ("nam = 1\n" + LEAST, "$.nam", "did you mean 'name'?"),
        (LEAST + "[fases]\n", "$.fases", "did you mean 'phases'?"),
        (LEAST + "[selector]\npercent = 5\n", "$.selector.percent", "did you mean 'percentage'?"),
        (LEAST + "zzz = 1\n", "$.gates[0].zzz", "known: kind, scope, outcomes, threshold_count"),
        (LEAST + '[ordering]\nkind = "random"\nstrategy = "x"\n', "$.ordering.strategy", "known: kind, seed"),
        (LEAST + '[command]\nargv = ["x"]\nshell = true\n', "$.command.shell", "known: argv"),
    ],
)
def test_an_unknown_key_is_told_with_the_one_that_was_meant(load: Loader, text: str, place: str, remedy: str) -> None:
    (problem,) = load.problems(text)

    assert problem.startswith(f"fw.toml {place}: there is no such key; {remedy}")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("max_concurrent_targets = 4", "max_concurrent_targets = true", "it is true, a truth value"),
        ("max_concurrent_targets = 4", 'max_concurrent_targets = "4"', "it is '4', a text"),
        ("max_concurrent_targets = 4", "max_concurrent_targets = 4.0", "it is 4.0, a number with a point"),
        ("max_concurrent_targets = 4", "max_concurrent_targets = [4]", "it is a list"),
        ("max_concurrent_targets = 4", "max_concurrent_targets = {}", "it is a table"),
        ("max_concurrent_targets = 4", "max_concurrent_targets = 2031-04-02", "it is 2031-04-02, a date"),
        (
            "max_concurrent_targets = 4",
            f"max_concurrent_targets = {2**63}",
            "it is too wide, a whole number, and not a whole number of 64 bits",
        ),
        ('name = "firmware-7"', "name = 7", "it is 7, a whole number, and not a text; put it in quotes"),
        ('name = "firmware-7"', "name = []", "it is a list, and not a text; write a text"),
        ('name = "firmware-7"', 'name = ""', "it is empty; give a text"),
        ('name = "firmware-7"', 'name = "a\\u0000b"', "it holds a NUL or half of a character"),
        ('inventory = "inventory"', "inventory = false", "it is false, a truth value, and not a text"),
        (OPERATION, "operation = 3\n", "it is 3, a whole number, and not a table"),
    ],
)
def test_nothing_is_coerced(load: Loader, old: str, new: str, problem: str) -> None:
    told = load.problems(LEAST.replace(old, new))

    assert [problem in line for line in told] == [True]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[phases]\nauto_advance = "yes"\n', "$.phases.auto_advance"),
        ("[phases]\nauto_advance = 1\n", "$.phases.auto_advance"),
        ('[phases]\nkind = "count"\ncounts = 3\n', "$.phases.counts"),
        ('[phases]\nkind = "count"\ncounts = [1, 2.9]\n', "$.phases.counts[1]"),
        ('[phases]\nkind = "count"\ncounts = ["3"]\n', "$.phases.counts[0]"),
        ('[phases]\nkind = "count"\ncounts = [true]\n', "$.phases.counts[0]"),
        ("[scope]\nrows = [1]\n", "$.scope.rows[0]"),
        ('[scope]\nrows = "1"\n', "$.scope.rows"),
        ('[scope]\nrows = [""]\n', "$.scope.rows[0]"),
        ('[scope]\nexcluded_runs = ["x"]\n', "$.scope.excluded_runs[0]"),
        ('[scope]\nlabels = {a = "x"}\n', "$.scope.labels.a"),
        ('[scope]\nlabels = {"a b" = [1]}\n', '$.scope.labels["a b"][0]'),
        ("[scope]\nlabels = []\n", "$.scope.labels"),
        ("[conflict]\nwindow = true\n", "$.conflict.window"),
        ('[conflict]\nwindow = "1 hour"\n', "$.conflict.window"),
        ('[conflict]\nwindow = ""\n', "$.conflict.window"),
        ('[conflict]\nwindow = "30m1h"\n', "$.conflict.window"),
        ("[conflict]\nwindow = nan\n", "$.conflict.window"),
        ("[conflict]\nwindow = inf\n", "$.conflict.window"),
        ('[conflict]\nwindow = "999999999d"\n', "$.conflict.window"),
        ('[ordering]\nkind = "alphabetical"\n', "$.ordering.kind"),
        ('[ordering]\nkind = "physical_location"\n', "$.ordering.strategy"),
        ("[ordering]\nkind = 3\n", "$.ordering.kind"),
        ('[phases]\nkind = "thirds"\n', "$.phases.kind"),
        ('[command]\nargv = "rm"\n', "$.command.argv"),
        ("[command]\nargv = []\n", "$.command.argv"),
        ('[command]\nargv = [""]\n', "$.command.argv"),
        ("[command]\n", "$.command.argv"),
        ('[command]\nargv = ["x"]\ntimeout = 0\n', "$.command.timeout"),
        ('[command]\nargv = ["x"]\nmax_output_bytes = 0\n', "$.command.max_output_bytes"),
        ('[command]\nargv = ["x"]\nenv = {A = 1}\n', "$.command.env.A"),
        ('[command]\nargv = ["x"]\nenv = {"A=B" = ""}\n', '$.command.env["A=B"]'),
    ],
)
def test_a_value_that_cannot_be_used_is_told_with_its_path(load: Loader, text: str, place: str) -> None:
    assert load.places(LEAST + text) == [place]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[selector]\npercentage = 0\n", "$.selector.percentage: 0 is not within 1 and 100"),
        ('[phases]\nkind = "equal"\ncount = 0\n', "$.phases.count: 0 is below 1"),
        ('[phases]\nkind = "percentage"\npercentages = [50, 49]\n', "$.phases.percentages: they sum to 99"),
        ('[phases]\nkind = "percentage"\npercentages = [100, 0]\n', "$.phases.percentages[1]: 0 is not within"),
        ('[phases]\nkind = "count"\ncounts = [1, 0]\n', "$.phases.counts[1]: 0 is below 1"),
        ("[conflict]\nwindow = 0\n", "$.conflict.window: "),
        ('[conflict]\ninitial_delay = "6m"\n', "$.conflict.max_delay: 5m0s is below initial_delay, 6m0s"),
        ("[scope]\nlabels = {a = []}\n", "$.scope.labels.a: no value is given"),
        (
            '[[gates]]\nkind = "failure_rate"\nthreshold_percent = 101\n',
            "$.gates[1].threshold_percent: 101 is not within 1 and 100",
        ),
        ('[[gates]]\nkind = "failure_count"\nthreshold_count = 0\n', "$.gates[1].threshold_count: 0 is below 1"),
        (
            '[[gates]]\nkind = "failure_count"\nthreshold_count = 1\noutcomes = []\n',
            "$.gates[1].outcomes: it counts none",
        ),
    ],
)
def test_what_the_core_refuses_is_told_with_the_place_in_the_file(load: Loader, text: str, problem: str) -> None:
    (told,) = load.problems(LEAST + text)

    assert told.startswith(f"fw.toml {problem}")


def test_a_name_that_is_too_long_is_told(load: Loader) -> None:
    assert load.places(LEAST.replace("firmware-7", "x" * 256)) == ["$.name"]


def test_both_texts_of_an_operation_are_told(load: Loader) -> None:
    text = LEAST.replace("firmware_control", "x" * 65).replace("upgrade", "y" * 65)

    assert load.places(text) == ["$.operation.type", "$.operation.code"]


def test_an_outcome_that_cannot_count_is_told(load: Loader) -> None:
    assert load.places(LEAST + 'outcomes = ["failed", "completed"]\n') == ["$.gates[0].outcomes[1]"]


def test_a_scope_of_a_gate_that_is_unknown_is_told_with_the_one_that_was_meant(load: Loader) -> None:
    (problem,) = load.problems(LEAST + 'scope = "curent_phase"\n')

    assert problem.endswith("did you mean 'current_phase'?")


def test_a_gate_without_a_kind_is_told_once(load: Loader) -> None:
    assert load.places(HEAD + OPERATION + "[[gates]]\nthreshold_count = 1\n") == ["$.gates[0].kind"]


def test_a_gate_that_is_no_table_is_told(load: Loader) -> None:
    assert load.places("gates = [3]\n" + HEAD + OPERATION) == ["$.gates[0]"]


def test_no_gates_are_refused(load: Loader) -> None:
    (problem,) = load.problems("gates = []\n" + HEAD + OPERATION)

    assert problem.startswith("fw.toml $.gates: there is none; give at least one")


def test_one_wrong_item_does_not_make_the_sum_wrong(load: Loader) -> None:
    text = LEAST + '[phases]\nkind = "percentage"\npercentages = ["10", 90, 0]\n'

    assert load.places(text) == ["$.phases.percentages[0]", "$.phases.percentages[2]"]


def test_a_wrong_tenth_item_does_not_hide_a_wrong_first(load: Loader) -> None:
    counts = ["1", "0", *["1"] * 8, '"x"']

    assert load.places(f'{LEAST}[phases]\nkind = "count"\ncounts = [{", ".join(counts)}]\n') == [
        "$.phases.counts[10]",
        "$.phases.counts[1]",
    ]


@pytest.mark.parametrize("value", ["nan", "-inf", "2031-04-02", "07:30:00", str(2**63)])
def test_a_payload_that_json_has_no_word_for_is_told(load: Loader, value: str) -> None:
    assert load.places(f"{HEAD}{OPERATION}payload = {{a = [0, {value}]}}\n{GATES}") == ["$.operation.payload.a[1]"]


@pytest.mark.parametrize(
    ("written", "read"),
    [("2.10", "2.1"), ("1_000.5", "1000.5"), ("1e3", "1000.0"), ("0.30000000000000000001", "0.3"), ("+1.5", "1.5")],
)
def test_a_number_of_a_payload_that_would_be_written_otherwise_is_told(load: Loader, written: str, read: str) -> None:
    text = f"{HEAD}{OPERATION}payload = {{a = [0, {{version = {written}}}]}}\n{GATES}"

    assert load.problems(text) == [
        f"fw.toml $.operation.payload.a[1].version: it is written {written}, and would become {read}; put it in quotes"
    ]


@pytest.mark.parametrize(("written", "read"), [("2.10", "2.1"), ("0012", "12"), ("0x1F", "31"), ("+5", "5")])
def test_a_number_of_a_payload_in_yaml_is_told_with_its_place(load: Loader, written: str, read: str) -> None:
    text = YAML.replace("mask: 22", f"mask: {written}")

    assert load.problems(text, "fw.yaml") == [
        f"fw.yaml:4:90 $.operation.payload.mask: it is written {written}, and would become {read}; put it in quotes"
    ]


def test_a_number_that_nobody_passes_on_may_be_written_in_any_way(load: Loader) -> None:
    conflict = "[conflict]\nwindow = 60.50\n"

    assert load(LEAST + conflict).rollout.conflict.window == timedelta(seconds=60.5)


def test_all_the_problems_of_a_file_are_told_at_once(load: Loader) -> None:
    text = """\
name = ""
inventory = 3
max_concurrent_targets = 0
operation = {type = "t", cod = "c"}
gates = [{kind = "failure_rate", threshold_percent = 0}]
phases = {kind = "equal"}
extra = 1
"""

    assert load.places(text) == [
        "$.name",
        "$.operation.code",
        "$.operation.cod",
        "$.phases.count",
        "$.gates[0].threshold_percent",
        "$.max_concurrent_targets",
        "$.inventory",
        "$.extra",
    ]


def test_yaml_problems_have_line_and_column(load: Loader) -> None:
    text = YAML.replace("threshold_count: 3", "threshold_count: 0")

    assert load.problems(text, "fw.yaml") == ["fw.yaml:7:22 $.gates[0].threshold_count: 0 is below 1"]


def test_a_key_that_is_missing_in_yaml_has_the_place_of_its_table(load: Loader) -> None:
    text = YAML.replace("    threshold_count: 3\n", "")

    (problem,) = load.problems(text, "fw.yaml")

    assert problem.startswith("fw.yaml:6:5 $.gates[0].threshold_count: it is missing")


def test_yaml_problems_come_in_the_order_of_the_file(load: Loader) -> None:
    text = "extra: 1\n" + YAML.replace("name: firmware-7", "name: ''")

    assert load.places(text, "fw.yaml") == ["$.extra", "$.name"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("name: again\n", "fw.yaml:8:1 $.name: the key is there twice; keep one"),
        ("3: x\n", "fw.yaml:8:1 $: a key is not a text; put the key in quotes"),
        ("[a]: x\n", "fw.yaml:8:1 $: a key is not a text; put the key in quotes"),
        ("scope: !mine {}\n", "fw.yaml:8:8 $.scope: the tag !mine is not known; leave it out"),
        ("scope: !mine x\n", "fw.yaml:8:8 $.scope: 'x' cannot be read as !mine"),
        ("description: !!int x\n", "fw.yaml:8:14 $.description: 'x' cannot be read as tag:yaml.org,2002:int"),
        ("scope: &a {rows: *a}\n", "fw.yaml:8:8 $.scope.rows: it is an alias; write the value out"),
        ("description: [\n", "fw.yaml:9:1: it is not YAML: expected the node content, but found '<stream end>'"),
        ("---\nname: x\n", "fw.yaml:8:1: it is not YAML: but found another document"),
        ("description: \x01\n", "fw.yaml:1:1: it is not YAML: "),
    ],
)
def test_what_yaml_must_not_hold_is_told(load: Loader, line: str, problem: str) -> None:
    (told,) = load.problems(YAML + line, "fw.yaml")

    assert told.startswith(problem)


def test_a_key_without_a_value_is_told(load: Loader) -> None:
    (problem,) = load.problems(YAML + "description:\n", "fw.yaml")

    assert problem.endswith("$.description: it has no value; give a text")


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("phases: {auto_advance: }", "$.phases.auto_advance"),
        ("conflict: {window: }", "$.conflict.window"),
        ("ordering: {kind: }", "$.ordering.kind"),
        ("scope: {rows: }", "$.scope.rows"),
        ("scope: ", "$.scope"),
        ("selector: {percentage: }", "$.selector.percentage"),
        ("phases: {kind: count, counts: [~]}", "$.phases.counts[0]"),
    ],
)
def test_every_kind_of_key_needs_its_value(load: Loader, key: str, path: str) -> None:
    assert load.places(f"{YAML}{key}\n", "fw.yaml") == [path]


def test_half_of_a_character_is_told(load: Loader) -> None:
    assert load.places(YAML.replace("firmware-7", '"\\ud800"'), "fw.yaml") == ["$.name"]


def test_a_yaml_document_that_is_a_list_is_told(load: Loader) -> None:
    assert load.problems("- 1\n", "fw.yaml") == ["fw.yaml:1:1 $: it is a list, and not a table"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = \n", "fw.toml:1:5: it is not TOML: Invalid value"),
        ("a = 1\na = 2\n", "fw.toml:2:6: it is not TOML: Cannot overwrite a value"),
        ("a = 1\nb = [", "fw.toml:2:6: it is not TOML: Invalid value"),
        ("a = " + "1" * 5000, "fw.toml:1:5005: it is not TOML: "),
    ],
    ids=["value", "twice", "end", "digits"],
)
def test_what_is_not_toml_is_told_with_line_and_column(load: Loader, text: str, problem: str) -> None:
    (told,) = load.problems(text)

    assert told.startswith(problem)


@pytest.mark.parametrize("name", ["fw.toml", "fw.yaml"])
def test_what_is_nested_too_deeply_is_told(load: Loader, name: str) -> None:
    start = "a = " if name.endswith("toml") else "a: "

    assert load.problems(start + "[" * 5000, name) == [f"{name}: it is nested too deeply"]


@pytest.mark.parametrize("name", ["fw.toml", "fw.yaml"])
def test_what_is_not_utf_8_is_told_with_its_line(load: Loader, name: str) -> None:
    assert load.problems(b"# one\n# caf\xe9\n", name) == [f"{name}:2: it is not UTF-8: byte 0xe9; save it as UTF-8"]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no such file"):
        load_rollout(tmp_path / "gone.toml")


def test_a_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "fw.toml").mkdir()

    with pytest.raises(InvalidInput, match="it is a directory; name a file in it"):
        load_rollout(tmp_path / "fw.toml")


def test_a_path_that_cannot_be_opened_is_told(load: Loader) -> None:
    load(LEAST)

    with pytest.raises(InvalidInput, match="it cannot be read: Not a directory"):
        load_rollout(load.directory / "fw.toml" / "fw.toml")


def test_a_file_of_more_than_a_megabyte_is_told(load: Loader) -> None:
    assert load.problems("#" * (1024 * 1024 + 1)) == ["fw.toml: it is larger than 1048576 bytes; is it the right file?"]


@pytest.mark.parametrize("name", ["fw.json", "fw"])
def test_an_ending_that_is_not_known_is_told(load: Loader, name: str) -> None:
    (problem,) = load.problems("{}", name)

    assert problem.endswith("is not known; use .toml, .yaml or .yml")
