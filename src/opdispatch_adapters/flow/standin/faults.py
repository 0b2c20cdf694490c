"""What the stand-in does wrong on purpose: switches that compose, each for some calls only."""

from __future__ import annotations

import fnmatch
import random
import threading
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum, unique
from pathlib import Path
from types import NoneType
from typing import Any, Final

import attrs
import grpc

from opdispatch.errors import InvalidInput

SUBMISSIONS: Final = (
    *("UpgradeFirmware", "PowerOnRack", "PowerOffRack", "PowerResetRack", "BringUpRack", "IngestRack"),
    "DecommissionRack",
)


@unique
class FaultKind(StrEnum):
    """What goes wrong."""

    SLOW = "slow"
    """The call takes ``seconds`` longer."""
    REFUSE = "refuse"
    """The call is answered with ``code`` and ``text``, and nothing is done."""
    HANG = "hang"
    """The call is never answered.  Nothing is done, unless ``drop_reply`` hits it too: then it is carried out first."""
    DROP_REPLY = "drop_reply"
    """The call is carried out, and answered as if the connection were lost."""
    RESTART = "restart"
    """Every connection is cut, and the server listens anew on the same port; its tasks stay.  Of the call nothing is
    done, unless ``drop_reply`` hits it too."""
    LATE = "late"
    """The call is carried out ``seconds`` after its caller gave up."""
    TWICE = "twice"
    """The answer says everything twice."""
    FORGET = "forget"
    """A task is gone: the one that the call makes, or the first that it asks for."""
    UNKNOWN_STATUS = "unknown_status"
    """The tasks in the answer are in a status of a later version."""
    WRONG_COMPONENTS = "wrong_components"
    """The task has one component less than was asked for."""


_SHAPES: Final[Sequence[tuple[str, tuple[type, ...], str]]] = (
    *((name, (str,), "text") for name in ("methods", "rack", "code", "text")),
    *((name, (int,), "whole number") for name in ("first", "every")),
    ("times", (int, NoneType), "whole number"),
    *((name, (int, float), "number") for name in ("probability", "seconds")),
)
"""What each setting of a fault may be, for those who write them by hand."""


@attrs.frozen(kw_only=True)
class Fault:
    """One switch: which calls it is for, and how often.

    ``methods`` is a pattern of the call's name or ``submissions`` for all that begin tasks; ``rack`` one of the rack's
    name, where the call names a rack.  Of the calls that fit, the first ``first`` are spared, then each ``every``-th is
    hit with ``probability`` (0 to 1), at most ``times`` in all.  Raises InvalidInput for what cannot be.
    """

    kind: FaultKind
    methods: str = "submissions"
    rack: str = "*"
    first: int = 0
    every: int = 1
    times: int | None = None
    probability: float = 1.0
    seconds: float = 1.0
    code: str = "UNAVAILABLE"
    text: str = "the stand-in refuses"

    def __attrs_post_init__(self) -> None:
        for name, kinds, word in _SHAPES:
            if not isinstance(getattr(self, name), kinds) or isinstance(getattr(self, name), bool):
                raise InvalidInput.at(f"fault.{name}", f"{getattr(self, name)!r} is no {word}", f"give a {word}")
        for name, least in (("first", 0), ("every", 1), ("times", 0), ("seconds", 0)):
            number = getattr(self, name)
            if number is not None and not number >= least:
                raise InvalidInput.at(f"fault.{name}", f"{number} is below {least}", f"give {least} or more")
        if not 0 <= self.probability <= 1:
            raise InvalidInput.at("fault.probability", f"{self.probability} is not within 0 and 1", "give a share")
        if self.code not in grpc.StatusCode.__members__ or self.code == "OK":
            codes = ", ".join(code for code in grpc.StatusCode.__members__ if code != "OK")
            raise InvalidInput.at("fault.code", f"{self.code!r} is no code of an error", f"use {codes}")

    def fits(self, method: str, racks: Iterable[str]) -> bool:
        """True for a call that it may hit."""
        named = method in SUBMISSIONS if self.methods == "submissions" else fnmatch.fnmatchcase(method, self.methods)
        if not named or self.rack == "*":
            return named
        return any(fnmatch.fnmatchcase(rack, self.rack) for rack in racks)


class Faults:
    """The switches of a server, with their counts.  Safe for threads; the same seed hits the same calls."""

    def __init__(self, faults: Iterable[Fault] = (), seed: int = 0) -> None:
        self._guard = threading.Lock()
        self._random = random.Random(seed)  # noqa: S311  # repeatable on purpose
        self.hits: Counter[FaultKind] = Counter()
        self.set(faults)

    def set(self, faults: Iterable[Fault]) -> None:
        """Use these from now on; what was counted begins anew."""
        with self._guard:
            self._faults = tuple(faults)
            self._met = [0] * len(self._faults)
            self._hit = [0] * len(self._faults)

    def on(self, method: str, racks: Iterable[str] = ()) -> Mapping[FaultKind, Fault]:
        """The faults of one call, at most one of a kind."""
        named = tuple(racks)
        found: dict[FaultKind, Fault] = {}
        with self._guard:
            for index, fault in enumerate(self._faults):
                if not fault.fits(method, named):
                    continue
                self._met[index] += 1
                is_over = fault.times is not None and self._hit[index] >= fault.times
                count = self._met[index] - fault.first
                if count <= 0 or count % fault.every or is_over or self._random.random() >= fault.probability:
                    continue
                self._hit[index] += 1
                self.hits[fault.kind] += 1
                found.setdefault(fault.kind, fault)
        return found


def faults_in(path: Path) -> tuple[Fault, ...]:
    """The faults that a TOML file lists, one ``[[fault]]`` each.  Raises InvalidInput."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput.at(str(path), f"it cannot be read: {error.strerror}", "name a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput.at(str(path), f"it is not TOML: {error}", "write one [[fault]] for each") from error
    entries = document.pop("fault", [])
    if document or not isinstance(entries, list):
        raise InvalidInput.at(str(path), f"it has {', '.join(document) or 'no list'}", "write [[fault]] tables alone")
    return tuple(_fault(f"{path} fault[{index}]", entry) for index, entry in enumerate(entries))


def _fault(place: str, entry: Mapping[str, Any]) -> Fault:
    known = {field.name: field for field in attrs.fields(Fault)}
    more = [key for key in entry if key not in known]
    if more or "kind" not in entry:
        found = f"it does not know {', '.join(more)}" if more else "it has no kind"
        raise InvalidInput.at(place, found, f"use {', '.join(known)}")
    try:
        kind = FaultKind(entry["kind"])
    except ValueError as error:
        raise InvalidInput.at(f"{place}.kind", f"{entry['kind']!r} is none", f"use {', '.join(FaultKind)}") from error
    try:
        return Fault(**{**entry, "kind": kind})
    except InvalidInput as error:
        raise InvalidInput(
            replace(problem, place=f"{place}.{problem.place.removeprefix('fault.')}") for problem in error.problems
        ) from error


def wait_of(fault: Fault | None) -> timedelta:
    """How much longer a fault makes a call."""
    return timedelta(0) if fault is None else timedelta(seconds=fault.seconds)
