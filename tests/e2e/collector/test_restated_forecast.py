"""A day priced with a forecast, then with actual values: both figures, the delta and the reason are in the report."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from grid_servers import HOUR, World, uk
from joulebook_collector.grid.refresh import refresh
from joulebook_collector.grid.waits import Waits
from joulebook_collector.ledger import Ledger

DAY = datetime(2025, 11, 23, tzinfo=UTC)
SETTING = "JOULEBOOK_UK_CARBON_INTENSITY_URL"
RUN = """run,machine,started_at,ended_at,energy_gpu_kwh,method,u
day,n1,2025-11-23T00:00:00Z,2025-11-24T00:00:00Z,24,counter,0.03
"""
HOURS = [100 + 10 * hour for hour in range(24)]
"""What the server says was, of each hour; its forecast is 7 more."""
ACTUAL_G = 1.5 * sum(HOURS)
FORECAST_G = 1.5 * sum(hour + 7 for hour in HOURS)


@pytest.fixture
def site(bench, monkeypatch):
    """Where a year-old day can be refreshed at any time of it."""
    with World(uk) as world:
        bench.environ[SETTING] = world.url
        monkeypatch.setenv(SETTING, world.url)
        place = ("--zone", "GB", "--pue", "1.5", "--pue-source", "meter", "--provider", "uk-carbon-intensity")
        done = bench.joulebook("site", "add", "london", *place)
        assert done.returncode == 0, done.stderr
        assert "fetched from uk-carbon-intensity" in done.stdout
        assert bench.joulebook("site", "assign", "n1", "london").returncode == 0

        def at(now):
            world.answer = lambda request: uk(request, now)
            waits = Waits(now.timestamp, lambda _: None, lambda _: 0.0)
            with Ledger.open(bench.home.ledger) as ledger:
                (london,) = [site for site in ledger.sites() if site.site_id == "london"]
                return refresh(ledger, london, round(now.timestamp()) * 1_000_000, bench.home.cache, waits)

        yield at


def report(bench, *words):
    done = bench.joulebook("report", "run", "day", "--json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_day_priced_with_a_forecast_then_with_the_actual(bench, site):
    first = site(DAY - HOUR)
    assert first.forecasts == 96  # half hours of two days
    file = bench.root / "run.csv"
    file.write_text(RUN)
    assert bench.joulebook("import", "runs", str(file)).returncode == 0

    before = report(bench)
    assert before["emissions_g"] == pytest.approx(FORECAST_G)
    assert [row["label"] for row in before["pricing"]] == ["forecast"]
    assert before["pricing"][0]["u_g_per_kwh"] == 0.2
    assert "forecast" in before["pricing_notes"]
    assert before["restatements"] == []

    after_noon = site(DAY + 12 * HOUR)
    assert (after_noon.actual, after_noon.forecasts) == (24 + 2, 26)  # thirteen hours of half hours each
    next_day = site(DAY + timedelta(days=1, hours=2))
    assert next_day.actual == 24 + 4

    after = report(bench)
    assert after["emissions_g"] == pytest.approx(ACTUAL_G)
    assert [row["label"] for row in after["pricing"]] == [""]
    (change,) = after["restatements"]
    assert change["old_g"] == pytest.approx(FORECAST_G)
    assert change["new_g"] == pytest.approx(ACTUAL_G)
    assert change["delta_g"] == pytest.approx(-1.5 * 7 * 24)
    assert "forecast" in change["reason"]
    assert "now PUE 1.5" in change["reason"]
    assert change["slots"] == 48
    # What was known then is still told, to the gram.
    assert report(bench, "--as-of", before["as_of"])["emissions_g"] == before["emissions_g"]

    told = bench.joulebook("report", "run", "day").stdout
    assert "Restated" in told
    for text in ("-252 g", "before", "forecast"):
        assert text in " ".join(told.split())


def test_a_second_refresh_of_the_same_moment_adds_nothing(bench, site):
    now = DAY + 12 * HOUR
    assert site(now).actual > 0
    again = site(now)
    assert (again.actual, again.forecasts) == (0, 0)


def test_a_site_without_a_provider_cannot_be_refreshed(bench, site):
    from joulebook.errors import BadInput

    assert bench.joulebook("site", "add", "london", "--zone", "GB").returncode == 0
    with pytest.raises(BadInput, match="names no grid provider"):
        site(DAY)


def test_the_verb_fetches_and_says_what_it_did(bench, site):
    words = ("factors", "fetch", "uk-carbon-intensity", "--zone", "GB")
    day = ("--from", "2025-11-01T00:00Z", "--to", "2025-12-01T00:00Z")
    planned = json.loads(bench.joulebook(*words, *day, "--dry-run", "--json").stdout)
    assert (planned["requests_at_least"], planned["from"]) == (3, "2025-11-01T00:00:00Z")
    done = bench.joulebook(*words, *day, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["values"], said["added"], said["known"], said["left_out"]) == (30 * 48, 30 * 48, 0, {})
    assert json.loads(bench.joulebook(*words, *day, "--json").stdout)["added"] == 0
    refused = bench.joulebook(*words, *day, "--basis", "lifecycle")
    assert refused.returncode == 2
    assert "series are never mixed" in refused.stderr
    unknown = bench.joulebook("factors", "fetch", "entso", "--zone", "DE", *day)
    assert "use one of entsoe" in unknown.stderr
    assert "uk-carbon-intensity" in bench.joulebook("factors", "providers").stdout
