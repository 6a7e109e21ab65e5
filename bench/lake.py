"""The lake at scale: bytes of a sealed row, and the price of a fleet against bare queries by hand.

    python bench/lake.py [--millions 0.5 5] [--scratch DIRECTORY]

A generated fleet (benching.generated.py) is sealed; a row is a measurement with its shares. Asked is: per technique and
hour, with hourly intensity and PUE, what did runs emit? Beside it, over the same rows in plain Parquet files as DuckDB
writes them, with everything about sites and factors at hand: a join per row, and a sum before the join. Each in a fresh
process, in turns; the median counts. The answers must agree.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import duckdb
from benching.generated import HOUR_US, START_US, Fleet
from benching.results import Row, parser, tell
from joulebook.rows import Batch, Labels, Run, Status, Technique
from joulebook.rows import Row as Delivered
from joulebook_collector.factors import NewFactor, add_factors
from joulebook_collector.lake.lake import Lake
from joulebook_collector.lake.layout import OTHER, SEALED
from joulebook_collector.lake.parts import write_hour
from joulebook_collector.ledger import Ledger
from joulebook_collector.priced import SeriesKey
from joulebook_collector.pricing_fleet import price_fleet
from joulebook_collector.sites import add_site, assign

_OURS, _ROWS = "joulebook, from hours", "joulebook, from rows"
MACHINES = 100
ROWS_AN_HOUR = 443_000
FILE_MACHINES = 50
ZONES = ("DE", "FR", "PL")
TURNS = 5

_BARE = {
    "a join per row": """select r.technique, s.started_at_us // 3600000000 as hour, sum(s.millijoules) as mj,
        sum(s.millijoules / 3.6e9 * p.pue * i.g) as g
        from read_parquet('DIR/plain/*.parquet') as s join run as r on r.run_id = s.run_id
        join place as p on p.machine_id = s.machine_id
        join intensity as i on i.zone = p.zone and i.hour = s.started_at_us // 3600000000 group by all order by all""",
    "a sum, then a join": """with a as (
            select run_id, machine_id, started_at_us // 3600000000 as hour, sum(millijoules) as mj
            from read_parquet('DIR/plain/*.parquet') where kind = 'run' group by all)
        select r.technique, a.hour, sum(a.mj) as mj, sum(a.mj / 3.6e9 * p.pue * i.g) as g
        from a join run as r on r.run_id = a.run_id join place as p on p.machine_id = a.machine_id
        join intensity as i on i.zone = p.zone and i.hour = a.hour group by all order by all""",
}


def build(folder: Path, measurements: float) -> dict[str, float]:
    """A ledger whose rows are all sealed, and the same rows in plain files; what was measured on the way."""
    hours = max(1, round(measurements / ROWS_AN_HOUR))
    fleet = Fleet(MACHINES, hours)
    (folder / "plain").mkdir(parents=True)
    dimensions(folder, hours, fleet)
    parts, sealing, plain_bytes = [], 0.0, 0
    with Ledger.open(folder / "ledger.duckdb") as ledger:
        lake = Lake(ledger)
        take_dimensions(ledger, hours, fleet)
        for hour in range(hours):
            shares = fleet.shares(hour)
            with duckdb.connect(config={"threads": 2}) as db:
                db.register("generated", shares)
                file = folder / "plain" / f"{hour:04d}.parquet"
                db.execute(f"copy (select * from generated) to '{file}' (format parquet)")
                plain_bytes += file.stat().st_size
                columns = ", ".join(
                    f"case when ordinal = 0 then energy_millijoules - millijoules end as {OTHER}" if n == OTHER else n
                    for n, _ in SEALED
                )
                for first in range(0, MACHINES, FILE_MACHINES):
                    ids = f"between 'node-{first:04d}' and 'node-{first + FILE_MACHINES - 1:04d}'"
                    rows = f"select {columns} from generated where machine_id {ids}"
                    db.execute(f"create or replace temp table sealing as {rows}")
                    began = time.perf_counter()
                    parts += write_hour(db, lake.store, 1, START_US + hour * HOUR_US, "sealing")
                    sealing += time.perf_counter() - began
        lake.commit(lake.write("seal", 1, parts))
        raw = lake.manifest.of_level("raw")
        sizes = {level: sum(p.bytes for p in lake.manifest.of_level(level)) for level in ("raw", "minute", "hour")}
    count = sum(part.measurements for part in raw)
    return {
        "measurements": count,
        "shares": sum(part.rows for part in raw),
        "hours": hours,
        "seal_per_second": count / sealing,
        "plain_bytes": plain_bytes / count,
        **{f"{level}_bytes": size / count for level, size in sizes.items()},
    }


def intensity(zone: str, hour: int) -> float:
    """Grams per kWh, different every hour."""
    return {"DE": 350.0, "FR": 45.0, "PL": 620.0}[zone] * (1 + 0.3 * ((hour * 7 + len(zone)) % 24 - 12) / 24)


def dimensions(folder: Path, hours: int, fleet: Fleet) -> None:
    """What the bare queries join with, as files."""
    places = [(f"node-{m:04d}", ZONES[m % 3], 1.1 + 0.1 * (m % 3)) for m in range(fleet.machines)]
    grid = [(z, START_US // HOUR_US + h, intensity(z, h)) for z in ZONES for h in range(hours + 1)]
    with duckdb.connect() as db:
        db.execute("create table place (machine_id varchar, zone varchar, pue double)")
        db.executemany("insert into place values (?, ?, ?)", places)
        db.execute("create table intensity (zone varchar, hour bigint, g double)")
        db.executemany("insert into intensity values (?, ?, ?)", grid)
        db.register("run", fleet.runs())
        for name in ("place", "intensity", "run"):
            db.execute(f"copy (select * from {name}) to '{folder / name}.parquet' (format parquet)")


def take_dimensions(ledger: Ledger, hours: int, fleet: Fleet) -> None:
    """The same in the ledger."""
    for index, zone in enumerate(ZONES):
        add_site(ledger, zone.lower(), pue=1.1 + 0.1 * index, pue_source="generated", u_pue=0.03, zone=zone)
    for machine in range(fleet.machines):
        assign(ledger, f"node-{machine:04d}", ZONES[machine % 3].lower())
    series = {site.site_id: site.series for site in ledger.sites() if site.series}
    values = []
    for zone in ZONES:
        key = series[zone.lower()]
        assert isinstance(key, SeriesKey)
        starts = [(h, START_US + h * HOUR_US) for h in range(hours + 1)]
        values += [NewFactor(key, at, at + HOUR_US, intensity(zone, h), "generated", 0.05) for h, at in starts]
    add_factors(ledger, values, "generated")
    runs = fleet.runs().to_pylist()
    bodies = [
        Run(
            r["run_id"],
            "m",
            "b",
            Status.OK,
            START_US,
            0,
            Labels(techniques=_techniques(r["technique"])),
            START_US + 1,
            1,
        )
        for r in runs
    ]
    ledger.ingest(Batch("bench", "bench", tuple(Delivered(i, body) for i, body in enumerate(bodies, start=1))))


def _techniques(name: str) -> tuple[Technique, ...]:
    return (Technique(name),) if name else ()


def ask(folder: Path, who: str) -> dict[str, object]:
    """One question in this process: seconds (the second asking), peak memory, and the answer's sums."""
    question = _bare(folder, who) if who in _BARE else _ours(folder, rows=who == _ROWS)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        lines, millijoules, grams = question()
        seconds.append(time.perf_counter() - began)
    status = Path("/proc/self/status").read_text().split()
    peak = int(status[status.index("VmHWM:") + 1]) / 1024  # getrusage would tell of the parent before exec too
    return {"seconds": seconds[-1], "peak_mib": peak, "lines": lines, "millijoules": millijoules, "grams": grams}


def _ours(folder: Path, *, rows: bool) -> Callable[[], tuple[int, int, float]]:
    ledger = Ledger.open(folder / "ledger.duckdb")
    hours = json.loads((folder / "built.json").read_text())["hours"]

    def question() -> tuple[int, int, float]:
        lines = price_fleet(ledger, (START_US, START_US + (hours + 1) * HOUR_US), rows=rows)
        assert all(line.emissions_g is not None for line in lines)
        return len(lines), sum(line.energy_millijoules for line in lines), sum(line.emissions_g or 0 for line in lines)

    return question


def _bare(folder: Path, who: str) -> Callable[[], tuple[int, int, float]]:
    db = duckdb.connect()
    for name in ("place", "intensity", "run"):
        db.execute(f"create table {name} as select * from '{folder / name}.parquet'")
    sql = _BARE[who].replace("DIR", str(folder))

    def question() -> tuple[int, int, float]:
        rows = db.execute(sql).fetchall()
        return len(rows), sum(row[2] for row in rows), sum(row[3] for row in rows)

    return question


def in_turns(folder: Path, turns: int) -> dict[str, list[dict[str, float]]]:
    """Every contestant in fresh processes, one after the other."""
    told: dict[str, list[dict[str, float]]] = {who: [] for who in (_OURS, _ROWS, *_BARE)}
    for _ in range(turns):
        for who, answers in told.items():
            done = subprocess.run(
                [sys.executable, __file__, "--ask", str(folder), who], check=True, capture_output=True, text=True
            )
            answers.append(json.loads(done.stdout))
    return told


def compare(folder: Path, millions: float, turns: int) -> list[Row]:
    """Build, ask, and say how they compare."""
    kept = folder / "built.json"
    if not kept.exists():
        kept.write_text(json.dumps(build(folder, millions * 1e6)))
    built = json.loads(kept.read_text())
    if not turns:
        return []
    told = in_turns(folder, turns)
    answers = {(a["lines"], a["millijoules"], round(a["grams"], 3)) for who in told for a in told[who]}
    if len(answers) != 1:
        raise SystemExit(f"the answers differ: {answers}")
    seconds = {who: median(a["seconds"] for a in told[who]) for who in told}
    best = min(_BARE, key=lambda who: seconds[who])
    size = f"{built['measurements'] / 1e6:.3g} M rows"
    note = f"{built['shares'] / 1e6:.3g} M shares, with uncertainty per meter"
    return [
        *(Row(f"report, {size}", who, seconds[who], "s", note=note) for who in (_OURS, _ROWS)),
        *(Row(f"report, {size}", f"bare: {who}", seconds[who], "s") for who in _BARE),
        *(_ratio(f"report against {best}, {size}", who, told) for who in (_OURS, _ROWS)),
        *(
            Row(f"peak memory of the report, {size}", who, max(a["peak_mib"] for a in told[who]), "MiB", most=1024)
            for who in told
        ),
        Row(f"sealed row, {size}", "joulebook", built["raw_bytes"], "B", most=10, note="a measurement with its shares"),
        Row(f"its minutes, {size}", "joulebook", built["minute_bytes"], "B"),
        Row(f"its hours, {size}", "joulebook", built["hour_bytes"], "B"),
        Row(f"plain row, {size}", "DuckDB's Parquet", built["plain_bytes"], "B"),
        Row(f"sealing, {size}", "joulebook", built["seal_per_second"], "rows/s"),
    ]


def _ratio(figure: str, who: str, told: dict[str, list[dict[str, float]]]) -> Row:
    """Against the faster bare query of the same turn."""
    fastest = [min(told[bare][turn]["seconds"] for bare in _BARE) for turn in range(len(told[who]))]
    ratios = sorted(ours["seconds"] / best for ours, best in zip(told[who], fastest, strict=True))
    return Row(figure, who, median(ratios), "x", ratios[0], ratios[-1], most=2.5)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument(
        "--millions",
        type=float,
        nargs="+",
        default=[0.5, 5.0],
        help="sizes, in millions of rows (50 takes a quarter of an hour or more to build)",
    )
    options.add_argument("--turns", type=int, default=TURNS, help="how often each is asked; 0 only builds")
    options.add_argument(
        "--scratch", type=Path, metavar="DIRECTORY", help="build there and leave it, to be asked again"
    )
    options.add_argument("--ask", nargs=2, help="used by the bench itself")
    given = options.parse_args()
    if given.ask:
        print(json.dumps(ask(Path(given.ask[0]), given.ask[1])))
        return
    rows: list[Row] = []
    for millions in given.millions:
        with ExitStack() as stack:
            scratch = given.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            rows += compare(scratch / f"{millions:g}", millions, given.turns)
    tell(rows, given.json)


if __name__ == "__main__":
    main()
