"""A collector that behaves as docs/reference/wire.md says, on loopback, with a real ledger; and its faults."""

import gzip
import json
import ssl
import subprocess
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from joulebook.rows import Batch, Row, from_wire
from joulebook_collector.ledger import Forked, Ledger

DROP_BEFORE = "the connection is dropped before the batch is stored"
DROP_AFTER = "the connection is dropped after the batch was stored"


@dataclass
class Hold:
    """The request is held until ``release`` is set; ``held`` is set when it is there."""

    held: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


@dataclass
class Reply:
    """An answer given in place of the collector's own."""

    status: int
    values: dict = field(default_factory=dict)
    headers: dict = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.server.collector.connections += 1

    def do_POST(self):
        collector = self.server.collector
        body = self.rfile.read(int(self.headers["Content-Length"]))
        packed = self.headers.get("Content-Encoding") == "gzip"
        text = gzip.decompress(body) if packed else body
        collector.requests.append({"path": self.path, "gzip": packed, "sent": len(body), "bytes": len(text)})
        fault = collector.faults.popleft() if collector.faults else None
        if isinstance(fault, Hold):
            fault.held.set()
            assert fault.release.wait(60)
        if fault is DROP_BEFORE:
            self.close_connection = True
            return
        reply = fault
        if not isinstance(fault, Reply):
            reply = collector.answer(self.path, self.headers, json.loads(text))
        if fault is DROP_AFTER or reply is None:
            self.close_connection = True
            return
        data = json.dumps(reply.values).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(data), **reply.headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


class Collector:
    """Runs in a thread. faults: what happens to the next requests, one each; None lets one through."""

    def __init__(self, path, *, token=None, most_rows=500, certificate=None):
        self.path = Path(path)
        self.token = token
        self.most_rows = most_rows
        self.faults = deque()
        self.requests = []
        self.connections = 0
        self._lock = threading.Lock()
        self._ledger = Ledger.open(self.path)
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.collector = self
        self.scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self._server.server_port}"

    def close(self):
        """Stop; the ledger may then be opened by others."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        with self._lock:
            if self._ledger is not None:
                self._ledger.close()
                self._ledger = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def answer(self, path, headers, request):
        with self._lock:
            return None if self._ledger is None else self._answer(path, headers, request)

    def _answer(self, path, headers, request):
        if path != "/v1/batches":
            return Reply(404)
        if self.token is not None and headers.get("Authorization") != f"Bearer {self.token}":
            return Reply(401, {"error": "token", "message": "unknown token"})
        if request["version"] != 1:
            return Reply(400, {"error": "version"})
        if len(request["rows"]) > self.most_rows:
            return Reply(413)
        first = request["first_seq"]
        rows = tuple(Row(seq, from_wire(wire)) for seq, wire in enumerate(request["rows"], start=first))
        batch = Batch(request["agent_id"], request["incarnation"], rows)
        try:
            self._ledger.ingest(batch)
        except Forked as fork:
            return Reply(409, {"error": "forked", "seq": fork.seq})
        refused = [
            {"seq": seq, "reason": reason}
            for agent, incarnation, seq, _, reason in self._ledger.quarantined()
            if (agent, incarnation) == (batch.agent_id, batch.incarnation) and first <= seq <= batch.last_seq
        ]
        return Reply(200, {"acknowledged": batch.last_seq, "refused": refused})


def authority(folder, name):
    """A certificate authority made for a test, and a key and certificate for 127.0.0.1 that it signed."""
    folder = Path(folder)
    ca, ca_key = folder / f"{name}.ca.pem", folder / f"{name}.ca.key"
    key, request, signed = (folder / f"{name}.{suffix}" for suffix in ("key", "csr", "crt"))
    extensions = folder / f"{name}.ext"
    extensions.write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    run = {"check": True, "capture_output": True}
    subprocess.run([*new, "-x509", "-days", "2", "-subj", f"/CN={name}", "-keyout", ca_key, "-out", ca], **run)
    subprocess.run([*new, "-subj", "/CN=collector", "-keyout", key, "-out", request], **run)
    subprocess.run(
        ["openssl", "x509", "-req", "-days", "2", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial",
         "-extfile", extensions, "-out", signed],
        **run,
    )  # fmt: skip
    both = folder / f"{name}.pem"
    both.write_text(key.read_text() + signed.read_text())
    return ca, both
