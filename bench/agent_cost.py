"""What the agent costs a node: CPU milliseconds per second and resident memory, 2 packages + DRAM + 8 GPUs, simulated.

    python bench/agent_cost.py [SECONDS] [--warm SECONDS] [--peers PYTHON] [--json FILE]

In the same seconds: the floors (a Python process that only sleeps; one that also reads the same counters) and, where
PYTHON has them (bench/peers.txt), other tools at 1 Hz. The agents keep their outbox on, and run neither exporter nor
shipping but for one that runs both (a scrape is counted apart, in bench/scrape.py). CPU time is the kernel's own count
of each process in nanoseconds; the driver's cost is a simulated library's, not a real one's. Warm-up lasts until the
agents' rows have begun to become final: grace is 30 s. Without a run an agent closes its spans and writes once a
minute, so SECONDS should be whole minutes; where they are not, the table says so.
"""

import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

from benching.cost import cpu_ns, descendants, resident_mib, tree_cpu_ns
from benching.node import JOULEBOOK, Node
from benching.peers import Peer, start_peers
from benching.results import Row, parser, tell
from joulebook.metrics import SHIPPED_ROWS
from joulebook.settings import IDLE_SPAN_SECONDS
from joulebook.simulate import truth

HERE = Path(__file__).parent / "benching"
SLICES = 5
RANKS, CHILDREN = 8, 4


@dataclass
class Contestant:
    """A process whose cost is taken. whole: with all below it.  scrape: a page that is asked for before memory is."""

    figure: str
    who: str
    pid: int
    whole: bool = False
    most: float | None = None
    most_mib: float | None = None
    scrape: str = ""
    shipped: int | None = None
    rates: list[float] = field(default_factory=list)
    mib: float = 0.0

    def cpu_ns(self) -> int:
        """CPU nanoseconds so far."""
        return tree_cpu_ns(self.pid) if self.whole else cpu_ns(self.pid)

    @property
    def mean(self) -> float:
        """CPU milliseconds per second over all slices."""
        return sum(self.rates) / len(self.rates)

    def cpu_row(self, note: str = "") -> Row:
        """Its CPU time, with the spread of the slices."""
        return Row(
            f"CPU, {self.figure}", self.who, self.mean, "ms/s", min(self.rates), max(self.rates), self.most, note=note
        )

    def memory_row(self) -> Row:
        """Its resident memory."""
        note = "" if self.shipped is None else f"{self.shipped} rows shipped, one scrape"
        return Row(f"resident, {self.figure}", self.who, self.mib, "MiB", most=self.most_mib, note=note)


def observe(contestants: list[Contestant], seconds: float) -> None:
    """Take every contestant's cost over the same slices of time."""
    for _ in range(SLICES):
        before = [contestant.cpu_ns() for contestant in contestants]
        started = time.monotonic_ns()
        time.sleep(seconds / SLICES)
        elapsed = time.monotonic_ns() - started
        for contestant, ns in zip(contestants, before, strict=True):
            contestant.rates.append((contestant.cpu_ns() - ns) / elapsed * 1000)
    for contestant in contestants:
        if contestant.scrape:
            page = urlopen(contestant.scrape, timeout=10).read().decode()
            contestant.shipped = int(float(re.search(rf"^{SHIPPED_ROWS.name} (\S+)$", page, re.M)[1]))
        contestant.mib = resident_mib(descendants(contestant.pid) if contestant.whole else [contestant.pid])


def floors(node: Node, period: float, figure: str) -> list[Contestant]:
    """What sleeping and reading cost in Python."""
    python, script = sys.executable, str(HERE / "floor.py")
    read = [str(node.sys / "class" / "powercap"), str(node.nvml / "libnvidia-ml.so.1")]
    sleeping = node.start([python, script, str(period)])
    reading = node.start([python, script, str(period), *read])
    return [
        Contestant(figure, "floor: sleeps only", sleeping.pid),
        Contestant(figure, "floor: reads, keeps nothing", reading.pid),
    ]


def connected(node: Node, figure: str) -> Contestant:
    """An agent that ships its rows over TLS and serves its metrics."""
    folder = node.root / "collector"
    collector = node.start(
        [sys.executable, str(HERE / "collector.py"), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    url = collector.stdout.readline().strip()
    if not url:
        raise SystemExit("the collector did not start")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    agent, _ = node.agent(
        "connected",
        1.0,
        JOULEBOOK_COLLECTOR_URL=url,
        JOULEBOOK_COLLECTOR_CA_FILE=str(folder / "ca.pem"),
        JOULEBOOK_METRICS_ADDRESS=address,
    )
    return Contestant(figure, "joulebook agent", agent.pid, most_mib=32, scrape=f"http://{address}/metrics")


def idle(seconds: float, warm: float, python: str | None) -> list[Row]:
    """No run: agents at 1 and 10 Hz, floors, peers."""
    with Node() as node:
        one, ten = "1 Hz, no run", "10 Hz, no run"
        slow, _ = node.agent("1hz", 1.0)
        fast, _ = node.agent("10hz", 0.1)
        contestants = [
            Contestant(one, "joulebook agent", slow.pid, most=0.36, most_mib=20),
            Contestant(ten, "joulebook agent", fast.pid, most=2.5, most_mib=20),
            *floors(node, 1.0, one),
            *floors(node, 0.1, ten),
            connected(node, f"{one}, exporter and TLS shipping"),
        ]
        peers = start_peers(node, python, 1.0)
        contestants += [Contestant(one, p.title, p.process.pid, whole=True) for p in peers if p.process]
        time.sleep(warm)
        observe(contestants, seconds)
        short = "" if seconds % IDLE_SPAN_SECONDS == 0 else "of no whole minutes: writes may be missed"
        rows = [contestant.cpu_row(short if "agent" in contestant.who else "") for contestant in contestants]
        rows += [Row(f"CPU, {one}", p.title, None, "ms/s", note=p.reason) for p in peers if not p.process]
        rows.append(ratio(f"CPU over sleeping only, {one}", contestants[0], contestants[2:3], most=3))
        rows.append(ratio(f"CPU over the best peer's, {one}", contestants[0], contestants[7:]))
        rows += [contestant.memory_row() for contestant in contestants]
        return rows + [row for peer in peers if peer.process for row in saw(node, peer)]


def ratio(figure: str, ours: Contestant, others: list[Contestant], most: float | None = None) -> Row:
    """Our mean over the least of the others' of the same seconds."""
    best = min(others, key=lambda other: other.mean, default=None)
    if best is None:
        return Row(figure, ours.who, None, "x", most=most, note="no peer ran")
    return Row(figure, ours.who, ours.mean / best.mean, "x", most=most, note=f"over {best.who}")


def saw(node: Node, peer: Peer) -> list[Row]:
    """What a peer says was drawn, beside what was: that it measured at all, and what it counted."""
    node.end(peer.process)
    told = peer.findings()
    if not told:
        return [Row("energy told over true", peer.title, None, "", note="told nothing when ended")]
    span = told["from_ns"], told["to_ns"]
    true = {**truth(node.sys, *span), **truth(node.nvml, *span)}
    by_component = {
        "gpu": sum(j for name, j in true.items() if name.startswith("GPU")),
        "cpu": sum(j for name, j in true.items() if not name.startswith("GPU") and not name.endswith("dram")),
        "dram": sum(j for name, j in true.items() if name.endswith("dram")),
    }
    return [
        Row(f"energy told over true, {name}", peer.title, joules / by_component[name], "", note=told["note"])
        for name, joules in told["joules"].items()
        if by_component.get(name)
    ]


def with_run(seconds: float, warm: float) -> list[Row]:
    """One run of 8 ranks and 40 processes, silent and with a log line of every rank each second."""
    with Node() as node:
        contestants = []
        for log_seconds, figure, most in (
            (0, "1 Hz, 8 ranks and 40 processes", 1.0),
            (1, "1 Hz, the same, each rank logs once a second", None),
        ):
            agent, home = node.agent(f"run-{log_seconds}", 1.0)
            settings = {"JOULEBOOK_HOME": str(home), "JOULEBOOK_AGENT": "on"}
            script = [sys.executable, str(HERE / "ranks.py"), str(RANKS), str(CHILDREN), str(log_seconds)]
            node.start([*JOULEBOOK, "run", "--quiet", "--", *script], settings)
            contestants.append(Contestant(figure, "joulebook agent", agent.pid, most=most, most_mib=20))
        contestants += floors(node, 1.0, "1 Hz, 8 ranks and 40 processes")
        time.sleep(warm)
        observe(contestants, seconds)
        rows = [contestant.cpu_row() for contestant in contestants]
        return rows + [contestant.memory_row() for contestant in contestants]


def main() -> None:
    options = parser(__doc__, 120.0)
    options.add_argument("--warm", type=float, default=40.0, help="seconds before anything is counted (default 40)")
    options.add_argument(
        "--peers", metavar="PYTHON", default=".venv-peers/bin/python", help="has bench/peers.txt's packages"
    )
    given = options.parse_args()
    rows = idle(given.seconds, given.warm, given.peers) + with_run(given.seconds, given.warm)
    tell(rows, given.json)


if __name__ == "__main__":
    main()
