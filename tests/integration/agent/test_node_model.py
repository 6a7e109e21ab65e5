"""The whole-node model over a simulated machine's counters, read and integrated as the agent does."""

import time
from pathlib import Path

import pytest
from joulebook.clock import boottime_ns
from joulebook.history import DeviceHistory
from joulebook.meters import Roots, open_meter
from joulebook.meters.node import DEVICE, WholeNode
from joulebook.meters.node_model import NodeModel, as_toml
from joulebook.rows import Component, Method
from joulebook.simulate.powercap import stand

METERED = {Component.CPU: 2, Component.DRAM: 2, Component.GPU: 2}


def test_the_node_over_simulated_counters_draws_what_the_model_makes_of_the_truth(tmp_path: Path) -> None:
    machine = stand(tmp_path, boottime_ns() - 5_000_000_000)
    (tmp_path / "proc").mkdir(exist_ok=True)
    (tmp_path / "proc" / "cpuinfo").write_text("vendor_id : GenuineIntel\nmodel name : Intel Xeon Gold 6230\n")
    meter = open_meter("rapl", Roots(tmp_path / "proc", tmp_path / "sys"))
    node = WholeNode(NodeModel("simulated", 120.0, 1.08, 0.1, {Component.CPU: 2, Component.DRAM: 2}))
    histories = {device.device_id: DeviceHistory(device, "rapl", 100_000_000) for device in meter.devices}
    wall = DeviceHistory(node.devices[0], "node", 100_000_000)
    for _ in range(25):
        time.sleep(0.1)
        machine.move(boottime_ns())
        for reading in meter.read():
            histories[reading.device_id].add(reading)
        node.follow(histories.values())
        for reading in node.read():
            assert reading.device_id == DEVICE
            wall.add(reading)
    meter.close()
    machine.close()
    ((start, end, segment),) = wall.history.known(0, boottime_ns())
    true = sum(machine.joules(start, end).values())
    expected = 120.0 * (end - start) / 1e9 + 1.08 * true
    assert (segment.at(end) - segment.at(start)) / 1e6 == pytest.approx(expected, rel=0.01)


def test_a_declared_model_is_metered_by_the_agent_and_told_as_modelled(simulated) -> None:
    simulated.powercap("--packages", "2", "--dram", "--curve", "constant:100")
    simulated.nvml("--gpus", "2", "--curve", "constant:250")
    path = simulated.root / "node.toml"
    path.write_text(as_toml(NodeModel("simulated", 120.0, 1.08, 0.1, METERED)))
    simulated.environ["JOULEBOOK_NODE_MODEL"] = str(path)
    done = simulated.joulebook("run", "--", "sleep", "9")
    assert done.returncode == 0, done.stderr
    rows = simulated.measurements()
    rest = [row for row in rows if f"/{DEVICE}" in row.device_id]
    assert {row.method for row in rest} == {Method.MODELLED}
    # 10 % of the whole is more of the rest.
    assert all(row.u_common > 0.1 for row in rest)
    assert all("node modelled from its parts" in row.note for row in rest)
    start, end = min(row.started_ns for row in rest), max(row.ended_ns for row in rest)
    assert (end - start) / 1e9 > 3
    true = sum(simulated.truth(start, end).values())
    # Booked is what the node draws beyond its parts, which are booked themselves.
    expected = 120.0 * (end - start) / 1e9 + 0.08 * true
    assert sum(row.energy_millijoules for row in rest) / 1e3 == pytest.approx(expected, rel=0.03)


def test_doctor_says_what_would_give_a_node_and_what_a_model_gives(simulated) -> None:
    simulated.powercap("--packages", "2")
    assert "set JOULEBOOK_NODE_MODEL" in simulated.joulebook("doctor").stdout
    path = simulated.root / "node.toml"
    path.write_text(as_toml(NodeModel("simulated", 120.0, 1.08, 0.1, {Component.CPU: 2})))
    simulated.environ["JOULEBOOK_NODE_MODEL"] = str(path)
    text = simulated.joulebook("doctor").stdout
    assert "[node modelled from its parts]" in text
    path.write_text(as_toml(NodeModel("simulated", 120.0, 1.08, 0.1, {Component.CPU: 2, Component.GPU: 8})))
    text = simulated.joulebook("doctor").stdout
    assert "the node model was fitted over 8 gpu, and 0 are metered" in text
    assert "[node modelled from its parts]" not in text
    path.write_text("[node]")
    assert "is no node model" in simulated.joulebook("doctor").stdout
