"""The two clocks of the book: CLOCK_BOOTTIME for order and overlap, UTC for pricing."""

from __future__ import annotations

import time
from dataclasses import dataclass

from joulebook.units import NS_PER_US


def boottime_ns() -> int:
    """CLOCK_BOOTTIME in nanoseconds: monotone within a boot, counts while suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def utc_us() -> int:
    """UTC in microseconds since the epoch."""
    return time.time_ns() // NS_PER_US


@dataclass(frozen=True, slots=True)
class Offset:
    """UTC minus boot time, as seen at one instant; UTC may be stepped, so it is taken anew for every span."""

    ns: int

    def utc_us(self, at_ns: int) -> int:
        """UTC microseconds of a CLOCK_BOOTTIME instant."""
        return (at_ns + self.ns) // NS_PER_US

    def boot_ns(self, at_us: int) -> int:
        """CLOCK_BOOTTIME nanoseconds of a UTC instant."""
        return at_us * NS_PER_US - self.ns


def offset() -> Offset:
    """The offset now."""
    return Offset(time.time_ns() - boottime_ns())
