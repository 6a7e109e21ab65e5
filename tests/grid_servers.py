"""Grid providers on loopback that behave as documented, each with its limits, keys, pages and nulls; and their faults.

What they tell of is simple, so that tests can work it out: see ``grams`` and ``MIX``.
"""

import base64
import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MIX = {"coal": 1000.0, "wind": 3000.0}
"""MW at every moment: (1 x 820 + 3 x 11) / 4 = 213.25 g/kWh lifecycle, 760 / 4 = 190 direct."""
KEYS = {"electricity-maps": "em-s3cret", "watttime": "ada:pa55/word", "eia": "eia+s3cret", "entsoe": "entsoe-s3cret"}


def grams(at):
    """What every server that tells intensities says of the hour from ``at``."""
    return 100 + at.astimezone(UTC).hour * 10


def zulu(at, form="%Y-%m-%dT%H:%M:%SZ"):
    return at.astimezone(UTC).strftime(form)


def parsed(text):
    return datetime.fromisoformat(text)


def starts(begin, end, step):
    at = begin
    while at < end:
        yield at
        at += step


@dataclass
class Reply:
    body: object
    status: int = 200
    headers: dict = field(default_factory=dict)
    pause: float = 0.0
    """Seconds between the bytes of the body."""

    @property
    def data(self):
        if isinstance(self.body, bytes):
            return self.body
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()


@dataclass
class Request:
    path: str
    query: dict
    headers: dict


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        world = self.server.world
        parts = urlsplit(self.path)
        request = Request(unquote(parts.path), dict(parse_qsl(parts.query)), dict(self.headers))
        world.requests.append(request)
        fault = world.faults.popleft() if world.faults else None
        reply = fault or world.answer(request)
        if callable(reply):
            reply = reply(request)
        self.send_response(reply.status)
        for name, value in {"Content-Length": len(reply.data), "Connection": "close", **reply.headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.close_connection = True
        try:
            if reply.pause:
                for i in range(len(reply.data)):
                    self.wfile.write(reply.data[i : i + 1])
                    time.sleep(reply.pause)
            else:
                self.wfile.write(reply.data)
        except OSError:
            pass  # the client gave up

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


class World:
    """A server in a thread. answer: request -> Reply.  faults: given to the next requests in its place, one each."""

    def __init__(self, answer):
        self.answer = answer
        self.faults = deque()
        self.requests = []
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.world = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def too_long(begin, end, days):
    if end - begin > timedelta(days=days):
        return Reply({"error": {"code": "400 Bad Request", "message": f"at most {days} days"}}, 400)
    return None


def uk(request, now=NOW):
    """Null until settled; the half hour that ends at the start comes too, as documented."""
    _, kind, begin, end = request.path.split("/")
    begin, end = parsed(begin), parsed(end)
    if refused := too_long(begin, end, 14):
        return refused
    assert kind == "intensity"
    half = HOUR / 2
    data = [
        {
            "from": zulu(at, "%Y-%m-%dT%H:%MZ"),
            "to": zulu(at + half, "%Y-%m-%dT%H:%MZ"),
            "intensity": {"forecast": grams(at) + 7, "actual": grams(at) if at < now else None, "index": "moderate"},
        }
        for at in starts(begin - half, end, half)
    ]
    return Reply({"data": data})


def electricity_maps(request):
    """The first hour of a day is estimated, the last one null."""
    if request.headers.get("auth-token") != KEYS["electricity-maps"]:
        return Reply({"status": "error", "message": f"Invalid auth-token {request.headers.get('auth-token')}"}, 401)
    query = request.query
    basis = query.get("emissionFactorType", "lifecycle")
    less = 50 if basis == "direct" else 0

    def row(at):
        estimated = at.hour == 0
        return {
            "zone": query["zone"],
            "carbonIntensity": None if at.hour == 23 else grams(at) - less,
            "datetime": zulu(at, "%Y-%m-%dT%H:%M:%S.000Z"),
            "updatedAt": zulu(at + timedelta(minutes=77), "%Y-%m-%dT%H:%M:%S.123Z"),
            "createdAt": zulu(at, "%Y-%m-%dT%H:%M:%S.000Z"),
            "emissionFactorType": basis,
            "isEstimated": estimated,
            "estimationMethod": "TIME_SLICER_AVERAGE" if estimated else None,
        }

    if request.path == "/v3/carbon-intensity/forecast":
        told = [{"datetime": zulu(at), "carbonIntensity": grams(at) + 7} for at in starts(NOW, NOW + 24 * HOUR, HOUR)]
        return Reply({"zone": query["zone"], "updatedAt": zulu(NOW), "forecast": told})
    assert request.path == "/v3/carbon-intensity/past-range"
    begin, end = parsed(query["start"]), parsed(query["end"])
    return too_long(begin, end, 10) or Reply(
        {"zone": query["zone"], "data": [row(at) for at in starts(begin, end, HOUR)]}
    )


def watttime(request):
    """Pounds per megawatt hour, every five minutes; a bearer token from Basic credentials."""
    told = request.headers.get("Authorization", "")
    if request.path == "/login":
        right = "Basic " + base64.b64encode(KEYS["watttime"].encode()).decode()
        return Reply({"token": "t0ken-of-ada"}) if told == right else Reply({"error": "Invalid credentials"}, 401)
    if told != "Bearer t0ken-of-ada":
        return Reply({"error": "Invalid token " + told}, 403)
    query, step = request.query, timedelta(minutes=5)
    assert query["signal_type"] == "co2_moer"
    if request.path == "/v3/historical":
        begin, end = parsed(query["start"]), parsed(query["end"])
        if refused := too_long(begin, end, 32):
            return refused
    else:
        assert request.path == "/v3/forecast"
        begin, end = NOW, NOW + int(query["horizon_hours"]) * HOUR
    data = [
        {"point_time": at.isoformat(), "value": grams(at) * 2, "version": "2026-03-01"}
        for at in starts(begin, end, step)
    ]
    meta = {
        "region": query["region"],
        "signal_type": "co2_moer",
        "model": {"date": "2026-03-01", "type": "binned_regression"},
        "units": "lbs_co2_per_mwh",
        "data_point_period_seconds": 300,
        "warnings": [],
    }
    return Reply({"data": data, "meta": meta})


def energy_charts(request):
    """Quarters of an hour; load, shares and pumping among the types, the last period not told of coal."""
    assert request.path == "/public_power"
    begin, end = parsed(request.query["start"]), min(parsed(request.query["end"]), NOW)
    times = list(starts(begin, end, HOUR / 4))
    coal = [MIX["coal"]] * (len(times) - 1) + [None]
    types = {
        "Hydro pumped storage consumption": [-500.0] * len(times),
        "Fossil hard coal": coal,
        "Wind onshore": [MIX["wind"] - 100] * len(times),
        "Wind offshore": [100.0] * len(times),
        "Load": [9e9] * len(times),
        "Residual load": [9e9] * len(times),
        "Renewable share of generation": [75.0] * len(times),
        "Cross border electricity trading": [-1.0] * len(times),
    }
    told = [{"name": name, "data": data} for name, data in types.items()]
    return Reply(
        {"unix_seconds": [round(at.timestamp()) for at in times], "production_types": told, "deprecated": False}
    )


def eia(request):
    """Rows by hour and fuel, labelled by their end, 5000 a page; amounts as text."""
    query = request.query
    if query.get("api_key") != KEYS["eia"]:
        return Reply({"error": {"code": "API_KEY_INVALID", "message": f"no key {query.get('api_key')}"}}, 403)
    assert request.path == "/v2/electricity/rto/fuel-type-data/data/"
    begin, end = (datetime.strptime(query[name], "%Y-%m-%dT%H").replace(tzinfo=UTC) for name in ("start", "end"))
    fuels = {"COL": MIX["coal"], "WND": MIX["wind"], "PS": -200.0, "SUN": -1.0}
    rows = [
        {
            "period": zulu(at, "%Y-%m-%dT%H"),
            "respondent": query["facets[respondent][]"],
            "fueltype": fuel,
            "value": None if at.hour == 5 and fuel == "COL" else str(round(amount)),
            "value-units": "megawatthours",
        }
        for at in starts(begin, min(end, NOW) + HOUR, HOUR)
        for fuel, amount in fuels.items()
    ]
    offset, length = int(query["offset"]), min(int(query["length"]), 5000)
    return Reply({"response": {"total": str(len(rows)), "data": rows[offset : offset + length]}, "apiVersion": "2.1.8"})


NAMESPACE = "urn:iec62325.351:tc57wg16:451-6:generationloaddocument:3:0"


def entsoe(request):
    """Coal by the hour, wind by the quarter on a curve that leaves out what repeats, pumping as consumption."""
    query = request.query
    if query.get("securityToken") != KEYS["entsoe"]:
        return Reply(f"<html><body>Unauthorized {query.get('securityToken')}</body></html>", 401)
    begin, end = (datetime.strptime(query[n], "%Y%m%d%H%M").replace(tzinfo=UTC) for n in ("periodStart", "periodEnd"))
    end = min(end, NOW)
    if begin >= end:
        return Reply(
            f'<Acknowledgement_MarketDocument xmlns="{NAMESPACE}"><Reason><code>999</code><text>No matching data found'
            "</text></Reason></Acknowledgement_MarketDocument>"
        )
    hours = round((end - begin) / HOUR)
    coal = "".join(
        f"<Point><position>{i + 1}</position><quantity>{MIX['coal']:.0f}</quantity></Point>" for i in range(hours)
    )
    wind = f"<Point><position>1</position><quantity>{MIX['wind']:.0f}</quantity></Point>"

    def series(kind, domain, resolution, curve, points):
        return (
            f'<TimeSeries><{domain} codingScheme="A01">{query["in_Domain"]}</{domain}>'
            "<quantity_Measure_Unit.name>MAW</quantity_Measure_Unit.name>"
            f"<curveType>{curve}</curveType><MktPSRType><psrType>{kind}</psrType></MktPSRType>"
            f"<Period><timeInterval><start>{zulu(begin, '%Y-%m-%dT%H:%MZ')}</start>"
            f"<end>{zulu(end, '%Y-%m-%dT%H:%MZ')}</end></timeInterval><resolution>{resolution}</resolution>"
            f"{points}</Period></TimeSeries>"
        )

    body = (
        series("B05", "inBiddingZone_Domain.mRID", "PT60M", "A01", coal)
        + series("B19", "inBiddingZone_Domain.mRID", "PT15M", "A03", wind)
        + series("B10", "outBiddingZone_Domain.mRID", "PT60M", "A01", coal)
    )
    return Reply(f'<?xml version="1.0"?><GL_MarketDocument xmlns="{NAMESPACE}">{body}</GL_MarketDocument>')


def carbon_aware(request):
    """Ratings of a location; what its data source lacks is -1."""
    query = request.query
    if request.path == "/emissions/forecasts/current":
        told = [
            {"location": query["location"], "timestamp": at.isoformat(), "duration": 30, "value": grams(at) + 7.0}
            for at in starts(NOW, NOW + 24 * HOUR, HOUR / 2)
        ]
        return Reply(
            [{"generatedAt": NOW.isoformat(), "location": query["location"], "windowSize": 30, "forecastData": told}]
        )
    assert request.path == "/emissions/bylocation"
    begin, end = parsed(query["time"]), parsed(query["toTime"])
    return Reply(
        [
            {
                "location": query["location"],
                "time": at.isoformat(),
                "rating": -1 if at.hour == 23 else grams(at),
                "duration": "01:00:00",
            }
            for at in starts(begin, end, HOUR)
        ]
    )


@dataclass(frozen=True)
class Documented:
    """How a provider's server behaves, and what tests ask of it."""

    answer: object
    zone: str
    words: dict
    base: str = ""
    url_setting: str = ""
    key_setting: str = ""


SERVERS = {
    "uk-carbon-intensity": Documented(uk, "GB", {}, "", "JOULEBOOK_UK_CARBON_INTENSITY_URL"),
    "electricity-maps": Documented(
        electricity_maps,
        "DE",
        {"basis": "lifecycle"},
        "/v3",
        "JOULEBOOK_ELECTRICITY_MAPS_URL",
        "JOULEBOOK_ELECTRICITY_MAPS_KEY",
    ),
    "watttime": Documented(watttime, "CAISO_NORTH", {}, "", "JOULEBOOK_WATTTIME_URL", "JOULEBOOK_WATTTIME_KEY"),
    "energy-charts": Documented(energy_charts, "DE", {"basis": "lifecycle"}, "", "JOULEBOOK_ENERGY_CHARTS_URL"),
    "eia": Documented(eia, "US-CISO", {"basis": "direct"}, "/v2", "JOULEBOOK_EIA_URL", "JOULEBOOK_EIA_KEY"),
    "entsoe": Documented(entsoe, "DE", {"basis": "lifecycle"}, "/api", "JOULEBOOK_ENTSOE_URL", "JOULEBOOK_ENTSOE_KEY"),
    "carbon-aware-sdk": Documented(
        carbon_aware,
        "westeurope",
        {"kind": "average", "basis": "lifecycle", "flow": "consumption", "accounting": "location", "gases": "CO2e"},
        "",
        "JOULEBOOK_CARBON_AWARE_SDK_URL",
    ),
}
