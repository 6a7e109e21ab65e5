"""Units of the book. SI base units inside; kWh only at the edges, for people."""

from typing import Final

JOULES_PER_KWH: Final = 3.6e6
MILLIJOULES_PER_JOULE: Final = 1000
MICROJOULES_PER_MILLIJOULE: Final = 1000
NS_PER_SECOND: Final = 1_000_000_000
NS_PER_US: Final = 1000
US_PER_SECOND: Final = 1_000_000
US_PER_HOUR: Final = 3600 * US_PER_SECOND


def joules(millijoules: int) -> float:
    """Stored integer millijoules as joules."""
    return millijoules / MILLIJOULES_PER_JOULE


def kwh(energy_joules: float) -> float:
    """Joules as kilowatt hours, for people."""
    return energy_joules / JOULES_PER_KWH
