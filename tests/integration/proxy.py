"""A network between a PostgreSQL client and its server that fails where a test says: at the k-th statement.

The proxy understands as much of the protocol (version 3) as it takes to tell statements apart and to know which answer
belongs to which.  A statement is what makes the server do something: a Query, or an Execute with the Parse, Bind and
Describe before it and the Sync or Flush after it; it is forwarded as a whole or not at all, so "the third statement" is
the same one each time.  Statements are counted over all connections, since the fault was armed::

    with Proxy(url) as proxy:
        fault = proxy.arm(Moment.UNANSWERED, matching=is_commit)
        ...                    # whatever works through proxy.url; its COMMIT is done, and it never hears of it
        proxy.settle()         # the server has noticed, too
        assert fault.statement is not None

A cut closes both sides in an orderly way: what was sent before arrives, and nothing is answered afterwards.  So it is
certain what the server got, at every moment that can be chosen.  Encryption is refused, as by a server that has none.
"""

from __future__ import annotations

import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Final, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from .waiting import PATIENCE_SECONDS

NAMES: Final = {
    b"B": "Bind",
    b"C": "Close",
    b"D": "Describe",
    b"E": "Execute",
    b"F": "FunctionCall",
    b"H": "Flush",
    b"P": "Parse",
    b"Q": "Query",
    b"S": "Sync",
    b"X": "Terminate",
    b"c": "CopyDone",
    b"d": "CopyData",
    b"f": "CopyFail",
    b"p": "Password",
}
"""What a client may send."""
_PREPARING: Final = b"PBDC"
"""What is never answered before a Sync or a Flush, and is kept until it is known what it belongs to."""
_CLOSING: Final = b"SH"
_SSL_REQUEST: Final = 80877103
_GSS_REQUEST: Final = 80877104
_CANCEL_REQUEST: Final = 80877102


class Moment(StrEnum):
    """When a fault strikes, from what the server did and what the client knows."""

    BEFORE = "before"
    """The server never gets the statement."""
    SENT = "sent"
    """The server gets the statement; nobody waited for what became of it."""
    UNANSWERED = "unanswered"
    """The server has done it, and said so; the client did not hear it."""
    AFTER = "after"
    """The client has the answer."""


class Effect(Enum):
    """What a fault does, unless it calls a function of the test."""

    CUT = "cut"
    """This connection ends, on both sides."""
    SILENCE = "silence"
    """Nothing goes through any more, on any connection and either way, until ``heal``; nothing is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A statement that came by: on which connection (from 1), to which process of the server, how, and its text."""

    connection: int
    backend: int
    way: str
    text: str

    @property
    def verb(self) -> str:
        """Its first word."""
        found = re.match(r"\s*(\w*)", self.text)
        return found[1].upper() if found is not None else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message of a client: on which connection, its name, and the text of the statement that it belongs to."""

    connection: int
    name: str
    text: str


Matching = Callable[[Statement], bool]


def is_commit(statement: Statement) -> bool:
    return statement.verb == "COMMIT"


@dataclass(slots=True, kw_only=True, eq=False)
class Fault:
    """A fault that was armed: strikes once."""

    moment: Moment
    effect: Effect | Callable[[Statement], None]
    matching: Matching | None
    left: int
    """How many statements it still waits for."""
    statement: Statement | None = None
    """The one that it met."""
    _struck: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> Statement:
        """The statement, once the effect is there."""
        assert self._struck.wait(PATIENCE_SECONDS), f"the fault did not strike; it met {self.statement}"
        assert self.statement is not None
        return self.statement


class Proxy:
    """Listens on a port of its own and forwards to the server of a URL, until it is closed.

    With ``forgets`` it keeps neither what came by nor connections that have ended, so that it can stand for long.
    """

    def __init__(self, url: str, *, forgets: bool = False) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None, f"not a URL with a host: {url}"
        self._server: Final = (parts.hostname, parts.port or 5432)
        self._listener: Final = socket.create_server(("127.0.0.1", 0))
        login, at, _ = parts.netloc.rpartition("@")
        port = self._listener.getsockname()[1]
        options = urlencode({**dict(parse_qsl(parts.query)), "sslmode": "disable", "gssencmode": "disable"})
        self.url: Final = f"postgresql://{login}{at}127.0.0.1:{port}{parts.path}?{options}"
        self.moved: Final = threading.Condition()
        """Guards everything here and in the links; notified of every change that somebody may wait for."""
        self._forgets = forgets
        self._made = 0
        self._links: list[_Link] = []
        self._faults: list[Fault] = []
        self._messages: list[Message] = []
        self._statements: list[Statement] = []
        self._silent = False
        self._delay_seconds = 0.0
        self._closed = False
        self._accepting = threading.Thread(target=self._accept, name="proxy")
        self._accepting.start()

    # -- what came by --

    @property
    def messages(self) -> tuple[Message, ...]:
        """Those of the clients, from the start."""
        with self.moved:
            return tuple(self._messages)

    @property
    def statements(self) -> tuple[Statement, ...]:
        """Those that came by, whether forwarded or not, from the start."""
        with self.moved:
            return tuple(self._statements)

    @property
    def connections(self) -> int:
        """How many were made, from the start."""
        with self.moved:
            return self._made

    @contextmanager
    def recording(self) -> Iterator[list[Statement]]:
        """A list that holds, at the end of the block, the statements that came by in it."""
        before, found = len(self.statements), list[Statement]()
        yield found
        found.extend(self.statements[before:])

    # -- faults --

    def arm(
        self,
        moment: Moment,
        number: int = 1,
        *,
        matching: Matching | None = None,
        effect: Effect | Callable[[Statement], None] = Effect.CUT,
    ) -> Fault:
        """Strike at the ``number``-th statement (from 1) that comes from now on, of those that match.

        A function is called in place of an effect, while the statement waits, and the traffic goes on afterwards.
        Several faults may be armed; each counts for itself.
        """
        assert number >= 1
        fault = Fault(moment=moment, effect=effect, matching=matching, left=number)
        with self.moved:
            self._faults.append(fault)
        return fault

    def disarm(self) -> None:
        """Forget the faults that did not strike."""
        with self.moved:
            self._faults.clear()

    def delay(self, seconds: float) -> None:
        """Hold every statement back for so long, from now on."""
        with self.moved:
            self._delay_seconds = seconds

    def silence(self) -> None:
        """Let nothing through any more, and connect nobody, until ``heal``; connections are still taken."""
        with self.moved:
            self._silent = True
            self.moved.notify_all()

    def heal(self) -> None:
        """Deliver what was held back, and everything from now on."""
        with self.moved:
            self._silent = False
            self.moved.notify_all()

    def cut(self) -> int:
        """End every connection that there is; new ones are served.  How many they were."""
        with self.moved:
            links = tuple(link for link in self._links if not (link.is_cut or link.has_ended))
        for link in links:
            link.cut()
        return len(links)

    def settle(self) -> None:
        """Wait until the server has ended every connection that was cut: it did what it got, and rolled back the rest.

        A server that waits for a lock notices only afterwards: then this fails.
        """
        with self.moved:
            over = self.moved.wait_for(
                lambda: all(link.is_gone for link in self._links if link.is_cut), PATIENCE_SECONDS
            )
        assert over, "the server still works for a connection that was cut"

    def close(self) -> None:
        """End everything; the threads too."""
        with self.moved:
            self._closed = True
            self.moved.notify_all()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(PATIENCE_SECONDS)
        self._listener.close()
        for link in self._links:
            link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- for the links --

    def connect(self) -> socket.socket:
        """A connection to the server."""
        return socket.create_connection(self._server, PATIENCE_SECONDS)

    def note(self, message: Message) -> None:
        if not self._forgets:
            with self.moved:
                self._messages.append(message)

    def met(self, statement: Statement) -> tuple[Fault, ...]:
        """Count a statement; the faults that strike at it."""
        with self.moved:
            if not self._forgets:
                self._statements.append(statement)
            for fault in self._faults:
                fault.left -= fault.matching is None or fault.matching(statement)
            found = tuple(fault for fault in self._faults if fault.left == 0)
            self._faults = [fault for fault in self._faults if fault.left > 0]
        for fault in found:
            fault.statement = statement
        return found

    def pass_on(self, link: _Link, *, delayed: bool = False) -> bool:
        """Wait until something may go through on a link; whether it may at all."""
        with self.moved:
            if delayed and self._delay_seconds > 0:
                self.moved.wait_for(lambda: self._closed or link.is_cut, self._delay_seconds)
            self.moved.wait_for(lambda: self._closed or link.is_cut or not (self._silent or link.is_held))
            return not (self._closed or link.is_cut)

    def strike(self, link: _Link, fault: Fault) -> None:
        if fault.effect is Effect.CUT:
            link.cut()
        elif fault.effect is Effect.SILENCE:
            self.silence()
        else:
            assert fault.statement is not None
            fault.effect(fault.statement)
        fault._struck.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            with self.moved:
                if self._closed:
                    client.close()
                    return
                if self._forgets:
                    self._links = [link for link in self._links if not link.has_ended]
                self._made += 1
                link = _Link(self, self._made, client)
                self._links.append(link)
            link.start()


@dataclass(slots=True, eq=False)
class _Due:
    """An end of an answer that is due: of a statement (Execute) or of all up to a Sync, a Query or the start."""

    is_ready: bool
    faults: tuple[Fault, ...] = ()
    """Those that strike at this answer."""
    is_last: bool = False
    """Whether the faults strike when it has ended, rather than at the next that is due."""


class _Link:
    """One connection: two threads, one each way, and what each must know of the other."""

    def __init__(self, proxy: Proxy, number: int, client: socket.socket) -> None:
        self._proxy = proxy
        self._number = number
        self._client = client
        self._server: socket.socket | None = None
        self._backend = 0
        self.is_cut = False
        self.is_gone = False
        """Whether the server has ended its side."""
        self.is_held = False
        """Whether answers wait, because a fault strikes just after a statement was sent."""
        self.is_striking = False
        """Whether statements wait, because a fault strikes just after an answer was sent."""
        self._due: deque[_Due] = deque()
        self._skips = False
        """Whether the server skips everything up to the next Sync, after an error."""
        self._texts: dict[bytes, str] = {}
        """The texts of the prepared statements, by name."""
        self._portals: dict[bytes, str] = {}
        self._unit: list[bytes] = []
        """Messages that are kept until it is known what they belong to."""
        self._executes: str | None = None
        """The text of the statement among them."""
        self._carrying = 1
        """How many of the threads have not ended."""
        self._up = threading.Thread(target=self._carry_up, name=f"proxy {number} up")
        self._down = threading.Thread(target=self._carry_down, name=f"proxy {number} down")

    @property
    def has_ended(self) -> bool:
        """Whether nothing is carried any more, either way."""
        return self._carrying == 0

    def start(self) -> None:
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._up.start()

    def cut(self) -> None:
        """Nothing goes through any more: both see the end of what was sent; what still comes is thrown away."""
        with self._proxy.moved:
            self.is_cut = True
            if self._server is None:
                self.is_gone = True
            self._proxy.moved.notify_all()
            for side in (self._client, self._server):
                _end(side, socket.SHUT_WR)

    def close(self) -> None:
        for side in (self._client, self._server):
            _end(side, socket.SHUT_RDWR)
        self._up.join(PATIENCE_SECONDS)
        if self._down.ident is not None:
            self._down.join(PATIENCE_SECONDS)

    # -- from the client to the server --

    def _carry_up(self) -> None:
        try:
            with suppress(OSError):
                self._greet()
                if self._server is not None:
                    for frames in _batches(self._client):
                        for frame in frames:
                            self._take(frame)
            # The server must hear of the end, but not through a network that is silent.
            if self._server is not None and self._proxy.pass_on(self):
                _end(self._server, socket.SHUT_WR)
        finally:
            self._has_ended()

    def _has_ended(self) -> None:
        """One of the threads has; the last one closes."""
        with self._proxy.moved:
            self._carrying -= 1
            if self._carrying == 0:
                self._client.close()
                if self._server is not None:
                    self._server.close()

    def _greet(self) -> None:
        """The start of a connection, which has messages of its own."""
        while True:
            size = _exactly(self._client, 4)
            body = _exactly(self._client, int.from_bytes(size) - 4)
            code = int.from_bytes(body[:4])
            if code not in (_SSL_REQUEST, _GSS_REQUEST):
                break
            self._client.sendall(b"N")
        if not self._proxy.pass_on(self):
            return
        server = self._proxy.connect()
        server.settimeout(None)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._proxy.moved:
            self._server = server
            self.is_gone = False
            self._carrying += 1
            if code != _CANCEL_REQUEST:
                self._due.append(_Due(is_ready=True))
            if self.is_cut:
                _end(server, socket.SHUT_WR)
        self._down.start()
        server.sendall(size + body)

    def _take(self, frame: bytes) -> None:
        kind = frame[:1]
        text = self._text_of(kind, frame)
        self._proxy.note(Message(connection=self._number, name=NAMES.get(kind, repr(kind)), text=text))
        if self._executes is not None and kind not in _CLOSING:
            self._forward("Execute", self._executes)
        self._unit.append(frame)
        if kind == b"Q":
            self._forward("Query", text)
        elif kind == b"E":
            self._executes = text
        elif kind not in _PREPARING:
            self._forward("Execute", self._executes)

    def _text_of(self, kind: bytes, frame: bytes) -> str:
        """The text of the statement that a message belongs to."""
        if kind == b"Q":
            return _decoded(frame[5:-1])
        if kind == b"P":
            name, text = frame[5:].split(b"\0", 2)[:2]
            self._texts[name] = _decoded(text)
            return self._texts[name]
        if kind == b"B":
            portal, name = frame[5:].split(b"\0", 2)[:2]
            self._portals[portal] = self._texts.get(name, "")
            return self._portals[portal]
        if kind == b"E":
            return self._portals.get(frame[5:].split(b"\0", 1)[0], "")
        return ""

    def _forward(self, way: str, text: str | None) -> None:
        """Forward what was kept, as one; with a text it is a statement."""
        unit, self._unit, self._executes = self._unit, [], None
        with self._proxy.moved:
            self._proxy.moved.wait_for(lambda: not self.is_striking, PATIENCE_SECONDS)
        faults: tuple[Fault, ...] = ()
        if text is not None:
            met = Statement(connection=self._number, backend=self._backend, way=way, text=text)
            faults = self._proxy.met(met) if not self.is_cut else ()
        for fault in faults:
            if fault.moment is Moment.BEFORE:
                self._proxy.strike(self, fault)
        if not self._proxy.pass_on(self, delayed=text is not None):
            return
        sent = tuple(fault for fault in faults if fault.moment is Moment.SENT)
        answered = tuple(fault for fault in faults if fault.moment in (Moment.UNANSWERED, Moment.AFTER))
        with self._proxy.moved:
            self.is_held = bool(sent)
            struck = self._expect(unit, answered)
        assert self._server is not None
        try:
            self._server.sendall(b"".join(unit))
            for fault in (*sent, *struck):
                self._proxy.strike(self, fault)
        finally:
            with self._proxy.moved:
                self.is_held = False
                self._proxy.moved.notify_all()

    def _expect(self, unit: Sequence[bytes], faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
        """Note which answers these messages will have; the faults that will meet none."""
        due = []
        for frame in unit:
            kind = frame[:1]
            if kind in b"QS":
                self._skips = False
                due.append(_Due(is_ready=True))
            elif kind == b"E" and not self._skips:
                due.append(_Due(is_ready=False))
        if not due:
            return faults
        for one in due:
            one.faults = faults
        due[-1].is_last = True
        self._due.extend(due)
        return ()

    # -- from the server to the client --

    def _carry_down(self) -> None:
        assert self._server is not None
        kept: list[bytes] = []
        try:
            with suppress(OSError):
                for frames in _batches(self._server):
                    passed: list[bytes] = []
                    for frame in frames:
                        self._answer(frame, passed, kept)
                    self._send(passed)
            with self._proxy.moved:
                self.is_gone = True
                self._proxy.moved.notify_all()
            if self._proxy.pass_on(self):
                _end(self._client, socket.SHUT_WR)
        finally:
            self._has_ended()

    def _answer(self, frame: bytes, passed: list[bytes], kept: list[bytes]) -> None:
        """Take one message of the server: it is passed on, or kept while a fault waits for the end of the answer."""
        with self._proxy.moved:
            if frame[:1] == b"K":
                self._backend = int.from_bytes(frame[5:9])
            now = self._due[0] if self._due else None
            over = self._ended_by(frame[:1])
        faults = now.faults if now is not None else ()
        if any(fault.moment is Moment.UNANSWERED for fault in faults):
            kept.append(frame)
        else:
            passed.append(frame)
        striking = [fault for due in over if due.is_last for fault in due.faults]
        for fault in striking:
            if fault.moment is Moment.UNANSWERED:
                self._send(passed)
                self._proxy.strike(self, fault)
        if striking:
            passed.extend(kept)
            kept.clear()
        after = [fault for fault in striking if fault.moment is Moment.AFTER]
        if after:
            with self._proxy.moved:
                self.is_striking = True
            try:
                self._send(passed)
                for fault in after:
                    self._proxy.strike(self, fault)
            finally:
                with self._proxy.moved:
                    self.is_striking = False
                    self._proxy.moved.notify_all()

    def _ended_by(self, kind: bytes) -> list[_Due]:
        """Which of the due answers have ended with a message of this kind."""
        over = []
        if kind == b"G" and self._due and self._due[0].faults:
            # The server waits for the rows of a COPY, so this is all that it answers to the statement.
            over.append(_Due(is_ready=True, faults=self._due[0].faults, is_last=True))
            self._due[0].faults = ()
        elif kind == b"Z":
            while self._due and not self._due[0].is_ready:
                over.append(self._due.popleft())
            if self._due:
                over.append(self._due.popleft())
        elif self._due and not self._due[0].is_ready:
            if kind in b"CIs":
                over.append(self._due.popleft())
            elif kind == b"E":
                while self._due and not self._due[0].is_ready:
                    over.append(self._due.popleft())
                self._skips = not self._due
        return over

    def _send(self, passed: list[bytes]) -> None:
        if passed and self._proxy.pass_on(self):
            self._client.sendall(b"".join(passed))
        passed.clear()


def _batches(side: socket.socket) -> Iterator[list[bytes]]:
    """The messages that come from one side, as many at a time as came at once; ends when it does."""
    rest = b""
    while chunk := side.recv(1 << 16):
        rest += chunk
        frames, begin = [], 0
        while len(rest) >= begin + 5:
            end = begin + 1 + int.from_bytes(rest[begin + 1 : begin + 5])
            if end > len(rest):
                break
            frames.append(rest[begin:end])
            begin = end
        rest = rest[begin:]
        yield frames


def _exactly(side: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        chunk = side.recv(size - len(found))
        if not chunk:
            raise ConnectionError("the connection ended before it began")
        found += chunk
    return found


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _end(side: socket.socket | None, how: int) -> None:
    if side is not None:
        with suppress(OSError):  # it ended by itself
            side.shutdown(how)
