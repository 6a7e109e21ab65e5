"""What CPU this is, and how much power its design allows a hardware thread.

The table data/cpu_power.csv gives design power (TDP) and threads by model; its sources and
licences are in data/README.md. A CPU that is not in it gets the median of its vendor's server
parts, and says so with an interval.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from joulebook.errors import BadInput
from joulebook.meters import Roots

TABLE: Final = Path(__file__).parent / "data" / "cpu_power.csv"

TDP: Final = "JOULEBOOK_CPU_TDP_WATTS"
THREADS: Final = "JOULEBOOK_CPU_THREADS"
MODEL: Final = "JOULEBOOK_CPU_MODEL"
"""Settings that declare the CPU: design power (W) and hardware threads of one package, or a name of the table."""

VENDORS: Final = {
    "GenuineIntel": "Intel",
    "AuthenticAMD": "AMD",
    "0xc0": "Ampere",
    "0x4e": "NVIDIA",
}
"""vendor_id, or the implementer code of an Arm CPU -> vendor in the table."""

U_THREADS_SERVER: Final = 0.20
U_THREADS_CLIENT: Final = 0.35
"""Relative standard uncertainties where threads are taken as twice the cores: the truth is one or two per
core; server parts run two almost always, client parts often one [judgements of ours, no source]."""

P10_TO_P90_SIGMAS: Final = 2 * 1.2815515655446004
"""Standard deviations between the 10th and 90th percentile of a normal distribution."""

_NOISE: Final = re.compile(
    r"\((?:r|tm|c)\)|\bcpu\b|@.*$|\b\d+-core\b|\b(?:dual|quad|six|eight)[- ]core\b|\bprocessor\b"
    r"|\bwith radeon.*$|\b(?:intel|amd|genuine|authentic|arm)\b|\b\d+(?:th|st|nd|rd) gen\b"
)


@dataclass(frozen=True, slots=True)
class Cpu:
    """The CPU as the kernel names it. siblings: hardware threads of one package, None when not told or not to be
    believed (a virtual machine's)."""

    model: str
    vendor: str
    is_server: bool
    siblings: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One row of the table. tdp_watts of the package; threads None where the source does not give them."""

    model: str
    vendor: str
    tdp_watts: float
    cores: int
    threads: int | None
    is_server: bool

    @property
    def likely_threads(self) -> int:
        """Threads, taken as twice the cores where they are not given."""
        return self.threads or 2 * self.cores


@dataclass(frozen=True, slots=True)
class ThreadPower:
    """Design power of one hardware thread, in W, with its relative standard uncertainty (k=1) and where it is from.

    note: the label that reports carry on, "" when the CPU is known outright.  low, high: interval behind
    the uncertainty of an unknown CPU.
    """

    watts: float
    u_relative: float
    model: str
    basis: str
    note: str = ""
    low: float | None = None
    high: float | None = None


def read_cpu(roots: Roots) -> Cpu:
    """The first CPU of /proc/cpuinfo. An unreadable file is an unknown CPU."""
    try:
        text = (roots.proc / "cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    fields = {}
    for line in text.split("\n\n", 1)[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    vendor_id = fields.get("vendor_id") or fields.get("CPU implementer", "")
    model = fields.get("model name") or fields.get("Model") or vendor_id or "unknown"
    virtual = "hypervisor" in fields.get("flags", "").split()
    siblings = fields.get("siblings", "")
    return Cpu(
        model=model,
        vendor=VENDORS.get(vendor_id, ""),
        is_server=bool(re.search(r"xeon|epyc|opteron|altra|graviton|grace", model.lower())),
        siblings=int(siblings) if siblings.isdigit() and not virtual else None,
    )


def thread_power(cpu: Cpu, environ: Mapping[str, str] = os.environ) -> ThreadPower:
    """Design power of one hardware thread: as declared, else as the table has it, else the vendor's median.

    Raises BadInput on a declaration that cannot be taken.
    """
    declared = _declared(cpu, environ)
    if declared is not None:
        return declared
    part = find_part(environ.get(MODEL) or cpu.model)
    if part is not None:
        return _of_part(part, cpu)
    if environ.get(MODEL):
        raise BadInput(
            f"{MODEL} {environ[MODEL]!r} is not in the CPU table", f"set {TDP} and {THREADS} of the whole CPU instead"
        )
    return unknown_power(cpu)


def find_part(model: str) -> Part | None:
    """The table's row of that CPU, None when there is none. Names are compared without case, marks and vendor."""
    wanted = plain_name(model)
    return next((part for part in parts_table() if plain_name(part.model) == wanted), None)


def plain_name(model: str) -> str:
    """A CPU's name without vendor, trade marks, clock and core count.

    "Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz" and "AMD EPYC 7543 32-Core Processor" become
    "xeon gold 6230" and "epyc 7543".
    """
    return " ".join(_NOISE.sub(" ", model.lower()).replace(",", " ").split())


def unknown_power(cpu: Cpu) -> ThreadPower:
    """The median power per thread of the vendor's server parts; of all server parts when the vendor is unknown too.

    The 10th to 90th percentile is taken as that of a normal distribution:
    u_relative = (p90 - p10) / (2 x 1.2816) / median.
    """
    servers = [p for p in parts_table() if p.is_server]
    parts = [p for p in servers if p.vendor == cpu.vendor] or servers
    low, median, high = percentiles([p.tdp_watts / p.likely_threads for p in parts])
    whose = parts[0].vendor if cpu.vendor == parts[0].vendor else "all"
    return ThreadPower(
        watts=median,
        u_relative=(high - low) / P10_TO_P90_SIGMAS / median,
        model=cpu.model,
        basis=f"median of {len(parts)} {whose} server parts",
        note=f"unknown CPU: {median:.2f} W per thread ({low:.2f} to {high:.2f})",
        low=low,
        high=high,
    )


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """10th, 50th and 90th percentile, linear between order statistics. values: two or more."""
    ordered = sorted(values)

    def at(part: float) -> float:
        below, beyond = divmod(part * (len(ordered) - 1), 1)
        i = min(int(below), len(ordered) - 2)
        return ordered[i] + (ordered[i + 1] - ordered[i]) * (beyond if i == below else 1.0)

    return at(0.1), at(0.5), at(0.9)


def parts_table() -> Iterator[Part]:
    """The rows of the CPU table, read anew: they are needed once, and kept they would cost the agent a megabyte."""
    import csv

    with TABLE.open(newline="") as file:
        yield from (_part(row) for row in csv.DictReader(file))


def _part(row: Mapping[str, str]) -> Part:
    threads = int(row["threads"]) if row["threads"] else None
    return Part(
        row["model"], row["vendor"], float(row["tdp_w"]), int(row["cores"]), threads, is_server=row["is_server"] == "1"
    )


def _of_part(part: Part, cpu: Cpu) -> ThreadPower:
    if part.threads is not None:
        threads, u, how = part.threads, 0.0, "table"
    elif cpu.siblings is not None:
        threads, u, how = cpu.siblings, 0.0, "threads counted on this machine"
    else:
        threads, u, how = part.likely_threads, _u_threads(part), "threads taken as 2 x cores"
    note = how if u else ""
    return ThreadPower(part.tdp_watts / threads, u, part.model, f"{part.tdp_watts:g} W / {threads} ({how})", note)


def _u_threads(part: Part) -> float:
    return U_THREADS_SERVER if part.is_server else U_THREADS_CLIENT


def _declared(cpu: Cpu, environ: Mapping[str, str]) -> ThreadPower | None:
    if not (environ.get(TDP) or environ.get(THREADS)):
        return None
    watts, threads = (_positive(name, environ.get(name, "")) for name in (TDP, THREADS))
    return ThreadPower(watts / threads, 0.0, cpu.model, f"{watts:g} W / {threads:g} (declared)", "declared CPU power")


def _positive(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e5:
        raise BadInput(f"{name} is {text!r}", f"give {TDP} (W) and {THREADS} of the whole CPU together, above 0")
    return value
