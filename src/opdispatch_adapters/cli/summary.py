"""What stays on standard output when a run was attended to, or shown: counts from the store, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from opdispatch.ports import Overview
from opdispatch.tally import Tally
from opdispatch.target import Target

from . import view
from .exits import Exit
from .render import counted, cut, duration, instant, table

_HEADER: Final = ("PHASE", "STATE", "TOTAL", "PENDING", "BLOCKED", "IN FLIGHT", "DONE", "FAILED", "SKIPPED")
_NUMBERS: Final = tuple(range(2, len(_HEADER)))
FAILED_SHOWN: Final = 20
"""Failed racks that are told one by one."""
_NARROW: Final = 84
_MEANINGS: Final = {
    Exit.OK: "completed",
    Exit.WITH_FAILURES: "completed, with failed targets",
    Exit.SAFETY: "held by a safety gate",
    Exit.CANCELLED: "cancelled",
    Exit.FAILED: "failed: no target completed",
    Exit.HELD: "held until somebody lets it go on",
}


def phases(overview: Overview, width: int | None) -> list[str]:
    """A line for each phase, and one for the run; fewer columns rather than cut numbers on a narrow terminal."""
    if width is not None and width < _NARROW:
        narrow = [
            [name, f"{counts.settled}/{counts.total}", str(counts.in_flight), str(counts.failed + counts.terminated)]
            for name, counts in (
                *((str(index), counts) for index, counts in enumerate(overview.phases)),
                ("all", view.total(overview)),
            )
        ]
        return table(("PHASE", "SETTLED", "FLIGHT", "FAILED"), narrow, width=width, right=(1, 2, 3))
    rows = [_row(str(index), view.phase_state(overview, index), counts) for index, counts in enumerate(overview.phases)]
    rows.append(_row("all", str(overview.run.status), view.total(overview)))
    return table(_HEADER, rows, width=width, right=_NUMBERS)


def _row(name: str, state: str, counts: Tally) -> list[str]:
    failed = counts.failed + counts.terminated
    numbers = (
        counts.total,
        counts.pending,
        counts.blocked,
        counts.in_flight,
        counts.completed,
        failed,
        counts.skipped,
    )
    return [name, state, *(str(number) for number in numbers)]


def about(overview: Overview) -> list[str]:
    """The run in a few sentences."""
    run, now = overview.run, datetime.now(UTC)
    operation = run.rollout.operation
    took = f", {duration(view.elapsed(overview, now))}" if run.started_at is not None else ""
    lines = [
        f"{run.name}  {run.id}",
        (
            f"{operation.type}/{operation.code}, at most {run.rollout.max_concurrent_targets} at once; "
            f"created {instant(run.created_at)}{took}"
        ),
        f"status: {run.status}" + (f" ({run.status_reason})" if view.holds_of(overview) else ""),
    ]
    waits = view.waits_for(overview) if overview.trouble is None else run.status_message
    if waits:
        lines.append(f"says: {waits}")
    if overview.trouble is not None:
        lines.append(f"trouble: {view.trouble_of(overview.trouble)}")
    lines.extend(f"hold: {hold.reason}: {hold.message}" for hold in view.holds_of(overview) if hold.message != waits)
    lines.extend(f"gate: {gate}" for gate in view.gates_of(overview))
    if overview.open_strays:
        lines.append(f"{counted(overview.open_strays, 'stray task')} of settled targets not over yet")
    return lines


def failures(failed: Sequence[Target], count: int, width: int | None) -> list[str]:
    """The first failed racks, each with what its task said last, and how many more there are."""
    if not failed:
        return []
    rows = [[one.rack_name, str(one.phase), str(one.status), str(one.attempt), one.message] for one in failed]
    lines = table(("FAILED RACK", "PHASE", "STATUS", "ATTEMPT", "MESSAGE"), rows, width=width, right=(1, 3))
    if count > len(failed):
        lines.append(f"and {count - len(failed)} more: see show --targets --status failed --status terminated")
    return lines


def ending(overview: Overview, exit_code: Exit, store: str) -> list[str]:
    """The verdict, and what to type next."""
    took = duration(view.elapsed(overview, datetime.now(UTC)))
    verdict = f"{_MEANINGS.get(exit_code, str(overview.run.status))} after {took} (exit {int(exit_code)})"
    lines = [f"run {view.short_id(overview.run)}: {verdict}"]
    lines.extend(f"hold: {hold.reason}: {hold.message}" for hold in view.holds_of(overview))
    if view.is_quarantined(overview):
        lines.append(f"trouble: {view.waits_for(overview)}")
    lines.extend(f"next: {line}" for line in view.next_commands(overview, store))
    return lines


def targets(found: Sequence[Target], width: int | None) -> list[str]:
    """A line for each target."""
    rows = [
        [
            one.rack_name,
            str(one.phase),
            str(one.status),
            str(one.attempt),
            str(one.id) if width is None else cut(str(one.id), 9),
            one.message,
        ]
        for one in found
    ]
    return table(("RACK", "PHASE", "STATUS", "ATTEMPT", "TARGET", "MESSAGE"), rows, width=width, right=(1, 3))
