"""``pause``, ``resume``, ``advance``, ``cancel``, ``retry``, ``settle``, ``release``: what an operator asks of a run.

Each prints the reply of the core.  A command carries an id; with ``--request-id`` it can be repeated and has one
effect.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import click

from opdispatch.command import Advance, Cancel, Command, Pause, Resume, Retry, Settle
from opdispatch.errors import InvalidInput
from opdispatch.identity import CommandId, RunId, TargetId
from opdispatch.ports import Overview
from opdispatch.target import FAILURES, SETTLED, TargetStatus

from . import json_output, view
from . import options as shared
from .attend import Ended, Stop, attend
from .cmd_run import a_view
from .exits import Exit
from .naming import run_called, targets_called
from .options import DURATION, current, dispatches, settings_given
from .render import counted
from .runs import Runs
from .session import Session, new_command_id

_OUTCOMES = tuple(str(status) for status in SETTLED)
_RUN = click.argument("run")
_REQUEST_ID = click.option(
    "--request-id", metavar="ID", help="Names this request, so that a repeat has no second effect."
)
_EXPECT_REVISION = click.option(
    "--revision", type=click.IntRange(0), help="Refuse when the run has changed since this revision."
)


def _carry_out(run: str, make: Callable[[Runs, RunId], Command], *, says: bool = True) -> tuple[RunId, Exit]:
    """Find the run, carry the command out and print the reply."""
    session = current()
    with session.runs() as store:
        run_id = run_called(store, run)
        asked = make(store, run_id)
    reply = session.command(run_id, asked)
    code = Exit.OK if reply.accepted else Exit.REFUSED
    if session.out.is_json:
        session.out.data(json_output.reply(reply, str(run_id)))
    elif reply.accepted:
        session.out.lines([f"run {str(run_id)[:8]}: {reply.message}"])
    else:
        session.out.note(f"refused ({reply.refusal}): {reply.message}")
    if reply.accepted and reply.open_claims and isinstance(asked, Pause | Cancel):
        session.out.note(f"{counted(reply.open_claims, 'submission')} under way may still begin, until the deadline")
    if says:
        _say_who_goes_on(session, run_id)
    return run_id, code


def _say_who_goes_on(session: Session, run_id: RunId) -> None:
    with session.runs() as store:
        overview = store.get(run_id)
    call, short = view.program(session.store_text), view.short_id(overview.run)
    commands = view.next_commands(overview, session.store_text)
    if session.server_option is not None:
        # Whoever dispatches is behind the server.
        session.out.note(*(f"next: {line}" for line in commands))
    elif overview.run.status.is_terminal:
        if not view.is_over(overview):
            session.out.note(f"next: {call} attach {short}, or a worker, ends what still runs")
    elif commands:
        session.out.note(*(f"next: {line}" for line in commands))
    else:
        session.out.note(f"next: a worker, or {call} attach {short}, carries it on")


@click.command("pause", cls=shared.Command)
@_RUN
@_REQUEST_ID
@_EXPECT_REVISION
def pause_command(run: str, request_id: str | None, revision: int | None) -> Exit:
    """Start nothing new in RUN; what runs goes on."""
    actor = current().actor
    return _carry_out(
        run,
        lambda *_: Pause(command_id=new_command_id(request_id), actor=actor, expected_revision=revision),
    )[1]


@click.command("resume", cls=shared.Command)
@_RUN
@click.option(
    "--accept-failures",
    type=click.IntRange(0),
    metavar="N",
    help="The failed attempts of the whole run that you accept.",
)
@_REQUEST_ID
@_EXPECT_REVISION
def resume_command(run: str, accept_failures: int | None, request_id: str | None, revision: int | None) -> Exit:
    """Let a held RUN go on; past a tripped safety gate only with --accept-failures."""
    actor = current().actor
    return _carry_out(
        run,
        lambda *_: Resume(
            command_id=new_command_id(request_id),
            actor=actor,
            expected_revision=revision,
            accept_failures=accept_failures,
        ),
    )[1]


@click.command("advance", cls=shared.Command)
@_RUN
@click.option("--expect", type=click.IntRange(0), required=True, metavar="N", help="The phase to open, from 0.")
@_REQUEST_ID
@_EXPECT_REVISION
def advance_command(run: str, expect: int, request_id: str | None, revision: int | None) -> Exit:
    """Open the next phase of RUN, which must be the one you expect."""
    actor = current().actor
    return _carry_out(
        run,
        lambda *_: Advance(
            command_id=new_command_id(request_id), actor=actor, expected_revision=revision, expected_phase=expect
        ),
    )[1]


@click.command("retry", cls=shared.Command)
@_RUN
@click.argument("targets", metavar="TARGET...", nargs=-1)
@click.option("--failed", is_flag=True, help="Every failed and terminated target.")
@_REQUEST_ID
@_EXPECT_REVISION
def retry_command(
    run: str, targets: tuple[str, ...], failed: bool, request_id: str | None, revision: int | None
) -> Exit:
    """Give settled targets of RUN a new attempt: all of them or none."""
    if bool(targets) is failed:
        raise click.UsageError("name the targets to retry, or give --failed")
    actor = current().actor

    command_id = new_command_id(request_id)

    def make(store: Runs, run_id: RunId) -> Command:
        if failed:
            before = None if request_id is None else _taken_before(store, run_id, command_id)
            chosen = before or _failed_targets(store, run_id)
        else:
            chosen = targets_called(store.targets(run_id), targets)
        return Retry(command_id=command_id, actor=actor, expected_revision=revision, targets=chosen)

    return _carry_out(run, make)[1]


def _taken_before(store: Runs, run_id: RunId, command_id: CommandId) -> tuple[TargetId, ...] | None:
    """The targets that this very request took, if it is a repeat: others may have failed since, or none."""
    for entry in store.journal(run_id):
        if isinstance(entry.command, Retry) and entry.command.command_id == command_id:
            return entry.command.targets
    return None


def _failed_targets(store: Runs, run_id: RunId) -> tuple[TargetId, ...]:
    found = tuple(target.id for target in store.targets(run_id, statuses=FAILURES))
    if not found:
        raise InvalidInput.at("--failed", f"no target of run {str(run_id)[:8]} has failed", "name the targets to retry")
    return found


@click.command("settle", cls=shared.Command)
@_RUN
@click.argument("target")
@click.option("--as", "status", type=click.Choice(_OUTCOMES), required=True, help="Its outcome.")
@click.option("--reason", required=True, help="Why; it is kept in the journal.")
@_REQUEST_ID
@_EXPECT_REVISION
def settle_command(
    run: str, target: str, status: str, reason: str, request_id: str | None, revision: int | None
) -> Exit:
    """Declare the outcome of a TARGET of RUN that hangs; its task, if there is one, is ended."""
    actor = current().actor

    def make(store: Runs, run_id: RunId) -> Command:
        (chosen,) = targets_called(store.targets(run_id), [target])
        return Settle(
            command_id=new_command_id(request_id),
            actor=actor,
            expected_revision=revision,
            target=chosen,
            status=TargetStatus(status),
            why=reason,
        )

    return _carry_out(run, make)[1]


@click.command("cancel", cls=shared.Command)
@_RUN
@click.option("--reason", default="", help="Why; it is kept in the journal.")
@click.option(
    "--wait", type=DURATION, default="30s", show_default=True, help="How long to see to the end of what runs."
)
@click.option("--no-wait", is_flag=True, help="Leave the end of what runs to a worker.")
@_REQUEST_ID
@_EXPECT_REVISION
@dispatches
def cancel_command(
    run: str, reason: str, wait: timedelta, no_wait: bool, request_id: str | None, revision: int | None
) -> Exit:
    """End RUN: skip what has not started, end what runs, and see to it."""
    session = current()
    session.settings = settings_given()
    run_id, code = _carry_out(
        run,
        lambda *_: Cancel(
            command_id=new_command_id(request_id), actor=session.actor, expected_revision=revision, why=reason
        ),
        says=no_wait,
    )
    if code is not Exit.OK or no_wait:
        return code
    return _drain(session, run_id, wait)


def _drain(session: Session, run_id: RunId, wait: timedelta) -> Exit:
    """Serve a run that has ended until nothing of it runs."""
    with session.dispatcher(only=run_id) as dispatcher:
        if view.is_over(dispatcher.store.get(run_id)):
            return Exit.OK

        def until(overview: Overview) -> bool:
            return view.is_over(overview) or view.is_quarantined(overview)

        shown = a_view(session, timedelta(seconds=60))
        with Stop().on_signals() as stop:
            attended = attend(dispatcher.store, run_id, shown, stop, dispatcher=dispatcher, until=until, patience=wait)
    if view.is_over(attended.overview):
        session.out.note(_what_became(attended.overview))
        return Exit.OK
    going = counted(view.total(attended.overview).in_flight, "task")
    call, short = view.program(session.store_text), view.short_id(attended.overview.run)
    if view.is_quarantined(attended.overview):
        session.out.note(f"{view.waits_for(attended.overview)}; next: {call} release {short}")
        return Exit.HELD
    session.out.note(f"{going} not over yet; next: {call} attach {short}, or a worker, sees to the end")
    return Exit.TIMEOUT if attended.why is Ended.TIMED_OUT else Exit.DETACHED


def _what_became(overview: Overview) -> str:
    counts = view.total(overview)
    return (
        f"nothing of it runs any more: {counts.completed} completed, {counts.failed} failed, "
        f"{counts.terminated} terminated, {counts.skipped} skipped"
    )


@click.command("release", cls=shared.Command)
@_RUN
def release_command(run: str) -> Exit:
    """Take RUN out of quarantine; valid in any status."""
    session = current()
    with session.store() as store:
        run_id = run_called(store, run)
        lifted = store.release(run_id)
    if session.out.is_json:
        session.out.data({"schema": "opdispatch/release/v1", "run_id": str(run_id), "released": lifted})
    else:
        text = "released; it is due now" if lifted else "it had no trouble; nothing to do"
        session.out.lines([f"run {str(run_id)[:8]}: {text}"])
    return Exit.OK
