"""``store``: the store itself."""

from __future__ import annotations

import click

from .exits import Exit
from .options import Group, current


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
        differences = list(store.check())
    if session.out.is_json:
        session.out.data({"schema": "opdispatch/store-check/v1", "ok": not differences, "differences": differences})
    else:
        session.out.lines(differences or [f"store {session.store_text}: everything fits"])
    if differences:
        session.out.note("do not dispatch with it; restore it from a copy, or ask for help with the lines above")
        return Exit.REFUSED
    return Exit.OK
