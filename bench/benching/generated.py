"""A generated fleet: what machines with 8 GPUs, 2 packages and 2 DRAM domains would put into a ledger, hour by hour.

Not smooth: spans jitter by milliseconds and are cut at minutes and phases, power wanders, every counter is read to the
millijoule, clocks drift against each other, CPU seconds are known to the nanosecond, batches arrive when they arrive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

START_US = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z."""
HOUR_US = 3_600_000_000
SPAN_US = 10_000_000
GPUS, PACKAGES = 8, 2
DEVICES = GPUS + 2 * PACKAGES
TECHNIQUES = ("", "int8", "pruning", "distillation", "local-sgd", "snapshot")
PHASES = ("setup", "train", "eval", "")


@dataclass(frozen=True, slots=True)
class Job:
    """One run on one machine. ranks: its processes; member: of an ensemble, None where it is none."""

    run_id: str
    technique: str
    start_us: int
    end_us: int
    ranks: int
    member: str | None
    watts: float


class Fleet:
    """machines: how many; every machine runs one job after another, one in five two at a time."""

    def __init__(self, machines: int, hours: int, seed: int = 1) -> None:
        self.machines, self.hours = machines, hours
        self._rng = np.random.default_rng(seed)
        self.jobs = [self._plan(machine, hours) for machine in range(machines)]
        self._txn, self._seq = 0, np.ones(machines, dtype=np.int64)

    def _plan(self, machine: int, hours: int) -> list[list[Job]]:
        """One or two queues of jobs."""
        return [self._queue(machine, lane, hours) for lane in range(2 if machine % 5 == 0 else 1)]

    def _queue(self, machine: int, lane: int, hours: int) -> list[Job]:
        rng, at, jobs = self._rng, int(self._rng.integers(0, HOUR_US // 2)), []
        while at < hours * HOUR_US:
            length = int(rng.lognormal(np.log(2.5), 1.0) * HOUR_US)
            technique = TECHNIQUES[rng.integers(len(TECHNIQUES))]
            member = str(rng.integers(4)) if technique == "snapshot" else None
            ranks = 4 if rng.random() < 0.1 else 1
            run = f"{rng.integers(2**63):016x}{machine:04x}{lane}{len(jobs):03x}"
            start = START_US + at
            jobs.append(Job(run, technique, start, start + length, ranks, member, float(rng.uniform(180, 650))))
            at += length + int(rng.exponential(0.2) * HOUR_US)
        return jobs

    def runs(self) -> pa.Table:
        """run_id and technique."""
        jobs = [job for lanes in self.jobs for lane in lanes for job in lane]
        return pa.table({"run_id": [j.run_id for j in jobs], "technique": [j.technique for j in jobs]})

    def shares(self, hour: int) -> pa.Table:
        """Every share of the hour with its measurement's columns beside it."""
        parts = [self._machine_hour(machine, hour) for machine in range(self.machines)]
        # Transactions are numbered in order of arrival over the fleet.
        table = pa.concat_tables(parts)
        known = table["known_at_us"].to_numpy()
        sender = np.repeat(np.arange(len(parts)), [part.num_rows for part in parts])
        batches, number = np.unique(known * len(parts) + sender, return_inverse=True)
        txn = self._txn + 1 + number
        self._txn += len(batches)
        return table.append_column("txn", pa.array(txn))

    def all_hours(self) -> Iterator[pa.Table]:
        """One table an hour."""
        return (self.shares(hour) for hour in range(self.hours))

    def _machine_hour(self, machine: int, hour: int) -> pa.Table:
        rng = self._rng
        begin = START_US + hour * HOUR_US
        grid = np.arange(361, dtype=np.int64) * SPAN_US
        jitter = rng.normal(0, 1500, 361).astype(np.int64)
        jitter[::6] = 0  # whole minutes are cut exactly
        edges = begin + grid + jitter
        jobs = [j for lane in self.jobs[machine] for j in lane if j.end_us > begin and j.start_us < begin + HOUR_US]
        changes = [t for j in jobs for t in (j.start_us, j.end_us) if begin < t < begin + HOUR_US]
        phase_cuts = begin + rng.integers(0, HOUR_US, 6 * len(jobs))
        edges = np.unique(np.concatenate([edges, np.array(changes, dtype=np.int64), phase_cuts]))
        start, end = edges[:-1], edges[1:]
        ticks = len(start)
        offset = 1_700_000_000_123_456_789 + machine * 10**15 + hour * 40_000
        drift = offset + (rng.normal(0, 250, ticks)).astype(np.int64)
        sub = rng.integers(0, 1000, ticks + 1)
        ns0 = start * 1000 + sub[:-1] - drift
        ns1 = end * 1000 + sub[1:] - drift
        cpu_total = (end - start) * 1000 * 0.4 * 64 * rng.uniform(0.8, 1.2, ticks)
        lanes = [self._in_lane(lane, start, end, rng) for lane in self.jobs[machine]]
        seconds = (end - start) / 1e6
        level = sum((np.where(on, watts, 0.0) for on, watts, *_ in lanes), start=np.zeros(ticks)) / max(1, len(lanes))
        columns: dict[str, list[np.ndarray]] = {}
        batch = (start - begin) // 30_000_000
        arrival = (rng.integers(0, 5_000_000, 121) + begin + (np.arange(121) + 2) * 30_000_000)[batch]
        first_seq = self._seq[machine]
        self._seq[machine] += ticks * DEVICES
        claims = self._claims(lanes, cpu_total, rng, ticks)
        for device in range(DEVICES):
            gpu, cpu = device < GPUS, GPUS <= device < GPUS + PACKAGES
            idle, step_ns = (70.0, 1e8) if gpu else (60.0, 1e6) if cpu else (12.0, 1e6)
            top = level if gpu else level * 0.35 if cpu else level * 0.04
            noise = np.cumsum(rng.normal(0, 0.012, ticks))
            noise = (noise - np.linspace(0, noise[-1], ticks)) * 0.3 + rng.normal(0, 0.025, ticks)
            energy = np.maximum(0, (idle + top) * (1 + noise) * seconds * 1000).astype(np.int64)
            u_indep = step_ns / ((ns1 - ns0) * np.sqrt(6))
            split = self._split(energy, claims)
            ordinals = np.cumsum([claim["there"] for claim in claims], axis=0) - 1
            seq = first_seq + np.arange(ticks) * DEVICES + device
            for ordinal, (millijoules, claim) in enumerate(zip(split, claims, strict=True)):
                mask = claim["there"]
                put = {
                    "device": np.full(ticks, device), "seq": seq, "started_at_us": start, "ended_at_us": end,
                    "started_ns": ns0, "ended_ns": ns1, "energy_millijoules": energy, "u_indep": u_indep,
                    "known_at_us": arrival, "ordinal": ordinals[ordinal], "millijoules": millijoules,
                    "kind": claim["kind"], "run_id": claim["run_id"], "phase": claim["phase"],
                    "member": claim["member"], "rank": claim["rank"], "cpu_seconds": claim["cpu"],
                    "sm_seconds": np.round(claim["sm"] * seconds, 3) if gpu else np.zeros(ticks),
                    "reserved_fraction": claim["reserved"],
                }  # fmt: skip
                for name, values in put.items():
                    columns.setdefault(name, []).append(values[mask])
        return self._table(machine, {name: np.concatenate(parts) for name, parts in columns.items()})

    def _in_lane(self, lane: list[Job], start: np.ndarray, end: np.ndarray, rng: np.random.Generator) -> tuple:
        """Which job has each tick, with watts, phase and ranks; spans are cut at its ends."""
        on = np.full(len(start), -1)
        for i, job in enumerate(lane):
            on[(start >= job.start_us) & (end <= job.end_us)] = i
        pick = [lane[i] if i >= 0 else None for i in on]
        stretch = np.cumsum(rng.random(len(start)) < 0.01)
        phase = np.array(PHASES, dtype=object)[(stretch * 7 + 1) % len(PHASES)]
        watts = np.array([job.watts if job else 0.0 for job in pick])
        return on >= 0, watts, pick, phase

    def _claims(self, lanes: list[tuple], cpu_total: np.ndarray, rng: np.random.Generator, ticks: int) -> list[dict]:
        running = sum(on.astype(float) for on, *_ in lanes)
        claims, used = [], np.zeros(ticks)
        for on, _, pick, phase in lanes:
            ranks = np.array([job.ranks if job else 0 for job in pick])
            for rank in range(max(1, int(ranks.max()))):
                there = on & (rank < np.maximum(ranks, 1))
                cpu = np.floor(cpu_total * rng.uniform(0.2, 0.3, ticks) / np.maximum(ranks, 1)) / 1e9 * there
                used += cpu
                claims.append({
                    "kind": np.full(ticks, "run", dtype=object), "there": there, "phase": phase, "cpu": cpu,
                    "run_id": np.array([job.run_id if job else "" for job in pick], dtype=object),
                    "member": np.array([job.member if job else None for job in pick], dtype=object),
                    "rank": np.array([rank if job and job.ranks > 1 else None for job in pick], dtype=object),
                    "sm": np.clip(rng.normal(0.8, 0.05, ticks), 0, 1) / np.maximum(ranks, 1) * there,
                    "reserved": np.divide(1.0, running * np.maximum(ranks, 1), out=np.zeros(ticks), where=there),
                })  # fmt: skip
        text = np.full(ticks, "", dtype=object)
        claims.append({
            "kind": np.full(ticks, "unattributed", dtype=object), "there": np.ones(ticks, dtype=bool),
            "phase": text, "run_id": text, "member": np.full(ticks, None), "rank": np.full(ticks, None),
            "cpu": np.floor(np.maximum(0.0, cpu_total - used * 1e9)) / 1e9, "sm": np.zeros(ticks),
            "reserved": np.where(running > 0, 0.0, 1.0),
        })  # fmt: skip
        return claims

    @staticmethod
    def _split(energy: np.ndarray, claims: list[dict]) -> list[np.ndarray]:
        """By reservation, cumulative floors: sums exactly."""
        weights = np.array([claim["reserved"] for claim in claims])
        cumulative = np.floor(np.cumsum(weights, axis=0) * energy + 0.5).astype(np.int64)
        cumulative[-1] = energy
        return list(np.diff(cumulative, axis=0, prepend=0))

    def _table(self, machine: int, columns: dict[str, np.ndarray]) -> pa.Table:
        device = columns.pop("device")
        name = f"node-{machine:04d}"
        ids = [f"GPU-{machine * 8 + i:08x}-5c4e-7a11-b0de-{machine:012x}" for i in range(GPUS)]
        ids += [f"{name}:package-{i}" for i in range(PACKAGES)] + [f"{name}:package-{i}/dram" for i in range(PACKAGES)]
        kinds = ["gpu"] * GPUS + ["cpu"] * PACKAGES + ["dram"] * PACKAGES
        gains = {"gpu": 0.03, "cpu": 0.03, "dram": 0.1}
        models = {"gpu": "nvml H100", "cpu": "rapl Xeon 8480", "dram": "rapl-dram Xeon 8480"}
        n = len(device)

        def by_device(values: list) -> pa.Array:
            return pa.array(values).take(pa.array(device))

        def same(value: object) -> pa.Array:
            return (
                pa.array(np.full(n, value))
                if not isinstance(value, str)
                else pa.array([value]).take(pa.array(np.zeros(n, dtype=np.int64)))
            )

        table = {key: pa.array(values, from_pandas=True) for key, values in columns.items()}
        table["rank"] = table["rank"].cast(pa.int64())
        table["member"] = table["member"].cast(pa.string())
        table |= {
            "agent_id": same(f"agent-{machine:012x}"), "incarnation": same(f"{machine * 7919:032x}"),
            "machine_id": same(name), "boot_id": same(f"{machine * 104729:032x}"), "device_id": by_device(ids),
            "component": by_device(kinds), "meter": by_device(["nvml"] * GPUS + ["rapl"] * 4),
            "method": same("counter"),
            "u_common": by_device([gains[k] for k in kinds]), "u_common_key": by_device([models[k] for k in kinds]),
            "coverage": same(1.0), "source": same("agent"), "note": same(""), "policy": same("reserved"),
            "idle_millijoules": pa.nulls(n, pa.int64()), "start_slack_millijoules": pa.nulls(n, pa.int64()),
            "end_slack_millijoules": pa.nulls(n, pa.int64()),
        }  # fmt: skip
        return pa.table(table)
