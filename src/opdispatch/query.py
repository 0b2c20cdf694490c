"""Which runs a reader asks for: by name, by state, by operation.

A query is a value that every store answers alike; ``RunQuery.matches`` says what it means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from .errors import InvalidInput
from .run import RunStatus, StatusReason


class Wild(Enum):
    """A part of a pattern that stands for other characters."""

    ANY = auto()
    """Any number of them, none too."""
    ONE = auto()
    """Exactly one."""


_WILD: Final = {"%": Wild.ANY, "_": Wild.ONE}


@dataclass(frozen=True, slots=True, kw_only=True)
class NamePattern:
    """A name, or a pattern in the language of SQL's LIKE.

    ``%`` is any characters, ``_`` one, a backslash takes the next character as it is; case counts.  Raises InvalidInput
    for a pattern that ends in a lone backslash, and for a NUL character.
    """

    text: str
    is_wild: bool = False

    def __post_init__(self) -> None:
        if "\0" in self.text:
            raise InvalidInput.at("name", "it holds a NUL character, which no name does", "leave it out")
        self.parts()

    def parts(self) -> tuple[str | Wild, ...]:
        """The pattern, read: characters, one by one, and what stands for others."""
        if not self.is_wild:
            return tuple(self.text)
        found: list[str | Wild] = []
        characters = iter(self.text)
        for character in characters:
            if character == "\\":
                character = next(characters, "")
                if not character:
                    raise InvalidInput.at("name", f"the pattern {self.text!r} ends in a backslash", "double it")
                found.append(character)
            else:
                found.append(_WILD.get(character, character))
        return tuple(found)

    def matches(self, name: str) -> bool:
        """True when the whole name fits."""
        wild = {Wild.ANY: ".*", Wild.ONE: "."}
        pattern = "".join(wild[part] if isinstance(part, Wild) else re.escape(part) for part in self.parts())
        return re.fullmatch(pattern, name, re.DOTALL) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFilter:
    """A status, a reason, or both together; at least one is given."""

    status: RunStatus | None = None
    reason: StatusReason | None = None

    def __post_init__(self) -> None:
        if self.status is None and self.reason is None:
            raise InvalidInput.at("state", "it names neither a status nor a reason", "name one, or both")

    def matches(self, status: RunStatus, reason: StatusReason) -> bool:
        """True when what is given equals what is found."""
        return self.status in (None, status) and self.reason in (None, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class KindFilter:
    """An operation's type, and its code where that matters."""

    type: str
    code: str | None = None

    def matches(self, type_: str, code: str) -> bool:
        """True when what is given equals what is found."""
        return self.type == type_ and self.code in (None, code)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuery:
    """Runs that fit all of the three; an empty one does not narrow.

    ``names`` are joined by OR where ``any_name`` is set, else by AND; of ``states`` and of ``kinds`` one must fit.
    """

    names: tuple[NamePattern, ...] = ()
    any_name: bool = False
    states: tuple[StateFilter, ...] = ()
    kinds: tuple[KindFilter, ...] = ()

    @classmethod
    def in_statuses(cls, statuses: Iterable[RunStatus]) -> RunQuery:
        """Runs in one of these statuses; none given means all."""
        return cls(states=tuple(StateFilter(status=status) for status in sorted(statuses)))

    def matches(self, *, name: str, status: RunStatus, reason: StatusReason, type: str, code: str) -> bool:
        """True when a run of which this is known is asked for."""
        named = [pattern.matches(name) for pattern in self.names]
        return (
            (not named or (any(named) if self.any_name else all(named)))
            and (not self.states or any(state.matches(status, reason) for state in self.states))
            and (not self.kinds or any(kind.matches(type, code) for kind in self.kinds))
        )


EVERY_RUN: Final = RunQuery()
"""All runs."""
