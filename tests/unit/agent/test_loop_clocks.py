"""What the loop tells of the machine's clocks: that UTC was set, that the machine slept, and nothing of slewing."""

import time

import pytest
from joulebook.loop import Clocks

S = 1_000_000_000


@pytest.mark.parametrize(
    ("set_ns", "slept_ns", "told"),
    [
        (-3600 * S, 0, ["the clock was set by -3600.0 s"]),
        (400_000_000, 0, []),
        (0, 60 * S, ["the machine slept for 60.0 s"]),
        (0, 0, []),
    ],
)
def test_a_step_or_a_sleep_between_two_ticks_is_told_once(monkeypatch, set_ns, slept_ns, told):
    now = {time.CLOCK_REALTIME: 1_000 * S, time.CLOCK_BOOTTIME: 100 * S, time.CLOCK_MONOTONIC: 100 * S}
    monkeypatch.setattr(time, "clock_gettime_ns", now.__getitem__)
    clocks, said = Clocks(), []
    assert clocks.tick(said.append) == 900 * S
    assert said == [], "nothing lies before the first tick"
    now[time.CLOCK_REALTIME] += S + slept_ns + set_ns
    now[time.CLOCK_BOOTTIME] += S + slept_ns
    now[time.CLOCK_MONOTONIC] += S
    assert clocks.tick(said.append) == 900 * S + set_ns
    clocks.tick(said.append)
    assert said == told
