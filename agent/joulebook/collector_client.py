"""One collector over HTTP: where it is, and how a batch is posted to it (docs/reference/wire.md)."""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import stat
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time
from typing import Any, Final
from urllib.parse import urlsplit

from joulebook.errors import BadInput, JoulebookError
from joulebook.outbox import Parcel
from joulebook.packing import QUICK

WIRE_VERSION: Final = 1
TIMEOUT_SECONDS: Final = 30.0
"""Longest silence of a collector, while connecting or answering."""
PLAIN_BYTES: Final = 1024
"""A longer body is sent as gzip."""
MOST_ANSWER_BYTES: Final = 1 << 20
MOST_TOKEN_CHARACTERS: Final = 4096
_HASHED: Final = re.compile(r"[0-9a-f]{8}\.[0-9]+")
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class Unreachable(JoulebookError):
    """A collector that gave no answer; whether it has the batch is unknown, so the same one is sent again."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where rows go. url: of the collector, without /v1/batches.  token_file: holds a bearer token.

    ca_file: certificates in PEM that the collector's is checked against, None for the system's.
    """

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """status: of HTTP.  values: the JSON object of the body, empty when it is none.  retry_after_seconds: as asked."""

    status: int
    values: dict[str, Any]
    retry_after_seconds: float | None


def destination(url: str, token_file: str | None, ca_file: str | None) -> Destination:
    """What the settings say, checked. Raises BadInput on an address that cannot be, or would show the token."""
    wanted = "give http(s)://HOST[:PORT][/PATH], without a user, query or fragment"
    try:
        parts = urlsplit(url)
        plain = parts.port is None or parts.port > 0
    except ValueError:  # it may hold a password: it is not repeated
        raise BadInput("the collector's address cannot be read", wanted) from None
    plain = plain and not (parts.username or parts.password or parts.query or parts.fragment)
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        raise BadInput("the collector's address is not one", wanted)
    if parts.scheme == "http" and token_file and parts.hostname not in LOOPBACK:
        raise BadInput(f"the token would go to {parts.hostname} unencrypted", "give an https:// address")
    return Destination(url.rstrip("/"), Path(token_file) if token_file else None, Path(ca_file) if ca_file else None)


def read_token(path: Path) -> str:
    """The token in that file. Raises JoulebookError when it cannot be read, is none, or others may read it."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise JoulebookError(f"cannot read the collector's token: {path}: {_why(error)}", "put it there") from None
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise JoulebookError(f"the collector's token {path} is open to others", f"chmod 600 {path}")
    if not 0 < len(text) <= MOST_TOKEN_CHARACTERS or not text.isprintable() or " " in text:
        raise JoulebookError(f"{path} holds no token", "put the token there, alone, in one line")
    return text


def body_of(parcel: Parcel) -> tuple[bytes, bool]:
    """The request's body and whether it is gzip. Only one packed chunk at a time is unpacked in memory."""
    head = (
        f'{{"version":{WIRE_VERSION},"agent_id":{json.dumps(parcel.agent_id)},'
        f'"incarnation":{json.dumps(parcel.incarnation)},"first_seq":{parcel.first_seq},"rows":['
    )
    pieces = _pieces(head, parcel)
    first = next(pieces) + next(pieces)
    if len(parcel.arrays) == 1 and len(first) + 2 <= PLAIN_BYTES:
        return first + b"]}", False
    gzip = zlib.compressobj(QUICK, wbits=31)
    packed = [gzip.compress(first), *(gzip.compress(piece) for piece in pieces), gzip.compress(b"]}"), gzip.flush()]
    return b"".join(packed), True


def _pieces(head: str, parcel: Parcel) -> Iterator[bytes]:
    yield head.encode()
    for i in range(len(parcel.arrays)):
        yield (("," if i else "") + parcel.array(i)[1:-1]).encode()


@dataclass(slots=True)
class CollectorClient:
    """A connection that is kept open from batch to batch, and opened anew when it was lost."""

    to: Destination
    _connection: http.client.HTTPConnection | None = field(default=None, init=False)

    def post(self, parcel: Parcel) -> Answer:
        """Post one batch. Raises Unreachable when no answer came, JoulebookError when the token cannot be used."""
        body, is_gzip = body_of(parcel)
        headers = {"Content-Type": "application/json", "User-Agent": "joulebook-agent"}
        if is_gzip:
            headers["Content-Encoding"] = "gzip"
        if self.to.token_file is not None:
            headers["Authorization"] = f"Bearer {read_token(self.to.token_file)}"
        kept = self._connection is not None
        try:
            return self._exchange(body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if not (kept and isinstance(error, ConnectionError)):
                raise self._unreachable(error) from error
        try:  # a connection that was kept had been closed at the other end: a new one, once
            return self._exchange(body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unreachable(error) from error

    def close(self) -> None:
        """Let go of the connection; the next batch opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, body: bytes, headers: dict[str, str]) -> Answer:
        if self._connection is None:
            self._connection = self._connect()
        if self._connection.sock is None:
            self._connection.connect()
        path = urlsplit(self.to.url).path
        with suppress(BrokenPipeError, ConnectionResetError):  # the other end may have answered before it read all
            self._connection.request("POST", f"{path}/v1/batches", body, headers)
        response = self._connection.getresponse()
        text = response.read(MOST_ANSWER_BYTES + 1)
        if len(text) > MOST_ANSWER_BYTES:
            raise http.client.HTTPException(f"an answer of more than {MOST_ANSWER_BYTES} bytes")
        return Answer(response.status, _object(text), _retry_after(response.headers.get("Retry-After")))

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.to.url)
        assert parts.hostname is not None
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS)
        try:
            context = _trusting(self.to.ca_file)
        except OSError as error:
            raise JoulebookError(
                f"cannot use the certificates {self.to.ca_file}: {_why(error)}",
                "give a file of certificates in PEM as JOULEBOOK_COLLECTOR_CA_FILE",
            ) from error
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS, context=context)

    def _unreachable(self, error: Exception) -> Unreachable:
        remedy = "see that it runs and can be reached from here"
        if isinstance(error, ssl.SSLCertVerificationError):
            remedy = "give the authority that signed its certificate as JOULEBOOK_COLLECTOR_CA_FILE"
        return Unreachable(f"no answer from {self.to.url}: {_why(error)}", remedy)


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    """TLS that verifies certificate and name, against that file, else against the system's authorities.

    Of a directory that is hashed by name OpenSSL reads only the authority it needs: 2 MiB less than the bundle.
    """
    if ca_file is not None:
        return ssl.create_default_context(cafile=ca_file)
    paths = ssl.get_default_verify_paths()
    hashed = paths.capath is not None and any(_HASHED.fullmatch(file.name) for file in Path(paths.capath).iterdir())
    if not hashed or "SSL_CERT_FILE" in os.environ:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(capath=paths.capath)
    return context


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _retry_after(text: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None when it asks for nothing."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text.strip())
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    except ValueError:
        return None


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
