"""Whether the agent lives and measures, from its snapshot. Pure."""

from __future__ import annotations

from joulebook.metrics import is_fresh
from joulebook.snapshot import Snapshot
from joulebook.units import NS_PER_SECOND


def not_live(snapshot: Snapshot | None, now_ns: int) -> list[str]:
    """Why the agent should be restarted, one line each; empty while its loop turns. now_ns: CLOCK_BOOTTIME."""
    if snapshot is None:
        return ["the agent has not begun"]
    if is_fresh(snapshot.at_ns, snapshot.sample_ns, now_ns):
        return []
    return [f"the sampler's loop has not turned for {(now_ns - snapshot.at_ns) / NS_PER_SECOND:.1f} s"]


def not_ready(snapshot: Snapshot | None, now_ns: int) -> list[str]:
    """Why what the machine draws is not being booked, one line each; empty while it is."""
    reasons = not_live(snapshot, now_ns)
    if snapshot is None:
        return reasons
    if not any(meter.up for meter in snapshot.meters):
        reasons.append("no meter can be read: `joulebook doctor` says why")
    elif not any(is_fresh(d.read_ns, max(d.step_ns, snapshot.sample_ns), now_ns) for d in snapshot.devices):
        reasons.append("no device has been read")
    if not snapshot.outbox.writable:
        reasons.append("the outbox's disk refuses rows: they wait in memory")
    return reasons
