"""``joulebook doctor``: which meters this machine has, which it lacks, and the one command that mends each."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from joulebook import cpus
from joulebook.calibration import STALE_DAYS, booked, calibration_path, load
from joulebook.cgroup import cgroup_of
from joulebook.clock import utc_us
from joulebook.errors import BadInput, JoulebookError
from joulebook.home import find_home
from joulebook.identity import machine_id
from joulebook.inotify import Inotify
from joulebook.meters import (
    METERS,
    Askable,
    Device,
    LeftOut,
    Meter,
    MeterAbsent,
    MeterUnavailable,
    Refused,
    Roots,
    named_meters,
    open_each,
    open_meter,
    roots_from_environment,
    without_overlap,
)
from joulebook.rows import Method

ANSWER_SECONDS = 12.0
"""How long a controller or an exporter is waited for: they give up themselves before."""


@dataclass(frozen=True, slots=True)
class MeterReport:
    """What one meter found. status: available, absent (no such hardware), unavailable (the remedy mends it)."""

    name: str
    status: str
    used: bool
    devices: tuple[Device, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    cause: str = ""
    remedy: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def doctor(as_json: bool) -> None:
    """Show which meters this machine has, what is left out, and the command that mends each gap.

    \b
    joulebook doctor                                what will be measured, and how well
    joulebook doctor --json                         the same for a machine
    JOULEBOOK_SYS_ROOT=/tmp/sim joulebook doctor    on a simulated machine
    """
    findings = examine(roots_from_environment())
    click.echo(json.dumps(findings, indent=1) if as_json else as_text(findings))


def examine(roots: Roots) -> dict[str, Any]:
    """Everything that doctor says, as JSON types."""
    opened, refused = open_each(named_meters(), roots)
    for meter in opened:
        if isinstance(meter, Askable):
            meter.ask_now(ANSWER_SECONDS)
    used = without_overlap(opened)
    measured = [asdict(device) | {"meter": meter.name} for meter in used for device in meter.devices]
    calibration = _calibration(used, roots)
    meters = [asdict(_report(name, roots, opened, used, refused)) for name in METERS]
    for meter in used:
        meter.close()
    return {
        "measured": measured,
        "refused": [{"meter": r.name, "cause": r.error.cause, "remedy": r.error.remedy} for r in refused],
        "meters": meters,
        "calibration": calibration,
        "cpu": _cpu(roots),
        "cgroup": _cgroup(roots),
        "inotify": _inotify(),
        "home": _home(),
        "roots": {"proc": str(roots.proc), "sys": str(roots.sys)},
    }


def _calibration(meters: Sequence[Meter], roots: Roots) -> dict[str, Any]:
    """Of which devices the idle power is known, since when, and what mends it where it is not."""
    machine, now = machine_id(), utc_us()
    found: dict[str, Any] = {"path": str(calibration_path(find_home(), machine)), "devices": [], "remedy": ""}
    try:
        kept = load(find_home(), machine, roots)
    except JoulebookError as error:
        return found | {"error": error.cause, "remedy": error.remedy}
    for leaf in booked(meters, machine):
        idle, misfit = kept.fit(leaf.device, leaf.meter, leaf.parts)
        modelled = leaf.device.method is Method.MODELLED
        why = misfit or ("modelled: not calibrated" if modelled else "not calibrated") if idle is None else ""
        device: dict[str, Any] = {
            "device_id": leaf.device.device_id.removeprefix(f"{machine}/"),
            "idle_watts": None,
            "why": why,
        }
        if idle is not None:
            days = idle.age_days(now)
            device |= {
                "idle_watts": idle.idle_watts, "u_relative": idle.u_relative, "at": idle.at, "age_days": days,
                "stale": days > STALE_DAYS, "forced": idle.forced,
            }  # fmt: skip
        if device.get("stale") or (idle is None and not modelled):
            found["remedy"] = "joulebook calibrate, on the idle machine and with no agent running"
        found["devices"].append(device)
    return found


def _report(
    name: str, roots: Roots, opened: Sequence[Meter], used: Sequence[Meter], refused: Sequence[Refused]
) -> MeterReport:
    """One meter: as it was opened for use or refused; else opened for this alone."""
    for meter in opened:
        if meter.name == name:
            return MeterReport(name, "available", meter in used, tuple(meter.devices), tuple(meter.left_out))
    for one in refused:
        if one.name == name:
            return _refused(name, one.error)
    try:
        alone = open_meter(name, roots)
    except MeterUnavailable as error:
        return _refused(name, error)
    alone.close()
    why = "others read all that it models" if name in named_meters() else "the settings name others"
    return MeterReport(name, "available", False, tuple(alone.devices), (*alone.left_out, LeftOut(name, why)))


def _refused(name: str, error: MeterUnavailable) -> MeterReport:
    status = "absent" if isinstance(error, MeterAbsent) else "unavailable"
    return MeterReport(name, status, False, cause=error.cause, remedy=error.remedy)


def _cpu(roots: Roots) -> dict[str, Any]:
    """The CPU, its design power per thread, and how to declare it where it is unknown."""
    cpu = cpus.read_cpu(roots)
    declare = f"set {cpus.MODEL} to its name in the table, or {cpus.TDP} and {cpus.THREADS} of the whole CPU"
    try:
        power = cpus.thread_power(cpu)
    except BadInput as error:
        return {"model": cpu.model, "error": error.cause, "remedy": error.remedy}
    unknown = power.low is not None
    return asdict(cpu) | {
        "watts_per_thread": power.watts,
        "u_relative": power.u_relative,
        "basis": power.basis,
        "note": power.note,
        "unknown": unknown,
        "remedy": declare if unknown else "",
    }


def _cgroup(roots: Roots) -> dict[str, Any]:
    try:
        cgroup = cgroup_of("self", roots)
    except (OSError, ValueError) as error:
        return {"error": str(error), "remedy": "mount the host's /proc and name it in JOULEBOOK_PROC_ROOT"}
    found = asdict(cgroup)
    return found | {"usage": None if cgroup.usage is None else str(cgroup.usage)}


def _inotify() -> dict[str, Any]:
    """Whether marks can wake the agent; without it the agent polls."""
    try:
        Inotify(Path("/")).close()
    except OSError as error:
        remedy = "sudo sysctl fs.inotify.max_user_instances=512; until then the agent polls"
        return {"works": False, "cause": str(error), "remedy": remedy}
    return {"works": True, "cause": "", "remedy": ""}


def _home() -> dict[str, Any]:
    """The home and whether it can be written, without making it."""
    root = find_home().root
    there = next((place for place in (root, *root.parents) if place.exists()), Path("/"))
    writable = os.access(there, os.W_OK | os.X_OK)
    remedy = "" if writable else "set JOULEBOOK_HOME to a directory that you may write"
    return {"path": str(root), "exists": root.exists(), "writable": writable, "remedy": remedy}


def as_text(findings: Mapping[str, Any]) -> str:
    """The findings for people."""
    lines = ["Measured on this machine"]
    lines += [_device_line(device) for device in findings["measured"]] or ["  nothing"]
    for meter in findings["meters"]:
        lines += _meter_lines(meter)
    lines += ["", *_calibration_lines(findings["calibration"])]
    lines += ["", *_cpu_lines(findings["cpu"]), *_cgroup_lines(findings["cgroup"])]
    inotify, home = findings["inotify"], findings["home"]
    lines.append(f"inotify  {'works' if inotify['works'] else 'does not work: ' + inotify['cause']}")
    lines += _try(inotify["remedy"])
    state = ("" if home["exists"] else ", made at the first run") + ("" if home["writable"] else ", cannot be written")
    lines += [f"home     {home['path']}{state}", *_try(home["remedy"])]
    return "\n".join(lines)


def _device_line(device: Mapping[str, Any]) -> str:
    u = (device["u_common"] ** 2 + device["u_indep"] ** 2) ** 0.5
    note = f"  [{device['note']}]" if device["note"] else ""
    return (
        f"  {device['device_id']:<28} {device['component']:<5} {device['method']:<10} "
        f"u {u:.0%}  {device['meter']}  {device['model']}{note}"
    )


def _meter_lines(meter: Mapping[str, Any]) -> list[str]:
    used = "" if meter["used"] or meter["status"] != "available" else ", not used"
    lines = ["", f"{meter['name']}: {meter['status']}{used}"]
    if meter["cause"]:
        lines += [f"  {meter['cause']}", *_try(meter["remedy"])]
    for left in meter["left_out"]:
        lines += [f"  left out: {left['what']}: {left['why']}", *_try(left["remedy"])]
    return lines


def _calibration_lines(calibration: Mapping[str, Any]) -> list[str]:
    lines = ["Idle power"]
    if "error" in calibration:
        lines.append(f"  {calibration['error']}")
    for device in calibration["devices"]:
        told = device["why"]
        if device["idle_watts"] is not None:
            told = f"{device['idle_watts']:.3f} W  u {device['u_relative']:.1%}  {device['at'][:10]}"
            told += f", older than {STALE_DAYS} days" if device["stale"] else ""
            told += ", by force on a machine in use" if device["forced"] else ""
        lines.append(f"  {device['device_id']:<28} {told}")
    return [*lines, *_try(calibration["remedy"])]


def _cpu_lines(cpu: Mapping[str, Any]) -> list[str]:
    if "error" in cpu:
        return [f"cpu      {cpu['model']}: {cpu['error']}", *_try(cpu["remedy"])]
    power = f"{cpu['watts_per_thread']:.2f} W per thread, {cpu['basis']}"
    unknown = "unknown CPU, " if cpu["unknown"] else ""
    return [f"cpu      {cpu['model']}: {unknown}{power}", *_try(cpu["remedy"])]


def _cgroup_lines(cgroup: Mapping[str, Any]) -> list[str]:
    if "error" in cgroup:
        return [f"cgroup   {cgroup['error']}", *_try(cgroup["remedy"])]
    gib = cgroup["memory_bytes"] / 2**30
    cpu_limit = "no CPU limit" if cgroup["reserved_cpus"] is None else "CPU limited"
    memory_limit = "no memory limit" if cgroup["reserved_bytes"] is None else "memory limited"
    return [f"cgroup   {cgroup['cpus']:g} CPUs ({cpu_limit}), {gib:.1f} GiB ({memory_limit})"]


def _try(remedy: str) -> list[str]:
    return [f"    try: {remedy}"] if remedy else []
