"""RAPL through the kernel's powercap tree: CPU packages and DRAM, as energy counters, and the platform around them.

Where the tree is readable by root only, the privileged reader tells the same counters, no finer than 1 J and 1 s.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from joulebook.cpus import Cpu, read_cpu
from joulebook.grants import admit, grant
from joulebook.meters import Busy, Device, LeftOut, MeterAbsent, MeterUnavailable, Reading, Roots
from joulebook.platform_check import PLATFORM_ID, PlatformCheck
from joulebook.powercap import Zone, admissible, arranged, covers, find_zones, mirrors, number, socket_path
from joulebook.rows import Component, Method
from joulebook.units import NS_PER_SECOND
from joulebook.zone_files import ZoneFiles

if TYPE_CHECKING:
    from joulebook.reader_client import Answer

U_PACKAGE: Final = 0.03
"""Relative standard uncertainty of Intel package counters from Haswell-EP on (METHODS 1.6)."""
U_PACKAGE_AMD: Final = 0.08
"""AMD's package counter is a model inside the chip (METHODS 1.6)."""
U_DRAM_SERVER: Final = 0.10
U_DRAM_CLIENT: Final = 0.20
"""DRAM counters of server and of client parts (METHODS 1.6)."""
U_PLATFORM: Final = 0.10
"""The platform's counter: what it contains is the board maker's choice [judgement of ours, no source]."""

STEP_NS: Final = 1_000_000
"""RAPL counters are updated about every millisecond."""
LIMIT_MARGIN: Final = 2.0
"""A package may pass its longest limit for milliseconds: no reading above twice the largest limit is believed."""
MOST_WATTS: Final = {Component.CPU: 1500.0, Component.DRAM: 500.0, Component.NODE: 20_000.0}
"""Where the tree gives no limits: far above any socket of 2026 (500-700 W), the DRAM beside it, and a whole node."""

LOOKS: Final = 5
LOOK_PAUSE_SECONDS: Final = 0.002
"""How often and how far apart counters are looked at to find those that repeat another's."""

READER_STEP_NS: Final = NS_PER_SECOND
PLATFORM_NOTE: Final = "platform: what it contains is the board maker's choice"
READER_NOTE: Final = "through the reader: 1 J, 1 s"


class Source(Protocol):
    """Where counts come from: the tree's files, or the reader."""

    @property
    def troubles(self) -> Mapping[str, LeftOut]:
        """What is not read now and why."""
        ...

    def read(self) -> list[Reading]:
        """Readings of the zones that answer."""
        ...

    def keep(self, device_ids: Collection[str]) -> None:
        """Read only these from now on."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class Rapl:
    """The counters of this machine."""

    name = "rapl"

    def __init__(self, source: Source, devices: Sequence[Device], left_out: Sequence[LeftOut]) -> None:
        self._source = source
        self._devices = devices
        self._passed_over = left_out
        self._check = _platform_check(devices)

    @property
    def devices(self) -> Sequence[Device]:
        """What is read."""
        return self._devices

    @devices.setter
    def devices(self, devices: Sequence[Device]) -> None:
        self._devices = devices
        self._source.keep({device.device_id for device in devices})
        if self._check is not None:
            self._check = _platform_check(devices)

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """What is not read: passed over from the start, or in trouble now."""
        return [*self._passed_over, *self._source.troubles.values()]

    @left_out.setter
    def left_out(self, left_out: Sequence[LeftOut]) -> None:
        troubles = list(self._source.troubles.values())
        self._passed_over = [one for one in left_out if one not in troubles]

    def read(self) -> Sequence[Reading]:
        """Cumulative microjoules of every zone that answers; of the platform once it has proved to contain them."""
        readings = self._source.read()
        if self._check is None:
            return readings
        readings, contradiction = self._check.pass_on(readings)
        if contradiction:
            self._passed_over = [*self._passed_over, LeftOut(PLATFORM_ID, contradiction)]
            self.devices = [device for device in self._devices if device.device_id != PLATFORM_ID]
        elif self._check.passed:
            self._check = None
        return readings

    def busy(self) -> Mapping[str, Busy]:
        """Packages do not know who uses them."""
        return {}

    def close(self) -> None:
        """Close the counters' files, or the connection to the reader."""
        self._source.close()


def _platform_check(devices: Sequence[Device]) -> PlatformCheck | None:
    return PlatformCheck(devices) if any(device.device_id == PLATFORM_ID for device in devices) else None


def open_rapl(roots: Roots) -> Rapl:
    """The admissible counters of this machine.

    Raises MeterAbsent when there are none, MeterUnavailable when any of them cannot be read: the sum over
    some packages would pass for the machine's.
    """
    zones, left_out = admissible(find_zones(roots))
    there_is_a_reader = Path(socket_path()).exists()
    if not _has_parts(zones):
        if there_is_a_reader:
            return _through_reader(roots, f"no RAPL zone under {roots.sys / 'class' / 'powercap'}")
        raise MeterAbsent(
            f"no RAPL zone under {roots.sys / 'class' / 'powercap'}",
            "modprobe intel_rapl_msr on bare metal; virtual machines and most containers have none",
        )
    try:
        files = ZoneFiles(roots, zones)
    except OSError as error:
        cause = f"{error.filename}: {_why(error)}"
        if not isinstance(error, PermissionError):
            remedy = "see dmesg; set JOULEBOOK_METERS without rapl until it is mended"
            raise MeterUnavailable(cause, remedy) from error
        if there_is_a_reader:
            return _through_reader(roots, cause)
        raise MeterUnavailable(cause, grant(Path(error.filename))) from error
    except ValueError as error:
        raise MeterUnavailable(str(error), "update the kernel, or set JOULEBOOK_METERS without rapl") from error
    looks = _looks(files)
    still = {device_id for device_id, counts in looks.items() if not any(counts)}
    return _meter(files, zones, left_out, mirrors(looks), still, read_cpu(roots))


def _has_parts(zones: Sequence[Zone]) -> bool:
    return any(zone.component is not Component.NODE for zone in zones)


def _looks(files: ZoneFiles) -> dict[str, list[int]]:
    """Counts of the zones that answered at every look."""
    counts: dict[str, list[int]] = {}
    for look in range(LOOKS):
        time.sleep(LOOK_PAUSE_SECONDS if look else 0)
        for reading in files.read():
            counts.setdefault(reading.device_id, []).append(reading.energy_microjoules or 0)
    return {device_id: series for device_id, series in counts.items() if len(series) == LOOKS}


def _through_reader(roots: Roots, cause: str) -> Rapl:
    """The counters as the reader tells them. cause: why it is asked, for the error when it refuses."""
    # Imported here: sockets are not loaded where the tree is readable.
    from joulebook.reader_client import ReaderClient, ReaderRefused

    client = ReaderClient(socket_path())
    try:
        answer = client.open()
    except (ReaderRefused, PermissionError) as error:
        raise MeterUnavailable(
            f"{cause}; reader at {socket_path()}: {_why(error)}", admit(Path(socket_path()))
        ) from error
    except (OSError, ValueError) as error:
        remedy = "sudo systemctl restart joulebook-reader.socket"
        raise MeterUnavailable(f"{cause}; reader at {socket_path()}: {_why(error)}", remedy) from error
    zones, left_out = admissible(_told_zones(roots, answer))
    if not _has_parts(zones):
        client.close()
        raise MeterAbsent(f"{cause}; the reader has no package either", "set JOULEBOOK_METERS without rapl")
    client.device_ids = {zone.zone_id: f"rapl:{zone.path}" for zone in zones}
    still = {client.device_ids.get(told.zone_id, "") for told in answer.zones if told.energy_microjoules == 0}
    return _meter(client, zones, left_out, _told_twins(answer, client.device_ids), still, read_cpu(roots), READER_NOTE)


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()


def _told_zones(roots: Roots, answer: Answer) -> list[Zone]:
    """Zones as told, with the tree's directories where it can be seen, for their power limits."""
    base = roots.sys / "class" / "powercap"
    names = {told.zone_id: told.name for told in answer.zones}
    ranges = {told.zone_id: told.range_microjoules for told in answer.zones}
    return arranged(names, ranges, {zone_id: base / zone_id for zone_id in names})


def _told_twins(answer: Answer, device_ids: Mapping[str, str]) -> dict[str, str]:
    """Zones whose counter stood at another's microjoule, once it had counted anything: device_id -> the other's."""
    first: dict[str, str] = {}
    twins = {}
    order = list(device_ids)
    for told in sorted(answer.zones, key=lambda told: order.index(told.zone_id) if told.zone_id in order else 0):
        device_id = device_ids.get(told.zone_id)
        if device_id is not None and told.energy_microjoules:
            other = first.setdefault(told.twin or told.zone_id, device_id)
            if other != device_id:
                twins[device_id] = other
    return twins


def _meter(
    source: Source,
    zones: Sequence[Zone],
    left_out: Sequence[LeftOut],
    twins: Mapping[str, str],
    still: Collection[str],
    cpu: Cpu,
    note: str = "",
) -> Rapl:
    """The meter of the zones that no other repeats. still: those that stand at 0."""
    kept = []
    passed_over = list(left_out)
    for zone in zones:
        device_id = f"rapl:{zone.path}"
        if device_id in twins:
            passed_over.append(LeftOut(device_id, f"mirrors the counter of {twins[device_id].removeprefix('rapl:')}"))
        elif device_id == PLATFORM_ID and device_id in still:
            passed_over.append(LeftOut(device_id, "stands at 0: the board does not feed it"))
        else:
            kept.append(zone)
    if all(zone.component is not Component.DRAM for zone in kept):
        passed_over.append(LeftOut("DRAM", f"{'AMD' if cpu.vendor == 'AMD' else 'this'} CPU has no counter for it"))
    devices = [_device(zone, covers(zone, kept), cpu, note) for zone in kept]
    source.keep({device.device_id for device in devices})
    return Rapl(source, devices, passed_over)


def _device(zone: Zone, covered: str, cpu: Cpu, note: str) -> Device:
    component = zone.component or Component.OTHER
    if component is Component.NODE:
        u, key = U_PLATFORM, "rapl-psys"
    elif component is Component.DRAM:
        u, key = (U_DRAM_SERVER if cpu.is_server else U_DRAM_CLIENT), "rapl-dram"
    else:
        u, key = (U_PACKAGE_AMD if cpu.vendor == "AMD" else U_PACKAGE), "rapl"
    return Device(
        device_id=f"rapl:{zone.path}",
        component=component,
        method=Method.COUNTER,
        u_common=u,
        u_common_key=f"{key}:{cpu.model}",
        step_ns=READER_STEP_NS if note else STEP_NS,
        most_watts=_most_watts(zone, component),
        wraps_at_microjoules=zone.range_microjoules,
        covers=covered,
        model=cpu.model,
        note="; ".join(filter(None, (PLATFORM_NOTE if component is Component.NODE else "", note))),
    )


def _most_watts(zone: Zone, component: Component) -> float:
    if zone.directory is None:
        return MOST_WATTS[component]
    files = [*zone.directory.glob("constraint_*_max_power_uw"), *zone.directory.glob("constraint_*_power_limit_uw")]
    limits = [limit for limit in map(number, files) if limit]
    return LIMIT_MARGIN * max(limits) / 1e6 if limits else MOST_WATTS[component]
