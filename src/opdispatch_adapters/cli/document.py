"""Documents: a TOML or YAML file as plain values, read key by key with every problem noted.

``read_document`` settles what a file *says*; a ``Table`` asks it for typed values.  Nothing is coerced: ``true``
is not 1, ``"3"`` is not 3 and 2.9 is not 2.  A value that cannot be used is noted in the ``Report`` and replaced
by a stand-in of the right type, so that reading goes on and one look finds everything; the stand-ins go no
further, because the report is raised before anybody sees them.

Every place is ``file path`` with a path such as ``$.phases.counts[1]``; YAML also knows the line and column, and
then it is ``file:line:column path``.  YAML is 1.2, without anchors, aliases or tags of its own.
"""

from __future__ import annotations

import io
import json
import math
import re
import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Final, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from opdispatch.errors import InvalidInput, Problem

MAX_BYTES: Final = 1024 * 1024
"""A rollout is some kilobytes; a megabyte is a wrong file, and some parsers take minutes over more."""
MAX_SECONDS: Final = 36_500 * 86_400
"""A century, as in the core's waits; anything longer is a slip."""

_T = TypeVar("_T")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_TOML_PLACE: Final = re.compile(r" \(at (?:line ([0-9]+), column ([0-9]+)|end of document)\)$")
_DURATION: Final = re.compile(
    r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9}(?:\.[0-9]{1,6})?)s)?"
)
_WIDEST: Final = 2**63
_UNFIT: Final = (ConstructorError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
"""What the library raises for a text that its own tag does not fit, such as a ``!!float`` of nothing."""


class Report:
    """The problems of one file so far: by line and column where the format tells them, else as they were met."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._problems: list[tuple[str, tuple[int, int], Problem]] = []
        self.marks: dict[str, tuple[int, int]] = {}
        """Line and column, from 1, of each path; empty when the format does not tell."""
        self.spellings: dict[str, str] = {}
        """How the number at a path stands in the file, where it would be written out otherwise: 2.10, and not 2.1."""

    def add(self, path: str, found: str, remedy: str = "") -> None:
        """Note a problem of the value at this path."""
        known = path
        while known and known not in self.marks:
            known = _parent(known)
        mark = self.marks.get(known, (0, 0))
        place = f"{self._file}:{mark[0]}:{mark[1]} {path}" if known else f"{self._file} {path}"
        self._problems.append((path, mark, Problem(place=place, found=found, remedy=remedy)))

    @property
    def count(self) -> int:
        """How many problems there are so far."""
        return len(self._problems)

    def add_at(self, line: int, column: int, found: str) -> None:
        """Note a problem of the text itself."""
        self._problems.append(("", (line, column), Problem(place=f"{self._file}:{line}:{column}", found=found)))

    def make(self, prefix: str, path: str, build: Callable[[], _T], stand_in: _T) -> _T:
        """Build a core value; what the core finds wrong at ``prefix...`` is noted at ``path...``.

        A problem at a path that was noted before, or that holds one, is a consequence of the stand-in there.
        """
        try:
            return build()
        except InvalidInput as error:
            for problem in error.problems:
                place = path + problem.place.removeprefix(prefix)
                if not any(_is_within(known, place) for known, _, _ in self._problems):
                    self.add(place, problem.found, problem.remedy)
            return stand_in

    def raise_if_any(self) -> None:
        """Raise InvalidInput with every problem, if there is one."""
        if self._problems:
            raise InvalidInput(problem for *_, problem in sorted(self._problems, key=lambda noted: noted[1]))


def _is_within(path: str, place: str) -> bool:
    return path == place or path.startswith((f"{place}.", f"{place}["))


def _parent(path: str) -> str:
    """The path of the value that holds this one; empty for the document itself."""
    return path[: max(path.rfind("."), path.rfind("["), 0)]


def _child(path: str, key: str) -> str:
    return f"{path}.{key}" if _BARE.fullmatch(key) else f"{path}[{json.dumps(key)}]"


def named(value: object) -> str:
    """A value as a problem shows it: what it is, and of what kind."""
    match value:
        case None:
            return "nothing"
        case bool():
            return f"{str(value).lower()}, a truth value"
        case str():
            return f"{value if len(value) <= 60 else value[:60] + '...'!r}, a text"
        case int():
            return f"{value if abs(value) < _WIDEST else 'too wide'}, a whole number"
        case float():
            return f"{value}, a number with a point"
        case Mapping():
            return "a table"
        case list():
            return "a list"
        case _:
            return f"{value}, a {type(value).__name__}"


class Table:
    """One table of a document.  The keys that were never asked for are unknown; ``close`` notes them."""

    def __init__(self, report: Report, path: str, values: Mapping[str, object]) -> None:
        self.report = report
        self.path = path
        self._values = values
        self._asked: dict[str, None] = {}

    def place(self, key: str) -> str:
        """The path of a key of this table."""
        return _child(self.path, key)

    def has(self, key: str) -> bool:
        """Whether the file gives this key."""
        self._asked[key] = None
        return key in self._values

    def refuse(self, key: str, found: str, remedy: str = "") -> None:
        """Note a problem of one key."""
        self.report.add(self.place(key), found, remedy)

    def close(self) -> None:
        """Note each key that nobody asked for, with the known one that looks like it."""
        for key in self._values:
            if key not in self._asked:
                near = get_close_matches(key, self._asked, n=1)
                known = f"known: {', '.join(self._asked)}"
                self.refuse(key, "there is no such key", f"did you mean '{near[0]}'?" if near else known)

    def _given(self, key: str, wanted: str) -> object | None:
        """The value of a key that must be there; None, and a problem, when it is not."""
        if not self.has(key):
            self.refuse(key, "it is missing", f"give {wanted}")
            return None
        value = self._values[key]
        if value is None:
            self.refuse(key, "it has no value", f"give {wanted}")
        return value

    def text(self, key: str, default: str | None = None, *, may_be_empty: bool = False) -> str:
        """A text; without a default the key must be there."""
        if default is not None and not self.has(key):
            return default
        value = self._given(key, "a text")
        if value is None:
            return "?"
        return _text(self.report, self.place(key), value, may_be_empty=may_be_empty) or ("" if may_be_empty else "?")

    def choice(self, key: str, choices: Sequence[str], default: str | None = None) -> str | None:
        """One of the given words; None, and a problem, when it is another."""
        if default is not None and not self.has(key):
            return default
        value = self._given(key, f"one of {', '.join(choices)}")
        if value is None:
            return None
        if isinstance(value, str) and value in choices:
            return value
        near = get_close_matches(value, choices, n=1) if isinstance(value, str) else []
        remedy = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(choices)}"
        self.refuse(key, f"it is {named(value)}, and not one of the choices", remedy)
        return None

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number; its range is for the core to say."""
        if default is not None and not self.has(key):
            return default
        value = self._given(key, "a whole number")
        return 1 if value is None else _integer(self.report, self.place(key), value)

    def truth(self, key: str, default: bool) -> bool:
        """True or false."""
        if not self.has(key):
            return default
        value = self._given(key, "true or false")
        if isinstance(value, bool):
            return value
        if value is not None:
            self.refuse(key, f"it is {named(value)}", "write true or false")
        return default

    def duration(self, key: str, default: timedelta) -> timedelta:
        """A time: ``'90s'``, ``'5m'``, ``'1h30m'``, ``'2d'``, or a number of seconds."""
        if not self.has(key):
            return default
        value = self._given(key, "a duration such as '90s', '5m' or '1h30m'")
        if value is None:
            return timedelta.resolution
        seconds: float | None = None
        if isinstance(value, int | float) and not isinstance(value, bool):
            seconds = value if abs(value) <= MAX_SECONDS else None
        elif isinstance(value, str) and value and (match := _DURATION.fullmatch(value)):
            days, hours, minutes, rest = (float(part or 0) for part in match.groups())
            total = ((days * 24 + hours) * 60 + minutes) * 60 + rest
            seconds = total if total <= MAX_SECONDS else None
        if seconds is None:
            remedy = "write it as '90s', '5m', '1h30m', '2d' or a number of seconds, at most a century"
            self.refuse(key, f"it is {named(value)}, and not a duration", remedy)
            return timedelta.resolution
        return timedelta(seconds=seconds)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts that are not empty; () when the key is not there."""
        return tuple(text for _, text in self.placed_texts(key))

    def placed_texts(
        self, key: str, *, optional: bool = True, may_be_empty: bool = False
    ) -> tuple[tuple[str, str], ...]:
        """A list of texts, each with its path; those that are no texts are noted and left out."""
        items = self._items(key, "texts", optional=optional)
        read = ((place, _text(self.report, place, item, may_be_empty=may_be_empty)) for place, item in items)
        return tuple((place, text) for place, text in read if text is not None)

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers; the key must be there."""
        return tuple(_integer(self.report, place, item) for place, item in self._items(key, "whole numbers"))

    def tables(self, key: str) -> tuple[Table, ...]:
        """A list of tables; the key must be there.  What is not a table is noted and left out."""
        tables = (_table(self.report, place, item) for place, item in self._items(key, "tables"))
        return tuple(table for table in tables if not isinstance(table, _Unread))

    def table(self, key: str, *, optional: bool = False) -> Table:
        """A table; an empty one when the key is not there."""
        if optional and not self.has(key):
            return Table(self.report, self.place(key), {})
        value = self._given(key, "a table")
        return _table(self.report, self.place(key), {} if value is None else value)

    def entries(self) -> Mapping[str, object]:
        """Everything in this table, as it is: for tables whose keys are the author's own."""
        self._asked.update(dict.fromkeys(self._values))
        return self._values

    def text_entries(self) -> dict[str, str]:
        """This table as the author's own names for texts."""
        return {
            key: _text(self.report, self.place(key), value, may_be_empty=True) or ""
            for key, value in self.entries().items()
        }

    def _items(self, key: str, wanted: str, *, optional: bool = False) -> list[tuple[str, object]]:
        if optional and not self.has(key):
            return []
        value = self._given(key, f"a list of {wanted}")
        if not isinstance(value, list):
            if value is not None:
                self.refuse(key, f"it is {named(value)}", f"write a list of {wanted}, in [ ]")
            return []
        return [(f"{self.place(key)}[{index}]", item) for index, item in enumerate(value)]


def _text(report: Report, path: str, value: object, *, may_be_empty: bool = False) -> str | None:
    before = report.count
    if not isinstance(value, str):
        remedy = "put it in quotes" if isinstance(value, bool | int | float) else "write a text"
        report.add(path, f"it is {named(value)}, and not a text", remedy)
        return None
    if not value and not may_be_empty:
        report.add(path, "it is empty", "give a text")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        report.add(path, "it holds a NUL or half of a character", "no store can keep that; remove it")
    return value if report.count == before else None


def _integer(report: Report, path: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _WIDEST:
        return value
    wanted = "a whole number of 64 bits" if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    report.add(path, f"it is {named(value)}, and not {wanted}")
    return 1


def _table(report: Report, path: str, value: object) -> Table:
    if isinstance(value, dict):
        return Table(report, path, value)
    report.add(path, f"it is {named(value)}, and not a table")
    return _Unread(report, path, {})


class _Unread(Table):
    """A table that could not be read: every key has its stand-in, and no problem of its own."""

    def refuse(self, key: str, found: str, remedy: str = "") -> None:
        """That it is no table was noted; what follows from that is not."""


def json_of(report: Report, path: str, value: object) -> str:
    """The value as JSON text, keys in their order; what JSON has no word for is noted."""
    before = report.count
    _check_json(report, path, value)
    return json.dumps(value, ensure_ascii=False) if report.count == before else "{}"


def _check_json(report: Report, path: str, value: object) -> None:
    match value:
        case dict():
            for key, item in value.items():
                _text(report, path, key, may_be_empty=True)
                _check_json(report, _child(path, key), item)
        case list():
            for index, item in enumerate(value):
                _check_json(report, f"{path}[{index}]", item)
        case str():
            _text(report, path, value, may_be_empty=True)
        case None | bool():
            pass
        case int() | float() if path in report.spellings:
            # Whoever wrote 2.10 meant a version, and nobody else will ever see its last digit.
            found = f"it is written {report.spellings[path][:60]}, and would become {value!r}"
            report.add(path, found, "put it in quotes")
        case int():
            _integer(report, path, value)
        case float() if math.isfinite(value):
            pass
        case _:
            report.add(path, f"it is {named(value)}, and JSON has no such value", "write it as a text")


def read_document(path: Path) -> Table:
    """The whole document in a file ending in .toml, .yaml or .yml.

    Raises InvalidInput when there is no such file, or when it cannot be read as what its name says.
    """
    report = Report(path.name)
    parse = {".toml": _toml, ".yaml": _yaml, ".yml": _yaml}.get(path.suffix.lower())
    if parse is None:
        raise InvalidInput.at(path.name, f"the ending {path.suffix!r} is not known", "use .toml, .yaml or .yml")
    text = _text_of(path)
    try:
        values = parse(report, text)
    except RecursionError:
        raise InvalidInput.at(path.name, "it is nested too deeply") from None
    report.raise_if_any()
    return Table(report, "$", values)


def _text_of(path: Path) -> str:
    try:
        if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
            # A pipe would be waited for, and a device has no end.
            raise InvalidInput.at(str(path), "it is not a regular file", "name a file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InvalidInput.at(str(path), "there is no such file") from None
    except IsADirectoryError:
        raise InvalidInput.at(str(path), "it is a directory", "name a file in it") from None
    except OSError as error:
        raise InvalidInput.at(str(path), f"it cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise InvalidInput.at(path.name, f"it is larger than {MAX_BYTES} bytes", "is it the right file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"it is not UTF-8: byte 0x{error.object[error.start]:02x}"
        raise InvalidInput.at(f"{path.name}:{line}", found, "save it as UTF-8") from error


class _Float(float):
    """A float of a TOML file, with the text that stands there."""

    text: str


def _float(text: str) -> _Float:
    value = _Float(text)
    value.text = text
    return value


def _toml(report: Report, text: str) -> dict[str, object]:
    try:
        values = tomllib.loads(text, parse_float=_float)
    except ValueError as error:  # also what a number of too many digits raises
        message = str(error)
        match = _TOML_PLACE.search(message)
        at_end = (text.count("\n") + 1, len(text) - text.rfind("\n"))
        line, column = (int(match[1]), int(match[2])) if match and match[1] else at_end
        report.add_at(line, column, f"it is not TOML: {_TOML_PLACE.sub('', message)}")
        return {}
    _note_spellings(report, "$", values)
    return values


def _note_spellings(report: Report, path: str, value: object) -> None:
    match value:
        case dict():
            for key, item in value.items():
                _note_spellings(report, _child(path, key), item)
        case list():
            for index, item in enumerate(value):
                _note_spellings(report, f"{path}[{index}]", item)
        case _Float() if repr(value) != value.text:
            report.spellings[path] = value.text


def _yaml(report: Report, text: str) -> dict[str, object]:
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(io.StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        report.add_at(line, column, f"it is not YAML: {error.problem or error.context}")
        return {}
    except YAMLError as error:
        report.add_at(1, 1, f"it is not YAML: {str(error).splitlines()[0]}")
        return {}
    if root is None:
        return {}
    value = _Plain(report, yaml).value("$", root)
    if isinstance(value, dict):
        return value
    report.add("$", f"it is {named(value)}, and not a table")
    return {}


class _Plain:
    """Turns composed YAML into plain values, noting where each one stands."""

    def __init__(self, report: Report, yaml: YAML) -> None:
        self._report = report
        self._construct: Callable[[Node], object] = yaml.constructor.construct_object
        self._met: set[int] = set()

    def value(self, path: str, node: Node) -> object:
        self._report.marks[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if id(node) in self._met:  # an alias; followed, a few could stand for billions of values
            self._report.add(path, "it is an alias", "write the value out")
            return None
        self._met.add(id(node))
        match node:
            case MappingNode(tag="tag:yaml.org,2002:map"):
                return self._table(path, node.value)
            case SequenceNode(tag="tag:yaml.org,2002:seq"):
                return [self.value(f"{path}[{index}]", item) for index, item in enumerate(node.value)]
            case ScalarNode():
                try:
                    value = self._construct(node)
                    if isinstance(value, int | float) and not isinstance(value, bool) and repr(value) != node.value:
                        self._report.spellings[path] = node.value
                    return value
                except _UNFIT:
                    self._report.add(path, f"{node.value[:60]!r} cannot be read as {node.tag}")
                    return None
            case _:
                self._report.add(path, f"the tag {node.tag} is not known", "leave it out")
                return None

    def _table(self, path: str, pairs: Sequence[tuple[Node, Node]]) -> dict[str, object]:
        table: dict[str, object] = {}
        for key_node, value_node in pairs:
            if not isinstance(key_node, ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                self._report.marks[path] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
                self._report.add(path, "a key is not a text", "put the key in quotes")
                continue
            key: str = key_node.value
            place = _child(path, key)
            if key in table:
                self._report.marks[place] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
                self._report.add(place, "the key is there twice", "keep one")
                continue
            table[key] = self.value(place, value_node)
        return table
