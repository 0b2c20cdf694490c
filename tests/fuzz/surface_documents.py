"""Persisted documents: every reader of ``sql.documents`` and ``sql.rollout_documents``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final

from opdispatch.errors import CorruptRecord
from opdispatch.rollout import Rollout
from opdispatch_adapters.sql import documents, rollout_documents

from .engine import Input, Surface
from .golden import inputs_of
from .laws import MOST_TEXT, check_rejection, held
from .mutate import JsonSeed, changed_bytes, in_another_encoding, raw_bytes

PLACE: Final = "run 1, column it"
_HUGE: Final = 20_000
"""One input in so many has a value with a million members."""


@dataclass(frozen=True, slots=True)
class _Kind:
    read: Callable[[str, object], Any]
    write: Callable[[Any], str]


def _rollout(columns: dict[str, str], column: str, what: str, text: object) -> Rollout:
    return rollout_documents.rollout_from(
        what,
        name="spring firmware",
        description="",
        **{**columns, column: text},
    )


def _conflict(what: str, text: object) -> Any:
    found = rollout_documents.conflict_from(text)
    if found is None:
        # Counts as no refusal before: the reference's readers are as lenient.
        raise CorruptRecord(what, "it tells no history @ $")
    return found


OURS: Final = {
    name: _Kind(getattr(documents, f"{name}_from"), getattr(documents, f"{name}_text"))
    for name in ("observations", "steps", "limits", "held_back", "command", "reply", "accepted")
}
_OTHERS: Final = {
    "components": _Kind(rollout_documents.components_from, rollout_documents.components_text),
    "retry_state": _Kind(_conflict, rollout_documents.retry_state_text),
}
ROLLOUT: Final = {
    "selector": rollout_documents.selector_text,
    "options": rollout_documents.options_text,
    "template": rollout_documents.template_text,
}
KINDS: Final = (*OURS, *_OTHERS, *ROLLOUT)


class Documents(Surface):
    name: ClassVar[str] = "documents"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._kinds = {**OURS, **_OTHERS}
        self._seeds: tuple[Input, ...] = ()

    @property
    def seeds(self) -> Sequence[Input]:
        if not self._seeds:
            self._seeds = inputs_of(self.name)
            self._load()
        return self._seeds

    def _load(self) -> None:
        self._parsed = [(seed.kind, JsonSeed(seed.data)) for seed in self._seeds]
        self._json = [seed for _, seed in self._parsed]
        self._bytes = [seed.data for seed in self._seeds]

    def _kind(self, name: str) -> _Kind:
        found = self._kinds.get(name)
        if found is None:
            columns = {
                "selector": '{"kind":"percentage","payload":{"percentage":100,"seed":"s"}}',
                "options": '{"max_concurrent_targets":1,"safety_policy":{"gates":[]},"conflict_policy":{"kind":"retry",'
                '"payload":{"retry_timeout":1000,"initial_retry_delay":1000,"max_retry_delay":1000}},'
                '"ordering_policy":{"kind":"random","payload":{"seed":"o"}}}',
                "template": '{"type":"a","code":"b","target_scope":{},"payload":{}}',
            }
            found = self._kinds[name] = _Kind(partial(_rollout, columns, name), ROLLOUT[name])
        return found

    def mutated(self, chance: Random) -> Input:
        kind, seed = chance.choice(self._parsed)
        match chance.randrange(20):
            case 0:
                data = raw_bytes(chance)
            case 1 | 2 | 3 | 4:
                data = changed_bytes(seed.data, chance, self._bytes)
            case 5:
                data = in_another_encoding(seed.data, chance)
            case 6:
                # The document of another kind, whole.
                data = chance.choice(self._bytes)
            case _:
                data = seed.changed(chance, self._json, huge=chance.randrange(_HUGE) == 0)
        return Input(kind, data)

    def value(self, given: Input) -> Any:
        """What the document is read to."""
        return self._kind(given.kind).read(PLACE, given.data.decode("utf-8", "surrogateescape"))

    def takes(self, given: Input) -> bool:
        kind = self._kind(given.kind)
        try:
            value = kind.read(PLACE, given.data.decode("utf-8", "surrogateescape"))
        except CorruptRecord as error:
            check_rejection(error)
            held(error.what.startswith(PLACE), f"it names {error.what}")
            held("$" in error.detail, f"it names no path: {error.detail[:200]}")
            held(len(error.detail) <= MOST_TEXT, "the detail is too long to be kept")
            return False
        text = kind.write(value)
        text.encode("ascii")
        again = kind.read(PLACE, text)
        held(again == value, f"it is read to another value once it was written: {text[:500]}")
        held(kind.write(again) == text, f"it is written otherwise the second time: {text[:500]}")
        return True
