"""Every provider against a server that behaves as documented: values, limits, keys, and each way in which it fails."""

import json
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise

import pytest
from grid_servers import HOUR, KEYS, NOW, SERVERS, Reply, World, grams
from joulebook.errors import BadInput
from joulebook_collector.grid import ProviderError
from joulebook_collector.grid.catalogue import find, names
from joulebook_collector.grid.fetch import choose_series, fetch, make_plan
from joulebook_collector.grid.session import open_session
from joulebook_collector.grid.waits import Waits

KEYED = [name for name, server in SERVERS.items() if server.key_setting]
TELLING = ["uk-carbon-intensity", "electricity-maps", "watttime", "carbon-aware-sdk"]
"""Those that tell intensities; the others tell a mix."""
MIXED = {"energy-charts": 213.25, "entsoe": 213.25, "eia": 190.0}


def us(at):
    return round(at.timestamp()) * 1_000_000


@dataclass
class Clock:
    """Wall time that passes only by sleeping."""

    at: float = NOW.timestamp()
    slept: list = field(default_factory=list)

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.at += seconds

    @property
    def waits(self):
        return Waits(lambda: self.at, self.sleep, lambda most: most / 2)


@dataclass
class Stand:
    """A provider's server, and a session of it."""

    name: str
    world: World
    clock: Clock
    session: object

    def plan(self, begin, end, forecast=False):
        provider, server = find(self.name), SERVERS[self.name]
        series = choose_series(provider, server.zone, server.words)
        return make_plan(provider, series, us(begin), us(end), forecast)

    def fetch(self, begin, end, forecast=False, **options):
        return fetch(self.plan(begin, end, forecast), self.session, **options)


@contextmanager
def standing(name, tmp_path, monkeypatch, answer=None):
    server = SERVERS[name]
    with World(answer or server.answer) as world:
        monkeypatch.setenv(server.url_setting, world.url + server.base)
        if server.key_setting:
            monkeypatch.setenv(server.key_setting, KEYS[name])
        clock = Clock()
        yield Stand(name, world, clock, open_session(find(name), tmp_path / "grid", clock.waits))


@pytest.fixture(params=SERVERS)
def stand(request, tmp_path, monkeypatch):
    with standing(request.param, tmp_path, monkeypatch) as made:
        yield made


DAY = (NOW - timedelta(hours=36), NOW - timedelta(hours=12))
"""From midnight to midnight UTC."""


def test_every_provider_has_its_server():
    assert set(names()) == {*SERVERS, "file"}


def test_a_day_is_told_to_the_gram_and_no_period_twice(stand):
    fetched = stand.fetch(*DAY)
    periods = [(f.started_at_us, f.ended_at_us) for f in fetched.factors]
    assert periods == sorted(set(periods))
    assert all(us(DAY[0]) <= start < end <= us(DAY[1]) for start, end in periods)
    for factor in fetched.factors:
        hour = (factor.started_at_us - us(DAY[0])) // 3_600_000_000
        expected = MIXED.get(stand.name, grams(DAY[0] + hour * HOUR))
        if stand.name == "watttime":
            expected *= 2 * 0.45359237
        assert factor.g_per_kwh == pytest.approx(expected, rel=1e-12)
        assert factor.source == find(stand.name).title
        assert "learnt 2026-11-24T12:00:00Z" in factor.note
    whole = sum(end - start for start, end in periods)
    assert whole == 86_400_000_000 - stand_missing_us(stand.name)
    assert sum(fetched.left_out.values()) == {
        "eia": 1,
        "electricity-maps": 1,
        "carbon-aware-sdk": 1,
        "energy-charts": 1,
    }.get(stand.name, 0)


def stand_missing_us(name):
    """Of that day: the null hour of two, the hour without coal of one, the quarter without coal of another."""
    hour = 3_600_000_000
    return {"eia": hour, "electricity-maps": hour, "carbon-aware-sdk": hour, "energy-charts": hour // 4}.get(name, 0)


def test_its_words_are_those_of_the_factors(stand):
    plan = stand.plan(*DAY)
    assert {f.series for f in fetch(plan, stand.session).factors} == {plan.series}


def test_a_long_range_is_split_and_nothing_is_lost_or_doubled(stand):
    begin = NOW - timedelta(days=70)
    fetched = stand.fetch(begin, NOW)
    assert len(stand.plan(begin, NOW).windows()) > 1 or stand.name == "eia"
    periods = [(f.started_at_us, f.ended_at_us) for f in fetched.factors]
    assert all(before[1] <= after[0] for before, after in pairwise(periods))
    by_reason = sum(fetched.left_out.values())
    step = min(end - start for start, end in periods)
    assert len(periods) + by_reason == 70 * 86_400_000_000 // step
    if stand.name == "eia":
        assert [r.query["offset"] for r in stand.world.requests] == ["0", "5000"]


def test_what_was_asked_is_not_asked_again_until_it_is_old_or_fresh_is_wanted(stand):
    first = stand.fetch(*DAY)
    asked = len(stand.world.requests)
    stand.clock.at += 200
    assert stand.fetch(*DAY) == first, "when it was learnt among the rest"
    assert len(stand.world.requests) == asked
    stand.clock.at += 101
    stand.fetch(*DAY)
    again = len(stand.world.requests)
    assert again > asked
    stand.fetch(*DAY, fresh=True)
    assert len(stand.world.requests) > again


def test_429_is_waited_for_as_long_as_asked(stand):
    stand.world.faults.append(Reply({"message": "slow down"}, 429, {"Retry-After": "17"}))
    assert stand.fetch(*DAY).factors
    assert 17 in stand.clock.slept


def test_a_date_in_retry_after_is_waited_for(stand):
    stand.world.faults.append(Reply("", 503, {"Retry-After": "Tue, 24 Nov 2026 12:00:40 GMT"}))
    assert stand.fetch(*DAY).factors
    assert max(stand.clock.slept) == pytest.approx(40, abs=1)


def test_a_wait_beyond_patience_is_told_and_not_slept(stand):
    stand.world.faults.append(Reply("", 429, {"Retry-After": "7200"}))
    with pytest.raises(ProviderError, match="asks to wait 7200 s"):
        stand.fetch(*DAY)
    assert sum(stand.clock.slept) < 60


def test_5xx_is_tried_again_with_jitter_that_grows(stand):
    stand.world.faults.extend([Reply("oops", 500), Reply("oops", 502), Reply("oops", 504)])
    assert stand.fetch(*DAY).factors
    assert [slept for slept in stand.clock.slept if slept in (0.5, 1.0, 2.0)][:3] == [0.5, 1.0, 2.0]


def test_a_provider_that_is_gone_is_told_after_its_tries(stand):
    stand.world.faults.extend([Reply("oops", 503)] * 9)
    with pytest.raises(ProviderError, match=r"answer 503 \(oops\) \(5 tries\)"):
        stand.fetch(*DAY)
    assert len(stand.world.faults) == 4


@pytest.mark.parametrize("body", ["{", "[]", "null", "<a>", "\x00", '{"data": 3}', "<!DOCTYPE x><x/>", "[" * 100_000])
def test_an_answer_of_another_shape_is_refused_and_not_kept(stand, body):
    stand.world.faults.extend([Reply(body)] * 5)
    if stand.name == "carbon-aware-sdk" and body == "[]":
        assert stand.fetch(*DAY).factors == (), "an empty list is a proper answer"
        return
    with pytest.raises(ProviderError):
        stand.fetch(*DAY)
    stand.world.faults.clear()
    assert stand.fetch(*DAY).factors, "the next answer is asked for, not taken from the cache"


def test_an_answer_that_breaks_off_is_asked_for_again(stand):
    stand.world.faults.append(Reply("{", headers={"Content-Length": "99"}))
    assert stand.fetch(*DAY).factors


def test_gzip_is_read(stand):
    def packed(request):
        reply = SERVERS[stand.name].answer(request)
        squeezed = zlib.compressobj(wbits=31)
        return Reply(squeezed.compress(reply.data) + squeezed.flush(), reply.status, {"Content-Encoding": "gzip"})

    plain = stand.fetch(*DAY)
    stand.world.answer = packed
    assert stand.fetch(*DAY, fresh=True) == plain


def test_a_server_that_answers_byte_by_byte_is_left_at_the_deadline(stand):
    stand.session.client.timeout_seconds = 0.2
    stand.world.faults.extend([Reply(b"x" * 500, pause=0.05)] * 9)
    with pytest.raises(ProviderError, match="no answer in time"):
        stand.fetch(*DAY)


def test_an_answer_beyond_all_bounds_is_refused(stand):
    stand.session.client.most_bytes = 100
    squeezed = zlib.compressobj(wbits=31)
    bomb = squeezed.compress(b"x" * 10_000_000) + squeezed.flush()
    stand.world.faults.append(Reply(bomb, headers={"Content-Encoding": "gzip"}))
    with pytest.raises(ProviderError, match="more than 100 bytes"):
        stand.fetch(*DAY)


def test_a_redirect_on_the_same_server_is_followed(stand):
    def moved(request):
        query = "&".join(f"{name}={value}" for name, value in request.query.items())
        return Reply("", 302, {"Location": f"{request.path}?{query}".replace("+", "%2B").replace(" ", "%20")})

    stand.world.faults.append(moved)
    if stand.name != "eia":  # its brackets would have to be quoted as well
        assert stand.fetch(*DAY).factors


def test_a_redirect_elsewhere_is_refused_and_the_key_does_not_follow(stand):
    with World(lambda _: Reply({})) as elsewhere:
        stand.world.faults.append(Reply("", 302, {"Location": f"{elsewhere.url}/login"}))
        with pytest.raises(ProviderError, match="redirects to another server"):
            stand.fetch(*DAY)
        assert elsewhere.requests == []


def test_below_zero_nan_and_words_are_no_values(tmp_path, monkeypatch):
    said = {0: -5, 1: float("nan"), 2: "n/a", 3: True, 4: "100", 5: 1e999}

    def odd(request):
        reply = SERVERS["electricity-maps"].answer(request)
        for i, row in enumerate(reply.body["data"]):
            row["carbonIntensity"] = said.get(i, 200)
        return reply

    with standing("electricity-maps", tmp_path, monkeypatch, odd) as stand:
        fetched = stand.fetch(*DAY)
        assert fetched.left_out == {"below zero": 1, "not a number": 4}
        assert [f.g_per_kwh for f in fetched.factors][:2] == [100.0, 200.0]


def test_estimates_are_flagged_with_their_method_and_a_wider_interval(tmp_path, monkeypatch):
    with standing("electricity-maps", tmp_path, monkeypatch) as stand:
        first, second = stand.fetch(*DAY).factors[:2]
    assert (first.status, first.u_rel, second.status, second.u_rel) == ("estimated", 0.15, "", 0.1)
    assert first.note.startswith("estimated by TIME_SLICER_AVERAGE")


@pytest.mark.parametrize("name", TELLING)
def test_forecasts_are_taken_only_when_asked_for_and_flagged(name, tmp_path, monkeypatch):
    with standing(name, tmp_path, monkeypatch) as stand:
        begin, end = NOW - 6 * HOUR, NOW + 6 * HOUR
        past = stand.fetch(begin, end)
        assert {f.status for f in past.factors} == {""}
        assert max(f.ended_at_us for f in past.factors) <= us(NOW)
        both = stand.fetch(begin, end, forecast=True)
        ahead = [f for f in both.factors if f.status == "forecast"]
        assert min(f.started_at_us for f in ahead) == us(NOW)
        assert max(f.ended_at_us for f in ahead) == us(end)
        assert {f.u_rel for f in ahead} == {0.2}
        assert [f for f in both.factors if not f.status] == list(past.factors)


@pytest.mark.parametrize("name", sorted(MIXED))
def test_a_provider_without_forecasts_says_so(name, tmp_path, monkeypatch):
    with standing(name, tmp_path, monkeypatch) as stand, pytest.raises(BadInput, match="no forecasts"):
        stand.plan(*DAY, forecast=True)


@pytest.mark.parametrize("name", sorted(MIXED))
def test_what_is_derived_says_so(name, tmp_path, monkeypatch):
    with standing(name, tmp_path, monkeypatch) as stand:
        factors = stand.fetch(*DAY).factors
    assert all(f.note.startswith("derived: ") for f in factors)
    assert {f.u_rel for f in factors} == {0.25}


@pytest.mark.parametrize("name", KEYED)
def test_a_wrong_key_is_told_and_no_key_is_ever_shown_or_kept(name, tmp_path, monkeypatch):
    with standing(name, tmp_path, monkeypatch) as stand:
        stand.fetch(*DAY)
        monkeypatch.setenv(SERVERS[name].key_setting, "ada:wr0ng/one")
        wrong = open_session(find(name), tmp_path / "wrong", stand.clock.waits)
        with pytest.raises(ProviderError) as caught:
            fetch(stand.plan(*DAY), wrong)
    assert "answer 40" in caught.value.cause
    assert "check the key" in caught.value.remedy
    shown = "".join(caught.value.lines("factors"))
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()).decode()
    for secret in (KEYS[name], KEYS[name].partition(":")[2] or KEYS[name], "wr0ng", "t0ken"):
        assert secret not in shown
        assert secret not in kept


@pytest.mark.parametrize("name", KEYED)
def test_a_transport_error_shows_no_key(name, tmp_path, monkeypatch):
    with standing(name, tmp_path, monkeypatch) as stand:
        pass  # the server is gone
    with pytest.raises(ProviderError, match="5 tries") as caught:
        stand.fetch(*DAY)
    assert "s3cret" not in caught.value.cause


@pytest.mark.parametrize("name", TELLING)
def test_values_in_kg_are_refused_wherever_the_unit_is_theirs(name, tmp_path, monkeypatch):
    def in_kilograms(request):
        reply = SERVERS[name].answer(request)

        def shrunk(value, key=""):
            if isinstance(value, dict):
                return {k: shrunk(v, k) for k, v in value.items()}
            if isinstance(value, list):
                return [shrunk(v) for v in value]
            numeric = key in ("carbonIntensity", "actual", "forecast", "value", "rating")
            return value / 1000 if numeric and isinstance(value, int | float) and value > 0 else value

        reply.body = shrunk(reply.body)
        return reply

    with (
        standing(name, tmp_path, monkeypatch, in_kilograms) as stand,
        pytest.raises(ProviderError, match="looks like kg per kWh"),
    ):
        stand.fetch(*DAY)


def test_two_processes_obey_one_rate(tmp_path, monkeypatch):
    with standing("uk-carbon-intensity", tmp_path, monkeypatch) as stand:
        other = open_session(find(stand.name), tmp_path / "grid", stand.clock.waits)
        began = stand.clock.at
        for i in range(30):
            day = DAY[0] - timedelta(days=i)
            fetch(stand.plan(day, day + HOUR), stand.session, fresh=True)
            fetch(stand.plan(day, day + HOUR), other, fresh=True)
        assert len(stand.world.requests) == 60
        # 6 at once, then 54 at 54 a minute: never more than 60 within any minute.
        assert stand.clock.at - began == pytest.approx(60, abs=0.01)


@pytest.mark.parametrize("name", sorted(MIXED))
def test_a_newest_hour_whose_coal_is_not_told_of_yet_is_no_clean_hour(name, tmp_path, monkeypatch):
    """Asked for alone it has only wind: that there is coal is known from the days before."""

    def late(request):
        reply = SERVERS[name].answer(request)
        last = NOW - HOUR
        if name == "eia":
            response = reply.body["response"]
            response["data"] = [
                r for r in response["data"] if not (r["fueltype"] == "COL" and r["period"] == zulu_hour(NOW))
            ]
            response["total"] = str(len(response["data"]))
        elif name == "energy-charts":
            for row in reply.body["production_types"]:
                if row["name"] == "Fossil hard coal":
                    row["data"] = [None if at >= last.timestamp() else 1000.0 for at in reply.body["unix_seconds"]]
        else:
            head, _, tail = reply.body.partition("</Point></Period></TimeSeries>")
            reply.body = head[: head.rindex("<Point>")] + "</Period></TimeSeries>" + tail
        return reply

    with standing(name, tmp_path, monkeypatch, late) as stand:
        fetched = stand.fetch(NOW - HOUR, NOW)
        assert fetched.factors == ()
        assert all(reason.startswith("no generation is told of") for reason in fetched.left_out)
        assert fetched.left_out


def zulu_hour(at):
    return at.strftime("%Y-%m-%dT%H")


def test_json_of_a_plan_holds_no_key(tmp_path, monkeypatch):
    from joulebook_collector.grid.cli import plan_json

    for name in KEYED:
        with standing(name, tmp_path, monkeypatch) as stand:
            assert KEYS[name] not in json.dumps(plan_json(stand.plan(*DAY)))
