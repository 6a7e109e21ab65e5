"""What the collector holds and believes; a row beyond it goes to quarantine, a request beyond it is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from joulebook.rows import MAX_TEXT, Body, Mark, Measurement, Reassignment, Run, Share

MOST_BODY_BYTES: Final = 8 << 20
"""Of one request, packed and unpacked alike."""
MOST_BODIES_BYTES: Final = 64 << 20
"""Of all requests that are being read at one moment."""
MOST_WAITING_BYTES: Final = 128 << 20
"""Of all batches that wait to be written, unpacked: a bound for rows that are larger than most."""
MOST_ROWS: Final = 5000
"""Of one batch; agents send 500."""
MOST_SHARES: Final = 4096
"""Of one measurement."""
MOST_LABELS: Final = 64
"""Techniques of a run, parameters of each, metrics of a mark, runs that one inherits from."""
MOST_LONG_TEXT: Final = 65536
"""Characters of a reason, a note or a word of a command."""
MOST_DEPTH: Final = 32
"""Levels within a run's record or a technique's parameters."""
EARLIEST_US: Final = 1_420_070_400_000_000
"""2015-01-01T00:00:00Z in UTC microseconds: a clock before it was never set."""
LATEST_US: Final = 4_102_444_800_000_000
"""2100-01-01T00:00:00Z. Fixed, like the earliest: the same row is judged alike whenever it comes."""


def objection(body: Body) -> str:
    """Why a row that could be read is not believed, in words; "" when nothing stands against it."""
    if isinstance(body, Measurement):
        return _of_measurement(body)
    if isinstance(body, Run):
        return _of_run(body)
    if isinstance(body, Mark):
        return _of_mark(body)
    return _of_reassignment(body)


def _of_measurement(m: Measurement) -> str:
    if not (m.started_at_us >= EARLIEST_US and m.ended_at_us <= LATEST_US):
        return _clock(m.started_at_us if m.started_at_us < EARLIEST_US else m.ended_at_us)
    if m.started_ns < 0:
        return f"started_ns is {m.started_ns}: before the machine's boot"
    if len(m.shares) > MOST_SHARES:
        return f"{len(m.shares)} shares, more than {MOST_SHARES}"
    if len(m.note) > MOST_LONG_TEXT:
        return _long("note", m.note)
    names = (("boot_id", m.boot_id), ("u_common_key", m.u_common_key), ("source", m.source))
    return _too_long(names) or next(filter(None, map(_of_share, m.shares)), "")


def _of_share(s: Share) -> str:
    if len(s.run_id) > MAX_TEXT or len(s.phase) > MAX_TEXT or (s.member is not None and len(s.member) > MAX_TEXT):
        return f"run, phase or member of a share is longer than {MAX_TEXT} characters"
    w = s.weights
    if not (w.cpu_seconds >= 0 and w.sm_seconds >= 0 and w.reserved_fraction >= 0):
        return "a weight of a share is negative"
    return ""


def _of_run(r: Run) -> str:
    for at_us in (r.started_at_us, r.ended_at_us):
        if at_us is not None and not EARLIEST_US <= at_us <= LATEST_US:
            return _clock(at_us)
    labels = r.labels
    names = (
        *(("machine_id", r.machine_id), ("boot_id", r.boot_id), ("source", r.source), ("name", labels.name)),
        *(("project", labels.project), ("study", labels.study), ("arm", labels.arm), ("member", labels.member or "")),
        *(("parent_run_id", labels.parent_run_id), ("data_hash", labels.data_hash)),
        *(("technique", technique.name) for technique in labels.techniques),
    )
    counts: tuple[tuple[str, int], ...] = (
        ("techniques", len(labels.techniques)),
        ("inherited runs", len(labels.inherits)),
        *(("parameters", len(technique.parameters)) for technique in labels.techniques),
    )
    for what, count in counts:
        if count > MOST_LABELS:
            return f"{count} {what}, more than {MOST_LABELS}"
    for text in (r.reason, *r.command, *r.notes):
        if len(text) > MOST_LONG_TEXT:
            return _long("a text", text)
    nested = (r.record, *(technique.parameters for technique in labels.techniques))
    if any(_deeper(value, MOST_DEPTH) for value in nested):
        return f"its record or parameters are nested deeper than {MOST_DEPTH} levels"
    return _too_long(names)


def _of_mark(m: Mark) -> str:
    if not EARLIEST_US <= m.at_us <= LATEST_US:
        return _clock(m.at_us)
    if len(m.quality) > MOST_LABELS:
        return f"{len(m.quality)} metrics, more than {MOST_LABELS}"
    names = (
        *(("run_id", m.run_id), ("machine_id", m.machine_id), ("boot_id", m.boot_id), ("kind", m.kind)),
        *(("phase", m.phase), ("member", m.member or ""), ("split", m.split)),
        *(("metric", name) for name in m.quality),
    )
    return _too_long(names)


def _of_reassignment(r: Reassignment) -> str:
    return _too_long((("incarnation", r.incarnation),)) or _of_share(r.from_share) or _of_share(r.to_share)


def _too_long(names: Sequence[tuple[str, str]]) -> str:
    return next((_long(name, text) for name, text in names if len(text) > MAX_TEXT), "")


def _long(name: str, text: str) -> str:
    return f"{name} has {len(text)} characters, too many"


def _clock(at_us: int) -> str:
    return f"the clock says {at_us} us since 1970: not within 2015 to 2100"


def _deeper(value: Any, levels: int) -> bool:
    if isinstance(value, Mapping):
        return levels == 0 or any(_deeper(inner, levels - 1) for inner in value.values())
    if isinstance(value, list | tuple):
        return levels == 0 or any(_deeper(inner, levels - 1) for inner in value)
    return False
