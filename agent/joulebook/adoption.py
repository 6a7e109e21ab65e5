"""Taking a meter in that opened while the agent was running: what counts from then on, and what runs say of before."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from joulebook.clock import boottime_ns
from joulebook.meters import Busy, Device, LeftOut, Meter, Reading, without_overlap
from joulebook.rows import Component

if TYPE_CHECKING:
    from joulebook.sampler import Sampler

SECOND_SUPPLY: Final = "the node's supply is read by another meter already"


@dataclass(slots=True)
class _Claim:
    """What a meter would read: ``without_overlap`` decides over it before it does over the meter."""

    name: str
    devices: Sequence[Device]
    left_out: Sequence[LeftOut] = ()

    def read(self) -> Sequence[Reading]:
        """Nothing: it stands for its devices alone."""
        return ()

    def busy(self) -> dict[str, Busy]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """It holds nothing."""


def adopt(sampler: Sampler, meter: Meter) -> bool:
    """Count what the meter reads from now on, by the rules of ``open_meters``. False when that has to wait.

    It waits where it would read better what another meter reads already, until no run is open: a run's series is of
    one meter. A meter of which nothing counts is closed.
    """
    claims = [_Claim(other.name, list(other.devices)) for other in sampler.meters]
    new = _Claim(meter.name, _without_second_supply(meter, claims))
    kept = {claim.name: claim.devices for claim in without_overlap([*claims, new])}
    lost = [
        device.device_id
        for other in sampler.meters
        for device in other.devices
        if device.device_id not in {left.device_id for left in kept.get(other.name, ())}
    ]
    if lost and (sampler.book.any_open() or sampler.ends):
        return False
    if not kept.get(meter.name):
        meter.close()
        return True
    now = boottime_ns()
    if lost:
        sampler.close_all(now)
        sampler.drop_devices(lost)
    meter.left_out = [*meter.left_out, *new.left_out]
    meter.devices = kept[meter.name]
    for other in sampler.meters:
        other.devices = kept[other.name]
    told = ", ".join(device.device_id for device in meter.devices)
    print(f"joulebook agent: meter {meter.name} has opened: {told} from now on", file=sys.stderr, flush=True)
    sampler.add_meter(meter, now)
    return True


def _without_second_supply(meter: Meter, others: Sequence[_Claim]) -> list[Device]:
    """The meter's devices; a second view of the node's supply is left out, as a parent cannot be changed under runs."""
    if not any(device.component is Component.NODE for other in others for device in other.devices):
        return list(meter.devices)
    supplies = [device for device in meter.devices if device.component is Component.NODE]
    left = [LeftOut(one.device_id, SECOND_SUPPLY, "start the agent anew") for one in supplies]
    meter.left_out = [*meter.left_out, *left]
    return [device for device in meter.devices if device not in supplies]
