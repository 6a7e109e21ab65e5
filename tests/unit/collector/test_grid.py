"""What grid providers share: keys, codes, mixes, plug-ins of other packages, files, and what is fetched when."""

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from grid_servers import NOW, Reply, World, entsoe
from joulebook.errors import BadInput
from joulebook_collector.factors import NewFactor, add_factors, find_series
from joulebook_collector.grid import Ask, Provider, ProviderError, Rate, Value
from joulebook_collector.grid.cache import Cache, Kept
from joulebook_collector.grid.catalogue import find, names
from joulebook_collector.grid.eic import AREAS, check_character
from joulebook_collector.grid.energy_charts import TYPES
from joulebook_collector.grid.fetch import choose_series, fetch, judge, make_plan, store
from joulebook_collector.grid.keys import address_of, key_of
from joulebook_collector.grid.limits import Bucket
from joulebook_collector.grid.mix import STORAGE, fuel_factors, mix_intensity, mix_values
from joulebook_collector.grid.moments import moment_us, step_of
from joulebook_collector.grid.refresh import LOOK_BACK_US, lacking_since, plan_of
from joulebook_collector.grid.session import open_session
from joulebook_collector.grid.waits import Waits
from joulebook_collector.ledger import Ledger
from joulebook_collector.priced import Factor, SeriesKey
from joulebook_collector.sites import add_site

HOUR_US = 3_600_000_000
NOW_US = round(NOW.timestamp()) * 1_000_000
GB = SeriesKey("GB", basis="direct", flow="consumption", gases="CO2")
STILL = Waits(NOW.timestamp, lambda _: None, lambda _: 0.0)


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.duckdb") as opened:
        yield opened


def a_plan(hours=24, forecast=True):
    return make_plan(find("uk-carbon-intensity"), GB, NOW_US - hours * HOUR_US, NOW_US + hours * HOUR_US, forecast)


def a_value(hours, g_per_kwh=100.0, long=1.0, **changes):
    start = NOW_US + round(hours * HOUR_US)
    return Value(start, start + round(long * HOUR_US), g_per_kwh, **changes)


# -- keys and addresses


def test_a_key_comes_from_a_file_or_the_environment_and_the_file_wins(tmp_path):
    file = tmp_path / "key"
    file.write_text("from-file\n")
    file.chmod(0o600)
    provider = find("entsoe")
    assert key_of(provider, {"JOULEBOOK_ENTSOE_KEY": "said"}) == "said"
    both = {"JOULEBOOK_ENTSOE_KEY": "said", "JOULEBOOK_ENTSOE_KEY_FILE": str(file)}
    assert key_of(provider, both) == "from-file"
    assert key_of(find("uk-carbon-intensity"), {}) == ""


@pytest.mark.parametrize(
    ("text", "mode", "cause"),
    [
        ("k", 0o644, "open to others"),
        ("", 0o600, "needs a key"),
        ("two\nlines", 0o600, "not one line"),
        (None, 0, "cannot read"),
    ],
)
def test_a_key_file_that_cannot_be_right_is_refused_and_not_repeated(tmp_path, text, mode, cause):
    file = tmp_path / "key"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(BadInput, match=cause) as caught:
        key_of(find("eia"), {"JOULEBOOK_EIA_KEY_FILE": str(file)})
    assert "lines" not in caught.value.cause


@pytest.mark.parametrize("name", ["entsoe", "eia", "watttime", "electricity-maps"])
def test_a_missing_key_says_where_it_goes(name):
    provider = find(name)
    with pytest.raises(BadInput, match="needs a key") as caught:
        key_of(provider, {})
    assert provider.key_file_setting in caught.value.remedy


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "https://",
        "https://u:pw@x",
        "https://x?k=pw",
        "https://x#pw",
        "https://x:99999",
        "pw",
        "http://far.example",
    ],
)
def test_an_address_that_cannot_be_or_would_show_the_key_is_refused_and_not_repeated(url):
    with pytest.raises(BadInput) as caught:
        address_of(find("eia"), {"JOULEBOOK_EIA_URL": url})
    assert "pw" not in caught.value.cause + caught.value.remedy


def test_who_has_no_public_address_needs_one():
    with pytest.raises(BadInput, match="has no address"):
        address_of(find("carbon-aware-sdk"), {})


# -- series


def test_a_query_that_would_mix_series_is_refused():
    uk = find("uk-carbon-intensity")
    assert choose_series(uk, "GB", {}) == GB
    for words in ({"basis": "lifecycle"}, {"kind": "marginal"}, {"flow": "production"}, {"accounting": "market"}):
        with pytest.raises(BadInput, match="never mixed") as caught:
            choose_series(uk, "GB", words)
        assert "GB average direct consumption location CO2" in caught.value.remedy
    with pytest.raises(BadInput, match="has several series") as caught:
        choose_series(find("entsoe"), "DE", {})
    assert caught.value.remedy == "choose with --basis"
    with pytest.raises(BadInput, match="what stands behind") as caught:
        choose_series(find("carbon-aware-sdk"), "eastus", {"kind": "average"})
    assert caught.value.remedy == "say --basis, --flow, --accounting, --gases"


def test_a_site_has_the_series_of_its_provider_and_no_other(ledger):
    site = add_site(ledger, "london", zone="GB", provider="uk-carbon-intensity")
    assert (site.series, site.provider) == (GB, "uk-carbon-intensity")
    assert add_site(ledger, "london", pue=1.2, pue_source="meter").provider == "uk-carbon-intensity"
    with pytest.raises(BadInput, match="never mixed"):
        add_site(ledger, "london", provider="uk-carbon-intensity", words={"basis": "lifecycle"})
    with pytest.raises(BadInput, match="no zone 'FR'"):
        add_site(ledger, "london", zone="FR", provider="uk-carbon-intensity")
    with pytest.raises(BadInput, match="no zone to fetch"):
        add_site(ledger, "nowhere", provider="uk-carbon-intensity")
    by_code = add_site(ledger, "la", zone="US-CA", provider="watttime:CAISO_NORTH")
    assert plan_of(by_code, [], NOW_US).code == "CAISO_NORTH"
    # Another zone without a provider leaves the provider behind: it would feed another series.
    assert add_site(ledger, "london", zone="FR").provider == ""


# -- what is judged


def test_a_plan_is_split_without_gap_or_overlap():
    plan = make_plan(find("uk-carbon-intensity"), GB, NOW_US + 1, NOW_US + 40 * 24 * HOUR_US, False)
    windows = plan.windows()
    assert (windows[0][0], windows[-1][1]) == (NOW_US, NOW_US + 40 * 24 * HOUR_US)
    assert all(before[1] == after[0] for before, after in pairwise(windows))
    assert len(windows) == 4
    with pytest.raises(BadInput, match="ends at or before"):
        make_plan(find("uk-carbon-intensity"), GB, NOW_US, NOW_US, False)


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ([a_value(-3), a_value(-3, 101.0)], "two values of one period"),
        ([a_value(-3), a_value(-2.5)], "overlap"),
        ([a_value(-3, long=-1)], "ends before it starts"),
        ([a_value(-3 + 0.01)], "perhaps when a value was written"),
        ([a_value(-3, status="guess")], "a status 'guess'"),
        ([a_value(-3, 0.3), a_value(-2, 0.4)], "looks like kg per kWh"),
    ],
)
def test_what_cannot_be_right_is_refused_whole(values, cause):
    with pytest.raises(ProviderError, match=cause):
        judge(a_plan(), values, NOW_US)


def test_what_has_no_value_is_left_out_with_its_reason():
    told = [a_value(-5, -1.0), a_value(-4, float("nan")), a_value(-3, None), a_value(-2), a_value(-2), a_value(-0.5)]
    told += [a_value(1, status="forecast"), a_value(-99), a_value(-2, 7.0, status="forecast"), a_value(-24.5)]
    fetched = judge(a_plan(), told, NOW_US)
    assert fetched.left_out == {"below zero": 1, "not a number": 1, "no value": 1, "not over yet": 1}
    assert [(f.g_per_kwh, f.status) for f in fetched.factors] == [(100.0, ""), (100.0, "forecast")]
    without = judge(a_plan(forecast=False), told, NOW_US)
    assert without.left_out["forecast, not asked for"] == 2


def test_clean_grids_are_no_kilograms():
    assert judge(a_plan(), [a_value(-3, 0.0)], NOW_US).factors
    derived = replace(a_plan(), provider=find("entsoe"))
    assert judge(derived, [a_value(-3, 0.9)], NOW_US).factors


def test_a_clean_zones_direct_hours_may_be_near_zero_and_no_others(ledger):
    direct = {"kind": "average", "basis": "direct", "flow": "production", "accounting": "location", "gases": "CO2e"}
    for zone, taken in (("NO", True), ("PL", False)):
        factor = NewFactor(SeriesKey(zone, **direct), NOW_US, NOW_US + HOUR_US, 0.8, "test", 0.1)
        if taken:
            assert add_factors(ledger, [factor], "test") == 1
        else:
            with pytest.raises(BadInput, match="kg per kWh"):
                add_factors(ledger, [factor], "test")


def test_only_news_is_stored(ledger):
    plan = a_plan()
    forecast = judge(plan, [a_value(-2, 110.0, status="forecast"), a_value(1, 90.0, status="forecast")], NOW_US)
    assert len(store(ledger, plan, forecast)) == 2
    assert store(ledger, plan, forecast) == []
    actual = judge(plan, [a_value(-2, 100.0)], NOW_US)
    assert len(store(ledger, plan, actual)) == 1
    assert store(ledger, plan, actual) == []
    assert store(ledger, plan, forecast) == [], "a forecast is no news where the actual value is known"
    assert len(store(ledger, plan, judge(plan, [a_value(-2, 101.0)], NOW_US))) == 1
    assert len(ledger.factors(series=GB)) == 4, "and nothing is overwritten"
    assert find_series(ledger, "GB", {"basis": "direct"}) == GB


# -- refreshing


def known(start, end, **changes):
    return Factor(GB, NOW_US + start * HOUR_US, NOW_US + end * HOUR_US, 1.0, "", 0.1, False, 0, 0, **changes)


@pytest.mark.parametrize(
    ("factors", "hours_back"),
    [
        ([], 28 * 24),
        ([known(-9, -8, status="forecast")], 28 * 24),
        ([known(-200, -100)], 100),
        ([known(-200, -10)], 10),
        ([known(-200, -50), known(-40, -1)], 50),
        ([known(-200, -90), known(-80, -1)], 72 + 8 - 8),
        ([known(-200, 0)], 0),
        ([known(-2000, -1500)], 28 * 24),
    ],
)
def test_since_when_values_lack(factors, hours_back):
    expected = NOW_US - hours_back * HOUR_US
    if hours_back == 72:  # an old gap is given up; what holds three days ago holds until an hour ago
        expected = NOW_US - HOUR_US
    assert lacking_since(factors, NOW_US) == expected
    assert LOOK_BACK_US == 28 * 24 * HOUR_US


# -- mixes


def test_a_mix_by_hand():
    # (1000 x 820 + 3000 x 11) / 4000; storage gives back what was generated before.
    assert mix_intensity({"coal": 1000.0, "wind": 3000.0, STORAGE: 999.0}, "lifecycle") == pytest.approx(213.25)
    assert mix_intensity({"coal": 1000.0, "wind": 3000.0}, "direct") == pytest.approx(190.0)
    assert mix_intensity({"nuclear": 5.0, "solar": -0.05}, "lifecycle") == pytest.approx(12.0)


@pytest.mark.parametrize(
    "mix", [{}, {"coal": 0.0}, {"coal": 1.0, "wind": -1.0}, {"coal": float("nan")}, {STORAGE: 5.0}]
)
def test_what_is_no_mix(mix):
    with pytest.raises(ValueError, match=r"\w"):
        mix_intensity(mix, "direct")


def test_a_mix_without_its_coal_is_no_cleaner():
    whole = {"coal": {"B05": 1000.0}, "wind": {"B19": 1000.0}}
    periods = [(0, 1, whole), (1, 2, {"wind": {"B19": 1000.0}}), (2, 3, {**whole, "coal": {"B05": None}})]
    values = mix_values(periods, "direct", "made")
    assert [value.g_per_kwh for value in values] == [380.0, None, None]
    assert values[1].note == "no generation is told of B05"


def test_every_type_has_a_factor_of_both_kinds():
    from joulebook_collector.grid import eia, entsoe

    fuels = {*TYPES.values(), *eia.FUELS.values(), *entsoe.FUELS.values()} - {STORAGE}
    for basis in ("lifecycle", "direct"):
        assert fuels <= set(fuel_factors(basis))


# -- single providers


def test_area_codes_have_their_check_character():
    assert [zone for zone, code in AREAS.items() if len(code) != 16 or check_character(code) != code[15]] == []


def entsoe_values(tmp_path, monkeypatch, change):
    monkeypatch.setenv("JOULEBOOK_ENTSOE_KEY", "entsoe-s3cret")

    def answer(request):
        reply = entsoe(request)
        return Reply(change(reply.body))

    with World(answer) as world:
        monkeypatch.setenv("JOULEBOOK_ENTSOE_URL", world.url)
        provider = find("entsoe")
        plan = make_plan(provider, SeriesKey("DE"), NOW_US - 2 * HOUR_US, NOW_US, False)
        return fetch(plan, open_session(provider, tmp_path, STILL))


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("B05", "B99", "type 'B99'"),
        ("MAW", "KWT", "in 'KWT'"),
        ("PT15M", "P1D", "resolution 'P1D'"),
        ("GL_MarketDocument", "Other_Document", "'Other_Document'"),
    ],
)
def test_generation_of_a_kind_that_nothing_knows_is_refused(tmp_path, monkeypatch, old, new, cause):
    with pytest.raises(ProviderError, match=cause):
        entsoe_values(tmp_path, monkeypatch, lambda body: body.replace(old, new))


def test_without_repeats_a_point_that_is_left_out_is_missing(tmp_path, monkeypatch):
    assert len(entsoe_values(tmp_path / "a", monkeypatch, str).factors) == 2
    fetched = entsoe_values(tmp_path / "b", monkeypatch, lambda body: body.replace("A03", "A01"))
    assert fetched.factors == ()
    assert fetched.left_out == {"no generation is told of B19": 2}


def test_a_time_without_a_zone_and_uneven_steps_are_refused():
    with pytest.raises(ProviderError, match="names no zone"):
        moment_us("2026-11-24T00:00:00", "x")
    # Central European summer time ends: the hour is told twice, with different offsets, and is two hours.
    twice = [moment_us(f"2026-10-25T02:00:00+0{offset}:00", "x") for offset in (2, 1)]
    assert twice[1] - twice[0] == HOUR_US
    assert step_of([0, 15, 45], "x") == 15
    for starts in ([0], [0, 10, 25], [0, 0]):
        with pytest.raises(ProviderError, match="cannot be told"):
            step_of(starts, "x")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_is_a_provider_too(tmp_path, monkeypatch, suffix):
    file = tmp_path / f"grid.{suffix}"
    lines = [
        "zone,started_at,ended_at,kg_per_mwh,source,status,basis",
        "DE,2026-11-23T00:00:00+01:00,2026-11-23T01:00:00+01:00,300,operator,,direct",
        "DE,2026-11-23T01:00:00+01:00,2026-11-23T02:00:00+01:00,310,operator,estimated,direct",
        "DE,2026-11-23T01:00:00+01:00,2026-11-23T02:00:00+01:00,999,operator,,lifecycle",
        "FR,2026-11-23T01:00:00+01:00,2026-11-23T02:00:00+01:00,40,operator,,direct",
    ]
    (tmp_path / "grid.csv").write_text("\n".join(lines) + "\n")
    if suffix == "parquet":
        import duckdb

        with duckdb.connect() as db:
            db.execute(
                f"copy (from read_csv('{tmp_path / 'grid.csv'}', all_varchar=true)) to '{file}' (format parquet)"
            )
    monkeypatch.setenv("JOULEBOOK_GRID_FILE", str(file))
    provider = find("file")
    words = {"kind": "average", "basis": "direct", "flow": "production", "accounting": "location", "gases": "CO2e"}
    plan = make_plan(provider, choose_series(provider, "DE", words), NOW_US - 48 * HOUR_US, NOW_US, False)
    first, second = fetch(plan, open_session(provider, tmp_path / "cache", STILL)).factors
    assert datetime.fromtimestamp(first.started_at_us / 1e6, tz=UTC) == datetime(2026, 11, 22, 23, tzinfo=UTC)
    assert (first.g_per_kwh, first.source, first.status, second.status) == (300.0, "operator", "", "estimated")
    assert second.started_at_us == first.ended_at_us


# -- other packages, caches, clocks


PLUGIN = """
from joulebook_collector.grid import Provider, Rate, Value
from joulebook_collector.priced import SeriesKey

def fetch(session, ask):
    yield Value(ask.started_at_us, ask.started_at_us + 3_600_000_000, 42.0)

PROVIDER = Provider(
    "mine", "my grid", (SeriesKey(""),), "http://127.0.0.1:1", "MINE_URL", 10**15, Rate(1, 1), fetch, "", ""
)
"""


def test_another_package_adds_a_provider_by_its_entry_point(tmp_path, monkeypatch):
    (tmp_path / "my_grid.py").write_text(PLUGIN)
    told = tmp_path / "my_grid-1.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: my-grid\nVersion: 1\n")
    (told / "entry_points.txt").write_text(
        "[joulebook.grid_providers]\nmine = my_grid:PROVIDER\nbroken = my_grid:NOTHING\nother = my_grid:fetch\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert {"mine", "broken", "entsoe"} <= set(names())
    provider = find("mine")
    plan = make_plan(provider, choose_series(provider, "XX", {}), NOW_US - HOUR_US, NOW_US, False)
    assert [f.g_per_kwh for f in fetch(plan, open_session(provider, tmp_path, STILL)).factors] == [42.0]
    for name, cause in (("broken", "cannot be loaded"), ("other", "is no provider")):
        with pytest.raises(ProviderError, match=cause):
            find(name)
    monkeypatch.delitem(sys.modules, "my_grid")


def test_a_cache_is_bounded_and_a_damaged_answer_is_none(tmp_path):
    cache = Cache(tmp_path, most_bytes=3000)
    for i in range(10):
        cache.put(f"https://x/{i}", Kept(b"x" * 800, float(i)))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3000
    assert cache.get("https://x/9", 10.0, 1.0) == Kept(b"x" * 800, 9.0)
    assert cache.get("https://x/9", 10.1, 1.0) is None, "too old"
    assert cache.get("https://x/9", 8.0, 1.0) is None, "learnt in the future: the clock was set back"
    (newest,) = [path for path in tmp_path.iterdir() if b"https://x/9" in path.read_bytes()]
    newest.write_bytes(newest.read_bytes()[:-1] + b"y")
    assert cache.get("https://x/9", 9.5, 1.0) is None


def test_a_limit_that_cannot_be_read_or_whose_clock_was_set_back_is_obeyed_all_the_more(tmp_path):
    slept = []
    clock = [1000.0]
    bucket = Bucket(tmp_path / "x.json", Rate(10, 10.0), Waits(lambda: clock[0], slept.append, lambda _: 0.0))
    bucket.take()
    assert slept == []
    clock[0] = 500.0
    bucket.take()
    assert slept == [pytest.approx(10 / 9)]
    Path(tmp_path / "x.json").write_text("{")
    bucket.take()
    assert slept[1] == pytest.approx(10 / 9)
    bucket.hold(60.0)
    bucket.take()
    assert slept[2] == pytest.approx(60.0)


def test_an_ask_is_of_one_window_with_the_moment(tmp_path):
    seen: list[Ask] = []

    def remember(_, ask):
        seen.append(ask)
        return []

    provider = Provider(
        "p", "p", (SeriesKey(""),), "http://127.0.0.1:1", "P_URL", HOUR_US, Rate(9, 1), remember, "", ""
    )
    plan = make_plan(provider, SeriesKey("XX"), NOW_US - 3 * HOUR_US, NOW_US, False)
    fetch(plan, open_session(provider, tmp_path, STILL))
    assert [(a.started_at_us - NOW_US) // HOUR_US for a in seen] == [-3, -2, -1]
    assert {a.now_us for a in seen} == {round((NOW - timedelta(0)).timestamp()) * 1_000_000}


def test_the_provider_of_the_docs_works(tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs/reference/providers.md").read_text()
    (tmp_path / "our_grid.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    import our_grid

    row = {"from": "2026-11-24T09:00:00Z", "to": "2026-11-24T10:00:00Z", "g_per_kwh": "250.5"}
    with World(lambda request: Reply({"values": [row]} if request.path == "/v1/intensity" else {}, 200)) as world:
        monkeypatch.setenv("OUR_GRID_URL", world.url)
        plan = make_plan(
            our_grid.PROVIDER, choose_series(our_grid.PROVIDER, "XX", {}), NOW_US - 9 * HOUR_US, NOW_US, False
        )
        (factor,) = fetch(plan, open_session(our_grid.PROVIDER, tmp_path, STILL)).factors
    assert (factor.g_per_kwh, factor.source, factor.series.gases) == (250.5, "our grid operator", "CO2")
    monkeypatch.delitem(sys.modules, "our_grid")
