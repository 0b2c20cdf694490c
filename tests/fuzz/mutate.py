"""Mutations: of bytes, of JSON documents and of the wire format of protocol buffers.

All of them take their chances from one ``Random``, so an input follows from its seed.  A structured mutation keeps most
of an input as it was: only so does it come past the first look of a reader.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

Mutation = Callable[[Random], bytes]

# -- bytes --

BYTES: Final = (
    *(b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc0\x80", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":"),
    *(
        b"\n",
        b"\r",
        b"\t",
        b" ",
        b"-",
        b"0",
        b"1e400",
        b"NaN",
        b"\\ud800",
        b"\\u0000",
        b"'",
        b"#",
        b"&a",
        b"*a",
        b"!!x",
    ),
)
"""What is put in where a byte alone would mean little."""


def changed_bytes(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    """The bytes after one to four changes: flip, cut, insert, duplicate, or a splice with another seed."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        size = len(found)
        match chance.randrange(7):
            case 0 if size:
                found[chance.randrange(size)] ^= 1 << chance.randrange(8)
            case 1 if size:
                start = chance.randrange(size)
                del found[start : start + chance.choice((1, 1, 2, 4, 16))]
            case 2:
                start = chance.randint(0, size)
                found[start:start] = chance.choice(BYTES)
            case 3 if size:
                start = chance.randrange(size)
                piece = found[start : start + chance.randint(1, 64)]
                where = chance.randint(0, size)
                found[where:where] = piece
            case 4 if size:
                del found[chance.randrange(size) :]
            case 5:
                other = chance.choice(others)
                found = found[: chance.randint(0, size)] + other[chance.randint(0, len(other)) :]
            case _ if size:
                found[chance.randrange(size)] = chance.randrange(256)
    return bytes(found)


def raw_bytes(chance: Random) -> bytes:
    """Bytes that were never anything."""
    return chance.randbytes(chance.choice((0, 1, 2, 8, 64, 512)))


_ENCODINGS: Final = ("utf-8-sig", "utf-16", "utf-32", "utf-16-le", "cp037", "utf-7")


def in_another_encoding(data: bytes, chance: Random) -> bytes:
    """The same text with a byte order mark, or in an encoding that nobody asked for."""
    return data.decode("utf-8", "replace").encode(chance.choice(_ENCODINGS), "replace")


# -- JSON --

INTEGERS: Final = (
    *(0, 1, -1, 2, 7, 100, 101, 255, 256, 65_536),
    *(2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**32, 2**53, 2**53 + 1),
    *(2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**30, 10**18, 86_400_000_000 * 10**9),
)
INSTANTS: Final = (
    *("0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z"),
    *("10000-01-01T00:00:00Z", "2016-12-31T23:59:60Z", "2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "+2026-01-01"),
    *("2026-01-01T00:00:00+24:00", "2026-01-01T00:00:00", "2026-01-01T00:00:00.0000000001Z", "-0001-01-01T00:00:00Z"),
    *("2026-01-01T00:00:00.123456789Z", "1969-12-31T23:59:59.999999Z", "\uff12\uff10\uff12\uff16-01-01T00:00:00Z"),
)
TEXTS: Final = (
    *(
        "",
        " ",
        "x",
        "\x00",
        "a\x00b",
        "\ud800",
        "\udfff\ud800",
        "\ufeff",
        "\u202e",
        "ß" * 70,
        "x" * 300,
        "\n",
        "%",
        "\\",
    ),
    *(
        "true",
        "null",
        "unknown",
        "pending",
        "00000000-0000-0000-0000-000000000000",
        "{}",
        "[]",
        "../../x",
        "\U0001f600",
    ),
    "urn:uuid:00000001-0000-4000-8000-000000000001",
)
_RAW: Final = (
    *("null", "true", "false", "NaN", "Infinity", "-Infinity", "-0", "-0.0", "1e400", "-1e400", "1e-400", "0.1", "1.0"),
    *("1E2", "[]", "{}", "[[]]", "[null]", '{"kind":"x"}', '{"":0}', '{"version":0}', "01", "+1", "'x'", "undefined"),
    *('"\\ud83d"', '"\\udc00\\ud800"', '"\\u0000"', '"\\x41"', '"\t"', "9" * 4_000, "9" * 5_000, "-" + "9" * 40),
    '{"kind":"retry","payload":{}}',
)
_DEEP: Final = 10_000
_MANY: Final = 1_000_000
MARK: Final = "\x02"
"""Stands in a document for the raw text that takes its place; no seed holds it."""
_TWICE: Final = "\x03"
"""Ends a key that is there already; it is taken off when the document is text, so that the key is there twice."""


def _of_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def hostile_json(chance: Random) -> str:
    """The text of one JSON value that a reader may stumble over, or of something that is almost one."""
    match chance.randrange(40):
        case 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7:
            return str(chance.choice(INTEGERS))
        case 8 | 9 | 10 | 11 | 12:
            return _of_json(chance.choice(INSTANTS))
        case 13 | 14 | 15 | 16 | 17 | 18 | 19:
            return _of_json(chance.choice(TEXTS))
        case 20:
            opened, closed = chance.choice((("[", "]"), ('{"a":', "}"), ('[{"kind":', "}]")))
            depth = chance.choice((20, 900, _DEEP))
            return opened * depth + "0" + closed * depth
        case 21:
            return _of_json([chance.choice((0, None, {}, "x"))] * chance.choice((10, 100, 1000)))
        case _:
            return chance.choice(_RAW)


def huge_json(chance: Random) -> str:
    """The text of a value with a million members: costs so much that only few inputs may hold one."""
    match chance.randrange(4):
        case 0:
            return "{" + ",".join(f'"{number}":0' for number in range(_MANY)) + "}"
        case 1:
            return "[" + "0," * _MANY + "0]"
        case 2:
            return "[" + "{}," * _MANY + "{}]"
        case _:
            return '"' + "x" * _MANY + '"'


class JsonSeed:
    """One JSON document, taken apart once, so that a mutation costs little more than its writing."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.text = data.decode("ascii")
        self.places: list[tuple[str | int, ...]] = []
        self.values: list[str] = []
        self._note(json.loads(self.text), ())

    def _note(self, value: object, place: tuple[str | int, ...]) -> None:
        if place:
            self.places.append(place)
            self.values.append(_of_json(value))
        if isinstance(value, dict):
            for key, item in value.items():
                self._note(item, (*place, key))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                self._note(item, (*place, index))

    def changed(self, chance: Random, others: Sequence[JsonSeed], *, huge: bool) -> bytes:
        """The document after one to three changes of its values and keys."""
        document = json.loads(self.text)
        raws: list[str] = []
        for _ in range(1 if huge else chance.choice((1, 1, 1, 2, 3))):
            self._change(document, raws, chance, others, huge=huge)
        text = _of_json(document)
        if raws:
            head, *rest = text.split(f'"\\u{ord(MARK):04x}"')
            # A value that was marked may have been removed by a later change: then some raw texts are left over.
            text = head + "".join(raw + piece for raw, piece in zip(raws, rest, strict=False))
        return text.replace(f'\\u{ord(_TWICE):04x}"', '"').encode("utf-8", "surrogatepass")

    def _change(
        self, document: Any, raws: list[str], chance: Random, others: Sequence[JsonSeed], *, huge: bool
    ) -> None:
        *way, last = chance.choice(self.places)
        holder = document
        for step in way:
            try:
                holder = holder[step]
            except (KeyError, IndexError, TypeError):
                return
        match 0 if huge else chance.randrange(12):
            case 0 | 1 | 2 | 3 | 4:
                raws_of = huge_json(chance) if huge else hostile_json(chance)
                self._put(holder, last, raws, raws_of)
            case 5 | 6:
                self._put(holder, last, raws, chance.choice(chance.choice(others).values))
            case 7:
                self._put(holder, last, raws, chance.choice(self.values))
            case 8:
                if isinstance(holder, dict):
                    holder.pop(last, None)
                elif isinstance(holder, list) and holder:
                    holder.pop()
            case 9:
                if isinstance(holder, dict):
                    holder[f"{last}{_TWICE}"] = chance.choice((None, 0, 2, "x", [], {}, holder.get(last)))
                elif isinstance(holder, list):
                    holder.extend(holder[:2])
            case 10:
                if isinstance(holder, dict):
                    holder[chance.choice(("kind", "version", "value", "count", "", "x", "\ud800", "__class__"))] = 1
            case _:
                if isinstance(holder, dict) and last in holder:
                    holder[f"{last}x"] = holder.pop(last)

    def _put(self, holder: Any, last: str | int, raws: list[str], raw: str) -> None:
        try:
            if holder[last] == MARK:
                return
            holder[last] = MARK
        except (KeyError, IndexError, TypeError):
            return
        raws.append(raw)


# -- the wire format of protocol buffers --

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
Fields = list[tuple[int, int, Any]]
"""Numbers, wire types and values; a value is a number, bytes, or the fields of a message."""


def _varint(number: int) -> bytes:
    number &= 2**64 - 1
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[start]
        number |= (byte & 127) << shift
        start, shift = start + 1, shift + 7
        if byte < 128:
            return number, start


def _fields_of(data: bytes) -> Fields | None:
    """The fields of a message; None for bytes that are none."""
    found: Fields = []
    start = 0
    try:
        while start < len(data):
            key, start = _read_varint(data, start)
            number, kind = key >> 3, key & 7
            value: Any
            if not 0 < number < 1000:
                return None
            if kind == _VARINT:
                value, start = _read_varint(data, start)
            elif kind == _BYTES:
                size, start = _read_varint(data, start)
                value, start = data[start : start + size], start + size
                if start > len(data):
                    return None
                inner = None if value.isascii() and value.decode().isprintable() else _fields_of(value)
                value = value if inner is None else inner
            elif kind in (_FIXED64, _FIXED32):
                size = 8 if kind == _FIXED64 else 4
                value, start = data[start : start + size], start + size
            else:
                return None
            found.append((number, kind, value))
    except IndexError:
        return None
    return found


def _message_of(fields: Fields) -> bytes:
    parts = []
    for number, kind, value in fields:
        parts.append(_varint(number << 3 | kind))
        if kind == _VARINT:
            parts.append(_varint(value))
        elif kind == _BYTES:
            inner = _message_of(value) if isinstance(value, list) else value
            parts.append(_varint(len(inner)))
            parts.append(inner)
        else:
            parts.append(value)
    return b"".join(parts)


def _hostile_bytes(chance: Random) -> bytes:
    match chance.randrange(8):
        case 0:
            return chance.choice(BYTES)
        case 1:
            return b"\x0a" * 200
        case 2:
            return b"x" * chance.choice((255, 256, 16_384, 16_385))
        case 3:
            return chance.choice(INSTANTS).encode()
        case 4:
            # Nested in itself, each as field 1.
            found = b""
            for _ in range(chance.choice((20, 99, 101, 200))):
                found = b"\x0a" + _varint(len(found)) + found
            return found
        case _:
            return chance.choice(TEXTS).encode("utf-8", "surrogatepass")


class WireSeed:
    """One message, taken apart once."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        fields = _fields_of(data)
        if fields is None or _message_of(fields) != data:
            raise ValueError("it is no message")
        self._fields = fields
        self.places: list[tuple[int, ...]] = []
        self._note(fields, ())

    def _note(self, fields: Fields, place: tuple[int, ...]) -> None:
        for index, (_, _, value) in enumerate(fields):
            self.places.append((*place, index))
            if isinstance(value, list):
                self._note(value, (*place, index))

    def changed(self, chance: Random, others: Sequence[WireSeed]) -> bytes:
        """The message after one to three changes of its fields."""
        fields = self._fields
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            if not self.places:
                return _message_of([(chance.randint(1, 8), _BYTES, _hostile_bytes(chance))])
            fields = _changed(fields, chance.choice(self.places), chance, others)
        return _message_of(fields)


def _changed(fields: Fields, place: tuple[int, ...], chance: Random, others: Sequence[WireSeed]) -> Fields:
    index, *rest = place
    if index >= len(fields):
        return fields
    found = list(fields)
    number, kind, value = found[index]
    if rest:
        if isinstance(value, list):
            found[index] = (number, kind, _changed(value, tuple(rest), chance, others))
        return found
    match chance.randrange(12):
        case 0 | 1 | 2 | 3 if kind == _VARINT:
            found[index] = (number, kind, chance.choice(INTEGERS))
        case 0 | 1 | 2 | 3:
            found[index] = (number, _BYTES, _hostile_bytes(chance))
        case 4:
            del found[index]
        case 5:
            found.insert(index, found[index])
        case 6:
            found.extend([found[index]] * chance.choice((2, 20)))
        case 7:
            found[index] = (number, _VARINT, chance.choice(INTEGERS))
        case 8:
            found[index] = (chance.choice((1, 2, 3, 4, 5, 6, 7, 15, 536_870_911)), kind, value)
        case 9:
            found[index] = (number, _BYTES, chance.choice(others).data)
        case 10:
            found.insert(chance.randint(0, len(found)), (number, _BYTES, b""))
        case _:
            found.insert(index, (number, _FIXED64 if chance.random() < 0.5 else _FIXED32, chance.randbytes(4)))
    return found
