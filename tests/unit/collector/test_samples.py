"""Sample years: whole, licensed, as they were shipped, and never a price."""

import json
import statistics
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files

import pytest
from joulebook.errors import BadInput, JoulebookError
from joulebook_collector.factors import NewFactor, add_factors
from joulebook_collector.ledger import Ledger
from joulebook_collector.samples import parsed, read_sample, samples
from joulebook_collector.shipped import year_us

HOUR_US = 3_600_000_000


@pytest.mark.parametrize("sample", samples(), ids=lambda sample: sample.file)
@pytest.mark.parametrize("basis", ["lifecycle", "direct"])
def test_every_sample_is_a_whole_year_with_a_licence_and_plausible(sample, basis):
    year = read_sample(sample.zone, sample.year, basis)
    assert len(year.g_per_kwh) * year.step_us == year_us(sample.year + 1) - year_us(sample.year)
    known = [value for value in year.g_per_kwh if value is not None]
    assert len(year.g_per_kwh) - len(known) == sample.missing
    assert 0 <= min(known) <= max(known) < 1000
    assert sample.licence
    assert sample.source
    assert "derived" in sample.method


def test_only_what_is_freely_licensed_is_shipped():
    assert {(s.zone, s.licence.split(" (")[0]) for s in samples()} == {
        ("DE", "CC BY 4.0"),
        *((f"US-{area}", "public domain") for area in ["AZPS", "BPAT", "CISO", "ERCO", "MISO", "NYIS", "PJM", "SOCO"]),
    }
    shipped = {path.name for path in (files("joulebook_collector") / "data" / "grid_intensity_hourly").iterdir()}
    assert shipped == {sample.file for sample in samples()} | {"index.csv"}
    assert not [path.name for path in (files("joulebook_collector") / "data").iterdir() if "odbl" in path.name]


def test_direct_is_less_than_lifecycle_and_the_mean_is_the_published_one():
    lifecycle, direct = (read_sample("DE", 2020, basis).g_per_kwh for basis in ("lifecycle", "direct"))
    assert statistics.fmean(lifecycle) == pytest.approx(309.8, abs=0.05)
    assert all(a > b for a, b in zip(lifecycle, direct, strict=True))


def test_it_tells_of_its_own_year_and_refuses_every_other():
    year = read_sample("US-CISO", 2022, "lifecycle")
    july = round(datetime(2022, 7, 1, 12, 30, tzinfo=UTC).timestamp()) * 1_000_000
    assert year.at(july) == year.g_per_kwh[(181 * 24 + 12)]
    for other in (year_us(2022) - 1, year_us(2023), year_us(2026)):
        with pytest.raises(BadInput, match="is no price of 20"):
            year.at(other)
    assert year.label == "what-if: US-CISO average lifecycle production location CO2e as it was in 2022"


def test_no_ledger_holds_or_takes_a_sample(tmp_path):
    year = read_sample("DE", 2020, "lifecycle")
    with Ledger.open(tmp_path / "ledger.duckdb") as ledger:
        assert all(factor.annual for factor in ledger.factors())
        factor = NewFactor(year.series, year_us(2026), year_us(2026) + HOUR_US, 300.0, year.label, 0.1)
        with pytest.raises(BadInput, match="what-if"):
            add_factors(ledger, [factor], "test")


def test_a_file_that_was_changed_is_refused():
    sample = samples()[0]
    packed = (files("joulebook_collector") / "data" / "grid_intensity_hourly" / sample.file).read_bytes()
    with pytest.raises(JoulebookError, match="not the file"):
        parsed(sample, packed[:-1] + b"x", "direct")
    with pytest.raises(JoulebookError, match="not one whole year"):
        parsed(replace(sample, year=sample.year + 1), packed, "direct")


def test_the_verb_lists_them_and_tells_hours_that_no_import_takes(bench):
    listed = json.loads(bench.joulebook("factors", "samples", "--json").stdout)
    assert {(row["zone"], row["year"]) for row in listed} == {(s.zone, s.year) for s in samples()}
    hours = bench.joulebook("factors", "samples", "--zone", "DE", "--year", "2020", "--basis", "direct")
    lines = hours.stdout.splitlines()
    assert (len(lines), lines[0]) == (8785, "zone,started_at,ended_at,what_if_g_per_kwh,source")
    file = bench.root / "hours.csv"
    file.write_text(hours.stdout)
    done = bench.joulebook("factors", "import", str(file))
    assert done.returncode == 2
    assert "what_if_g_per_kwh" in done.stderr
    assert "say --zone" in bench.joulebook("factors", "samples", "--year", "2020").stderr
