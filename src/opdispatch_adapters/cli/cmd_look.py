"""``ls``, ``show`` and ``inventory check``: looking, and changing nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from opdispatch.errors import CorruptRecord
from opdispatch.identity import RunId
from opdispatch.ports import Overview
from opdispatch.query import RunQuery
from opdispatch.run import RunStatus
from opdispatch.target import TargetStatus
from opdispatch_adapters.inventory import CsvInventory

from . import json_output, summary, view
from .attend import Ended, Stop, attend
from .cmd_run import a_view
from .events import events_of
from .exits import Exit
from .naming import every_run, run_called
from .options import DURATION, Command, Group, current
from .render import counted, instant, table
from .runs import Runs
from .session import Session

_RUN_STATUSES = tuple(str(status) for status in RunStatus)
_TARGET_STATUSES = tuple(str(status) for status in TargetStatus)


@click.command("ls", cls=Command)
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(_RUN_STATUSES),
    help="Only these; may be repeated.",
)
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
def ls_command(statuses: tuple[str, ...], limit: int) -> Exit:
    """List runs, the newest first."""
    session = current()
    with session.runs() as store:
        found = store.list(RunQuery.in_statuses(map(RunStatus, statuses)), limit=limit)
    if session.out.is_json:
        session.out.data(json_output.listing(found), [json_output.listed(one) for one in found])
        return Exit.OK
    rows = []
    for one in found:
        reason = "" if one.run is None or one.status is not RunStatus.PAUSED else f" ({one.run.status_reason})"
        said = view.trouble_of(one.trouble) if one.trouble is not None else (one.run.status_message if one.run else "")
        rows.append([str(one.run_id)[:8], one.name, f"{one.status}{reason}", instant(one.created_at), said])
    width = session.out.width(session.out.stdout)
    session.out.lines(table(("RUN", "NAME", "STATUS", "CREATED", "SAYS"), rows, width=width))
    call = view.program(session.store_text)
    left = [one for one in found if one.trouble is not None and one.trouble.quarantined_at is not None]
    session.out.lines(f"next: {call} release {str(one.run_id)[:8]}" for one in left)
    return Exit.OK


@click.command("show", cls=Command)
@click.argument("run")
@click.option("--watch", is_flag=True, help="Follow it until it ends or is held, without dispatching.")
@click.option("--targets", is_flag=True, help="Every target.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(_TARGET_STATUSES),
    help="Only these targets.",
)
@click.option("--events", is_flag=True, help="What happened, from the journal.")
@click.option("--heartbeat", type=DURATION, default="60s", show_default=True)
def show_command(
    run: str, watch: bool, targets: bool, statuses: tuple[str, ...], events: bool, heartbeat: timedelta
) -> Exit:
    """Show RUN as the store has it."""
    session = current()
    out, code = session.out, Exit.OK
    with session.runs() as store:
        run_id = run_called(store, run)
        if watch:

            def until(overview: Overview) -> bool:
                held = view.is_held(overview) and not view.total(overview).in_flight
                return view.is_over(overview) or (held and not overview.run.status.is_terminal)

            with Stop().on_signals() as stop:
                watched = attend(store, run_id, a_view(session, heartbeat), stop, dispatcher=None, until=until)
            code = Exit.DETACHED if watched.why is Ended.STOPPED else Exit.OK
        width = out.width(out.stdout)
        if targets or statuses:
            found = store.targets(run_id, statuses={TargetStatus(status) for status in statuses})
            if out.is_json:
                out.data(json_output.targets(found), [json_output.target(one) for one in found])
            else:
                out.lines(summary.targets(found, width))
            return code
        if events:
            entries = store.journal(run_id)
            racks = {target.id: target.rack_name for target in store.targets(run_id)}
            if out.is_json:
                lines = [line for entry in entries for line in json_output.event_lines(entry, racks)]
                out.data(json_output.journal(entries, racks), lines)
                return code
            for entry in entries:
                for event in events_of(entry):
                    rack = "" if event.target_id is None else f" {racks.get(event.target_id, '?')}"
                    facts = " ".join(str(value) for value in event.facts.values())
                    out.lines([f"{instant(entry.at)} {event.name}{rack} {facts}".rstrip()])
            return code
        try:
            overview = store.get(run_id)
        except CorruptRecord as error:
            _tell_trouble(session, store, run_id, error)
            raise
    if out.is_json:
        out.data(json_output.run(overview, session.store_text))
        return code
    out.lines([*summary.about(overview), *summary.phases(overview, width)])
    out.lines(f"next: {line}" for line in view.next_commands(overview, session.store_text))
    return code


def _tell_trouble(session: Session, store: Runs, run_id: RunId, error: CorruptRecord) -> None:
    """What is kept beside a run that cannot be read itself."""
    for trouble in (one.trouble for one in every_run(store) if one.run_id == run_id):
        # Where nothing is kept beside it, a listing tells the same error.
        if trouble is not None and trouble.message != str(error):
            session.out.note(f"trouble: {view.trouble_of(trouble)}")
        if trouble is not None and trouble.quarantined_at is not None:
            session.out.note(f"next: {view.program(session.store_text)} release {str(run_id)[:8]}")


@click.group("inventory", cls=Group)
def inventory_group() -> None:
    """Where racks come from."""


@inventory_group.command("check")
@click.argument("directory", type=click.Path())
def inventory_check(directory: str) -> Exit:
    """Read an inventory directory and tell what is there, or everything that is wrong with it."""
    session = current()
    found = CsvInventory(Path(directory)).check()
    if session.out.is_json:
        session.out.data(
            {
                "schema": "opdispatch/inventory/v1",
                "racks": found.racks,
                "devices": dict(found.devices),
                "sites": list(found.sites),
                "rows": found.rows,
                "power_domains": list(found.power_domains),
                "racks_without_row": found.racks_without_row,
                "racks_without_components": found.racks_without_components,
            }
        )
        return Exit.OK
    devices = sum(found.devices.values())
    places = f"{counted(found.rows, 'row')} of {counted(len(found.sites), 'site')}"
    session.out.lines(
        [
            (
                f"{counted(found.racks, 'rack')} in {places}, "
                f"{counted(devices, 'device')}, {counted(len(found.power_domains), 'power domain')}"
            ),
            *(f"  {count} {kind}" for kind, count in found.devices.items()),
            f"{found.racks_without_row} without a row, {found.racks_without_components} without a component",
        ]
    )
    return Exit.OK
