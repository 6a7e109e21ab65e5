"""RAPL on powercap trees: which zones count, what they say of themselves, and what is refused."""

import itertools
import os
import threading
from pathlib import Path

import pytest
from joulebook.meters import MeterAbsent, MeterUnavailable, Roots
from joulebook.meters.rapl import Rapl, open_rapl
from joulebook.powercap import mirrors
from joulebook.rows import Component, Method

INTEL = "processor : 0\nvendor_id : GenuineIntel\nmodel name : Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz\n\n"


def tree(tmp_path: Path, zones: dict[str, dict[str, str]], cpuinfo: str = INTEL) -> Roots:
    for zone, files in zones.items():
        directory = tmp_path / "sys" / "class" / "powercap" / zone
        directory.mkdir(parents=True)
        for name, text in ({"energy_uj": "5", "max_energy_range_uj": "262143328850"} | files).items():
            (directory / name).write_text(text + "\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(cpuinfo)
    return Roots(tmp_path / "proc", tmp_path / "sys")


SERVER = {
    "intel-rapl:0": {"name": "package-0", "energy_uj": "1000"},
    "intel-rapl:0:0": {"name": "core"},
    "intel-rapl:0:1": {"name": "dram", "energy_uj": "200"},
    "intel-rapl:1": {"name": "package-1", "energy_uj": "2000"},
    "intel-rapl:1:0": {"name": "uncore"},
    "intel-rapl:1:1": {"name": "dram", "energy_uj": "400"},
    "intel-rapl:2": {"name": "psys", "energy_uj": "9000"},
    "intel-rapl-mmio:0": {"name": "package-0"},
}


def read(meter: Rapl) -> dict[str, int | None]:
    return {reading.device_id: reading.energy_microjoules for reading in meter.read()}


def test_packages_and_dram_are_read_and_nothing_that_overlaps_them(tmp_path: Path) -> None:
    meter = open_rapl(tree(tmp_path, SERVER))
    assert read(meter) == {
        "rapl:package-0": 1000,
        "rapl:package-0/dram": 200,
        "rapl:package-1": 2000,
        "rapl:package-1/dram": 400,
    }
    assert {left.what for left in meter.left_out} == {
        "intel-rapl package-0/core",
        "intel-rapl package-1/uncore",
        "intel-rapl-mmio package-0",
    }
    meter.close()


def test_mmio_is_used_where_it_is_all_there_is(tmp_path: Path) -> None:
    meter = open_rapl(tree(tmp_path, {"intel-rapl-mmio:0": {"name": "package-0"}}))
    assert list(read(meter)) == ["rapl:package-0"]
    meter.close()


def test_uncertainties_are_of_the_domain_and_its_maker(tmp_path: Path) -> None:
    meter = open_rapl(tree(tmp_path, SERVER))
    package, dram = meter.devices[0], meter.devices[1]
    meter.close()
    assert (package.component, package.method, package.u_common) == (Component.CPU, Method.COUNTER, 0.03)
    assert (dram.component, dram.u_common) == (Component.DRAM, 0.10)
    assert package.u_common_key == "rapl:Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz"
    assert dram.u_common_key != package.u_common_key
    assert package.wraps_at_microjoules == 262_143_328_850


def test_amd_packages_are_less_certain(tmp_path: Path) -> None:
    amd = "vendor_id : AuthenticAMD\nmodel name : AMD EPYC 7543 32-Core Processor\n"
    meter = open_rapl(tree(tmp_path, {"intel-rapl:0": {"name": "package-0"}}, amd))
    assert meter.devices[0].u_common == 0.08
    assert ("DRAM", "AMD CPU has no counter for it") in [(left.what, left.why) for left in meter.left_out]
    meter.close()


def test_the_power_bound_is_twice_the_largest_limit(tmp_path: Path) -> None:
    limits = {"constraint_0_max_power_uw": "125000000", "constraint_1_power_limit_uw": "160000000"}
    meter = open_rapl(tree(tmp_path, {"intel-rapl:0": {"name": "package-0", **limits}}))
    assert meter.devices[0].most_watts == 320.0
    meter.close()


def test_without_limits_the_bound_is_the_stated_one(tmp_path: Path) -> None:
    meter = open_rapl(tree(tmp_path, {"intel-rapl:0": {"name": "package-0", "constraint_0_max_power_uw": "0"}}))
    assert meter.devices[0].most_watts == 1500.0
    meter.close()


def test_a_value_ends_at_its_first_newline(tmp_path: Path) -> None:
    meter = open_rapl(tree(tmp_path, {"intel-rapl:0": {"name": "package-0", "energy_uj": "12\n3456789"}}))
    assert read(meter) == {"rapl:package-0": 12}
    meter.close()


def test_no_zone_is_an_absent_meter(tmp_path: Path) -> None:
    with pytest.raises(MeterAbsent, match="no RAPL zone"):
        open_rapl(tree(tmp_path, {}))


def test_only_psys_is_an_absent_meter(tmp_path: Path) -> None:
    with pytest.raises(MeterAbsent):
        open_rapl(tree(tmp_path, {"intel-rapl:0": {"name": "psys"}}))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_names_the_command_that_mends_it(tmp_path: Path) -> None:
    roots = tree(tmp_path, SERVER)
    (roots.sys / "class/powercap/intel-rapl:1/energy_uj").chmod(0)
    with pytest.raises(MeterUnavailable) as caught:
        open_rapl(roots)
    assert "intel-rapl:1/energy_uj: permission denied" in caught.value.cause
    assert "chmod" in caught.value.remedy


def test_one_unreadable_package_refuses_all_of_them(tmp_path: Path) -> None:
    roots = tree(tmp_path, SERVER)
    energy = roots.sys / "class/powercap/intel-rapl:1/energy_uj"
    energy.unlink()
    energy.mkdir()
    with pytest.raises(MeterUnavailable) as caught:
        open_rapl(roots)
    assert str(energy) in caught.value.cause
    assert not isinstance(caught.value, MeterAbsent)


def test_a_file_that_holds_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeterUnavailable, match="no energy count"):
        open_rapl(tree(tmp_path, {"intel-rapl:0": {"name": "package-0", "energy_uj": "n/a"}}))


def test_a_zone_that_fails_later_leaves_the_others(tmp_path: Path) -> None:
    roots = tree(tmp_path, SERVER)
    meter = open_rapl(roots)
    (roots.sys / "class/powercap/intel-rapl:1/energy_uj").write_text("gone\n")
    assert "rapl:package-1" not in read(meter)
    assert len(read(meter)) == 3
    meter.close()


def test_counters_that_stand_still_alike_are_no_mirrors() -> None:
    assert mirrors({"a": [5, 5, 5], "b": [5, 5, 5]}) == {}


def test_equal_increments_are_no_mirrors() -> None:
    assert mirrors({"a": [5, 6, 7], "b": [6, 7, 8]}) == {}


def test_an_update_between_two_reads_of_a_look_hides_no_mirror() -> None:
    assert mirrors({"a": [5, 6, 7], "b": [50, 60, 70], "c": [5, 7, 7], "d": [5, 6, 7]}) == {"c": "a", "d": "a"}


def test_a_die_that_mirrors_its_socket_is_left_out(tmp_path: Path) -> None:
    names = ("package-0-die-0", "package-0-die-1", "package-1")
    roots = tree(tmp_path, {f"intel-rapl:{n}": {"name": name} for n, name in enumerate(names)})
    powercap = roots.sys / "class" / "powercap"
    (powercap / "intel-rapl:1" / "energy_uj").unlink()
    (powercap / "intel-rapl:1" / "energy_uj").symlink_to(powercap / "intel-rapl:0" / "energy_uj")
    stop = threading.Event()

    def work() -> None:
        for n in itertools.count(1_000_000):
            for zone, base in ((0, 0), (2, 5_000_000)):
                fd = os.open(powercap / f"intel-rapl:{zone}" / "energy_uj", os.O_WRONLY)
                os.pwrite(fd, b"%d\n" % (base + n), 0)
                os.close(fd)
            if stop.wait(0.003):
                return

    worker = threading.Thread(target=work)
    worker.start()
    meter = open_rapl(roots)
    stop.set()
    worker.join()
    assert [(device.device_id, device.covers) for device in meter.devices] == [
        ("rapl:package-0-die-0", "cpu:0"),
        ("rapl:package-1", "cpu:1"),
    ]
    assert ("rapl:package-0-die-1", "mirrors the counter of package-0-die-0") in [
        (left.what, left.why) for left in meter.left_out
    ]
    meter.close()


def test_dies_are_named_by_their_package(tmp_path: Path) -> None:
    zones = {"intel-rapl:0": {"name": "package-0-die-0"}, "intel-rapl:1": {"name": "package-0-die-1"}}
    meter = open_rapl(tree(tmp_path, zones))
    assert list(read(meter)) == ["rapl:package-0-die-0", "rapl:package-0-die-1"]
    meter.close()
