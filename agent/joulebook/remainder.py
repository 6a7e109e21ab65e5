"""What a node draws beyond its metered parts, as a device of its own, so that only leaves are ever summed (law 2).

The node's meter says the whole, its parts' meters say theirs; the difference goes to the book as a leaf, and the
whole is the sum of parts and remainder. Meters lag: the difference may fall for a while. Nothing is clipped: the
remainder stands still until what it fell by has been gained again, and says meanwhile that its parts drew more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from joulebook.history import DeviceHistory, Segment
from joulebook.meters import Device, Reading
from joulebook.rows import Component, Method

SUFFIX: Final = "/remainder"
NOTE: Final = "what the node drew beyond its metered parts"
DEFICIT: Final = "the parts drew more than the node's meter says"


def remainder_device(node: Device) -> Device:
    """The leaf that stands for a node's remainder."""
    note = "; ".join(text for text in (node.note, NOTE) if text)
    return replace(
        node, device_id=node.device_id + SUFFIX, component=Component.OTHER, covers="", covers_also=(), note=note
    )


@dataclass(slots=True)
class Remainder:
    """One node's remainder, brought up to what is known by ``follow``.

    whole: the node's own history.  parts: those of the devices that it contains.  left: the remainder's, which is
    booked.
    """

    whole: DeviceHistory
    parts: Sequence[DeviceHistory]
    left: DeviceHistory
    _base: int | None = None
    _most: int = 0
    _seen_ns: int = 0
    _segment: Segment | None = None
    _resumed_ns: int | None = None

    def follow(self, now_ns: int) -> None:
        """Take in the node's newest readings, as soon as its parts are known up to them, or too late to be."""
        known = min(
            (part.history.last_time or 0 for part in self.parts if self._is_awaited(part, now_ns)), default=now_ns
        )
        # What the parts drew before their own first reading is in nobody's history.
        began = max((part.first_ns or 0 for part in self.parts), default=0)
        for segment in self.whole.history.segments:
            for t, value in zip(segment.times, segment.values, strict=True):
                if t <= self._seen_ns or t < began:
                    continue
                if t > known:
                    return
                self._seen_ns = t
                self._take(t, value, segment)

    def _take(self, t: int, whole: int, segment: Segment) -> None:
        difference = whole - sum(part.history.value_at(t) for part in self.parts)
        if self._base is None or segment is not self._segment:
            # The node's meter began, or lost track: what it draws beyond its parts goes on from here.
            self._base, self._segment = difference - self._most, segment
            self.left.history.gap()
        fell = difference - self._base < self._most
        self._most = max(self._most, difference - self._base)
        self.left.history.add(t, self._most)
        if fell:
            self.left.notes.append((t, DEFICIT))

    def lose_track(self) -> None:
        """A part was taken away: what the node drew beyond the others goes on from its next reading."""
        self._base = None

    def _is_awaited(self, part: DeviceHistory, now_ns: int) -> bool:
        """Whether it may still tell of what is past: after an absence of the agent no part has for long."""
        resumed = self._resumed_ns is not None and now_ns - self._resumed_ns <= part.longest_ns
        return resumed or not part.is_silent(now_ns)

    def state(self) -> dict[str, Any] | None:
        """What a later agent of this boot needs to go on from the remainder's edge, as JSON types.

        None where that is not known: no counter, or one that lost track since.  base: as ``_base`` will be when
        whole and remainder begin at 0 at the edge, and each part at its own.
        """
        at, raw = self.left.edge, self.whole.raw_at(self.left.edge)
        if raw is None or self._base is None or self._segment is not self.whole.history.segments[-1]:
            return None
        if not _tracked(self.whole, at) or not all(_tracked(part, part.edge) for part in self.parts):
            return None
        drawn = self.whole.history.value_at(at) - sum(part.history.value_at(part.edge) for part in self.parts)
        base = self._base + self.left.history.value_at(at) - drawn
        return {"raw": raw, "edge": at, "base": base, "parts": _names(self.parts)}

    def resume(self, saved: Mapping[str, Any], now_ns: int) -> None:
        """Go on from what an earlier agent of this boot left, where all parts do so too; else there is a gap."""
        resumed = all(part.last is not None for part in self.parts) and saved["parts"] == _names(self.parts)
        if self.whole.device.method is not Method.COUNTER or not resumed:
            return
        at = saved["edge"]
        self.whole.resume(Reading(self.whole.device.device_id, at, energy_microjoules=saved["raw"]), now_ns)
        self.left.edge, self._resumed_ns = at, now_ns
        self.left.history.add(at, 0)
        self._base, self._most, self._seen_ns = saved["base"], 0, at
        self._segment = self.whole.history.segments[-1]


def _tracked(history: DeviceHistory, since_ns: int) -> bool:
    """Whether it has been known without a break since then."""
    times = history.history.segments[-1].times
    return bool(times) and times[0] <= since_ns


def _names(parts: Sequence[DeviceHistory]) -> list[str]:
    return sorted(part.device.device_id for part in parts)
