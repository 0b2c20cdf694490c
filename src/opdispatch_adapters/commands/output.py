"""The output of a command, bounded: the first half as it comes, and the last half once it has ended.

What is between is left out and counted.  The first part shows how the command began while it still runs, the
last part why it ended.  Runs in the supervisor: standard library only, and little of it.
"""

from __future__ import annotations

import os

_MARKER_BYTES = 64
"""Room for the line that says how much was left out."""
LINE_CHARACTERS = 300
"""What is shown of the last line: enough for a sentence, short enough for a status line."""


class BoundedOutput:
    """Takes what a command writes; the file never grows beyond ``max_bytes``.

    An error of the disk does not stop the command: what cannot be written is lost, and ``trouble`` says why.
    """

    def __init__(self, fd: int, max_bytes: int) -> None:
        self._fd = fd
        self._head_room = max_bytes // 2
        self._tail_room = max_bytes - self._head_room - _MARKER_BYTES
        self._tail = bytearray()
        self._left_out = 0
        self.trouble = ""

    def take(self, data: bytes) -> None:
        """The next bytes that the command wrote."""
        head, rest = data[: self._head_room], data[self._head_room :]
        self._head_room -= len(head)
        self._write(head)
        self._tail += rest
        # Trimmed at twice the room, so that each byte is moved a bounded number of times.
        if len(self._tail) > 2 * self._tail_room:
            self._trim()

    def close(self) -> None:
        """The command has ended: write the last part."""
        self._trim()
        if self._left_out:
            self._write(f"\n[... {self._left_out} bytes left out ...]\n".encode("ascii"))
        self._write(bytes(self._tail))
        os.close(self._fd)

    def last_line(self, path: str) -> str:
        """The last line that is not blank, bounded; empty when there is none.  Call it after ``close``."""
        data = bytes(self._tail)
        if not data.strip():
            try:
                with open(path, "rb") as file:
                    file.seek(0, os.SEEK_END)
                    file.seek(max(0, file.tell() - 8 * LINE_CHARACTERS))
                    data = file.read()
            except OSError:
                data = b""
        lines = data.split(b"\n")
        return next((text for line in reversed(lines) if (text := printable(line))), "")

    def _trim(self) -> None:
        excess = len(self._tail) - self._tail_room
        if excess > 0:
            del self._tail[:excess]
            self._left_out += excess

    def _write(self, data: bytes) -> None:
        try:
            while data and not self.trouble:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            self.trouble = f"output was lost: {error.strerror}"


def printable(line: bytes) -> str:
    """One line for people: no control characters, no bytes that are not text, at most ``LINE_CHARACTERS``."""
    text = line[-8 * LINE_CHARACTERS :].decode("utf-8", "backslashreplace").strip()
    text = "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)
    return text if len(text) <= LINE_CHARACTERS else text[: LINE_CHARACTERS - 3] + "..."
