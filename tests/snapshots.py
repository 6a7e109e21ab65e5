"""A snapshot of an agent with everything in it, for tests and benches of what presents it."""

from joulebook.clock import boottime_ns, utc_us
from joulebook.rows import Component, Labels, Measurement, Method, Policy, Share, ShareKind
from joulebook.snapshot import DeviceState, MeterState, OutboxState, ShippingState, Snapshot, Ticks
from joulebook.totals import Totals

SECOND = 10**9


def measurement(device, component, start_s, shares, *, method=Method.COUNTER, meter="sim", seconds=4, coverage=1.0):
    """A final row of a device over some seconds; shares: (run id, phase, millijoules), run id "" for unattributed."""
    parts = tuple(
        Share(ShareKind.RUN if run else ShareKind.UNATTRIBUTED, mj, Policy.RESERVED, run_id=run, phase=phase)
        for run, phase, mj in shares
    )
    return Measurement(
        machine_id="node-1", boot_id="boot", device_id=device, component=component, started_at_us=start_s * 10**6,
        ended_at_us=(start_s + seconds) * 10**6, started_ns=start_s * SECOND, ended_ns=(start_s + seconds) * SECOND,
        energy_millijoules=sum(share.millijoules for share in parts), meter=meter, method=method, u_common=0.03,
        u_common_key="sim", u_indep=0.0, coverage=coverage, source="agent", shares=parts,
    )  # fmt: skip


DEVICES = [
    *((f"node-1/rapl:package-{n}", Component.CPU, "rapl") for n in range(2)),
    ("node-1/rapl:dram", Component.DRAM, "rapl"),
    *((f"GPU-{n:08x}-2f7a-11ef-9262-0242ac120002", Component.GPU, "nvml") for n in range(8)),
]
"""2 sockets, dram and 8 GPUs."""


def busy_totals(runs=2, spans=3):
    """Totals of a machine whose devices worked for some runs; every row is 1000 J, half of it theirs."""
    totals = Totals()
    for number in range(runs):
        totals.open(f"run-{number}", 1_700_000_000_000_000, Labels(name=f"job {number}", project="vision"))
    for span in range(spans):
        for device, component, meter in DEVICES:
            phase = ("setup", "train", "eval")[span % 3]
            own = [(f"run-{number}", phase, 500_000 // runs) for number in range(runs)]
            rest = 1_000_000 - sum(mj for _, _, mj in own)
            totals.add([measurement(device, component, span * 4, [*own, ("", "", rest)], meter=meter)])
    return totals


def snapshot(totals=None, **values):
    """A snapshot of now."""
    version, energies = (totals or busy_totals()).freeze()
    now = boottime_ns()
    whole = {
        "version": version,
        "at_ns": now,
        "sample_ns": SECOND,
        "machine_id": "node-1",
        "agent_version": "0.1.0",
        "started_us": 1_700_000_000_000_000,
        "energies": energies,
        "devices": tuple(
            DeviceState(device, component, Method.COUNTER, meter, 12_345_678_901, now, gaps=1)
            for device, component, meter in DEVICES
        ),
        "meters": (MeterState("rapl", 100, 1, 20_000_000), MeterState("nvml", 100, 0, 70_000_000)),
        "outbox": OutboxState(rows=12, bytes=40_960, oldest_us=utc_us() - 90_000_000),
        "shipping": ShippingState(rows=500, failures=1, acknowledged_us=utc_us()),
        "ticks": Ticks(done=100, missed=2, late=(90, 5, 2, 1, 1, 1, 0), late_ns=3_000_000_000),
        "open_runs": 2,
    }
    return Snapshot(**(whole | values))
