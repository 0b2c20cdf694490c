"""What every value of the core promises: it never changes, has no spare room, and is made by its fields' names."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import FrozenInstanceError, fields, is_dataclass
from enum import StrEnum
from typing import Any, Final

import pytest

import opdispatch
from opdispatch.command import Refusal

MODULES: Final = sorted(module.name for module in pkgutil.walk_packages(opdispatch.__path__, "opdispatch."))
VALUES: Final[dict[str, type[Any]]] = {
    f"{found.__module__.removeprefix('opdispatch.')}.{found.__qualname__}": found
    for module in map(importlib.import_module, MODULES)
    for found in vars(module).values()
    if isinstance(found, type) and is_dataclass(found) and found.__module__ == module.__name__
}


WORDS: Final = {
    found
    for module in map(importlib.import_module, MODULES)
    for found in vars(module).values()
    if isinstance(found, type) and issubclass(found, StrEnum) and found not in (StrEnum, Refusal)
}


@pytest.mark.parametrize("value", VALUES.values(), ids=list(VALUES))
def test_a_value_never_changes(value: type[Any]) -> None:
    made = object.__new__(value)

    for field in fields(value):
        with pytest.raises(FrozenInstanceError):
            setattr(made, field.name, None)


@pytest.mark.parametrize("value", VALUES.values(), ids=list(VALUES))
def test_a_value_has_a_hash_because_it_never_changes(value: type[Any]) -> None:
    assert value.__hash__ is not None


@pytest.mark.parametrize("value", VALUES.values(), ids=list(VALUES))
def test_a_value_has_no_room_for_anything_but_its_fields(value: type[Any]) -> None:
    assert not hasattr(object.__new__(value), "__dict__")


@pytest.mark.parametrize("value", VALUES.values(), ids=list(VALUES))
def test_a_value_is_made_by_the_names_of_its_fields(value: type[Any]) -> None:
    assert [field.name for field in fields(value) if not field.kw_only] == []


@pytest.mark.parametrize(
    "word",
    sorted((word for words in WORDS for word in words), key=repr),
    ids=lambda word: f"{type(word).__name__}.{word.name}",
)
def test_a_word_is_written_as_it_is_called(word: StrEnum) -> None:
    assert word.value == word.name.lower()
