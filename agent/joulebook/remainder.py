"""What a node draws beyond its metered parts, as a device of its own, so that only leaves are ever summed (law 2).

The node's meter says the whole, its parts' meters say theirs; the difference goes to the book as a leaf, and the
whole is the sum of parts and remainder. Meters lag: the difference may fall for a while. Nothing is clipped: the
remainder stands still until what it fell by has been gained again, and says meanwhile that its parts drew more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from joulebook.history import DeviceHistory, Segment
from joulebook.meters import Device
from joulebook.rows import Component

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

    def follow(self, now_ns: int) -> None:
        """Take in the node's newest readings, as soon as its parts are known up to them, or too late to be."""
        known = min((part.history.last_time or 0 for part in self.parts if not part.is_silent(now_ns)), default=now_ns)
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
