"""What ``joulebook simulate nvml`` takes: clients, slices, losses and times, by hand."""

import pytest
from joulebook.errors import BadInput
from joulebook.simulate.nvml import GpuProcess, parse_client, parse_loss, parse_slice, parse_window

SECOND = 1_000_000_000


def test_clients_slices_and_losses_are_of_one_gpu() -> None:
    assert parse_client("1:4711", 2) == (1, GpuProcess(4711, mps_client=True))
    assert parse_slice("0:3", 2) == (0, 3, ())
    assert parse_slice("1:2:4711,4712", 2) == (1, 2, (4711, 4712))
    assert parse_loss("1:5:7.5", 2, 100) == (1, (100 + 5 * SECOND, 100 + 15 * SECOND // 2))


def test_a_window_without_an_end_never_ends() -> None:
    assert parse_window("5", 100) == (100 + 5 * SECOND, 0)
    assert parse_window("0:1", 100) == (100, 100 + SECOND)


@pytest.mark.parametrize("text", ["", "x", "5:5", "5:4", "-1:4", "1:2:3", "nan", "1:nan", "inf"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no time"):
        parse_window(text, 0)


@pytest.mark.parametrize("text", ["", "0", "2:3", "0:0", "0:8", "0:3:0", "0:3:x", "0:3:1:2", "-1:3"])
def test_what_is_no_slice_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no slice"):
        parse_slice(text, 2)


@pytest.mark.parametrize("text", ["", "5", "2:1", "-1:1", ":1"])
def test_a_loss_of_no_gpu_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse_loss(text, 2, 0)
