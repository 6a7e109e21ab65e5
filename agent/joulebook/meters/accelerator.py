"""Boards that tell how busy they are and neither energy nor power: design power times utilisation, always modelled.

NVIDIA boards by NVML, and AMD boards whose driver shows gpu_busy_percent (Linux,
Documentation/gpu/amdgpu/thermal.rst) without a power sensor beside it. Left alone: virtual GPUs, second dies and
graphics inside a CPU, whose power is part of what others read. METHODS 1.6: TDP x u, 40 %.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from ctypes import c_uint, c_void_p
from dataclasses import replace
from pathlib import Path
from typing import Final

from joulebook.clock import boottime_ns
from joulebook.meters import Busy, Device, LeftOut, MeterAbsent, MeterUnavailable, Reading, Roots
from joulebook.meters.nvml import (
    LIMIT_MARGIN,
    Board,
    Nvml,
    Source,
    best_source,
    count_gpus,
    limit_watts,
    load_nvml,
    make_board,
    optional_text,
)
from joulebook.meters.nvml_library import UNKNOWN, Library, NvmlError
from joulebook.meters.nvml_use import Programs
from joulebook.rows import Component, Method
from joulebook.units import NS_PER_SECOND

TABLE: Final = Path(__file__).parents[1] / "data" / "accelerator_power.csv"
"""Model, vendor, design power, source; no field is quoted."""
TDP_WATTS: Final = "JOULEBOOK_ACCELERATOR_TDP_WATTS"
MOST_TDP_WATTS: Final = 5000.0
OWN_LIMIT: Final = "the board's power limit"
U_MODEL: Final = 0.40
"""Relative standard uncertainty of design power times utilisation (METHODS 1.6)."""
STEP_NS: Final = NS_PER_SECOND
"""Utilisation is a mean over up to one second."""
VIRTUAL: Final = 2
"""NVML_GPU_VIRTUALIZATION_MODE_VGPU: a part of a board that other machines use too."""

BRANDS: Final = frozenset({"", "nvidia", "tesla", "geforce", "amd", "instinct"})
"""Words of a model's name that drivers leave out at times."""
NO_TDP: Final = "tells its utilisation, and nothing tells its design power"
DECLARE: Final = f"set {TDP_WATTS} to the design power of one board, W"
SENSORS: Final = ("power1_average", "power1_input", "energy1_input")
CARD: Final = re.compile(r"card\d+")


def design_power(model: str, limit: float | None, environ: Mapping[str, str] = os.environ) -> tuple[float, str] | None:
    """A board's power at full utilisation, W, and where that is from; None where nothing tells it.

    Declared, else the board's own limit (W, None where it does not tell), else the shipped table.
    Raises MeterUnavailable where what is declared is no power.
    """
    if (declared := environ.get(TDP_WATTS)) is not None:
        return _declared(declared), "declared"
    if limit is not None and 0 < limit <= MOST_TDP_WATTS:
        return limit, OWN_LIMIT
    listed = _listed(model)
    return None if listed is None else (listed, "table")


def _declared(text: str) -> float:
    try:
        watts = float(text)
    except ValueError:
        watts = 0.0
    if not 0 < watts <= MOST_TDP_WATTS:
        raise MeterUnavailable(f"{TDP_WATTS} is {text!r}", f"set it to a number over 0 and up to {MOST_TDP_WATTS:g}")
    return watts


def _words(model: str) -> frozenset[str]:
    """What tells one model from another: "NVIDIA A100-SXM4-80GB" is "A100 SXM4 80GB"."""
    return frozenset(re.split(r"[^a-z0-9]+", model.lower())) - BRANDS


def _listed(model: str) -> float | None:
    """Design power of exactly that model in the shipped table, W."""
    words = _words(model)
    with TABLE.open(encoding="utf-8") as file:
        rows = (line.split(",") for line in file)
        return next((float(row[2]) for row in rows if _words(row[0]) == words), None)


def modelled(device_id: str, model: str, power: tuple[float, str], covers: Sequence[str]) -> Device:
    """The device of a board that is modelled. power: see ``design_power``.  covers: its names."""
    watts, source = power
    return Device(
        device_id=device_id,
        component=Component.GPU,
        method=Method.MODELLED,
        u_common=U_MODEL,
        u_common_key=f"accelerator:{model}",
        step_ns=STEP_NS,
        most_watts=LIMIT_MARGIN * watts,
        averaged=True,
        covers=covers[0] if covers else "",
        covers_also=tuple(covers[1:]),
        model=model,
        limit_watts=watts if source == OWN_LIMIT else None,
        note=f"modelled: design power {watts:g} W ({source}) x utilisation",
    )


class BusyFile:
    """A board that shows its utilisation in sysfs, percent."""

    def __init__(self, device: Device, file: Path, design_watts: float) -> None:
        self.device = device
        self.file = file
        self.design_watts = design_watts

    def read(self) -> Reading:
        """Design power times utilisation. Raises OSError, or ValueError where the file holds no percentage."""
        word = self.file.read_bytes()[:16].split(b"\n", 1)[0].strip()
        if not word.isdigit() or int(word) > 100:
            raise ValueError(f"{self.file} holds {word!r}")
        return Reading(self.device.device_id, boottime_ns(), None, round(self.design_watts * 10 * int(word)))


class Accelerator:
    """The modelled boards, by NVML and by sysfs."""

    name = "accelerator"

    def __init__(self, nvml: Nvml | None, boards: Sequence[BusyFile], left_out: Sequence[LeftOut]) -> None:
        self._nvml = nvml
        self._files = boards
        self._own: Sequence[Device] = nvml.devices if nvml is not None else ()
        self.devices: Sequence[Device] = [*self._own, *(board.device for board in boards)]
        self.left_out = left_out

    def read(self) -> Sequence[Reading]:
        """Modelled milliwatts of every board that tells its utilisation now."""
        readings = list(self._nvml.read()) if self._nvml is not None else []
        if self._nvml is not None and self._nvml.devices is not self._own:  # another driver was loaded
            self._own = self._nvml.devices
            drivers = {device.device_id: device.driver for device in self._own}
            self.devices = [replace(d, driver=drivers.get(d.device_id, d.driver)) for d in self.devices]
        for board in self._files:
            try:
                readings.append(board.read())
            except (OSError, ValueError):
                continue
        return readings

    def busy(self) -> Mapping[str, Busy]:
        """The processes that NVML names; sysfs knows none."""
        return self._nvml.busy() if self._nvml is not None else {}

    def limits(self) -> Mapping[str, float]:
        """The power limits that boards enforce now, W."""
        return self._nvml.limits() if self._nvml is not None else {}

    def close(self) -> None:
        """Close NVML."""
        if self._nvml is not None:
            self._nvml.close()


def open_accelerator(roots: Roots) -> Accelerator:
    """Every board that tells its utilisation but no power, and whose design power is known.

    Raises MeterAbsent where there is none, MeterUnavailable where of none the design power is known.
    """
    left_out: list[LeftOut] = []
    nvml = _open_nvml(roots, left_out)
    try:
        boards = _busy_files(roots, left_out)
    except MeterUnavailable:
        if nvml is not None:
            nvml.close()
        raise
    if nvml is not None or boards:
        return Accelerator(nvml, boards, left_out)
    unknown = [left for left in left_out if left.remedy]
    if unknown:
        raise MeterUnavailable(f"{unknown[0].what} {unknown[0].why}", unknown[0].remedy)
    raise MeterAbsent(
        "no board that tells its utilisation and no power", "nothing to mend, see docs/reference/meters.md#accelerator"
    )


def _open_nvml(roots: Roots, left_out: list[LeftOut]) -> Nvml | None:
    """NVML with its boards that tell no power, None where there is none."""
    try:
        library = load_nvml()
        count = count_gpus(library)
    except MeterUnavailable:
        return None  # the nvml meter says what is wrong with it
    programs, boards = Programs(roots.proc), []
    try:
        for index in range(count):
            board = _silent_board(library, index, programs, left_out)
            if board is not None:
                boards.append(board)
    except MeterUnavailable:
        library.leave()
        raise
    if boards:
        return Nvml(library, boards, (), programs)
    library.leave()
    return None


def _silent_board(library: Library, index: int, programs: Programs, left_out: list[LeftOut]) -> Board | None:
    """The board at that index if it tells no power but its utilisation."""
    try:
        handle = library.handle("nvmlDeviceGetHandleByIndex_v2", c_uint(index))
        if _tells_power(library, handle):
            return None
        if _is_virtual(library, handle):
            left_out.append(LeftOut(f"GPU {index}", "a virtual GPU: its part of the board's power cannot be known"))
            return None
        library.check(library.function(Source.UTILISATION.value)(handle, (c_uint * 2)()))
        model = optional_text(library, "nvmlDeviceGetName", handle)
        power = design_power(model, limit_watts(library, handle))
        if power is None:
            left_out.append(LeftOut(f"GPU {index} ({model or 'unknown GPU'})", NO_TDP, DECLARE))
            return None
        board = make_board(library, handle, Source.UTILISATION, programs, power[0])
    except NvmlError:
        return None  # what does not answer at all is told by the nvml meter
    device = modelled(board.device_id, board.device.model, power, board.device.names)
    board.device = replace(device, driver=board.device.driver)
    return board


def _tells_power(library: Library, handle: c_void_p) -> bool:
    """Whether a meter of its own reads it. Boards without a sensor also say "unknown error"; other refusals raise."""
    try:
        return best_source(library, handle) is not None
    except NvmlError as error:
        if error.code != UNKNOWN:
            raise
        return False


def _is_virtual(library: Library, handle: c_void_p) -> bool:
    try:
        return library.number("nvmlDeviceGetVirtualizationMode", handle) == VIRTUAL
    except NvmlError:
        return False


def _busy_files(roots: Roots, left_out: list[LeftOut]) -> list[BusyFile]:
    """AMD boards in /sys/class/drm that show gpu_busy_percent and have no power sensor."""
    found = []
    for card in sorted((roots.sys / "class" / "drm").glob("card*")):
        place = card / "device"
        if not CARD.fullmatch(card.name) or not (place / "gpu_busy_percent").is_file():
            continue
        if any(any(place.glob(f"hwmon/hwmon*/{sensor}")) for sensor in SENSORS):
            continue
        if why := _not_of_its_own(place):
            left_out.append(LeftOut(card.name, why))
            continue
        address, model = place.resolve().name.lower(), _line(place / "product_name")
        power = design_power(model, None)
        if power is None:
            left_out.append(LeftOut(f"{card.name} ({model or 'unknown board'})", NO_TDP, DECLARE))
            continue
        device = modelled(f"accelerator:{address}", model or "unknown board", power, [f"gpu:{address}"])
        found.append(BusyFile(device, place / "gpu_busy_percent", power[0]))
    return found


def _not_of_its_own(place: Path) -> str:
    """Why a card's power is part of something else's, or may be; "" where it is a board of its own."""
    # Imported here: what it takes to tell is not loaded where no card asks for it.
    from joulebook.meters.amdgpu_card import SECOND_DIE, TWO_DIES
    from joulebook.meters.gpu_metrics import APU_FORMATS, LONGEST, revision

    if _line(place / "device") in TWO_DIES:
        return SECOND_DIE
    try:
        with (place / "gpu_metrics").open("rb") as file:
            told = revision(file.read(LONGEST))
    except OSError:
        told = None
    if told is None:
        return (
            "" if _listed(_line(place / "product_name")) is not None else "may lie inside a CPU, which is read already"
        )
    return "lies inside a CPU, which is read already" if told[0] in APU_FORMATS else ""


def _line(path: Path) -> str:
    """The first line of a small file, "" where it cannot be read."""
    try:
        return path.read_bytes()[:96].decode(errors="replace").split("\n", 1)[0].strip()
    except OSError:
        return ""
