"""What the known exporters' pages say, on excerpts as they write them and with hand-worked figures."""

import pytest
from joulebook.meters import LeftOut
from joulebook.meters.exporters import WANTED, Series, find_series, pci_address
from joulebook.meters.samples import wanted_samples
from joulebook.rows import Component, Method
from joulebook.simulate.prometheus import KINDS

A30 = 'gpu="0",UUID="GPU-265c9814-6156-355b-e589-ff2064894f16",device="nvidia0",modelName="NVIDIA A30"'
MIG = f"""
# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{A30},GPU_I_PROFILE="1g.6gb",GPU_I_ID="3",Hostname="n"}} 2587129305
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{A30},GPU_I_PROFILE="1g.6gb",GPU_I_ID="4",Hostname="n"}} 2587129305
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{A30},GPU_I_PROFILE="1g.6gb",GPU_I_ID="5",Hostname="n"}} 2587129411
DCGM_FI_DEV_POWER_USAGE{{{A30},GPU_I_PROFILE="1g.6gb",GPU_I_ID="3",Hostname="n"}} 52.636000
"""


def read(page: str) -> tuple[str, dict[str, Series], list[LeftOut]]:
    exporter, series, left_out = find_series(list(wanted_samples([page.encode()], WANTED)))
    return ("" if exporter is None else exporter.name), {one.device_id: one for one in series}, left_out


def test_a_board_in_slices_counts_once_and_in_millijoules() -> None:
    name, series, left_out = read(MIG)
    assert (name, left_out) == ("dcgm-exporter", [])
    (board,) = series.values()
    assert board.device_id == "GPU-265c9814-6156-355b-e589-ff2064894f16"
    # The newest of the repeats: 2,587,129,411 mJ.
    assert (board.energy_microjoules, board.power_milliwatts) == (2_587_129_411_000, None)
    assert (board.component, board.method, board.model) == (Component.GPU, Method.COUNTER, "NVIDIA A30")
    assert board.covers == "gpu:GPU-265c9814-6156-355b-e589-ff2064894f16"


def test_a_board_is_known_by_its_pci_address_too() -> None:
    _, series, _ = read(f'DCGM_FI_DEV_POWER_USAGE{{{A30},pci_bus_id="00000000:C1:00.0"}} 52.636\n')
    (board,) = series.values()
    assert board.covers_also == ("gpu:0000:c1:00.0",)
    assert (board.energy_microjoules, board.power_milliwatts, board.method) == (None, 52636, Method.INTEGRATED)
    assert [pci_address(text) for text in ("", "1:2:3", "00010000:07:00.1", "0000:c1:00.0")] == [
        "", "", "10000:07:00.1", "0000:c1:00.0",
    ]  # fmt: skip


@pytest.mark.parametrize("blank", ["9223372036854775792", "0", "NaN", "-1", "+Inf"])
def test_a_blank_counter_falls_back_to_power_and_never_outweighs_a_sound_repeat(blank: str) -> None:
    energy = f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{A30}}}"
    power = f"DCGM_FI_DEV_POWER_USAGE{{{A30}}} 60\n"
    (board,) = read(f"{energy} {blank}\n{power}")[1].values()
    assert (board.energy_microjoules, board.power_milliwatts) == (None, 60_000)
    (board,) = read(f"{energy} {blank}\n{energy} 7\n{energy} {blank}\n{power}")[1].values()
    assert board.energy_microjoules == 7000
    _, series, left_out = read(f"{energy} {blank}\nDCGM_FI_DEV_POWER_USAGE{{{A30}}} 140737488355328\n")
    assert not series
    assert "neither energy nor power" in left_out[0].why


def test_kepler_sums_all_sockets_of_a_machine_with_several() -> None:
    page = """kepler_node_cpu_joules_total{node_name="n",path="aggregated-package",zone="package"} 145677.5
kepler_node_cpu_joules_total{node_name="n",path="aggregated-dram",zone="dram"} 20000.25
kepler_node_cpu_joules_total{node_name="n",path="/host/sys/class/powercap/intel-rapl:2",zone="psys"} 9
"""
    name, series, left_out = read(page)
    assert name == "kepler"
    assert {key: (one.covers, one.energy_microjoules) for key, one in series.items()} == {
        "kepler:package": ("cpu", 145_677_500_000),
        "kepler:dram": ("dram", 20_000_250_000),
    }
    assert [left.what for left in left_out] == ["kepler psys"]


def test_kepler_tells_one_socket_by_its_path() -> None:
    page = """kepler_node_cpu_joules_total{path="/host/sys/class/powercap/intel-rapl:0",zone="package"} 1
kepler_node_cpu_joules_total{path="/host/sys/class/powercap/intel-rapl:0:1",zone="dram"} 2
kepler_node_cpu_joules_total{path="/host/sys/class/powercap/intel-rapl:0:0",zone="core"} 3
kepler_node_cpu_joules_total{node_name="n"} 4
"""
    _, series, left_out = read(page)
    assert {key: one.covers for key, one in series.items()} == {"kepler:package-0": "cpu:0", "kepler:dram-0": "dram:0"}
    assert [left.why for left in left_out] == [
        "lies inside its package: summing both would count it twice",
        "it does not say which zone it counts",
    ]


def test_old_kepler_adds_idle_and_dynamic_and_calls_an_estimate_one() -> None:
    page = """kepler_node_package_joules_total{instance="n",mode="dynamic",package="0",source="rapl-sysfs"} 100.5
kepler_node_package_joules_total{instance="n",mode="idle",package="0",source="rapl-sysfs"} 50.25
kepler_node_package_joules_total{instance="n",mode="dynamic",package="1",source="rapl-sysfs"} 7
kepler_node_dram_joules_total{instance="n",mode="dynamic",package="0",source="trained_power_model"} 5
kepler_node_core_joules_total{instance="n",mode="dynamic",package="0",source="rapl-sysfs"} 60
kepler_node_platform_joules_total{instance="n",mode="dynamic",source="acpi"} 400
"""
    _, series, left_out = read(page)
    assert {key: (one.covers, one.energy_microjoules, one.method) for key, one in series.items()} == {
        "kepler:package-0": ("cpu:0", 150_750_000, Method.COUNTER),
        "kepler:package-1": ("cpu:1", 7_000_000, Method.COUNTER),
        "kepler:dram-0 estimate": ("dram:0", 5_000_000, Method.MODELLED),
    }
    assert len(left_out) == 2


def test_scaphandre_sockets_and_memory_and_never_the_host_beside_them() -> None:
    page = """scaph_domain_energy_microjoules{domain_name="dram",domain_id="0",socket_id="1"} 49920589217
scaph_socket_energy_microjoules{socket_id="1"} 246521945562
scaph_domain_energy_microjoules{domain_name="core",socket_id="0",domain_id="1"} 7
scaph_socket_energy_microjoules{socket_id="0"} 43038699818
scaph_host_energy_microjoules 346728467994
"""
    name, series, left_out = read(page)
    assert name == "scaphandre"
    assert {key: (one.covers, one.energy_microjoules, one.zone) for key, one in series.items()} == {
        "scaphandre:dram-1": ("dram:1", 49_920_589_217, "intel-rapl:1:0"),
        "scaphandre:package-1": ("cpu:1", 246_521_945_562, "intel-rapl:1"),
        "scaphandre:package-0": ("cpu:0", 43_038_699_818, "intel-rapl:0"),
    }
    assert sorted(left.what for left in left_out) == ["scaphandre core 0", "scaphandre host"]


def test_node_exporter_zones_by_path_without_their_duplicates() -> None:
    page = """node_rapl_package_joules_total{index="0",path="/sys/class/powercap/intel-rapl:0"} 258199.428163
node_rapl_package_joules_total{index="1",path="/sys/class/powercap/intel-rapl:2"} 5
node_rapl_package_joules_total{index="0",path="/sys/class/powercap/intel-rapl-mmio:0"} 258199.428163
node_rapl_dram_joules_total{index="0",path="/sys/class/powercap/intel-rapl:0:0"} 1
node_rapl_dram_joules_total{index="1",path="/sys/class/powercap/intel-rapl:2:0"} 2
node_rapl_core_joules_total{index="0",path="/sys/class/powercap/intel-rapl:0:1"} 3
node_rapl_psys_joules_total{index="0",path="/sys/class/powercap/intel-rapl:1"} 9
"""
    _, series, left_out = read(page)
    assert {key: (one.covers, one.energy_microjoules, one.zone) for key, one in series.items()} == {
        "node_exporter:package-0": ("cpu:0", 258_199_428_163, "intel-rapl:0"),
        "node_exporter:package-1": ("cpu:1", 5_000_000, "intel-rapl:2"),
        "node_exporter:dram-0": ("dram:0", 1_000_000, "intel-rapl:0:0"),
        "node_exporter:dram-1": ("dram:1", 2_000_000, "intel-rapl:2:0"),
    }
    assert len(left_out) == 3


def test_an_old_node_exporter_tells_by_index_only() -> None:
    page = (
        'node_rapl_dram_joules_total{index="0"} 42733.469825\nnode_rapl_package_joules_total{index="0"} 106211.839852\n'
    )
    assert {key: one.covers for key, one in read(page)[1].items()} == {
        "node_exporter:dram-0": "dram:0",
        "node_exporter:package-0": "cpu:0",
    }


def test_devices_that_cannot_be_told_apart_are_left_out_not_halved() -> None:
    page = """kepler_node_cpu_joules_total{path="/dev/cpu/0",zone="package"} 1
kepler_node_cpu_joules_total{path="/dev/cpu/32",zone="package"} 2
"""
    _, series, left_out = read(page)
    assert not series
    assert left_out == [LeftOut("kepler:package", "shown 2 times, and not told apart")]


def test_a_counter_that_stands_at_zero_is_no_device() -> None:
    page = 'kepler_node_package_joules_total{mode="idle",package="0",source="rapl"} 0\n'
    assert not read(page)[1]


def test_a_year_of_joules_keeps_its_microjoules() -> None:
    page = 'node_rapl_package_joules_total{index="0"} 6307200000.25\n'
    assert read(page)[1]["node_exporter:package-0"].energy_microjoules == 6_307_200_000_250_000


def test_a_page_of_something_else_is_of_no_exporter() -> None:
    assert read('node_cpu_seconds_total{cpu="0"} 1\n') == ("", {}, [])


def test_every_kind_of_exporter_has_its_simulated_page() -> None:
    assert {"dcgm", "kepler", "kepler-old", "scaphandre", "node_exporter"} <= KINDS.keys()


@pytest.mark.parametrize(
    "page",
    [
        f'DCGM_FI_DEV_POWER_USAGE{{{A30},Hostname="a"}} 5\nDCGM_FI_DEV_POWER_USAGE{{UUID="GPU-1",Hostname="b"}} 5\n',
        'kepler_node_cpu_joules_total{node_name="a",zone="package"} 1\n'
        'kepler_node_cpu_joules_total{node_name="b",zone="package"} 1\n',
        'node_rapl_package_joules_total{index="0",instance="a:9100"} 1\n'
        'node_rapl_package_joules_total{index="0",instance="b:9100"} 1\n',
    ],
)
def test_a_page_of_several_hosts_gives_no_device_of_any(page: str) -> None:
    _, series, left_out = read(page)
    assert not series
    assert "2 hosts (a" in left_out[0].why
