"""Whether the platform's counter (psys) may be believed: it must gain at least what its parts gain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from joulebook.meters import Device, Reading
from joulebook.units import NS_PER_SECOND

PLATFORM_ID: Final = "rapl:psys"
CHECK_NS: Final = NS_PER_SECOND
CHECK_MICROJOULES: Final = 10_000_000
"""It is compared with its parts once these have gained so much over such a time: then a step of 1 ms, and the reader's
quantum of 1 J, are small beside it."""
CHECK_TOLERANCE: Final = 0.01


class PlatformCheck:
    """Holds the platform's readings back until its counter has gained as much as its parts' together.

    Some boards wire it to nothing: it stands at 0, or counts a part of the machine only.  None of its joules is
    lost meanwhile: the readings held back are given out when it has passed.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        self.passed = False
        self._ranges = {device.device_id: device.wraps_at_microjoules for device in devices}
        self._first: dict[str, Reading] = {}
        self._held: list[Reading] = []

    def pass_on(self, readings: Sequence[Reading]) -> tuple[list[Reading], str]:
        """The readings that may be given out now, and what contradicts the platform's counter, "" so far nothing."""
        others = [reading for reading in readings if reading.device_id != PLATFORM_ID]
        self._held += [reading for reading in readings if reading.device_id == PLATFORM_ID][:1]
        now = {reading.device_id: reading for reading in readings}
        if now.keys() != self._ranges.keys():
            del self._held[1:-1]
            return others, ""
        self._first = self._first or now
        gains = {device_id: self._gain(now[device_id]) for device_id in now}
        own = gains.pop(PLATFORM_ID)
        parts = sum(gains.values())
        if now[PLATFORM_ID].at_ns - self._first[PLATFORM_ID].at_ns < CHECK_NS or parts < CHECK_MICROJOULES:
            del self._held[1:-1]
            return others, ""
        if own < (1 - CHECK_TOLERANCE) * parts:
            return (
                others,
                f"gained {own / 1e6:.1f} J while its parts gained {parts / 1e6:.1f} J: it does not contain them",
            )
        self.passed = True
        return [*others, *self._held], ""

    def _gain(self, reading: Reading) -> int:
        first = self._first[reading.device_id]
        assert reading.energy_microjoules is not None
        assert first.energy_microjoules is not None
        gain = reading.energy_microjoules - first.energy_microjoules
        return gain if gain >= 0 else gain + (self._ranges[reading.device_id] or 0)
