"""Laws 3 to 5 of the lake: whatever is sealed, merged or cleared away, every reader sees the same book."""

import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from joulebook.errors import LedgerError
from joulebook.rows import Component, Labels, Reassignment, Share, ShareKind, Technique, Weights
from joulebook.units import US_PER_HOUR
from joulebook_collector.factors import NewFactor, add_factors, find_series
from joulebook_collector.lake.check import check_lake
from joulebook_collector.lake.compact import clear, compact, retire
from joulebook_collector.lake.lake import Lake
from joulebook_collector.lake.seal import seal
from joulebook_collector.ledger import Ledger
from joulebook_collector.pricing import moves_of, price, slot_energies
from joulebook_collector.pricing_fleet import price_fleet
from joulebook_collector.sites import add_site, assign
from joulebook_collector.testing import SECOND_US, START_US, a_batch, a_measurement, a_run

FEW = settings(max_examples=5, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
LATER_US = START_US + 40 * US_PER_HOUR
PERIOD = (START_US, START_US + 12 * US_PER_HOUR)

lengths = st.sampled_from([1, 7, 10, 59, 60, 61, 600, 3600, 2 * 3600 + 1])
drawn = st.tuples(
    lengths, st.integers(0, 10**7), st.sampled_from(["m1", "m2"]), st.sampled_from(["GPU-1", "GPU-2"]),
    st.sampled_from(["r1", "r2"]), st.sampled_from(["train", "eval", ""]), st.sampled_from([None, "0", "1"]),
)  # fmt: skip


def measured(rows):
    """Measurements one after the other on each device, each of two shares, or none where there is no energy."""
    ends: Counter[tuple[str, str]] = Counter()
    made = []
    for i, (length, energy, machine, device, run, phase, member) in enumerate(rows):
        start = ends[machine, device]
        ends[machine, device] += length
        m = a_measurement(
            start, start + length, energy, run, energy - energy // 3, machine_id=machine, device_id=device
        )
        mine, rest = m.shares
        mine = replace(mine, phase=phase, member=member, weights=Weights(i / 7, i / 3, 1 / 3))
        shares = (mine, rest) if energy or i % 2 else ()
        made.append(replace(m, shares=shares, u_indep=0.01 / (i + 1), component=list(Component)[i % 3]))
    return made


def reopened(folder: Path) -> Ledger:
    """The ledger there, whose clock stands well after everything."""
    return Ledger.open(folder / "ledger.duckdb", clock=lambda: LATER_US)


def a_ledger(folder: Path) -> Ledger:
    """The same, priced."""
    ledger = reopened(folder)
    add_site(ledger, "local", pue=1.25, pue_source="test", u_pue=0.02, zone="DE")
    add_site(ledger, "far", pue=1.5, pue_source="test", u_pue=0.02, zone="FR")
    for zone in ("DE", "FR"):
        series = find_series(ledger, zone, {})
        hours = [START_US + i * US_PER_HOUR for i in range(12)]
        values = [NewFactor(series, at, at + US_PER_HOUR, 100.0 + 37 * i, "test", 0.1) for i, at in enumerate(hours)]
        add_factors(ledger, values, "test")
    return ledger


def books(ledger: Ledger):
    """What readers see of the book: everything, and what a run's report picks."""
    return ledger.measurements(), ledger.measurements(run_ids=["r1"]), ledger.query("select count(*) from share")


steps = st.lists(st.sampled_from(["take", "seal", "compact", "clear", "reopen"]), min_size=3, max_size=6)


@FEW
@given(st.lists(drawn, min_size=4, max_size=24), steps)
def test_no_order_of_sealing_merging_and_clearing_changes_the_book(rows, steps):
    """Late rows among them: what is taken after its hour was sealed."""
    waiting = measured(rows)
    with tempfile.TemporaryDirectory() as folder:
        ledger = a_ledger(Path(folder))
        with Ledger.open(Path(folder) / "plain.duckdb") as plain:
            first = 1
            for step in [*steps, "take", "seal", "reopen"]:
                if step == "take":
                    chosen, waiting = waiting[:5], waiting[5:]
                    if chosen:
                        for book in (ledger, plain):
                            book.ingest(a_batch(chosen, first=first))
                        first += len(chosen)
                elif step == "seal":
                    seal(Lake(ledger), LATER_US, patience_us=-US_PER_HOUR)
                elif step == "compact":
                    compact(Lake(ledger))
                elif step == "clear":
                    clear(Lake(ledger), kept_versions=1)
                else:
                    ledger.close()
                    ledger = reopened(Path(folder))
                assert books(ledger) == books(plain)
            assert check_lake(Lake(ledger)) == []
            assert Lake(ledger).manifest.millijoules() == sum(m.energy_millijoules for m in plain.measurements())
            ledger.close()


@FEW
@given(st.lists(drawn, min_size=1, max_size=30))
def test_roll_ups_keep_every_millijoule_of_every_key_and_cross_nothing(rows):
    with tempfile.TemporaryDirectory() as folder, a_ledger(Path(folder)) as ledger:
        ledger.ingest(a_batch(measured(rows)))
        lake = Lake(ledger)
        seal(lake, LATER_US, patience_us=-US_PER_HOUR)
        key = "machine_id, device_id, component, kind, run_id, phase, member, method, meter, u_common, u_common_key"
        delivered = _sums(ledger, "raw", lake, key, "sum(millijoules), sum((millijoules * u_indep) ** 2), count(*)")
        for level, step in (("minute", 60 * SECOND_US), ("hour", US_PER_HOUR)):
            rolled = _sums(ledger, level, lake, key, "sum(millijoules), sum(indep_squares), sum(shares)")
            assert rolled.keys() == delivered.keys()
            for name, (energy, squares, count) in rolled.items():
                assert (energy, count) == (delivered[name][0], delivered[name][2])
                assert squares == pytest.approx(delivered[name][1], rel=1e-12)
            crossing = f"shares > 1 and ended_at_us > (started_at_us // {step} + 1) * {step}"
            paths = [lake.store.readable(part.path) for part in lake.manifest.of_level(level)]
            assert ledger.query(f"select count(*) from read_parquet(?) where {crossing}", [paths]) == [(0,)]


def _sums(ledger, level, lake, key, sums):
    paths = [lake.store.readable(part.path) for part in lake.manifest.of_level(level)]
    rows = ledger.query(
        f"select {key}, {sums} from read_parquet(?, hive_partitioning = false) where kind is not null group by {key}",
        [paths],
    )
    return {tuple(row[:-3]): row[-3:] for row in rows}


@FEW
@given(
    st.lists(drawn, min_size=2, max_size=24), st.sampled_from([5, 15, 60]), st.booleans(), st.booleans(), st.booleans()
)
def test_the_fleets_price_is_the_sum_of_its_runs_prices(rows, minutes, moved, marked, looked_at_twice):
    """Hot, sealed as delivered, merged and retired: integers to the millijoule, grams beyond rounding."""
    slot_us = minutes * 60 * SECOND_US
    with tempfile.TemporaryDirectory() as folder, a_ledger(Path(folder)) as ledger:
        half = measured(rows)
        ledger.ingest(a_batch([a_run("r1", labels=Labels(techniques=(Technique("int8"),))), a_run("r2")], first=1))
        ledger.ingest(a_batch(half, first=3))
        if moved:
            assign(ledger, "m1", "local")
            assign(ledger, "m1", "far", START_US + 23 * 60 * SECOND_US + 1)
        if marked and half[0].shares and half[0].shares[1].millijoules:
            rest = half[0].shares[1]
            late = Share(ShareKind.RUN, 0, rest.policy, "r2", "late")
            ledger.ingest(a_batch([Reassignment("inc-1", 3, rest.millijoules // 2, rest, late)], first=3 + len(half)))
        if looked_at_twice:
            again = replace(half[-1], meter="nvml-other", u_common=0.5)
            ledger.ingest(a_batch([again], agent_id="agent-2", incarnation="inc-2"))
        expected = _by_run(ledger, slot_us)
        assert _fleet(ledger, slot_us) == expected
        sealed_of = measured(rows[: len(rows) // 2])
        lake = Lake(ledger)
        seal(lake, max(m.ended_at_us for m in sealed_of) + US_PER_HOUR, grace_us=0, patience_us=-US_PER_HOUR)
        assert _fleet(ledger, slot_us) == expected
        seal(lake, LATER_US, patience_us=-US_PER_HOUR)
        assert _fleet(ledger, slot_us) == expected == _fleet(ledger, slot_us, rows=True)
        retire(lake, LATER_US)
        assert check_lake(lake) == []
        if moved:  # a slot with two sites may need rows that are retired: refused, never guessed
            with suppress(LedgerError):
                assert _fleet(ledger, slot_us) == expected
        else:
            assert _fleet(ledger, slot_us) == expected


def _by_run(ledger, slot_us):
    """Energy and grams per technique and hour, run by run as reports do it."""
    totals: dict[tuple[str, int], list[float]] = {}
    measurements = ledger.measurements()
    for run_id, technique in (("r1", "int8"), ("r2", "")):
        slots = slot_energies(a_run(run_id), measurements, slot_us=slot_us, moved=moves_of(ledger))
        for priced in price(ledger, slots):
            hour = priced.energy.slot_started_at_us // US_PER_HOUR * US_PER_HOUR
            total = totals.setdefault((technique, hour), [0, 0.0])
            total[0] += priced.energy.energy_millijoules
            total[1] += priced.emissions_g
    return {key: (energy, pytest.approx(grams, rel=1e-9, abs=1e-12)) for key, (energy, grams) in totals.items()}


def _fleet(ledger, slot_us, **options):
    lines = price_fleet(ledger, PERIOD, slot_us=slot_us, **options)
    return {(line.technique, line.started_at_us): (line.energy_millijoules, line.emissions_g) for line in lines}
