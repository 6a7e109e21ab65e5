"""Power and energy from hardware monitors: the rails that overlap nothing, of every kind of chip that is known."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence

from joulebook.meters import Busy, Device, LeftOut, MeterAbsent, MeterUnavailable, Reading, Roots
from joulebook.meters.hwmon_chips import Rail, chips
from joulebook.meters.hwmon_kinds import KINDS


class Hwmon:
    """The open rails."""

    name = "hwmon"

    def __init__(self, rails: Sequence[Rail], left_out: Sequence[LeftOut]) -> None:
        self._rails = rails
        self.devices: Sequence[Device] = [rail.device for rail in rails]
        self.left_out = left_out

    def read(self) -> Sequence[Reading]:
        """Milliwatts or cumulative microjoules of every rail that answers."""
        readings = []
        for rail in self._rails:
            try:
                readings.append(rail.read())
            except (OSError, ValueError):
                continue
        return readings

    def busy(self) -> Mapping[str, Busy]:
        """Rails do not know who uses them."""
        return {}

    def close(self) -> None:
        """Close the files."""
        for rail in self._rails:
            rail.close()
        self._rails = []


def open_hwmon(roots: Roots) -> Hwmon:
    """Every rail of this machine that may be counted.

    Raises MeterAbsent where there is none, MeterUnavailable where one cannot be read.
    """
    found = chips(roots.sys / "class" / "hwmon", {name for names in KINDS for name in names})
    if not found:
        raise MeterAbsent(
            f"no power meter under {roots.sys / 'class' / 'hwmon'}",
            "sudo modprobe acpi_power_meter on servers whose firmware has one; most machines have none",
        )
    rails: list[Rail] = []
    left_out: list[LeftOut] = []
    for names, look in KINDS.items():
        of_kind = look([chip for chip in found if chip.name in names], roots)
        problem = _problem(of_kind.rails)
        if problem is not None:
            for rail in of_kind.rails:
                rail.close()
            left_out.append(problem)
        else:
            rails += of_kind.rails
        left_out += of_kind.left_out
    rails, again = _each_once(rails)
    left_out += again
    if rails:
        return Hwmon(rails, left_out)
    mendable = next((left for left in left_out if left.remedy), None)
    if mendable is not None:
        raise MeterUnavailable(f"{mendable.what}: {mendable.why}", mendable.remedy)
    why = f"{left_out[0].what}: {left_out[0].why}" if left_out else "no chip of a known kind measures power"
    raise MeterAbsent(why, "nothing to mend: other meters or the model count")


def _each_once(rails: Sequence[Rail]) -> tuple[list[Rail], list[LeftOut]]:
    """The rails without those that a chip names a second time."""
    kept: dict[str, Rail] = {}
    again = []
    for rail in rails:
        if kept.setdefault(rail.device.device_id, rail) is not rail:
            rail.close()
            again.append(LeftOut(rail.device.device_id, "told twice: the first counts"))
    return list(kept.values()), again


def _problem(rails: Sequence[Rail]) -> LeftOut | None:
    """Why the rails of one kind are not read, None when all answer: some of them would pass for all."""
    denied: list[str] = []
    for rail in rails:
        try:
            rail.read()
        except OSError as error:
            if error.errno != errno.EACCES:
                return LeftOut(rail.device.device_id, f"does not answer: {error.strerror}")
            denied.append(str(error.filename))
        except ValueError as error:
            return LeftOut(rail.device.device_id, f"does not measure: {error}")
    if denied:
        return LeftOut(
            rails[0].device.device_id, f"{denied[0]}: permission denied", f"sudo chmod a+r {' '.join(denied)}"
        )
    return None
