"""CSV tables, read strictly: what a file must look like before anybody asks what it means.

Nothing is repaired and nothing is passed over.  Whatever is wrong is noted with its place,
``file:line:column-name``, where the line is the physical line on which the record starts; reading goes on, so
that one look finds everything.  A byte order mark is accepted.
"""

from __future__ import annotations

import csv
import io
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

from opdispatch.errors import InvalidInput, Problem

if TYPE_CHECKING:
    import _csv

MAX_SHOWN: Final = 50
"""Problems that are told in full; the rest are counted.  More than a screen of them helps nobody."""

MAX_TEXT: Final = 400
"""Characters of a place, or of what was found there: a cell that it quotes may hold half a file."""
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


class Problems:
    """The problems found so far, in the order of the input."""

    def __init__(self) -> None:
        self._shown: list[Problem] = []
        self.count = 0

    def add(self, place: str, found: str, remedy: str = "") -> None:
        """Note one problem."""
        self.count += 1
        if self.count <= MAX_SHOWN:
            self._shown.append(Problem(place=_cut(place), found=_cut(found), remedy=remedy))

    def raise_if_any(self) -> None:
        """Raise InvalidInput with all of them; past the cap the last entry says how many more there are."""
        if not self.count:
            return
        more = self.count - len(self._shown)
        if more:
            self._shown.append(Problem(place="", found=f"and {more} more problems", remedy="mend these first"))
        raise InvalidInput(self._shown)


class Record:
    """One line of a table.  Reading a cell notes what is wrong with it; ``is_sound`` tells whether anything was."""

    __slots__ = ("_columns", "_file", "_problems", "cells", "is_sound", "line")

    def __init__(self, file: str, line: int, columns: dict[str, int], cells: Sequence[str], problems: Problems) -> None:
        self._file = file
        self._columns = columns
        self._problems = problems
        self.cells = cells
        self.line = line
        self.is_sound = True

    def refuse(self, column: str, found: str, remedy: str = "") -> None:
        """Note a problem of one cell."""
        self.is_sound = False
        self._problems.add(f"{self._file}:{self.line}:{column}", found, remedy)

    def raw(self, column: str) -> str:
        """The cell as it is written."""
        return self.cells[self._columns[column]]

    def known(self, column: str) -> str | None:
        """The text of a cell; None when it is empty: the source does not say."""
        text = self.raw(column)
        if text != text.strip():
            self.refuse(column, f"{text!r} begins or ends with a blank", "remove the blank")
        return text or None

    def text(self, column: str) -> str:
        """The text of a cell that must not be empty."""
        text = self.known(column)
        if text is None:
            self.refuse(column, "it is empty", "every record needs one")
        return text or ""

    def uuid(self, column: str) -> UUID | None:
        """The UUID in a cell; None, and a problem, when there is none."""
        text = self.raw(column)
        if _UUID.fullmatch(text):
            return UUID(text)
        self.refuse(column, f"{text[:80]!r} is not a UUID", "write it as 8-4-4-4-12 hexadecimal digits")
        return None


def read_table(path: Path, columns: Sequence[str], problems: Problems) -> Iterator[Record] | None:
    """The records of one file that have the right number of cells, in file order.

    Args:
        path: the file; its name without the directory is the first part of every place.
        columns: exactly the columns that it must have, in any order.
        problems: where everything that is wrong is noted.

    Returns:
        None when no record can be trusted: the file is missing, not text, or its header is wrong.
    """
    text = _text_of(path, problems)
    if text is None:
        return None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        problems.add(f"{path.name}:1", f"it is not CSV: {error}")
        return None
    if not header:
        problems.add(f"{path.name}:1", "the file has no header", f"begin it with {','.join(columns)}")
        return None
    before = problems.count
    times = Counter(header)
    for name in sorted(set(columns) - times.keys(), key=list(columns).index):
        problems.add(f"{path.name}:1:{name}", "the column is missing", "add it; its cells may be empty")
    for name in times:
        if name not in columns:
            problems.add(f"{path.name}:1:{name}", "there is no such column", f"known: {', '.join(columns)}")
        if times[name] > 1:
            problems.add(f"{path.name}:1:{name}", f"the column is there {times[name]} times", "keep one")
    if problems.count > before:
        return None
    return _records(path.name, reader, {name: header.index(name) for name in columns}, problems)


def _text_of(path: Path, problems: Problems) -> str | None:
    try:
        if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
            # A pipe would be waited for, and a device has no end.
            problems.add(path.name, "it is not a regular file", "put the table there")
            return None
        data = path.read_bytes()
    except FileNotFoundError:
        problems.add(path.name, f"there is no such file in {str(path.parent)!r}")
        return None
    except OSError as error:
        problems.add(path.name, f"it cannot be read: {error.strerror}")
        return None
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        problems.add(f"{path.name}:{line}", "it holds a NUL byte", "save the file as UTF-8 text")
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        # ``error.start`` counts from behind a byte order mark; the mark is on line 1 and holds no line end.
        found = f"it is not UTF-8: byte 0x{error.object[error.start]:02x}"
        problems.add(f"{path.name}:{line}", found, "save the file as UTF-8")
        return None


def _records(file: str, reader: _csv.Reader, columns: dict[str, int], problems: Problems) -> Iterator[Record]:
    line = reader.line_num + 1
    try:
        for cells in reader:
            if len(cells) == len(columns):
                yield Record(file, line, columns, cells, problems)
            elif cells:
                problems.add(f"{file}:{line}", f"{len(cells)} cells, and the header has {len(columns)} columns")
            else:
                problems.add(f"{file}:{line}", "the line is empty", "remove it")
            line = reader.line_num + 1
    except csv.Error as error:
        problems.add(f"{file}:{line}", f"it is not CSV: {error}", "what follows was not read; look for a quote")
