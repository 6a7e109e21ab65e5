"""The Redfish meter against real HTTP(S) servers on loopback, sound and faulty."""

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import wait_for
from hypothesis import given
from hypothesis import strategies as st
from joulebook.clock import boottime_ns
from joulebook.meters import MeterAbsent, MeterUnavailable, Roots, fetch, polling, redfish
from joulebook.meters.redfish import open_redfish
from joulebook.rows import Component, Method
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.redfish import CHASSIS, FAULTS, Bmc
from joulebook.simulate.server import make_certificate
from joulebook.simulate.truth import Source

SECRET = "tr0ub4dor&3:with colon"


@pytest.fixture(autouse=True)
def patient(monkeypatch) -> None:
    """Openers wait for the first answer, however busy the machine that runs this is."""
    monkeypatch.setattr(polling, "OPEN_SECONDS", 20.0)


@pytest.fixture
def make_bmc(tmp_path: Path) -> Iterator:
    made: list[Bmc] = []

    def make(curve: str = "constant:412.6", **options) -> Bmc:
        bmc = Bmc(tmp_path, Source("redfish:node", boottime_ns(), (parse_curve(curve),)), **options)
        made.append(bmc)
        return bmc

    yield make
    for bmc in made:
        bmc.close()


def settings_of(bmc: Bmc, **more: str) -> dict[str, str]:
    return {"JOULEBOOK_REDFISH_URL": bmc.url, "JOULEBOOK_REDFISH_POLL_SECONDS": "0.1", **more}


def opened(environ: dict[str, str]):
    return open_redfish(Roots(), environ)


def credentials(tmp_path: Path, text: str = f"root:{SECRET}\n", mode: int = 0o600) -> str:
    path = tmp_path / "bmc.credentials"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def first(meter):
    return wait_for(meter.read, what="a reading")[0]


def failing(meter):
    return wait_for(lambda: meter.failing, what="a failure")


def test_the_power_is_that_of_the_chassis_once_and_with_the_time_of_its_reading(make_bmc) -> None:
    began = boottime_ns()
    meter = opened(settings_of(make_bmc()))
    reading = first(meter)
    assert (reading.device_id, reading.power_milliwatts, reading.energy_microjoules) == ("redfish:node", 413_000, None)
    assert began < reading.at_ns < boottime_ns()
    (device,) = meter.devices
    assert (device.component, device.method, device.covers) == (Component.NODE, Method.INTEGRATED, "node")
    meter.close()
    assert not meter.read()


def test_a_value_is_given_once_however_often_it_is_looked_at(make_bmc) -> None:
    bmc = make_bmc()
    meter = opened({**settings_of(bmc), "JOULEBOOK_REDFISH_POLL_SECONDS": "60"})
    assert first(meter).power_milliwatts == 413_000
    assert [len(meter.read()) for _ in range(20)] == [0] * 20
    assert len(bmc.server.requests) == 1
    meter.close()


def test_a_look_can_be_had_before_its_time(make_bmc) -> None:
    bmc = make_bmc()
    meter = opened({**settings_of(bmc), "JOULEBOOK_REDFISH_POLL_SECONDS": "60"})
    before = first(meter)
    assert meter.ask_now(20)
    (after,) = meter.read()
    assert after.at_ns > before.at_ns
    assert len(bmc.server.requests) == 2
    meter.close()


def test_only_one_view_is_read_and_redundant_supplies_are_never_summed(make_bmc) -> None:
    bmc = make_bmc(view="both")
    meter = opened(settings_of(bmc))
    for _ in range(3):
        assert first(meter).power_milliwatts == 413_000
    meter.close()
    assert set(bmc.server.requests) == {f"{CHASSIS}/Power"}


def test_a_chassis_without_power_control_gives_its_environment_metrics(make_bmc) -> None:
    bmc = make_bmc(view="environment")
    meter = opened(settings_of(bmc))
    assert first(meter).power_milliwatts == 413_000
    assert first(meter).power_milliwatts == 413_000
    meter.close()
    assert bmc.server.requests[0] == f"{CHASSIS}/Power"
    assert set(bmc.server.requests[1:]) == {f"{CHASSIS}/EnvironmentMetrics"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["PowerControl", "PowerConsumedWatts", "PowerWatts", "EnergykWh", "Reading", "x"]), inner
    ),
)  # fmt: skip


@given(JSON)
def test_no_page_breaks_the_views_or_gives_what_is_no_power(page) -> None:
    for value_of in (redfish.watts_of_power, redfish.watts_of_environment, redfish.kwh_of_environment):
        value = value_of(page)
        assert value is None or 0 < value < 1e9


def test_energy_is_a_counter_where_it_is_asked_for(make_bmc) -> None:
    bmc = make_bmc("constant:3600000")  # 1 kWh a second
    meter = opened(settings_of(bmc, JOULEBOOK_REDFISH_READING="energy"))
    a = first(meter)
    b = first(meter)
    meter.close()
    assert meter.devices[0].method is Method.COUNTER
    assert a.power_milliwatts is None
    # Both figures are of one instant within the request: 3.6 MW for as long as lies between them.
    assert (b.energy_microjoules - a.energy_microjoules) / (b.at_ns - a.at_ns) == pytest.approx(3600, rel=0.3)
    assert set(bmc.server.requests) == {f"{CHASSIS}/EnvironmentMetrics"}


def test_one_connection_serves_all_polls(make_bmc) -> None:
    bmc = make_bmc()
    meter = opened(settings_of(bmc))
    for _ in range(4):
        first(meter)
    meter.close()
    assert len(bmc.server.requests) >= 4
    assert bmc.server.connections == 1


@pytest.mark.parametrize("value", ["null", "0.0", "0", "-5", '"412"', "true", "NaN", "1e300", "[]", "{}"])
def test_what_is_no_power_is_no_reading(value: str, make_bmc, tmp_path: Path) -> None:
    (tmp_path / FAULTS).write_text(f"value {value}\n")
    meter = opened(settings_of(make_bmc()))
    assert "gives no power" in failing(meter).cause
    assert not meter.read()
    (tmp_path / FAULTS).unlink()
    assert first(meter).power_milliwatts == 413_000
    assert meter.failing is None
    meter.close()


@pytest.mark.parametrize("view", ["power", "environment"])
def test_a_figure_that_is_missing_for_now_is_no_refusal(view: str, make_bmc, tmp_path: Path) -> None:
    (tmp_path / FAULTS).write_text("value 0.0\n")
    meter = opened(settings_of(make_bmc(view=view)))
    assert "gives no power" in failing(meter).cause
    assert not meter.failing.lasting
    (tmp_path / FAULTS).unlink()
    assert first(meter).power_milliwatts == 413_000
    meter.close()


@pytest.mark.parametrize(
    "page",
    [b"", b"[]", b"{}", b"null", b'{"PowerControl": []}', b'{"PowerControl": {}}', b'{"PowerControl": [null]}',
     b'{"PowerControl": [{}]}', b'{"PowerControl": [{"PowerConsumedWatts": null}]}', b"3", b'"x"'],
)  # fmt: skip
def test_no_shape_of_page_is_taken_for_a_figure(page: bytes) -> None:
    try:
        parsed = json.loads(page)
    except ValueError:
        parsed = None
    for value_of in (redfish.watts_of_power, redfish.watts_of_environment, redfish.kwh_of_environment):
        assert value_of(parsed) is None


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("status 500", "answer 500"),
        ("status 503", "answer 503"),
        ("half", "broke off after"),
        ("garbage", "is no JSON"),
        ("huge", "is larger than"),
    ],
)
def test_a_fault_that_may_pass_is_told_and_outlived(fault: str, cause: str, make_bmc, tmp_path: Path) -> None:
    (tmp_path / FAULTS).write_text(fault + "\n")
    meter = opened(settings_of(make_bmc()))
    error = failing(meter)
    assert cause in error.cause
    assert error.remedy
    assert not meter.read()
    (tmp_path / FAULTS).unlink()
    assert first(meter).power_milliwatts == 413_000
    meter.close()


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_makes_the_meter_unavailable_and_is_not_repeated(status: int, make_bmc, tmp_path: Path) -> None:
    (tmp_path / FAULTS).write_text(f"status {status}\n")
    bmc = make_bmc()
    with pytest.raises(MeterUnavailable, match=f"answer {status}"):
        opened(settings_of(bmc))
    time.sleep(0.3)
    # A BMC locks the account of who asks again and again with a wrong password.
    assert len(bmc.server.requests) <= 2


def test_a_slow_bmc_holds_nobody_up_and_is_read_when_it_answers(make_bmc, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(polling, "OPEN_SECONDS", 0.01)
    (tmp_path / FAULTS).write_text("delay_seconds 2\n")
    meter = opened(settings_of(make_bmc()))
    assert not meter.wait(0)
    assert not meter.read()
    assert [left.why for left in meter.left_out] == ["not read now: it has not answered yet"]
    assert first(meter).power_milliwatts == 413_000
    assert not meter.left_out
    meter.close()


def test_a_byte_now_and_then_does_not_hold_the_reader_for_ever(make_bmc, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(redfish, "TIMEOUT_SECONDS", 0.5)
    (tmp_path / FAULTS).write_text("drip_seconds 0.2\n")
    meter = opened(settings_of(make_bmc()))
    assert "no answer within 0.5 s" in failing(meter).cause
    meter.close()


def test_a_bmc_that_is_not_there_is_told_and_read_when_it_comes(make_bmc) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    environ = {
        "JOULEBOOK_REDFISH_URL": f"http://127.0.0.1:{port}{CHASSIS}",
        "JOULEBOOK_REDFISH_POLL_SECONDS": "0.1",
    }
    meter = opened(environ)
    assert "Connection refused" in failing(meter).cause
    make_bmc(port=port)
    assert first(meter).power_milliwatts == 413_000
    meter.close()


def test_a_server_that_closes_the_kept_connection_is_asked_anew() -> None:
    page = b'{"PowerControl": [{"PowerConsumedWatts": 99}]}'
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        listener.settimeout(0.1)
        while not stop.is_set():
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            with client:
                client.recv(4096)
                # It says that it keeps the connection, and does not.
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page))

    server = threading.Thread(target=serve)
    server.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}{CHASSIS}"
    meter = opened({"JOULEBOOK_REDFISH_URL": url, "JOULEBOOK_REDFISH_POLL_SECONDS": "0.1"})
    for _ in range(3):
        assert first(meter).power_milliwatts == 99_000
        assert meter.failing is None
    meter.close()
    stop.set()
    server.join()
    listener.close()


def test_a_redirect_elsewhere_is_refused_and_takes_no_credentials_along(make_bmc, tmp_path: Path) -> None:
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.5)

    def listen() -> None:
        try:
            client, _ = listener.accept()
        except TimeoutError:
            return
        with client:
            asked.append(client.recv(4096))

    elsewhere = threading.Thread(target=listen)
    elsewhere.start()
    (tmp_path / FAULTS).write_text(f"redirect http://127.0.0.1:{listener.getsockname()[1]}/steal\n")
    environ = settings_of(make_bmc(), JOULEBOOK_REDFISH_CREDENTIALS_FILE=credentials(tmp_path))
    with pytest.raises(MeterUnavailable, match="another server"):
        opened({**environ, "JOULEBOOK_REDFISH_INSECURE": "1"})
    elsewhere.join()
    listener.close()
    assert asked == []


def test_a_redirect_on_the_same_server_is_followed(make_bmc, tmp_path: Path) -> None:
    bmc = make_bmc()
    site = fetch.Site(fetch.split_url(bmc.url, "URL"), 5, 10_000)
    (tmp_path / FAULTS).write_text(f"redirect {CHASSIS}/Power\n")
    # It leads to itself: followed twice, then told.
    with pytest.raises(fetch.Refusal, match="answer 301"):
        site.get(f"{CHASSIS}/Power")
    site.close()
    assert len(bmc.server.requests) == 3


def test_credentials_are_sent_and_never_shown(make_bmc, tmp_path: Path, capfd) -> None:
    bmc = make_bmc(credentials=f"root:{SECRET}")
    path = credentials(tmp_path)
    good = {**settings_of(bmc), "JOULEBOOK_REDFISH_CREDENTIALS_FILE": path, "JOULEBOOK_REDFISH_INSECURE": "1"}
    meter = opened(good)
    assert first(meter).power_milliwatts == 413_000
    assert meter.devices[0].note == "BMC not verified by TLS"
    meter.close()
    Path(path).write_text(f"root:{SECRET}-wrong")
    with pytest.raises(MeterUnavailable) as caught:
        opened(good)
    told = "".join(
        [caught.value.cause, caught.value.remedy, repr(caught.value), repr(vars(meter)), *capfd.readouterr()]
    )
    for part in (SECRET, SECRET[:8], "cm9vdDp0c"):  # the start of the pair in base 64
        assert part not in told


def test_credentials_do_not_go_over_http_unasked(make_bmc, tmp_path: Path) -> None:
    bmc = make_bmc()
    with pytest.raises(MeterUnavailable, match="in clear"):
        opened(settings_of(bmc, JOULEBOOK_REDFISH_CREDENTIALS_FILE=credentials(tmp_path)))
    assert bmc.server.requests == []


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o700])
def test_a_credentials_file_that_others_may_read_is_refused(mode: int, make_bmc, tmp_path: Path) -> None:
    path = credentials(tmp_path, mode=mode)
    with pytest.raises(MeterUnavailable) as caught:
        opened(settings_of(make_bmc(), JOULEBOOK_REDFISH_CREDENTIALS_FILE=path))
    assert caught.value.remedy == f"chmod 600 {path}"
    assert SECRET not in caught.value.cause


@pytest.mark.parametrize("text", ["", "\n", "no colon\n", ":password\n", "X-Auth-Token:\n", "a:b\nc:d\n", "a:\x00b"])
def test_a_file_without_credentials_is_refused_without_repeating_it(text: str, make_bmc, tmp_path: Path) -> None:
    path = credentials(tmp_path, text, 0o400)
    with pytest.raises(MeterUnavailable, match="holds no credentials") as caught:
        opened(settings_of(make_bmc(), JOULEBOOK_REDFISH_CREDENTIALS_FILE=path))
    assert "password" not in caught.value.cause


def test_a_session_token_is_sent_as_such(tmp_path: Path) -> None:
    from joulebook.meters.credentials import read_credentials

    found = read_credentials(Path(credentials(tmp_path, "X-Auth-Token: abc123\n", 0o400)), "X")
    assert found.headers() == {"X-Auth-Token": "abc123"}
    assert "abc123" not in repr(found)


def test_tls_is_verified_against_the_named_authority(make_bmc, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    bmc = make_bmc(certificate=certificate)
    with pytest.raises(MeterUnavailable, match="certificate not trusted"):
        opened(settings_of(bmc))
    meter = opened(settings_of(bmc, JOULEBOOK_REDFISH_CA_FILE=str(certificate)))
    assert first(meter).power_milliwatts == 413_000
    assert meter.devices[0].note == ""
    meter.close()
    careless = opened(settings_of(bmc, JOULEBOOK_REDFISH_INSECURE="1"))
    assert first(careless).power_milliwatts == 413_000
    assert careless.devices[0].note == "BMC not verified by TLS"
    careless.close()


def test_an_authority_that_cannot_be_read_is_told(make_bmc, tmp_path: Path) -> None:
    bmc = make_bmc(certificate=make_certificate(tmp_path))
    with pytest.raises(MeterUnavailable, match=r"none\.pem"):
        opened(settings_of(bmc, JOULEBOOK_REDFISH_CA_FILE=str(tmp_path / "none.pem")))


@pytest.mark.parametrize(
    ("environ", "cause"),
    [
        ({"JOULEBOOK_REDFISH_URL": "bmc"}, "no http or https URL"),
        ({"JOULEBOOK_REDFISH_URL": "ftp://bmc/redfish/v1/Chassis/1"}, "no http or https URL"),
        ({"JOULEBOOK_REDFISH_URL": "https://bmc"}, "names no chassis"),
        ({"JOULEBOOK_REDFISH_URL": "https://bmc/redfish/v1/Chassis"}, "names no chassis"),
        ({"JOULEBOOK_REDFISH_URL": "https://bmc/redfish/v1/Chassis/1/Power"}, "names no chassis"),
        ({"JOULEBOOK_REDFISH_URL": "https://bmc:port/redfish/v1/Chassis/1"}, "no http or https URL"),
        ({"JOULEBOOK_REDFISH_URL": "https://bmc/redfish/v1/Chassis/1", redfish.POLL: "0"}, redfish.POLL),
        ({"JOULEBOOK_REDFISH_URL": "https://bmc/redfish/v1/Chassis/1", redfish.POLL: "often"}, redfish.POLL),
        ({"JOULEBOOK_REDFISH_URL": "https://bmc/redfish/v1/Chassis/1", redfish.READING: "both"}, redfish.READING),
    ],
)
def test_a_wrong_declaration_is_told_before_anyone_is_asked(environ: dict, cause: str) -> None:
    with pytest.raises(MeterUnavailable) as caught:
        opened(environ)
    assert cause in caught.value.cause
    assert not isinstance(caught.value, MeterAbsent)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(MeterUnavailable) as caught:
        opened({"JOULEBOOK_REDFISH_URL": f"https://root:{SECRET}@bmc/redfish/v1/Chassis/1"})
    assert "tr0ub4dor" not in caught.value.cause + caught.value.remedy


def test_failures_back_off_and_a_refusal_waits_longest() -> None:
    def refuse():
        raise polling.NoAnswer("no", "none", lasting=True)

    poller = polling.Poller("x", refuse, 1.0, 10.0)
    assert poller.wait(5)
    assert poller._pause(0) >= polling.REFUSED_PAUSE_SECONDS * (1 - polling.JITTER)
    assert not poller.ask_now(0)
    poller._error = polling.NoAnswer("no", "none")
    pauses = []
    for failures in (1, 2, 3, 4, 100):
        poller.failures = failures
        pauses.append(poller._pause(0))
    for pause, expected in zip(pauses, (1, 2, 4, 8, polling.LONGEST_PAUSE_SECONDS), strict=True):
        assert pause == pytest.approx(expected, rel=polling.JITTER)
    poller.close()


def test_a_defect_in_a_reader_ends_neither_the_thread_nor_the_agent() -> None:
    def broken():
        raise ZeroDivisionError(SECRET)

    poller = polling.Poller("x", broken, 0.1, 10.0)
    error = wait_for(lambda: poller.failures > 1 and poller.failing, what="a second look")
    poller.close()
    assert "ZeroDivisionError" in error.cause
    assert SECRET not in error.cause


def test_a_look_that_never_ends_is_told_and_left_behind() -> None:
    release = threading.Event()
    poller = polling.Poller("x", lambda: release.wait(30) and [], 0.1, 0.2)
    error = wait_for(lambda: poller.failing, what="an overdue look")
    assert "has not answered for" in error.cause
    poller.close()
    assert poller._thread.is_alive()
    release.set()


def test_the_simulated_controller_is_found_by_doctor(bench) -> None:
    directory = bench.root / "bmc"
    simulator = bench.start(
        "simulate", "redfish", str(directory), "--tls", "--credentials", "root:x", stdout=subprocess.PIPE, text=True
    )
    for _ in range(3):
        name, _, value = simulator.stdout.readline().removeprefix("export ").strip().partition("=")
        bench.environ[name] = value
    found = json.loads(bench.joulebook("doctor", "--json").stdout)
    (node,) = [device for device in found["measured"] if device["device_id"] == "redfish:node"]
    assert (node["component"], node["method"], node["note"]) == ("node", "integrated", "")
    others = [device for device in found["measured"] if device is not node]
    assert {device["parent"] for device in others} <= {"redfish:node"}
    simulator.send_signal(signal.SIGTERM)
    assert simulator.wait(20) == 0


def test_a_controller_that_hangs_harms_neither_the_run_nor_the_other_meters(simulated, make_bmc, tmp_path) -> None:
    (tmp_path / FAULTS).write_text("delay_seconds 60\n")
    simulated.powercap("--packages", "2")
    simulated.environ |= settings_of(make_bmc())
    done = simulated.joulebook("run", "--", "sleep", "3")
    assert done.returncode == 0, done.stderr
    found = simulated.measurements()
    assert {row.device_id.rpartition("/")[2] for row in found} >= {"rapl:package-0", "rapl:package-1"}
    assert not [row for row in found if row.device_id.endswith("redfish:node")]
    (run,) = simulated.runs().values()
    metered = sum((row.ended_ns - row.started_ns) / 1e9 for row in found if "package-0" in row.device_id)
    assert run.ended_ns is not None
    assert metered >= (run.ended_ns - run.started_ns) / 1e9 - 0.1
