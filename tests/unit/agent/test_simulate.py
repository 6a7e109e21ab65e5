"""The simulator: curves by hand, the tree, its truth."""

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner
from joulebook.errors import BadInput
from joulebook.meters import Roots
from joulebook.meters.rapl import open_rapl
from joulebook.simulate import truth
from joulebook.simulate.cli import simulate
from joulebook.simulate.curve import parse_curve, staggered
from joulebook.simulate.nvml import GpuProcess, parse_process
from joulebook.simulate.powercap import PowercapTree, domains

SECOND = 1_000_000_000


def test_a_constant_is_power_times_time() -> None:
    assert parse_curve("constant:100").joules(2.5) == 250


def test_a_square_is_high_first_then_low() -> None:
    curve = parse_curve("square:60,300,7")
    # Period 7 s: 3.5 s at 300 W = 1050 J, 3.5 s at 60 W = 210 J, together 1260 J.
    assert [curve.joules(s) for s in (0, 1, 3.5, 5.5, 7, 15)] == [0, 300, 1050, 1170, 1260, 2 * 1260 + 300]
    assert [curve.watts(s) for s in (0, 3.4, 3.6, 7)] == [300, 300, 60, 300]


def test_duty_and_phase_of_a_square() -> None:
    # A fifth of 10 s at 200 W, begun 1 s in: 1 s more at 200 W, then 8 s at 100 W.
    curve = parse_curve("square:100,200,10,0.2,1")
    assert curve.joules(9) == 200 + 800


def test_a_sine_over_whole_periods_is_its_mean() -> None:
    curve = parse_curve("sine:100,50,4")
    assert curve.joules(8) == pytest.approx(800)
    # The first half period holds amplitude x period / pi more than the mean.
    assert curve.joules(2) == pytest.approx(200 + 50 * 4 / math.pi)


@pytest.mark.parametrize("text", ["constant:100", "square:60,300,7,0.25,1.5", "sine:100,50,4,0.5"])
def test_the_text_form_is_the_whole_curve(text: str) -> None:
    curve = parse_curve(text)
    assert parse_curve(str(curve)) == curve


@pytest.mark.parametrize(
    "text",
    ["", "constant", "constant:-1", "constant:nan", "constant:1,2", "square:1,2", "square:1,2,0", "square:1,2,3,1.5",
     "sine:10,20,4", "saw:1"],
)  # fmt: skip
def test_what_is_no_curve_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no power curve"):
        parse_curve(text)


def test_one_curve_for_all_is_made_to_differ() -> None:
    a, b = staggered([parse_curve("square:100,200,10")], 2)
    assert str(a) != str(b)
    assert (b.numbers[0], b.numbers[1], b.numbers[4]) == (95, 190, 5)
    with pytest.raises(BadInput, match="2 curves for 3"):
        staggered([a, b], 3)


def tree_of(directory: Path, **options: bool) -> PowercapTree:
    curves = [parse_curve("constant:100"), parse_curve("constant:50")]
    return PowercapTree(directory, domains(curves, 0, **options), wraps_after_seconds=10)


def test_the_tree_looks_like_the_kernels(tmp_path: Path) -> None:
    tree_of(tmp_path, psys=True, mmio=True).close()
    powercap = tmp_path / "class" / "powercap"
    names = {entry.name: (entry / "name").read_text().strip() for entry in powercap.iterdir()}
    assert names == {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:1:0": "core",
        "intel-rapl:1:1": "dram",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
        "intel-rapl-mmio:1": "package-1",
    }
    assert all(entry.is_symlink() for entry in powercap.iterdir())
    assert (powercap / "intel-rapl:0" / "intel-rapl:0:1" / "energy_uj").exists()


def test_counters_wrap_where_they_were_told_and_the_truth_does_not(tmp_path: Path) -> None:
    tree = tree_of(tmp_path)
    meter = open_rapl(Roots(tmp_path, tmp_path))
    seen = []
    for at in (9 * SECOND, 12 * SECOND):
        tree.tick(at)
        seen.append({r.device_id: r.energy_microjoules or 0 for r in meter.read()})
    meter.close()
    tree.close()
    before, after = (look["rapl:package-0"] for look in seen)
    # 100 W: 1 s before the wrap 100 J are left of the range, 2 s after it 200 J are counted.
    assert (before, after) == (262_143_328_850 - 100_000_000, 200_000_000)
    assert truth(tmp_path, 9 * SECOND, 12 * SECOND)["rapl:package-0"] == 300


def test_the_truth_has_the_ids_that_the_meter_reports(tmp_path: Path) -> None:
    tree_of(tmp_path, psys=True, mmio=True).close()
    meter = open_rapl(Roots(tmp_path, tmp_path))
    containing = {"rapl:psys"}
    assert set(truth(tmp_path, 0, 1)) == {device.device_id for device in meter.devices} - containing
    assert containing <= truth(tmp_path, 0, 1, overlapping=True).keys()
    meter.close()


def test_psys_is_more_than_the_sum_and_never_among_it(tmp_path: Path) -> None:
    tree_of(tmp_path, psys=True).close()
    # Packages 150 W and DRAM 15 % of that, 22.5 W: 172.5 x 1.1 + 20 W over 10 s.
    assert truth(tmp_path, 0, 10 * SECOND, overlapping=True)["rapl:psys"] == pytest.approx(2097.5)


def test_the_truth_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"truth\.json"):
        truth(tmp_path, 0, 1)
    tree_of(tmp_path).close()
    with pytest.raises(BadInput, match="before its start"):
        truth(tmp_path, 2, 1)


def test_a_tree_that_was_not_simulated_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "class" / "powercap").mkdir(parents=True)
    with pytest.raises(BadInput, match="not simulated"):
        tree_of(tmp_path)
    assert (tmp_path / "class" / "powercap").exists()


def test_truth_on_the_command_line(tmp_path: Path) -> None:
    tree_of(tmp_path).close()
    words = ["truth", str(tmp_path), "--from", "0", "--to", str(2 * SECOND)]
    done = CliRunner().invoke(simulate, [*words, "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["rapl:package-1"] == 100
    assert "rapl:package-1  100.000000 J" in CliRunner().invoke(simulate, words).stdout


def test_powercap_on_the_command_line_ends_by_itself(tmp_path: Path) -> None:
    words = ["powercap", str(tmp_path / "a b"), "--dram", "--seconds", "0.05"]
    done = CliRunner().invoke(simulate, words, catch_exceptions=False)
    assert done.stdout == f"export JOULEBOOK_SYS_ROOT='{tmp_path / 'a b'}'\n"
    assert truth(tmp_path / "a b", 0, 1) == {"rapl:package-0": 0, "rapl:package-0/dram": 0}


def test_every_option_has_its_row_in_the_docs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "simulator.md").read_text()
    options = {name for verb in simulate.commands.values() for option in verb.params for name in option.opts}
    told = {name for name in options if name.startswith("--")} - {"--json", "--from", "--to", "--energy-counter"}
    assert {name for name in told if f"`{name}" not in page} == set()


@pytest.mark.parametrize("text", ["0", "2:5", "0:0", "0:5:101", "0:5:6:7", "a:5"])
def test_what_is_no_process_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no process"):
        parse_process(text, 2)


def test_processes_on_the_command_line() -> None:
    assert parse_process("1:4711:80", 2) == (1, GpuProcess(4711, 0, 80))
    assert parse_process("0:4711", 2) == (0, GpuProcess(4711, 0, None))
