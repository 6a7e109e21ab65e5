"""UTC is set back, or forward, by an hour under a real run: its joules are those of CLOCK_BOOTTIME, and it says so.

The machine's own clock is left alone: agent and job get theirs from a library that is loaded before the C library.
"""

import json
import struct
import subprocess
import time

import pytest
from faults import assert_true, assert_unbroken, by_device, lawful_rows, start_job, tell_cost
from joulebook.simulate.nvml import compiler

pytestmark = pytest.mark.slow

CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile long long *shift_seconds;

__attribute__((constructor)) static void begin(void) {
    int fd = open(getenv("CLOCK_SHIFT"), O_RDONLY | O_CLOEXEC);
    void *page = fd < 0 ? MAP_FAILED : mmap(0, sizeof *shift_seconds, PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED) shift_seconds = page;
    if (fd >= 0) close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME && shift_seconds) now->tv_sec += *shift_seconds;
    return failed;
}
"""


@pytest.fixture
def shifted(simulated):
    """A bench whose processes see UTC as far off as is written to ``shift``, in seconds."""
    source, library, shift = (simulated.root / name for name in ("clock.c", "clock.so", "shift"))
    source.write_text(CLOCK)
    shift.write_bytes(struct.pack("<q", 0))
    subprocess.run([*compiler(), "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    yield simulated
    shift.write_bytes(struct.pack("<q", 0))


@pytest.mark.parametrize("hours", [-1, 1], ids=["back", "forward"])
def test_a_clock_that_is_set_by_an_hour_costs_no_joule(shifted, hours):
    simulated, shift = shifted, shifted.root / "shift"
    simulated.powercap("--packages", "1", "--dram", "--curve", "square:50,150,3")
    simulated.environ |= {"LD_PRELOAD": str(simulated.root / "clock.so"), "CLOCK_SHIFT": str(shift)}
    simulated.environ["JOULEBOOK_METERS"] = "rapl"
    job = start_job(simulated, 14)
    time.sleep(5)
    with shift.open("r+b") as file:
        file.write(struct.pack("<q", 3600 * hours))
    document, run = job.end(simulated)
    rows = lawful_rows(simulated)
    tell_cost(simulated, document, run)
    assert_true(simulated, rows)
    for device in ("rapl:package-0", "rapl:package-0/dram"):
        assert_unbroken(rows, device)
    assert [note for note in run.notes if "clock" in note] == [f"the clock was set by {3600 * hours:+.1f} s"]
    assert run.status == "failed", "the job's own exit status, and nothing else"
    assert 13 < (run.ended_ns - run.started_ns) / 1e9 < 20
    assert run.ended_at_us >= run.started_at_us
    true = sum(simulated.truth(run.started_ns, run.ended_ns).values())
    assert document["energy_total_joules"] == pytest.approx(true, rel=0.01)
    assert document["coverage"] > 0.99
    for mine in by_device(rows).values():
        for row in mine:
            assert row.ended_at_us - row.started_at_us == pytest.approx((row.ended_ns - row.started_ns) / 1000, abs=2)
            assert row.started_at_us // 3_600_000_000 == (row.ended_at_us - 1) // 3_600_000_000, "an hour is crossed"
    told = simulated.joulebook("report", "run", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["energy_total_joules"] == document["energy_total_joules"]
