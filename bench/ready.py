"""How soon an agent measures after it was started, and what importing the SDK costs a trainer.

    python bench/ready.py [--starts N] [--json FILE]

Ready: from exec of a warm interpreter to the status file that says which devices are read, on a simulated node of 8
GPUs, 2 packages and DRAM; the first reading of every meter is taken before it is written. Import: CPU of a fresh
interpreter that imports joulebook, less that of one that imports nothing, in turn.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from benching.cost import cpu_ns
from benching.node import JOULEBOOK, Node
from benching.results import Row, parser, tell

HEAVY = ("torch", "pydantic", "numpy", "pandas", "duckdb")


def start_seconds(node: Node, name: str) -> tuple[float, float, int]:
    """Wall and CPU seconds until one agent was ready, and how many devices it reads."""
    home = node.root / name
    began = time.monotonic()
    process = node.start([*JOULEBOOK, "agent"], {"JOULEBOOK_HOME": str(home)}, stderr=subprocess.DEVNULL)
    while not (paths := list(home.glob("agents/*.json"))):
        if process.poll() is not None:
            raise SystemExit("the agent ended before it was ready")
        time.sleep(0.002)
    wall, cpu = time.monotonic() - began, cpu_ns(process.pid) / 1e9
    devices = len(json.loads(paths[0].read_text())["devices"])
    node.end(process)
    return wall, cpu, devices


def ready(starts: int) -> list[Row]:
    """Median and spread over several starts; the first one, whose files are cold, is left out."""
    with Node() as node:
        seen = [start_seconds(node, f"start-{n}") for n in range(starts + 1)][1:]
    walls, cpus, devices = zip(*seen, strict=True)
    note = f"{starts} starts, {min(devices)} devices"
    return [
        Row("exec to ready to measure", "joulebook agent", **spread(walls), most=0.3, unit="s", note=note),
        Row("the same, CPU", "joulebook agent", **spread(cpus), unit="s", note=note),
    ]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most, as a row names them."""
    return {"value": statistics.median(values), "low": min(values), "high": max(values)}


def interpreter_cpu_ms(code: str) -> float:
    """CPU milliseconds of one interpreter from exec to exit."""
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{code!r} failed")
    return (usage.ru_utime + usage.ru_stime) * 1000


def imports(rounds: int) -> list[Row]:
    """CPU of the import over the bare interpreter, and the heavy packages that it brings in."""
    pairs = [(interpreter_cpu_ms("pass"), interpreter_cpu_ms("import joulebook")) for _ in range(rounds + 1)][1:]
    over = [told - bare for bare, told in pairs]
    code = f"import joulebook, sys; print(sum(name in sys.modules for name in {HEAVY!r}))"
    heavy = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    bare = statistics.median(bare for bare, _ in pairs)
    note = f"{rounds} pairs; the interpreter itself {bare:.3g} ms"
    return [
        Row("import joulebook, CPU over the bare interpreter", "SDK", **spread(over), most=30, unit="ms", note=note),
        Row("heavy packages that it imports", "SDK", heavy, "", most=0, note="of " + ", ".join(HEAVY)),
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--starts", type=int, default=20, help="starts, and pairs of imports (default 20)")
    given = options.parse_args()
    tell([*ready(given.starts), *imports(given.starts)], given.json)


if __name__ == "__main__":
    main()
