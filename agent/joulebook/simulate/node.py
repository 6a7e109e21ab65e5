"""A node whose wall power is what its model makes of its simulated packages: for the whole-node meter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from joulebook.meters.node import DEVICE
from joulebook.meters.node_model import VARIABLE, NodeModel, as_toml
from joulebook.rows import Component
from joulebook.simulate import powercap

MODEL: Final = NodeModel("simulated chassis", 120.0, 1.08, 0.1, {Component.CPU: 2, Component.DRAM: 2})


class Stand:
    """Two packages with DRAM, and the file of the model."""

    def __init__(self, root: Path, began_ns: int) -> None:
        self._parts = powercap.stand(root, began_ns)
        path = root / "node.toml"
        path.write_text(as_toml(MODEL))
        self.environ: Mapping[str, str] = {**self._parts.environ, VARIABLE: str(path)}

    def move(self, now_ns: int) -> None:
        """Move the packages' counters."""
        self._parts.move(now_ns)

    def joules(self, from_ns: int, to_ns: int) -> dict[str, float]:
        """The node, from its packages' true joules."""
        metered = sum(self._parts.joules(from_ns, to_ns).values())
        return {DEVICE: MODEL.wall_joules((to_ns - from_ns) / 1e9, metered)}

    def close(self) -> None:
        """Close the counters' files."""
        self._parts.close()


def stand(root: Path, began_ns: int) -> Stand:
    """A node under ``root``."""
    return Stand(root, began_ns)
