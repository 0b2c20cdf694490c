"""The command line of a task: what a template may be, and that values arrive as they are or not at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opdispatch.errors import InvalidInput
from opdispatch_adapters.commands.template import FACTS, MAX_VALUE_BYTES, RefusedValueError, Template, checked
from tests.integration.commands_kit import a_request

REQUEST_FILE = "/srv/commands/request.json"
TEXTS = st.text(st.characters(exclude_categories=[]), max_size=60)
"""Any text, lone surrogates and control characters among it."""
HOSTILE = st.one_of(
    TEXTS,
    st.sampled_from(
        ["-", "--help", "-rf", "a\0b", "$(reboot)", "`id`", ";", "{rack_id}", "", " ", "\n", "'", '"', "\\"]
    ),
    TEXTS.map("-".__add__),
    TEXTS.map(lambda text: text + "\0"),
    st.integers(MAX_VALUE_BYTES - 2, MAX_VALUE_BYTES + 2).map("x".__mul__),
)


def may_be_an_argument(value: str) -> bool:
    """The rule, said another way."""
    try:
        data = value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return data[:1] != b"-" and b"\0" not in data and len(data) <= MAX_VALUE_BYTES


@settings(max_examples=500)
@given(HOSTILE)
@example("-")
@example("\ud800")
@example("\udc80")
def test_a_value_fills_one_argument_byte_for_byte_or_is_refused(value: str) -> None:
    template = Template.parse(["/bin/tool", "before", "{rack_name}", "{payload.value}", "after"])
    request = a_request(rack_name=value, payload=json.dumps({"value": value}))

    if may_be_an_argument(value):
        assert [item.encode() for item in template.argv(request, REQUEST_FILE)] == [
            b"/bin/tool",
            b"before",
            value.encode(),
            value.encode(),
            b"after",
        ]
    else:
        with pytest.raises(RefusedValueError, match="rack_name"):
            template.argv(request, REQUEST_FILE)


@given(HOSTILE, st.sampled_from([*FACTS, "payload.value"]))
def test_no_value_becomes_an_option_at_any_placeholder(value: str, name: str) -> None:
    if may_be_an_argument(value):
        assert checked(name, value) == value
    else:
        with pytest.raises(RefusedValueError, match=name.replace(".", r"\.")):
            checked(name, value)


@given(TEXTS)
def test_a_literal_with_its_braces_doubled_is_itself(text: str) -> None:
    doubled = text.replace("{", "{{").replace("}", "}}")

    if "\0" in text or not may_be_an_argument("x" + text):
        with pytest.raises(InvalidInput, match=r"command\[1\]"):
            Template.parse(["/bin/tool", doubled])
    else:
        argv = Template.parse(["/bin/tool", doubled]).argv(a_request(), REQUEST_FILE)
        assert argv == ["/bin/tool", text]


@given(st.text(max_size=200) | st.binary(max_size=50).map(lambda data: data.decode("latin-1")))
@example("[" * 100_000)
@example('{"value": ' * 50_000)
@example('{"value": 1e999999}')
@example('{"value": NaN}')
def test_any_payload_gives_a_value_or_a_refusal(payload: str) -> None:
    template = Template.parse(["/bin/tool", "{payload.value}"])

    try:
        argv = template.argv(a_request(payload=payload), REQUEST_FILE)
    except RefusedValueError:
        return

    assert len(argv) == 2


@pytest.mark.parametrize(
    ("written", "argument"),
    [
        ('"1.10"', "1.10"),
        ("1.10", "1.10"),
        ("007e1", None),
        ("12", "12"),
        ("true", "true"),
        ("false", "false"),
        ("null", None),
        ("[1]", None),
        ("{}", None),
        ("-1", None),
    ],
)
def test_a_payload_value_is_a_text_a_number_as_written_or_a_flag(written: str, argument: str | None) -> None:
    template = Template.parse(["/bin/tool", "{payload.value}"])
    request = a_request(payload=f'{{"value": {written}}}')

    if argument is None:
        with pytest.raises(RefusedValueError):
            template.argv(request, REQUEST_FILE)
    else:
        assert template.argv(request, REQUEST_FILE) == ["/bin/tool", argument]


def test_every_fact_has_a_placeholder() -> None:
    request = a_request()

    argv = Template.parse(["/bin/tool", *(f"{{{fact}}}" for fact in FACTS)]).argv(request, REQUEST_FILE)

    assert argv[1:] == [
        str(request.rack_id),
        "R-1",
        str(request.target_id),
        str(request.run_id),
        "1",
        request.key,
        "firmware_control",
        "upgrade",
    ]


def test_the_request_file_is_wanted_only_where_it_is_named() -> None:
    assert Template.parse(["/bin/tool", "{request_file}"]).wants_request_file
    assert not Template.parse(["/bin/tool", "{{request_file}}"]).wants_request_file


@pytest.mark.parametrize(
    ("command", "place", "why"),
    [
        (["/bin/tool", "rack={rack_id}"], r"command\[1\]: 'rack=\{rack_id\}'", "fills a whole argument"),
        (["/bin/tool", "{rack_id}{run_id}"], r"command\[1\]", "fills a whole argument"),
        (["/bin/tool", "{rack}"], r"command\[1\]: '\{rack\}'", r"there are \{rack_id\}"),
        (["/bin/tool", "{payload}"], r"command\[1\]", r"\{payload.NAME\}"),
        (["/bin/tool", "{rack_id.x}"], r"command\[1\]", "is not a placeholder"),
        (["/bin/tool", "{"], r"command\[1\]", "written twice"),
        (["/bin/tool", "a\0b"], r"command\[1\]", "NUL"),
        (["{rack_id}"], r"command\[0\]", "does not name a program"),
        ([""], r"command\[0\]", "does not name a program"),
        ([], "command", "not a list of 1 to"),
        ("/bin/tool", "command", "not a list of 1 to"),
    ],
)
def test_a_template_that_could_mean_two_things_is_refused(command: list[str], place: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=f"{place}.*{why}"):
        Template.parse(command)


def test_all_wrong_items_are_named_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        Template.parse(["/bin/tool", "{a}", "fine", "x{rack_id}"])

    assert [problem.place for problem in caught.value.problems] == ["command[1]", "command[3]"]
