"""The CPU and DRAM model: names, curve, limits and what an unknown CPU gets, by hand."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from joulebook.cpus import Cpu, find_part, parts_table, percentiles, plain_name, read_cpu, thread_power, unknown_power
from joulebook.errors import BadInput
from joulebook.meters import MeterUnavailable, Roots
from joulebook.meters.model import busy_seconds, open_model, power_fraction
from joulebook.rows import Component, Method

XEON = Cpu("Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz", "Intel", is_server=True)
EPYC = Cpu("AMD EPYC 7543 32-Core Processor", "AMD", is_server=True)
BARE_EPYC = Cpu("AMD EPYC", "AMD", is_server=True)


@pytest.mark.parametrize(
    ("utilisation", "fraction"),
    # Halfway between 10 and 50 %: (0.32 + 0.75) / 2 = 0.535; a fifth of the way from 50 to 100 %: 0.75 + 0.2 x 0.27.
    [(0, 0.12), (0.05, 0.22), (0.1, 0.32), (0.3, 0.535), (0.5, 0.75), (0.6, 0.804), (1, 1.02), (1.2, 1.02), (-1, 0.12)],
)
def test_the_curve_is_linear_between_its_points(utilisation: float, fraction: float) -> None:
    assert power_fraction(utilisation) == pytest.approx(fraction)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz", "xeon gold 6230"),
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "xeon e5-2680 v4"),
        ("AMD EPYC 7543 32-Core Processor", "epyc 7543"),
        ("AMD Ryzen 7 5800H with Radeon Graphics", "ryzen 7 5800h"),
        ("12th Gen Intel(R) Core(TM) i7-12700K", "core i7-12700k"),
        ("AMD EPYC", "epyc"),
    ],
)
def test_names_are_compared_without_vendor_marks_clock_and_cores(name: str, plain: str) -> None:
    assert plain_name(name) == plain


def test_a_known_cpu_has_its_design_power_per_thread() -> None:
    power = thread_power(EPYC, {})
    # EPYC 7543: 225 W over 64 threads.
    assert (power.watts, power.u_relative, power.note) == (225 / 64, 0.0, "")


def test_threads_that_no_source_gives_are_twice_the_cores_and_labelled() -> None:
    power = thread_power(XEON, {})
    # Xeon Gold 6230: 125 W, 20 cores.
    assert power.watts == 125 / 40
    assert power.u_relative == 0.20
    assert power.note == "threads taken as 2 x cores"


def test_threads_counted_on_bare_metal_are_believed() -> None:
    power = thread_power(Cpu(XEON.model, "Intel", is_server=True, siblings=20), {})
    assert (power.watts, power.u_relative, power.note) == (125 / 20, 0.0, "")


def test_percentiles_by_hand() -> None:
    # 11 values 0..10: the 10th percentile is the second, the median the sixth.
    assert percentiles([float(n) for n in range(10, -1, -1)]) == (1.0, 5.0, 9.0)


def test_an_unknown_cpu_gets_the_median_of_its_vendors_server_parts() -> None:
    power = thread_power(BARE_EPYC, {})
    per_thread = sorted(p.tdp_watts / p.likely_threads for p in parts_table() if p.vendor == "AMD" and p.is_server)
    assert len(per_thread) % 2 == 1
    assert power.watts == pytest.approx(per_thread[len(per_thread) // 2])
    assert power.low is not None
    assert power.high is not None
    # (p90 - p10) spans 2 x 1.2816 standard deviations of a normal distribution.
    assert power.u_relative == pytest.approx((power.high - power.low) / 2.5631 / power.watts, rel=1e-4)
    assert power.note.startswith("unknown CPU: ")


def test_an_unknown_vendor_gets_the_median_of_all_server_parts() -> None:
    power = unknown_power(Cpu("mystery", "", is_server=False))
    assert "all server parts" in power.basis


def test_a_declared_cpu_is_taken_at_its_word() -> None:
    power = thread_power(BARE_EPYC, {"JOULEBOOK_CPU_TDP_WATTS": "320", "JOULEBOOK_CPU_THREADS": "128"})
    assert (power.watts, power.u_relative, power.note) == (2.5, 0.0, "declared CPU power")


def test_a_declared_model_is_looked_up() -> None:
    assert thread_power(BARE_EPYC, {"JOULEBOOK_CPU_MODEL": "epyc 7543"}).watts == 225 / 64


@pytest.mark.parametrize(
    "environ",
    [
        {"JOULEBOOK_CPU_TDP_WATTS": "320"},
        {"JOULEBOOK_CPU_THREADS": "128"},
        {"JOULEBOOK_CPU_TDP_WATTS": "-1", "JOULEBOOK_CPU_THREADS": "128"},
        {"JOULEBOOK_CPU_TDP_WATTS": "nan", "JOULEBOOK_CPU_THREADS": "128"},
        {"JOULEBOOK_CPU_TDP_WATTS": "lots", "JOULEBOOK_CPU_THREADS": "128"},
        {"JOULEBOOK_CPU_MODEL": "EPYC 9999Z"},
    ],
)
def test_a_declaration_that_cannot_be_taken_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(BadInput):
        thread_power(BARE_EPYC, environ)


def test_the_table_has_no_two_parts_of_one_name() -> None:
    names = [plain_name(part.model) for part in parts_table()]
    assert len(names) == len(set(names)) > 2000
    assert all(0 < part.tdp_watts < 1000 and part.cores > 0 for part in parts_table())
    assert find_part("nothing of the kind") is None


def test_siblings_of_a_virtual_machine_are_not_believed(tmp_path: Path) -> None:
    text = "vendor_id : GenuineIntel\nmodel name : X\nsiblings : 4\nflags : fpu {}\n\n"
    (tmp_path / "cpuinfo").write_text(text.format("hypervisor"))
    assert read_cpu(Roots(proc=tmp_path)).siblings is None
    (tmp_path / "cpuinfo").write_text(text.format("vmx"))
    assert read_cpu(Roots(proc=tmp_path)).siblings == 4


def test_busy_time_leaves_out_idle_iowait_and_steal() -> None:
    # user 100 + nice 20 + system 30 + irq 4 + softirq 5 = 159 ticks of 10 ms.
    assert busy_seconds("cpu  100 20 30 1000 500 4 5 77 8 9\ncpu0 0\n", ticks_per_second=100) == 1.59


def machine(tmp_path: Path, groups: str = "0::/\n", files: dict[str, str] | None = None) -> Roots:
    """4 threads of an EPYC 7543 and 8 GiB."""
    cpus = "".join(f"cpu{n} 0 0 0 0 0 0 0\n" for n in range(4))
    written = {
        "proc/cpuinfo": f"vendor_id : AuthenticAMD\nmodel name : {EPYC.model}\n",
        "proc/meminfo": f"MemTotal: {8 * 1024 * 1024} kB\n",
        "proc/stat": "cpu  0 0 0 0 0 0 0 0\n" + cpus,
        "proc/self/cgroup": groups,
        "sys/fs/cgroup/cgroup.controllers": "cpu",
        **{f"sys/fs/cgroup/{name}": text for name, text in (files or {}).items()},
    }
    for name, text in written.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Roots(tmp_path / "proc", tmp_path / "sys")


Clock = Callable[[float], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands until it is moved."""
    at = [0.0]
    monkeypatch.setattr(time, "clock_gettime_ns", lambda _: int(at[0] * 1e9))

    def move(seconds: float) -> None:
        at[0] += seconds

    return move


def energies(roots: Roots, clock: Clock, seconds: float, change: tuple[Path, str] | None = None) -> dict[str, float]:
    model = open_model(roots, environ={})
    clock(seconds)
    if change:
        change[0].write_text(change[1])
    return {r.device_id: (r.energy_microjoules or 0) / 1e6 for r in model.read()}


def test_an_idle_machine_draws_the_foot_of_the_curve(tmp_path: Path, clock: Clock) -> None:
    found = energies(machine(tmp_path), clock, 10)
    # CPU: 225 W / 64 x 4 threads x 0.12 x 10 s = 16.875 J.  DRAM: 0.36 W/GB x 8 GB x 10 s = 28.8 J.
    assert found == {"model:cpu": pytest.approx(16.875, abs=1e-6), "model:dram": pytest.approx(28.8, abs=1e-6)}


def test_a_machine_half_busy_draws_three_quarters(tmp_path: Path, clock: Clock) -> None:
    roots = machine(tmp_path)
    busy = roots.proc / "stat", "cpu  2000 0 0 9 9 0 0 9\ncpu0 0\n"
    # 2000 ticks of 10 ms are 20 CPU seconds of 40: 225 / 64 x 4 x 0.75 x 10 s = 105.46875 J.
    assert energies(roots, clock, 10, busy)["model:cpu"] == pytest.approx(105.46875, abs=1e-6)


def test_a_limited_group_is_modelled_within_its_limit_from_its_own_time(tmp_path: Path, clock: Clock) -> None:
    files = {
        "a/cpu.max": "50000 100000",
        "a/cpu.stat": "usage_usec 0\n",
        "a/memory.max": str(2 << 30),
    }
    roots = machine(tmp_path, "0::/a\n", files)
    used = roots.sys / "fs/cgroup/a/cpu.stat", "usage_usec 5000000\n"
    found = energies(roots, clock, 10, used)
    # Half a CPU, wholly used for 10 s: 225 / 64 x 0.5 x 1.02 x 10 s = 17.9296875 J.  DRAM: 0.36 x 2 x 10 = 7.2 J.
    assert found["model:cpu"] == pytest.approx(17.9296875, abs=1e-6)
    assert found["model:dram"] == pytest.approx(7.2, abs=1e-6)


def test_uncertainties_of_curve_and_cpu_combine(tmp_path: Path) -> None:
    roots = machine(tmp_path)
    (roots.proc / "cpuinfo").write_text("vendor_id : AuthenticAMD\nmodel name : AMD EPYC\n")
    device = open_model(roots, environ={}).devices[0]
    assert device.method is Method.MODELLED
    assert device.u_common == pytest.approx(math.hypot(0.25, unknown_power(BARE_EPYC).u_relative))
    assert device.note.startswith("unknown CPU")


def test_only_the_components_asked_for_are_modelled(tmp_path: Path) -> None:
    model = open_model(machine(tmp_path), {Component.DRAM}, {})
    assert [device.device_id for device in model.devices] == ["model:dram"]


def test_a_step_too_short_to_see_moves_nothing_and_loses_nothing(tmp_path: Path, clock: Clock) -> None:
    model = open_model(machine(tmp_path), {Component.CPU}, {})
    clock(0.05)
    assert model.read()[0].energy_microjoules == 0
    clock(9.95)
    assert model.read()[0].energy_microjoules == 16_875_000


def test_a_wrong_declaration_makes_the_model_unavailable(tmp_path: Path) -> None:
    with pytest.raises(MeterUnavailable, match="JOULEBOOK_CPU_MODEL"):
        open_model(machine(tmp_path), environ={"JOULEBOOK_CPU_MODEL": "abacus"})
