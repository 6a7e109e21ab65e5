"""Fetching a range: split to what one request may ask for, judged, turned into factors. What cannot be is refused."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from joulebook.errors import BadInput

from joulebook_collector.factors import (
    DEFAULT_U_REL,
    EDGE_US,
    LIKELY_KG_PER_KWH,
    WORDS,
    NewFactor,
    add_factors,
    check_series,
    the_only_one,
)
from joulebook_collector.grid import DAY_US, Ask, Provider, ProviderError, Value
from joulebook_collector.grid.moments import HOUR_US, written
from joulebook_collector.grid.session import Session
from joulebook_collector.priced import SeriesKey

if TYPE_CHECKING:
    from joulebook_collector.ledger import Ledger

U_REL: Final[Mapping[str, float]] = {"": DEFAULT_U_REL, "estimated": 0.15, "forecast": 0.2}
"""Relative standard uncertainty by status, where the value states none. Judgement, by what flagged values are."""

SETTLED_US: Final = 7 * DAY_US
KEPT_SETTLED_SECONDS: Final = 7 * 86_400.0
KEPT_RECENT_SECONDS: Final = 300.0
"""How long an answer is taken from the cache: long once its range is a week past, else five minutes."""

CONTEXT_US: Final = 2 * DAY_US
"""How much before a range a mix is asked for as well: which types generate is known from there. A newest hour whose
coal is not told of yet would look clean by itself."""

_RANK: Final = {"": 0, "estimated": 1, "forecast": 2}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be asked: a series, the provider's code of its zone, [started_at_us, ended_at_us) UTC.

    forecast: whether forecasts are taken where no actual value is known.
    """

    provider: Provider
    series: SeriesKey
    code: str
    started_at_us: int
    ended_at_us: int
    forecast: bool = False

    def windows(self) -> list[tuple[int, int]]:
        """The ranges of single requests, in order; together the whole range, with what is asked before it none longer
        than the provider's."""
        step = self.provider.most_span_us - self.before_us
        starts = range(self.started_at_us, self.ended_at_us, step)
        return [(start, min(start + step, self.ended_at_us)) for start in starts]

    @property
    def before_us(self) -> int:
        """How much before a window is asked for with it."""
        return CONTEXT_US if self.provider.derived else 0


@dataclass(frozen=True, slots=True)
class Fetched:
    """factors: to be added, by period.  left_out: reason -> how many periods have no value for it."""

    factors: tuple[NewFactor, ...]
    left_out: Mapping[str, int]


def make_plan(
    provider: Provider, series: SeriesKey, started_at_us: int, ended_at_us: int, forecast: bool, code: str = ""
) -> Plan:
    """A plan over whole hours. Raises BadInput on a range or a zone that cannot be asked for."""
    start, end = started_at_us // HOUR_US * HOUR_US, -(-ended_at_us // HOUR_US) * HOUR_US
    if start >= end:
        raise BadInput("the range ends at or before its start", "give --to after --from")
    if forecast and not provider.forecasts:
        raise BadInput(f"{provider.title} gives no forecasts", "leave --forecast out")
    return Plan(provider, series, code or provider.code_of(series.zone), start, end, forecast)


def choose_series(provider: Provider, zone: str, words: Mapping[str, str | None]) -> SeriesKey:
    """The one series of the zone that the provider serves and that has the given words.

    Raises BadInput when it serves none such, several, or does not know itself what it serves and a word is lacking.
    """
    served = provider.served(zone)
    if not served:
        lacking = [word for word in WORDS if not words.get(word)]
        if lacking:
            raise BadInput(
                f"what {provider.title} gives depends on what stands behind it",
                "say " + ", ".join(f"--{word}" for word in lacking),
            )
        series = SeriesKey(zone, **{word: str(words[word]) for word in WORDS})
        check_series(series)
        return series
    return the_only_one(served, words, provider.title)


def fetch(
    plan: Plan, session: Session, *, fresh: bool = False, after_each: Callable[[], None] = lambda: None
) -> Fetched:
    """Ask for every window of the plan.

    fresh: take nothing from the cache.  after_each: called when a window is done.
    Raises ProviderError, or BadInput where its values cannot be right; then nothing of any window is given.
    """
    now_us = round(session.waits.now() * 1e6)
    told: list[Value] = []
    for start, end in plan.windows():
        settled = now_us - end > SETTLED_US
        session.begin(-1.0 if fresh else KEPT_SETTLED_SECONDS if settled else KEPT_RECENT_SECONDS)
        ask = Ask(plan.series, plan.code, start - plan.before_us, end, plan.forecast, now_us)
        values = [value for value in plan.provider.fetch(session, ask) if value.started_at_us >= start]
        judge(plan, values, now_us)
        session.keep()
        learnt = written(round((session.learnt_at or session.waits.now()) * 1e6))
        told += [replace(value, note="; ".join(filter(None, (value.note, f"learnt {learnt}")))) for value in values]
        after_each()
    return judge(plan, told, now_us)


def judge(plan: Plan, told: Iterable[Value], now_us: int) -> Fetched:
    """Values within the plan's range as factors, one per period.

    Left out, with the reason: no value, no number, below zero, a period that is not over, a forecast that was not
    asked for. Raises ProviderError where two values contradict or overlap, where times are no periods, and where
    all look like kg per kWh.
    """
    left_out: Counter[str] = Counter()
    taken: dict[tuple[int, int], Value] = {}
    for value in told:
        if value.started_at_us < plan.started_at_us or value.ended_at_us > plan.ended_at_us:
            continue
        _check_period(plan, value)
        reason = _why_not(plan, value, now_us)
        if reason:
            left_out[reason] += 1
            continue
        period = (value.started_at_us, value.ended_at_us)
        taken[period] = _of_two(plan, taken.get(period, value), value)
    values = [taken[period] for period in sorted(taken)]
    for before, after in pairwise(values):
        if after.started_at_us < before.ended_at_us:
            raise _contradiction(plan, "periods that overlap", after.started_at_us)
    _check_unit(plan, values)
    return Fetched(tuple(_factor(plan, value) for value in values), dict(left_out))


def store(ledger: Ledger, plan: Plan, fetched: Fetched) -> Sequence[NewFactor]:
    """Add what the ledger does not know already; returns what was added. Nothing is overwritten.

    A forecast is not added where a better value is known.  Raises BadInput, storing nothing, on a value that
    cannot be right.
    """
    known: dict[tuple[int, int], tuple[str, float]] = {}
    for factor in ledger.factors(series=plan.series):
        period = (factor.started_at_us, factor.ended_at_us)
        if not factor.annual and (period not in known or _RANK[factor.status] <= _RANK[known[period][0]]):
            known[period] = (factor.status, factor.g_per_kwh)
    new = [
        factor for factor in fetched.factors if _is_news(factor, known.get((factor.started_at_us, factor.ended_at_us)))
    ]
    if new:
        add_factors(ledger, new, f"fetch:{plan.provider.name}")
    return new


def _is_news(factor: NewFactor, known: tuple[str, float] | None) -> bool:
    if known is None:
        return True
    status, g_per_kwh = known
    if _RANK[factor.status] == _RANK[status]:
        return factor.g_per_kwh != g_per_kwh
    return _RANK[factor.status] < _RANK[status]


def _why_not(plan: Plan, value: Value, now_us: int) -> str:
    if value.g_per_kwh is None:
        said = re.sub(r"(^|; )learnt \S+$", "", value.note)
        return said or "no value"
    if not math.isfinite(value.g_per_kwh):
        return "not a number"
    if value.g_per_kwh < 0:
        return "below zero"
    if value.status == "forecast":
        return "" if plan.forecast else "forecast, not asked for"
    return "not over yet" if value.ended_at_us > now_us else ""


def _check_period(plan: Plan, value: Value) -> None:
    if value.status not in _RANK:
        raise _contradiction(plan, f"a status {value.status!r}", value.started_at_us)
    if value.started_at_us >= value.ended_at_us:
        raise _contradiction(plan, "a period that ends before it starts", value.started_at_us)
    if value.started_at_us % EDGE_US or value.ended_at_us % EDGE_US:
        raise _contradiction(
            plan, "a time that is no period's, but perhaps when a value was written", value.started_at_us
        )


def _of_two(plan: Plan, one: Value, other: Value) -> Value:
    """The better of two values of one period. Raises ProviderError where they contradict."""
    if _RANK[one.status] != _RANK[other.status]:
        return min(one, other, key=lambda value: _RANK[value.status])
    if one.g_per_kwh != other.g_per_kwh:
        raise _contradiction(plan, "two values of one period", one.started_at_us)
    return one


def _contradiction(plan: Plan, what: str, at_us: int) -> ProviderError:
    return ProviderError(
        f"{plan.provider.name}: {what}, at {written(at_us)}",
        "nothing was stored; ask again later, or tell the provider",
    )


def _check_unit(plan: Plan, values: Sequence[Value]) -> None:
    """A derived value is of our own unit; a contract may be as clean as it likes."""
    amounts = [value.g_per_kwh or 0.0 for value in values]
    if plan.provider.derived or plan.series.accounting != "location" or not any(amounts):
        return
    if max(amounts) < LIKELY_KG_PER_KWH:
        raise ProviderError(
            f"{plan.provider.name}: no value of {plan.series.zone} is above {max(amounts):g} g/kWh: "
            "it looks like kg per kWh",
            "nothing was stored; check the unit of what stands behind the address",
        )


def _factor(plan: Plan, value: Value) -> NewFactor:
    assert value.g_per_kwh is not None
    return NewFactor(
        plan.series,
        value.started_at_us,
        value.ended_at_us,
        value.g_per_kwh,
        value.source or plan.provider.title,
        U_REL[value.status] if value.u_rel is None else value.u_rel,
        note=value.note,
        status=value.status,
    )
