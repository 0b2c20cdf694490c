"""Plain text for people: escaping, durations, tables.  Knows nothing of terminals but their width.

Names, messages and output come from elsewhere.  Whatever is not printable is shown escaped, so that no rack name
can move the cursor, colour a terminal or forge a second line.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

_GAP: Final = "  "
_LEAST: Final = 4
"""The narrowest that a column is cut to."""


def clean(text: str) -> str:
    """The text with everything that is not printable escaped; a blank stays a blank."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def cut(text: str, width: int) -> str:
    """At most ``width`` (>= 1) characters of a text, with a mark where some were left out."""
    return text if len(text) <= width else text[: width - 1] + "~"


def duration(time: timedelta) -> str:
    """A time as people say it: ``0.4s``, ``12s``, ``3m05s``, ``2h07m``, ``4d03h``."""
    seconds = max(time.total_seconds(), 0.0)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"


def instant(at: datetime | None) -> str:
    """An instant to the second, in UTC; ``-`` for none."""
    return "-" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def counted(count: int, noun: str, plural: str = "") -> str:
    """``1 rack``, ``2 racks``."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def quoted(value: object) -> str:
    """A value of a ``key=value`` line: in quotes where it could be misread."""
    text = clean(str(value))
    if text and not any(char in text for char in ' "=\\'):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None, right: Sequence[int] = ()
) -> list[str]:
    """Lines of a table, every cell cleaned; ``right`` names the columns of numbers.

    With a width, the widest column is cut until a line fits, or until no column can be narrower.
    """
    cells = [[clean(cell) for cell in row] for row in (header, *rows)]
    widths = [max((len(row[index]) for row in cells), default=0) for index in range(len(header))]
    if width is not None:
        over = sum(widths) + len(_GAP) * (len(widths) - 1) - width
        while over > 0 and max(widths) > _LEAST:
            widest = widths.index(max(widths))
            widths[widest] -= 1
            over -= 1
    lines = []
    for row in cells:
        placed = [
            cut(cell, size).rjust(size) if index in right else cut(cell, size).ljust(size)
            for index, (cell, size) in enumerate(zip(row, widths, strict=True))
            if size
        ]
        line = _GAP.join(placed).rstrip()
        lines.append(line if width is None else cut(line, max(width, 1)))
    return lines
