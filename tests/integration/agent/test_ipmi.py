"""The IPMI meter against a real command named ipmitool: the product's own simulator."""

import os
from pathlib import Path

import pytest
from conftest import wait_for
from hypothesis import given
from hypothesis import strategies as st
from joulebook.clock import boottime_ns
from joulebook.meters import MeterAbsent, MeterUnavailable, Roots, ipmi, polling
from joulebook.meters.ipmi import DcmiReading, open_ipmi, parse_reading
from joulebook.rows import Component, Method
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.ipmi import FAULTS, make_tool, settings
from joulebook.simulate.truth import Source

SECRET = "s3cret:with colon"

OLD = """
    Instantaneous power reading:                   346 Watts
    Minimum during sampling period:                 12 Watts
    Maximum during sampling period:                703 Watts
    Average power reading over sample period:      344 Watts
    IPMI timestamp:                           Tue Jul 16 14:57:49 2024
    Sampling period:                          00000001 Seconds.
    Power reading state is:                   activated


"""
NEW = """
    Instantaneous power reading:                   195 Watts
    Minimum during sampling period:                188 Watts
    Maximum during sampling period:               1940 Watts
    Average power reading over sample period:      194 Watts
    IPMI timestamp:                           08/28/26 07:12:06 UTC    Sampling period:                          00000005 Seconds.
    Power reading state is:                   activated
"""  # noqa: E501  the two run together in newer versions


@pytest.fixture(autouse=True)
def patient(monkeypatch) -> None:
    monkeypatch.setattr(polling, "OPEN_SECONDS", 30.0)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    make_tool(tmp_path, Source("ipmi:node", boottime_ns(), (parse_curve("constant:412.6"),)))
    return {**settings(tmp_path), "JOULEBOOK_IPMI_POLL_SECONDS": "0.1"}


def first(meter):
    return wait_for(meter.read, what="a reading")[0]


def test_the_figure_is_the_power_at_the_instant(environ: dict[str, str], tmp_path: Path) -> None:
    began = boottime_ns()
    meter = open_ipmi(Roots(tmp_path, tmp_path), environ)
    reading = first(meter)
    meter.close()
    assert (reading.device_id, reading.power_milliwatts) == ("ipmi:node", 413_000)
    assert began < reading.at_ns < boottime_ns()
    (device,) = meter.devices
    assert (device.component, device.method, device.covers) == (Component.NODE, Method.INTEGRATED, "node")
    assert (tmp_path / "ipmi.calls").read_text().splitlines()[0] == "-I open dcmi power reading"


@pytest.mark.parametrize(("text", "watts", "average", "seconds"), [(OLD, 346, 344, 1), (NEW, 195, 194, 5)])
def test_both_layouts_of_the_text_are_read(text: str, watts: int, average: int, seconds: int) -> None:
    assert parse_reading(text) == DcmiReading(watts, average, seconds, active=True)
    assert parse_reading(text.replace("\n", "\r\n")) == DcmiReading(watts, average, seconds, active=True)


@pytest.mark.parametrize(
    "text",
    ["", "Instantaneous power reading:", OLD.replace("346", "-346"), OLD.replace("346", "346.5"),
     OLD.replace("346 Watts", "na"), OLD.replace("346", "9" * 40), OLD[: OLD.index("Power reading state")]],
)  # fmt: skip
def test_what_is_no_reading_is_none(text: str) -> None:
    assert parse_reading(text) is None


def test_a_figure_that_is_not_measured_is_none() -> None:
    assert parse_reading(OLD.replace(" activated", " deactivated")).figure is None
    assert parse_reading(OLD.replace("346", "0")).figure is None
    assert parse_reading(OLD.replace("346", "65535")).figure is None


@given(st.text() | st.lists(st.sampled_from(OLD.split()), max_size=40).map(" ".join))
def test_no_text_breaks_the_parser(text: str) -> None:
    found = parse_reading(text)
    assert found is None or found.watts >= 0


@pytest.mark.parametrize(
    ("fault", "cause", "remedy"),
    [
        ("permission", "Permission denied", "setfacl"),
        ("absent", "No such file", "modprobe"),
        ("password", "RAKP 2 HMAC is invalid", "password"),
        ("unsupported", "Invalid command (c1)", "Redfish"),
    ],
)
def test_a_refusal_makes_the_meter_unavailable_with_what_mends_it(
    fault: str, cause: str, remedy: str, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / FAULTS).write_text(fault + "\n")
    with pytest.raises(MeterUnavailable) as caught:
        open_ipmi(Roots(tmp_path, tmp_path), environ)
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("fault", ["unreachable", "deactivated", "watts 0", "watts 65535", "watts na", "garbage"])
def test_no_figure_is_no_reading_until_there_is_one(fault: str, environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / FAULTS).write_text(fault + "\n")
    meter = open_ipmi(Roots(tmp_path, tmp_path), environ)
    assert meter.failing is not None
    assert "IANA" not in meter.failing.cause
    assert not meter.read()
    (tmp_path / FAULTS).unlink()
    assert first(meter).power_milliwatts == 413_000
    assert meter.failing is None
    meter.close()


def test_a_command_that_hangs_is_ended_and_called_again(environ: dict[str, str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(ipmi, "TIMEOUT_SECONDS", 1.0)
    (tmp_path / FAULTS).write_text("delay_seconds 60\n")
    meter = open_ipmi(Roots(tmp_path, tmp_path), environ)
    assert "did not end within 1 s" in meter.failing.cause
    (tmp_path / FAULTS).unlink()
    monkeypatch.setattr(ipmi, "TIMEOUT_SECONDS", 60.0)
    assert first(meter).power_milliwatts == 413_000
    meter.close()


def credentials(tmp_path: Path, text: str = f"root:{SECRET}\n", mode: int = 0o600) -> str:
    path = tmp_path / "credentials"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_a_password_is_in_no_argument_and_in_no_message(environ: dict[str, str], tmp_path: Path, capfd) -> None:
    remote = {**environ, "JOULEBOOK_IPMI": "bmc-17.example", "JOULEBOOK_IPMI_CREDENTIALS_FILE": credentials(tmp_path)}
    meter = open_ipmi(Roots(tmp_path, tmp_path), remote)
    assert first(meter).power_milliwatts == 413_000
    meter.close()
    calls = (tmp_path / "ipmi.calls").read_text()
    assert calls.startswith("-I lanplus -H bmc-17.example -p 623 -U root -L USER -E dcmi power reading\n")
    (tmp_path / FAULTS).write_text("password\n")
    with pytest.raises(MeterUnavailable) as caught:
        open_ipmi(Roots(tmp_path, tmp_path), remote)
    assert "s3cret" not in "".join([calls, caught.value.cause, caught.value.remedy, *capfd.readouterr()])


def test_the_command_inherits_nothing_but_its_path_and_password(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    script = tmp_path / "bin" / "ipmitool"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\nenv > {tmp_path}/inherited\ncat <<E\n{OLD}E\n")
    script.chmod(0o755)
    environ = {
        **os.environ,
        "PATH": f"{script.parent}:{os.environ['PATH']}",
        "JOULEBOOK_IPMI": "[fe80::1]:6230",
        "JOULEBOOK_IPMI_CREDENTIALS_FILE": credentials(tmp_path),
    }
    meter = open_ipmi(Roots(tmp_path, tmp_path), environ)
    assert first(meter).power_milliwatts == 346_000
    meter.close()
    names = {line.partition("=")[0] for line in (tmp_path / "inherited").read_text().splitlines()}
    assert names - {"PWD", "_", "OLDPWD", "SHLVL"} == {"PATH", "LC_ALL", "IPMI_PASSWORD"}


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({"JOULEBOOK_IPMI": "-H evil"}, "'-H evil'"),
        ({"JOULEBOOK_IPMI": "host name"}, "'host name'"),
        ({"JOULEBOOK_IPMI": "bmc"}, "no credentials"),
        ({"JOULEBOOK_IPMI_POLL_SECONDS": "1e9"}, "JOULEBOOK_IPMI_POLL_SECONDS"),
    ],
)
def test_a_wrong_declaration_is_told(more: dict[str, str], cause: str, environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(MeterUnavailable) as caught:
        open_ipmi(Roots(tmp_path, tmp_path), {**environ, **more})
    assert cause in caught.value.cause
    assert not (tmp_path / "ipmi.calls").exists()


def test_a_redfish_token_is_no_password(environ: dict[str, str], tmp_path: Path) -> None:
    path = credentials(tmp_path, "X-Auth-Token: abc\n")
    with pytest.raises(MeterUnavailable, match="holds a Redfish token"):
        open_ipmi(
            Roots(tmp_path, tmp_path),
            {**environ, "JOULEBOOK_IPMI": "bmc", "JOULEBOOK_IPMI_CREDENTIALS_FILE": path},
        )


def test_without_a_declaration_there_is_no_meter_and_without_the_command_a_remedy(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(MeterAbsent):
        open_ipmi(Roots(tmp_path, tmp_path), {})
    monkeypatch.setattr(ipmi, "PLACES", str(tmp_path))
    with pytest.raises(MeterUnavailable) as caught:
        open_ipmi(Roots(tmp_path, tmp_path), {"JOULEBOOK_IPMI": "local", "PATH": str(tmp_path)})
    assert caught.value.remedy == "sudo apt install ipmitool"


def test_the_model_is_what_the_firmware_calls_the_machine(environ: dict[str, str], tmp_path: Path) -> None:
    dmi = tmp_path / "class" / "dmi" / "id"
    dmi.mkdir(parents=True)
    (dmi / "sys_vendor").write_text("Gigabyte\n")
    (dmi / "product_name").write_bytes(b"G431\xff-MM0\n")
    meter = open_ipmi(Roots(tmp_path, tmp_path), environ)
    meter.close()
    assert meter.devices[0].model == "Gigabyte G431\N{REPLACEMENT CHARACTER}-MM0"
    assert meter.devices[0].u_common_key == f"ipmi:{meter.devices[0].model}"


def test_the_simulated_command_is_found_by_doctor(bench) -> None:
    done = bench.joulebook("simulate", "ipmi", str(bench.root / "sim"), "--curve", "constant:250")
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        bench.environ[name] = value.strip("'")
    text = bench.joulebook("doctor").stdout
    assert "ipmi:node" in text
    assert "ipmi: available" in text
