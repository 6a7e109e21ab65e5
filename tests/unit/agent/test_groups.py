"""Control group paths as they are in the wild, and any text at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook.groups import innermost, levels

UID = "2f8a5c1e-9d3b-4c7f-8e21-0a1b2c3d4e5f"
UNDERSCORED = UID.replace("-", "_")
STATIC = "9a1b2c3d4e5f60718293a4b5c6d7e8f9"
ONE, TWO = "0123456789abcdef" * 4, "fedcba9876543210" * 4

REAL = {
    "kubelet, cgroupfs, burstable": (f"/kubepods/burstable/pod{UID}/{ONE}", [("pod", UID), ("container", ONE)]),
    "kubelet, cgroupfs, guaranteed": (f"/kubepods/pod{UID}/{ONE}", [("pod", UID), ("container", ONE)]),
    "kubelet, cgroupfs, a static pod": (
        f"/kubepods/burstable/pod{STATIC}/{ONE}", [("pod", STATIC), ("container", ONE)],
    ),
    "the pod itself": (f"/kubepods/besteffort/pod{UID}", [("pod", UID)]),
    "kubelet, cgroupfs, CRI-O": (f"/kubepods/besteffort/pod{UID}/crio-{ONE}", [("pod", UID), ("container", ONE)]),
    "kubelet, systemd, containerd": (
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/cri-containerd-{ONE}.scope",
        [("pod", UID), ("container", ONE)],
    ),
    "kubelet, systemd, guaranteed": (
        f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/cri-containerd-{ONE}.scope",
        [("pod", UID), ("container", ONE)],
    ),
    "kubelet, systemd, CRI-O": (
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UNDERSCORED}.slice/crio-{ONE}.scope/container",
        [("pod", UID), ("container", ONE)],
    ),
    "kubelet, systemd, docker": (
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/docker-{ONE}.scope",
        [("pod", UID), ("container", ONE)],
    ),
    "kind: a kubelet in a container": (
        f"/docker/{TWO}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice"
        f"/kubelet-kubepods-burstable-pod{UNDERSCORED}.slice/cri-containerd-{ONE}.scope",
        [("container", TWO), ("pod", UID), ("container", ONE)],
    ),
    "containerd with the drivers mixed": (
        f"/system.slice/containerd.service/kubepods-burstable-pod{UNDERSCORED}.slice:cri-containerd:{ONE}",
        [("pod", UID), ("container", ONE)],
    ),
    "docker, cgroupfs": (f"/docker/{ONE}", [("container", ONE)]),
    "docker, systemd": (f"/system.slice/docker-{ONE}.scope", [("container", ONE)]),
    "docker without root": (
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ONE}.scope", [("container", ONE)],
    ),
    "docker in docker": (f"/docker/{TWO}/docker/{ONE}", [("container", TWO), ("container", ONE)]),
    "podman": (f"/machine.slice/libpod-{ONE}.scope/container", [("container", ONE)]),
    "podman, cgroupfs": (f"/libpod_parent/libpod-{ONE}", [("container", ONE)]),
    "podman without root": (
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ONE}.scope/container", [("container", ONE)],
    ),
    "podman, in a pod": (
        f"/machine.slice/machine-libpod_pod_{TWO}.slice/libpod-{ONE}.scope", [("pod", TWO), ("container", ONE)],
    ),
    "podman's monitor is no container": (f"/machine.slice/libpod-conmon-{ONE}.scope", []),
    "Slurm, version 1": (
        "/slurm/uid_1000/job_1234/step_0/task_3", [("job", "1234"), ("step", "0"), ("task", "3")],
    ),
    "Slurm, version 1, several slurmd": (
        "/slurm_node1/uid_1000/job_1234/step_batch", [("job", "1234"), ("step", "batch")],
    ),
    "Slurm, version 2": (
        "/system.slice/slurmstepd.scope/job_1234/step_7/user/task_0", [("job", "1234"), ("step", "7"), ("task", "0")],
    ),
    "Slurm, version 2, several slurmd": (
        "/system.slice/node1_slurmstepd.scope/job_9/step_extern/user/task_special",
        [("job", "9"), ("step", "extern"), ("task", "special")],
    ),
    "Slurm, a heterogeneous step": ("/slurm/uid_0/job_9/step_1+2", [("job", "9"), ("step", "1+2")]),
    "a container in a Slurm task": (
        f"/system.slice/slurmstepd.scope/job_9/step_0/user/task_0/libpod-{ONE}.scope",
        [("job", "9"), ("step", "0"), ("task", "0"), ("container", ONE)],
    ),
    "a login": ("/user.slice/user-1000.slice/session-3.scope", []),
    "a service": ("/system.slice/nginx.service", []),
    "the root": ("/", []),
    "a step of nobody's": ("/steps/step_3/task_1", []),
    "a name that is nearly an id": (f"/docker/{ONE[:-1]}", []),
    "a pod without an id": ("/kubepods/podcast", []),
    "outside our view": (f"/../../kubepods/pod{UID}", [("pod", UID)]),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_paths_as_they_are(name):
    path, expected = REAL[name]
    found = levels(path)
    assert [(level.kind, level.name) for level in found] == expected
    assert innermost(path) == (found[-1] if found else None)
    assert all(path.startswith(level.path) for level in found)


@given(
    st.one_of(
        st.text(), st.lists(st.sampled_from([f"pod{UID}", ONE, "job_1", "step_1", "task_1", "", ".."])).map("/".join)
    )
)
def test_any_text_has_levels_that_lie_on_it(text):
    found = levels(text)
    flat = "/" + "/".join(part for part in text.split("/") if part)
    assert all(flat.startswith(level.path) and level.name for level in found)
    lengths = [len(level.path) for level in found]
    assert lengths == sorted(lengths)
    kinds = [level.kind for level in found]
    assert "step" not in kinds or "job" in kinds[: kinds.index("step")]
