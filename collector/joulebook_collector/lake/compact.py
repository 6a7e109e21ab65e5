"""Compaction: several files of an hour become one, retirement: old raw files go and their minutes stand for them.

Neither changes a total. Files that no longer count are removed by ``clear``, later: whoever reads by an earlier version
still finds them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from joulebook.errors import LedgerError

from joulebook_collector.lake.lake import Lake, Prepared
from joulebook_collector.lake.manifest import LEVELS, Part, decode, path_of
from joulebook_collector.lake.parts import HOUR_US, name_of, write_hour
from joulebook_collector.lake.seal import MOST_MEASUREMENTS
from joulebook_collector.lake.views import scan

if TYPE_CHECKING:
    import duckdb

KEPT_VERSIONS: Final = 48
"""So many versions before the current one keep their files: for readers that began with them, and for backups."""

LEFT_OUT_STARTS: Final = (
    "select distinct m.started_at_us from measurement as m join left_out as o on o.txn = m.txn and o.seq = m.seq"
)
"""Starts of the rows that do not count as they are stored."""

_OURS: Final = re.compile(
    rf"(manifests/\d{{8}}\.json|({'|'.join(LEVELS)})/day=[\d-]{{10}}/hour=\d\d/part-\d{{8}}-[0-9a-f]{{8}}\.parquet)(\.unfinished)?"
)
"""Files that a lake may remove: whatever else lies in its folder is somebody else's."""


def prepare_compaction(lake: Lake, db: duckdb.DuckDBPyConnection, *, least_parts: int = 2) -> Prepared | None:
    """Write one file for each hour that has at least so many small ones, None when no hour has."""
    small: dict[int, list[Part]] = defaultdict(list)
    for part in lake.manifest.of_level("raw"):
        small[part.hour_us].append(part)
    chosen = {hour: _fitting(parts) for hour, parts in small.items()}
    chosen = {hour: parts for hour, parts in chosen.items() if len(parts) >= least_parts}
    if not chosen:
        return None
    version = lake.next_version()
    new: list[Part] = []
    gone: list[Part] = []
    for hour, parts in sorted(chosen.items()):
        written = _merge(lake, db, version, hour, parts)
        merged = {part.sha256 for part in parts}
        old = [part for part in lake.manifest.parts if part.made_from in merged]
        _same_totals(hour, old, written)
        new += written
        gone += old
    return lake.write("compact", version, new, gone)


def compact(lake: Lake, *, least_parts: int = 2) -> tuple[Part, ...]:
    """Merge the small files of every hour that has several; the new files."""
    with lake.ledger.cursor() as db:
        prepared = prepare_compaction(lake, db, least_parts=least_parts)
    if prepared is None:
        return ()
    lake.commit(prepared)
    return prepared.new


def retire(lake: Lake, before_us: int) -> tuple[Part, ...]:
    """Raw files of hours that start before then no longer count, and their minutes do; what went.

    Roll-ups stay for good. The past can then be priced as before, by any slot of whole minutes, but no run in it can be
    split again, and no as-of time be told apart within what was merged. What may share a slot with rows which do not
    count as they are stored (a better look hides them, a late mark changed them) keeps its raw files.
    """
    before_us = before_us // HOUR_US * HOUR_US
    left_out, _ = lake.ledger.corrections()
    lake.ledger.table("left_out", (("txn", "bigint"), ("seq", "bigint")), sorted(left_out))
    starts_us = sorted(start for (start,) in lake.ledger.query(LEFT_OUT_STARTS))
    raw = lake.manifest.of_level("raw")
    gone = [part for part in raw if part.hour_us < before_us and not part.reaches(starts_us, HOUR_US)]
    if not gone:
        return ()
    total = lake.manifest.millijoules()
    prepared = lake.write("retire", lake.next_version(), (), gone)
    if prepared.named.manifest.millijoules() != total:
        raise LedgerError(f"the minutes do not hold the {total} mJ that the lake has", "run joulebook ledger verify")
    lake.commit(prepared)
    return tuple(gone)


def clear(lake: Lake, *, kept_versions: int = KEPT_VERSIONS) -> list[str]:
    """Remove files of a lake that neither the current version nor one of those kept before it names; their paths.

    kept_versions: how many versions before the current one still can be read. Not while another thread seals.
    """
    kept = [lake.manifest]
    while len(kept) <= kept_versions and kept[-1].previous:
        text = lake.store.get(path_of(kept[-1].previous))
        if text is None:
            break
        kept.append(decode(text, path_of(kept[-1].previous)).manifest)
    named = {part.path for manifest in kept for part in manifest.parts}
    named |= {path_of(manifest.version) for manifest in kept}
    gone = [path for path in lake.store.list("") if path not in named and _OURS.fullmatch(path)]
    for path in gone:
        lake.store.remove(path)
    return gone


def _fitting(parts: Sequence[Part]) -> list[Part]:
    """As many, from the smallest, as one file may hold."""
    chosen: list[Part] = []
    for part in sorted(parts, key=lambda p: (p.measurements, p.path)):
        if sum(p.measurements for p in chosen) + part.measurements > MOST_MEASUREMENTS:
            break
        chosen.append(part)
    return chosen


def _merge(lake: Lake, db: duckdb.DuckDBPyConnection, version: int, hour: int, parts: Sequence[Part]) -> Sequence[Part]:
    db.execute("create or replace temp table merging as " + scan(parts, lake.store.readable))
    written = write_hour(db, lake.store, version, hour, "merging")
    db.execute("drop table merging")
    return written


def _same_totals(hour: int, old: Sequence[Part], new: Sequence[Part]) -> None:
    for level in ("raw", "minute", "hour"):
        before, after = ([_totals(p) for p in parts if p.level == level] for parts in (old, new))
        if [sum(column) for column in zip(*before, strict=True)] != [
            sum(column) for column in zip(*after, strict=True)
        ]:
            raise LedgerError(
                f"merging the {level} files of {name_of(hour)} would change their totals", "run joulebook ledger verify"
            )


def _totals(part: Part) -> tuple[int, int, int]:
    return (part.measurements, part.measured_millijoules, part.share_millijoules)
