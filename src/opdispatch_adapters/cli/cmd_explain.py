"""``why`` and ``replay``: what keeps a run from going on, and whether it was decided as its journal says."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from opdispatch.explain import Asks, Clears, Reason, explain_run, explain_target
from opdispatch.identity import RunId
from opdispatch.replay import Replayed, beginning, difference_of, replay
from opdispatch.target import Target, TargetStatus

from . import view
from .exits import Exit
from .naming import run_called, targets_called
from .options import Command, current
from .render import counted, instant, table
from .runs import Runs

_WAITING = frozenset({TargetStatus.PENDING, TargetStatus.BLOCKED})
_WHO = {
    Clears.NOBODY: "nobody",
    Clears.TIME: "time",
    Clears.TASKS: "the tasks",
    Clears.OPERATOR: "an operator",
    Clears.DISPATCHER: "a dispatcher",
}


@click.command("why", cls=Command)
@click.argument("run")
@click.argument("target", required=False)
def why_command(run: str, target: str | None) -> Exit:
    """Say what keeps RUN, or one TARGET of it, from going on now: every reason, and who can clear it."""
    session = current()
    with session.runs() as store:
        run_id = run_called(store, run)
        overview, now = store.get(run_id), datetime.now(UTC)
        chosen: Target | None = None
        if target is None:
            reasons = explain_run(overview, now)
        else:
            known = store.targets(run_id)
            (target_id,) = targets_called(known, [target])
            chosen = next(one for one in known if one.id == target_id)
            strays = store.strays(run_id)
            reasons = explain_target(overview, chosen, now, ahead=_ahead(known, chosen), strays=strays)
    call, short = view.program(session.store_text), str(run_id)[:8]
    if session.out.is_json:
        session.out.data(
            {
                "schema": "opdispatch/why/v1",
                "run": str(run_id),
                "target": None if chosen is None else str(chosen.id),
                "inspected_at": now.isoformat(),
                "reasons": [_document(reason) for reason in reasons],
            }
        )
        return Exit.OK
    width = session.out.width(session.out.stdout)
    session.out.lines(told(reasons, call, short, chosen, now=now, width=width))
    return Exit.OK


def told(
    reasons: Sequence[Reason], call: str, short: str, chosen: Target | None, *, now: datetime, width: int | None
) -> list[str]:
    """The lines that say these reasons.  ``call`` is how the program is called, ``short`` the run's short id, ``width``
    that of the terminal, None for as much as there is."""
    what = f"run {short}" if chosen is None else f"rack {chosen.rack_name} of run {short} ({chosen.status})"
    rows = [
        [
            reason.code.value,
            reason.evidence,
            "" if reason.since is None else instant(reason.since),
            "" if reason.until is None else instant(reason.until),
            _WHO[reason.clears],
        ]
        for reason in reasons
    ]
    if not rows:
        return [f"{what}: nothing keeps it, its next tick goes on with it; inspected {instant(now)}"]
    asks = dict.fromkeys(_typed(reason.asks, call, short, chosen) for reason in reasons if reason.asks is not None)
    return [
        f"{what}: {counted(len(reasons), 'reason')}, inspected {instant(now)}",
        *table(("REASON", "EVIDENCE", "SINCE", "UNTIL", "CLEARED BY"), rows, width=width),
        *(f"next: {line}" for line in asks),
    ]


def _ahead(known: Sequence[Target], chosen: Target) -> int:
    return sum(one.phase == chosen.phase and one.sequence < chosen.sequence and one.status in _WAITING for one in known)


def _typed(asks: Asks, call: str, short: str, chosen: Target | None) -> str:
    """A command as it is typed."""
    words = [call, asks.command, short]
    if asks.accept_failures is not None:
        words += ["--accept-failures", str(asks.accept_failures)]
    if asks.expected_phase is not None:
        words += ["--expect", str(asks.expected_phase)]
    options = ["--as", "failed", "--reason", "..."] if asks.command == "settle" else []
    if chosen is None or asks.command not in ("retry", "settle"):
        return " ".join([*words, *options])
    # Whoever named the rack must not choose what a shell does with the line.
    rack = shlex.quote(chosen.rack_name)
    named = [*options, "--", rack] if chosen.rack_name.startswith("-") else [rack, *options]
    return " ".join([*words, *named])


def _document(reason: Reason) -> dict[str, object]:
    asks = reason.asks
    return {
        "code": reason.code.value,
        "evidence": reason.evidence,
        "since": None if reason.since is None else reason.since.isoformat(),
        "until": None if reason.until is None else reason.until.isoformat(),
        "cleared_by": reason.clears.value,
        "command": None
        if asks is None
        else {
            "name": asks.command,
            "accept_failures": asks.accept_failures,
            "expected_phase": asks.expected_phase,
        },
    }


@click.command("replay", cls=Command)
@click.argument("run")
def replay_command(run: str) -> Exit:
    """Decide RUN again from its journal, and compare every decision with what was recorded.  5 when one differs."""
    session = current()
    with session.store() as store:
        run_id = run_called(store, run)
        found, said = _replayed(store, run_id)
    if session.out.is_json:
        difference = found.difference
        session.out.data(
            {
                "schema": "opdispatch/replay/v1",
                "run": str(run_id),
                "decided": found.decided,
                "unknown": found.unknown,
                "difference": None
                if difference is None
                else {
                    "entry": difference.number,
                    "place": difference.place,
                    "recorded": difference.recorded,
                    "decided": difference.decided,
                },
            }
        )
    else:
        session.out.lines([f"run {str(run_id)[:8]}: {said}"])
    return Exit.OK if found.difference is None else Exit.REFUSED


def _replayed(store: Runs, run_id: RunId) -> tuple[Replayed, str]:
    while True:
        overview, targets, entries = store.get(run_id), store.targets(run_id), store.journal(run_id)
        strays = store.strays(run_id)
        # A run that goes on meanwhile is read anew: all must be of one moment.
        if store.get(run_id).run.revision == overview.run.revision:
            break
    found = replay(beginning(overview.run, targets), entries)
    if found.difference is None:
        end = difference_of(found.record, overview.run, targets, strays)
        found = Replayed(decided=found.decided, unknown=found.unknown, difference=end, record=found.record)
    if found.difference is not None:
        return found, f"not as recorded. {found.difference}"
    older = f", and {counted(found.unknown, 'older one')} taken as it stands" if found.unknown else ""
    return (
        found,
        f"{counted(found.decided, 'decision')} made again, each as recorded{older}; the run stands as they say",
    )
