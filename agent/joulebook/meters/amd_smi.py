"""The energy counter of AMD's own library, for cards whose kernel tables are of a revision that is not read here.

``amdsmi`` comes with ROCm and is loaded only when a card has no other counter. E = count x the resolution that is
returned with it, in uJ (METHODS 1.2). The count was called ``power`` and is now ``energy_accumulator``.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

MODULE: Final = "amdsmi"
COUNT_NAMES: Final = ("energy_accumulator", "power")


class AmdSmi:
    """The library, loaded at the first question. reason: why it does not answer, "" where it does or is not asked."""

    def __init__(self) -> None:
        self._library: ModuleType | None = None
        self._handles: dict[str, Any] = {}
        self._asked = False
        self.reason = ""

    def counter(self, pci: str) -> SmiCounter | None:
        """The counter of the card at that PCI address; None without the library, or where it has none."""
        if not self._asked:
            self._asked = True
            self._load()
        library, handle = self._library, self._handles.get(pci)
        if library is None or handle is None:
            return None
        counter = SmiCounter(library, handle)
        try:
            counter.microjoules()
        except (OSError, ValueError):
            return None
        return counter

    def _load(self) -> None:
        if find_spec(MODULE) is None:
            self.reason = f"{MODULE} is not installed"
            return
        try:
            library = import_module(MODULE)
        # Without its shared library some versions end the process.
        except (ImportError, OSError, KeyError, AttributeError, SystemExit) as error:
            self.reason = f"{MODULE} cannot be loaded: {error}"
            return
        try:
            library.amdsmi_init()
            for handle in library.amdsmi_get_processor_handles():
                self._handles[str(library.amdsmi_get_gpu_device_bdf(handle)).lower()] = handle
        except library.AmdSmiException as error:
            self.reason = f"{MODULE} does not answer: {error}"
        self._library = library

    def close(self) -> None:
        """Give the library back."""
        library, self._library, self._handles = self._library, None, {}
        if library is not None:
            try:
                library.amdsmi_shut_down()
            except library.AmdSmiException:
                return


class SmiCounter:
    """One card's counter."""

    def __init__(self, library: ModuleType, handle: Any) -> None:
        self._library, self._handle = library, handle

    def microjoules(self) -> int:
        """Cumulative. Raises OSError or ValueError."""
        try:
            told = self._library.amdsmi_get_energy_count(self._handle)
        except self._library.AmdSmiException as error:
            raise OSError(str(error)) from error
        counts = next((told[name] for name in COUNT_NAMES if name in told), None)
        resolution = told.get("counter_resolution")
        # A field that the library does not know is the text "N/A".
        if not isinstance(counts, int) or not isinstance(resolution, float) or counts < 0 or not 0 < resolution < 1e6:
            raise ValueError(f"{MODULE} gives no energy: {told}")
        return int(counts * resolution)

    def close(self) -> None:
        """Nothing is held here."""
