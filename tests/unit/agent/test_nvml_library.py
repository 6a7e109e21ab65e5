"""The binding of NVML: structs as nvml.h lays them out, and a library that is not there."""

import ctypes
from pathlib import Path

import pytest
from joulebook.meters import nvml_library as library


@pytest.mark.parametrize(
    ("struct", "size", "offsets"),
    [
        # nvmlFieldValue_t: two unsigned, two long long, type and return, the union.
        (library.FieldValue, 40, {"field": 0, "time_us": 8, "kind": 24, "code": 28, "value": 32}),
        # nvmlPciInfo_t: char[16], five unsigned, char[32].
        (library.Pci, 68, {"domain": 16, "bus": 20, "device": 24, "bus_id": 36}),
        # nvmlProcessInfo_v2_t: the memory is 64-bit, so padding follows the pid.
        (library.Process, 24, {"pid": 0, "memory_bytes": 8, "gpu_instance": 16}),
        # nvmlProcessUtilizationSample_t: likewise the time.
        (library.Sample, 32, {"pid": 0, "time_us": 8, "sm": 16}),
        (library.Rates, 8, {"gpu": 0, "memory": 4}),
        # nvmlDeviceAttributes_t: eight unsigned and the memory.
        (library.Attributes, 40, {"gpu_instance_slices": 24, "compute_slices": 28, "memory_mib": 32}),
        # nvmlGpuInstanceProfileInfo_t: ten unsigned and the memory.
        (library.Profile, 48, {"id": 0, "slices": 8, "memory_mib": 40}),
    ],
)
def test_structs_are_those_of_the_header(struct: type[ctypes.Structure], size: int, offsets: dict[str, int]) -> None:
    """Compared once with every field of nvidia-ml-py 13.615.71; held here by size and by the fields that are used."""
    assert ctypes.sizeof(struct) == size
    assert {name: getattr(struct, name).offset for name in offsets} == offsets


def test_a_library_is_loaded_once_for_all_meters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEBOOK_NVML_LIBRARY", "libm.so.6")  # any library will do to be loaded
    first = library.shared_library()
    assert library.shared_library() is first
    monkeypatch.setenv("JOULEBOOK_NVML_LIBRARY", str(tmp_path / "none"))
    with pytest.raises(OSError, match="none"):
        library.shared_library()


def test_a_function_that_the_library_lacks_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEBOOK_NVML_LIBRARY", "libm.so.6")
    with pytest.raises(library.NvmlError, match="nvmlInit_v2 is not in") as caught:
        library.shared_library().enter()
    assert caught.value.code == library.FUNCTION_NOT_FOUND
