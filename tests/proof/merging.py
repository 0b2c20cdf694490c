"""The figures of two slices of one search, as those of one."""

from __future__ import annotations

from typing import Any, Final

_FIRST: Final = ("seed", "seeds", "steps")
"""What is the same in both, or stands for both: the seed files of a surface, the seed of the first slice."""
_MOST: Final = ("longest_", "memory_")
"""How the names begin of what is a measure and no count."""


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Counts are added up, at any depth; of events that never happened those stay that never happened in either.

    Rows are told apart by their names; what is per second is left out, because it cannot be added.
    """
    both: dict[str, Any] = {}
    for name in (*one, *(name for name in other if name not in one)):
        if name.endswith("_per_second"):
            continue
        if name not in one or name not in other:
            both[name] = one.get(name, other.get(name))
        elif name in _FIRST:
            both[name] = one[name]
        else:
            both[name] = max(one[name], other[name]) if name.startswith(_MOST) else _added(one[name], other[name])
    return both


def _added(one: Any, other: Any) -> Any:
    match one, other:
        case dict(), dict():
            return merged(one, other)
        case [{"surface": _}, *_], [{"surface": _}, *_]:
            rows = {row["surface"]: row for row in other}
            return [merged(row, rows.pop(row["surface"], {})) for row in one] + list(rows.values())
        case list(), list():
            return [value for value in one if value in other]
        case str() | bool(), _:
            return one
        case _:
            return round(one + other, 1) if isinstance(one + other, float) else one + other
