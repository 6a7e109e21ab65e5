"""What a ledger takes: rows decoded, checked, linked and stored by one core, beside bare DuckDB that appends the same.

    python bench/ledger.py [--rows N] [--json FILE]

Batches of 120 measurements with two shares each come from 200 agents, 50 batches a commit, as the collector's
writer takes them. The contestant decodes JSON to rows and takes them durably; the reference has the same columns as
Arrow tables already, and appends them with as many commits. CPU time of the process, which is pinned to one core.
"""

import gc
import os
import random
import tempfile
import time
from pathlib import Path

import duckdb
import msgspec
import pyarrow as pa
from benching.results import Row, parser, tell
from joulebook.rows import Batch, Measurement, to_wire
from joulebook.rows import Row as Placed
from joulebook_collector import schema
from joulebook_collector.ledger import STORAGE, Ledger
from joulebook_collector.testing import a_measurement

AGENTS, DEVICES, TICKS, BATCHES_A_COMMIT = 200, 12, 10, 50


class Body(msgspec.Struct):
    """A request, as far as it is needed here."""

    agent_id: str
    incarnation: str
    first_seq: int
    rows: list[Measurement]


def bodies(rows: int, rng: random.Random) -> list[bytes]:
    """Requests in the order of their arrival: energies, spans and weights as uneven as real ones."""
    rounds = max(1, rows // (AGENTS * DEVICES * TICKS))
    edges = [[0.0] * DEVICES for _ in range(AGENTS)]
    made = []
    for part in range(rounds):
        for agent in range(AGENTS):
            batch = [
                measurement(agent, device, edges[agent], part * TICKS + tick, rng)
                for tick in range(TICKS)
                for device in range(DEVICES)
            ]
            made.append(
                msgspec.json.encode({
                    "version": 1, "agent_id": f"{agent * 7919:032x}", "incarnation": f"{agent:016x}",
                    "first_seq": part * DEVICES * TICKS + 1, "rows": [to_wire(row) for row in batch],
                })
            )  # fmt: skip
    return made


def measurement(agent: int, device: int, edges: list[float], tick: int, rng: random.Random) -> Measurement:
    """The next span of a device."""
    start, edges[device] = edges[device], tick * 10 + 10 + round(rng.gauss(0, 0.0015), 6)
    energy = round((120 + rng.gauss(300, 60)) * 10_000)
    return a_measurement(
        start, edges[device], energy, f"run-{agent}-{tick // 60}", rng.randrange(energy),
        machine_id=f"node-{agent:04d}", boot_id=f"{agent * 104729:032x}",
        device_id=f"GPU-{agent * 8 + device:08x}-5c4e-7a11-b0de-{agent:012x}", u_indep=rng.random() / 100,
    )  # fmt: skip


def taken(path: Path, requests: list[bytes]) -> tuple[float, float, int]:
    """CPU seconds of decoding, of all, and the bytes of the file that are in use for the rows."""
    decoder = msgspec.json.Decoder(Body)
    with Ledger.open(path) as ledger:
        ledger.query("set threads = 1")
        ledger.checkpoint()
        empty = in_use(ledger)
        began, decoding = time.process_time(), 0.0
        for at in range(0, len(requests), BATCHES_A_COMMIT):
            group, before = [], time.process_time()
            for text in requests[at : at + BATCHES_A_COMMIT]:
                body = decoder.decode(text)
                placed = tuple(Placed(seq, row) for seq, row in enumerate(body.rows, body.first_seq))
                group.append(Batch(body.agent_id, body.incarnation, placed))
            decoding += time.process_time() - before
            ledger.ingest_all(group)
        spent = time.process_time() - began
        ledger.checkpoint()
        return decoding, spent, in_use(ledger) - empty


def in_use(ledger: Ledger) -> int:
    """Bytes of the blocks that hold something."""
    return int(ledger.query("select used_blocks * block_size from pragma_database_size() limit 1")[0][0])


def stored(path: Path) -> list[tuple[pa.Table, pa.Table]]:
    """What the ledger holds, in full columns, cut as it was committed."""
    with Ledger.open(path) as ledger, ledger.reader() as reader:
        bounds = [txn for (txn,) in reader.query("select txn from log where action = 'ingest' order by txn")]
        groups = [
            (bounds[at], bounds[min(at + BATCHES_A_COMMIT, len(bounds)) - 1])
            for at in range(0, len(bounds), BATCHES_A_COMMIT)
        ]
        whole = []
        for table in ("measurement", "share"):
            names = ", ".join(name for name, _ in schema.TABLES[table])
            db = reader._db
            whole.append([
                db.sql(f"select {names} from {table} where txn between {first} and {last}").to_arrow_table()
                for first, last in groups
            ])  # fmt: skip
        return list(zip(*whole, strict=True))


def appended(path: Path, groups: list[tuple[pa.Table, pa.Table]]) -> float:
    """CPU seconds of bare DuckDB for the same columns and commits."""
    with duckdb.connect(str(path), config={"storage_compatibility_version": STORAGE}) as db:
        db.execute("set threads = 1")
        for name, table in zip(("m", "s"), groups[0], strict=True):
            db.register("incoming", table)
            db.execute(f"create table {name} as select * from incoming limit 0")
        began = time.process_time()
        for group in groups:
            db.execute("begin transaction")
            for name, table in zip(("m", "s"), group, strict=True):
                db.register("incoming", table)
                db.execute(f"insert into {name} select * from incoming")
            db.execute("commit")
        return time.process_time() - began


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rows", type=int, default=480_000, help="measurements, default 480000")
    asked = made.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    requests = bodies(asked.rows, random.Random(1))
    rows = len(requests) * DEVICES * TICKS
    gc.freeze()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.duckdb"
        decoding, spent, size = taken(path, requests)
        bare = appended(Path(folder) / "bare.duckdb", stored(path))
        began = time.process_time()
        with Ledger.open(path) as ledger:
            ledger.follow_chain()
        followed = time.process_time() - began
    gc.unfreeze()
    tell(
        [
            Row("rows a second of one core, from JSON to disk", "joulebook", rows / spent, "rows/s", least=60_000),
            Row("of it decoding", "msgspec", decoding / rows * 1e6, "us/row"),
            Row("of it judging, linking, storing", "joulebook", (spent - decoding) / rows * 1e6, "us/row"),
            Row("appending the same columns", "bare DuckDB", bare / rows * 1e6, "us/row", note="Arrow tables at hand"),
            Row("all of it to appending", "ratio", spent / bare, "times"),
            Row("bytes of a hot row", "joulebook", size / rows, "bytes", most=30, note="two shares, chain, log"),
            Row("following the chain", "joulebook", followed / rows * 1e6, "us/row"),
        ],
        asked.json,
    )


if __name__ == "__main__":
    main()
