"""The whole-node model: the fit on hand-worked loads, its file, and what it makes of the parts."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook.errors import BadInput
from joulebook.history import DeviceHistory
from joulebook.meters import Device, MeterAbsent, MeterUnavailable, Reading, Roots
from joulebook.meters.node import WholeNode, open_node
from joulebook.meters.node_model import Load, NodeModel, as_toml, fit_node, read_model
from joulebook.rows import Component, Method

SECOND = 1_000_000_000
MODEL = NodeModel("Dell XE9680", 600.0, 1.1, 0.05, {Component.CPU: 1, Component.GPU: 2})


def test_the_fit_of_hand_worked_loads() -> None:
    # x = 0, 100, 200, 300; y = 50, 162, 268, 380: mean x 150, mean y 215, Sxx 50,000,
    # Sxy = 2 (150*165 + 50*53) = 54,800, so per_metered 1.096 and fixed 215 - 164.4 = 50.6.
    # Residuals -0.6, 1.8, -1.8, 0.6: sum of squares 7.2, over 2 degrees of freedom 3.6.
    fit = fit_node([Load(0, 50), Load(100, 162), Load(200, 268), Load(300, 380)])
    assert fit.per_metered == pytest.approx(1.096)
    assert fit.fixed_watts == pytest.approx(50.6)
    assert fit.residual_watts == pytest.approx(math.sqrt(3.6))
    assert fit.u_per_metered == pytest.approx(math.sqrt(3.6 / 50_000))
    assert fit.u_fixed_watts == pytest.approx(math.sqrt(3.6 * (1 / 4 + 150**2 / 50_000)))
    # At the mean the coefficients' errors cancel down to s / sqrt n: sqrt(3.6/4 + 3.6) over 215 W.
    assert fit.u_relative(150) == pytest.approx(math.sqrt(4.5) / 215)


@given(
    fixed=st.floats(1, 2000),
    slope=st.floats(1, 1.5),
    levels=st.lists(st.floats(0, 5000), min_size=0, max_size=20),
)
def test_loads_on_a_line_give_the_line(fixed: float, slope: float, levels: list[float]) -> None:
    loads = [Load(x, fixed + slope * x) for x in (0.0, 2500.0, 5000.0, *levels)]
    fit = fit_node(loads)
    assert fit.fixed_watts == pytest.approx(fixed, rel=1e-6, abs=1e-6)
    assert fit.per_metered == pytest.approx(slope, rel=1e-6)
    assert fit.u_relative(2500) < 1e-6


@pytest.mark.parametrize(
    ("loads", "cause"),
    [
        ([], "three levels"),
        ([Load(100, 200)], "three levels"),
        ([Load(100, 200), Load(300, 420)], "three levels"),
        ([Load(100, 200), Load(101, 201), Load(300, 420), Load(299, 419)], "three levels"),
        ([Load(100, 200)] * 5, "three levels"),
        ([Load(1000, 2000), Load(1010, 2010), Load(1020, 2020)], "from 1000 to 1020 W only"),
        ([Load(0, 50), Load(100, 100), Load(200, 150)], "gives out less than it takes in"),
        ([Load(100, 50), Load(200, 200), Load(300, 350)], "the meters disagree"),
        ([Load(0, 50), Load(100, math.nan), Load(200, 270)], "no number"),
        ([Load(0, 50), Load(-100, 160), Load(200, 270)], "no number"),
    ],
)
def test_loads_that_give_no_model_are_refused(loads: list[Load], cause: str) -> None:
    with pytest.raises(BadInput, match=cause):
        fit_node(loads)


def test_a_model_goes_through_its_file(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    odd = NodeModel('2U "fast" \\ box', 0.1 + 0.2, 1.0, 0.15, {Component.DRAM: 4})
    for model in (MODEL, odd):
        path.write_text(as_toml(model))
        assert read_model(path) == model
    (device,) = WholeNode(odd).devices
    assert (device.component, device.method, device.covers) == (Component.NODE, Method.MODELLED, "node")
    assert (device.u_common, device.note) == (0.15, "node modelled from its parts")


GOOD = as_toml(MODEL)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "no table"),
        ("node = 3", "no table"),
        ("[node", "no node model"),
        (GOOD.replace("600.0", "0"), "fixed_watts"),
        (GOOD.replace("600.0", "nan"), "fixed_watts"),
        (GOOD.replace("600.0", "true"), "fixed_watts"),
        (GOOD.replace("1.1", "0.9"), "per_metered"),
        (GOOD.replace("0.05", "0"), "u_r"),
        (GOOD.replace("u_r", "u_x"), "u_x"),
        (GOOD.replace("cpu = 1", "fans = 1"), "fans"),
        (GOOD.replace("cpu = 1", "node = 1"), "numbers of"),
        (GOOD.replace("cpu = 1", "cpu = 0"), "numbers of"),
        (GOOD.replace("cpu = 1", "cpu = true"), "numbers of"),
        (GOOD.replace("Dell XE9680", ""), "chassis"),
        ("\n".join(line for line in GOOD.splitlines() if "metered =" not in line), "metered"),
    ],
)
def test_a_file_that_is_no_model_is_refused(text: str, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(text)
    with pytest.raises(MeterUnavailable) as caught:
        read_model(path)
    assert cause in caught.value.cause
    assert "\n" not in caught.value.cause


def test_without_a_declaration_there_is_no_node_and_a_way_to_one() -> None:
    with pytest.raises(MeterAbsent) as caught:
        open_node(Roots(), {})
    for way in ("JOULEBOOK_REDFISH_URL", "JOULEBOOK_IPMI", "JOULEBOOK_NODE_MODEL"):
        assert way in caught.value.remedy


def part(name: str, component: Component, method: Method = Method.COUNTER) -> DeviceHistory:
    return DeviceHistory(Device(name, component, method, 0.03, "k", step_ns=1_000_000), "rapl", SECOND)


def parts() -> list[DeviceHistory]:
    return [part("p0", Component.CPU), part("g0", Component.GPU), part("g1", Component.GPU)]


def read_all(histories: list[DeviceHistory], second: float, watts: float) -> None:
    for history in histories:
        history.add(Reading(history.device.device_id, int(second * SECOND) + SECOND, round(second * watts * 1e6) + 5))


def node_history(node: WholeNode) -> DeviceHistory:
    return DeviceHistory(node.devices[0], "node", SECOND)


def followed(node: WholeNode, histories: list[DeviceHistory], wall: DeviceHistory) -> None:
    node.follow(histories)
    for reading in node.read():
        wall.add(reading)


def test_the_node_draws_its_fixed_power_and_the_losses_of_its_parts() -> None:
    node, histories = WholeNode(MODEL), parts()
    wall = node_history(node)
    for second in range(5):
        read_all(histories, second, watts=100)
        followed(node, histories, wall)
    ((start, end, segment),) = wall.history.known(0, 10 * SECOND)
    # 600 W + 1.1 x 3 x 100 W = 930 W.
    assert (segment.at(end) - segment.at(start)) / ((end - start) / 1e3) == pytest.approx(930, rel=1e-3)
    assert node.failing is None


def test_other_devices_than_the_fitted_ones_are_not_counted() -> None:
    node, histories = WholeNode(MODEL), parts()
    others = [*histories, part("dram", Component.DRAM), part("bmc", Component.NODE)]
    wall = node_history(node)
    for second in range(4):
        read_all(others, second, watts=100)
        followed(node, others, wall)
    ((start, end, segment),) = wall.history.known(0, 10 * SECOND)
    assert (segment.at(end) - segment.at(start)) / ((end - start) / 1e3) == pytest.approx(930, rel=1e-3)


def test_several_looks_taken_in_at_once_are_told_one_by_one() -> None:
    node, histories = WholeNode(MODEL), parts()
    read_all(histories, 0, watts=100)
    node.follow(histories)
    for second in range(1, 4):
        read_all(histories, second, watts=100)
    node.follow(histories)
    joules = [reading.energy_microjoules / 1e6 for reading in node.read() if reading.energy_microjoules is not None]
    assert joules == [0, pytest.approx(930, rel=1e-3), pytest.approx(1860, rel=1e-3), pytest.approx(2790, rel=1e-3)]


def test_a_part_that_does_not_answer_holds_the_node_back_and_its_joules_are_not_lost() -> None:
    node, histories = WholeNode(MODEL), parts()
    wall = node_history(node)
    for second in range(8):
        read_all(histories[:2] if 2 <= second < 5 else histories, second, watts=100)
        followed(node, histories, wall)
    ((start, end, segment),) = wall.history.known(0, 10 * SECOND)
    assert (end - start) / SECOND == pytest.approx(7, abs=0.01)
    assert (segment.at(end) - segment.at(start)) / ((end - start) / 1e3) == pytest.approx(930, rel=1e-3)


def test_a_part_whose_counter_was_reset_breaks_the_node_off_and_no_joule_is_claimed_for_it() -> None:
    node, histories = WholeNode(MODEL), parts()
    wall = node_history(node)
    for second in range(9):
        read_all(histories[:2], second, watts=100)
        count = second * 100_000_000 if second < 4 else (second - 4) * 100_000_000
        histories[2].add(Reading("g1", (second + 1) * SECOND, count + 5))
        followed(node, histories, wall)
    before, after = wall.history.known(0, 20 * SECOND)
    for start, end, segment in (before, after):
        assert (segment.at(end) - segment.at(start)) / ((end - start) / 1e3) == pytest.approx(930, rel=1e-2)
    # 0 to 3 s, and from 4 s: the counter that began anew stood there half a step before it was read.
    assert (before[1] - before[0]) / SECOND == pytest.approx(3, abs=0.01)
    assert (after[1] - after[0]) / SECOND == pytest.approx(4, abs=0.01)
    assert [note for _, note in wall.notes] == ["counter reset: at least 0 J are missing"]


EVENT = st.sampled_from(["read", "read", "reset", "lose"])


@given(st.lists(st.tuples(EVENT, EVENT, EVENT), max_size=25))
def test_no_history_of_the_parts_makes_the_node_draw_less_or_more_than_they_did(events: list) -> None:
    node, histories = WholeNode(MODEL), parts()
    wall, counts, seen = node_history(node), [5, 5, 5], [5, 5, 5]
    for second, each in enumerate(events):
        for n, (event, history) in enumerate(zip(each, histories, strict=True)):
            # A counter that was last seen at 0 and is reset to it cannot be told from one that stands still.
            counts[n] = 0 if event == "reset" and seen[n] > 0 else counts[n] + 100_000_000
            if event != "lose":
                seen[n] = counts[n]
                history.add(Reading("x", (second + 1) * SECOND, counts[n]))
        followed(node, histories, wall)
    for start, end, segment in wall.history.known(0, 100 * SECOND):
        assert (segment.at(end) - segment.at(start)) / ((end - start) / 1e3) == pytest.approx(930, rel=0.01)


@pytest.mark.parametrize("lost", [0, 2])
def test_fewer_parts_than_fitted_give_no_figure(lost: int) -> None:
    node, histories = WholeNode(MODEL), parts()
    del histories[lost]
    for second in range(3):
        read_all(histories, second, watts=100)
        node.follow(histories)
        assert not node.read()
    assert node.failing is not None
    assert "was fitted over" in node.failing.cause


def test_a_model_of_a_model_is_no_figure() -> None:
    node = WholeNode(MODEL)
    histories = [part("model:cpu", Component.CPU, Method.MODELLED), *parts()[1:]]
    for second in range(3):
        read_all(histories, second, watts=100)
        node.follow(histories)
        assert not node.read()
    assert node.failing is not None
    assert "itself modelled" in node.failing.cause


def test_a_reading_is_given_once_and_none_before_all_parts_are_known() -> None:
    node, histories = WholeNode(MODEL), parts()
    read_all(histories[:1], 0, watts=100)
    node.follow(histories)
    assert not node.read()
    read_all(histories, 1, watts=100)
    node.follow(histories)
    assert not node.read()
    read_all(histories, 2, watts=100)
    node.follow(histories)
    assert [reading.energy_microjoules for reading in node.read()] == [0, pytest.approx(930e6)]
    assert not node.read()
    node.follow(histories)
    assert not node.read()


def test_who_follows_late_gets_what_was_known_before_and_nothing_twice() -> None:
    node, own, others = WholeNode(MODEL), parts(), parts()
    wall = node_history(node)
    for second in range(3):
        read_all(own, second, watts=100)
        read_all(others, second, watts=100)
        followed(node, own, wall)
    for second in range(3, 6):
        read_all(others, second, watts=100)
        followed(node, others, wall)
    ((start, end, segment),) = wall.history.known(0, 20 * SECOND)
    assert (end - start) / SECOND == pytest.approx(5, abs=0.01)
    assert (segment.at(end) - segment.at(start)) / ((end - start) / 1e3) == pytest.approx(930, rel=1e-3)
