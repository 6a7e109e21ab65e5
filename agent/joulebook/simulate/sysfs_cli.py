"""``joulebook simulate`` for the drivers' parts of /sys: AMD GPUs, hardware monitors."""

from __future__ import annotations

from pathlib import Path

import click

from joulebook.clock import boottime_ns
from joulebook.simulate.curve import Curve, parse_curve, staggered
from joulebook.simulate.verbs import CURVE_HELP, DIRECTORY, move_until_ended, print_settings

FAULT_HELP = "KIND:DEVICE:FROM_S[:UNTIL_S], KIND one of gone, negative, ones, zero, garbage, denied."


@click.command()
@click.argument("directory", type=DIRECTORY)
@click.option(
    "--gpus", type=click.IntRange(1, 32), default=1, show_default=True, help="Cards, or packages of two dies."
)
@click.option(
    "--curve", "curves", type=parse_curve, metavar="CURVE", multiple=True, default=("constant:250",), help=CURVE_HELP
)
@click.option("--counter", default="metrics-1.4", show_default=True, help="none, hwmon, amdsmi, or metrics-F.C.")
@click.option("--counter-rate", type=click.FloatRange(min=0), default=1.0, show_default=True, help="1 is right.")
@click.option("--start-near-wrap", type=click.FloatRange(min=0), help="32-bit counters wrap so many seconds from now.")
@click.option("--two-dies", is_flag=True, help="Packages of two dies, of which the first measures both.")
@click.option("--name", default="Simulated MI300X", show_default=True, help="Model of the cards.")
@click.option("--process", "processes", multiple=True, help="CARD:PID[:COMPUTE_UNITS], a process on that card.")
@click.option("--fault", "faults", multiple=True, help=FAULT_HELP)
@click.option("--seconds", type=click.FloatRange(min=0), help="End by itself after so many seconds.")
def amdgpu(
    directory: Path,
    gpus: int,
    curves: tuple[Curve, ...],
    counter: str,
    counter_rate: float,
    start_near_wrap: float | None,
    two_dies: bool,
    name: str,
    processes: tuple[str, ...],
    faults: tuple[str, ...],
    seconds: float | None,
) -> None:
    """Make AMD GPUs' part of /sys in DIRECTORY and move it until ended (SIGTERM, Ctrl-C or --seconds).

    \b
    joulebook simulate amdgpu /tmp/sim --gpus 2 --curve square:60,300,7
    joulebook simulate amdgpu /tmp/sim --counter-rate 3 --fault gone:0:20:30
    """
    from joulebook.simulate.amdgpu import LIBRARY, AmdGpuTree, SimulatedCard, parse_process, sound_counter
    from joulebook.simulate.moving import parse_fault

    now = boottime_ns()
    on_card = [parse_process(text, gpus) for text in processes]
    cards = [
        SimulatedCard(
            curve,
            counter=sound_counter(counter),
            rate=counter_rate,
            two_dies=two_dies,
            name=name,
            wraps_in_s=start_near_wrap,
            processes=tuple(process for index, process in on_card if index == n),
        )
        for n, curve in enumerate(staggered(curves, gpus))
    ]
    tree = AmdGpuTree(directory, cards, now, [parse_fault(text, gpus, now) for text in faults])
    if counter == "amdsmi":
        print_settings({"PYTHONPATH": str(directory.absolute() / LIBRARY)})
    move_until_ended(tree.files, directory, seconds)


@click.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--kind", type=click.Choice(("acpi", "grace", "ina3221", "amd_energy")), required=True, help="Of chip.")
@click.option("--sockets", type=click.IntRange(1, 8), default=1, show_default=True, help="Of grace and amd_energy.")
@click.option(
    "--curve", "curves", type=parse_curve, metavar="CURVE", multiple=True, default=("constant:100",), help=CURVE_HELP
)
@click.option("--interval-ms", type=click.IntRange(1), default=1000, show_default=True, help="ACPI meters' average.")
@click.option("--fault", "faults", multiple=True, help=FAULT_HELP)
@click.option("--seconds", type=click.FloatRange(min=0), help="End by itself after so many seconds.")
def hwmon(
    directory: Path,
    kind: str,
    sockets: int,
    curves: tuple[Curve, ...],
    interval_ms: int,
    faults: tuple[str, ...],
    seconds: float | None,
) -> None:
    """Make a hardware monitor's part of /sys in DIRECTORY and move it until ended (SIGTERM, Ctrl-C or --seconds).

    \b
    joulebook simulate hwmon /tmp/sim --kind acpi --curve sine:400,100,30
    joulebook simulate hwmon /tmp/sim --kind grace --sockets 2 --interval-ms 50 --fault zero:1:20
    """
    from joulebook.simulate.hwmon import HwmonTree
    from joulebook.simulate.moving import parse_fault

    now = boottime_ns()
    each = staggered(curves, sockets)
    made = [parse_fault(text, sockets, now) for text in faults]
    tree = HwmonTree(directory, kind, each, now, made, interval_ms=interval_ms)
    move_until_ended(tree.files, directory, seconds)
