"""The whole node from its metered parts, always labelled modelled: for a chassis whose model is declared.

Without a declared model there is no figure of the node: an overhead that nobody measured is not guessed. What the parts
drew comes from whoever reads them anyway (``follow``); until somebody says it the model reads them itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from joulebook.history import DeviceHistory
from joulebook.meters import (
    Busy,
    Device,
    LeftOut,
    MeterAbsent,
    MeterUnavailable,
    Reading,
    Roots,
    named_meters,
    open_meters,
)
from joulebook.meters.node_model import VARIABLE, NodeModel, read_model
from joulebook.rows import Component, Method
from joulebook.units import NS_PER_SECOND

DEVICE: Final = "node:model"
NO_PARTS: Final = frozenset({"node", "redfish", "ipmi", "model", "replay"})
"""Meters that read no part of a node by a sensor of its own."""


def _gained(part: DeviceHistory, since_ns: int, at_ns: int) -> int | None:
    """Microjoules that a part drew over a span, None where that is not known throughout."""
    known = part.history.known(since_ns, at_ns)
    if len(known) != 1 or known[0][:2] != (since_ns, at_ns):
        return None
    segment = known[0][2]
    return segment.at(at_ns) - segment.at(since_ns)


class Parts:
    """The node's devices, read for the model alone."""

    def __init__(self, roots: Roots) -> None:
        names = [name for name in named_meters() if name not in NO_PARTS]
        self._meters, _ = open_meters(names, roots)
        self.histories = {
            device.device_id: DeviceHistory(device, meter.name, NS_PER_SECOND)
            for meter in self._meters
            for device in meter.devices
        }

    def look(self) -> Iterable[DeviceHistory]:
        """One reading of every part that answers, taken into its history."""
        for meter in self._meters:
            for reading in meter.read():
                if reading.device_id in self.histories:
                    self.histories[reading.device_id].add(reading)
        return self.histories.values()

    def forget(self, before_ns: int) -> None:
        """Drop what the model has taken in."""
        for history in self.histories.values():
            history.forget(before_ns)

    def close(self) -> None:
        """Close their meters."""
        for meter in self._meters:
            meter.close()


def unfit(model: NodeModel, devices: Sequence[Device]) -> MeterUnavailable | None:
    """Why the model does not hold for these devices: it was fitted over others, or they are modelled themselves."""
    for component, wanted in model.metered.items():
        found = [device for device in devices if device.component is component]
        if len(found) != wanted:
            return MeterUnavailable(
                f"the node model was fitted over {wanted} {component.value}, and {len(found)} are metered",
                "see joulebook doctor for those that are not read, or fit the model anew",
            )
    modelled = next((device for device in devices if device.method is Method.MODELLED), None)
    if modelled is None:
        return None
    return MeterUnavailable(f"{modelled.device_id} is itself modelled", "give joulebook access to its counter")


class WholeNode:
    """The modelled node, as far as what all its parts drew is known.

    parts: read by the model itself until somebody else's are followed; None where they always are.
    failing: why there is no figure at present.
    """

    name = "node"

    def __init__(self, model: NodeModel, parts: Parts | None = None) -> None:
        self.model = model
        self._parts = parts
        self.devices: Sequence[Device] = [
            Device(
                device_id=DEVICE,
                component=Component.NODE,
                method=Method.MODELLED,
                u_common=model.u_r,
                u_common_key=f"node:{model.chassis}",
                step_ns=1_000_000,
                covers="node",
                model=model.chassis,
                note="node modelled from its parts",
            )
        ]
        self.left_out: Sequence[LeftOut] = ()
        self.failing: MeterUnavailable | None = None
        self._told_ns = 0
        self._joules: float | None = None
        self._fresh: Sequence[Reading] = ()

    def follow(self, histories: Iterable[DeviceHistory]) -> None:
        """Take in what the node's devices drew, as far as all of them are known. Called after they were read."""
        self.close()
        self._take(histories)

    def _take(self, histories: Iterable[DeviceHistory]) -> None:
        parts = [history for history in histories if history.device.component in self.model.metered]
        self.failing = unfit(self.model, [history.device for history in parts])
        times = [part.history.segments[-1].times for part in parts]
        if self.failing is not None or not all(times):
            self._joules = None
            return
        # From where all parts are known, and never from before what was told.
        began_ns = max(own[0] for own in times)
        since_ns = self._told_ns if self._joules is not None else max(self._told_ns, began_ns)
        slowest = min(times, key=lambda own: own[-1])
        # Of several looks at once each is told: what is between two of them would be spread over both.
        for a, b in pairwise([since_ns, *(t for t in slowest if t > since_ns)]):
            self._span(parts, a, b)

    def _span(self, parts: Sequence[DeviceHistory], since_ns: int, at_ns: int) -> None:
        gained = [_gained(part, since_ns, at_ns) for part in parts]
        if None in gained:
            self._joules = None
            return
        if self._joules is None:
            # Counted anew from 0, which is less than what was read last: it shows as a reset, never as energy.
            self._joules = 0.0
            self._fresh = [*self._fresh, Reading(DEVICE, since_ns, energy_microjoules=0)]
        metered_joules = sum(energy for energy in gained if energy is not None) / 1e6
        self._joules += self.model.wall_joules((at_ns - since_ns) / NS_PER_SECOND, metered_joules)
        self._fresh = [*self._fresh, Reading(DEVICE, at_ns, energy_microjoules=math.floor(self._joules * 1e6))]
        self._told_ns = at_ns

    def read(self) -> Sequence[Reading]:
        """What has become known since the last look, once."""
        if self._parts is not None:
            self._take(self._parts.look())
            self._parts.forget(self._told_ns)
        fresh, self._fresh = self._fresh, ()
        return fresh

    def busy(self) -> Mapping[str, Busy]:
        """A node does not know who uses it."""
        return {}

    def close(self) -> None:
        """Close the parts that it reads itself."""
        if self._parts is not None:
            self._parts.close()
            self._parts = None


def open_node(roots: Roots, environ: Mapping[str, str] = os.environ) -> WholeNode:
    """The model that JOULEBOOK_NODE_MODEL names.

    Raises MeterAbsent where none is, MeterUnavailable on a wrong file, or where it was fitted over other parts.
    """
    path = environ.get(VARIABLE)
    if not path:
        raise MeterAbsent(
            "no meter and no model of the whole node is declared",
            f"set JOULEBOOK_REDFISH_URL or JOULEBOOK_IPMI to its BMC, or {VARIABLE} to a model fitted for its chassis",
        )
    model = read_model(Path(path))
    parts = Parts(roots)
    error = unfit(model, [history.device for history in parts.histories.values()])
    if error is not None:
        parts.close()
        raise error
    return WholeNode(model, parts)
