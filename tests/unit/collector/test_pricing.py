"""Prices worked by hand, and what is said when there is none."""

import pytest
from joulebook.rows import Component
from joulebook.units import US_PER_HOUR
from joulebook_collector import shipped
from joulebook_collector.factors import NewFactor, add_factors, find_series, year_period_us
from joulebook_collector.ledger import Ledger
from joulebook_collector.priced import SeriesKey, SlotEnergy
from joulebook_collector.pricing import moves_of, price, slot_energies
from joulebook_collector.restate import restatements
from joulebook_collector.shipped import annual_rows, year_us
from joulebook_collector.sites import add_site, assign
from joulebook_collector.testing import START_US, a_measurement, a_run

KWH = 3_600_000_000  # millijoules


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.duckdb") as opened:
        yield opened


def a_slot(at_us: int = START_US, machine: str = "m1", energy: int = KWH) -> SlotEnergy:
    return SlotEnergy("r1", machine, Component.GPU, "train", None, at_us, energy)


def annual(ledger, zone: str, year: int, g_per_kwh: float) -> None:
    period = year_period_us(year)
    add_factors(
        ledger, [NewFactor(find_series(ledger, zone, {}), *period, g_per_kwh, "test", 0.3, annual=True)], "test"
    )


def hourly(ledger, zone: str, at_us: int, g_per_kwh: float, hours: int = 1) -> None:
    series = find_series(ledger, zone, {})
    add_factors(ledger, [NewFactor(series, at_us, at_us + hours * US_PER_HOUR, g_per_kwh, "actual", 0.05)], "test")


def test_an_hour_priced_by_hand(ledger):
    add_site(ledger, "local", pue=1.2, pue_source="meter", u_pue=0.04, zone="DE")
    hourly(ledger, "DE", START_US, 250.0)
    (priced,) = price(ledger, [a_slot(energy=9_000_000)])
    # 9,000 J x 1.2 = 10,800 J = 0.003 kWh; x 250 g/kWh = 0.75 g.
    assert priced.facility_energy_joules == pytest.approx(10_800)
    assert priced.emissions_g == pytest.approx(0.75)
    assert (priced.pue, priced.u_pue, priced.g_per_kwh, priced.u_g_per_kwh) == (1.2, 0.04, 250.0, 0.05)
    assert (priced.site_id, priced.factor_source, priced.label, priced.missing) == ("local", "actual", "", "")


def test_emissions_follow_the_hours_and_not_the_mean(ledger):
    add_site(ledger, "local", pue=1.0, pue_source="meter", zone="DE")
    hourly(ledger, "DE", START_US, 100.0)
    hourly(ledger, "DE", START_US + US_PER_HOUR, 500.0)
    # 90 minutes of 3 kWh: two thirds in the first hour, one third in the second.
    measurement = a_measurement(0, 5400, 3 * KWH)
    slots = slot_energies(a_run(end_s=5400), [measurement])
    assert [s.energy_millijoules for s in slots] == [2 * KWH, KWH]
    # 2 kWh x 100 + 1 kWh x 500 = 700 g; by the mean of 300 it would be 900 g.
    assert sum(p.emissions_g for p in price(ledger, slots)) == pytest.approx(700)


def test_a_machine_that_moves_within_an_hour_is_priced_where_it_stood(ledger):
    add_site(ledger, "a", pue=1.0, pue_source="meter", zone="DE")
    add_site(ledger, "b", pue=2.0, pue_source="meter", zone="DE")
    hourly(ledger, "DE", START_US, 100.0)
    measurement = a_measurement(0, 3600, 4 * KWH)
    assign(ledger, measurement.machine_id, "a", START_US)
    assign(ledger, measurement.machine_id, "b", START_US + US_PER_HOUR // 4)
    slots = slot_energies(a_run(end_s=3600), [measurement], moved=moves_of(ledger))
    assert [s.energy_millijoules for s in slots] == [KWH, 3 * KWH]
    priced = price(ledger, slots)
    # A quarter at PUE 1, the rest at PUE 2: 1 kWh x 100 g and 3 kWh x 2 x 100 g.
    assert [(p.site_id, round(p.emissions_g, 6)) for p in priced] == [("a", 100), ("b", 600)]
    # A run that begins after the move, in the same hour, is at the new site from its first second.
    later = slot_energies(a_run(end_s=1200), [a_measurement(1000, 1200, KWH)], moved=moves_of(ledger))
    assert [p.site_id for p in price(ledger, later)] == ["b"]


def test_the_local_site_has_neither_pue_nor_zone(ledger):
    (priced,) = price(ledger, [a_slot()])
    assert (priced.site_id, priced.pue, priced.series, priced.emissions_g) == ("local", None, None, None)
    assert priced.missing == "site local has no PUE; site local has no grid zone"


def test_a_zone_without_a_pue_prices_nothing(ledger):
    add_site(ledger, "local", zone="DE")
    (priced,) = price(ledger, [a_slot()])
    assert (priced.g_per_kwh is None, priced.facility_energy_joules, priced.emissions_g) == (False, None, None)
    assert priced.missing == "site local has no PUE"


def test_a_pue_without_a_zone_gives_facility_energy_only(ledger):
    add_site(ledger, "local", pue=1.5, pue_source="meter")
    (priced,) = price(ledger, [a_slot()])
    assert priced.facility_energy_joules == pytest.approx(5.4e6)
    assert (priced.emissions_g, priced.missing) == (None, "site local has no grid zone")


@pytest.mark.parametrize(
    ("year", "g_per_kwh", "label", "u"),
    [
        (2024, 400.0, "annual 2024 mean", 0.3),
        (2026, 500.0, "annual 2026 mean", 0.3),
        (2028, 500.0, "annual 2026 used for 2028", 0.3),
    ],
)
def test_an_annual_value_prices_its_year_and_later_ones(ledger, year, g_per_kwh, label, u):
    add_site(ledger, "local", pue=1.0, pue_source="meter", zone="DE")
    annual(ledger, "DE", 2024, 400.0)
    annual(ledger, "DE", 2026, 500.0)
    (priced,) = price(ledger, [a_slot(year_us(year) + 5 * US_PER_HOUR)])
    assert (priced.g_per_kwh, priced.label, priced.u_g_per_kwh) == (g_per_kwh, label, u)


@pytest.fixture
def upgrade(ledger, monkeypatch):
    """Open the ledger as a joulebook would whose table has another German value for 2025."""
    text = shipped._text("grid_intensity_annual.csv")
    (line,) = [line for line in text.splitlines() if line.startswith("DE,") and ",2025," in line]
    value = next(row.g_per_kwh for row in annual_rows() if (row.series.zone, row.year) == ("DE", 2025))

    def upgrader(g_per_kwh: float | None) -> None:
        named = line if g_per_kwh is None else line.replace(f",{value:g},", f",{g_per_kwh:g},")
        monkeypatch.setattr(shipped, "_text", lambda _: text.replace(line, named))
        annual_rows.cache_clear()
        shipped.bring_shipped(ledger)

    yield upgrader
    annual_rows.cache_clear()


def test_a_newer_shipped_table_supersedes_the_older_and_never_what_somebody_added(ledger, upgrade):
    add_site(ledger, "local", pue=1.0, pue_source="meter", zone="DE")
    (first,) = price(ledger, [a_slot()])
    upgrade(299.0)
    assert price(ledger, [a_slot()])[0].emissions_g == pytest.approx(299.0)
    annual(ledger, "DE", 2025, 310.0)
    upgrade(305.0)
    # 1 kWh x PUE 1.0 x 310 g/kWh, whatever comes with a package.
    assert price(ledger, [a_slot()])[0].emissions_g == pytest.approx(310.0)
    assert first.g_per_kwh not in (299.0, 305.0)


def test_a_shipped_value_that_is_taken_back_is_added_again(ledger, upgrade):
    add_site(ledger, "local", pue=1.0, pue_source="meter", zone="DE")
    (first,) = price(ledger, [a_slot()])
    upgrade(299.0)
    upgrade(None)
    assert price(ledger, [a_slot()])[0].g_per_kwh == first.g_per_kwh
    known = ledger.latest_known_us()
    upgrade(None)
    assert ledger.latest_known_us() == known


def test_a_year_before_the_first_known_value_is_missing(ledger):
    add_site(ledger, "local", pue=1.0, pue_source="meter", zone="DE")
    (priced,) = price(ledger, [a_slot(year_us(2019))])
    assert priced.emissions_g is None
    assert "known for 2019 or an earlier year" in priced.missing


def test_an_hourly_value_beats_an_annual_one_whichever_came_first(ledger):
    add_site(ledger, "local", pue=1.0, pue_source="meter", zone="DE")
    hourly(ledger, "DE", START_US, 123.0)
    annual(ledger, "DE", 2025, 400.0)
    inside, after = price(ledger, [a_slot(), a_slot(START_US + US_PER_HOUR)])
    assert (inside.g_per_kwh, after.g_per_kwh) == (123.0, 400.0)


def test_a_later_known_value_supersedes_only_the_period_it_covers(ledger):
    add_site(ledger, "local", pue=1.0, pue_source="meter", zone="DE")
    hourly(ledger, "DE", START_US, 100.0, hours=3)
    hourly(ledger, "DE", START_US + US_PER_HOUR, 200.0)
    slots = [a_slot(START_US + i * US_PER_HOUR) for i in range(3)]
    assert [p.g_per_kwh for p in price(ledger, slots)] == [100.0, 200.0, 100.0]


def test_series_of_one_zone_are_never_mixed(ledger):
    add_site(ledger, "local", pue=1.0, pue_source="meter", zone="DE")
    series = find_series(ledger, "DE", {})
    direct = type(series)(zone="DE", basis="direct")
    add_factors(ledger, [NewFactor(direct, START_US, START_US + US_PER_HOUR, 50.0, "test", 0.1)], "test")
    (priced,) = price(ledger, [a_slot()])
    assert priced.series == series
    assert priced.g_per_kwh != 50.0


def test_each_machine_is_priced_where_it_stood_at_the_time(ledger):
    add_site(ledger, "a", pue=1.1, pue_source="meter", zone="DE")
    add_site(ledger, "b", pue=1.6, pue_source="meter", zone="FR")
    assign(ledger, "m1", "a")
    assign(ledger, "m1", "b", START_US + US_PER_HOUR)
    slots = [a_slot(), a_slot(START_US + US_PER_HOUR), a_slot(machine="m2")]
    assert [(p.site_id, p.pue) for p in price(ledger, slots)] == [("a", 1.1), ("b", 1.6), ("local", None)]


def test_slots_come_back_in_the_order_given(ledger):
    add_site(ledger, "local", pue=1.0, pue_source="meter", zone="DE")
    slots = [a_slot(START_US + i * US_PER_HOUR, energy=i + 1) for i in (3, 0, 2, 1)]
    assert [p.energy for p in price(ledger, slots)] == slots
    assert price(ledger, []) == []


def test_a_corrected_factor_restates_by_hand(ledger):
    add_site(ledger, "local", pue=1.5, pue_source="meter", zone="DE")
    annual(ledger, "DE", 2025, 300.0)
    then = ledger.latest_known_us()
    slots = [a_slot(), a_slot(START_US + US_PER_HOUR)]
    assert restatements(ledger, slots, then) == []
    hourly(ledger, "DE", START_US, 340.0)
    (only,) = restatements(ledger, slots, then)
    # One slot of 1 kWh x 1.5: 510 g instead of 450 g.
    assert only.delta_g == pytest.approx(60.0)
    assert (only.old_g_per_kwh, only.new_g_per_kwh, only.slots) == (300.0, 340.0, 1)
    assert (only.old_site_id, only.site_id, only.no_delta) == ("local", "local", "")
    assert (only.old_label, only.new_label, only.new_source) == ("annual 2025 mean", "", "actual")
    assert only.known_at_us == ledger.latest_known_us()
    assert restatements(ledger, slots, then, then) == []


def test_a_day_of_hours_is_restated_as_one_change_with_both_figures(ledger):
    add_site(ledger, "local", pue=1.5, pue_source="meter", zone="DE")
    hours = [START_US + hour * US_PER_HOUR for hour in range(24)]

    def a_day(grams, source, **changes):
        periods = [(at, at + US_PER_HOUR) for at in hours]
        series = SeriesKey("DE")
        new = [NewFactor(series, *p, grams(i), source, 0.1, **changes) for i, p in enumerate(periods)]
        add_factors(ledger, new, "test")

    a_day(lambda hour: 100.0 + hour, "grid", status="forecast")
    then = ledger.latest_known_us()
    a_day(lambda hour: 110.0 + 2 * hour, "grid")
    slots = [a_slot(at, energy=KWH if i else 3 * KWH) for i, at in enumerate(hours)]
    (only,) = restatements(ledger, slots, then)
    # 1.5 x (3 x 100 + sum of 101 to 123) = 1.5 x (300 + 2576) = 4314 g; 1.5 x (330 + 2530 + 2 x 276) = 5118 g.
    assert (only.old_g, only.new_g, only.delta_g) == (pytest.approx(4314), pytest.approx(5118), pytest.approx(804))
    # By energy over 26 kWh, not over 24 hours: 2876 / 26 and 3412 / 26 g/kWh.
    assert only.old_g_per_kwh == pytest.approx(2876 / 26)
    assert only.new_g_per_kwh == pytest.approx(3412 / 26)
    assert (only.old_label, only.new_label, only.slots) == ("forecast", "", 24)


def test_a_move_told_later_restates_from_one_site_to_the_other_since_it_was_told(ledger):
    add_site(ledger, "old", pue=1.0, pue_source="meter", zone="DE")
    add_site(ledger, "new", pue=1.5, pue_source="meter", zone="FR")
    annual(ledger, "DE", 2025, 300.0)
    annual(ledger, "FR", 2025, 40.0)
    assign(ledger, "m1", "old")
    then = ledger.latest_known_us()
    assign(ledger, "m1", "new", START_US + US_PER_HOUR)
    told = ledger.latest_known_us()
    (only,) = restatements(ledger, [a_slot(), a_slot(START_US + US_PER_HOUR)], then)
    # 1 kWh at 1.5 x 40 = 60 g in France, instead of 300 g in Germany; the first hour was in Germany.
    assert (only.old_site_id, only.site_id, only.slots) == ("old", "new", 1)
    assert (only.old_series.zone, only.new_series.zone) == ("DE", "FR")
    assert only.delta_g == pytest.approx(-240.0)
    # Site and factor were known before; what is new is where the machine stood.
    assert only.known_at_us == told


def test_grams_of_another_basis_are_not_subtracted(ledger):
    add_site(ledger, "local", pue=1.0, pue_source="meter", zone="DE")
    direct = SeriesKey("DE", basis="direct", gases="CO2")
    add_factors(ledger, [NewFactor(direct, START_US, START_US + US_PER_HOUR, 200.0, "test", 0.1)], "test")
    then = ledger.latest_known_us()
    add_site(ledger, "local", words={"basis": "direct"})
    (only,) = restatements(ledger, [a_slot()], then)
    assert (only.old_series, only.new_series, only.delta_g) == (SeriesKey("DE"), direct, None)
    assert only.no_delta == (
        "grams of DE average lifecycle production location CO2e and of "
        "DE average direct production location CO2 are not comparable"
    )


def test_the_first_price_is_no_restatement_and_a_change_of_it_is(ledger):
    finished = ledger.latest_known_us()
    slots = [a_slot()]
    add_site(ledger, "local", pue=1.0, pue_source="meter", zone="DE")
    annual(ledger, "DE", 2025, 300.0)
    first_annual = ledger.latest_known_us()
    add_site(ledger, "local", pue=1.25, pue_source="better meter")
    changes = restatements(ledger, slots, finished)
    # The zone's shipped 2025 value priced first, then 300 at PUE 1.0, now 300 at PUE 1.25 = 375 g.
    (only,) = changes
    shipped = only.old_g_per_kwh
    assert only.delta_g == pytest.approx(375.0 - shipped)
    assert (only.old_pue, only.new_pue) == (1.0, 1.25)
    # Seen from when 300 was known, only the PUE changed: 375 - 300.
    (later,) = restatements(ledger, slots, first_annual)
    assert later.delta_g == pytest.approx(75.0)
    assert later.known_at_us == ledger.latest_known_us()


def test_shares_of_others_are_not_priced_as_the_runs():
    slots = slot_energies(a_run("r2"), [a_measurement(0, 10, 1000, "r1")])
    assert slots == []
