"""What makes a factor or a site acceptable, and what is said when it is not."""

import math
import re

import pytest
from joulebook.errors import BadInput
from joulebook_collector.factors import (
    NewFactor,
    add_factors,
    find_series,
    known_series,
    series_to_add,
    year_period_us,
    zone_names,
)
from joulebook_collector.ledger import Ledger
from joulebook_collector.near import near
from joulebook_collector.priced import SeriesKey
from joulebook_collector.shipped import annual_rows, cloud_regions
from joulebook_collector.sites import add_site, assign, assignments, find_region
from joulebook_collector.testing import START_US

MINUTE_US = 60_000_000
DE = SeriesKey("DE")
WORDS = {"kind": "average", "basis": "direct", "flow": "production", "accounting": "location", "gases": "CO2e"}


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.duckdb") as opened:
        yield opened


def a_factor(g_per_kwh: float = 300.0, series: SeriesKey = DE, start: int = 0, end: int = 60, **changes) -> NewFactor:
    period = (START_US + start * MINUTE_US, START_US + end * MINUTE_US)
    return NewFactor(series, *period, g_per_kwh, **{"source": "test", "u_rel": 0.1, **changes})


@pytest.mark.parametrize(
    ("factor", "cause"),
    [
        (a_factor(math.nan), "no intensity"),
        (a_factor(math.inf), "no intensity"),
        (a_factor(-1.0), "no intensity"),
        (a_factor(0.33), "looks like kg per kWh"),
        (a_factor(330_000.0), "looks like g per MWh"),
        (a_factor(source=" "), "without a source"),
        (a_factor(start=60, end=60), "ends at or before"),
        (a_factor(start=1), "five-minute"),
        (a_factor(u_rel=math.nan), "uncertainty"),
        (a_factor(u_rel=-0.1), "uncertainty"),
        (a_factor(series=SeriesKey("DE", kind="mean")), "kind is 'mean'"),
        (a_factor(series=SeriesKey("DE", gases="CO")), "gases is 'CO'"),
        (a_factor(series=SeriesKey(" ")), "without a zone"),
    ],
)
def test_a_factor_that_cannot_be_right_is_refused_and_nothing_is_stored(ledger, factor, cause):
    known = ledger.latest_known_us()
    with pytest.raises(BadInput, match=cause):
        add_factors(ledger, [a_factor(200.0), factor], "test")
    assert ledger.latest_known_us() == known


@pytest.mark.parametrize(
    "factor",
    [
        a_factor(0.0),
        a_factor(0.5, SeriesKey("DE", accounting="market")),
        a_factor(1.6),
        a_factor(2999.0),
    ],
)
def test_unusual_but_possible_values_are_taken(ledger, factor):
    assert add_factors(ledger, [factor], "test") == 1
    assert ledger.factors(series=factor.series)[-1].g_per_kwh == factor.g_per_kwh


def test_two_values_for_one_period_at_once_are_refused(ledger):
    with pytest.raises(BadInput, match="overlap"):
        add_factors(ledger, [a_factor(), a_factor(start=30, end=90)], "test")


def test_the_shipped_table_is_in_a_new_ledger_once(tmp_path):
    path = tmp_path / "ledger.duckdb"
    for _ in range(2):
        with Ledger.open(path) as ledger:
            assert len(ledger.factors()) == len(annual_rows()) == 317
            assert [site.site_id for site in ledger.sites()] == ["local"]


def test_every_shipped_row_is_acceptable_and_has_a_source():
    for row in annual_rows():
        assert 0 < row.g_per_kwh < 3000
        assert row.source
        assert year_period_us(row.year)
    zones = {row.series.zone for row in annual_rows()}
    for region in cloud_regions():
        assert region.region == "*" or region.grid_zone in zones
        assert region.pue is None or (region.pue >= 1 and region.pue_source and region.pue_year)


def test_a_zone_with_one_series_needs_no_words(ledger):
    assert find_series(ledger, "DE", {}) == DE


def test_a_zone_with_several_series_names_them_and_the_option(ledger):
    add_factors(ledger, [a_factor(series=SeriesKey("DE", basis="direct"))], "test")
    with pytest.raises(BadInput) as caught:
        find_series(ledger, "DE", {"kind": "average"})
    assert "DE average direct" in caught.value.cause
    assert "DE average lifecycle" in caught.value.cause
    assert caught.value.remedy == "choose with --basis"
    assert find_series(ledger, "DE", {"basis": "direct"}).basis == "direct"
    with pytest.raises(BadInput, match="no such series"):
        find_series(ledger, "DE", {"kind": "marginal"})


@pytest.mark.parametrize(
    ("zone", "hint"), [("Germany", r"DE \(Germany\)"), ("US-CAL", "US-CA"), ("qqqq", "factors zones")]
)
def test_an_unknown_zone_gets_near_matches(ledger, zone, hint):
    with pytest.raises(BadInput, match="no zone") as caught:
        find_series(ledger, zone, {})
    assert caught.value.exit_status == 2
    assert re.search(hint, caught.value.remedy)


def test_a_value_joins_its_zones_only_series_or_must_say_which(ledger):
    assert series_to_add(ledger, "DE", {}, new_zone=False) == DE
    with pytest.raises(BadInput, match="no zone"):
        series_to_add(ledger, "contract", WORDS, new_zone=False)
    assert series_to_add(ledger, "contract", WORDS, new_zone=True) == SeriesKey("contract", **WORDS)
    with pytest.raises(BadInput) as caught:
        series_to_add(ledger, "contract", {**WORDS, "basis": None}, new_zone=True)
    assert caught.value.remedy == "say --basis"


def test_zones_have_names(ledger):
    assert zone_names(ledger)["DE"] == "Germany"
    assert DE in known_series(ledger)


@pytest.mark.parametrize("pue", [0.99, 0.0, -1.0, math.nan, math.inf, 15.0])
def test_an_impossible_pue_is_refused(ledger, pue):
    with pytest.raises(BadInput, match="not possible"):
        add_site(ledger, "a", pue=pue, pue_source="meter")
    assert [site.site_id for site in ledger.sites()] == ["local"]


def test_a_pue_needs_a_source(ledger):
    with pytest.raises(BadInput, match="without a source"):
        add_site(ledger, "a", pue=1.2)


def test_a_pue_of_one_is_allowed(ledger):
    assert add_site(ledger, "a", pue=1.0, pue_source="meter").pue == 1.0


def test_what_is_not_given_again_stays_and_earlier_versions_stay_known(ledger):
    add_site(ledger, "local", zone="DE", note="rack 4")
    then = ledger.latest_known_us()
    add_site(ledger, "local", pue=1.3, pue_source="meter")
    (site,) = ledger.sites()
    assert (site.pue, site.series, site.note) == (1.3, DE, "rack 4")
    (earlier,) = ledger.sites(then)
    assert (earlier.pue, earlier.series) == (None, DE)


def test_words_without_a_zone_choose_anew_in_the_known_one(ledger):
    add_factors(ledger, [a_factor(series=SeriesKey("DE", basis="direct"))], "test")
    add_site(ledger, "local", zone="DE", words={"basis": "lifecycle"}, pue=1.3, pue_source="meter")
    site = add_site(ledger, "local", words={"basis": "direct", "kind": None})
    assert (site.series, site.pue) == (SeriesKey("DE", basis="direct"), 1.3)
    assert ledger.sites() == [site]


def test_an_uncertainty_or_source_without_a_pue_is_of_the_known_one(ledger):
    add_site(ledger, "local", pue=1.3, pue_source="meter")
    site = add_site(ledger, "local", u_pue=0.01)
    assert (site.pue, site.pue_source, site.u_pue) == (1.3, "meter", 0.01)
    site = add_site(ledger, "local", pue_source="audit")
    assert (site.pue, site.pue_source, site.u_pue) == (1.3, "audit", 0.01)
    assert ledger.sites() == [site]


@pytest.mark.parametrize(
    ("given", "cause", "remedy"),
    [
        ({"words": {"basis": "direct"}}, "--basis: site local has no zone", "--zone"),
        ({"u_pue": 0.01}, "site local has no PUE", "--pue"),
        ({"pue_source": "meter"}, "site local has no PUE", "--pue"),
        ({"cloud": "aws:ap-east-1", "u_pue": 0.01}, "site local has no PUE", "--pue"),
        ({"cloud": "aws:eu-west-1", "pue_source": "meter"}, "published PUE", "--pue"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(ledger, given, cause, remedy):
    known = ledger.latest_known_us()
    with pytest.raises(BadInput, match=cause) as caught:
        add_site(ledger, "local", **given)
    assert remedy in caught.value.remedy
    assert ledger.latest_known_us() == known


def test_a_cloud_region_fills_zone_and_pue_and_says_from_where(ledger):
    site = add_site(ledger, "dublin", cloud="aws:eu-west-1")
    region = find_region("aws:eu-west-1")
    assert (site.pue, site.series.zone) == (region.pue, "IE")
    assert region.pue_source in site.pue_source
    assert region.pue_year in site.pue_source


def test_a_cloud_region_without_a_published_pue_has_none(ledger):
    add_site(ledger, "a", pue=1.5, pue_source="meter")
    site = add_site(ledger, "a", cloud="aws:ap-east-1")
    assert site.pue is None
    assert "no PUE is published" in site.note


def test_an_unknown_region_gets_near_matches():
    with pytest.raises(BadInput) as caught:
        find_region("aws:eu-west-11")
    assert "aws:eu-west-1" in caught.value.remedy


def test_assignment_needs_a_known_site_and_a_move_needs_a_date(ledger):
    add_site(ledger, "paris", zone="FR")
    with pytest.raises(BadInput) as caught:
        assign(ledger, "m1", "pariss")
    assert "paris" in caught.value.remedy
    assign(ledger, "m1", "paris")
    with pytest.raises(BadInput, match="assigned already"):
        assign(ledger, "m1", "local")
    assign(ledger, "m1", "local", START_US)
    assert assignments(ledger) == [("m1", "paris", 0), ("m1", "local", START_US)]
    assert ledger.site_of("m1", START_US - 1).site_id == "paris"
    assert ledger.site_of("m1", START_US).site_id == "local"
    assert ledger.site_of("unheard-of", START_US).site_id == "local"


def test_near_matches_ignore_case():
    assert near("de", ["DE", "DK", "FR"])[0] == "DE"
    assert near("zzz", ["DE"]) == []
