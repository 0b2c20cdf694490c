"""Options that many commands share, and how a duration is typed.

The global ones may stand before the command or after it; the one nearer to the end of the line counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from opdispatch_adapters.dispatcher import Settings

from .output import FORMATS
from .session import DEFAULT_STORE, Session

_DURATION: Final = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d{1,6})?)s?)?", re.ASCII)
_LONGEST: Final = 36_500 * 86_400


class DurationType(click.ParamType[timedelta]):
    """``30s``, ``1.5s``, ``5m``, ``1h30m``, ``2d``; a bare number means seconds.  Above zero, at most a century."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read a duration."""
        if isinstance(value, timedelta):
            return value
        text = str(value)
        match = _DURATION.fullmatch(text)
        seconds = 0.0
        if match is not None and text:
            days, hours, minutes, rest = (float(part or 0) for part in match.groups())
            seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
        if not 0 < seconds <= _LONGEST:
            self.fail(f"{text!r} is not a duration above zero such as 30s, 5m or 1h30m", param, ctx)
        return timedelta(seconds=seconds)


DURATION: Final = DurationType()


def current() -> Session:
    """The session of this call."""
    return click.get_current_context().ensure_object(Session)


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Note a global option, unless it only has its default here; one from a file does not undo one that was given."""
    source = ctx.get_parameter_source(param.name or "")
    given: set[str | None] = ctx.meta.setdefault("opdispatch.given", set())
    if value is None or source is ParameterSource.DEFAULT:
        return
    if source is ParameterSource.DEFAULT_MAP and param.name in given:
        return
    given.add(param.name)
    session = ctx.ensure_object(Session)
    match param.name:
        case "store":
            session.store_option = value
        case "server":
            session.server_option = value
        case "tasks":
            session.tasks_option = Path(value)
        case "commands":
            session.commands_option = Path(value)
        case "actor":
            session.actor_option = value
        case "output":
            session.out.format = value
        case "no_color" if value:
            session.out.color = False
        case "verbose" if value:
            session.out.verbose = True


def _global_options() -> list[click.Option]:
    kept: dict[str, Any] = {"expose_value": False, "callback": _keep, "is_eager": True}
    return [
        click.Option(
            ["--store"],
            metavar="STORE",
            help=f"The store: a file, sqlite:///file, or postgresql://user@host/database.  [{DEFAULT_STORE}]",
            **kept,
        ),
        click.Option(
            ["--server"],
            metavar="HOST:PORT",
            help="An operation-run server in the place of a store, for ls, show, create and the commands on a run; "
            "certificates are those of CERTDIR, and plain:HOST:PORT does without.",
            **kept,
        ),
        click.Option(
            ["--tasks"],
            metavar="DIRECTORY",
            type=click.Path(),
            help="Where local commands keep what they know of their tasks.  [beside the file of the store]",
            **kept,
        ),
        click.Option(
            ["--commands"],
            metavar="FILE",
            type=click.Path(),
            help="An allowlist: a TOML table with argv per operation.  Then nothing else is executed.",
            **kept,
        ),
        click.Option(["--actor"], metavar="NAME", help="Who acts, for the journal.  [user@host]", **kept),
        click.Option(
            ["-o", "--output"], type=click.Choice(FORMATS), help="What standard output is for.  [table]", **kept
        ),
        click.Option(["--no-color"], is_flag=True, default=None, help="No colours.  NO_COLOR does the same.", **kept),
        click.Option(
            ["-v", "--verbose"], is_flag=True, default=None, help="Say more; show where an error came from.", **kept
        ),
    ]


class Command(click.Command):
    """A command that takes the global options, too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(_global_options())


class Group(click.Group):
    """A group that takes the global options, and whose commands do."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(_global_options())


_DEFAULTS: Final = Settings()
_SETTINGS: Final = {
    "poll": "The longest wait between two looks at what runs.",
    "call_deadline": "How long one start of a task may take.",
    "claim_lease": "When to look up a start that nobody answered; at least three call deadlines.",
    "missing_grace": "How long a task may be missing before it counts as lost.",
}


def dispatches(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that dispatches; they become the session's settings."""

    def keep(ctx: click.Context, param: click.Parameter, value: timedelta | None) -> None:
        if value is not None and param.name is not None:
            pending = ctx.meta.setdefault("opdispatch.settings", {})
            pending[param.name] = value

    for name, text in reversed(_SETTINGS.items()):
        option = "--" + name.replace("_", "-")
        default: timedelta = getattr(_DEFAULTS, name)
        shown = f"{text}  [{default.total_seconds():g}s]"
        function = click.option(option, type=DURATION, expose_value=False, callback=keep, help=shown)(function)
    return function


def settings_given() -> Settings:
    """The settings of this call.  Raises InvalidInput when they do not go together."""
    given: dict[str, Any] = click.get_current_context().meta.get("opdispatch.settings", {})
    return Settings(**given)
