"""Idle power as ``joulebook calibrate`` measured it: what is kept of a machine, and whether it still fits a device."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from joulebook.errors import JoulebookError
from joulebook.home import Home
from joulebook.lease import safe_name
from joulebook.meters import Device, Meter, Roots
from joulebook.meters.sysfs import text_of
from joulebook.remainder import remainder_device
from joulebook.rows import Component, Method
from joulebook.units import US_PER_SECOND

STALE_DAYS: Final = 90
"""Firmware, drivers and fans change: an older calibration is labelled."""
FORCED: Final = "idle power calibrated by force on a machine that was in use"
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Booked:
    """A device as the book names it. own_id: its meter's name for it.  parts: of a node's remainder, the devices whose
    energy is not in it."""

    device: Device
    meter: str
    own_id: str
    parts: tuple[str, ...] = ()


def booked(meters: Sequence[Meter], machine_id: str) -> list[Booked]:
    """The leaves that the book has of these meters: a node that contains metered parts is its remainder."""
    found = []
    devices = [(meter.name, device) for meter in meters for device in meter.devices]
    for meter, device in devices:
        named = book_name(device, machine_id)
        parts = tuple(sorted(other.device_id for _, other in devices if other.parent == device.device_id))
        leaf = remainder_device(named) if parts else named
        found.append(Booked(leaf, meter, device.device_id, parts))
    return found


def book_name(device: Device, machine_id: str) -> Device:
    """A device under its name in the book: a board has its own, a part of a machine the machine's."""
    return (
        device if device.component is Component.GPU else replace(device, device_id=f"{machine_id}/{device.device_id}")
    )


@dataclass(frozen=True, slots=True)
class Idle:
    """The idle power of one device.

    idle_watts: 5th percentile over idle windows.  u_relative: standard uncertainty of it, the meter's gain apart.
    median_watts: middle of the same windows.  cpu_busy: mean part of the machine's CPUs that worked meanwhile, 0 to 1.
    at: ISO 8601, UTC.  clock_state: CPU frequency governors, "" for GPUs and where unknown.  forced: the machine may
    not have been idle.
    """

    device_id: str
    meter: str
    method: Method
    model: str
    driver: str
    parts: tuple[str, ...]
    clock_state: str
    idle_watts: float
    u_relative: float
    median_watts: float
    windows: int
    window_seconds: float
    cpu_busy: float
    at: str
    forced: bool = False

    def age_days(self, now_us: int) -> float:
        """Days since it was measured."""
        return (now_us / US_PER_SECOND - datetime.fromisoformat(self.at).timestamp()) / 86400


@dataclass(frozen=True, slots=True)
class Calibration:
    """All that is kept of one machine. clock_state: what its CPUs are in now."""

    machine_id: str
    clock_state: str
    devices: tuple[Idle, ...] = ()

    def fit(self, device: Device, meter: str, parts: Collection[str] = ()) -> tuple[Idle | None, str]:
        """What fits the device as the book names it, else None and why what is kept of it does not ("" for nothing)."""
        why = ""
        for idle in self.devices:
            if idle.device_id == device.device_id:
                misfits = self._misfits(idle, device, meter, parts)
                if not misfits:
                    return idle, ""
                why = "calibrated with " + ", ".join(f"{what} {then!r}, now {now!r}" for what, then, now in misfits)
        return None, why

    def _misfits(self, idle: Idle, device: Device, meter: str, parts: Collection[str]) -> list[tuple[str, str, str]]:
        compared = [
            ("meter", idle.meter, meter),
            ("method", idle.method.value, device.method.value),
            ("model", idle.model, device.model),
            ("parts", " ".join(idle.parts), " ".join(sorted(parts))),
            ("governor", idle.clock_state, state_of(device, self.clock_state)),
        ]
        return [(what, then, now) for what, then, now in compared if then != now]

    def with_devices(self, measured: Sequence[Idle]) -> Calibration:
        """The same with these in place of what was kept for the same device in the same clock state."""
        fresh = {(idle.device_id, idle.clock_state) for idle in measured}
        kept = [idle for idle in self.devices if (idle.device_id, idle.clock_state) not in fresh]
        return replace(self, devices=tuple(sorted([*kept, *measured], key=lambda i: (i.device_id, i.clock_state))))


def clock_state(roots: Roots) -> str:
    """The CPU frequency governors in force, "" where there is none to be seen."""
    policies = (roots.sys / "devices" / "system" / "cpu" / "cpufreq").glob("policy*/scaling_governor")
    return "+".join(sorted({text_of(path) for path in policies} - {""}))


def state_of(device: Device, cpus: str) -> str:
    """What of the machine's clock state a device's idle power depends on."""
    return "" if device.component is Component.GPU else cpus


def calibration_path(home: Home, machine_id: str) -> Path:
    """Where a machine's calibration is kept."""
    return home.root / "calibration" / f"{safe_name(machine_id)}.json"


def load(home: Home, machine_id: str, roots: Roots) -> Calibration:
    """What is kept of the machine, nothing before its first calibration. Raises JoulebookError on a damaged file."""
    path = calibration_path(home, machine_id)
    nothing = Calibration(machine_id, clock_state(roots))
    try:
        kept = json.loads(path.read_text())
        if kept["format"] != _FORMAT:
            raise ValueError(f"format {kept['format']}")
        devices = tuple(_idle(values) for values in kept["devices"])
    except FileNotFoundError:
        return nothing
    except OSError as error:
        raise JoulebookError(
            f"{path} cannot be read: {error.strerror}", f"chown it to the agent's user: {path}"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise JoulebookError(
            f"{path} is no calibration: {type(error).__name__}: {error}", f"rm {path}, then joulebook calibrate"
        ) from error
    return replace(nothing, devices=devices) if kept.get("machine") == machine_id else nothing


def _idle(values: dict[str, Any]) -> Idle:
    idle = Idle(**{**values, "method": Method(values["method"]), "parts": tuple(values["parts"])})
    numbers = (idle.idle_watts, idle.u_relative, idle.median_watts, idle.windows, idle.window_seconds, idle.cpu_busy)
    texts = (idle.device_id, idle.meter, idle.model, idle.driver, idle.clock_state, *idle.parts)
    sound = all(isinstance(n, int | float) and 0 <= n < float("inf") for n in numbers) and idle.idle_watts > 0
    if not sound or not all(isinstance(text, str) for text in texts) or datetime.fromisoformat(idle.at).tzinfo is None:
        raise ValueError(f"{idle.device_id}: {idle.idle_watts} W at {idle.at}")
    return idle


def save(home: Home, calibration: Calibration) -> Path:
    """Keep it, in one step and for its owner only. Raises JoulebookError."""
    path = calibration_path(home, calibration.machine_id)
    fresh = path.with_suffix(".new")
    text = json.dumps(
        {
            "format": _FORMAT,
            "machine": calibration.machine_id,
            "devices": [asdict(idle) for idle in calibration.devices],
        },
        indent=1,
    )
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise JoulebookError(
            f"cannot write {path}: {error.strerror}", "set JOULEBOOK_HOME to a directory that you may write"
        ) from error
    return path


def now_iso() -> str:
    """UTC now, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
