"""Power curves whose energy is known exactly: pure functions of the seconds since the curve began.

As text: ``constant:WATTS``, ``square:LOW,HIGH,PERIOD_S[,DUTY[,PHASE_S]]`` (high first),
``sine:MEAN,AMPLITUDE,PERIOD_S[,PHASE_S]``. nvml.c reads the same text and must agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from joulebook.errors import BadInput

FORMS: Final = "constant:WATTS, square:LOW,HIGH,PERIOD_S[,DUTY[,PHASE_S]], sine:MEAN,AMPLITUDE,PERIOD_S[,PHASE_S]"
_DEFAULTS: Final[Mapping[str, tuple[float | None, ...]]] = {
    "constant": (None,),
    "square": (None, None, None, 0.5, 0.0),
    "sine": (None, None, None, 0.0),
}
"""Kind -> its parameters' defaults, None where one must be given."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Power over time. numbers: in the order of the text form, all given."""

    kind: str
    numbers: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.kind}:{','.join(f'{number:.17g}' for number in self.numbers)}"

    def watts(self, seconds: float) -> float:
        """Power at an instant, in W. seconds: since the curve began, >= 0."""
        if self.kind == "constant":
            return self.numbers[0]
        if self.kind == "square":
            low, high, period, duty, phase = self.numbers
            return high if (seconds + phase) % period < duty * period else low
        mean, amplitude, period, phase = self.numbers
        return mean + amplitude * math.sin(2 * math.pi * (seconds + phase) / period)

    def joules(self, seconds: float) -> float:
        """Exact energy from the curve's beginning, in J. seconds: >= 0."""
        if self.kind == "constant":
            return self.numbers[0] * seconds
        phase = self.numbers[-1]
        return self._integral(seconds + phase) - self._integral(phase)

    def scaled(self, factor: float) -> Curve:
        """The same curve at ``factor`` times the power."""
        powers = 1 if self.kind == "constant" else 2
        return Curve(self.kind, tuple(n * factor if i < powers else n for i, n in enumerate(self.numbers)))

    def shifted(self, seconds: float) -> Curve:
        """The same curve, ``seconds`` further on; a constant stays as it is."""
        if self.kind == "constant":
            return self
        return Curve(self.kind, (*self.numbers[:-1], self.numbers[-1] + seconds))

    def _integral(self, seconds: float) -> float:
        """Energy from phase zero, in J."""
        if self.kind == "square":
            low, high, period, duty, _ = self.numbers
            whole, rest = divmod(seconds, period)
            at_high = whole * duty * period + min(rest, duty * period)
            return high * at_high + low * (seconds - at_high)
        mean, amplitude, period, _ = self.numbers
        omega = 2 * math.pi / period
        return mean * seconds + amplitude / omega * (1 - math.cos(omega * seconds))


def parse_curve(text: str) -> Curve:
    """The curve of a text form. Raises BadInput."""
    kind, _, rest = text.partition(":")
    try:
        defaults = _DEFAULTS[kind]
        given = [float(word) for word in rest.split(",")]
        filled = [*given, *defaults[len(given) :]]
        numbers = tuple(float(number) for number in filled if number is not None)
    except (KeyError, ValueError):
        numbers = ()
    if not numbers or len(numbers) != len(_DEFAULTS[kind]) or not _sound(kind, numbers):
        raise BadInput(f"{text!r} is no power curve", f"give one of {FORMS}, powers in W and never below 0")
    return Curve(kind, numbers)


def staggered(curves: Sequence[Curve], count: int) -> list[Curve]:
    """One curve per device. curves: one for each, or one for all, which is then made to differ by device.

    The n-th of ``count`` devices has 1 - n/20 of the power (never less than a half) and lags n/count of a
    period, so that no device can pass for another.
    """
    if len(curves) == count:
        return list(curves)
    if len(curves) != 1:
        raise BadInput(f"{len(curves)} curves for {count} devices", "give one for each device, or one for all")
    base = curves[0]
    period = 0.0 if base.kind == "constant" else base.numbers[2]
    return [base.scaled(max(0.5, 1 - n / 20)).shifted(period * n / count) for n in range(count)]


def _sound(kind: str, numbers: Sequence[float]) -> bool:
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        return False
    if kind == "square":
        return numbers[2] > 0 and numbers[3] <= 1
    return kind == "constant" or (numbers[2] > 0 and numbers[1] <= numbers[0])
