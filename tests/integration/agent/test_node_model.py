"""The whole-node model over a simulated machine's counters, read and integrated as the agent does."""

import time
from pathlib import Path

import pytest
from joulebook.clock import boottime_ns
from joulebook.history import DeviceHistory
from joulebook.meters import Roots, open_meter
from joulebook.meters.node import DEVICE, NodeModel, WholeNode
from joulebook.rows import Component
from joulebook.simulate.powercap import stand


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
