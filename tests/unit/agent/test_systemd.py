"""The units are what systemd takes, name what exists, and stay as little exposed as the docs say."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from joulebook import reader

ROOT = Path(__file__).parents[3]
UNITS = sorted((ROOT / "agent" / "systemd").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
PAGE = (ROOT / "docs" / "how-to" / "systemd.md").read_text()
INSTALLED = {"/opt/joulebook/bin/joulebook": "/bin/true"}

systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def fields(unit: Path) -> list[tuple[str, str]]:
    return re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE)


def test_there_are_units_for_both() -> None:
    assert [unit.name for unit in UNITS] == [
        "joulebook-agent.service",
        "joulebook-reader.service",
        "joulebook-reader.socket",
    ]


@systemd
def test_systemd_takes_them(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text()
        for there, here in INSTALLED.items():
            text = text.replace(there, here)
        (tmp_path / unit.name).write_text(text)
    places = [str(tmp_path / unit.name) for unit in UNITS]
    done = subprocess.run(["systemd-analyze", "verify", *places], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "joulebook" in line]
    assert (done.returncode, ours) == (0, [])


@systemd
@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_exposure_is_what_the_docs_say(unit: Path) -> None:
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    match = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    if match is None:
        pytest.skip(f"this systemd cannot rate a file: {done.stderr.strip()}")
    told = re.search(rf"exposure level for {re.escape(unit.name)}: ([\d.]+)", PAGE)
    assert told is not None
    assert float(match[1]) <= float(told[1])


def test_the_socket_is_where_and_what_the_reader_listens_on() -> None:
    socket = dict(fields(ROOT / "agent" / "systemd" / "joulebook-reader.socket"))
    assert socket["ListenSequentialPacket"] == reader.SOCKET
    assert socket["SocketMode"] == "0660"


def test_the_reader_has_one_capability_and_the_agent_none() -> None:
    capabilities = {unit.name: dict(fields(unit))["CapabilityBoundingSet"] for unit in SERVICES}
    assert capabilities == {"joulebook-agent.service": "", "joulebook-reader.service": "CAP_DAC_READ_SEARCH"}
    assert all(dict(fields(unit))["NoNewPrivileges"] == "yes" for unit in SERVICES)


def test_the_docs_install_what_the_units_start() -> None:
    starts = {dict(fields(unit))["ExecStart"].split()[0] for unit in SERVICES} - {"/usr/bin/python3"}
    assert starts == {"/opt/joulebook/bin/joulebook"}
    assert all(path.rsplit("/bin/", 1)[0] in PAGE for path in starts)
    assert "/usr/local/lib/joulebook/reader.py" in PAGE
