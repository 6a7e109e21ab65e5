"""A fleet of agents against one collector: real bodies made on the way, one request under way per agent.

python fleet.py URL SECONDS TOKENS [QUERY_TOKEN]      TOKENS: a file, one agent's token a line; prints one JSON object

Every agent is a node of 12 devices; a request is 10 spans of 10 s of each, 120 rows, gzip as agents send it. The
text of the rows is made once, in several variants; what changes from request to request are the instants.
"""

import asyncio
import json
import re
import resource
import sys
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from joulebook.rows import (
    Component,
    Measurement,
    Method,
    Policy,
    Share,
    ShareKind,
    Weights,
    to_wire,
)

SPANS, SPAN_US = 10, 10_000_000
DEVICES = [*(f"gpu-{i}" for i in range(8)), "package-0", "package-1", "dram-0", "dram-1"]
ROWS = SPANS * len(DEVICES)
VARIANTS = 8
EPOCH_US = 1_764_547_200_000_000
EPOCH_NS = 1_000_000_000_000_000
SLOT = re.compile(r"9990(\d\d)(\d)000000000")
"""Stands for an instant: number of the edge, and whether UTC (0) or boot time (1). Sixteen digits, as instants have."""


def _slot(edge: int, boot: int) -> int:
    return int(f"9990{edge:02d}{boot}000000000")


def measurement(machine: str, device: str, span: int, random: Random) -> Measurement:
    """One span of one device: a noisy load, shared by a run and nobody."""
    gpu = device.startswith("gpu")
    energy = round(max(1.0, random.gauss(3_100_000 if gpu else 900_000, 240_000)))
    mine = round(energy * random.uniform(0.7, 0.98))
    weights = Weights(random.uniform(0, 10), random.uniform(0, 10) if gpu else 0.0, 1.0)
    shares = (
        Share(ShareKind.RUN, mine, Policy.RESERVED, f"run-{machine}", "train", weights=weights),
        Share(ShareKind.UNATTRIBUTED, energy - mine, Policy.RESERVED),
    )
    return Measurement(
        machine_id=machine,
        boot_id="0d3b1a52-7c1e-4a6e-9f8a-2c5f1e0b9d77",
        device_id=f"{machine}/{device}",
        component=Component.GPU if gpu else Component.DRAM if "dram" in device else Component.CPU,
        started_at_us=_slot(span, 0),
        ended_at_us=_slot(span + 1, 0),
        started_ns=_slot(span, 1),
        ended_ns=_slot(span + 1, 1),
        energy_millijoules=energy,
        meter="nvml" if gpu else "rapl",
        method=Method.COUNTER,
        u_common=0.03,
        u_common_key="nvml H100" if gpu else "rapl",
        u_indep=round(random.uniform(0.0005, 0.004), 6),
        coverage=1.0,
        source="agent",
        shares=shares,
        start_slack_millijoules=random.randint(0, 9000),
    )


@dataclass
class Template:
    """The text of one request's rows, cut at its instants."""

    pieces: list[str]
    slots: list[tuple[int, int]]

    @classmethod
    def make(cls, machine: str, variant: int) -> "Template":
        random = Random(f"{machine} {variant}")
        rows = [to_wire(measurement(machine, device, span, random)) for span in range(SPANS) for device in DEVICES]
        cut = SLOT.split(json.dumps(rows, separators=(",", ":"))[1:-1])
        return cls(cut[::3], [(int(edge), int(boot)) for edge, boot in zip(cut[1::3], cut[2::3], strict=True)])

    def rows(self, request: int) -> str:
        """The rows with the instants of the agent's n-th request."""
        first = request * SPANS
        edges = [
            [str(EPOCH_US + (first + i) * SPAN_US) for i in range(SPANS + 1)],
            [str(EPOCH_NS + (first + i) * SPAN_US * 1000) for i in range(SPANS + 1)],
        ]
        text = [self.pieces[0]]
        for (edge, boot), piece in zip(self.slots, self.pieces[1:], strict=True):
            text += (edges[boot][edge], piece)
        return "".join(text)


def body(agent: str, request: int, template: Template) -> bytes:
    """A request's body, packed as an agent packs it."""
    head = f'{{"version":1,"agent_id":"{agent}","incarnation":"{agent}-1","first_seq":{request * ROWS + 1},"rows":['
    gzip = zlib.compressobj(1, wbits=31)
    return gzip.compress(f"{head}{template.rows(request)}]}}".encode()) + gzip.flush()


@dataclass
class Told:
    """What the agents saw."""

    rows: int = 0
    sent_bytes: int = 0
    seconds: list[float] = field(default_factory=list)
    query_seconds: list[float] = field(default_factory=list)
    busy: int = 0


async def exchange(reader, writer, text: bytes) -> tuple[int, bytes]:
    """One request on a connection that stays open: status and body."""
    writer.write(text)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return int(head[9:12]), await reader.readexactly(int(length[1]))


async def agent(url, name: str, token: str, templates: list[Template], until: float, told: Told) -> None:
    """Sends, waits for the acknowledgement, sends the next."""
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    request = 0
    while time.monotonic() < until:
        packed = body(name, request, templates[request % len(templates)])
        head = (
            f"POST /v1/batches HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
        )
        while True:
            began = time.monotonic()
            status, answer = await exchange(reader, writer, head.encode() + packed)
            if status == 200:
                break
            assert status == 429, (status, answer)
            told.busy += 1
            await asyncio.sleep(1.0)
        assert json.loads(answer) == {"acknowledged": (request + 1) * ROWS, "refused": []}, answer
        told.seconds.append(time.monotonic() - began)
        told.rows += ROWS
        told.sent_bytes += len(packed)
        request += 1
    writer.close()


async def dashboard(url, token: str, until: float, told: Told) -> None:
    """Asks once a second what a dashboard asks."""
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    while time.monotonic() < until:
        for path in ("/v1/quality", "/v1/runs?limit=50"):
            began = time.monotonic()
            text = f"GET {path} HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {token}\r\n\r\n"
            status, answer = await exchange(reader, writer, text.encode())
            assert status == 200, answer
            told.query_seconds.append(time.monotonic() - began)
        await asyncio.sleep(1.0)
    writer.close()


async def main() -> None:
    url, seconds = urlsplit(sys.argv[1]), float(sys.argv[2])
    tokens = Path(sys.argv[3]).read_text().split()
    names = [f"node-{i}" for i in range(len(tokens))]
    # Two nodes' texts differ in names only: the variants of one serve all, its name replaced.
    made = [Template.make("node-@", variant) for variant in range(VARIANTS)]
    templates = {
        name: [Template([p.replace("node-@", name) for p in t.pieces], t.slots) for t in made] for name in names
    }
    print("ready", flush=True)
    sys.stdin.readline()
    told, began, used = Told(), time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    until = began + seconds
    work = [agent(url, n, t, templates[n], until, told) for n, t in zip(names, tokens, strict=True)]
    if len(sys.argv) > 4:
        work.append(dashboard(url, sys.argv[4], until, told))
    await asyncio.gather(*work)
    now, wall = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - began
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    print(json.dumps({**told.__dict__, "wall": wall, "cpu": cpu}))


if __name__ == "__main__":
    asyncio.run(main())
