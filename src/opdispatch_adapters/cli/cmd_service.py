"""``serve``: dispatcher and operation-run server in one process; ``flow-standin``: a Flow service to try it on."""

from __future__ import annotations

import json
import os
import signal
import threading
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from opdispatch.candidate import Scope
from opdispatch.errors import InvalidInput
from opdispatch.ports import Inventory, TaskManager
from opdispatch_adapters.inventory import CsvInventory

from .attend import signals_to_stop
from .exits import Exit
from .extras import needs
from .options import DURATION, Command, current, dispatches, settings_given
from .render import counted
from .session import Session

if TYPE_CHECKING:
    from opdispatch_adapters.flow.certificates import Certificates
    from opdispatch_adapters.flow.client import FlowSettings
    from opdispatch_adapters.flow.component_types import ComponentTypes
    from opdispatch_adapters.flow.server import Access
    from opdispatch_adapters.sql import SqlStore

_KEY_PATH: Final = "FLOW_DATA_ENCRYPTION_KEY_PATH"
_IDENTITIES_FILE: Final = "FLOW_AUTHORIZATION_ALLOWED_SERVICE_IDENTITIES_FILE"
_LAST_PORT: Final = 65535
_AT_ONCE: Final = 143
"""What a second SIGTERM ends with, at once: 128 and the number of the signal."""
_LOOK_SECONDS: Final = 1.0
"""How long the main thread waits at a time.  A signal that another thread gets does not end its wait, and only it can
take the signal: one long wait would put the stop off until its end."""


def _configured(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Take the defaults of this command from a TOML file; flags and the environment are stronger."""
    if value is None:
        return None
    try:
        document = tomllib.loads(Path(value).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput.at(value, f"it cannot be read: {error.strerror}", "name a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput.at(value, f"it is not TOML: {error}", "write name = value lines") from error
    known = {
        one.name: one
        for one in ctx.command.params
        if isinstance(one, click.Option) and one.name not in ("config", None)
    }
    given = {key.replace("-", "_"): setting for key, setting in document.items()}
    for key in given:
        if key not in known:
            names = ", ".join(sorted(str(name).replace("_", "-") for name in known))
            raise InvalidInput.at(f"{value} {key.replace('_', '-')}", "there is no such setting", f"use one of {names}")
        if known[key].multiple and not isinstance(given[key], list):
            given[key] = [given[key]]
    ctx.default_map = {**(ctx.default_map or {}), **given}
    return value


def _service_options(function: Any) -> Any:
    options = (
        click.option(
            "--config",
            metavar="FILE",
            is_eager=True,
            expose_value=False,
            callback=_configured,
            help="A TOML file with any of these settings, by their names.",
        ),
        click.option("--listen", default="127.0.0.1:50051", show_default=True, help="HOST:PORT of the calls."),
        click.option(
            "--flow", metavar="HOST:PORT", help="A Flow service: its tasks, and its racks unless --inventory."
        ),
        click.option("--inventory", type=click.Path(), metavar="DIRECTORY", help="The racks, as a directory of CSV."),
        click.option(
            "--component-type",
            multiple=True,
            metavar="OURS=FLOW",
            help="Which type of Flow a type of the inventory is; may be repeated.",
        ),
        click.option("--place", metavar="REGEX", help="Reads row and position from Flow's rack positions."),
        click.option("--ca-cert", type=click.Path(), help="The authority that is trusted."),
        click.option("--tls-cert", type=click.Path(), help="Our certificate."),
        click.option("--tls-key", type=click.Path(), help="Its key."),
        click.option("--server-name", help="The name in Flow's certificate."),
        click.option(
            "--insecure", is_flag=True, help="Speak plainly, also to and for other hosts.  Everybody may do everything."
        ),
        click.option(
            "--allowed-service-identity",
            multiple=True,
            metavar="SPIFFE[=reader]",
            help="Who may call; may be repeated.",
        ),
        click.option("--data-key", type=click.Path(), help=f"The key that credentials are sealed with.  [{_KEY_PATH}]"),
        click.option("--resume-needs-number", is_flag=True, help="A resume must say how many failures it accepts."),
        click.option("--reflection", is_flag=True, help="Serve the reflection service, too."),
        click.option(
            "--parallelism", type=click.IntRange(1, 1024), default=8, show_default=True, help="Calls to Flow."
        ),
        click.option("--threads", type=click.IntRange(1, 1024), default=16, show_default=True, help="Calls answered."),
        click.option("--grace", type=DURATION, default="25s", show_default=True, help="How long a stop may take."),
        click.option("--print-settings", is_flag=True, help="Show the settings, without secrets, and leave."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command("serve", cls=Command)
@_service_options
@dispatches
def serve_command(**given: Any) -> Exit:
    """Dispatch every run of the store, and serve Flow's operation-run calls, until SIGTERM or Ctrl-C.

    Any number of these may share a PostgreSQL store.  A second SIGTERM does not wait.
    """
    session = current()
    session.settings = settings_given()
    if given.pop("print_settings"):
        _print_settings(session, given)
        return Exit.OK
    with needs("flow", "serve"):
        from opdispatch_adapters import service as _  # noqa: F401
    with ExitStack() as stack:
        stop = stack.enter_context(_stopped_by_signals())
        store = stack.enter_context(session.store())
        service = stack.enter_context(_service(session, store, given, stack))
        session.out.note(
            f"serving {session.store_text} on {service.address} as {service.dispatcher.actor}; "
            f"new runs are dispatched and calls are answered"
        )
        while not stop.wait(_LOOK_SECONDS):
            continue
        session.out.note("stopping: nothing new starts, calls in flight end, tasks run on")
        if not service.stop(given["grace"]):
            session.out.note("a call to the task manager does not end; what came of it is looked up later")
    return Exit.OK


def _service(session: Session, store: Any, given: Mapping[str, Any], stack: ExitStack) -> Any:
    from opdispatch_adapters.flow.seal import Sealer
    from opdispatch_adapters.flow.server import RunSettings
    from opdispatch_adapters.service import Service, ServiceSettings
    from opdispatch_adapters.sql import SqliteStore

    certificates = _certificates(given)
    access = _access(given, certificates)
    key = given["data_key"] or os.environ.get(_KEY_PATH)
    sealer = None if not key else Sealer.from_file(Path(key))
    types = _types(given["component_type"])
    tasks, inventory, externals = _outside(session, store, given, certificates, sealer, types, stack)
    settings = ServiceSettings(
        address=given["listen"],
        certificates=certificates,
        access=access,
        threads=given["threads"],
        reflection=given["reflection"],
        grace=given["grace"],
    )
    return Service(
        store,
        tasks,
        inventory,
        settings,
        dispatcher=session.settings,
        runs=RunSettings(resume_needs_number=given["resume_needs_number"], checks_types=given["flow"] is not None),
        sealer=sealer,
        types=types,
        externals=externals,
        changes=store.version if isinstance(store, SqliteStore) else None,
        listen=getattr(store, "listening", None),
    )


def _outside(
    session: Session,
    store: SqlStore,
    given: Mapping[str, Any],
    certificates: Certificates | None,
    sealer: Any,
    types: ComponentTypes,
    stack: ExitStack,
) -> tuple[TaskManager, Inventory, Any]:
    """The task manager, the inventory, and what knows components by the ids of the core service."""
    if given["flow"] is None:
        if given["inventory"] is None:
            raise InvalidInput.at("--inventory", "no racks are named", "give --inventory DIRECTORY or --flow HOST:PORT")
        if session.commands_option is None:
            raise InvalidInput.at(
                "--commands",
                "a run that is created by a call names no program, and no allowlist is given",
                "give --commands FILE with a program for each operation, or --flow HOST:PORT",
            )
        programs = stack.enter_context(session.tasks_of(store, watch=True))
        return programs, CsvInventory(Path(given["inventory"])), None
    from opdispatch_adapters.flow.client import FlowInventory, FlowTasks
    from opdispatch_adapters.flow.client.inventory import Place

    tasks = stack.enter_context(FlowTasks(_flow_settings(given, certificates), sealer=sealer, types=types))
    racks = FlowInventory(tasks.channel, Place(pattern=given["place"]))
    if given["inventory"] is not None:
        return tasks, CsvInventory(Path(given["inventory"])), racks
    return tasks, racks, racks


def _flow_settings(given: Mapping[str, Any], certificates: Certificates | None) -> FlowSettings:
    from opdispatch_adapters.flow.client import FlowSettings

    return FlowSettings(
        address=given["flow"],
        certificates=certificates,
        server_name=given["server_name"],
        insecure=given["insecure"],
        parallelism=given["parallelism"],
    )


def _certificates(given: Mapping[str, Any]) -> Certificates | None:
    from opdispatch_adapters.flow.certificates import find

    ca, cert, key = (None if given[name] is None else Path(given[name]) for name in ("ca_cert", "tls_cert", "tls_key"))
    return None if given["insecure"] else find(ca, cert, key)


def _access(given: Mapping[str, Any], certificates: Certificates | None) -> Access:
    from opdispatch_adapters.flow.client.settings import is_loopback
    from opdispatch_adapters.flow.server import Access, roles_from

    host = _host_of(given["listen"])
    texts = [*given["allowed_service_identity"]]
    listed = os.environ.get(_IDENTITIES_FILE)
    if listed:
        if texts:
            raise InvalidInput.at(
                "--allowed-service-identity", f"{_IDENTITIES_FILE} is set too", "use the one or the other"
            )
        texts = _identities(Path(listed))
    if certificates is not None:
        if not texts:
            raise InvalidInput.at(
                "--allowed-service-identity", "nobody may call", "name the SPIFFE ids of those who may"
            )
        return Access(roles=roles_from(texts))
    if texts:
        raise InvalidInput.at(
            "--allowed-service-identity", "without certificates no caller is told from another", "give certificates"
        )
    if not given["insecure"] and not is_loopback(host):
        raise InvalidInput.at(
            "--listen",
            f"{given['listen']} is open to other hosts, without certificates",
            "give certificates, listen on 127.0.0.1, or say --insecure",
        )
    return Access(is_open=True)


def _identities(path: Path) -> list[str]:
    """The lines of a file that say something."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise InvalidInput.at(
            _IDENTITIES_FILE, f"{path} cannot be read: {error.strerror}", "name a file with an id on each line"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found = f"it is not UTF-8: byte 0x{error.object[error.start]:02x}"
        raise InvalidInput.at(f"{_IDENTITIES_FILE} {path}:{line}", found, "save it as UTF-8") from error


def _host_of(listen: str) -> str:
    """The host of an address to listen on, port 0 for a free one.  Raises InvalidInput."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > _LAST_PORT:
        raise InvalidInput.at("--listen", f"{listen!r} is no address", f"give HOST:PORT, a port of 0 to {_LAST_PORT}")
    return host


def _types(texts: Iterable[str]) -> ComponentTypes:
    from opdispatch_adapters.flow.component_types import ComponentTypes

    mapped: dict[str, str] = {}
    for text in texts:
        ours, equals, flow = text.partition("=")
        if not equals or not ours:
            raise InvalidInput.at("--component-type", f"{text!r} maps nothing", "give OURS=FLOW, as in server=Compute")
        mapped[ours] = flow
    return ComponentTypes(mapped)


def _print_settings(session: Session, given: Mapping[str, Any]) -> None:
    settings = {
        **given,
        "store": session.store_text,
        "tasks": session.tasks_path,
        "commands": session.commands_option,
        "dispatcher": attrs.asdict(session.settings),
    }
    session.out.lines(json.dumps(settings, indent=2, default=_shown, sort_keys=True).splitlines())


def _shown(value: object) -> object:
    return value.total_seconds() if isinstance(value, timedelta) else str(value)


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """An event that the signals to stop set; a second SIGTERM or SIGINT ends the process where it stands."""
    stop = threading.Event()

    def take(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number != signal.SIGHUP:
            # Nothing is lost: what was decided is stored, and a call without an answer is looked up.
            os._exit(_AT_ONCE if number == signal.SIGTERM else int(Exit.DETACHED))
        stop.set()

    before = {number: signal.signal(number, take) for number in signals_to_stop()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- the stand-in --


@click.command("flow-standin", cls=Command)
@click.option("--listen", default="127.0.0.1:50052", show_default=True, help="HOST:PORT; port 0 takes a free one.")
@click.option("--inventory", type=click.Path(), required=True, metavar="DIRECTORY", help="Its racks.")
@click.option("--component-type", "component_types", multiple=True, metavar="OURS=FLOW", help="May be repeated.")
@click.option("--domain-label", help="The label of a rack that is its NVLink domain.")
@click.option("--state", type=click.Path(), metavar="FILE", help="Keeps its tasks, so that a restart knows them.")
@click.option("--faults", type=click.Path(), metavar="FILE", help="What it does wrong, in TOML; read again on SIGHUP.")
@click.option("--duration", type=DURATION, default="2s", show_default=True, help="How long a task takes.")
@click.option("--fail", "failing", default="", metavar="PATTERN", help="Racks whose first task fails.")
@click.option(
    "--fail-share", type=float, default=0.0, show_default=True, help="Of the rest, so many fail, from 0 to 1."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides what is left to chance.")
def standin_command(
    listen: str,
    inventory: str,
    component_types: tuple[str, ...],
    domain_label: str | None,
    state: str | None,
    faults: str | None,
    duration: timedelta,
    failing: str,
    fail_share: float,
    seed: int,
) -> Exit:
    """Be a Flow service: its tasks, racks and errors, without hardware.  Until SIGTERM or Ctrl-C."""
    with needs("flow", "flow-standin"):
        from opdispatch_adapters.flow.client.settings import is_loopback
        from opdispatch_adapters.flow.standin import Fates, Faults, StandIn, faults_in, site_of

    session = current()
    if not is_loopback(_host_of(listen)):
        raise InvalidInput.at("--listen", f"{listen} is open to other hosts", "it is for this host: use 127.0.0.1")
    types = _types(component_types)
    site = site_of(CsvInventory(Path(inventory)).candidates(Scope()), types.flow_type, domain_label=domain_label)
    fates = Fates(duration=duration, failing=failing, share=fail_share, seed=seed)
    switches = Faults(() if faults is None else faults_in(Path(faults)), seed)
    stop = threading.Event()

    def take(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            stop.set()
        elif faults is not None:
            try:
                switches.set(faults_in(Path(faults)))
            except InvalidInput as error:
                session.out.note(f"the faults in use stay: {error}")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, take)
    record = None if state is None else Path(state)
    with StandIn(site, fates, faults=switches, address=listen, record=record, seed=seed) as standin:
        session.out.lines([f"stand-in for Flow on {standin.address}, with {counted(len(site.racks), 'rack')}"])
        while not stop.wait(_LOOK_SECONDS):
            continue
        tally = standin.tasks.tally()
    twice = sum(count > 1 for count in tally.by_description.values())
    alive = max(tally.most_alive.values(), default=0)
    session.out.lines(
        [f"{counted(tally.created, 'task')} made; {twice} asked for more than once; at most {alive} of one at once"]
    )
    return Exit.OK
