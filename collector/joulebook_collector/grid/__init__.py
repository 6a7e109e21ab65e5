"""Grid intensity from providers: what a provider is, what it is asked, what it answers.

A provider is plain data and one function; it is found by the entry point group ``joulebook.grid_providers``,
so that another package can bring one. What all share is written once: requests (client), answers kept
(cache), rates obeyed (limits), keys (keys), long ranges and what is refused (fetch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from joulebook.errors import JoulebookError

from joulebook_collector.priced import SeriesKey

if TYPE_CHECKING:
    from joulebook_collector.grid.session import Session

DAY_US = 86_400_000_000


class ProviderError(JoulebookError):
    """A provider that did not answer, refused, or answered with something else than it documents."""


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``requests`` within any ``per_seconds``."""

    requests: int
    per_seconds: float


@dataclass(frozen=True, slots=True)
class Ask:
    """One request's range: [started_at_us, ended_at_us) UTC, of a series, by the provider's own code of the zone.

    forecast: whether forecasts are wanted where no actual value is known.  now_us: UTC microseconds.
    """

    series: SeriesKey
    code: str
    started_at_us: int
    ended_at_us: int
    forecast: bool
    now_us: int


@dataclass(frozen=True, slots=True)
class Value:
    """What a provider says of one half-open period; g_per_kwh None where it has no value (note says why).

    status: "", "forecast" or "estimated".  u_rel: relative standard uncertainty, None for the default of its
    status.  note: how it was made.  source: who says so, "" for the provider itself.
    """

    started_at_us: int
    ended_at_us: int
    g_per_kwh: float | None
    status: str = ""
    u_rel: float | None = None
    note: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Provider:
    """Whom values are fetched from.

    series: what it serves, zones left empty; empty when that depends on what stands behind it, and all words
    must be said.  url: of its public service, "" where it must be set.  url_setting, key_setting,
    key_file_setting: variables that replace the one and hold the key, "" where none is needed; key_is says what it
    is.  most_span_us: longest range of one request.  code_of: the provider's code of a zone; raises BadInput.
    forecasts: whether it foretells.  derived: values are made here from a generation mix.  online: whether it is
    asked over the network.  verified: how sure the shapes of its answers are.
    """

    name: str
    title: str
    series: tuple[SeriesKey, ...]
    url: str
    url_setting: str
    most_span_us: int
    rate: Rate
    fetch: Callable[[Session, Ask], Iterable[Value]]
    verified: str
    licence: str
    code_of: Callable[[str], str] = str
    key_setting: str = ""
    key_file_setting: str = ""
    key_is: str = ""
    forecasts: bool = False
    derived: bool = False
    online: bool = True

    def served(self, zone: str) -> tuple[SeriesKey, ...]:
        """The series that it serves of a zone."""
        return tuple(replace(words, zone=zone) for words in self.series)
