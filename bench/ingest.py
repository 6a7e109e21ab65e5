"""Rows a second that a collector acknowledges over HTTP, and how long an acknowledgement takes.

    python bench/ingest.py [SECONDS] [--agents N] [--json FILE]

One collector, pinned to one core, tokens on; N agents (200), each a node with 12 devices and a token of its own, send
requests of 120 rows, gzip, one under way at a time, from another process on another core. Then the same, a quarter as
long, with a dashboard that asks once a second. Beside it, on the same core: bare DuckDB appending the columns of the
same rows, as Arrow tables of as many rows, each committed. The issue's run is 600 s; `make bench` takes 60.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benching.cost import cpu_ns, resident_mib
from benching.results import Row, parser, tell

BENCHING = Path(__file__).parent / "benching"
SERVER_CORE, CLIENT_CORE = 0, max(os.sched_getaffinity(0))
LEAST_ROWS, MOST_P99, MOST_P99_QUERIED, MOST_MIB = 60_000, 1.0, 2.0, 600
BARE_ROWS = 12_000
BARE = """
import sys, time
import duckdb, pyarrow as pa
sys.path.insert(0, sys.argv[3])
from benching.fleet import Template, DEVICES, SPANS
import json
path, seconds = sys.argv[1], float(sys.argv[2])
db = duckdb.connect(path)
db.execute("set threads = 1")
requests = int(sys.argv[4]) // (len(DEVICES) * SPANS)
rows = [row for i in range(requests) for row in json.loads("[" + Template.make(f"node-{i}", 0).rows(i) + "]")]
shares = [share for row in rows for share in row.pop("shares")]
weights = [share.pop("weights") for share in shares]
tables = {"m": pa.Table.from_pylist(rows), "s": pa.Table.from_pylist([s | w for s, w in zip(shares, weights)])}
for name, table in tables.items():
    db.register("incoming", table)
    db.execute(f"create table {name} as select * from incoming limit 0")
took, count, until = 0.0, 0, time.monotonic() + seconds
while time.monotonic() < until:
    began = time.monotonic()
    db.execute("begin")
    for name, table in tables.items():
        db.register("incoming", table)
        db.execute(f"insert into {name} select * from incoming")
    db.execute("commit")
    took += time.monotonic() - began
    count += len(rows)
print(count / took)
"""


class Collector:
    """Pinned to the server's core; its memory is looked at once a second."""

    def __init__(self, folder: Path, agents: int) -> None:
        from joulebook_collector.service.access import Access

        self.home = folder / "home"
        self.home.mkdir()
        self.tokens = folder / "tokens"
        with Access(self.home / "access.sqlite") as access:
            made = [access.create(f"node-{i}", write=[f"node-{i}"], actor="bench")[1] for i in range(agents)]
            _, self.admin = access.create("admin", admin=True, actor="bench")
        self.tokens.write_text("\n".join(made))
        words = [sys.executable, "-m", "joulebook", "collector", "--home", str(self.home), "--listen", "127.0.0.1:0"]
        pinned = ["taskset", "-c", str(SERVER_CORE), *words]
        self.process = subprocess.Popen(pinned, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().split()[-1]
        self.mib: list[float] = []
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def _look(self) -> None:
        while self.process.poll() is None:
            self.mib.append(resident_mib([self.process.pid]))
            time.sleep(1.0)

    def close(self) -> None:
        self.process.terminate()
        if self.process.wait(60) != 0:
            raise SystemExit("the collector did not end in order")
        self.process.stdout.close()


def drive(collector: Collector, seconds: float, *query: str) -> dict:
    """What the fleet saw, and the CPU that the collector used meanwhile."""
    words = [sys.executable, str(BENCHING / "fleet.py"), collector.url, str(seconds), str(collector.tokens), *query]
    fleet = subprocess.Popen(
        ["taskset", "-c", str(CLIENT_CORE), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert fleet.stdout.readline() == "ready\n"
    before = cpu_ns(collector.process.pid)
    out, _ = fleet.communicate("go\n", timeout=seconds + 300)
    if fleet.returncode:
        raise SystemExit("the fleet failed")
    return {**json.loads(out), "server_cpu": (cpu_ns(collector.process.pid) - before) / 1e9}


def percentile(values: list[float], part: float) -> float:
    return statistics.quantiles(values, n=1000)[round(part * 1000) - 1]


def bare_rows_per_second(folder: Path, seconds: float) -> float:
    words = [sys.executable, "-c", BARE, str(folder / "bare.duckdb"), str(seconds), str(BENCHING.parent)]
    told = subprocess.run(
        ["taskset", "-c", str(SERVER_CORE), *words, str(BARE_ROWS)], check=True, capture_output=True, text=True
    )
    return float(told.stdout)


def measure(seconds: float, agents: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare = bare_rows_per_second(folder, max(5.0, seconds / 6))
        (folder / "bare.duckdb").unlink()
        (folder / "a").mkdir()
        collector = Collector(folder / "a", agents)
        alone = drive(collector, seconds)
        half = len(collector.mib) // 2
        growth = statistics.median(collector.mib[half + half // 2 :]) - statistics.median(
            collector.mib[half // 2 : half]
        )
        most_mib = max(collector.mib)
        collector.close()
        size = (collector.home / "ledger.duckdb").stat().st_size
        (folder / "b").mkdir()
        collector = Collector(folder / "b", agents)
        asked = drive(collector, seconds / 4, collector.admin)
        collector.close()
    rate = alone["rows"] / alone["wall"]
    used = alone["server_cpu"] / alone["wall"]
    note = f"the collector used {used:.0%} of its core, the fleet {alone['cpu'] / alone['wall']:.0%} of its own"
    rows = f"{agents} agents, {alone['rows']:,} rows"
    return [
        Row("rows acknowledged a second", "collector", rate, "rows/s", least=LEAST_ROWS, note=note),
        Row("rows a second of the collector's CPU", "collector", alone["rows"] / alone["server_cpu"], "rows/s"),
        Row("rows acknowledged over bare DuckDB's", "collector", rate / bare, "", note=rows),
        Row("rows appended a second", "bare DuckDB", bare, "rows/s", note=f"{BARE_ROWS} rows a commit"),
        Row(
            "acknowledgement, 99th percentile", "collector", percentile(alone["seconds"], 0.99), "s", most=MOST_P99,
            low=statistics.median(alone["seconds"]), high=max(alone["seconds"]), note="median to longest",
        ),
        Row(
            "the same with a dashboard's queries", "collector", percentile(asked["seconds"], 0.99), "s",
            most=MOST_P99_QUERIED, low=statistics.median(asked["seconds"]), high=max(asked["seconds"]),
            note=f"{len(asked['query_seconds'])} queries, the longest {max(asked['query_seconds']):.2f} s",
        ),
        Row("resident memory, most", "collector", most_mib, "MiB", most=MOST_MIB),
        Row("its growth, second half over first", "collector", growth, "MiB"),
        Row("requests that found the queue full", "collector", float(alone["busy"]), ""),
        Row("bytes a row in the ledger's file", "collector", size / alone["rows"], "B"),
        Row("bytes a row on the wire", "agents", alone["sent_bytes"] / alone["rows"], "B"),
    ]  # fmt: skip


def main() -> None:
    options = parser(__doc__, 60.0)
    options.add_argument("--agents", type=int, default=200)
    asked = options.parse_args()
    tell(measure(asked.seconds, asked.agents), asked.json)


if __name__ == "__main__":
    main()
