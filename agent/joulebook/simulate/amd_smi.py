"""What a simulated module ``amdsmi`` holds: the few functions of AMD's library that joulebook calls.

``joulebook simulate amdgpu --counter amdsmi`` writes DIR/python/amdsmi.py, which takes everything from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from joulebook.clock import boottime_ns
from joulebook.simulate.truth import Source, read_truth

__all__ = [
    "AmdSmiException",
    "amdsmi_get_energy_count",
    "amdsmi_get_gpu_device_bdf",
    "amdsmi_get_processor_handles",
    "amdsmi_init",
    "amdsmi_shut_down",
    "set_up",
]

RESOLUTION_MICROJOULES: Final = 15.300000190734863
"""As the library returns it: 15.3 as a C float."""

_cards: dict[str, tuple[Source, float]] = {}
_handles: list[str] = []


class AmdSmiException(Exception):
    """Base of the library's errors."""


def set_up(directory: str, cards: Mapping[str, tuple[str, float]]) -> None:
    """Take the cards of a simulated directory. cards: PCI address -> serial number and rate of the counter."""
    sources = {source.device_id: source for source in read_truth(Path(directory))}
    _cards.clear()
    _cards.update({pci: (sources[f"amdgpu:{serial}"], rate) for pci, (serial, rate) in cards.items()})


def amdsmi_init() -> None:
    """Find the cards."""
    _handles[:] = _cards


def amdsmi_shut_down() -> None:
    """Forget the cards; what asks later is refused."""
    _handles.clear()


def amdsmi_get_processor_handles() -> list[str]:
    """One handle for each card."""
    return list(_handles)


def amdsmi_get_gpu_device_bdf(handle: str) -> str:
    """Its PCI address."""
    return handle.upper()


def amdsmi_get_energy_count(handle: str) -> dict[str, int | float]:
    """Count, uJ per count, and the time of the count in ns. Raises AmdSmiException."""
    if handle not in _handles:
        raise AmdSmiException("AMDSMI_STATUS_NOT_INIT")
    source, rate = _cards[handle]
    now = boottime_ns()
    counts = int(source.joules(now) * rate * 1e6 / RESOLUTION_MICROJOULES)
    return {"energy_accumulator": counts, "counter_resolution": RESOLUTION_MICROJOULES, "timestamp": now}
