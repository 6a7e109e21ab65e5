"""Boards that tell how busy they are and no power: NVIDIA boards by NVML, AMD boards in a simulated /sys.

Their utilisation is the power of the curve over the design power, in whole percent as drivers give it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from joulebook.clock import boottime_ns
from joulebook.meters.gpu_metrics import HEADER
from joulebook.simulate.curve import Curve, parse_curve
from joulebook.simulate.moving import Fault, Moving, MovingFiles, claim, link, write_files
from joulebook.simulate.nvml import Gpu, build_library, environment, write_gpus
from joulebook.simulate.truth import Source, write_truth

LISTED: Final = "Instinct MI25"
"""A model in the shipped table, of 300 W."""
LISTED_WATTS: Final = 300.0
FIRST_CARD: Final = 60
"""Numbers of the cards, apart from those of ``joulebook simulate amdgpu``."""
TABLE_BYTES: Final = 96


@dataclass(frozen=True, slots=True)
class SilentCard:
    """A card without a power sensor. design_watts: at 100 %.  inside_cpu: it is a CPU's own graphics."""

    curve: Curve
    name: str = LISTED
    design_watts: float = LISTED_WATTS
    inside_cpu: bool = False


class AcceleratorTree:
    """The cards under ``directory``. ``files.tick`` moves their utilisation; whoever holds it keeps ticking."""

    def __init__(self, directory: Path, cards: Sequence[SilentCard], t0_ns: int, faults: Sequence[Fault] = ()) -> None:
        claim(directory)
        shutil.rmtree(directory / "devices" / "pci0000:e0", ignore_errors=True)
        moving, sources = [], []
        for n, card in enumerate(cards):
            address = f"0000:{0xE1 + n:02x}:00.0"
            source = Source(f"accelerator:{address}", t0_ns, (card.curve,))
            moving.append(_card(directory, n, address, card, source))
            if not card.inside_cpu:
                sources.append(source)
        self.files = MovingFiles(moving, faults)
        self.files.tick(boottime_ns())
        write_truth(directory, "accelerator", sources)

    def close(self) -> None:
        """Close the files; the tree stays, still."""
        self.files.close()


def _card(directory: Path, n: int, address: str, card: SilentCard, source: Source) -> Moving:
    """The files of one card; the one that moves is returned."""
    device = directory / "devices" / "pci0000:e0" / address
    number = f"card{FIRST_CARD + n}"
    write_files(device, {"vendor": "0x1002", "device": "0x6860", "product_name": card.name})
    write_files(device / "drm" / number, {"dev": f"226:{FIRST_CARD + n}"})
    form = (2, 0) if card.inside_cpu else (1, 0)
    (device / "gpu_metrics").write_bytes(HEADER.pack(TABLE_BYTES, *form) + bytes(TABLE_BYTES - HEADER.size))
    link(directory / "class" / "drm" / number, device / "drm" / number)
    link(device / "drm" / number / "device", device)
    return Moving(device / "gpu_busy_percent", n, _percent(source, card.design_watts))


def _percent(source: Source, design_watts: float) -> Callable[[int], bytes]:
    return lambda at_ns: b"%d\n" % min(100, round(100 * source.watts(at_ns) / design_watts))


class Stand:
    """A GPU that NVML knows, by its power limit, and a card in /sys, by the table; for the contract tests."""

    def __init__(self, root: Path, began_ns: int) -> None:
        directory = root / "accelerator"
        directory.mkdir(parents=True, exist_ok=True)
        build_library(directory)
        write_gpus(directory, [silent_gpu("GPU-silent", parse_curve("constant:100"), 200.0)], began_ns)
        self._tree = AcceleratorTree(root / "sys", [SilentCard(parse_curve("constant:90"))], began_ns)
        self._watts = {"GPU-silent": 100.0, "accelerator:0000:e1:00.0": 90.0}
        self.environ: Mapping[str, str] = environment(directory)

    def move(self, now_ns: int) -> None:
        """The card's utilisation; the library computes when asked."""
        self._tree.files.tick(now_ns)

    def joules(self, from_ns: int, to_ns: int) -> dict[str, float]:
        """Power times time."""
        return {name: watts * (to_ns - from_ns) / 1e9 for name, watts in self._watts.items()}

    def close(self) -> None:
        """Close the files."""
        self._tree.close()


def silent_gpu(uuid: str, curve: Curve, limit_watts: float) -> Gpu:
    """An NVIDIA board without any power reading, whose utilisation is the part of its limit that it draws."""
    return Gpu(uuid, curve, energy_counter=False, power=False, limit_watts=limit_watts)


def stand(root: Path, began_ns: int) -> Stand:
    """The library under root/accelerator and a card under root/sys."""
    return Stand(root, began_ns)
