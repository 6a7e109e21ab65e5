"""Control group limits, on trees like those of version 1 and version 2 kernels."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook.cgroup import (
    Limit,
    cgroup_of,
    cpu_limit,
    cpu_list_size,
    cpu_seconds,
    cpus_of,
    group_usage_ns,
    members_of,
    memory_limit,
    memory_of,
    own_group,
    usage_file,
)
from joulebook.meters import Roots

GIB = 1 << 30


def machine(tmp_path: Path, groups: str, files: dict[str, str], cpus: int = 8) -> Roots:
    """A machine of 8 CPUs and 16 GiB whose process 7 is in ``groups``."""
    stat = "cpu  0 0 0 0 0 0 0 0\n" + "".join(f"cpu{n} 0 0 0 0 0 0 0 0\n" for n in range(cpus))
    written = {
        "proc/stat": stat,
        "proc/meminfo": f"MemTotal:       {16 * GIB // 1024} kB\n",
        "proc/7/cgroup": groups,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }
    for name, text in written.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Roots(tmp_path / "proc", tmp_path / "sys")


def test_without_limits_nothing_is_reserved_and_the_machine_is_available(tmp_path: Path) -> None:
    files = {"cgroup.controllers": "cpu memory", "a/cpu.max": "max 100000", "a/memory.max": "max"}
    found = cgroup_of(7, machine(tmp_path, "0::/a\n", files))
    assert (found.reserved_cpus, found.reserved_bytes, found.usage) == (None, None, None)
    assert (found.cpus, found.memory_bytes) == (8.0, 16 * GIB)


def test_the_tightest_ancestor_of_version_2_counts(tmp_path: Path) -> None:
    files = {
        "cgroup.controllers": "cpu memory cpuset",
        "a/cpu.max": "150000 100000",
        "a/memory.max": str(2 * GIB),
        "a/cpu.stat": "usage_usec 4000000\n",
        "a/b/cpu.max": "max 100000",
        "a/b/memory.max": str(4 * GIB),
        "a/b/cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
        "a/b/cpuset.cpus.effective": "0-3\n",
    }
    roots = machine(tmp_path, "0::/a/b\n", files)
    found = cgroup_of(7, roots)
    # a: quota 1.5 CPUs and 2 GiB; b: 4 CPUs of its set and 4 GiB.
    assert (found.reserved_cpus, found.reserved_bytes) == (1.5, 2 * GIB)
    # The limit is a's, so the time within it is a's too: b's and that of the groups beside it.
    assert found.usage is not None
    assert cpu_seconds(found.usage) == 4.0
    own = usage_file(7, roots)
    assert own is not None
    assert cpu_seconds(own) == 2.5


def test_a_small_cpuset_beats_a_large_quota(tmp_path: Path) -> None:
    files = {"cgroup.controllers": "", "a/cpu.max": "400000 100000", "a/cpuset.cpus.effective": "1,5-6"}
    assert cpus_of(7, machine(tmp_path, "0::/a\n", files)) == 3.0


def test_a_set_of_all_cpus_is_no_limit(tmp_path: Path) -> None:
    files = {"cgroup.controllers": "", "a/cpuset.cpus.effective": "0-7"}
    assert cpus_of(7, machine(tmp_path, "0::/a\n", files)) is None


def test_version_1_controllers_are_read_from_their_own_groups(tmp_path: Path) -> None:
    groups = "4:memory:/m\n3:cpuset:/s\n2:cpu,cpuacct:/c/d\n0::/\n"
    files = {
        "memory/m/memory.limit_in_bytes": str(GIB),
        "cpuset/s/cpuset.cpus": "0-5",
        "cpu,cpuacct/c/cpu.cfs_quota_us": "250000",
        "cpu,cpuacct/c/cpu.cfs_period_us": "50000",
        "cpu,cpuacct/c/d/cpu.cfs_quota_us": "-1",
        "cpu,cpuacct/c/d/cpu.cfs_period_us": "100000",
        "cpu,cpuacct/c/d/cpuacct.usage": "1500000000\n",
    }
    roots = machine(tmp_path, groups, files)
    # 250 ms of every 50 ms are 5 CPUs, less than the 6 of the set.
    assert cpus_of(7, roots) == 5.0
    assert memory_of(7, roots) == GIB
    usage = usage_file(7, roots)
    assert usage is not None
    assert cpu_seconds(usage) == 1.5


def test_the_largest_number_of_version_1_is_no_limit(tmp_path: Path) -> None:
    roots = machine(tmp_path, "4:memory:/m\n", {"memory/m/memory.limit_in_bytes": "9223372036854771712"})
    assert memory_of(7, roots) is None


def test_a_path_of_another_namespace_is_the_mounted_group(tmp_path: Path) -> None:
    # As inside a container of version 1: /proc tells the host's path, the mount begins at the container's group.
    files = {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}
    assert cpus_of(7, machine(tmp_path, "2:cpu:/docker/abc\n", files)) == 2.0


def test_a_process_that_ended_has_no_limits(tmp_path: Path) -> None:
    roots = machine(tmp_path, "0::/\n", {"cgroup.controllers": ""})
    assert (cpus_of(99, roots), memory_of(99, roots)) == (None, None)


def test_a_group_that_went_has_no_cpu_time(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cpu_seconds(tmp_path / "cpu.stat")


@pytest.mark.parametrize(("text", "size"), [("0", 1), ("0-3", 4), ("0-1,4,6-7\n", 5), ("", 0), ("\n", 0)])
def test_cpu_lists(text: str, size: int) -> None:
    assert cpu_list_size(text) == size


UID, ID = "2f8a5c1e-9d3b-4c7f-8e21-0a1b2c3d4e5f", "0123456789abcdef" * 4
POD = f"kubepods/burstable/pod{UID}"


def test_a_containers_cpu_time_is_one_file(tmp_path: Path) -> None:
    files = {
        "cgroup.controllers": "",
        f"{POD}/cpu.stat": "usage_usec 9000000\n",
        f"{POD}/{ID}/cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
        f"{POD}/{ID}/cgroup.procs": "7\n8\n",
        f"{POD}/{ID}/worker/cgroup.procs": "9\n",
    }
    group = own_group(7, machine(tmp_path, f"0::/{POD}/{ID}/worker\n", files))
    assert group is not None
    assert (group.level.kind, group.level.name) == ("container", ID)
    assert group_usage_ns(group.usage) == 2_500_000_000
    assert members_of(group.directory) == {7, 8, 9}
    assert members_of(tmp_path / "gone") == set()


def test_a_slurm_steps_cpu_time_under_version_1(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/slurm/uid_0/job_7/step_2/cpuacct.usage": "1500000001\n",
        "cpu,cpuacct/slurm/uid_0/job_7/cpuacct.usage": "9\n",
    }
    groups = "2:cpu,cpuacct:/slurm/uid_0/job_7/step_2/task_0\n1:name=systemd:/\n"
    group = own_group(7, machine(tmp_path, groups, files))
    assert group is not None
    assert (group.level.kind, group.level.name, group_usage_ns(group.usage)) == ("step", "2", 1_500_000_001)


def test_a_process_in_no_group_of_its_own_has_none(tmp_path: Path) -> None:
    files = {"cgroup.controllers": "", "user.slice/cpu.stat": "usage_usec 1\n"}
    assert own_group(7, machine(tmp_path, "0::/user.slice\n", files)) is None


def test_processes_of_one_limited_group_name_the_same_limit(tmp_path: Path) -> None:
    files = {
        "cgroup.controllers": "",
        "a/cpu.max": "150000 100000",
        "a/memory.max": str(2 * GIB),
        "a/b/cpu.max": "max 100000",
        "a/b/memory.max": str(GIB),
    }
    roots = machine(tmp_path, "0::/a\n", files)
    (roots.proc / "8").mkdir()
    (roots.proc / "8/cgroup").write_text("0::/a/b\n")
    outer = str(roots.sys / "fs/cgroup/a")
    assert cpu_limit(7, roots) == cpu_limit(8, roots) == Limit(outer, 1.5)
    assert memory_limit(7, roots) == Limit(outer, 2 * GIB)
    assert memory_limit(8, roots) == Limit(f"{outer}/b", GIB)


def test_a_group_outside_of_our_view_limits_nothing_that_we_know(tmp_path: Path) -> None:
    files = {"cgroup.controllers": "", "cpu.max": "100000 100000"}
    assert cpu_limit(7, machine(tmp_path, "0::/../other\n", files)) is None


@given(
    st.one_of(st.binary(max_size=80), st.text(max_size=40).map(lambda text: f"0::/{text}".encode())),
    st.dictionaries(
        st.sampled_from(
            ["cpu.max", "memory.max", "cpuset.cpus.effective", "cpu.stat", "cpu.cfs_quota_us", "cgroup.procs"]
        ),
        st.one_of(
            st.binary(max_size=40), st.sampled_from([b"\xb2", b"0 0", b"1 0", b"9" * 400, b"usage_usec x", b"3-1,"])
        ),
    ),
)
def test_any_bytes_in_any_file_crash_nothing(tmp_path_factory, groups: bytes, files: dict[str, bytes]) -> None:
    roots = machine(tmp_path_factory.mktemp("fuzz"), "", {"cgroup.controllers": "", "a/x": ""})
    (roots.proc / "7/cgroup").write_bytes(groups)
    for place in (roots.sys / "fs/cgroup", roots.sys / "fs/cgroup/a"):
        for name, content in files.items():
            (place / name).write_bytes(content)
    found = cgroup_of(7, roots)
    assert found.cpus > 0
    assert found.memory_bytes > 0
    assert cpu_limit(7, roots) is None or cpu_limit(7, roots).amount > 0  # type: ignore[union-attr]
    own_group(7, roots)
    usage_file(7, roots)
