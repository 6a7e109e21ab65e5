"""A real HTTP server on loopback for simulated sources, with faults that can be switched on while clients read.

The faults stand in a file, one word and its number a line, read again at every request:
status 401; delay_seconds 10; drip_seconds 0.5 (between bytes); half (the page breaks off); garbage; huge; redirect URL.
"""

from __future__ import annotations

import ssl
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from joulebook.errors import BadInput, JoulebookError

HOST: Final = "127.0.0.1"
FAULTS: Final = ("status", "delay_seconds", "drip_seconds", "half", "garbage", "huge", "redirect", "value")
HUGE_BYTES: Final = 1 << 27
Respond = Callable[[str, Mapping[str, str]], tuple[str, str] | None]
"""(path, faults) -> (content type, text), None for 404."""


class PageServer:
    """Serves what ``respond`` gives, from a thread. port 0 takes a free one.

    faults: the file of faults.  credentials: "USER:PASSWORD" that every request must carry, "" for none.
    certificate: a PEM file with key and certificate makes it https.  requests: paths that were asked for.
    """

    def __init__(
        self, respond: Respond, faults: Path, *, port: int = 0, credentials: str = "", certificate: Path | None = None
    ) -> None:
        self.respond, self.faults_file, self.requests = respond, faults, list[str]()
        self.connections = 0
        self.authorization = f"Basic {b64encode(credentials.encode()).decode()}" if credentials else ""
        try:
            self._server = _Server((HOST, port), _Handler)
        except OSError as error:
            raise JoulebookError(f"port {port}: {error.strerror}", "name another --port, or none") from error
        self._server.owner = self
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://{HOST}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def faults(self) -> dict[str, str]:
        """The faults that are on."""
        return read_faults(self.faults_file, FAULTS)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def read_faults(path: Path, known: Sequence[str]) -> dict[str, str]:
    """Fault -> its value ("" for none). Raises BadInput on one that is not known."""
    if not path.exists():
        return {}
    lines = [line.partition(" ") for line in path.read_text().splitlines() if line.strip()]
    faults = {word: value.strip() for word, _, value in lines}
    unknown = faults.keys() - set(known)
    if unknown:
        raise BadInput(f"{path}: no such fault: {', '.join(sorted(unknown))}", f"use some of: {', '.join(known)}")
    return faults


def make_certificate(directory: Path) -> Path:
    """bmc.pem in ``directory``: a key and a certificate for the loopback that it signs itself. Needs openssl."""
    path = directory / "bmc.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "30", "-subj", "/CN=simulated BMC", "-addext", f"subjectAltName=IP:{HOST}"]
    try:
        done = subprocess.run([*command, "-keyout", path, "-out", f"{path}.crt"], capture_output=True, check=False)
    except FileNotFoundError:
        raise JoulebookError("openssl is not installed", "sudo apt install openssl, or leave --tls out") from None
    if done.returncode:
        raise JoulebookError(
            "openssl made no certificate", "openssl version tells which it is: 1.1.1 or newer is needed"
        )
    with path.open("a") as file:
        file.write(Path(f"{path}.crt").read_text())
    return path


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    owner: PageServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go in the middle of an answer are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.owner.connections += 1

    def do_GET(self) -> None:
        owner = self.server.owner
        owner.requests.append(self.path)
        faults = owner.faults()
        time.sleep(float(faults.get("delay_seconds", 0)))
        if "redirect" in faults:
            self._send(301, "text/plain", b"", {"Location": faults["redirect"]})
        elif "status" in faults:
            self._send(int(faults["status"]), "text/plain", b"as told")
        elif owner.authorization and self.headers.get("Authorization") != owner.authorization:
            self._send(401, "text/plain", b"who are you?", {"WWW-Authenticate": "Basic"})
        elif (page := owner.respond(self.path, faults)) is None:
            self._send(404, "text/plain", b"no such page")
        else:
            self._page(page[0], page[1].encode(), faults)

    def _page(self, kind: str, body: bytes, faults: Mapping[str, str]) -> None:
        if "garbage" in faults:
            body = b"\xff\xfe<html>{" + body[:7]
        if "huge" in faults:
            return self._huge(kind)
        drip = float(faults.get("drip_seconds", 0))
        self._head(200, kind, len(body), {})
        for piece in (body[n : n + 1] for n in range(len(body))) if drip else [body]:
            self.wfile.write(piece if "half" not in faults else piece[: len(piece) // 2])
            self.wfile.flush()
            time.sleep(drip)
        if "half" in faults:
            self.close_connection = True
        return None

    def _huge(self, kind: str) -> None:
        self._head(200, kind, HUGE_BYTES, {})
        for _ in range(HUGE_BYTES >> 16):
            self.wfile.write(b" " * (1 << 16))

    def _send(self, status: int, kind: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._head(status, kind, len(body), headers or {})
        self.wfile.write(body)

    def _head(self, status: int, kind: str, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """The simulator is silent."""
