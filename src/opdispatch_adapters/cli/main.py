"""The program ``opdispatch``: its commands, and how every error ends it.

No error of a known class shows a traceback.  One that is not known shows one line, and with ``-v`` where it came from.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import click

from opdispatch.errors import InvalidInput, OpdispatchError

from . import json_output
from .cmd_control import (
    advance_command,
    cancel_command,
    pause_command,
    release_command,
    resume_command,
    retry_command,
    settle_command,
)
from .cmd_explain import replay_command, why_command
from .cmd_look import inventory_group, ls_command, show_command
from .cmd_run import attach_command, create_command, plan_command, run_command
from .cmd_serve import tick_command, worker_command
from .cmd_service import serve_command, standin_command
from .cmd_store import store_group
from .exits import Exit, exit_of_error
from .logs import logged_to
from .options import Group
from .session import Session


@click.group("opdispatch", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="opdispatch")
def program() -> None:
    """Phased, gated rollouts over racks.

    `plan FILE` shows what a rollout file amounts to, `run FILE` does it.  Phases are counted from 0.
    """


for _command in (
    plan_command,
    run_command,
    attach_command,
    create_command,
    ls_command,
    show_command,
    why_command,
    replay_command,
    pause_command,
    resume_command,
    advance_command,
    cancel_command,
    retry_command,
    settle_command,
    release_command,
    tick_command,
    worker_command,
    serve_command,
    standin_command,
    inventory_group,
    store_group,
):
    program.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and leave with its exit code."""
    session = Session()
    with logged_to(session.out.note, lambda: session.out.verbose):
        code = _run(session, sys.argv[1:] if arguments is None else list(arguments))
    if session.out.lost:
        session.out.note(f"error: standard output cannot be written: {session.out.lost}; not all was told")
        code = code or int(Exit.INTERNAL)
    session.out.close()
    sys.exit(code)


def _run(session: Session, arguments: Sequence[str]) -> int:
    try:
        result = program.main(
            args=list(arguments),
            prog_name="opdispatch",
            standalone_mode=False,
            auto_envvar_prefix="OPDISPATCH",
            obj=session,
        )
    except click.ClickException as error:
        where = f" (see {error.ctx.command_path} --help)" if isinstance(error, click.UsageError) and error.ctx else ""
        _tell(session, InvalidInput.at("", error.format_message()), f"error: {error.format_message()}{where}")
        return int(Exit.USAGE)
    except (KeyboardInterrupt, click.Abort):
        session.out.note("interrupted; what runs goes on")
        return int(Exit.DETACHED)
    except BrokenPipeError:
        return int(Exit.OK)
    except Exception as error:
        return _failed(session, error)
    return int(result) if isinstance(result, int) else int(Exit.OK)


def _failed(session: Session, error: Exception) -> int:
    if isinstance(error, OpdispatchError):
        _tell(session, error, *(f"error: {line}" for line in str(error).splitlines()))
    else:
        hint = "" if session.out.verbose else "; repeat it with -v to see where"
        name = f"{type(error).__name__}: {error}"
        _tell(session, error, f"internal error: {name}{hint}")
    if session.out.verbose:
        session.out.note(*(line for text in traceback.format_exception(error) for line in text.splitlines()))
    return int(exit_of_error(error))


def _tell(session: Session, error: Exception, *lines: str) -> None:
    session.out.note(*lines)
    if session.out.is_json:
        session.out.data(json_output.error(error))
