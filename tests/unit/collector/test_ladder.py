"""What prices an hour of which no value is known: the named ladder, each rung worked by hand and labelled."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from joulebook.errors import BadInput
from joulebook.rows import Component
from joulebook.units import US_PER_HOUR
from joulebook_collector.factors import NewFactor, add_factors, year_period_us
from joulebook_collector.ledger import Ledger
from joulebook_collector.priced import SeriesKey, SlotEnergy
from joulebook_collector.pricing import price
from joulebook_collector.sites import add_site

KWH = 3_600_000_000  # millijoules
NOON = datetime(2027, 3, 29, 12, tzinfo=UTC)
"""A Monday of a year that no shipped annual mean is of."""
GRID = SeriesKey("DE", basis="direct")
"""No value of this series is shipped."""


def us(at):
    return round(at.timestamp()) * 1_000_000


def value(at, g_per_kwh, series=GRID, minutes=60, **changes):
    started = us(at)
    period = (started, started + minutes * US_PER_HOUR // 60)
    return NewFactor(series, *period, g_per_kwh, **{"source": "grid", "u_rel": 0.05, **changes})


def annual(year, g_per_kwh, series=GRID):
    return NewFactor(series, *year_period_us(year), g_per_kwh, "table", 0.3, annual=True)


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.duckdb") as opened:
        add_factors(opened, [annual(2020, 999.0)], "test")
        add_site(opened, "local", pue=1.0, pue_source="meter", zone="DE", words={"basis": "direct"})
        yield opened


def priced(ledger, at=NOON):
    (found,) = price(ledger, [SlotEnergy("r1", "m1", Component.GPU, "train", None, us(at), KWH)])
    return found


def told(ledger, at=NOON):
    found = priced(ledger, at)
    return (pytest.approx(found.g_per_kwh), found.u_g_per_kwh, found.label)


def add(ledger, *values):
    add_factors(ledger, values, "test")


def test_a_value_of_the_hour_is_no_rung(ledger):
    add(ledger, value(NOON, 310.0))
    assert told(ledger) == (310.0, 0.05, "")


def test_first_the_same_hour_of_the_week_over_four_weeks(ledger):
    weeks = [value(NOON - timedelta(weeks=k), g) for k, g in ((1, 100.0), (2, 200.0), (4, 600.0), (5, 9000 / 9))]
    add(ledger, *weeks, value(NOON - timedelta(weeks=1, hours=1), 777.0))
    # (100 + 200 + 600) / 3; five weeks before and another hour do not count.
    assert told(ledger) == (300.0, 0.2, "no value: mean of this hour of the week, 4 weeks before")
    assert priced(ledger).factor_source == "grid"
    assert priced(ledger).emissions_g == pytest.approx(300.0)


def test_one_week_of_four_is_not_enough(ledger):
    add(ledger, value(NOON - timedelta(weeks=1), 100.0))
    assert told(ledger) == (999.0, 0.3, "annual 2020 used for 2027")


def test_a_week_before_is_the_mean_of_its_hour_whatever_its_step(ledger):
    before = NOON - timedelta(weeks=1)
    quarters = [value(before + timedelta(minutes=15 * k), g, minutes=15) for k, g in enumerate((0.0, 0.0, 0.0, 400.0))]
    add(ledger, *quarters, value(NOON - timedelta(weeks=2), 300.0))
    assert told(ledger)[0] == 200.0  # (400 / 4 + 300) / 2


def test_a_forecast_is_nobodys_past(ledger):
    add(ledger, *(value(NOON - timedelta(weeks=k), 100.0, status="forecast") for k in (1, 2, 3)))
    assert told(ledger) == (999.0, 0.3, "annual 2020 used for 2027")


def test_a_correction_counts_in_place_of_what_it_corrects(ledger):
    add(ledger, *(value(NOON - timedelta(weeks=k), 100.0) for k in (1, 2)))
    add(ledger, value(NOON - timedelta(weeks=1), 300.0))
    assert told(ledger)[0] == 200.0


def test_then_the_mean_of_the_month(ledger):
    first = datetime(2027, 3, 20, tzinfo=UTC)
    hours = [value(first + timedelta(hours=k), 200.0 if k < 84 else 400.0) for k in range(168)]
    holes = [hour for hour in hours if (hour.started_at_us - us(NOON)) % (168 * US_PER_HOUR)]
    add(ledger, *holes)
    # 167 hours are less than seven days.
    assert told(ledger)[2] == "annual 2020 used for 2027"
    add(ledger, value(first + timedelta(hours=168), 300.0))
    (left_out,) = [hour for hour in hours if hour not in holes]
    found = (84 * 200 + 84 * 400 - left_out.g_per_kwh + 300) / 168
    assert told(ledger) == (found, 0.3, "no value: mean of 2027-03")


def test_then_the_annual_mean_of_its_year_then_the_mean_of_what_is_known_of_it(ledger):
    days = [value(datetime(2027, 6, 1, tzinfo=UTC) + timedelta(days=k), 150.0, minutes=1440) for k in range(91)]
    add(ledger, *days[1:])
    assert told(ledger)[2] == "annual 2020 used for 2027"
    add(ledger, days[0])
    assert told(ledger) == (150.0, 0.3, "no value: mean of 2027")
    add(ledger, annual(2027, 180.0))
    assert told(ledger) == (180.0, 0.3, "annual 2027 mean")


def test_at_last_the_country_of_the_same_words_and_never_of_others(ledger):
    part = replace(GRID, zone="DE-BY")
    add(ledger, value(NOON - timedelta(hours=1), 50.0, part), value(NOON, 320.0, replace(GRID, basis="lifecycle")))
    add_site(ledger, "local", pue=1.0, pue_source="meter", zone="DE-BY")
    assert told(ledger) == (999.0, 0.3, "DE used for DE-BY; annual 2020 used for 2027")
    add(ledger, value(NOON, 250.0))
    assert told(ledger) == (250.0, 0.3, "DE used for DE-BY")
    add(ledger, value(NOON, 60.0, part))
    assert told(ledger) == (60.0, 0.05, "")


def test_where_no_rung_holds_the_price_is_missing(tmp_path):
    with Ledger.open(tmp_path / "ledger.duckdb") as ledger:
        series = replace(GRID, zone="XX-1", kind="marginal")
        add(ledger, value(NOON - timedelta(hours=1), 50.0, series))
        add_site(ledger, "local", pue=1.0, pue_source="meter", zone="XX-1")
        assert priced(ledger).emissions_g is None
        assert priced(ledger).missing.startswith("no value of XX-1 marginal direct")


def test_a_forecast_prices_until_the_actual_is_known_and_never_after(ledger):
    add(ledger, value(NOON, 100.0, status="forecast", u_rel=0.15))
    assert told(ledger) == (100.0, 0.15, "forecast")
    add(ledger, value(NOON, 120.0, status="estimated"))
    assert told(ledger) == (120.0, 0.05, "estimated by its source")
    add(ledger, value(NOON, 130.0))
    add(ledger, value(NOON, 90.0, status="forecast"), value(NOON + timedelta(hours=1), 80.0, status="forecast"))
    assert told(ledger) == (130.0, 0.05, "")


def test_means_of_two_sources_name_both(ledger):
    add(ledger, value(NOON - timedelta(weeks=1), 100.0), value(NOON - timedelta(weeks=2), 100.0, source="other"))
    assert priced(ledger).factor_source == "grid; other"


@pytest.mark.parametrize(
    ("factor", "cause"),
    [
        (value(NOON, 300.0, status="guess"), "status 'guess'"),
        (replace(annual(2027, 300.0), status="forecast"), "status 'forecast'"),
        (value(NOON, 2900.0, SeriesKey("IS")), "looks like g per MWh"),
    ],
)
def test_what_a_status_or_a_unit_cannot_be(ledger, factor, cause):
    with pytest.raises(BadInput, match=cause):
        add_factors(ledger, [factor], "test")
