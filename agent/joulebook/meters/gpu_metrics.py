"""The energy accumulator in amdgpu's ``gpu_metrics``: the table that amdsmi's energy count is read from.

Source: drivers/gpu/drm/amd/include/kgd_pp_interface.h in Linux (structs gpu_metrics_v1_1 to v1_8). All tables
are little-endian and begin with their size (u16), format and content revision (u8 each). A field that the
firmware does not fill reads as all ones.
"""

from __future__ import annotations

import struct
from typing import Final

LONGEST: Final = 4096
"""No table of today is longer than a page."""

ENERGY_AT: Final = {(1, 1): 24, (1, 2): 24, (1, 3): 24, (1, 4): 24, (1, 5): 88, (1, 6): 16, (1, 7): 24, (1, 8): 24}
"""(format, content revision) -> offset of energy_accumulator (u64). 1.0 is not aligned, 1.9 is no fixed table."""

APU_FORMATS: Final = (2, 3)
"""Formats of chips that hold CPU and GPU; they have no energy."""

WIDE_FROM: Final = 4
"""From content revision 1.4 on the firmware's accumulator has 64 bits; before, most chips' has 32 and wraps."""

WRAP_COUNTS: Final = 1 << 32

HEADER: Final = struct.Struct("<HBB")
COUNTS: Final = struct.Struct("<Q")


def revision(table: bytes) -> tuple[int, int] | None:
    """(format, content revision) of a table, None where its header does not fit its length."""
    if len(table) < HEADER.size:
        return None
    size, form, content = HEADER.unpack_from(table)
    return (form, content) if HEADER.size < size <= len(table) else None


def energy_counts(table: bytes) -> int | None:
    """Counts of 2**-16 J in a table, None where it has none."""
    known = revision(table)
    at = ENERGY_AT.get(known) if known is not None else None
    if at is None or len(table) < at + COUNTS.size:
        return None
    counts: int = COUNTS.unpack_from(table, at)[0]
    return None if counts == (1 << 64) - 1 else counts


def is_wide(known: tuple[int, int], counts: int) -> bool:
    """Whether the accumulator is known to have 64 bits. known: the table's revision.  counts: what it holds."""
    return known[1] >= WIDE_FROM or counts >= WRAP_COUNTS


def microjoules(counts: int) -> int:
    """Whole microjoules of a cumulative count: 1e6 / 2**16 = 15625 / 1024 uJ each, floored once."""
    return counts * 15625 // 1024
