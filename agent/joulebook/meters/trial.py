"""Whether an energy counter runs at the rate that power says, before anything is counted by it.

On some AMD GPUs it does not, or stands still (ROCm/amdsmi issues 22 and 38; METHODS 1.2). Both are read
together at each look; power counts until the counter has agreed with its integral.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from joulebook.units import NS_PER_SECOND

TRIAL_NS: Final = NS_PER_SECOND // 2
"""Integrate at least half a second, as Zeus does (METHODS 1.2)."""
LEAST_LOOKS: Final = 5
GIVE_UP_NS: Final = 10 * NS_PER_SECOND
"""A counter that has not agreed by then, never will."""
TOLERANCE: Final = 1.25
"""Widest ratio of counter and power that passes: both err by 5 %, and five looks see a load's edges coarsely."""
LONGEST_STEP_NS: Final = 2 * NS_PER_SECOND
"""Looks further apart than this say nothing of the power between them."""


@dataclass(slots=True)
class Trial:
    """One counter's trial. ratio: energy by the counter over energy by power, of the last verdict; None before."""

    ratio: float | None = None
    _looks: int = 0
    _began: tuple[int, int] = (0, 0)
    _last: tuple[int, int, int] = (0, 0, 0)
    _microjoules: float = 0.0

    def look(self, at_ns: int, microjoules: int, milliwatts: int) -> bool | None:
        """Take in what both said at an instant. True: the counter agrees; False: it does not; None: not known yet."""
        last_ns, counted, power = self._last
        if not self._looks or microjoules < counted or at_ns - last_ns > LONGEST_STEP_NS:
            self._looks, self._microjoules, self._began = 0, 0.0, (at_ns, microjoules)
        elif at_ns <= last_ns:
            return None
        else:
            self._microjoules += (power + milliwatts) / 2 * (at_ns - last_ns) / 1e6
        self._looks += 1
        self._last = (at_ns, microjoules, milliwatts)
        elapsed = at_ns - self._began[0]
        if self._looks < LEAST_LOOKS or elapsed < TRIAL_NS or self._microjoules <= 0:
            return None
        self.ratio = (microjoules - self._began[1]) / self._microjoules
        if 1 / TOLERANCE <= self.ratio <= TOLERANCE:
            return True
        return False if elapsed > GIVE_UP_NS else None
