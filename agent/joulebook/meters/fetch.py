"""Reading pages of one HTTP(S) server: kept alive, verified, with one deadline and a bound on size.

http.client's own time-out begins anew with every packet, so a server that sends a byte a second holds it for ever:
here all of one answer shares a deadline. Redirects stay with the server that was named.
"""

from __future__ import annotations

import io
import ssl
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Final
from urllib.parse import SplitResult, urljoin, urlsplit

from joulebook.meters import MeterUnavailable
from joulebook.meters.polling import NoAnswer

CHUNK: Final = 1 << 16
REDIRECTS: Final = 2
REFUSALS: Final = frozenset({401, 403, 404, 405, 410})
"""Answers that asking again soon cannot change; and asking a BMC again with a wrong password locks the account."""
MOVED: Final = frozenset({301, 302, 307, 308})


class Refusal(NoAnswer):
    """The server answered, and not with the page. status: of HTTP."""

    def __init__(self, where: str, status: int) -> None:
        remedy = "check the credentials" if status in (401, 403) else f"curl -v {where}"
        super().__init__(f"{where}: answer {status}", remedy, lasting=status in REFUSALS | MOVED)
        self.status = status


def split_url(url: str, variable: str) -> SplitResult:
    """The parts of a declared URL. Raises MeterUnavailable; a password in it is refused and not repeated."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        parts, named = urlsplit(""), False
    if "@" in url:
        raise MeterUnavailable(f"{variable} holds credentials", "put them in a file and take them out of the URL")
    if parts.scheme not in ("http", "https") or not named or parts.fragment:
        raise MeterUnavailable(f"{variable} is {url!r}, no http or https URL", f"set {variable} to https://HOST/PATH")
    return parts


def tls_context(ca_file: str | None, *, verified: bool) -> ssl.SSLContext:
    """The rules of a connection: the system's authorities or those of ``ca_file``. Raises MeterUnavailable."""
    if not verified:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise MeterUnavailable(
            f"{ca_file}: no certificates can be read: {error.strerror or error}", "name a PEM file that you may read"
        ) from error


class Site:
    """One server. Not for several threads at once.

    timeout_seconds: for one page, connection and all.  most_bytes: of one page.  headers: sent with every request,
    to this server only.
    """

    def __init__(
        self,
        parts: SplitResult,
        timeout_seconds: float,
        most_bytes: int,
        *,
        headers: Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.headers = dict(headers or {})
        self._parts, self._timeout, self._most_bytes, self._context = parts, timeout_seconds, most_bytes, context
        self._connection: HTTPConnection | None = None
        self._wire: Wire | None = None

    def get(self, path: str) -> bytes:
        """The whole page. Raises NoAnswer."""
        return b"".join(self.stream(path))

    def stream(self, path: str) -> Iterator[bytes]:
        """The page in pieces of at most 64 KiB. Raises NoAnswer, also where it ends too early or never."""
        where = f"{self.origin}{path}"
        try:
            yield from self._pieces(path, where)
        except NoAnswer:
            self.close()
            raise
        except (OSError, HTTPException, ValueError) as error:
            self.close()
            raise self._told(error, where) from error
        except GeneratorExit:
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection; the next page opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._wire = None

    def _pieces(self, path: str, where: str) -> Iterator[bytes]:
        deadline = time.monotonic() + self._timeout
        response = self._answer(path, deadline)
        for _ in range(REDIRECTS):
            if response.status not in MOVED:
                break
            path = self._followed(response, path, where)
            response = self._answer(path, deadline)
        if response.status != 200:
            raise Refusal(where, response.status)
        size, told = 0, response.getheader("Content-Length")
        while piece := response.read1(CHUNK):
            size += len(piece)
            if size > self._most_bytes:
                raise NoAnswer(f"{where} is larger than {self._most_bytes} bytes", f"curl -sI {where}")
            yield piece
        if told is not None and size != int(told):
            raise NoAnswer(f"{where} broke off after {size} of {int(told)} bytes", f"curl -v {where}")
        response.close()  # read1 leaves it open at its end, and the connection would not take another request

    def _followed(self, response: HTTPResponse, path: str, where: str) -> str:
        """The path that a redirect names, on this server only: elsewhere the credentials are none of theirs."""
        target = urlsplit(urljoin(self.origin + path, response.getheader("Location") or ""))
        self.close()
        if (target.scheme, target.netloc) != (self._parts.scheme, self._parts.netloc):
            raise NoAnswer(
                f"{where} redirects to another server, which is not followed", "declare the final URL", lasting=True
            )
        return target.path + (f"?{target.query}" if target.query else "")

    def _answer(self, path: str, deadline: float) -> HTTPResponse:
        """One request; one more where the server had closed the kept connection meanwhile."""
        kept = self._connection is not None
        try:
            return self._send(path, deadline)
        except ConnectionError:
            self.close()
            if not kept:
                raise
            return self._send(path, deadline)

    def _send(self, path: str, deadline: float) -> HTTPResponse:
        if self._connection is None or self._wire is None or self._connection.sock is None:
            self._connection, self._wire = self._connect(max(0.001, deadline - time.monotonic()))
        self._wire.deadline = deadline
        self._connection.request("GET", path, headers={"Accept-Encoding": "identity", **self.headers})
        return self._connection.getresponse()

    def _connect(self, seconds: float) -> tuple[HTTPConnection, Wire]:
        host, port = self._parts.hostname or "", self._parts.port
        connection = (
            HTTPSConnection(host, port, timeout=seconds, context=self._context)
            if self._parts.scheme == "https"
            else HTTPConnection(host, port, timeout=seconds)
        )
        connection.auto_open = 0
        connection.connect()
        wire = Wire(connection.sock)
        connection.sock = wire
        return connection, wire

    def _told(self, error: Exception, where: str) -> NoAnswer:
        remedy = f"curl -v {where}"
        if isinstance(error, ssl.SSLCertVerificationError):
            return NoAnswer(f"{where}: certificate not trusted: {error.verify_message}", remedy, lasting=True)
        if isinstance(error, TimeoutError):
            return NoAnswer(f"{where}: no answer within {self._timeout:g} s", remedy)
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return NoAnswer(f"{where}: {' '.join(reason.split())[:200]}", remedy)


class Wire:
    """A socket all of whose traffic ends by ``deadline`` (time.monotonic seconds)."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self.deadline = 0.0

    def arm(self) -> None:
        """Give the socket what is left of the time. Raises TimeoutError when nothing is."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)

    def sendall(self, data: bytes) -> None:
        """Send it all in time."""
        self.arm()
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """A reader that keeps the deadline. mode: "rb" is all that http.client asks for."""
        return io.BufferedReader(_Timed(self, self._sock.makefile(mode, buffering=0)))

    def close(self) -> None:
        """Close the socket, or leave that to the last reader of it."""
        self._sock.close()


class _Timed(io.RawIOBase):
    def __init__(self, wire: Wire, raw: Any) -> None:
        self._wire, self._raw = wire, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._wire.arm()
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
