"""Which GPUs a process may see, from the variables that it was started with."""

import pytest
from builders import device
from joulebook.record import _visible
from joulebook.rows import Component

DEVICES = [
    device(),
    *(device(Component.GPU, device_id=f"GPU-{c}", u_common_key="nvml:H100") for c in "ab"),
    *(device(Component.GPU, device_id=f"amd-{c}", u_common_key="amdgpu:MI300X") for c in "xy"),
]


@pytest.mark.parametrize(
    ("environ", "seen"),
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["GPU-b", "amd-x", "amd-y"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, ["amd-x", "amd-y"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,7"}, ["GPU-a", "amd-x", "amd-y"]),
        ({"CUDA_VISIBLE_DEVICES": "MIG-1234"}, ["MIG-1234", "amd-x", "amd-y"]),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, ["GPU-a", "GPU-b", "amd-y"]),
        ({"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "0"}, ["amd-x"]),
    ],
)
def test_a_process_sees_what_its_variables_leave_it(environ, seen):
    assert _visible(environ, DEVICES) == seen
