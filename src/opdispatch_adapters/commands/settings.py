"""What an operator decides about local commands: which one, where its records are kept, and how long it may take."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import attrs

from opdispatch.errors import InvalidInput, Unavailable

from .template import Literal, RefusedValueError, Template, encodable

OWN_PREFIX: Final = "OPDISPATCH_"
"""Names in the environment of a command that are ours to set."""


def _path(value: str | os.PathLike[str]) -> Path:
    return Path(value)


def _variables(value: Mapping[str, str]) -> Mapping[str, str]:
    return dict(value)


def _template(items: Sequence[str]) -> Template:
    return Template.parse(items)


def _positive(instance: object, attribute: attrs.Attribute[Any], value: timedelta | None) -> None:
    if value is not None and value <= timedelta(0):
        raise InvalidInput.at(attribute.name, f"{value} is not above zero")


@attrs.frozen
class _Between:
    low: int
    high: int

    def __call__(self, instance: object, attribute: attrs.Attribute[Any], value: int | None) -> None:
        if value is not None and not self.low <= value <= self.high:
            raise InvalidInput.at(attribute.name, f"{value} is not between {self.low} and {self.high}")


def _absolute(instance: object, attribute: attrs.Attribute[Path], value: Path) -> None:
    if not value.is_absolute():
        raise InvalidInput.at(attribute.name, f"{str(value)!r} is not an absolute path")


def _extras(instance: object, attribute: attrs.Attribute[Mapping[str, str]], value: Mapping[str, str]) -> None:
    for name, text in value.items():
        place = f"{attribute.name}[{name!r}]"
        if not name or "=" in name or name.startswith(OWN_PREFIX):
            raise InvalidInput.at(place, f"it is no name for a variable, or begins with {OWN_PREFIX}")
        try:
            encodable("the name", name)
            encodable("the value", text)
        except RefusedValueError as error:
            raise InvalidInput.at(place, str(error)) from error


@attrs.frozen(kw_only=True)
class CommandSettings:
    """How to run commands.  Raises InvalidInput for a setting that cannot be used.

    ``command`` is the list of arguments, see ``template``; its first item is an absolute path, or a name that is
    looked up once, now, on ``search_path``.  ``timeout`` None lets a command run as long as it likes.
    """

    work_directory: Path = attrs.field(converter=_path, validator=_absolute)
    """Records, output and locks; on a local file system, one for all dispatchers that share the racks."""
    command: Template = attrs.field(converter=_template)
    timeout: timedelta | None = attrs.field(default=None, validator=_positive)
    """From the start of the command to its SIGTERM."""
    cancel_grace: timedelta = attrs.field(default=timedelta(seconds=10), validator=_positive)
    """From SIGTERM to SIGKILL, after a cancellation and after a time-out."""
    max_output_bytes: int = attrs.field(default=1 << 20, validator=_Between(1024, 1 << 30))
    """What is kept of the output of one task: the first half and the last."""
    search_path: str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    """PATH of the commands, and where the name of the program is looked up."""
    environment: Mapping[str, str] = attrs.field(factory=dict, converter=_variables, validator=_extras)
    """Variables besides PATH, LANG and OPDISPATCH_*; nothing is taken from the dispatcher's own environment."""
    command_directory: Path = attrs.field(default=Path("/"), converter=_path, validator=_absolute)
    """Where commands are executed."""
    parallelism: int = attrs.field(default=4, validator=_Between(1, 256))
    """Starts at one time.  A start is some 50 ms of processor time and a few syncs, so more wait for each other."""
    capacity: int | None = attrs.field(default=32, validator=_Between(1, 100_000))
    """Starts that one round may ask for: eight times the parallelism, which takes some 2 s of one processor where a
    claim lease less two call deadlines is 10 s; None: any number."""
    python: Path = attrs.field(default=Path(sys.executable), converter=_path, validator=_absolute)
    """The interpreter of the supervisors: set it where the dispatcher is embedded in another program."""

    def find_program(self) -> Path:
        """Look up the program to execute.  Raises InvalidInput when there is none."""
        first = self.command.items[0]
        if not isinstance(first, Literal):
            raise InvalidInput.at("command[0]", "it is a placeholder", "give the path of one program")
        named = first.text
        if "/" in named and not os.path.isabs(named):
            raise InvalidInput.at("command[0]", f"{named!r} is a relative path", "give an absolute path")
        found = shutil.which(named, path=self.search_path)
        if found is None or not os.path.isabs(found):
            where = "is not an executable file" if os.path.isabs(named) else f"was not found on {self.search_path}"
            raise InvalidInput.at("command[0]", f"{named!r} {where}", "install it, or give its absolute path")
        return Path(found)


def prepare_directory(path: Path) -> None:
    """Make a directory that is ours alone, unless there is one.  Raises InvalidInput, Unavailable."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            raise InvalidInput.at("work_directory", f"{path} is a symbolic link", "give the directory that it leads to")
        if found.st_uid != os.geteuid():
            raise InvalidInput.at(
                "work_directory", f"{path} belongs to user {found.st_uid}", "give a directory of your own"
            )
        if found.st_mode & 0o077:
            raise InvalidInput.at("work_directory", f"others can reach into {path}", f"chmod 700 {path}")
    except FileExistsError:
        raise InvalidInput.at("work_directory", f"{path} is not a directory", "give another path") from None
    except OSError as error:
        detail = f"{path}: {error.strerror}"
        raise Unavailable("the work directory of the commands", detail, "make it, or make it writable") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise Unavailable("the work directory of the commands", f"{path} cannot be written", "make it writable")
