"""A simulated ``ipmitool``: a command of that name whose ``dcmi power reading`` follows a power curve."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import joulebook
from joulebook.clock import boottime_ns
from joulebook.errors import BadInput
from joulebook.meters.ipmi import DEVICE, POLL, TARGET
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.server import read_faults
from joulebook.simulate.truth import Source, read_truth, write_truth

FAULTS: Final = "ipmi.faults"
KNOWN: Final = (
    "permission",
    "absent",
    "password",
    "unreachable",
    "unsupported",
    "deactivated",
    "watts",
    "delay_seconds",
    "garbage",
)

SAYS: Final = {
    "permission": "Could not open device at /dev/ipmi0 or /dev/ipmi/0 or /dev/ipmidev/0: Permission denied",
    "absent": "Could not open device at /dev/ipmi0 or /dev/ipmi/0 or /dev/ipmidev/0: No such file or directory",
    "password": "> RAKP 2 HMAC is invalid\nError: Unable to establish IPMI v2 / RMCP+ session",
    "unreachable": "Error: Unable to establish IPMI v2 / RMCP+ session",
    "unsupported": "DCMI request failed because: Invalid command (c1)",
}
"""Fault -> what ipmitool prints on stderr, ending with status 1."""

SCRIPT: Final = """#!{python}
import sys
sys.path.insert(0, {root!r})
from joulebook.simulate.ipmi import tool
sys.exit(tool({directory!r}, sys.argv[1:]))
"""

ANSWER: Final = """
    Instantaneous power reading:              {watts:>8} Watts
    Minimum during sampling period:           {watts:>8} Watts
    Maximum during sampling period:           {watts:>8} Watts
    Average power reading over sample period: {watts:>8} Watts
    IPMI timestamp:                           {date} UTC    Sampling period:                          00000001 Seconds.
    Power reading state is:                   {state}


"""


def make_tool(directory: Path, source: Source) -> None:
    """Write DIR/bin/ipmitool. ipmi.calls beside it lists the arguments of every call."""
    script = directory / "bin" / "ipmitool"
    script.parent.mkdir(parents=True, exist_ok=True)
    write_truth(directory, "ipmi", [source])
    root = str(Path(joulebook.__file__).parents[1])
    script.write_text(SCRIPT.format(python=sys.executable, root=root, directory=str(directory.absolute())))
    script.chmod(0o755)


def settings(directory: Path) -> dict[str, str]:
    """Settings that make joulebook call it."""
    return {TARGET: "local", "PATH": f"{(directory / 'bin').absolute()}:{os.environ.get('PATH', os.defpath)}"}


def tool(directory: str, words: list[str]) -> int:
    """The command itself: its exit status."""
    with (Path(directory) / "ipmi.calls").open("a") as calls:
        calls.write(" ".join(words) + "\n")
    faults = read_faults(Path(directory) / FAULTS, KNOWN)
    time.sleep(float(faults.get("delay_seconds", 0)))
    said = next((text for fault, text in SAYS.items() if fault in faults), "")
    if said or words[-3:] != ["dcmi", "power", "reading"]:
        print(f"IANA PEN registry open failed: No such file or directory\n{said or 'Invalid command'}", file=sys.stderr)
        return 1
    source = next((s for s in read_truth(Path(directory)) if s.device_id == DEVICE), None)
    if source is None:
        raise BadInput(f"{directory} holds no simulated node", "joulebook simulate ipmi makes one")
    watts = faults.get("watts", str(round(source.watts(boottime_ns()))))
    state = "deactivated" if "deactivated" in faults else "activated"
    answer = ANSWER.format(watts=watts, date=time.strftime("%m/%d/%y %H:%M:%S", time.gmtime()), state=state)
    print("\x00\xff" + answer[::-1] if "garbage" in faults else answer)
    return 0


class Stand:
    """A node of 100 W whose tool is called quickly."""

    def __init__(self, root: Path, began_ns: int) -> None:
        self._source = Source(DEVICE, began_ns, (parse_curve("constant:100"),))
        make_tool(root, self._source)
        self.environ: Mapping[str, str] = {**settings(root), POLL: "0.2"}

    def move(self, now_ns: int) -> None:
        """It computes when called."""

    def joules(self, from_ns: int, to_ns: int) -> dict[str, float]:
        """What the node drew."""
        return {DEVICE: self._source.joules(to_ns) - self._source.joules(from_ns)}

    def close(self) -> None:
        """Nothing runs."""


def stand(root: Path, began_ns: int) -> Stand:
    """An ipmitool under ``root``."""
    return Stand(root, began_ns)
