"""A dispatcher inside a program that has APScheduler already: one bounded pass per interval, never two at once."""

from datetime import timedelta

from apscheduler.schedulers.base import BaseScheduler  # type: ignore[import-untyped]  # version 3 ships no types

from opdispatch_adapters.dispatcher import Dispatcher


def add_to(scheduler: BaseScheduler, dispatcher: Dispatcher, every: timedelta = timedelta(seconds=10)) -> None:
    """Let this scheduler serve the due runs.  Any number of programs may do so on one store."""
    scheduler.add_job(
        dispatcher.run_once,
        "interval",
        seconds=every.total_seconds(),
        kwargs={"budget": every},
        id="opdispatch",
        max_instances=1,
        coalesce=True,
        misfire_grace_time=None,
    )
