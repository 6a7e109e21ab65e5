"""What is kept of a calibration, and which devices it still fits."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from builders import device
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joulebook.calibration import Calibration, Idle, booked, calibration_path, clock_state, load, save
from joulebook.errors import JoulebookError
from joulebook.home import Home
from joulebook.meters import Roots
from joulebook.rows import Component, Method

PACKAGE = device(device_id="rapl:package-0", model="Xeon")
BOARD = device(Component.GPU, device_id="GPU-a", model="H100")


def idle(device_id: str = "m/rapl:package-0", **values) -> Idle:
    settings = {
        "device_id": device_id, "meter": "rapl", "method": Method.COUNTER, "model": "Xeon", "driver": "", "parts": (),
        "clock_state": "powersave", "idle_watts": 30.0, "u_relative": 0.01, "median_watts": 30.4, "windows": 58,
        "window_seconds": 1.0, "cpu_busy": 0.004, "at": "2026-11-24T10:00:00+00:00", **values,
    }  # fmt: skip
    return Idle(**settings)


IDLE_FIELDS = [*Idle.__dataclass_fields__]


class Told:
    """A meter that has these devices."""

    def __init__(self, name, *devices):
        self.name, self.devices = name, devices


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").make()


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    for n in range(2):
        place = tmp_path / "sys/devices/system/cpu/cpufreq" / f"policy{n}"
        place.mkdir(parents=True)
        (place / "scaling_governor").write_text("powersave\n")
    return Roots(tmp_path / "proc", tmp_path / "sys")


def test_what_was_kept_is_loaded_alike_and_readable_by_its_owner_only(home: Home, roots: Roots) -> None:
    kept = Calibration("m", "powersave", (idle(), idle("GPU-a", meter="nvml", model="H100", clock_state="")))
    path = save(home, kept)
    assert path == calibration_path(home, "m")
    assert path.stat().st_mode & 0o777 == 0o600
    assert load(home, "m", roots) == kept
    assert [file.name for file in path.parent.iterdir()] == ["m.json"]


def test_before_the_first_calibration_nothing_is_kept(home: Home, roots: Roots) -> None:
    nothing = load(home, "m", roots)
    assert nothing == Calibration("m", "powersave")
    assert nothing.fit(PACKAGE, "rapl") == (None, "")


def test_another_machine_whose_name_makes_the_same_file_has_none(home: Home, roots: Roots) -> None:
    save(home, Calibration("a:b", "powersave", (idle("a:b/rapl:package-0"),)))
    assert load(home, "a_b", roots).devices == ()


@pytest.mark.parametrize(
    "damage",
    [
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"format": 2, "machine": "m", "devices": []}',
        b'{"format": 1, "machine": "m", "devices": [{"device_id": "x"}]}',
        b'{"format": 1, "machine": "m"}',
    ],
)
def test_a_damaged_file_is_an_error_with_its_remedy(damage: bytes, home: Home, roots: Roots) -> None:
    path = save(home, Calibration("m", ""))
    path.write_bytes(damage)
    with pytest.raises(JoulebookError, match="is no calibration") as caught:
        load(home, "m", roots)
    assert caught.value.remedy == f"rm {path}, then joulebook calibrate"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("idle_watts", 0),
        ("idle_watts", -1.0),
        ("idle_watts", math.nan),
        ("idle_watts", "30"),
        ("u_relative", None),
        ("model", 7),
        ("parts", [1]),
        ("at", "2026-11-24"),
    ],
)
def test_an_impossible_value_is_no_calibration(name: str, value: object, home: Home, roots: Roots) -> None:
    path = save(home, Calibration("m", "", (idle(),)))
    kept = json.loads(path.read_text())
    kept["devices"][0][name] = value
    path.write_text(json.dumps(kept))
    with pytest.raises(JoulebookError, match="is no calibration"):
        load(home, "m", roots)


@pytest.mark.parametrize(
    ("then", "why"),
    [
        ({"meter": "hwmon"}, "calibrated with meter 'hwmon', now 'rapl'"),
        ({"model": "Opteron"}, "calibrated with model 'Opteron', now 'Xeon'"),
        ({"method": Method.INTEGRATED}, "calibrated with method 'integrated', now 'counter'"),
        ({"clock_state": "performance"}, "calibrated with governor 'performance', now 'powersave'"),
        ({"parts": ("GPU-a",)}, "calibrated with parts 'GPU-a', now ''"),
    ],
)
def test_what_was_measured_otherwise_is_not_used_and_says_why(then: dict, why: str) -> None:
    now = replace(PACKAGE, device_id="m/rapl:package-0")
    assert Calibration("m", "powersave", (idle(),)).fit(now, "rapl") == (idle(), "")
    assert Calibration("m", "powersave", (idle(**then),)).fit(now, "rapl") == (None, why)


def test_each_clock_state_has_its_own_idle_power() -> None:
    fast = idle(clock_state="performance", idle_watts=50.0)
    both = Calibration("m", "powersave", (fast,)).with_devices([idle()])
    now = replace(PACKAGE, device_id="m/rapl:package-0")
    assert both.fit(now, "rapl")[0] == idle()
    assert replace(both, clock_state="performance").fit(now, "rapl")[0] == fast
    again = both.with_devices([idle(idle_watts=31.0)])
    assert [(i.clock_state, i.idle_watts) for i in again.devices] == [("performance", 50.0), ("powersave", 31.0)]


def test_a_board_does_not_depend_on_the_governor() -> None:
    board = idle("GPU-a", meter="nvml", model="H100", clock_state="")
    assert Calibration("m", "performance", (board,)).fit(BOARD, "nvml") == (board, "")


def test_the_governors_in_force_are_the_clock_state(roots: Roots, tmp_path: Path) -> None:
    assert clock_state(roots) == "powersave"
    (roots.sys / "devices/system/cpu/cpufreq/policy1/scaling_governor").write_text("performance\n")
    assert clock_state(roots) == "performance+powersave"
    assert clock_state(Roots(tmp_path, tmp_path)) == ""


def test_leaves_have_the_names_of_the_book_and_a_node_is_its_remainder() -> None:
    wall = device(Component.NODE, Method.INTEGRATED, device_id="redfish:node")
    parts = [replace(part, parent="redfish:node") for part in (PACKAGE, BOARD)]
    leaves = booked([Told("redfish", wall), Told("rapl", parts[0]), Told("nvml", parts[1])], "m")
    assert [(leaf.device.device_id, leaf.own_id, leaf.parts) for leaf in leaves] == [
        ("m/redfish:node/remainder", "redfish:node", ("GPU-a", "rapl:package-0")),
        ("m/rapl:package-0", "rapl:package-0", ()),
        ("GPU-a", "GPU-a", ()),
    ]
    assert [leaf.device.device_id for leaf in booked([Told("redfish", wall)], "m")] == ["m/redfish:node"]


def test_the_age_is_in_days() -> None:
    now = datetime(2026, 11, 25, 22, tzinfo=UTC)
    assert idle().age_days(int(now.timestamp() * 1e6)) == 1.5


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*IDLE_FIELDS, "x"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(IDLE_FIELDS), anything, max_size=6), st.booleans(), anything)
def test_whatever_a_file_holds_it_is_a_calibration_or_an_error(home: Home, roots: Roots, odd, whole, other) -> None:
    path = save(home, Calibration("m", "", (idle(),)))
    kept = json.loads(path.read_text())
    kept["devices"] = [{**kept["devices"][0], **odd}] if whole else other
    path.write_text(json.dumps(kept))
    try:
        found = load(home, "m", roots)
    except JoulebookError:
        return
    for entry in found.devices:
        assert math.isfinite(entry.idle_watts)
        assert entry.idle_watts > 0
        assert entry.age_days(0) < 0 or entry.at < "1970-01-02"
        found.fit(PACKAGE, "rapl")
