"""``store``: the store itself."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from .exits import Exit
from .options import DURATION, Group, current
from .render import counted


@click.group("store", cls=Group)
def store_group() -> None:
    """The store itself."""


@store_group.command("migrate")
@click.option("--revision", default="head", show_default=True, help="head, a revision, or base (drops every run).")
def store_migrate(revision: str) -> Exit:
    """Make the store, or bring it to this version."""
    from opdispatch_adapters.sql import migrate

    session = current()
    before, after = migrate(session.place.source, revision)
    if session.out.is_json:
        session.out.data({"schema": "opdispatch/migration/v1", "before": before, "after": after})
    else:
        text = f"is at revision {after} already" if before == after else f"went from revision {before} to {after}"
        session.out.lines([f"store {session.store_text} {text}"])
    return Exit.OK


@store_group.command("check")
def store_check() -> Exit:
    """Recount everything and let the database look at itself.  5 when something does not fit."""
    session = current()
    with session.store() as store:
        differences, cautions = list(store.check()), list(store.cautions())
    if session.out.is_json:
        found = {"ok": not differences, "differences": differences, "cautions": cautions}
        session.out.data({"schema": "opdispatch/store-check/v1", **found})
    else:
        session.out.lines(differences or [f"store {session.store_text}: everything fits"])
        session.out.note(*(f"caution: {caution}" for caution in cautions))
    if differences:
        session.out.note("do not dispatch with it; restore it from a copy, or ask for help with the lines above")
        return Exit.REFUSED
    return Exit.OK


@store_group.command("adopt")
@click.option(
    "--dry-run", is_flag=True, help="Do it, tell what was done, and undo it; its tables are locked for as long."
)
def store_adopt(dry_run: bool) -> Exit:
    """Take over a PostgreSQL database that the reference made: all of it or nothing.  Stop its dispatcher first.

    `store migrate --revision base` gives it back.
    """
    from opdispatch_adapters.sql import adopt

    session = current()
    place = session.place
    done = adopt(place.source, dry_run=dry_run)
    if session.out.is_json:
        session.out.data(
            {
                "schema": "opdispatch/adoption/v1",
                "dry_run": dry_run,
                "state": done.state,
                "before": done.before,
                "after": done.after,
                "runs": done.runs,
                "targets": done.targets,
                "healed": dict(done.healed),
            }
        )
        return Exit.OK
    did = "would be adopted" if dry_run else "is adopted"
    was = "was adopted already" if done.before == done.after else did
    holds = f"{counted(done.runs, 'run')} with {counted(done.targets, 'target')}"
    session.out.lines(
        [
            f"store {place.text} {was}, from the reference's state {done.state}: {holds}",
            *(f"made to fit: {count} x {what}" for what, count in done.healed.items()),
        ]
    )
    return Exit.OK


@store_group.command("prune")
@click.option("--older-than", type=DURATION, required=True, help="Runs that ended longer ago than this, such as 30d.")
@click.option("--keep", type=click.IntRange(0), default=0, metavar="N", help="But never the N that ended last.")
@click.option("--archive", metavar="FILE", type=click.Path(), help="Append them to FILE first, a JSON line per row.")
@click.option(
    "--batch", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Runs in one transaction at most."
)
@click.option("--dry-run", is_flag=True, help="Only count them.")
def store_prune(older_than: timedelta, keep: int, archive: str | None, batch: int, dry_run: bool) -> Exit:
    """Remove runs that ended long ago, with their targets and their journal.

    A run goes only when it has ended and no task of it is left.  It can be interrupted at any time, and repeated.
    """
    from opdispatch_adapters.sql.retention import prune

    session = current()
    file = None if archive is None else Path(archive)
    with session.store() as store:
        done = prune(store, older_than, keep=keep, archive=file, batch=batch, dry_run=dry_run)
    if session.out.is_json:
        session.out.data(
            {
                "schema": "opdispatch/prune/v1",
                "dry_run": dry_run,
                "runs": done.runs,
                "targets": done.targets,
                "entries": done.entries,
                "archive": archive,
            }
        )
        return Exit.OK
    entries = counted(done.entries, "entry of the journal", "entries of the journal")
    holds = f"{counted(done.runs, 'run')}, {counted(done.targets, 'target')} and {entries}"
    kept = "" if archive is None or dry_run else f"; they are kept in {archive}"
    session.out.lines([f"{'would remove' if dry_run else 'removed'} {holds}{kept}"])
    return Exit.OK


@store_group.command("roles")
@click.option("--apply", is_flag=True, help="Execute it; else it is only printed.")
@click.option("--prefix", default="opdispatch_", show_default=True, help="What the names of the roles begin with.")
def store_roles(apply: bool, prefix: str) -> Exit:
    """The SQL that makes the roles of a PostgreSQL database: one that migrates, one that runs and one that reads."""
    from opdispatch_adapters.sql.postgres.roles import roles

    session = current()
    place = session.place
    found = roles(str(place.source), prefix=prefix, apply=apply)
    # What only a person can decide is a comment.
    notes = [line for line in found if line.startswith("--")]
    statements = [line for line in found if not line.startswith("--")]
    if session.out.is_json:
        session.out.data({"schema": "opdispatch/roles/v1", "applied": apply, "statements": statements, "notes": notes})
    elif apply:
        session.out.lines([f"store {place.text}: {counted(len(statements), 'statement')} executed", *notes])
    else:
        session.out.lines(line if line in notes else f"{line};" for line in found)
    return Exit.OK
