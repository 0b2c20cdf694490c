"""Writes the page of the state machines, and its two drawings, from the transition tables of the code.

Run it as ``python docs/generate.py`` after changing a table; a test fails while a file is not what this writes.
The drawings are plain SVG, so that the page needs no extension and nothing from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from html import escape
from pathlib import Path
from typing import Any, Final

from opdispatch import run, target

REFERENCE: Final = Path(__file__).parent / "reference"
Point = tuple[int, int]
Edge = tuple[str, str]
Table = Mapping[Any, StrEnum]
"""(status, change) to the next status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """How one table is drawn: where its statuses are, which of them share a frame, and how each arrow runs.

    A route is the four points of a curve and the place of its label.  An arrow to or from the frame stands for all of
    its statuses.
    """

    title: str
    table: Table
    size: Point
    places: Mapping[str, Point]
    frame: str
    corners: tuple[int, int, int, int]
    routes: Mapping[Edge, tuple[Point, Point, Point, Point, Point]]


_WIDTH, _HEIGHT, _LINE = 116, 34, 15
_TEXT: Final = 'font-family="monospace" font-size="12" text-anchor="middle"'
_FRAME: Final = 'fill="#eef2f6" stroke="#9ab" stroke-dasharray="5 4"'
_TIP: Final = """\
<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">
<path d="M0 0 L8 4 L0 8 z" fill="#345"/></marker></defs>"""

TARGET: Final = Machine(
    title="The machine of a target",
    table=target.TRANSITIONS,
    size=(960, 430),
    places={
        "pending": (80, 190),
        "claimed": (330, 190),
        "blocked": (330, 60),
        "submitted": (590, 190),
        "completed": (860, 80),
        "failed": (860, 130),
        "terminated": (860, 180),
        "skipped": (860, 230),
    },
    frame="settled",
    corners=(788, 30, 932, 262),
    routes={
        ("pending", "claimed"): ((138, 190), (180, 190), (220, 190), (272, 190), (205, 182)),
        ("pending", "settled"): ((100, 207), (160, 330), (640, 350), (800, 262), (330, 330)),
        ("claimed", "blocked"): ((310, 173), (310, 140), (310, 110), (310, 77), (282, 130)),
        ("blocked", "claimed"): ((350, 77), (350, 110), (350, 140), (350, 173), (378, 130)),
        ("claimed", "claimed"): ((300, 207), (290, 250), (340, 250), (330, 207), (268, 236)),
        ("claimed", "submitted"): ((388, 190), (440, 190), (480, 190), (532, 190), (460, 182)),
        ("claimed", "settled"): ((360, 207), (440, 290), (640, 290), (788, 244), (496, 213)),
        ("blocked", "blocked"): ((320, 43), (310, 4), (350, 4), (340, 43), (372, 18)),
        ("blocked", "submitted"): ((388, 68), (470, 90), (520, 120), (560, 173), (486, 88)),
        ("blocked", "settled"): ((388, 52), (500, 40), (650, 40), (788, 52), (590, 36)),
        ("submitted", "submitted"): ((580, 173), (570, 134), (610, 134), (600, 173), (630, 146)),
        ("submitted", "settled"): ((648, 190), (690, 180), (730, 170), (788, 160), (714, 122)),
        ("settled", "pending"): ((860, 262), (800, 420), (160, 420), (70, 207), (460, 396)),
    },
)
RUN: Final = Machine(
    title="The machine of a run",
    table=run.TRANSITIONS,
    size=(960, 330),
    places={
        "pending": (80, 165),
        "running": (350, 70),
        "paused": (350, 260),
        "completed": (820, 90),
        "completed_with_failures": (820, 140),
        "cancelled": (820, 190),
        "failed": (820, 240),
    },
    frame="ended",
    corners=(718, 40, 922, 272),
    routes={
        ("pending", "running"): ((120, 148), (170, 110), (230, 85), (292, 72), (190, 92)),
        ("pending", "paused"): ((120, 182), (170, 220), (230, 245), (292, 258), (190, 250)),
        ("pending", "ended"): ((138, 165), (330, 165), (520, 165), (718, 165), (230, 136)),
        ("running", "paused"): ((335, 87), (335, 140), (335, 190), (335, 243), (308, 205)),
        ("paused", "running"): ((365, 243), (365, 190), (365, 140), (365, 87), (400, 205)),
        ("paused", "paused"): ((340, 277), (330, 320), (370, 320), (360, 277), (392, 306)),
        ("running", "ended"): ((408, 66), (500, 60), (620, 70), (718, 90), (570, 96)),
        ("paused", "ended"): ((408, 264), (500, 270), (620, 260), (718, 240), (570, 200)),
    },
)


def arrows(machine: Machine) -> dict[Edge, list[str]]:
    """What leads from where to where, the statuses of the frame taken together, in the order of the table."""
    x0, y0, x1, y1 = machine.corners
    framed = {name for name, (x, y) in machine.places.items() if x0 <= x <= x1 and y0 <= y <= y1}
    found: dict[Edge, list[str]] = {}
    for (status, change), following in machine.table.items():
        ends = [machine.frame if name.value in framed else name.value for name in (status, following)]
        labels = found.setdefault((ends[0], ends[1]), [])
        if change.value not in labels:
            labels.append(change.value)
    if set(found) != set(machine.routes):
        raise ValueError(
            f"{machine.title}: an arrow without a route, or the reverse: {set(found) ^ set(machine.routes)}"
        )
    return found


def drawing(machine: Machine) -> str:
    """The SVG of one machine."""
    width, height = machine.size
    x0, y0, x1, y1 = machine.corners
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" {_TEXT}>',
        f"<title>{escape(machine.title)}</title>",
        _TIP,
        f'<rect width="{width}" height="{height}" rx="8" fill="#fbfcfd"/>',
        f'<rect x="{x0}" y="{y0}" width="{x1 - x0}" height="{y1 - y0}" rx="10" {_FRAME}/>',
        _words(((x0 + x1) // 2, y0 + 18), [machine.frame], "#567"),
    ]
    for edge, labels in arrows(machine).items():
        start, first, second, end, place = machine.routes[edge]
        curve = f"M{_at(start)} C{_at(first)} {_at(second)} {_at(end)}"
        parts.append(f'<path d="{curve}" fill="none" stroke="#345" marker-end="url(#tip)"/>')
        parts.append(_words(place, labels, "#147"))
    for name, (x, y) in machine.places.items():
        wide = max(_WIDTH, 8 * len(name) + 8)
        parts.append(
            f'<rect x="{x - wide // 2}" y="{y - _HEIGHT // 2}" width="{wide}" height="{_HEIGHT}" rx="6" '
            'fill="#fff" stroke="#345"/>'
        )
        parts.append(_words((x, y + 4), [name], "#123"))
    return "\n".join([*parts, "</svg>", ""])


def _at(point: Point) -> str:
    return f"{point[0]} {point[1]}"


def _words(place: Point, lines: Sequence[str], colour: str) -> str:
    x, y = place
    rows = (
        f'<text x="{x}" y="{y + _LINE * number}" fill="{colour}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    return "\n".join(rows)


def matrix(table: Table, statuses: Iterable[StrEnum], changes: Sequence[StrEnum]) -> str:
    """Every pair of status and change: where it leads, or nothing where it is refused."""
    lines = [["", *(f"*{change}*" for change in changes)], ["---"] * (len(changes) + 1)]
    for status in statuses:
        cells = (f"`{table[status, change]}`" if (status, change) in table else "" for change in changes)
        lines.append([f"`{status}`", *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


PAGE: Final = """\
<!-- Written by docs/generate.py from the tables of the code; change those, then run it. -->
# State machines

A run and each of its targets go through one machine each.
Both machines are tables in the code, `opdispatch.run.TRANSITIONS` and `opdispatch.target.TRANSITIONS`.
This page is written from them.
A change that a table does not have is refused with `RefusedTransition`, and the value is left as it was.
What the statuses mean is said on the page of [statuses](statuses.md).

## A run

![{run_alt}](run-machine.svg)

An arrow to the frame leads to the status that the change names.
Nothing leads out of it.

{run_matrix}
## A target

![{target_alt}](target-machine.svg)

An arrow to the frame leads to the status that the change names; the arrow out of it leaves from each status in it.

{target_matrix}
A claim leads from `claimed` to `claimed` when the lease is over, and the claim's key was looked up and not found.
A late acceptance leads from `blocked` to `submitted`: the task is of the current attempt, so it is the target's.
"""


def _alternative(machine: Machine) -> str:
    return "; ".join(f"{source} to {end}: {', '.join(by)}" for (source, end), by in arrows(machine).items())


def page() -> str:
    """The text of the page."""
    return PAGE.format(
        run_alt=_alternative(RUN),
        target_alt=_alternative(TARGET),
        run_matrix=matrix(run.TRANSITIONS, run.RunStatus, list(run.RunChange)),
        target_matrix=matrix(target.TRANSITIONS, target.TargetStatus, list(target.TargetChange)),
    )


def files() -> dict[Path, str]:
    """Every file that is written, with its text."""
    return {
        REFERENCE / "state-machines.md": page(),
        REFERENCE / "run-machine.svg": drawing(RUN),
        REFERENCE / "target-machine.svg": drawing(TARGET),
    }


def main() -> None:
    """Write every file anew."""
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
