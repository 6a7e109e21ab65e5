from pathlib import Path

import pytest
from joulebook.meters import MeterUnavailable, Roots
from joulebook.meters.replay import open_replay, read_recording
from joulebook.rows import Component, Method

ENERGY = "device_id,component,at_seconds,energy_joules\n"
POWER = "device_id,component,at_seconds,power_watts\n"


def test_energies_are_read_as_a_counter_from_the_first_row_on() -> None:
    (track,) = read_recording(ENERGY + "gpu0,gpu,100,5000\ngpu0,gpu,102,5200\ngpu0,gpu,104,5300\n")
    assert (track.device.component, track.device.method) == (Component.GPU, Method.COUNTER)
    # 200 J in the first two seconds, 100 J in the next two: 1 s -> 100 J, 3 s -> 250 J.
    assert [track.joules_at(s) for s in (0, 1, 2, 3, 4)] == [0, 100, 200, 250, 300]


def test_powers_are_integrated_by_the_trapezoid_rule() -> None:
    (track,) = read_recording(POWER + "n,node,0,100\nn,node,2,300\nn,node,3,300\n")
    assert track.device.method is Method.INTEGRATED
    # (100 + 300) / 2 x 2 s = 400 J, then 300 J.
    assert track.joules_at(3) == 700


def test_a_recording_ends_unless_it_loops() -> None:
    rows = ENERGY + "n,node,0,0\nn,node,2,10\n"
    (ending,), (looping,) = read_recording(rows), read_recording("# after: loop\n" + rows)
    assert ending.joules_at(2) == 10
    assert ending.joules_at(2.5) is None
    # Two rounds of 10 J and half of a third.
    assert looping.joules_at(5) == 25


def test_options_are_taken_from_comments() -> None:
    (track,) = read_recording("# method: modelled\n# u_common: 0.25\n" + ENERGY + "n,cpu,0,0\nn,cpu,1,1\n")
    assert (track.device.method, track.device.u_common) == (Method.MODELLED, 0.25)


def test_devices_may_be_interleaved() -> None:
    tracks = read_recording(ENERGY + "a,cpu,0,0\nb,gpu,0,0\na,cpu,1,1\nb,gpu,1,2\n")
    assert [(t.device.device_id, t.joules_at(1)) for t in tracks] == [("a", 1), ("b", 2)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ENERGY,
        ENERGY + "n,node,0,0\n",
        ENERGY + "n,node,1,0\nn,node,1,5\n",
        ENERGY + "n,node,0,5\nn,node,1,4\n",
        ENERGY + "n,node,0,0\nn,node,1,nan\n",
        ENERGY + "n,reactor,0,0\nn,reactor,1,1\n",
        POWER + "n,node,0,-1\nn,node,1,1\n",
        "# after: never\n" + ENERGY + "n,node,0,0\nn,node,1,1\n",
        "a,b\n1,2\n",
    ],
)
def test_what_is_no_recording_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "recording.csv"
    path.write_text(text)
    monkeypatch.setenv("JOULEBOOK_REPLAY", str(path))
    with pytest.raises(MeterUnavailable, match=r"recording\.csv is no recording"):
        open_replay(Roots())


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEBOOK_REPLAY", str(tmp_path / "none.csv"))
    with pytest.raises(MeterUnavailable, match=r"none\.csv: No such file"):
        open_replay(Roots())
