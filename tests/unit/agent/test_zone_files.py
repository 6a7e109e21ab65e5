"""Open counters: what is left out of a read, and how a zone that goes comes back."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import wait_for
from joulebook import zone_files
from joulebook.clock import boottime_ns
from joulebook.counters import Step, difference
from joulebook.meters import Roots
from joulebook.meters.rapl import open_rapl
from joulebook.powercap import find_zones
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.powercap import PowercapTree, domains, taken_away
from joulebook.zone_files import ZoneFiles

FAR = 10**6
NOBODY = 65534


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    """Two packages of plain files."""
    return two_packages(tmp_path)


def two_packages(root: Path) -> Roots:
    base = root / "sys" / "class" / "powercap"
    for n in range(2):
        zone = base / f"intel-rapl:{n}"
        zone.mkdir(parents=True)
        (zone / "name").write_text(f"package-{n}\n")
        (zone / "max_energy_range_uj").write_text("262143328850\n")
        (zone / "energy_uj").write_text(f"{1000 * (n + 1)}\n")
    return Roots(root / "proc", root / "sys")


def energy(roots: Roots, n: int) -> Path:
    return roots.sys / "class" / "powercap" / f"intel-rapl:{n}" / "energy_uj"


def opened(roots: Roots) -> ZoneFiles:
    return ZoneFiles(roots, find_zones(roots))


def counts(files: ZoneFiles) -> dict[str, int | None]:
    return {reading.device_id: reading.energy_microjoules for reading in files.read()}


def test_times_enclose_each_read_and_rise(roots: Roots) -> None:
    files = opened(roots)
    before = boottime_ns()
    first, second = files.read()
    after = boottime_ns()
    files.close()
    assert before <= first.at_ns < second.at_ns <= after


@pytest.mark.parametrize(
    "garbage", [b"gone\n", b"12", b"-5\n", b"1_0\n", b"+7\n", b"9" * 40, b"262143328851\n", b"\xff\n"]
)
def test_what_is_no_whole_count_is_left_out_of_that_read_only(roots: Roots, garbage: bytes) -> None:
    files = opened(roots)
    energy(roots, 1).write_bytes(garbage)
    assert counts(files) == {"rapl:package-0": 1000}
    energy(roots, 1).write_text("3000\n")
    assert counts(files) == {"rapl:package-0": 1000, "rapl:package-1": 3000}
    assert files.troubles == {}
    files.close()


@pytest.fixture
def mortal(roots: Roots) -> Iterator[subprocess.Popen]:
    """A process whose own file stands for package 1's counter: when it dies the open file fails like a gone zone's."""
    process = subprocess.Popen(["sleep", "100"])
    energy(roots, 1).unlink()
    energy(roots, 1).symlink_to(f"/proc/{process.pid}/oom_score")
    yield process
    process.kill()
    process.wait()


def test_a_zone_that_goes_harms_no_other_and_comes_back_under_another_number(
    roots: Roots, mortal: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zone_files, "FIRST_RETRY_NS", 0)
    files = opened(roots)
    assert list(counts(files)) == ["rapl:package-0", "rapl:package-1"]
    mortal.kill()
    mortal.wait()
    assert counts(files) == {"rapl:package-0": 1000}
    (trouble,) = files.troubles.values()
    assert trouble.what == "rapl:package-1"
    assert trouble.why.startswith("not read now: ")
    base = roots.sys / "class" / "powercap"
    (base / "intel-rapl:1").rename(base / "intel-rapl:7")
    energy(roots, 7).unlink()
    energy(roots, 7).write_text("5000\n")
    assert counts(files) == {"rapl:package-0": 1000}
    assert counts(files) == {"rapl:package-0": 1000, "rapl:package-1": 5000}
    assert files.troubles == {}
    files.close()


def test_a_zone_that_stays_away_is_looked_for_ever_more_rarely(
    roots: Roots, mortal: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    monkeypatch.setattr(zone_files, "find_zones", lambda roots: looks.append(boottime_ns()) or [])
    monkeypatch.setattr(zone_files, "FIRST_RETRY_NS", 20_000_000)
    monkeypatch.setattr(zone_files, "LAST_RETRY_NS", 80_000_000)
    monkeypatch.setattr(zone_files, "TICK_JITTER_NS", 0)
    files = opened(roots)
    mortal.kill()
    mortal.wait()
    reads = 0
    while len(looks) < 6:
        before = len(looks)
        files.read()
        reads += 1
        assert len(looks) - before <= 1
    files.close()
    gaps = [b - a for a, b in pairwise(looks)]
    # A look is noted a little after the read that it is part of.
    assert all(gap >= 0.8 * least for gap, least in zip(gaps, (20e6, 40e6, 80e6, 80e6, 80e6), strict=True))
    assert reads > len(looks)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_is_left_behind(roots: Roots, mortal: subprocess.Popen) -> None:
    before = descriptors()
    files = opened(roots)
    mortal.kill()
    mortal.wait()
    for _ in range(3):
        files.read()
    files.close()
    files.close()
    assert descriptors() == before
    energy(roots, 0).write_text("n/a\n")
    with pytest.raises(ValueError, match="no energy count"):
        opened(roots)
    assert descriptors() == before


def test_the_difference_across_an_absence_is_claimed_by_the_counter(tmp_path: Path) -> None:
    began = boottime_ns()
    machine = taken_away(domains([parse_curve("constant:100"), parse_curve("constant:70")], began), began, [])
    machine = taken_away(machine, began, [("intel-rapl:1", FAR, FAR + 5)])
    tree = PowercapTree(tmp_path / "sys", machine)
    meter = open_rapl(Roots(tmp_path / "proc", tmp_path / "sys"))

    def look(seconds: float) -> dict[str, int | None]:
        tree.tick(began + int(seconds * 1e9))
        return {reading.device_id: reading.energy_microjoules for reading in meter.read()}

    before = look(FAR - 10)
    assert "rapl:package-1" not in look(FAR + 1)
    assert "rapl:package-1/dram" in before
    tree.tick(began + int((FAR + 10) * 1e9))
    after = wait_for(lambda: (found := look(FAR + 10)).keys() == before.keys() and found, what="the zone's return")
    meter.close()
    tree.close()
    for device_id, watts in (("rapl:package-0", 100), ("rapl:package-1", 70)):
        gain = difference(before[device_id], after[device_id], 20 * 10**9, 262_143_328_850, 200e6)
        assert gain.step in (Step.ADVANCE, Step.WRAP)
        assert abs(gain.counts - watts * 20 * 10**6) <= 2


class Unprivileged:
    """A fork that reads the counters as nobody, whenever it is told to."""

    def __init__(self, roots: Roots) -> None:
        answers, self._answer = os.pipe()
        self._wait, orders = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(orders)
            try:
                self._serve(roots)
            finally:
                os._exit(0)
        os.close(self._answer)
        os.close(self._wait)
        self._answers, self._orders = answers, orders

    def _serve(self, roots: Roots) -> None:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        zone_files.FIRST_RETRY_NS = 0
        files = opened(roots)
        while os.read(self._wait, 1):
            found = ",".join(counts(files)) + ";" + ",".join(left.why for left in files.troubles.values())
            os.write(self._answer, found.encode().ljust(200))

    def reads(self) -> str:
        os.write(self._orders, b"r")
        return os.read(self._answers, 200).decode().strip()

    def close(self) -> None:
        os.close(self._orders)
        os.close(self._answers)
        os.waitpid(self._pid, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user that may read less")
def test_a_permission_taken_away_matters_only_once_the_zone_has_gone() -> None:
    root = Path(tempfile.mkdtemp(prefix="joulebook-zones-"))
    root.chmod(0o755)
    roots = two_packages(root)
    nobody = Unprivileged(roots)
    assert nobody.reads() == "rapl:package-0,rapl:package-1;"
    energy(roots, 1).chmod(0o400)
    assert nobody.reads() == "rapl:package-0,rapl:package-1;"
    os.truncate(energy(roots, 1), 0)
    assert nobody.reads() == "rapl:package-0;not read now: permission denied"
    energy(roots, 1).write_text("7000\n")
    energy(roots, 1).chmod(0o444)
    assert nobody.reads() == "rapl:package-0;"
    assert nobody.reads() == "rapl:package-0,rapl:package-1;"
    nobody.close()
    shutil.rmtree(root)
