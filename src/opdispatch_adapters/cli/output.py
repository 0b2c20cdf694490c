"""Where words go: data to standard output, everything for people to standard error.

Nothing that is wrong with a stream ends a run: a reader that went away, a closed descriptor and a locale that cannot
spell a rack's name are the stream's trouble, and the work goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from io import TextIOWrapper
from typing import Final, Literal, TextIO

from .render import clean

Format = Literal["table", "json", "jsonl"]
FORMATS: Final = ("table", "json", "jsonl")


class Output:
    """The two streams of the program."""

    def __init__(self) -> None:
        self.format: Format = "table"
        self.color = "NO_COLOR" not in os.environ
        self.verbose = False
        self.lost: str = ""
        """Why data could not be written, if it could not; empty for a reader that left, which is its own affair."""
        self.stdout = _usable(sys.stdout)
        self.stderr = _usable(sys.stderr)

    @property
    def is_json(self) -> bool:
        """True when standard output is for programs."""
        return self.format != "table"

    def data(self, document: Mapping[str, object], stream: Iterable[Mapping[str, object]] | None = None) -> None:
        """A document for programs; for ``jsonl`` one line for each of ``stream``, where there is one."""
        if self.format == "json":
            self._write(json.dumps(document, indent=2) + "\n")
        else:
            for one in stream if stream is not None else (document,):
                self._write(json.dumps(one) + "\n")

    def lines(self, lines: Iterable[str]) -> None:
        """Lines that were asked for; each is escaped, so a line stays one line."""
        self._write("".join(f"{clean(line)}\n" for line in lines))

    def note(self, *lines: str) -> None:
        """Something that a person wants to know."""
        try:
            self.stderr.write("".join(f"{clean(line)}\n" for line in lines))
            self.stderr.flush()
        except (OSError, ValueError):
            # Nobody reads it; there is nowhere left to say so.
            return

    def width(self, stream: TextIO) -> int | None:
        """The columns of a terminal; None for anything else, which is not cut."""
        return shutil.get_terminal_size().columns if is_terminal(stream) else None

    def _write(self, text: str) -> None:
        try:
            self.stdout.write(text)
            self.stdout.flush()
        except BrokenPipeError:
            self.stdout = _nowhere()
        except (OSError, ValueError) as error:
            self.lost = str(error)
            self.stdout = _nowhere()

    def close(self) -> None:
        """Leave nothing for the interpreter to flush and complain about."""
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                _discard(number)


def is_terminal(stream: TextIO) -> bool:
    """True when a person looks at this stream."""
    try:
        return stream.isatty()
    except ValueError:
        return False


def _usable(stream: TextIO | None) -> TextIO:
    if stream is None:
        return _nowhere()
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _discard(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, number)
    finally:
        os.close(nowhere)
