"""Writes the page Evidence, and the table of it in the README, from ``evidence.json``, which ``make proof`` writes.

Run it as ``python docs/evidence.py`` after a proof; a test fails while a file is not what this writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

DOCS: Final = Path(__file__).parent
PAGE: Final = DOCS / "explanation" / "evidence.md"
README: Final = DOCS.parent / "README.md"
_MARKS: Final = ("<!-- evidence: written by docs/evidence.py -->\n", "<!-- end of evidence -->")
_KINDS: Final = (("proof", "`make proof`"), ("deep", "`make proof-deep`"))
Part = Mapping[str, Any]

_HEAD: Final = """\
# Evidence

What was searched for a broken rule, and what was found.
The programs that search count for themselves; this page is written from `docs/evidence.json`, which they write.
[The invariants](invariants.md) says what each rule is.
[How to prove what you build](../how-to/prove.md) says how to use the same tools.
Figures from different machines differ; what must not differ is what was found.
"""


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    return f"{value:,}".replace(",", " ")


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    names = list(head)
    lines = [f"| {' | '.join(names)} |", f"| --- |{' ---: |' * (len(names) - 1)}"]
    lines.extend(f"| {' | '.join(map(_number, row))} |" for row in rows)
    return "\n".join(lines) + "\n"


def _said(part: Part) -> str:
    seed = part["figures"].get("seed")
    if not part["figures"]:
        return f"commit {part['commit']}, {part['day']}: **it ended without figures**.\n"
    told = [f"commit {part['commit']}", part["day"], f"{_number(part['wall_seconds'])} s"]
    told.append(f"{part['processors']} processors, Python {part['python']}")
    told.extend([] if seed is None else [f"seed {seed}"])
    slices, done = part.get("slices", 1), part.get("done", 1)
    if slices > 1:
        told.append(f"{slices} slices, each with the next seed or share")
    if done < slices:
        told.append(f"**{done} of them so far**")
    return f"{', '.join(told)}: {'nothing was found' if part['passed'] else '**something was found**'}.\n"


def _states(figures: Mapping[str, Any]) -> str:
    rows: list[list[object]] = []
    for name, row in figures["each"].items():
        if "broken" in row:
            rows.append([name, "**broken**", row["broken"].partition("\n")[0], *[""] * 4])
            continue
        told = [row[column] for column in ("states", "edges", "decisions", "depth", "walks")]
        rows.append([name, *told, "whole" if row["whole"] else "in part"])
    rows.append(["all", figures["states"], figures["edges"], *[""] * 4])
    head = ("configuration", "states", "steps", "decisions", "depth", "walks to an end", "searched")
    told = "From every state there is a way to an end or to a hold that says what it waits for; where it leads out of "
    return f"{told}what was searched, it was walked.\n\n{_table(head, rows)}"


def _schedules(figures: Mapping[str, Any]) -> str:
    told = (
        f"{_number(figures['schedules'])} schedules of {figures['steps']} steps, each healed afterwards; "
        f"{_number(figures['decisions_replayed'])} decisions made again from their journals; "
        f"{figures['violations']} broke a law.  The events are those of before the healing.\n"
    )
    if figures["never_happened"]:
        told += f"**Never happened: {', '.join(figures['never_happened'])}.**\n"
    return told + "\n" + _table(("event", "times"), sorted(figures["rare_events"].items()))


def _plain(figures: Mapping[str, Any]) -> str:
    rows = [(name.replace("_", " "), value) for name, value in figures.items() if isinstance(value, int | float | str)]
    return _table(("what", "count"), rows)


def _mutants(figures: Mapping[str, Any]) -> str:
    rows = [(name, one["rule"], one["simulation"], one["states"]) for name, one in figures["each"].items()]
    told = f"{figures['caught']} of {figures['mutants']} were noticed; first by which law, and after how much.\n"
    return told + "\n" + _table(("mutant", "breaks", "by random schedules", "state by state"), rows)


def _mutation(figures: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in figures.items() if isinstance(value, int | float | str)}
    return _plain(plain) + "\nEach survivor is explained in `tests/mutation/survivors.toml`.\n"


def _fuzz(figures: Mapping[str, Any]) -> str:
    columns = ("surface", "seeds", "inputs", "values", "rejections", "broken")
    return _table(columns, ([one[column] for column in columns] for one in figures["surfaces"]))


_SECTIONS: Final = (
    (
        "states",
        "State by state",
        "Every state of small runs, by the core's own functions, and from each a way to an end.",
        _states,
    ),
    (
        "schedules",
        "Random schedules",
        "The real tick, with crashes, lost and late answers, and any command at any time.",
        _schedules,
    ),
    ("kills_postgresql", "Killed on PostgreSQL", "Real processes, and a history that pure functions judge.", _plain),
    ("kills_sqlite", "Killed on SQLite", "The same on one file.", _plain),
    (
        "statements",
        "Every statement cut",
        "A connection lost at each statement of each operation of the store.",
        _plain,
    ),
    ("mutants", "Wrong protocols", "Each rule, broken on purpose: a law that never fails proves nothing.", _mutants),
    ("mutation", "Mutations of the core", "Each line of the core, changed: does a test notice?", _mutation),
    ("fuzz", "Inputs", "Bytes that nobody would send, on every surface.", _fuzz),
)


def page(evidence: Mapping[str, Mapping[str, Part]]) -> str:
    """The page."""
    parts = [_HEAD]
    for name, title, what, body in _SECTIONS:
        found = [(label, evidence[kind][name]) for kind, label in _KINDS if name in evidence.get(kind, {})]
        if found:
            parts.append(f"\n## {title}\n\n{what}\n")
        for label, part in found:
            figures = body(part["figures"]) if part["figures"] else ""
            parts.append(f"\n{label} `{part['arguments']}`\n{_said(part)}\n{figures}".replace(" ``\n", "\n"))
    return "".join(parts)


def _summed(name: str, figures: Mapping[str, Any]) -> str:
    match name:
        case _ if not figures:
            return "no figures"
        case "states":
            return f"{_number(figures['states'])} states, {_number(figures['edges'])} steps"
        case "schedules":
            return f"{_number(figures['schedules'])} of {figures['steps']} steps"
        case "kills_postgresql" | "kills_sqlite":
            return f"{_number(figures['sigkill'])} kills"
        case "statements":
            return f"{_number(figures['tests'])} cases"
        case "mutants":
            return f"{figures['caught']} of {figures['mutants']} noticed"
        case "mutation":
            return f"{figures['score_percent']} % noticed"
        case _:
            return f"{_number(figures['inputs'])} inputs"


def table(evidence: Mapping[str, Mapping[str, Part]]) -> str:
    """The table of the README."""
    rows = []
    for name, title, _, _ in _SECTIONS:
        told = [evidence.get(kind, {}).get(name) for kind, _ in _KINDS]
        if any(told):
            found = all(part["passed"] for part in told if part)
            rows.append(
                [title, *(_summed(name, p["figures"]) if p else "" for p in told), "nothing" if found else "see there"]
            )
    return _table(("searched", *(label for _, label in _KINDS), "found"), rows)


def readme(text: str, evidence: Mapping[str, Mapping[str, Part]]) -> str:
    """The README with this table in the place of the one it has."""
    start, end = _MARKS
    pattern = re.escape(start) + ".*?" + re.escape(end)
    return re.sub(pattern, lambda _: f"{start}\n{table(evidence)}\n{end}", text, flags=re.DOTALL)


def main() -> None:
    """Write both."""
    evidence = json.loads((DOCS / "evidence.json").read_text("utf-8"))
    PAGE.write_text(page(evidence), "utf-8")
    README.write_text(readme(README.read_text("utf-8"), evidence), "utf-8")


if __name__ == "__main__":
    main()
