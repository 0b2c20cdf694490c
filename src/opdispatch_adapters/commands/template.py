"""The command line of a task: a list of arguments in which a placeholder fills a whole argument, or none of it.

No shell ever sees a value, and no value can become an option, a part of another argument or a second argument: a
value that begins with ``-``, holds a NUL or cannot be written as UTF-8 is refused.  A literal ``{`` or ``}`` is
written twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from opdispatch.errors import InvalidInput, Problem
from opdispatch.task import SubmissionRequest

FACTS: Final = (
    "rack_id",
    "rack_name",
    "target_id",
    "run_id",
    "attempt",
    "key",
    "operation_type",
    "operation_code",
)
"""Placeholders for what every task has."""
REQUEST_FILE: Final = "request_file"
"""The placeholder for the path of a JSON file with the components and the operation of the task."""
MAX_VALUE_BYTES: Final = 4096
"""A bound for one value, far above any name or id, and far below what the kernel allows for one argument (128 KiB)."""
MAX_ITEMS: Final = 1000

_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+)(?:\.([A-Za-z0-9_-]{1,64}))?\}")


class RefusedValueError(Exception):
    """A value that must not become an argument: which one, and why."""


@dataclass(frozen=True, slots=True)
class Literal:
    """An argument that is the same for every task."""

    text: str


@dataclass(frozen=True, slots=True)
class Fact:
    """An argument that is one fact of the task, or the path of its request file."""

    name: str


@dataclass(frozen=True, slots=True)
class PayloadValue:
    """An argument that is one value of the operation's payload."""

    name: str


Item = Literal | Fact | PayloadValue


@dataclass(frozen=True, slots=True)
class Template:
    """A checked command line; the first item is a literal."""

    items: tuple[Item, ...]

    @classmethod
    def parse(cls, items: Sequence[str]) -> Template:
        """Check a command line.  Raises InvalidInput with every item that is wrong."""
        if isinstance(items, str) or not 1 <= len(items) <= MAX_ITEMS:
            raise InvalidInput.at("command", f"it is not a list of 1 to {MAX_ITEMS} arguments", "give one text each")
        parsed: list[Item] = []
        problems: list[Problem] = []
        for index, item in enumerate(items):
            try:
                parsed.append(_parsed(item))
            except ValueError as error:
                problems.append(Problem(place=f"command[{index}]", found=f"{item!r} {error}"))
        if parsed and not problems and not (isinstance(parsed[0], Literal) and parsed[0].text):
            found = f"{items[0]!r} does not name a program"
            problems.append(Problem(place="command[0]", found=found, remedy="give the path of one program"))
        if problems:
            raise InvalidInput(problems)
        return cls(tuple(parsed))

    @property
    def wants_request_file(self) -> bool:
        """True when some argument is the path of the request file."""
        return Fact(REQUEST_FILE) in self.items

    def argv(self, request: SubmissionRequest, request_file: str) -> list[str]:
        """The arguments for this task.  Raises RefusedValueError for one that must not become an argument."""
        facts = {**facts_of(request), REQUEST_FILE: request_file}
        payload: Mapping[str, object] | None = None
        argv: list[str] = []
        for item in self.items:
            match item:
                case Literal():
                    argv.append(item.text)
                case Fact():
                    argv.append(checked(item.name, facts[item.name]))
                case PayloadValue():
                    if payload is None:
                        payload = _payload_of(request.operation.payload)
                    argv.append(checked(f"payload.{item.name}", _text(item.name, payload)))
        return argv


def facts_of(request: SubmissionRequest) -> dict[str, str]:
    """What every task has, as text, by the names of ``FACTS``."""
    return {
        "rack_id": str(request.rack_id),
        "rack_name": request.rack_name,
        "target_id": str(request.target_id),
        "run_id": str(request.run_id),
        "attempt": str(request.attempt),
        "key": request.key,
        "operation_type": request.operation.type,
        "operation_code": request.operation.code,
    }


def checked(name: str, value: str) -> str:
    """The value, when it may become an argument.  Raises RefusedValueError."""
    if value.startswith("-"):
        raise RefusedValueError(f"{name} is {value[:80]!r}: a value that begins with '-' could be taken for an option")
    return encodable(name, value)


def encodable(name: str, value: str) -> str:
    """The value, when a process can be given it.  Raises RefusedValueError."""
    if "\0" in value:
        raise RefusedValueError(f"{name} is {value[:80]!r}: it holds a NUL, and no argument can")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise RefusedValueError(f"{name} is {value[:80]!r}: it cannot be written as UTF-8") from None
    if size > MAX_VALUE_BYTES:
        raise RefusedValueError(f"{name} has {size} bytes, and {MAX_VALUE_BYTES} are the most: use {{{REQUEST_FILE}}}")
    return value


def _parsed(item: str) -> Item:
    if match := _PLACEHOLDER.fullmatch(item):
        name, part = match.groups()
        if name == "payload" and part is not None:
            return PayloadValue(part)
        if part is None and name in (*FACTS, REQUEST_FILE):
            return Fact(name)
        known = ", ".join(f"{{{fact}}}" for fact in (*FACTS, REQUEST_FILE, "payload.NAME"))
        raise ValueError(f"is not a placeholder; there are {known}")
    bare = item.replace("{{", "").replace("}}", "")
    if "{" in bare or "}" in bare:
        raise ValueError(
            "mixes text and a placeholder, or holds a brace; a placeholder fills a whole argument, and a "
            "literal brace is written twice"
        )
    literal = item.replace("{{", "{").replace("}}", "}")
    try:
        encodable("it", literal)
    except RefusedValueError as error:
        raise ValueError(f"cannot be an argument: {error}") from error
    return Literal(literal)


def _payload_of(payload: str) -> Mapping[str, object]:
    try:
        # Numbers stay as they are written: 1.10 is a version to somebody, and must not become 1.1.
        document = json.loads(payload, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise RefusedValueError(f"the payload of the operation is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise RefusedValueError("the payload of the operation is not a JSON object, and the command wants one")
    return document


def _text(name: str, payload: Mapping[str, object]) -> str:
    match payload.get(name):
        case str() as text:
            return text
        case bool() as flag:
            return "true" if flag else "false"
        case None:
            raise RefusedValueError(f"payload.{name} is missing from the payload of the operation")
        case _:
            raise RefusedValueError(f"payload.{name} is a list or an object, and an argument is one text")
