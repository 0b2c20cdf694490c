"""Strict converters: what a stored document may say, and how what it says wrongly is told.

Nothing is coerced on the way in: ``true`` is not 1, ``"3"`` is not 3 and 2.9 is not 2.  Two converters share these
rules.  They differ in what they forgive and in how they write a duration:

* ``ours()`` is for our own documents: a key that is not known is an error, durations are integer microseconds.
* ``reference()`` is for documents in the reference's shape: keys that are not known are passed over, durations are
  integer nanoseconds (flow-storage contract, section 5), and one that is finer than a microsecond is rounded up.

Instants are RFC 3339 text in UTC with six fraction digits; ids are UUID text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NoReturn
from uuid import UUID

from cattrs import (
    BaseValidationError,
    Converter,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
    transform_error,
)
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn

from opdispatch.errors import CorruptRecord, InvalidInput
from opdispatch.identity import ComponentId
from opdispatch.observation import storable
from opdispatch.task import Components, frozen_components

_INSTANT: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?Z", re.ASCII)
_MICROSECOND: Final = timedelta(microseconds=1)
_MOST_PROBLEMS: Final = 20
"""So many wrong members of a list are looked for, and so many problems of a document told: a message is kept in a row,
and a list can have a million members."""
_MOST_TEXT: Final = 300
"""Characters of one problem."""


class Unreadable(ValueError):
    """A value that a document may not hold.  Becomes a CorruptRecord that names the place."""


class Unread:
    """What a column holds that is no value of its type: so that one row spoils no list, until a reader needs it."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why

    def __repr__(self) -> str:
        return self.why


def _exactly(kind: type[Any]) -> Any:
    name = {str: "text", int: "an integer", bool: "true or false"}[kind]

    def structure(value: object, _: object) -> object:
        if type(value) is not kind:
            raise Unreadable(f"{shown(value)} is not {name}")
        return value

    return structure


def shown(value: object) -> str:
    """A value as it is quoted in a message: JSON, cut when it is long."""
    text = json.dumps(value, default=repr, sort_keys=True)
    return text if len(text) <= 60 else f"{text[:57]}..."


def brief(text: str) -> str:
    """An error's text on one line: what it quotes may be of any length, and of characters that no store can keep."""
    text = " ".join(text[: 2 * _MOST_TEXT].split())
    return storable(text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 3]}...")


def instant_text(instant: datetime) -> str:
    """An aware instant as it is stored: UTC, six fraction digits, so that text order is time order."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant} has no time zone")
    return f"{instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def instant_from(value: object) -> datetime:
    """The instant that a stored text tells."""
    if type(value) is not str or not _INSTANT.fullmatch(value):
        raise Unreadable(f"{shown(value)} is not an RFC 3339 instant in UTC")
    if len(value) > 27 and value[26:-1].strip("0"):
        raise Unreadable(f"{shown(value)} is finer than a microsecond")
    try:
        return datetime.fromisoformat(f"{value[:-1][:26]}+00:00")
    except ValueError as error:
        raise Unreadable(f"{shown(value)} is not an instant: {error}") from error


def numbers_from(value: str) -> tuple[int, ...]:
    """The whole numbers that a stored list tells."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{shown(value)} is not JSON: {error}") from error
    if type(found) is not list or any(type(number) is not int for number in found):
        raise Unreadable(f"{shown(value)} is not a list of whole numbers")
    return tuple(found)


def uuid_from(value: object) -> UUID:
    """The id that a stored text tells."""
    if type(value) is str:
        try:
            found = UUID(value)
        except ValueError:
            pass
        else:
            if str(found) == value.lower():
                return found
    raise Unreadable(f"{shown(value)} is not a UUID")


def _member(value: object, kind: type[StrEnum]) -> StrEnum:
    if type(value) is str:
        try:
            return kind(value)
        except ValueError:
            pass
    raise Unreadable(f"{shown(value)} is not one of {', '.join(kind)}")


def _converter(*, forbid_extra_keys: bool) -> Converter:
    converter = Converter(forbid_extra_keys=forbid_extra_keys)
    for primitive in (str, int, bool):
        converter.register_structure_hook(primitive, _exactly(primitive))
    converter.register_structure_hook(UUID, lambda value, _: uuid_from(value))
    converter.register_unstructure_hook(UUID, str)
    converter.register_structure_hook(datetime, lambda value, _: instant_from(value))
    converter.register_unstructure_hook(datetime, instant_text)
    # By class: a text enum is text too, and the reader of text would leave it plain.
    converter.register_structure_hook(StrEnum, _member)
    converter.register_structure_hook_factory(_is_sequence, _sequence_hook)
    converter.register_structure_hook_factory(is_dataclass, class_hook)
    converter.register_structure_hook_func(_is_components, lambda value, _: _components_from(converter, value))
    converter.register_unstructure_hook_func(_is_components, components_document)
    return converter


def _is_sequence(kind: Any) -> bool:
    return getattr(kind, "__origin__", None) in (tuple, list)


def _sequence_hook(kind: Any, converter: Converter) -> Any:
    """A tuple or a list is read from a list alone: text is a sequence too, and an object one of its keys."""
    whole, member = kind.__origin__, kind.__args__[0]
    read_member = converter.get_structure_hook(member)

    def structure(value: object, _: object) -> Any:
        if type(value) is not list:
            raise Unreadable(f"{shown(value)} is not a list")
        found, wrong = [], []
        for index, one in enumerate(value):
            try:
                found.append(read_member(one, member))
            except Exception as error:
                error.__notes__ = [*getattr(error, "__notes__", ()), IterableValidationNote("a member", index, member)]
                wrong.append(error)
                if len(wrong) == _MOST_PROBLEMS:
                    break
        if wrong:
            raise IterableValidationError("members cannot be read", wrong, kind)
        return whole(found)

    return structure


def class_hook(kind: Any, converter: Converter, **renamed: Any) -> Any:
    """A reader of one class that takes nothing but an object; ``renamed`` are cattrs' overrides by field."""
    read_fields = make_dict_structure_fn(
        kind, converter, _cattrs_forbid_extra_keys=converter.forbid_extra_keys, **renamed
    )
    return lambda value, _: read_fields(object_of(value), kind)


def _is_components(kind: object) -> bool:
    return kind == Components


def components_document(components: Components) -> dict[str, list[str]]:
    """Components by type as the reference stores them (flow-storage, 5.4)."""
    return {kind: [str(component) for component in ids] for kind, ids in components.items()}


def _components_from(converter: Converter, value: object) -> Components:
    pairs = object_of(value)
    return frozen_components({kind: converter.structure(ids, tuple[ComponentId, ...]) for kind, ids in pairs.items()})


def object_of(value: object) -> Mapping[str, object]:
    """The value, which must be a JSON object."""
    if type(value) is not dict:
        raise Unreadable(f"{shown(value)} is not an object")
    return value


def ours() -> Converter:
    """A converter for our own documents."""
    converter = _converter(forbid_extra_keys=True)
    _durations(converter, 1)
    return converter


def reference() -> Converter:
    """A converter for documents in the reference's shape."""
    converter = _converter(forbid_extra_keys=False)
    _durations(converter, 1000)
    return converter


def _durations(converter: Converter, per_microsecond: int) -> None:
    def structure(value: object, _: object) -> timedelta:
        if type(value) is not int:
            raise Unreadable(f"{shown(value)} is not an integer")
        try:
            # Up: a wait is never shorter than it was meant, nor nothing where there was one.
            return timedelta(microseconds=-(-value // per_microsecond))
        except OverflowError as error:
            raise Unreadable(f"{value} is too long") from error

    converter.register_structure_hook(timedelta, structure)
    converter.register_unstructure_hook(timedelta, lambda wait: wait // _MICROSECOND * per_microsecond)


def register_tagged(converter: Converter, union: Any, kinds: Mapping[str, type[Any]]) -> None:
    """Read and write a closed union as its members' own keys beside a ``kind``."""
    names = {member: name for name, member in kinds.items()}
    writers = {member: make_dict_unstructure_fn(member, converter) for member in names}
    readers = {name: class_hook(member, converter) for name, member in kinds.items()}

    def unstructure(value: Any) -> dict[str, Any]:
        return {"kind": names[type(value)], **writers[type(value)](value)}

    def structure(value: object, _: object) -> Any:
        pairs = dict(object_of(value))
        name = kind_of(pairs, kinds)
        del pairs["kind"]
        return readers[name](pairs, kinds[name])

    converter.register_structure_hook(union, structure)
    converter.register_unstructure_hook(union, unstructure)


def kind_of(pairs: Mapping[str, object], kinds: Mapping[str, object]) -> str:
    """The ``kind`` of an object, which must be one of these."""
    kind = pairs.get("kind")
    if type(kind) is not str or kind not in kinds:
        found = f"unknown kind {shown(kind)}" if "kind" in pairs else "it has no kind"
        raise Unreadable(f"{found}; known are {', '.join(kinds)}")
    return kind


def check_version(pairs: Mapping[str, object], version: int, *, needed: bool) -> None:
    """Refuse a document of another version.  One that does not say is of the first unless ``needed``."""
    found = pairs.get("version", None if needed else version)
    if type(found) is not int or found != version:
        raise Unreadable(f"version {shown(found)} is not known; this program reads version {version}")


def text_of(document: object) -> str:
    """A document as it is stored: compact JSON, ASCII, keys in their order."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def _refuse_constant(name: str) -> NoReturn:
    raise Unreadable(f"{name} is not JSON")


def read(what: str | Callable[[], str], text: object, structure: Any) -> Any:
    """The value that ``structure`` makes of a stored text.

    Raises CorruptRecord, which names ``what`` and the paths of everything that is wrong.
    """
    try:
        if type(text) is not str:
            raise Unreadable(f"{shown(text)} is not the text of a document")
        return structure(json.loads(text, parse_constant=_refuse_constant))
    except BaseValidationError as error:
        problems = transform_error(error, format_exception=_told)
        if len(problems) > _MOST_PROBLEMS:
            problems[_MOST_PROBLEMS:] = [f"and {len(problems) - _MOST_PROBLEMS} more problems"]
        raise CorruptRecord(_named(what), "; ".join(problems)) from error
    except (Unreadable, InvalidInput, ValueError, RecursionError) as error:
        raise CorruptRecord(_named(what), f"{_told(error, None)} @ $") from error


def _named(what: str | Callable[[], str]) -> str:
    return what if isinstance(what, str) else what()


def _told(error: BaseException, _: object) -> str:
    match error:
        case KeyError():
            text = f"the key {error.args[0]!r} is missing"
        case ForbiddenExtraKeysError():
            text = f"there are no keys {', '.join(sorted(error.extra_fields))}"
        case _:
            text = str(error)
    return brief(text)
