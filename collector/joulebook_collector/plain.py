"""Batches of plain measurements, which nearly all are: judged by their types while they are decoded.

Accepts nothing that reading row by row would not: whatever is not plain is left to that (wire.py), which says why.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from joulebook.rows import MAX_TEXT, Component, Measurement, Method, Policy, ShareKind
from msgspec import Meta

from joulebook_collector.limits import EARLIEST_US, LATEST_US, MOST_ROWS, MOST_SHARES

BIGINT_MAX: Final = 2**63 - 1
LARGEST_SEQ: Final = 2**62
Name = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Whole = Annotated[int, Meta(ge=0, le=BIGINT_MAX)]
Instant = Annotated[int, Meta(ge=EARLIEST_US, le=LATEST_US)]
Real = Annotated[float, Meta(ge=0.0)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]


class PlainWeights(msgspec.Struct, frozen=True, gc=False):
    """As joulebook.rows.Weights."""

    cpu_seconds: Real = 0.0
    sm_seconds: Real = 0.0
    reserved_fraction: Real = 0.0


_NO_WEIGHTS: Final = PlainWeights()


class PlainShare(msgspec.Struct, frozen=True, gc=False):
    """As joulebook.rows.Share."""

    kind: ShareKind
    millijoules: Whole
    policy: Policy
    run_id: Text = ""
    phase: Text = ""
    member: Text | None = None
    rank: Annotated[int, Meta(ge=-BIGINT_MAX, le=BIGINT_MAX)] | None = None
    weights: PlainWeights = _NO_WEIGHTS


class PlainMeasurement(msgspec.Struct, frozen=True, gc=False):
    """As joulebook.rows.Measurement."""

    row: Literal["measurement"]
    machine_id: Name
    boot_id: Text
    device_id: Name
    component: Component
    started_at_us: Instant
    ended_at_us: Instant
    started_ns: Whole
    ended_ns: Whole
    energy_millijoules: Whole
    meter: Name
    method: Method
    u_common: Real
    u_common_key: Text
    u_indep: Real
    coverage: Fraction
    source: Text
    shares: Annotated[tuple[PlainShare, ...], Meta(max_length=MOST_SHARES)]
    idle_millijoules: Whole | None = None
    note: Text = ""
    start_slack_millijoules: Whole | None = None
    end_slack_millijoules: Whole | None = None

    def as_body(self) -> Measurement:
        """The same as a row of the book."""
        return msgspec.convert(self, Measurement, from_attributes=True)


class PlainBatch(msgspec.Struct, frozen=True, gc=False):
    """A batch of nothing else, of this version."""

    version: Literal[1]
    agent_id: Name
    incarnation: Name
    first_seq: Annotated[int, Meta(ge=1, le=LARGEST_SEQ)]
    rows: Annotated[tuple[PlainMeasurement, ...], Meta(min_length=1, max_length=MOST_ROWS)]


_DECODER: Final = msgspec.json.Decoder(PlainBatch)


def plain_batch(text: bytes) -> PlainBatch | None:
    """The batch, when every row is a measurement that nothing stands against; else None."""
    try:
        batch = _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return batch if all(map(_holds, batch.rows)) else None


def _holds(m: PlainMeasurement) -> bool:
    """What types cannot say: spans that have a length, shares that exhaust their measurement, runs named where due."""
    if not (m.started_at_us < m.ended_at_us and m.started_ns < m.ended_ns):
        return False
    left = m.energy_millijoules
    for share in m.shares:
        left -= share.millijoules
        if (share.kind is _RUN) != (share.run_id != ""):
            return False
    return left == 0


_RUN: Final = ShareKind.RUN
