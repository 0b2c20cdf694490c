"""One call of the program: what was asked for on the command line, and what it opens to do it.

The only place that knows which adapters there are.  Nothing is opened before it is needed: ``plan`` reads a file and
an inventory, and ``pause`` needs no program to run.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from opdispatch.command import Command, Reply
from opdispatch.errors import InvalidInput
from opdispatch.identity import CommandId, RunId
from opdispatch.observation import Observation
from opdispatch.task import Ref
from opdispatch_adapters.dispatcher import Dispatcher, Settings, carry_out_command

from .extras import needs
from .output import Output
from .routing import Programs
from .runs import Runs
from .stores import SERVER, Place, locate, make_parent, new_store, require_store, require_tasks

if TYPE_CHECKING:
    from opdispatch_adapters.flow.client import RemoteRuns
    from opdispatch_adapters.sql import SqlStore

DEFAULT_STORE = "opdispatch.db"
PLAIN = "plain:"
"""How the address of a server begins that is spoken to without TLS, though it is another host."""


class Session:
    """The options of every command, and the store and the programs that follow from them."""

    def __init__(self) -> None:
        self.out = Output()
        self.store_option = DEFAULT_STORE
        self.server_option: str | None = None
        self.tasks_option: Path | None = None
        self.commands_option: Path | None = None
        self.actor_option: str | None = None
        self.settings = Settings()

    # -- what was asked for --

    @property
    def place(self) -> Place:
        """Where the store is.  Raises InvalidInput."""
        return locate(self.store_option)

    @property
    def store_text(self) -> str:
        """The store as a command line names it, without a password; or the server, as ``--server ...``."""
        return self.place.text if self.server_option is None else f"{SERVER}{self.server_option}"

    @property
    def tasks_path(self) -> Path:
        """The directory where commands are run and programs registered: the one named, or the store's own."""
        if self.tasks_option is not None:
            return Path(os.path.abspath(self.tasks_option.expanduser()))
        return self.place.tasks

    @property
    def actor(self) -> str:
        """Who acts, for the journal."""
        return self.actor_option or f"{_user()}@{socket.gethostname()}"

    # -- what is opened --

    @contextmanager
    def store(self) -> Iterator[SqlStore]:
        """The store, which must be there and up to date."""
        # Loaded here alone: it takes half a second, and a plan or a mistyped option needs none of it.
        from opdispatch_adapters.sql import open_store

        if self.server_option is not None:
            raise InvalidInput.at("--server", "this command needs the store itself", "give --store instead")
        place = self.place
        require_store(place)
        with open_store(place.source) as store:
            yield store

    @contextmanager
    def runs(self) -> Iterator[Runs]:
        """The runs to look at: those of the store, or those of a server."""
        if self.server_option is None:
            with self.store() as store:
                yield store
        else:
            with self.remote() as remote:
                yield remote

    @contextmanager
    def remote(self) -> Iterator[RemoteRuns]:
        """The runs of the server that was named."""
        with needs("flow", "--server"):
            from opdispatch_adapters.flow.certificates import find
            from opdispatch_adapters.flow.client import FlowSettings, RemoteRuns
            from opdispatch_adapters.flow.client.channel import FlowChannel

        address = self.server_option or ""
        plain = address.removeprefix(PLAIN)
        certificates = None if plain != address else find(None, None, None)
        settings = FlowSettings(
            address=plain,
            certificates=certificates,
            insecure=plain != address,
            server_name=os.environ.get("OPDISPATCH_SERVER_NAME"),
        )
        channel = FlowChannel(settings)
        try:
            yield RemoteRuns(channel)
        finally:
            channel.close()

    def make_store(self) -> None:
        """Create the file of the store when there is none, and say so; an existing one is left as it is.

        A database on a server is somebody's who has to be asked: only ``store migrate`` makes tables there.
        """
        place, path = self.place, self.place.file
        if path is None or os.path.lexists(path):
            return
        if os.path.lexists(place.tasks / "tasks") and not os.path.lexists(path):
            raise InvalidInput.at(
                f"store {path}",
                f"it is gone, but its tasks are still in {place.tasks}",
                "restore the store, or remove that directory: a new run must not take old outcomes for its own",
            )
        if not path.parent.is_dir():
            raise InvalidInput.at(f"store {path}", f"there is no directory {path.parent}", "make it first")
        if new_store(path):
            self.out.note(f"made the store {path}")

    @contextmanager
    def programs(self, *, watch: bool) -> Iterator[Programs]:
        """The task manager; ``watch`` when this process waits for tasks to end."""
        tasks = self.tasks_path
        if self.place.file is None and self.tasks_option is None:
            make_parent(tasks)
        with Programs(tasks, allowlist=self.commands_option, watch=watch) as programs:
            yield programs

    @contextmanager
    def tasks_of(self, store: SqlStore, *, watch: bool, only: RunId | None = None) -> Iterator[Programs]:
        """The task manager for who looks at the tasks of a store, or of one run.  Raises Unavailable elsewhere."""
        # Before it is made: a directory that is there is trusted.
        require_tasks(store, self.tasks_path, only)
        with self.programs(watch=watch) as programs:
            yield programs

    @contextmanager
    def dispatcher(self, *, only: RunId | None = None) -> Iterator[Dispatcher]:
        """A dispatcher that is not started."""
        from opdispatch_adapters.sql import SqliteStore

        with self.store() as store, ExitStack() as stack:
            programs = stack.enter_context(self.tasks_of(store, watch=True, only=only))
            # A file tells cheaply whether it was changed; a server tells by itself.
            changes = store.version if isinstance(store, SqliteStore) else None
            listen = getattr(store, "listening", None)
            yield Dispatcher(store, programs, self.settings, only=only, changes=changes, listen=listen)

    def command(self, run_id: RunId, asked: Command) -> Reply:
        """Carry one command out.  Only a settle looks at tasks; every other one needs the store and nothing else."""
        if self.server_option is not None:
            with self.remote() as remote:
                return remote.command(run_id, asked)
        with self.store() as store, ExitStack() as stack:

            def look(refs: Sequence[Ref], looked_at: datetime) -> Sequence[Observation]:
                return stack.enter_context(self.tasks_of(store, watch=False, only=run_id)).observe(refs, looked_at)

            return carry_out_command(store, run_id, asked, self.settings, look)


def new_command_id(given: str | None) -> CommandId:
    """The id of a command: the one given, so that it can be repeated without a second effect, or a new one."""
    return CommandId(given if given is not None else f"cli-{uuid4()}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
