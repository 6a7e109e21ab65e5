"""Open RAPL counters: one system call per zone and read; a zone that vanishes is looked for again."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from typing import Final

from joulebook.meters import LeftOut, Reading, Roots
from joulebook.powercap import MOST_COUNT, Zone, admissible, count, find_zones
from joulebook.units import NS_PER_SECOND

TICK_JITTER_NS: Final = 100_000_000
"""Looks are planned this much early: ticks fall on whole seconds, and a late one must not put a look off by another."""
FIRST_RETRY_NS: Final = NS_PER_SECOND
LAST_RETRY_NS: Final = 30 * NS_PER_SECOND
"""How long after a vain look for vanished zones the next one comes: doubling from the first to the last."""
CONTENT_BYTES: Final = 32


class ZoneFiles:
    """Counters by device_id. Descriptors stay open: permissions taken away later do not matter until a zone vanishes.

    troubles: zones that are not read now and why.
    """

    def __init__(self, roots: Roots, zones: Sequence[Zone]) -> None:
        """Open and read every zone. Raises OSError or ValueError, naming the file, when any cannot be read."""
        self._roots = roots
        self._zones = {f"rapl:{zone.path}": zone for zone in zones}
        self._open: list[tuple[str, int, int]] = []
        self._lost: list[str] = []
        self._retry_ns = FIRST_RETRY_NS
        self._retry_at = 0
        self.troubles: dict[str, LeftOut] = {}
        try:
            for device_id, zone in self._zones.items():
                self._open.append((device_id, *open_counter(zone)))
        except (OSError, ValueError):
            self.close()
            raise

    def read(self) -> list[Reading]:
        """Cumulative microjoules of every zone that answers, each with the middle of the time that its read took."""
        pread, gettime, boottime = os.pread, time.clock_gettime_ns, time.CLOCK_BOOTTIME
        readings = []
        gone: list[tuple[str, str]] = []
        before = gettime(boottime)
        for device_id, fd, most in self._open:
            content = b"?"
            try:
                content = pread(fd, CONTENT_BYTES, 0)
                value = count(content, most)
            except OSError as error:
                gone.append((device_id, (error.strerror or "unreadable").lower()))
                continue
            except ValueError:
                if not content:
                    gone.append((device_id, "empty"))
                continue
            after = gettime(boottime)
            readings.append(Reading(device_id, (before + after) // 2, value))
            before = after
        if gone or self._lost:
            self._seek(gone, before)
        return readings

    def keep(self, device_ids: Collection[str]) -> None:
        """Read only these from now on."""
        for device_id, fd, _ in self._open:
            if device_id not in device_ids:
                os.close(fd)
        self._open = [one for one in self._open if one[0] in device_ids]
        self._lost = [device_id for device_id in self._lost if device_id in device_ids]
        self._zones = {device_id: zone for device_id, zone in self._zones.items() if device_id in device_ids}

    def close(self) -> None:
        """Close every file."""
        self.keep(())

    def _seek(self, gone: Sequence[tuple[str, str]], now_ns: int) -> None:
        """Give up the descriptors of what has gone, and look once for all that is lost, if it is time to."""
        for device_id, why in gone:
            self._lost.append(device_id)
            self.troubles[device_id] = LeftOut(device_id, f"not read now: {why}")
        for device_id, fd, _ in self._open:
            if device_id in self._lost:
                os.close(fd)
        self._open = [one for one in self._open if one[0] not in self._lost]
        if now_ns >= self._retry_at:
            self._reopen()
            self._retry_at = now_ns + self._retry_ns - TICK_JITTER_NS if self._lost else 0
            self._retry_ns = min(2 * self._retry_ns, LAST_RETRY_NS) if self._lost else FIRST_RETRY_NS

    def _reopen(self) -> None:
        """A zone that came back may have another number: it is known by its path of names."""
        there = {f"rapl:{zone.path}": zone for zone in admissible(find_zones(self._roots))[0]}
        for device_id in list(self._lost):
            try:
                if device_id not in there:
                    raise FileNotFoundError(0, "the zone has gone")
                self._open.append((device_id, *open_counter(there[device_id])))
            except (OSError, ValueError) as error:
                why = str(getattr(error, "strerror", None) or error).lower()
                self.troubles[device_id] = LeftOut(device_id, f"not read now: {why}")
            else:
                self._lost.remove(device_id)
                del self.troubles[device_id]
        order = list(self._zones)
        self._open.sort(key=lambda one: order.index(one[0]))


def open_counter(zone: Zone) -> tuple[int, int]:
    """Descriptor of a zone's counter and the highest count that it may show.

    Raises OSError, or ValueError when the file holds no count.
    """
    assert zone.directory is not None
    path = zone.directory / "energy_uj"
    most = zone.range_microjoules or MOST_COUNT
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        count(os.pread(fd, CONTENT_BYTES, 0), most)
    except OSError as error:
        os.close(fd)
        raise OSError(error.errno, error.strerror, str(path)) from error
    except ValueError as error:
        os.close(fd)
        raise ValueError(f"{path} holds no energy count: {error}") from error
    return fd, most
