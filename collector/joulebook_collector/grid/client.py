"""GET from a provider's server: one deadline for a whole answer, bounded in size, retried with full jitter.

Redirects stay with the server that was named: elsewhere the key is none of theirs. A URL is only ever shown
without the parameters that hold a key, and what a server says is shown with the key struck out.
"""

from __future__ import annotations

import base64
import ssl
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Final
from urllib.parse import quote, urlencode, urljoin, urlsplit

from joulebook.meters.fetch import Wire

from joulebook_collector.grid import ProviderError
from joulebook_collector.grid.limits import Bucket
from joulebook_collector.grid.waits import Waits

TRIES: Final = 5
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0
LONGEST_WAIT_SECONDS: Final = 300.0
"""A provider that asks for more patience than this is told of, not waited for."""
REDIRECTS: Final = 2
MOVED: Final = frozenset({301, 302, 303, 307, 308})
AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

Params = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """status: of HTTP.  body: unpacked.  retry_after_seconds: as asked, None when not."""

    status: int
    body: bytes
    retry_after_seconds: float | None


class _Failed(Exception):
    """One try that came to nothing, in words; asking again may help."""

    retry_after_seconds: float | None = None


@dataclass(slots=True)
class Client:
    """Asks one server.

    secrets: texts that never appear in a message.  timeout_seconds: for one whole answer, redirects too.
    most_bytes: of one answer.
    """

    name: str
    base_url: str
    bucket: Bucket
    waits: Waits
    timeout_seconds: float = 60.0
    most_bytes: int = 64 << 20
    secrets: list[str] = field(default_factory=list)

    def get(
        self, path: str, params: Params = (), *, secret_params: Params = (), headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The body of a 200 answer. Raises ProviderError when none came, or it cannot come."""
        shown = self.url(path, params)
        target = shown + (("&" if params else "?") + urlencode(secret_params) if secret_params else "")
        pause, last = FIRST_PAUSE_SECONDS, ""
        for tries in range(1, TRIES + 1):
            self.bucket.take()
            try:
                return self._once(target, shown, headers or {})
            except _Failed as failed:
                last = str(failed)
                wait = max(self.waits.jitter(pause), failed.retry_after_seconds or 0.0)
                if failed.retry_after_seconds:
                    self.bucket.hold(failed.retry_after_seconds)
            if wait > LONGEST_WAIT_SECONDS:
                raise ProviderError(
                    f"{self.name}: {shown}: {last}, and asks to wait {wait:.0f} s", "ask again after that time"
                )
            if tries < TRIES:
                self.waits.sleep(wait)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        raise ProviderError(f"{self.name}: {shown}: {last} ({TRIES} tries)", "ask again later; what was stored stays")

    def url(self, path: str, params: Params = ()) -> str:
        """The whole URL without any secret: what is shown, and what an answer is kept under."""
        return self.base_url + path + (f"?{urlencode(params, quote_via=quote)}" if params else "")

    def scrubbed(self, text: str) -> str:
        """The text with every secret struck out, in one line."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            for form in (secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()):
                text = text.replace(form, "***")
        return " ".join(text.split())

    def _once(self, target: str, shown: str, headers: Mapping[str, str]) -> bytes:
        deadline = time.monotonic() + self.timeout_seconds
        try:
            for _ in range(REDIRECTS + 1):
                answer, moved_to = self._exchange(target, headers, deadline)
                if not moved_to:
                    return self._judged(answer, shown)
                target = self._followed(target, moved_to, shown)
        except ssl.SSLCertVerificationError as error:
            raise ProviderError(
                f"{self.name}: {shown}: certificate not trusted: {error.verify_message}", "check the address"
            ) from None
        except (OSError, HTTPException, ValueError, zlib.error) as error:
            reason = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
            raise _Failed(self.scrubbed(reason)[:200]) from None
        raise ProviderError(f"{self.name}: {shown}: redirects in a circle", "check the address")

    def _judged(self, answer: Answer, shown: str) -> bytes:
        if answer.status == 200:
            return answer.body
        said = self.scrubbed(answer.body[:4096].decode("utf-8", "replace"))[:200]
        told = f"answer {answer.status}" + (f" ({said})" if said else "")
        if answer.status in AGAIN:
            failed = _Failed(told)
            failed.retry_after_seconds = answer.retry_after_seconds
            raise failed
        remedy = {401: "check the key", 403: "check the key and what it may read", 404: "check the zone and the range"}
        raise ProviderError(
            f"{self.name}: {shown}: {told}", remedy.get(answer.status, "check the zone, the range and the address")
        )

    def _followed(self, target: str, moved_to: str, shown: str) -> str:
        there = urljoin(target, moved_to)
        if urlsplit(there)[:2] != urlsplit(self.base_url)[:2]:
            raise ProviderError(
                f"{self.name}: {shown} redirects to another server, which is not followed: the key stays here",
                "if that is right, set the provider's address to the new one",
            )
        return there

    def _exchange(self, target: str, headers: Mapping[str, str], deadline: float) -> tuple[Answer, str]:
        """One answer, and where it redirects to."""
        parts = urlsplit(target)
        connection = self._connect(deadline)
        try:
            sent = {"Accept-Encoding": "gzip", "User-Agent": "joulebook", "Connection": "close", **headers}
            connection.request("GET", parts.path + (f"?{parts.query}" if parts.query else ""), headers=sent)
            response = connection.getresponse()
            moved_to = response.getheader("Location") or "" if response.status in MOVED else ""
            body = b"" if moved_to else self._body(response)
            return Answer(response.status, body, self._retry_after(response.getheader("Retry-After"))), moved_to
        finally:
            connection.close()

    def _connect(self, deadline: float) -> HTTPConnection:
        parts, left = urlsplit(self.base_url), max(0.001, deadline - time.monotonic())
        host, port = parts.hostname or "", parts.port
        connection = (
            HTTPSConnection(host, port, timeout=left, context=ssl.create_default_context())
            if parts.scheme == "https"
            else HTTPConnection(host, port, timeout=left)
        )
        connection.connect()
        wire = Wire(connection.sock)
        wire.deadline = deadline
        connection.sock = wire  # it has all that http.client uses of a socket
        return connection

    def _body(self, response: HTTPResponse) -> bytes:
        unpack = zlib.decompressobj(wbits=31) if response.getheader("Content-Encoding") == "gzip" else None
        pieces, size, told, came = [], 0, response.getheader("Content-Length"), 0
        while piece := response.read1(1 << 16):
            came += len(piece)
            plain = piece if unpack is None else unpack.decompress(piece, self.most_bytes - size + 1)
            size += len(plain)
            if size > self.most_bytes:
                raise ProviderError(f"{self.name}: an answer of more than {self.most_bytes} bytes", "ask for less")
            pieces.append(plain)
        if (told is not None and came != int(told)) or (unpack is not None and not unpack.eof):
            raise _Failed("the answer broke off")
        return b"".join(pieces)

    def _retry_after(self, text: str | None) -> float | None:
        """Seconds, from either form of the header; None when absent or unreadable."""
        if text is None:
            return None
        try:
            return max(
                0.0,
                float(text) if text.strip().isdigit() else parsedate_to_datetime(text).timestamp() - self.waits.now(),
            )
        except (ValueError, TypeError):
            return None
