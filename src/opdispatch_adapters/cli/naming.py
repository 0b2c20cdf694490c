"""Names that people type: a run or a target by its id, the beginning of an id, or its name, when that is unique."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final
from uuid import UUID

from opdispatch.errors import InvalidInput, NotFound
from opdispatch.identity import RunId, TargetId
from opdispatch.ports import Listed
from opdispatch.target import Target

from .runs import Runs

_PREFIX: Final = re.compile(r"[0-9a-f][0-9a-f-]{3,35}")
_PAGE: Final = 1000
_SHOWN: Final = 5


def every_run(store: Runs) -> Iterator[Listed]:
    """All runs, newest first."""
    offset = 0
    while page := store.list(limit=_PAGE, offset=offset):
        yield from page
        offset += len(page)


def run_called(store: Runs, text: str) -> RunId:
    """The run that is meant.  Raises NotFound, and InvalidInput when several are."""
    whole = _uuid(text)
    if whole is not None:
        return RunId(whole)
    prefix = text.lower() if _PREFIX.fullmatch(text.lower()) else None
    named, begun = [], []
    for run in every_run(store):
        if run.name == text:
            named.append(run)
        if prefix is not None and str(run.run_id).startswith(prefix):
            begun.append(run)
    found = named or begun
    if not found:
        raise NotFound("run", text)
    if len(found) > 1:
        those = _some(f"{run.run_id} ({run.status})" for run in found)
        raise InvalidInput.at("RUN", f"{text!r} names {len(found)} runs: {those}", "use more of the id")
    return found[0].run_id


def targets_called(targets: Sequence[Target], texts: Sequence[str]) -> tuple[TargetId, ...]:
    """The targets that are meant, in the order typed, each once.  Raises InvalidInput with every name that is wrong."""
    problems: list[InvalidInput] = []
    found: dict[TargetId, None] = {}
    for text in texts:
        try:
            found[_target_called(targets, text)] = None
        except InvalidInput as error:
            problems.append(error)
    if problems:
        raise InvalidInput(problem for error in problems for problem in error.problems)
    return tuple(found)


def _target_called(targets: Sequence[Target], text: str) -> TargetId:
    whole, lower = _uuid(text), text.lower()
    matches = [target for target in targets if target.rack_name == text]
    if not matches and whole is not None:
        matches = [target for target in targets if whole in (target.id, target.rack_id)]
    elif not matches and _PREFIX.fullmatch(lower):
        matches = [
            target for target in targets if str(target.id).startswith(lower) or str(target.rack_id).startswith(lower)
        ]
    if not matches:
        raise InvalidInput.at("TARGET", f"the run has no target {text!r}", "see `opdispatch show RUN --targets`")
    if len(matches) > 1:
        those = _some(f"{target.id} (rack {target.rack_name})" for target in matches)
        raise InvalidInput.at("TARGET", f"{text!r} names {len(matches)} targets: {those}", "use more of the id")
    return matches[0].id


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text) if len(text) == 36 else None
    except ValueError:
        return None


def _some(texts: Iterable[str]) -> str:
    every = list(texts)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more
