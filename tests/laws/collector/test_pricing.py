"""Laws 4 and 5: splitting and merging change nothing, and the same T gives the same prices."""

import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joulebook.rows import Policy
from joulebook.units import US_PER_HOUR
from joulebook_collector.factors import NewFactor, add_factors, find_series, year_period_us
from joulebook_collector.ledger import Ledger
from joulebook_collector.pricing import price, slot_energies, slot_step_us
from joulebook_collector.sites import add_site, assign
from joulebook_collector.testing import START_US, a_measurement, a_run

HOUR_S = 3600
FEW = settings(max_examples=12, deadline=None)


@pytest.fixture(scope="module")
def priced_ledger(tmp_path_factory):
    with Ledger.open(tmp_path_factory.mktemp("pricing") / "l.duckdb") as ledger:
        add_site(ledger, "local", pue=1.25, pue_source="test", zone="DE")
        series = find_series(ledger, "DE", {})
        hours = [START_US + i * US_PER_HOUR for i in range(5)]
        add_factors(
            ledger,
            [NewFactor(series, at, at + US_PER_HOUR, 100.0 + 50 * i, "test", 0.1) for i, at in enumerate(hours)],
            "test",
        )
        yield ledger


spans = st.lists(st.tuples(st.integers(1, HOUR_S), st.integers(0, 10**7)), min_size=1, max_size=6)


@given(spans, st.sampled_from([5, 15, 30, 60]))
def test_slots_sum_to_the_shares_exactly(parts, minutes):
    measurements, at = [], 0
    for length, energy in parts:
        measurements.append(a_measurement(at, at + length, energy, run_millijoules=energy // 3))
        at += length
    slots = slot_energies(a_run(end_s=at), measurements, slot_us=minutes * 60_000_000)
    assert sum(slot.energy_millijoules for slot in slots) == sum(energy // 3 for _, energy in parts)
    assert all(slot.slot_started_at_us % (minutes * 60_000_000) == 0 for slot in slots)


@FEW
@given(st.integers(1, 4 * HOUR_S), st.integers(1, 10**9), st.integers(1, 20), st.sampled_from([5, 30, 60]))
def test_splitting_a_span_changes_no_total_and_no_emission_beyond_rounding(
    priced_ledger, length, energy, pieces, minutes
):
    whole = [a_measurement(0, length, energy)]
    edges = sorted({round(length * i / pieces) for i in range(pieces + 1)})
    parts = [a_measurement(a, b, energy * b // length - energy * a // length) for a, b in pairwise(edges)]
    run = a_run(end_s=length)
    totals = []
    for measurements in (whole, parts):
        slots = slot_energies(run, measurements, slot_us=minutes * 60_000_000)
        assert sum(s.energy_millijoules for s in slots) == energy
        totals.append(sum(p.emissions_g or 0.0 for p in price(priced_ledger, slots)))
    # Each cut may move less than 1 mJ across an hour edge: at most 200 g/kWh apart, PUE 1.25.
    assert abs(totals[0] - totals[1]) <= 1e-6 * totals[0] + (pieces + 5) * 1e-3 / 3.6e6 * 200 * 1.25


@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_a_policy_splits_again_and_the_default_keeps_the_shares(energy, mine):
    mine = min(mine, energy)
    measurements = [a_measurement(0, 10, energy, run_millijoules=mine)]
    run = a_run()
    assert sum(s.energy_millijoules for s in slot_energies(run, measurements)) == mine
    # All of the SM time is the run's, so under utilisation all of the energy is.
    again = slot_energies(run, measurements, Policy.UTILISATION)
    assert sum(s.energy_millijoules for s in again) == energy


knowledge = st.lists(
    st.one_of(
        st.tuples(st.just("annual"), st.integers(2024, 2026), st.integers(100, 900)),
        st.tuples(st.just("hour"), st.integers(0, 3), st.integers(100, 900)),
        st.tuples(st.just("pue"), st.just(0), st.integers(100, 200)),
        st.tuples(st.just("move"), st.integers(0, 3), st.just(0)),
    ),
    max_size=6,
)


@FEW
@given(knowledge, knowledge)
def test_the_same_t_gives_the_same_prices_whatever_is_learnt_later(before, after):
    slots = slot_energies(a_run(end_s=4 * HOUR_S), [a_measurement(0, 4 * HOUR_S, 10**7)])
    with tempfile.TemporaryDirectory() as home, Ledger.open(Path(home) / "l.duckdb") as ledger:
        add_site(ledger, "local", pue=1.1, pue_source="test", zone="DE")
        add_site(ledger, "other", pue=1.5, pue_source="test", zone="FR")
        for fact in before:
            _learn(ledger, fact)
        then = ledger.latest_known_us()
        first = price(ledger, slots, then)
        for fact in after:
            _learn(ledger, fact)
        assert repr(price(ledger, slots, then)) == repr(first)
        assert repr(price(ledger, slots)) == repr(price(ledger, slots))


def _learn(ledger: Ledger, fact: tuple) -> None:
    what, when, value = fact
    series = find_series(ledger, "DE", {})
    if what == "annual":
        add_factors(ledger, [NewFactor(series, *year_period_us(when), value, "test", 0.3, annual=True)], "test")
    elif what == "hour":
        at = START_US + when * US_PER_HOUR
        add_factors(ledger, [NewFactor(series, at, at + US_PER_HOUR, value, "test", 0.1)], "test")
    elif what == "pue":
        add_site(ledger, "local", pue=value / 100, pue_source="test")
    else:
        assign(ledger, "m1", "other", START_US + when * US_PER_HOUR)


@given(st.sampled_from([5, 15, 30, 60]))
@settings(max_examples=4, deadline=None)
def test_slots_follow_the_finest_step_of_the_factors(minutes):
    with tempfile.TemporaryDirectory() as home, Ledger.open(Path(home) / "l.duckdb") as ledger:
        run = a_run(end_s=60)
        assert slot_step_us(ledger, [run]) == US_PER_HOUR
        series = find_series(ledger, "DE", {})
        step = minutes * 60_000_000
        add_factors(ledger, [NewFactor(series, START_US, START_US + step, 100, "test", 0.1)], "test")
        assert slot_step_us(ledger, [run]) == step
