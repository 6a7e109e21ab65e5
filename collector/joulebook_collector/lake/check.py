"""What can be wrong with a lake: a file altered, missing, counted twice, or other than manifest and ledger say."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Final

import duckdb

from joulebook_collector.lake.lake import Lake
from joulebook_collector.lake.layout import SEALED
from joulebook_collector.lake.manifest import Manifest, Part, decode, hash_of, path_of
from joulebook_collector.lake.rollup import ROLLED
from joulebook_collector.lake.views import scan

Tick = Callable[[int, int], None]

_RAW: Final = """
select count(*), coalesce(sum(millijoules), 0)::hugeint, count(*) filter (where coalesce(ordinal, 0) = 0),
    coalesce(sum(coalesce(millijoules, 0) + other_millijoules) filter (where coalesce(ordinal, 0) = 0), 0)::hugeint,
    min(started_at_us), max(ended_at_us), min(known_at_us), max(known_at_us),
    count(*) filter (where ended_at_us > (started_at_us // 60000000 + 1) * 60000000)
from ({rows})
"""
_ROLLED: Final = "select count(*), coalesce(sum(millijoules), 0)::hugeint from ({rows})"
_TWICE: Final = """
select txn, seq, count(*) from sealed_row where coalesce(ordinal, 0) = 0 group by txn, seq having count(*) > 1
order by txn, seq limit 1
"""
_BOTH: Final = """
select h.txn, h.seq from hot_measurement as h
join (select txn, seq from sealed_row where coalesce(ordinal, 0) = 0) as s on s.txn = h.txn and s.seq = h.seq
order by h.txn, h.seq limit 1
"""


def _quiet(_done: int, _all: int) -> None:
    return


def check_lake(lake: Lake, tick: Tick = _quiet) -> list[str]:
    """What is wrong with the version that counts, in words; empty when nothing is.

    Every file is read: its bytes against its hash, its rows against the manifest's counts and totals, the sums of
    shares against their measurements, roll-ups against the rows that they stand for. No row may be hot and sealed, or
    sealed twice. The chain of manifests is followed as far as it is kept.
    tick: called with how many files were read of how many.
    """
    found = [*_chain(lake), *_listed_twice(lake.manifest), *_levels(lake.manifest)]
    whole = []
    for number, part in enumerate(lake.manifest.parts, start=1):
        wrong = list(_file(lake, part))
        found += wrong
        whole.append(not wrong)
        tick(number, len(lake.manifest.parts))
    if all(whole):  # what cannot be read was told above
        found += _twice(lake)
    return found


def _chain(lake: Lake) -> Iterator[str]:
    manifest = lake.manifest
    while manifest.previous:
        path = path_of(manifest.previous)
        text = lake.store.get(path)
        if text is None:
            return  # cleared away
        if hash_of(text) != manifest.previous_sha256:
            yield f"{path} differs from what version {manifest.version} was made from"
            return
        manifest = decode(text, path).manifest


def _listed_twice(manifest: Manifest) -> Iterator[str]:
    for path, times in Counter(part.path for part in manifest.parts).items():
        if times > 1:
            yield f"{path} is listed {times} times"
    for (level, digest), times in Counter((part.level, part.sha256) for part in manifest.parts).items():
        paths = sorted({part.path for part in manifest.parts if (part.level, part.sha256) == (level, digest)})
        if times > 1 and len(paths) > 1:
            yield f"{' and '.join(paths)} hold the same rows"


def _levels(manifest: Manifest) -> Iterator[str]:
    """Every raw file has its minutes and hours, and they hold what it holds."""
    groups: dict[str, dict[str, Part]] = defaultdict(dict)
    for part in manifest.parts:
        groups[part.made_from][part.level] = part
    for levels in groups.values():
        first = next(iter(levels.values()))
        if missing := {"minute", "hour"} - levels.keys():
            yield f"{first.path} has no file of level {' and '.join(sorted(missing))}"
        held = {level: part.share_millijoules for level, part in levels.items()}
        if len(set(held.values())) > 1:
            yield f"the levels of {first.path} hold {held} mJ"


def _file(lake: Lake, part: Part) -> Iterator[str]:
    content = lake.store.get(part.path)
    if content is None:
        yield f"{part.path} is missing"
        return
    if hash_of(content) != part.sha256:
        yield f"{part.path} differs from what was written"
        return
    raw = part.level == "raw"
    with duckdb.connect() as db:
        columns = ", ".join(name for name, _ in (SEALED if raw else ROLLED))
        sql = (_RAW if raw else _ROLLED).format(rows=scan([part], lake.store.readable, columns))
        seen = db.execute(sql).fetchall()[0]
    said: tuple[int, ...] = (part.rows, part.share_millijoules)
    if raw:
        said += (part.measurements, part.measured_millijoules, part.started_at_us, part.ended_at_us)
        said += (part.known_from_us, part.known_to_us, part.crossing)
    if seen != said:
        yield f"{part.path} holds {seen}, its manifest says {said}"
    if part.measured_millijoules != part.share_millijoules:
        sums = f"{part.share_millijoules} mJ, its measurements to {part.measured_millijoules}"
        yield f"the shares of {part.path} sum to {sums}"


def _twice(lake: Lake) -> Iterator[str]:
    for txn, seq, times in lake.ledger.query(_TWICE):
        yield f"measurement {seq} of transaction {txn} is sealed {times} times"
    for txn, seq in lake.ledger.query(_BOTH):
        yield f"measurement {seq} of transaction {txn} is both hot and sealed"
