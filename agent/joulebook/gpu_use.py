"""How much each party used of each GPU over time, from what the meters say at every look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from joulebook.history import History
from joulebook.meters import Busy
from joulebook.processes import ProcessTable


@dataclass(slots=True)
class GpuUse:
    """by_device: device -> party ("" for processes of no run) -> cumulative busy nanoseconds over time."""

    processes: ProcessTable
    by_device: dict[str, dict[str, History]] = field(default_factory=dict)
    _told: dict[str, Mapping[int, float | None]] = field(default_factory=dict)

    def add(self, device_id: str, busy: Busy, before: int, now: int) -> None:
        """Add what each party used of a device over [before, now), CLOCK_BOOTTIME ns."""
        pids = dict(busy.pids)
        if not busy.sampled:
            # One that went since the last look used it until then: its run's end says until when.
            told = self._told.get(device_id, {})
            pids |= {pid: amount for pid, amount in told.items() if pid not in pids and self.processes.has_left(pid)}
            self._told[device_id] = busy.pids
        histories = self.by_device.setdefault(device_id, {})
        used = self._by_party(pids)
        for key in used.keys() | histories.keys():
            history = histories.get(key)
            if history is None:
                history = histories[key] = History()
                history.add(before, 0)
            history.add(now, history.value_at(now) + round(used.get(key, 0.0) * (now - before)))

    def _by_party(self, pids: Mapping[int, float | None]) -> dict[str, float]:
        """Utilisation by party; processes that do not say share the device equally."""
        use: dict[str, float] = {}
        silent = all(value is None for value in pids.values())
        for pid, value in pids.items():
            key = self.processes.actor_of(pid) or ""
            amount = 1.0 / len(pids) if silent else value or 0.0
            use[key] = use.get(key, 0.0) + amount
        return use

    def clear(self) -> None:
        """Nobody is followed any more."""
        self.by_device.clear()
        self._told.clear()

    def forget(self, before: int) -> None:
        """Drop what is older than ``before``, and parties that are followed no more."""
        for users in self.by_device.values():
            for key in list(users):
                users[key].forget(before)
                if key and key not in self.processes.actors:
                    del users[key]
