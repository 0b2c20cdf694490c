"""``plan``, ``create``, ``run`` and ``attach``: from a file to a run that has ended or is held."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import click

from opdispatch.errors import InvalidInput
from opdispatch.identity import RunId
from opdispatch.plan import Plan
from opdispatch.ports import Overview, Store
from opdispatch.run import RunStatus
from opdispatch.target import FAILURES
from opdispatch_adapters.dispatcher import Dispatcher

from . import json_output, plan_view, summary, view
from .attend import Attended, Ended, Stop, View, attend
from .exits import Exit
from .naming import run_called
from .options import DURATION, Command, current, dispatches, settings_given
from .output import is_terminal
from .plain import JsonLinesView, PlainView
from .planning import Asked, asked, create, derived_request_id, plan_of, plan_unless_made, require_program
from .render import counted
from .rollout_file import load_rollout
from .session import Session

_FILE = click.argument("file", type=click.Path())
_REQUEST_ID = click.option("--request-id", metavar="ID", help="Names this request; another one makes another run.")
_HEARTBEAT = click.option(
    "--heartbeat", type=DURATION, default="60s", show_default=True, help="Off a terminal: a line at least so often."
)
_TIMEOUT = click.option("--timeout", type=DURATION, help="Leave after this time (exit 124); what runs goes on.")
_NO_WAIT = click.option(
    "--no-wait", is_flag=True, help="When the run is held, leave at once and not when its tasks ended."
)


@click.command("plan", cls=Command)
@_FILE
@_REQUEST_ID
@click.option("--racks", is_flag=True, help="Name every rack of each phase.")
def plan_command(file: str, request_id: str | None, racks: bool) -> Exit:
    """Show what a run of FILE would be.  Writes nothing."""
    session = current()
    given = asked(session, Path(file), request_id)
    made = plan_of(session, given)
    if session.out.is_json:
        session.out.data(json_output.plan(made, request_id=given.request_id, run_id=str(given.run_id)))
    else:
        width = session.out.width(session.out.stdout)
        session.out.lines(plan_view.lines(given, made, width, every_rack=racks or session.out.verbose))
    return Exit.OK


@click.command("create", cls=Command)
@_FILE
@_REQUEST_ID
def create_command(file: str, request_id: str | None) -> Exit:
    """Make a run of FILE, for a worker or `attach` to dispatch.  The same file makes it once."""
    session = current()
    if session.server_option is not None:
        return _create_remotely(session, Path(file), request_id)
    given = asked(session, Path(file), request_id)
    require_program(session, given)
    made = plan_unless_made(session, given)
    session.make_store()
    with session.store() as store:
        _create(session, store, given, made)
        overview = store.get(given.run_id)
        _show(session, overview, summary.about(overview))
    session.out.note(f"next: {view.program(session.store_text)} attach {str(given.run_id)[:8]}")
    return Exit.OK


@click.command("run", cls=Command)
@_FILE
@_REQUEST_ID
@_HEARTBEAT
@_TIMEOUT
@_NO_WAIT
@dispatches
def run_command(
    file: str, request_id: str | None, heartbeat: timedelta, timeout: timedelta | None, no_wait: bool
) -> Exit:
    """Make a run of FILE, or meet the one it made before, and dispatch it until it ends or is held.

    Ctrl-C detaches: tasks that run go on, and nothing new starts until `attach` or `worker`.
    """
    session = current()
    session.settings = settings_given()
    given = asked(session, Path(file), request_id)
    require_program(session, given)
    made = plan_unless_made(session, given)
    session.make_store()
    with session.dispatcher(only=given.run_id) as dispatcher:
        _create(session, dispatcher.store, given, made)
        return _dispatch(session, dispatcher, given.run_id, heartbeat, timeout, no_wait)


@click.command("attach", cls=Command)
@click.argument("run")
@_HEARTBEAT
@_TIMEOUT
@_NO_WAIT
@dispatches
def attach_command(run: str, heartbeat: timedelta, timeout: timedelta | None, no_wait: bool) -> Exit:
    """Dispatch RUN until it ends or is held, beside any other dispatcher."""
    session = current()
    session.settings = settings_given()
    with session.store() as store:
        run_id = run_called(store, run)
        overview = store.get(run_id)
    with session.dispatcher(only=run_id) as dispatcher, session.programs(watch=False) as programs:
        operation = overview.run.rollout.operation
        if not overview.run.status.is_terminal and programs.program_for(run_id, operation) is None:
            found, remedy = programs.why_none(operation)
            raise InvalidInput.at(f"the program of run {run_id}", found, remedy)
        return _dispatch(session, dispatcher, run_id, heartbeat, timeout, no_wait)


def _create_remotely(session: Session, path: Path, request_id: str | None) -> Exit:
    """Have the server plan and make the run: it has its own inventory and its own tasks."""
    file = load_rollout(path)
    given = request_id if request_id is not None else derived_request_id(file, None)
    with session.remote() as remote:
        run_id = remote.create(file.rollout, given, session.actor)
        session.out.note(f"run {run_id} is under request id {given}")
        overview = remote.get(run_id)
    _show(session, overview, summary.about(overview))
    return Exit.OK


def _create(session: Session, store: Store, given: Asked, made: Plan | None) -> None:
    run, made = create(session, store, given, made)
    if made is not None:
        racks = counted(len(made.racks), "rack")
        session.out.note(f"created run {run.id} ({racks}) under request id {given.request_id}")
        return
    session.out.note(
        f"request id {given.request_id} already created run {run.id} on {run.created_at:%Y-%m-%d %H:%MZ}; "
        f"it is {run.status}. For another run of this file give another --request-id"
    )


def _dispatch(
    session: Session,
    dispatcher: Dispatcher,
    run_id: RunId,
    heartbeat: timedelta,
    timeout: timedelta | None,
    no_wait: bool,
) -> Exit:
    def until(overview: Overview) -> bool:
        if view.is_over(overview):
            return True
        if overview.run.status.is_terminal or not view.is_held(overview):
            return False
        return no_wait or view.is_quarantined(overview) or not view.total(overview).in_flight

    shown = a_view(session, heartbeat)
    with Stop().on_signals() as stop:
        attended = attend(dispatcher.store, run_id, shown, stop, dispatcher=dispatcher, until=until, patience=timeout)
    return report(session, dispatcher.store, attended, is_drawn=not isinstance(shown, PlainView))


def a_view(session: Session, heartbeat: timedelta) -> View:
    """A frame on a terminal, where rich is there and the terminal can; else lines."""
    out = session.out
    if out.format == "jsonl":
        return JsonLinesView(out, heartbeat)
    if is_terminal(out.stderr) and _can_draw():
        try:
            from .live import LiveView
        except ImportError:
            return PlainView(out, heartbeat)
        return LiveView(out, session.store_text)
    return PlainView(out, heartbeat)


def _can_draw() -> bool:
    return os.environ.get("TERM", "dumb") not in ("", "dumb")


def report(session: Session, store: Store, attended: Attended, *, is_drawn: bool) -> Exit:
    """The final counts, what failed, and the exit code; ``is_drawn`` when a frame that stands tells of the first."""
    out, overview = session.out, attended.overview
    run = overview.run
    call, short = view.program(session.store_text), view.short_id(run)
    code = {Ended.REACHED: view.exit_of(overview), Ended.STOPPED: Exit.DETACHED, Ended.TIMED_OUT: Exit.TIMEOUT}[
        attended.why
    ]
    if out.is_json:
        document = {**json_output.run(overview, session.store_text), "exit": int(code)}
        out.data(document)
    else:
        width = out.width(out.stdout)
        failed = store.targets(run.id, statuses=FAILURES, limit=summary.FAILED_SHOWN)
        counts = view.total(overview)
        is_told = is_drawn and is_terminal(out.stdout)
        if not is_told:
            out.lines(summary.phases(overview, width))
        out.lines(summary.failures(failed, counts.failed + counts.terminated, width))
        if attended.why is Ended.REACHED:
            out.lines(summary.ending(overview, code, session.store_text)[: 1 if is_told else None])
    if attended.why is not Ended.REACHED:
        going = counted(view.total(overview).in_flight, "task")
        goes = "goes" if view.total(overview).in_flight == 1 else "go"
        why = "detached" if attended.why is Ended.STOPPED else "the time is over"
        if run.status.is_terminal:
            out.note(f"{why}: run {short} is {run.status}, and {going} of it still {goes} on")
        else:
            out.note(
                f"{why}: {going} of run {short} {goes} on running; nothing new starts until "
                f"`{call} attach {short}` or `{call} worker`"
            )
    elif run.status is RunStatus.PAUSED and view.total(overview).in_flight:
        going = counted(view.total(overview).in_flight, "task")
        out.note(f"{going} still running; see `{call} show {short} --watch`")
    return code


def _show(session: Session, overview: Overview, lines: list[str]) -> None:
    if session.out.is_json:
        session.out.data(json_output.run(overview, session.store_text))
    else:
        session.out.lines(lines)
