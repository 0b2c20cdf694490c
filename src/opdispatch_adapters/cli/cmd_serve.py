"""``tick`` and ``worker``: what runs without anybody looking."""

from __future__ import annotations

from datetime import timedelta

import click

from opdispatch_adapters.dispatcher import Pass

from .attend import Stop
from .exits import Exit
from .follow import Follower
from .options import DURATION, Command, current, dispatches, settings_given
from .plain import PlainView
from .render import counted


@click.command("tick", cls=Command)
@click.option("--budget", type=DURATION, default="30s", show_default=True, help="About how long to work.")
@dispatches
def tick_command(budget: timedelta) -> Exit:
    """Serve what is due once and leave; for cron or a timer.  75 when the store cannot be reached."""
    session = current()
    session.settings = settings_given()
    with session.dispatcher() as dispatcher:
        done = dispatcher.run_once(budget)
    if session.out.is_json:
        session.out.data(
            {
                "schema": "opdispatch/tick/v1",
                "served": [str(run_id) for run_id in done.served],
                "busy": [str(run_id) for run_id in done.busy],
                "failed": [str(run_id) for run_id in done.failed],
                "out_of_time": done.out_of_time,
            }
        )
    else:
        session.out.lines([_said(done)])
    return Exit.OK


def _said(done: Pass) -> str:
    parts = [f"served {counted(len(done.served), 'run')}"]
    if done.busy:
        parts.append(f"{len(done.busy)} busy elsewhere")
    if done.failed:
        parts.append(f"{len(done.failed)} in trouble")
    if done.out_of_time:
        parts.append("the budget is used up")
    return ", ".join(parts)


@click.command("worker", cls=Command)
@dispatches
def worker_command() -> Exit:
    """Serve every run of the store until SIGTERM or Ctrl-C; tasks that run go on.  Any number of workers may run."""
    session = current()
    session.settings = settings_given()
    with Stop().on_signals() as stop, session.dispatcher() as dispatcher:
        session.out.note(f"worker {dispatcher.actor} serves {session.store_text}")
        shown = PlainView(session.out, timedelta.max)
        shown.names_run = True
        follower = Follower(dispatcher.store, shown, dispatcher.actor)
        follower.look()
        dispatcher.start()
        while not stop.wait(1.0):
            follower.look()
        session.out.note("stopping: nothing new starts, tasks that run go on")
        if not dispatcher.stop(timedelta(seconds=20)):
            session.out.note("a call to the task manager does not end; what came of it is looked up later")
        follower.look()
    return Exit.OK
