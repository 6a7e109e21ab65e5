"""``joulebook simulate`` for GPUs that NVML shows, and for boards that tell no power."""

from __future__ import annotations

from pathlib import Path

import click

from joulebook.clock import boottime_ns
from joulebook.simulate.curve import Curve, parse_curve, staggered
from joulebook.simulate.verbs import CURVE_HELP, DIRECTORY, move_until_ended, print_settings


@click.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--gpus", type=click.IntRange(1, 32), default=1, show_default=True, help="GPUs.")
@click.option(
    "--curve", "curves", type=parse_curve, metavar="CURVE", multiple=True, default=("constant:250",), help=CURVE_HELP
)
@click.option("--energy-counter/--no-energy-counter", default=True, show_default=True, help="Whether GPUs have one.")
@click.option("--no-power", is_flag=True, help="GPUs tell neither energy nor power, only how busy they are.")
@click.option("--architecture", default="hopper", show_default=True, help="Decides how power is averaged.")
@click.option("--name", default="Simulated H100", show_default=True, help="Model of the GPUs.")
@click.option("--step-ms", type=click.FloatRange(min=0), default=100.0, show_default=True, help="Sensors' update step.")
@click.option("--process", "processes", multiple=True, help="GPU:PID[:SM_PERCENT], a process on that GPU.")
@click.option("--client", "clients", multiple=True, help="GPU:PID, an MPS client on that GPU.")
@click.option("--mig", is_flag=True, help="MIG mode on (ga100 and newer).")
@click.option(
    "--slice", "slices", multiple=True, help="GPU:SIZE[:PID,...], a MIG slice of that GPU and what runs in it."
)
@click.option("--reload-after", type=click.FloatRange(min=0), help="Driver reload so many seconds from now.")
@click.option("--down", help="FROM_S:TO_S, no driver between these seconds from now; counters restart after.")
@click.option(
    "--lose", "losses", multiple=True, help="GPU:FROM_S[:TO_S], that GPU is lost between these seconds from now."
)
@click.option("--error", "errors", multiple=True, help="'FUNCTION lost|unsupported|permission [GPU]'.")
def nvml(
    directory: Path,
    gpus: int,
    curves: tuple[Curve, ...],
    energy_counter: bool,
    no_power: bool,
    architecture: str,
    name: str,
    step_ms: float,
    processes: tuple[str, ...],
    clients: tuple[str, ...],
    mig: bool,
    slices: tuple[str, ...],
    reload_after: float | None,
    down: str | None,
    losses: tuple[str, ...],
    errors: tuple[str, ...],
) -> None:
    """Build libnvidia-ml.so.1 in DIRECTORY with GPUs that follow power curves; no process stays behind.

    Prints the settings that make joulebook use it. nvml.conf there may be edited while readers run.

    \b
    joulebook simulate nvml /tmp/sim --gpus 2 --curve square:60,300,7
    joulebook simulate nvml /tmp/sim --gpus 2 --no-energy-counter --process 0:4711:80
    joulebook simulate nvml /tmp/sim --architecture ga100 --slice 0:3:4711 --slice 0:2:4712,4713
    joulebook simulate nvml /tmp/sim --gpus 2 --lose 1:10:15 --down 30:32
    """
    from joulebook.simulate import nvml as gpu

    now = boottime_ns()
    runs = [gpu.parse_process(text, gpus) for text in processes] + [gpu.parse_client(text, gpus) for text in clients]
    cut = [gpu.parse_slice(text, gpus) for text in slices]
    gone = [gpu.parse_loss(text, gpus, now) for text in losses]
    made = []
    for n, curve in enumerate(staggered(curves, gpus)):
        parts = [(size, pids) for index, size, pids in cut if index == n]
        inside = [gpu.GpuProcess(pid, slice_index=i) for i, (_, pids) in enumerate(parts) for pid in pids]
        made.append(
            gpu.Gpu(
                uuid=f"GPU-{n:08x}-51a0-4000-8000-000000000000",
                curve=curve,
                name=name,
                architecture=architecture,
                energy_counter=energy_counter and not no_power,
                power=not no_power,
                mig=mig or bool(parts),
                slices=tuple(
                    gpu.GpuSlice(f"MIG-{n:08x}-51a0-4000-8000-{i:012x}", size) for i, (size, _) in enumerate(parts)
                ),
                lost=tuple(window for index, window in gone if index == n),
                processes=(*(process for index, process in runs if index == n), *inside),
            )
        )
    gpu.build_library(directory)
    reload_ns = None if reload_after is None else now + int(reload_after * 1e9)
    down_ns = None if down is None else gpu.parse_window(down, now)
    gpu.write_gpus(directory, made, now, step_ms=step_ms, reload_ns=reload_ns, down_ns=down_ns, errors=errors)
    print_settings(gpu.environment(directory))


@click.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--cards", type=click.IntRange(1, 16), default=1, show_default=True, help="Cards.")
@click.option(
    "--curve", "curves", type=parse_curve, metavar="CURVE", multiple=True, default=("constant:100",), help=CURVE_HELP
)
@click.option("--name", default="Instinct MI25", show_default=True, help="Model of the cards.")
@click.option("--design-watts", type=click.FloatRange(min=1), default=300.0, show_default=True, help="Power at 100 %.")
@click.option("--inside-cpu", is_flag=True, help="They are a CPU's own graphics.")
@click.option("--fault", "faults", multiple=True, help="KIND:CARD:FROM_S[:UNTIL_S], see simulate amdgpu.")
@click.option("--seconds", type=click.FloatRange(min=0), help="End by itself after so many seconds.")
def accelerator(
    directory: Path,
    cards: int,
    curves: tuple[Curve, ...],
    name: str,
    design_watts: float,
    inside_cpu: bool,
    faults: tuple[str, ...],
    seconds: float | None,
) -> None:
    """Make cards in DIRECTORY that tell how busy they are and no power, until ended (SIGTERM, Ctrl-C or --seconds).

    For NVIDIA boards of that kind: joulebook simulate nvml DIRECTORY --no-power.

    \b
    joulebook simulate accelerator /tmp/sim --cards 2 --curve square:60,300,7
    joulebook simulate accelerator /tmp/sim --name "Some Board" --design-watts 75
    """
    from joulebook.simulate.accelerator import AcceleratorTree, SilentCard
    from joulebook.simulate.moving import parse_fault

    now = boottime_ns()
    made = [SilentCard(curve, name, design_watts, inside_cpu) for curve in staggered(curves, cards)]
    tree = AcceleratorTree(directory, made, now, [parse_fault(text, cards, now) for text in faults])
    move_until_ended(tree.files, directory, seconds)
