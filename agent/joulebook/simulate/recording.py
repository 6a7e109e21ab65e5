"""A recording of two devices, for the replay meter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

WATTS: Final = {"board-a": 100.0, "board-b": 60.0}
HOUR: Final = 3600


class Recording:
    """An hour of constant power of each device."""

    def __init__(self, root: Path) -> None:
        path = root / "recording.csv"
        rows = [f"{name},other,{at},{watts * at}" for name, watts in WATTS.items() for at in (0, HOUR)]
        path.write_text("\n".join(["device_id,component,at_seconds,energy_joules", *rows]) + "\n")
        self.environ: Mapping[str, str] = {"JOULEBOOK_REPLAY": str(path)}

    def move(self, now_ns: int) -> None:
        """It plays by itself."""

    def joules(self, from_ns: int, to_ns: int) -> dict[str, float]:
        """Power times time."""
        return {name: watts * (to_ns - from_ns) / 1e9 for name, watts in WATTS.items()}

    def close(self) -> None:
        """Nothing runs."""


def stand(root: Path, began_ns: int) -> Recording:
    """A recording under ``root``; it begins when the meter is opened."""
    return Recording(root)
