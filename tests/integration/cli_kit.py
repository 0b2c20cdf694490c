"""A site for the program: an inventory, a rollout file, and a command that can be held and made to fail."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from opdispatch.ports import Overview
from opdispatch.tally import Tally
from opdispatch_adapters.sql import SqliteStore

from .waiting import eventually

REPOSITORY: Final = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS: Final = 60.0
SHORT: Final = ("--poll", "0.3s", "--call-deadline", "1s", "--claim-lease", "3s")
"""Options of a dispatcher that waits for nothing long."""

_PROGRAM = """\
#!/bin/sh
# KEY RACK: says that it began, waits while $SITE/hold is there, and fails for the racks that $SITE/failing names.
echo "$1" >> "$SITE/began"
trap 'echo "rack $2 was told to stop"; exit 143' TERM
while [ -e "$SITE/hold" ]; do sleep 0.05 & wait $!; done
if grep -qx "$2" "$SITE/failing"; then echo "rack $2 is bad"; exit 1; fi
echo "rack $2 is done"
"""


def environment(**more: str) -> dict[str, str]:
    """What the program needs, and nothing of the tester's own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPDISPATCH_")}
    kept.pop("NO_COLOR", None)
    return {**kept, "PYTHONPATH": str(REPOSITORY / "src"), "TERM": "xterm-256color", **more}


class Site:
    """A directory with all that a run needs."""

    def __init__(self, path: Path, racks: int = 4) -> None:
        self.path = path
        self.store = path / "store.db"
        self.file = path / "rollout.toml"
        self.names = [f"r{number}" for number in range(1, racks + 1)]
        self.inventory(self.names)
        self.program = path / "work"
        self.program.write_text(_PROGRAM)
        self.program.chmod(0o755)
        self.fail()
        self.rollout()

    # -- what is there --

    def inventory(self, names: Sequence[str], directory: str = "inventory") -> None:
        """One rack of each name, with one device."""
        place = self.path / directory
        place.mkdir(exist_ok=True)
        racks = ["rack_uuid,rack_id,name,site,room,row,position,group,status,u_height"]
        devices = [
            "device_uuid,device_id,rack_uuid,rack_id,name,type,source_type,position,source_position,height_u,status"
        ]
        for number, name in enumerate(names, 1):
            rack = UUID(int=number)
            racks.append(f'{rack},{number},"{name}",site,,row,,,,')
            devices.append(f"{UUID(int=1000 + number)},{number},{rack},{number},d{number},compute,compute,,,,")
        (place / "racks.csv").write_text("\n".join(racks) + "\n")
        (place / "devices.csv").write_text("\n".join(devices) + "\n")

    def rollout(self, *lines: str, at_once: int = 4, name: str = "fw", gates: Sequence[str] = ()) -> None:
        """Write the rollout file; ``lines`` are whole tables, such as ``[phases]``."""
        chosen = list(gates) or ['[[gates]]\nkind = "failure_rate"\nthreshold_percent = 100']
        self.file.write_text(
            "\n".join(
                [
                    f'name = "{name}"\ninventory = "inventory"\nmax_concurrent_targets = {at_once}',
                    '[operation]\ntype = "firmware_control"\ncode = "upgrade"',
                    '[ordering]\nkind = "physical_location"\nstrategy = "row_by_row"',
                    *lines,
                    *chosen,
                    (
                        f'[command]\nargv = ["./work", "{{key}}", "{{rack_name}}"]\nenv = {{ SITE = "{self.path}" }}\n'
                        'cancel_grace = "2s"'
                    ),
                ]
            )
            + "\n"
        )

    def fail(self, *racks: str) -> None:
        """From now on these racks fail."""
        (self.path / "failing").write_text("".join(f"{rack}\n" for rack in racks))

    def hold(self) -> None:
        """From now on commands wait."""
        (self.path / "hold").touch()

    def let_go(self) -> None:
        """Commands end."""
        (self.path / "hold").unlink()

    # -- the program --

    def arguments(self, *words: str) -> list[str]:
        """The command line of the program."""
        return [sys.executable, "-m", "opdispatch_adapters.cli", "--store", str(self.store), *words]

    def opd(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Call the program, off a terminal, and wait for its end."""
        return subprocess.run(
            self.arguments(*words),
            cwd=self.path,
            env=environment(**env),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """``run`` with short waits."""
        return self.opd("run", str(self.file), *SHORT, *words, **env)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Call the program in a session of its own, and go on."""
        return subprocess.Popen(
            self.arguments(*words),
            cwd=self.path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def json(self, *words: str) -> dict[str, Any]:
        """The document that a call prints."""
        done = self.opd("-o", "json", *words)
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    # -- what became of it --

    def overview(self) -> Overview:
        """The newest run, as the store has it."""
        with SqliteStore(self.store) as store:
            return store.get(store.list(limit=1)[0].run_id)

    @property
    def run_id(self) -> str:
        """The only run, or the newest."""
        return str(self.overview().run.id)

    def totals(self) -> dict[str, int]:
        """The counts of the newest run, those that are not zero."""
        totals = asdict(sum(self.overview().phases, Tally()))
        return {name: count for name, count in totals.items() if count}

    def began(self) -> Counter[str]:
        """How often the command of each key began."""
        path = self.path / "began"
        return Counter(path.read_text().split()) if path.exists() else Counter()

    def until_began(self, count: int) -> None:
        """Wait until so many commands have begun."""
        eventually(lambda: sum(self.began().values()), until=lambda began: began >= count, what=f"{count} commands")

    def running(self) -> list[int]:
        """The processes of commands of this site."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if os.fsencode(self.program) in words:
                    found.append(int(entry.name))
        return found


class Terminal:
    """The program on a terminal of so many columns."""

    def __init__(self, site: Site, *words: str, columns: int = 100, env: Mapping[str, str] | None = None) -> None:
        self.output = b""
        self.process, self._fd = _spawn(site.arguments(*words), site.path, columns, environment(**(env or {})))

    def interrupt(self) -> None:
        """Ctrl-C, as the terminal does it."""
        os.write(self._fd, b"\x03")

    def read_until(self, text: str) -> None:
        """Read until this was shown."""
        while text.encode() not in self.output:
            data = self._read()
            assert data, f"{text!r} was not shown in {self.text!r}"

    def end(self) -> int:
        """Read to the end; the exit code."""
        while self._read():
            pass
        os.close(self._fd)
        return self.process.wait(PATIENCE_SECONDS)

    def _read(self) -> bytes:
        try:
            data = os.read(self._fd, 65536)
        except OSError:
            data = b""
        self.output += data
        return data

    @property
    def text(self) -> str:
        """What was shown so far."""
        return self.output.decode("utf-8", "replace")


def _spawn(
    arguments: Sequence[str], cwd: Path, columns: int, env: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], int]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", _LEADER, *arguments], cwd=cwd, env=env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    return process, ours


_LEADER = """\
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def interrupt(process: subprocess.Popen[str]) -> None:
    """What Ctrl-C does to the whole foreground group."""
    os.killpg(process.pid, signal.SIGINT)
