"""Idle power from windows: which count, and the 5th percentile of those that do, worked by hand."""

import math

import pytest
from builders import counter_history, device
from joulebook.history import DeviceHistory
from joulebook.idle_windows import Watch, idle_power, quantile, seconds_needed, window_ns
from joulebook.meters import Reading
from joulebook.rows import Component, Method

SECOND = 1_000_000_000


def watched(seconds: int, busy=lambda n: 0.0, cpus: int = 4) -> Watch:
    """A machine of which ``busy(n)`` of all CPUs work in its n-th second."""
    watch, total = Watch(cpus), 0
    watch.cpu.add(0, 0)
    for n in range(seconds):
        total += round(busy(n) * cpus * SECOND)
        watch.cpu.add((n + 1) * SECOND, total)
    return watch


def drawing(watts, seconds: int, **values) -> DeviceHistory:
    """A device that draws ``watts(n)`` in its n-th second, read at every whole one."""
    readings, total = [(0, 0)], 0
    for n in range(seconds):
        total += round(watts(n) * 1e6)
        readings.append(((n + 1) * SECOND, total))
    return counter_history(readings, step_ns=1, **values)


def found(history: DeviceHistory, watch: Watch, seconds: int, own_id: str = "", **options):
    return idle_power(history, own_id, watch, 0, seconds * SECOND, **options)


def test_p05_is_by_linear_interpolation_between_order_statistics() -> None:
    # (n - 1) p from the least: 20 * 0.05 = 1 -> the second of 21; 19 * 0.05 = 0.95 -> 95 % of the way from 0 to 1.
    assert quantile(range(21), 0.05) == 1
    assert quantile(range(20), 0.05) == pytest.approx(0.95)
    assert quantile([7.0], 0.05) == 7.0


def test_idle_power_is_the_5th_percentile_of_the_windows_and_not_their_least() -> None:
    # 21 windows of 30, 31, ... 50 W: p05 is the second, 31 W, the median 40 W; (40 - 31) / sqrt(3) / 31.
    idle = found(drawing(lambda n: 30 + (n * 8) % 21, 21), watched(21, lambda n: 0.01), 21)
    assert idle.idle_watts == pytest.approx(31.0)
    assert idle.median_watts == pytest.approx(40.0)
    assert idle.u_relative == pytest.approx(9 / math.sqrt(3) / 31)
    assert idle.windows == 21
    assert idle.cpu_busy == pytest.approx(0.01)


def test_windows_in_which_the_cpus_worked_do_not_count() -> None:
    busy = lambda n: 0.06 if n % 2 else 0.0  # noqa: E731
    idle = found(drawing(lambda n: 10.0 if n % 2 else 30.0, 60), watched(60, busy), 60)
    assert idle.idle_watts == pytest.approx(30.0)
    assert idle.windows == 30
    text = found(drawing(lambda n: 30.0, 30), watched(30, busy), 30)
    assert text == "15 idle windows of 1 s, 20 needed, 15 CPUs busy above 5%"


def test_on_a_large_machine_one_cpu_at_most_may_work() -> None:
    history = drawing(lambda n: 30.0, 30)
    assert found(history, watched(30, lambda n: 0.99 / 128, 128), 30).windows == 30
    told = found(history, watched(30, lambda n: 1.1 / 128, 128), 30)
    assert told == "0 idle windows of 1 s, 20 needed, 30 CPUs busy above 0.78%"


def test_force_counts_them() -> None:
    idle = found(drawing(lambda n: 30.0, 30), watched(30, lambda n: 0.5), 30, forced=True)
    assert (idle.windows, idle.in_use, idle.cpu_busy) == (30, 30, pytest.approx(0.5))
    assert found(drawing(lambda n: 30.0, 30), watched(30), 30, forced=True).in_use == 0


def board(seconds: int) -> DeviceHistory:
    return drawing(lambda n: 60.0, seconds, component=Component.GPU)


def test_a_board_counts_where_its_meter_names_no_process_whatever_the_cpus_do() -> None:
    watch = watched(60, lambda n: 1.0)
    for n in range(61):
        watch.look(n * SECOND, {"GPU-a": [4711] if n < 20 else [], "GPU-b": []})
    assert found(board(60), watch, 60, "GPU-b").windows == 60
    # In use at 0 to 19 s: the windows from 0 to 20 s touch that within a second.
    assert found(board(60), watch, 60, "GPU-a").windows == 39


def test_a_board_whose_users_nobody_tells_is_not_taken_for_idle() -> None:
    told = found(board(30), watched(30), 30, "GPU-a")
    assert told == "0 idle windows of 1 s, 20 needed, 30 unknown users"
    assert found(board(30), watched(30), 30, "GPU-a", forced=True).windows == 30


def test_a_node_is_idle_only_while_its_boards_are() -> None:
    watch = watched(30)
    for n in range(31):
        watch.look(n * SECOND, {"GPU-a": [1]})
    node = drawing(lambda n: 300.0, 30, component=Component.NODE)
    assert found(node, watch, 30, "redfish:node") == "0 idle windows of 1 s, 20 needed, 30 GPUs used by processes"
    assert found(drawing(lambda n: 30.0, 30), watch, 30).windows == 30


@pytest.mark.parametrize(("step_ns", "seconds"), [(1_000_000, 1), (100_000_000, 1), (110_000_000, 2), (5 * SECOND, 50)])
def test_a_window_holds_ten_steps_and_whole_seconds(step_ns: int, seconds: int) -> None:
    assert window_ns(step_ns) == seconds * SECOND
    assert seconds_needed(step_ns) == 21 * seconds + 1


def test_a_slow_counter_gets_longer_windows() -> None:
    readings = [(n * SECOND, n * 30_000_000) for n in range(301)]
    slow = counter_history(readings, step_ns=SECOND)
    idle = found(slow, watched(300), 300)
    assert idle.windows == 29  # the last window's end is half a step beyond what is known
    assert idle.idle_watts == pytest.approx(30.0)


def test_a_gap_or_a_reset_costs_its_windows_only() -> None:
    readings = [(n * SECOND, n * 30_000_000) for n in range(31)]
    readings += [(n * SECOND, (n - 31) * 30_000_000) for n in range(31, 61)]
    history = counter_history(readings, step_ns=1)
    idle = found(history, watched(60), 60)
    assert idle.windows == 59
    assert idle.idle_watts == pytest.approx(30.0)


def test_polled_power_is_integrated() -> None:
    history = DeviceHistory(device(Component.NODE, Method.INTEGRATED), "sim", SECOND)
    for n in range(31):
        history.add(Reading("x", n * SECOND, power_milliwatts=200_000))
    assert found(history, watched(30), 30).idle_watts == pytest.approx(200.0)


def test_a_model_and_a_dead_meter_have_no_idle_power() -> None:
    assert str(found(drawing(lambda n: 30.0, 30, method=Method.MODELLED), watched(30), 30)).startswith("modelled")
    assert "read no energy" in str(found(drawing(lambda n: 0.0, 30), watched(30), 30))
