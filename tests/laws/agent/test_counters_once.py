"""Law 2 within a machine: however a thing is shown, by whichever meters and how often, it is counted once."""

from dataclasses import dataclass, field
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st
from joulebook.meters import METERS, Device, without_overlap
from joulebook.powercap import admissible, arranged, mirrors
from joulebook.rows import Component, Method

LOOKS = 5


@st.composite
def trees(draw):
    """Zones as a kernel may show them, with what each stands for: (names, zone id -> (component, package))."""
    names, stands = {}, {}
    for package in range(draw(st.integers(1, 4))):
        for control in draw(
            st.sampled_from([("intel-rapl",), ("intel-rapl", "intel-rapl-mmio"), ("intel-rapl-mmio",)])
        ):
            zone_id = f"{control}:{package}"
            names[zone_id], stands[zone_id] = f"package-{package}", ("cpu", package)
            inside = draw(st.lists(st.sampled_from(["core", "uncore", "dram"]), unique=True))
            for number, name in enumerate(inside):
                names[f"{zone_id}:{number}"] = name
                stands[f"{zone_id}:{number}"] = ("dram" if name == "dram" else "inside", package)
    if draw(st.booleans()):
        names["intel-rapl:9"], stands["intel-rapl:9"] = "psys", ("node", 0)
    order = draw(st.permutations(sorted(names)))
    return {zone_id: names[zone_id] for zone_id in order}, stands


@given(trees())
def test_every_package_and_memory_of_a_tree_is_read_once_and_nothing_inside_it(tree):
    names, stands = tree
    kept, left_out = admissible(arranged(names, {}))
    read = [stands[zone.zone_id] for zone in kept]
    assert len(read) == len(set(read))
    assert set(read) == {thing for thing in stands.values() if thing[0] != "inside"}
    assert len(kept) + len(left_out) == len(names)


@given(
    st.lists(st.integers(0, 10**12), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(0, 3), min_size=1, max_size=8),
    st.lists(st.integers(1, 10**6), min_size=LOOKS - 1, max_size=LOOKS - 1),
    st.integers(0, LOOKS - 1),
)
def test_dies_that_show_one_counter_are_counted_once_and_equal_power_is_no_mirror(began, shows, gains, torn):
    """shows: which counter each zone shows; all gain alike, as idle sockets do.  torn: a look with an update in it."""
    counts = {}
    for number, shown in enumerate(shows):
        start = began[shown % len(began)]
        series = [start + sum(gains[:look]) for look in range(LOOKS)]
        if number and torn:
            series[torn] += 1
        counts[f"zone-{number}"] = series
    found = mirrors(counts)
    kept = [began[shows[int(zone.removeprefix("zone-"))] % len(began)] for zone in counts if zone not in found]
    assert sorted(kept) == sorted({began[shown % len(began)] for shown in shows})


@dataclass
class Told:
    """A meter that has nothing but devices."""

    name: str
    devices: list = field(default_factory=list)
    left_out: list = field(default_factory=list)
    closed: bool = False

    def read(self):
        return []

    def busy(self):
        return {}

    def close(self):
        self.closed = True


ATOMS = {"cpu": {"cpu:0", "cpu:1"}, "dram": {"dram:0", "dram:1"}, "gpu:GPU-a": {"gpu:a"}, "gpu:0000:c1:00.0": {"gpu:a"}}
COVERS = {
    Component.CPU: [("cpu",), ("cpu:0",), ("cpu:1",)],
    Component.DRAM: [("dram",), ("dram:0",), ("dram:1",)],
    Component.GPU: [("gpu:GPU-a", "gpu:0000:c1:00.0"), ("gpu:0000:c1:00.0",), ("gpu:GPU-b",)],
    Component.NODE: [("node",)],
}


@st.composite
def meters(draw):
    found, number = [], 0
    for name in draw(st.lists(st.sampled_from(sorted(METERS)), min_size=1, max_size=4, unique=True)):
        meter = Told(name)
        for component in draw(st.lists(st.sampled_from(sorted(COVERS)), max_size=5)):
            covers, *also = draw(st.sampled_from(COVERS[component]))
            number += 1
            method, u = draw(st.sampled_from(sorted(Method))), draw(st.sampled_from([0.01, 0.03, 0.1]))
            meter.devices.append(
                Device(f"{name}-{number}", component, method, u, name, covers=covers, covers_also=tuple(also))
            )
        found.append(meter)
    return found


def atoms(device):
    return set().union(*(ATOMS.get(name, {name}) for name in device.names))


@given(meters())
def test_of_all_meters_of_a_machine_none_counts_what_another_does(found):
    every = {device.device_id: device for meter in found for device in meter.devices}
    empty = [meter for meter in found if not meter.devices]
    kept = without_overlap(found)
    counted = [device for meter in kept for device in meter.devices]
    for one, other in combinations(counted, 2):
        assert not atoms(one) & atoms(other), f"{one.device_id} and {other.device_id} are the same"
    for lost in every.keys() - {device.device_id for device in counted}:
        device = every[lost]
        rivals = [other for other in counted if atoms(device) & atoms(other)]
        rivals += [other for other in counted if device.component is other.component is Component.NODE]
        assert rivals, f"{lost} is left out though nothing else counts it"
        better = [r for r in rivals if list(Method).index(r.method) <= list(Method).index(device.method)]
        assert better or device.component is Component.NODE
    assert sum(device.component is Component.NODE for device in counted) <= 1
    assert all(meter.closed for meter in found if meter not in kept and meter not in empty)
    node = next((device for device in counted if device.component is Component.NODE), None)
    for device in counted:
        assert device.parent in (None, node.device_id if node else None)
        assert device is not node or device.parent is None
