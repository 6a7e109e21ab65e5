"""An HTTP server for a few small GETs, in one thread, on sockets alone.

The standard library's costs ten megabytes of imports (docs/decisions/0019-prometheus-client.md). This one answers one
request per connection, whole from memory, and is bounded in what a client can make it hold: connections, bytes, time.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar

from joulebook.errors import JoulebookError

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")
Conversation = Generator[int, None, None]
"""Yields what it waits for: POLLIN or POLLOUT."""

MOST_CONNECTIONS: Final = 16
MOST_HEAD_BYTES: Final = 8192
MOST_SECONDS: Final = 10.0
"""From the connection to the last byte of the answer."""
REST_SECONDS: Final = 1.0
"""Pause in accepting after the kernel refused to (no more descriptors)."""


@dataclass(frozen=True, slots=True)
class Request:
    """path: without the query.  headers: names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """on_sent: called when all of it has been given to the kernel."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    on_sent: Callable[[], None] | None = None

    def encode(self) -> bytes:
        """The whole answer."""
        head = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", f"Content-Type: {self.content_type}"]
        head += [f"Content-Length: {len(self.body)}", "Connection: close"]
        head += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*head, "", ""]).encode() + self.body


class Tls:
    """A server's certificate and key, read again when their files change (they are renewed in place).

    Raises JoulebookError when they cannot be read at first; later a bad pair leaves the last good one in use.
    """

    def __init__(self, cert_file: str, key_file: str) -> None:
        import ssl  # six megabytes: only where it is asked for

        self.want_read, self.want_write = ssl.SSLWantReadError, ssl.SSLWantWriteError
        self._files = (cert_file, key_file)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._seen: object = None
        try:
            self._load()
        except OSError as error:
            raise JoulebookError(
                f"TLS certificate {cert_file} with key {key_file} cannot be used: {error.strerror or error}",
                "name a PEM certificate chain and its key without a pass phrase, readable by the agent",
            ) from error

    def wrap(self, connection: socket.socket) -> ssl.SSLSocket:
        """The server's side of a TLS connection, its handshake still to be made."""
        try:
            self._load()
        except OSError as error:
            print(f"joulebook agent: the renewed TLS certificate cannot be used: {error}", file=sys.stderr)
        return self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def _load(self) -> None:
        stamps = [os.stat(path).st_mtime_ns for path in self._files]  # noqa: PTH116
        if stamps != self._seen:
            self._seen = stamps
            self._context.load_cert_chain(*self._files)


class HttpServer:
    """Serves from the moment it is made until ``close``. respond: called in the server's thread; must not block.

    address: host and port (0: any free one).  seconds: how long one connection may take.
    Raises JoulebookError when it cannot be bound.
    """

    def __init__(
        self,
        address: tuple[str, int],
        respond: Callable[[Request], Response],
        tls: Tls | None = None,
        seconds: float = MOST_SECONDS,
    ) -> None:
        host, port = address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
        except OSError as error:
            raise JoulebookError(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                "give another JOULEBOOK_METRICS_ADDRESS, or end what listens there",
            ) from error
        self._listener.setblocking(False)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._respond, self._tls, self._seconds = respond, tls, seconds
        self._open: dict[int, tuple[Conversation, float]] = {}
        self._poll = select.poll()
        self._stop_fd, self._stop_writer = os.pipe()
        self._poll.register(self._stop_fd, select.POLLIN)
        self._rest_until = 0.0
        self._complained = False
        self._thread = threading.Thread(target=self._run, name="joulebook-http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; connections are cut."""
        os.write(self._stop_writer, b"x")
        self._thread.join()
        for fd in list(self._open):
            self._end(fd)
        self._listener.close()
        os.close(self._stop_fd)
        os.close(self._stop_writer)

    def _run(self) -> None:
        listener = self._listener.fileno()
        while True:
            now = time.monotonic()
            accepting = len(self._open) < MOST_CONNECTIONS and now >= self._rest_until
            self._poll.register(listener, select.POLLIN if accepting else 0)
            for fd, _ in self._poll.poll(self._timeout_ms(now)):
                if fd == self._stop_fd:
                    return
                if fd == listener:
                    self._accept()
                else:
                    self._go_on(fd)
            now = time.monotonic()
            for fd, (_, deadline) in list(self._open.items()):
                if now >= deadline:
                    self._end(fd)

    def _timeout_ms(self, now: float) -> float | None:
        times = [deadline for _, deadline in self._open.values()]
        if now < self._rest_until:
            times.append(self._rest_until)
        return max(0.0, min(times) - now) * 1000 + 1 if times else None

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            self._rest_until = time.monotonic() + REST_SECONDS
            return
        connection.setblocking(False)
        fd = connection.fileno()
        self._open[fd] = (self._converse(connection), time.monotonic() + self._seconds)
        self._go_on(fd)

    def _go_on(self, fd: int) -> None:
        """One more step of a conversation; it ends with its answer, or with whatever breaks the connection."""
        try:
            self._poll.register(fd, next(self._open[fd][0]))
        except (StopIteration, OSError, ValueError):
            self._end(fd)

    def _end(self, fd: int) -> None:
        conversation, _ = self._open.pop(fd)
        with suppress(KeyError):  # it ended before it ever had to wait
            self._poll.unregister(fd)
        conversation.close()

    def _converse(self, connection: socket.socket) -> Conversation:
        try:
            if self._tls is not None:
                secure = self._tls.wrap(connection)
                connection = secure
                yield from self._patiently(secure.do_handshake, select.POLLIN)
            head = b""
            while b"\r\n\r\n" not in head and len(head) <= MOST_HEAD_BYTES:
                piece: bytes = yield from self._patiently(lambda: connection.recv(4096), select.POLLIN)
                if not piece:
                    return
                head += piece
            response = self._answer(head)
            rest = response.encode()
            while rest:
                sent: int = yield from self._patiently(lambda: connection.send(rest), select.POLLOUT)  # noqa: B023
                rest = rest[sent:]
            if response.on_sent is not None:
                response.on_sent()
        finally:
            connection.close()

    def _patiently(self, call: Callable[[], T], event: int) -> Generator[int, None, T]:
        """The call's value, once it need not wait any more."""
        want_read: Any = () if self._tls is None else self._tls.want_read
        want_write: Any = () if self._tls is None else self._tls.want_write
        while True:
            try:
                return call()
            except BlockingIOError:
                yield event
            except want_read:
                yield select.POLLIN
            except want_write:
                yield select.POLLOUT

    def _answer(self, head: bytes) -> Response:
        if b"\r\n\r\n" not in head:
            return Response(431, b"the request is too large\n")
        request = parse(head)
        if request is None:
            return Response(400, b"this is no HTTP request\n")
        if request.method != "GET":
            return Response(405, b"GET only\n", headers=(("Allow", "GET"),))
        try:
            return self._respond(request)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one answer, the agent lives on and says it once
            if not self._complained:
                self._complained = True
                print(f"joulebook agent: GET {request.path} failed: {error!r}", file=sys.stderr)
            return Response(500, b"the answer could not be made: the agent's log says why\n")


def parse(head: bytes) -> Request | None:
    """The request in the bytes before its body, None when it is none."""
    lines = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        return None
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            return None
        headers[name.lower()] = value.strip()
    return Request(words[0], words[1].partition("?")[0], headers)
