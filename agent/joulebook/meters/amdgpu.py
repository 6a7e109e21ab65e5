"""AMD GPUs through the kernel driver's part of /sys: an energy counter that has proved right, else power.

A card's counter is on trial for the first looks (trial.py), which delays nobody: until it has agreed, power counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from joulebook.clock import boottime_ns
from joulebook.meters import Busy, Device, LeftOut, MeterAbsent, MeterUnavailable, Reading, Roots
from joulebook.meters.amd_smi import AmdSmi
from joulebook.meters.amdgpu_card import SECOND_DIE, VENDOR, Card, Counter, NotRead, address, open_card
from joulebook.meters.kfd import INSTANT_NOTE, Kfd
from joulebook.meters.sysfs import milliwatts, text_of


class AmdGpu:
    """The open cards. Each begins with power; its counter takes over once it has agreed with it.

    That changes ``devices`` (method, uncertainty, note) after the first looks.
    """

    name = "amdgpu"

    def __init__(
        self, cards: Sequence[Card], devices: Sequence[Device], left_out: Sequence[LeftOut], kfd: Kfd, smi: AmdSmi
    ) -> None:
        self._cards = cards
        self._kfd = kfd
        self._smi = smi
        self.devices = devices
        self.left_out = left_out

    def read(self) -> Sequence[Reading]:
        """Cumulative microjoules, or milliwatts, of every card that answers.

        A card whose counter passes its trial just then gives both, power first, so that no joule between is lost.
        """
        readings: list[Reading] = []
        for card in self._cards:
            try:
                readings += self._look(card)
            except (OSError, ValueError):
                continue
        return readings

    def _look(self, card: Card) -> list[Reading]:
        if card.counter is not None and card.trial is None:
            return [_energy(card, card.counter)]
        power = _power(card)
        if card.counter is None or card.trial is None:
            return [power]
        try:
            energy = _energy(card, card.counter)
        except (OSError, ValueError):
            return [power]
        energy = energy._replace(at_ns=max(energy.at_ns, power.at_ns + 1))
        verdict = card.trial.look(power.at_ns, energy.energy_microjoules or 0, power.power_milliwatts or 0)
        if verdict is not None:
            self._decide(card, agrees=verdict)
        return [power, energy] if verdict else [power]

    def _decide(self, card: Card, *, agrees: bool) -> None:
        """Close what is needed no more, and say of the device what it is from now on."""
        trial, card.trial = card.trial, None
        if agrees:
            card.power.close()
        elif card.counter is not None:
            card.counter.close()
            card.counter = None
            ratio = 0.0 if trial is None or trial.ratio is None else trial.ratio
            said = f"it gives {ratio:.3g} times what power does, so power counts"
            self.left_out = [*self.left_out, LeftOut(f"{card.device_id} energy counter", said)]
        became = card.counted if agrees else card.polled
        self.devices = [
            replace(became, parent=device.parent)
            if became is not None and device.device_id == card.device_id
            else device
            for device in self.devices
        ]

    def busy(self) -> Mapping[str, Busy]:
        """The processes on each card, with the compute units that they occupy where the driver tells it.

        A package of two dies has the processes of both; where it is not known which dies are one package, none.
        """
        users = self._kfd.users()
        busy = {}
        for card in self._cards:
            if not card.dies:
                continue
            pids: dict[int, float | None] = {}
            for die in card.dies:
                for pid, part in users.get(die, {}).items():
                    before = pids.get(pid, 0.0)
                    pids[pid] = None if part is None or before is None else before + part / len(card.dies)
            told = any(part is not None for part in pids.values())
            busy[card.device_id] = Busy(pids, INSTANT_NOTE if told and len(pids) > 1 else "")
        return busy

    def close(self) -> None:
        """Close the files and the library."""
        for card in self._cards:
            card.close()
        self._cards = []
        self._smi.close()


def _power(card: Card) -> Reading:
    before = boottime_ns()
    value = milliwatts(card.power.number(), card.most_watts)
    return Reading(card.device_id, (before + boottime_ns()) // 2, power_milliwatts=value)


def _energy(card: Card, counter: Counter) -> Reading:
    before = boottime_ns()
    value = counter.microjoules()
    return Reading(card.device_id, (before + boottime_ns()) // 2, energy_microjoules=value)


def open_amdgpu(roots: Roots) -> AmdGpu:
    """Every AMD GPU that measures its power.

    Raises MeterAbsent where there is no AMD GPU, MeterUnavailable when none of them measures.
    """
    places = [place for place in _cards(roots) if text_of(place / "vendor") == VENDOR]
    if not places:
        raise MeterAbsent(
            f"no AMD GPU under {roots.sys / 'class' / 'drm'}",
            "load the driver (sudo modprobe amdgpu), or give the container the host's /sys",
        )
    kfd = Kfd(roots.sys / "class" / "kfd" / "kfd")
    smi = AmdSmi()
    driver = text_of(roots.sys / "module" / "amdgpu" / "version")
    cards: list[Card] = []
    devices: list[Device] = []
    left_out: list[LeftOut] = []
    seconds: list[str] = []
    for place in places:
        try:
            card, device = open_card(place, driver, smi)
        except NotRead as error:
            left_out.append(LeftOut(f"AMD GPU {address(place)}", error.why, error.remedy))
            if error.why == SECOND_DIE:
                seconds.append(address(place))
            continue
        if any(device.device_id == other.device_id for other in devices):
            left_out.append(LeftOut(f"AMD GPU {card.pci}", f"another card has its serial number, {device.device_id}"))
            card.close()
            continue
        if card.counter is None:
            why = "; ".join(filter(None, ("the driver shows none that is read here", smi.reason)))
            left_out.append(LeftOut(f"{card.device_id} energy counter", why))
        cards.append(card)
        devices.append(device)
    if not cards:
        smi.close()
        first = left_out[0]
        raise MeterUnavailable(
            f"{first.what}: {first.why}", first.remedy or "update the kernel, or set JOULEBOOK_METERS without amdgpu"
        )
    _join_dies(cards, seconds, kfd)
    return AmdGpu(cards, devices, left_out, kfd, smi)


def _cards(roots: Roots) -> list[Path]:
    """The PCI device of every card, in the order of their addresses. Connectors (card0-DP-1) are none."""
    nodes = (roots.sys / "class" / "drm").glob("card*")
    return sorted({(node / "device").resolve() for node in nodes if node.name.removeprefix("card").isdigit()})


def _join_dies(cards: Sequence[Card], seconds: Sequence[str], kfd: Kfd) -> None:
    """Give each package both its dies; where a second die fits no first one, no package knows which is its own."""
    firsts = {card.pci: card for card in cards if card.two_dies}
    joined = {second: kfd.package_of(second) for second in seconds}
    if any(first not in firsts for first in joined.values()) or len(set(joined.values())) < len(joined):
        for card in firsts.values():
            card.dies = ()
        return
    for second, first in joined.items():
        if first is not None:
            firsts[first].dies = (first, second)
