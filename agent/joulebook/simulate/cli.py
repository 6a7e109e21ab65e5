"""``joulebook simulate``: sensors that follow known power curves."""

from __future__ import annotations

import json
from pathlib import Path

import click

from joulebook.clock import boottime_ns
from joulebook.simulate.curve import Curve, parse_curve, staggered
from joulebook.simulate.gpu_cli import accelerator, nvml
from joulebook.simulate.network_cli import exporter, ipmi, redfish
from joulebook.simulate.sysfs_cli import amdgpu, hwmon
from joulebook.simulate.truth import truth as true_joules
from joulebook.simulate.verbs import CURVE_HELP, DIRECTORY, move_until_ended


@click.group()
def simulate() -> None:
    """Sensors that follow known power curves, for tests and machines without hardware.

    \b
    joulebook simulate powercap /tmp/sim --packages 2 --psys --mmio --dram --curve square:60,300,7 &
    joulebook simulate nvml /tmp/sim --gpus 2 --curve constant:250
    JOULEBOOK_SYS_ROOT=/tmp/sim joulebook doctor
    joulebook simulate truth /tmp/sim --from 1000000000 --to 31000000000 --json
    """


for verb in (accelerator, amdgpu, exporter, hwmon, ipmi, nvml, redfish):
    simulate.add_command(verb)


@simulate.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--packages", type=click.IntRange(1, 16), default=1, show_default=True, help="CPU packages.")
@click.option("--dram", is_flag=True, help="A DRAM domain in each package.")
@click.option("--psys", is_flag=True, help="The platform domain that contains them all.")
@click.option("--psys-factor", type=click.FloatRange(min=0), help="Power of the platform over that of its parts.")
@click.option("--mmio", is_flag=True, help="Each package a second time, as intel-rapl-mmio.")
@click.option("--dies", is_flag=True, help="Each package as two dies that both show its counter.")
@click.option("--away", multiple=True, metavar="ZONE=FROM,TO", help="That zone is gone between these seconds from now.")
@click.option(
    "--curve", "curves", type=parse_curve, metavar="CURVE", multiple=True, default=("constant:100",), help=CURVE_HELP
)
@click.option("--start-near-wrap", type=click.FloatRange(min=0), help="Every counter wraps so many seconds from now.")
@click.option("--range-uj", type=click.IntRange(min=1_000_000), help="Where counters wrap, microjoules.")
@click.option("--seconds", type=click.FloatRange(min=0), help="End by itself after so many seconds.")
def powercap(
    directory: Path,
    packages: int,
    dram: bool,
    psys: bool,
    psys_factor: float | None,
    mmio: bool,
    dies: bool,
    away: tuple[str, ...],
    curves: tuple[Curve, ...],
    start_near_wrap: float | None,
    range_uj: int | None,
    seconds: float | None,
) -> None:
    """Make a powercap tree in DIRECTORY and move its counters until ended (SIGTERM, Ctrl-C or --seconds).

    Prints the setting that points joulebook at it once the tree stands.

    \b
    joulebook simulate powercap /tmp/sim --packages 2 --dram --psys --mmio --curve square:60,300,7
    joulebook simulate powercap /tmp/sim --curve constant:80 --start-near-wrap 10 --seconds 60
    joulebook simulate powercap /tmp/sim --packages 2 --away intel-rapl:1=10,15
    """
    from joulebook.simulate.powercap import (
        PSYS_FACTOR,
        RANGE_MICROJOULES,
        PowercapTree,
        domains,
        parse_away,
        taken_away,
    )

    now = boottime_ns()
    factor = PSYS_FACTOR if psys_factor is None else psys_factor
    machine = domains(staggered(curves, packages), now, dram=dram, psys=psys, psys_factor=factor, mmio=mmio, dies=dies)
    machine = taken_away(machine, now, [parse_away(text) for text in away])
    tree = PowercapTree(
        directory, machine, wraps_after_seconds=start_near_wrap, range_microjoules=range_uj or RANGE_MICROJOULES
    )
    move_until_ended(tree, directory, seconds)


@simulate.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--from", "from_ns", type=int, required=True, help="Start, CLOCK_BOOTTIME nanoseconds.")
@click.option("--to", "to_ns", type=int, required=True, help="End, CLOCK_BOOTTIME nanoseconds.")
@click.option("--overlapping", is_flag=True, help="The devices that contain or repeat others (psys, core, mmio).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: device_id to joules.")
def truth(directory: Path, from_ns: int, to_ns: int, overlapping: bool, as_json: bool) -> None:
    """Print the joules that each simulated device of DIRECTORY drew over a span.

    \b
    joulebook simulate truth /tmp/sim --from 1000000000 --to 31000000000 --json
    """
    joules = true_joules(directory, from_ns, to_ns, overlapping=overlapping)
    if as_json:
        click.echo(json.dumps(joules, indent=1))
        return
    for device_id, energy in joules.items():
        click.echo(f"{device_id}  {energy:.6f} J")
