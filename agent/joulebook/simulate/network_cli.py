"""``joulebook simulate``, the sources that answer over a network or as a command."""

from __future__ import annotations

from pathlib import Path

import click

from joulebook.clock import boottime_ns
from joulebook.simulate.curve import FORMS, Curve, parse_curve, staggered
from joulebook.simulate.verbs import CURVE_HELP, DIRECTORY, print_settings, stopped_by_signals


@click.command()
@click.argument("directory", type=DIRECTORY)
@click.option(
    "--curve", type=parse_curve, metavar="CURVE", default="constant:400", show_default=True, help=f"Power: {FORMS}."
)
@click.option(
    "--view", type=click.Choice(["power", "environment", "both"]), default="both", show_default=True,
    help="Which resources hold it.",
)  # fmt: skip
@click.option("--tls", is_flag=True, help="Serve https, with a certificate made for it (needs openssl).")
@click.option("--credentials", metavar="USER:PASSWORD", default="", help="What clients must show.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="TCP port on loopback; 0 takes a free one.")
@click.option("--seconds", type=click.FloatRange(min=0), help="End by itself after so many seconds.")
def redfish(
    directory: Path, curve: Curve, view: str, tls: bool, credentials: str, port: int, seconds: float | None
) -> None:
    """Serve a management controller on loopback, whose chassis is this node, until ended.

    Prints the settings that point joulebook at it. redfish.faults in DIRECTORY switches faults on while it serves.

    \b
    joulebook simulate redfish /tmp/sim --curve square:300,700,20 --seconds 60
    joulebook simulate redfish /tmp/sim --tls --credentials root:secret
    """
    from joulebook.simulate.redfish import Bmc, settings
    from joulebook.simulate.server import make_certificate
    from joulebook.simulate.truth import Source

    stop = stopped_by_signals()
    directory.mkdir(parents=True, exist_ok=True)
    certificate = make_certificate(directory) if tls else None
    source = Source("redfish:node", boottime_ns(), (curve,))
    bmc = Bmc(directory, source, view=view, port=port, credentials=credentials, certificate=certificate)
    print_settings(settings(bmc, directory, credentials, certificate))
    stop.wait(seconds)
    bmc.close()


@click.command()
@click.argument("directory", type=DIRECTORY)
@click.option(
    "--curve", type=parse_curve, metavar="CURVE", default="constant:400", show_default=True, help=f"Power: {FORMS}."
)
def ipmi(directory: Path, curve: Curve) -> None:
    """Write a command named ipmitool into DIRECTORY/bin, whose controller is this node; no process stays behind.

    Prints the settings that make joulebook call it. ipmi.faults in DIRECTORY switches faults on.

    \b
    joulebook simulate ipmi /tmp/sim --curve square:300,700,20
    """
    from joulebook.simulate.ipmi import make_tool, settings
    from joulebook.simulate.truth import Source

    make_tool(directory, Source("ipmi:node", boottime_ns(), (curve,)))
    print_settings(settings(directory))


@click.command()
@click.argument("directory", type=DIRECTORY)
@click.option(
    "--kind", default="node_exporter", show_default=True, help="Whose page: see the reference of the simulator."
)
@click.option(
    "--devices", type=click.IntRange(1, 16), default=1, show_default=True, help="GPUs, or packages with DRAM."
)
@click.option(
    "--curve", "curves", type=parse_curve, metavar="CURVE", multiple=True, default=("constant:100",),
    help=CURVE_HELP,
)  # fmt: skip
@click.option(
    "--slices", type=click.IntRange(0, 7), default=0, help="MIG slices for which a board's figure is repeated."
)
@click.option("--step-seconds", type=click.FloatRange(min=0), help="How often it looks; default: as its kind does.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="TCP port on loopback; 0 takes a free one.")
@click.option("--seconds", type=click.FloatRange(min=0), help="End by itself after so many seconds.")
def exporter(
    directory: Path,
    kind: str,
    devices: int,
    curves: tuple[Curve, ...],
    slices: int,
    step_seconds: float | None,
    port: int,
    seconds: float | None,
) -> None:
    """Serve a Prometheus page of energy counters on loopback until ended.

    Prints the setting that points joulebook at it. exporter.faults in DIRECTORY switches faults on while it serves.

    \b
    joulebook simulate exporter /tmp/sim --kind dcgm --devices 2 --slices 7 --step-seconds 1
    joulebook simulate exporter /tmp/sim --kind node_exporter --curve square:60,300,7 --seconds 60
    """
    from joulebook.simulate.prometheus import Exporter

    stop = stopped_by_signals()
    directory.mkdir(parents=True, exist_ok=True)
    made = Exporter(directory, kind, staggered(curves, devices), step_seconds=step_seconds, slices=slices, port=port)
    step = {} if step_seconds is None else {"JOULEBOOK_PROMETHEUS_STEP_SECONDS": f"{max(step_seconds, 0.1):g}"}
    print_settings({"JOULEBOOK_PROMETHEUS_URL": made.url, **step})
    stop.wait(seconds)
    made.close()
