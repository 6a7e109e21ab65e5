"""The simulated powercap tree: duplicates that are alike, dies that mirror, zones that go and return."""

from pathlib import Path

import pytest
from joulebook.errors import BadInput
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.powercap import PowercapTree, domains, parse_away, taken_away

CURVES = [parse_curve("constant:100"), parse_curve("constant:50")]


def counter(root: Path, zone: str) -> bytes:
    return (root / "class" / "powercap" / zone / "energy_uj").read_bytes()


def test_mmio_and_dies_show_their_packages_counter(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path, domains(CURVES, 0, mmio=True, dies=True))
    tree.tick(7_000_000_000)
    tree.close()
    for n in range(2):
        own = counter(tmp_path, f"intel-rapl:{n}")
        assert own == counter(tmp_path, f"intel-rapl-mmio:{n}") == counter(tmp_path, f"intel-rapl:{n + 2}")
    assert counter(tmp_path, "intel-rapl:0") != counter(tmp_path, "intel-rapl:1")


def test_a_zone_that_is_away_fails_whoever_holds_it_and_returns_as_if_it_had_counted(tmp_path: Path) -> None:
    away = 10**15
    machine = taken_away(domains(CURVES, 0), 0, [("intel-rapl:1", away / 1e9, away / 1e9 + 5)])
    tree = PowercapTree(tmp_path, machine)
    tree.tick(away - 10**9)
    before = int(counter(tmp_path, "intel-rapl:1"))
    with (tmp_path / "class" / "powercap" / "intel-rapl:1" / "energy_uj").open("rb", buffering=0) as held:
        tree.tick(away)
        assert held.read() == b""
    assert not (tmp_path / "class" / "powercap" / "intel-rapl:1").exists()
    assert (tmp_path / "class" / "powercap" / "intel-rapl:1:1" / "energy_uj").exists()
    tree.tick(away + 5 * 10**9)
    tree.close()
    assert int(counter(tmp_path, "intel-rapl:1")) - before == 50 * 6 * 10**6


def test_a_span_away_is_of_a_zone_that_there_is_and_goes_forward() -> None:
    assert parse_away("intel-rapl:1=10,15.5") == ("intel-rapl:1", 10.0, 15.5)
    for text in ("intel-rapl:1", "intel-rapl:1=5", "intel-rapl:1=5,5", "intel-rapl:1=-1,5", "intel-rapl:1=0,inf"):
        with pytest.raises(BadInput, match="names no span"):
            parse_away(text)
    with pytest.raises(BadInput, match="no zone intel-rapl:9"):
        taken_away(domains(CURVES, 0), 0, [("intel-rapl:9", 0, 1)])
