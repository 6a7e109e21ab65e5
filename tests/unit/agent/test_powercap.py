"""Which zones may be summed, by their names; and that no byte of the tree, and no answer, can break the meter."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from joulebook.meters import MeterUnavailable, Roots
from joulebook.meters import rapl as rapl_module
from joulebook.meters.rapl import open_rapl
from joulebook.powercap import MOST_COUNT, admissible, arranged, count, covers
from joulebook.reader import HEADER
from joulebook.reader_client import ReaderRefused, parse_answer
from joulebook.rows import MAX_TEXT, Component

ZONES = (
    "intel-rapl:0",
    "intel-rapl:0:0",
    "intel-rapl:0:1",
    "intel-rapl:1",
    "intel-rapl:2",
    "intel-rapl-mmio:0",
    "intel-rapl:x",
)


def kept(names: dict[str, str]) -> dict[str, str]:
    zones, _ = admissible(arranged(names, {}))
    return {zone.path: covers(zone, zones) for zone in zones}


def test_zones_name_the_physical_thing_they_cover() -> None:
    names = {
        "intel-rapl:0": "psys",
        "intel-rapl:1": "package-1",
        "intel-rapl:1:0": "core",
        "intel-rapl:1:1": "dram",
        "intel-rapl:2": "package-0",
        "intel-rapl:2:0": "dram",
        "intel-rapl-mmio:0": "package-0",
    }
    assert kept(names) == {
        "package-0": "cpu:0",
        "package-0/dram": "dram:0",
        "package-1": "cpu:1",
        "package-1/dram": "dram:1",
        "psys": "node",
    }


def test_dies_that_both_count_cover_a_part_each() -> None:
    names = {"intel-rapl:0": "package-0-die-0", "intel-rapl:1": "package-0-die-1", "intel-rapl:2": "package-1-die-0"}
    assert list(kept(names).values()) == ["cpu:0-die-0", "cpu:0-die-1", "cpu:1"]


def test_cores_of_amd_and_names_that_no_kernel_gives_are_not_read() -> None:
    names = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:1": "psys",
        "intel-rapl:2": "psys-1",
        "intel-rapl:3": "package-zero",
        "intel-rapl:4": "dram",
    }
    zones, left_out = admissible(arranged(names, {}))
    assert [zone.path for zone in zones] == ["package-0", "psys"]
    assert {left.what: left.why.partition(":")[0] for left in left_out} == {
        "intel-rapl package-0/core": "lies inside its package",
        "intel-rapl psys-1": "a further platform counter",
        "intel-rapl package-zero": "no domain that this version knows",
        "intel-rapl dram": "no domain that this version knows",
    }


def test_a_count_ends_at_its_newline_and_within_its_range() -> None:
    assert count(b"12\n3456", 12) == 12
    for content in (b"", b"\n", b"12", b"13\n", b" 1\n", b"-1\n", "\u0661\n".encode()):
        with pytest.raises(ValueError):
            count(content, 12)


DIGITS = st.integers(0, 10**22).map(lambda n: b"%d\n" % n)
SMALL = st.integers(0, 100).map(lambda n: b"%d\n" % n)
NAMES = st.sampled_from(
    [
        b"package-0\n",
        b"package-1\n",
        b"package-0-die-0\n",
        b"package-0-die-1\n",
        b"dram\n",
        b"core\n",
        b"psys\n",
        b"psys-1",
    ]
)
FILES = st.fixed_dictionaries(
    {
        "name": NAMES | st.binary(max_size=100),
        "energy_uj": SMALL | SMALL | SMALL | DIGITS | st.binary(max_size=50),
    },
    optional={
        "max_energy_range_uj": DIGITS | st.binary(max_size=50),
        "constraint_0_max_power_uw": DIGITS | st.binary(max_size=50),
        "constraint_0_power_limit_uw": st.binary(max_size=5000),
    },
)


@settings(max_examples=60)
@given(
    tree=st.dictionaries(st.sampled_from(ZONES), FILES, max_size=6),
    later=st.lists(DIGITS | st.binary(max_size=50), max_size=6),
)
def test_no_byte_of_the_tree_breaks_the_meter(tree: dict[str, dict[str, bytes]], later: list[bytes]) -> None:
    with TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rapl_module, "LOOK_PAUSE_SECONDS", 0)
        patch.setenv("JOULEBOOK_RAPL_SOCKET", str(Path(root) / "none"))
        base = Path(root) / "sys" / "class" / "powercap"
        for zone, files in tree.items():
            (base / zone).mkdir(parents=True)
            for name, content in files.items():
                (base / zone / name).write_bytes(content)
        meter, refusal = opened(Path(root))
        if meter is None:
            event("refused")
            assert "\n" not in refusal
            return
        event("opened")
        check(meter)
        for zone, content in zip(tree, later, strict=False):
            (base / zone / "energy_uj").write_bytes(content)
        check(meter)
        meter.close()


def opened(root: Path) -> tuple[rapl_module.Rapl | None, str]:
    """The meter, or the cause and the remedy."""
    try:
        return open_rapl(Roots(root / "proc", root / "sys")), ""
    except MeterUnavailable as error:
        return None, error.cause + error.remedy


def check(meter: rapl_module.Rapl) -> None:
    """Whatever the bytes were, what the meter says can be written down."""
    devices = {device.device_id: device for device in meter.devices}
    for reading in meter.read():
        device = devices[reading.device_id]
        assert reading.energy_microjoules is not None
        assert 0 <= reading.energy_microjoules <= (device.wraps_at_microjoules or MOST_COUNT)
    for device in devices.values():
        assert re.fullmatch(r"rapl:[a-z0-9/-]{1,60}", device.device_id)
        assert device.component in (Component.CPU, Component.DRAM, Component.NODE)
        assert device.most_watts is not None
        assert 0 < device.most_watts < 1e14
    for left in meter.left_out:
        assert len(left.what) < MAX_TEXT
        assert left.what.isprintable()


@given(st.binary(max_size=300))
def test_no_packet_breaks_the_client(packet: bytes) -> None:
    for content in (packet, HEADER.encode() + b" 12\n" + packet, b"refused: " + packet):
        try:
            answer = parse_answer(content)
        except (ReaderRefused, ValueError):
            continue
        assert all(0 <= told.energy_microjoules <= MOST_COUNT for told in answer.zones)


def test_an_answer_is_what_it_says() -> None:
    answer = parse_answer(
        f"{HEADER} 5000\nintel-rapl:0 package-0 262143328850 17 -\nintel-rapl:1 package-1 0 17 intel-rapl:0".encode()
    )
    first, second = answer.zones
    assert (
        answer.read_ns,
        first.zone_id,
        first.name,
        first.range_microjoules,
        first.energy_microjoules,
        first.twin,
    ) == (
        5000,
        "intel-rapl:0",
        "package-0",
        262_143_328_850,
        17_000_000,
        "",
    )
    assert (second.range_microjoules, second.twin) == (None, "intel-rapl:0")
