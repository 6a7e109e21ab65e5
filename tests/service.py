"""A real collector process on loopback, for tests: started, asked, killed, stopped."""

import http.client
import json
import os
import re
import signal
import ssl
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from conftest import JOULEBOOK
from joulebook.home import Home
from joulebook.rows import to_wire
from joulebook_collector.ledger import Ledger
from joulebook_collector.service.access import Access


@dataclass
class Service:
    """Use as a context manager: on leaving it the process has ended."""

    root: Path
    words: tuple = ()
    certificate: Path | None = None
    ca: Path | None = None
    process: subprocess.Popen | None = None
    port: int = 0
    tokens: dict = field(default_factory=dict)

    @property
    def home(self):
        return Home(self.root)

    @property
    def url(self):
        return f"http{'s' if self.certificate else ''}://127.0.0.1:{self.port}"

    @property
    def environ(self):
        return {**os.environ, "JOULEBOOK_HOME": str(self.root)}

    def token(self, name="all", **scopes):
        """A token's text; with all scopes when none is said."""
        self.home.make()
        with Access(self.root / "access.sqlite") as access:
            made, text = access.create(name, **(scopes or {"write": ["*"], "read": ["*"], "admin": True}), actor="test")
        self.tokens[name] = made.token_id
        return text

    def start(self, *, before=()):
        """Start, at the same port as before, and wait until it listens."""
        words = ["collector", "--home", str(self.root), "--listen", f"127.0.0.1:{self.port}", *self.words]
        if self.certificate:
            words += ["--cert", str(self.certificate), "--key", str(self.certificate)]
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*before, *JOULEBOOK, *words], stdout=subprocess.PIPE, stderr=log, text=True
            )
        line = self.process.stdout.readline()
        found = re.search(r" at https?://127\.0\.0\.1:(\d+)$", line.strip())
        assert found, f"{line}{self.log()}"
        self.port = int(found[1])
        return self

    def log(self):
        """What it wrote to stderr, in all its lives."""
        return (self.root / "log").read_text()

    def kill(self):
        """kill -9."""
        self.process.kill()
        self._ended()

    def stop(self, seconds=30):
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self._ended(seconds)

    def _ended(self, seconds=30):
        status = self.process.wait(seconds)
        self.process.stdout.close()
        self.process = None
        return status

    def __enter__(self):
        self.root.mkdir(exist_ok=True)
        return self.start()

    def __exit__(self, *_):
        if self.process is not None:
            self.process.kill()
            self._ended()

    def connect(self, timeout=30):
        """A connection of its own."""
        if self.certificate is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        context = ssl.create_default_context(cafile=self.ca)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=context)

    def ask(self, method, path, body=None, *, token=None, headers=None, connection=None):
        """Status, values and headers of the answer; values are text where the answer is no JSON."""
        mine = connection or self.connect()
        given = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            mine.request(method, path, body, {**given, **(headers or {})})
            answer = mine.getresponse()
            text = answer.read()
        finally:
            if connection is None:
                mine.close()
        is_json = answer.getheader("Content-Type") == "application/json"
        return answer.status, json.loads(text) if is_json else text.decode(), dict(answer.getheaders())

    def post(self, bodies, *, token=None, connection=None, **changes):
        """Bring a batch of bodies; the status and values of the answer."""
        status, values, _ = self.ask("POST", "/v1/batches", wire(bodies, **changes), token=token, connection=connection)
        return status, values

    def ledger(self):
        """The book: of the process when it runs, else of the file."""
        return Ledger.open(self.home.ledger)


def wire(bodies, *, first=1, agent_id="agent-1", incarnation="inc-1", version=1):
    """A request's body. bodies: rows, or values that stand in for them as they are."""
    rows = [body if isinstance(body, (dict, list, int, str)) else to_wire(body) for body in bodies]
    return json.dumps(
        {"version": version, "agent_id": agent_id, "incarnation": incarnation, "first_seq": first, "rows": rows}
    ).encode()


def resident_bytes(pid):
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(pid)
