"""A node's input power from its management controller (BMC), through IPMI: DCMI's "Get Power Reading" by ``ipmitool``.

Which controller is this node's is declared: ``local`` (/dev/ipmi0) or a host. Source: DCMI specification 1.5, 6.6.1;
the text is that of ``ipmitool dcmi power reading`` (lib/ipmi_dcmi.c), whose lines run together in some versions.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from joulebook.clock import boottime_ns
from joulebook.meters import Device, MeterAbsent, MeterUnavailable, Reading, Roots
from joulebook.meters.credentials import read_credentials
from joulebook.meters.dmi import product_name
from joulebook.meters.polling import NoAnswer, Polled, Poller, open_polled, seconds_of
from joulebook.meters.redfish import U_BMC, U_QUANTUM
from joulebook.rows import Component, Method
from joulebook.units import NS_PER_SECOND

TARGET: Final = "JOULEBOOK_IPMI"
CREDENTIALS: Final = "JOULEBOOK_IPMI_CREDENTIALS_FILE"
POLL: Final = "JOULEBOOK_IPMI_POLL_SECONDS"

DEVICE: Final = "ipmi:node"
LOCAL: Final = "local"
POLL_SECONDS: Final = 5.0
TIMEOUT_SECONDS: Final = 10.0
MOST_WATTS: Final = 65535
"""The figure has 16 bits."""
PLACES: Final = "/usr/sbin:/sbin:/usr/local/sbin"
"""Where ipmitool is for root only; anybody may run it from there."""
HOST: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:]+\])(?::(\d{1,5}))?")

REMEDIES: Final = (
    ("Permission denied", 'sudo setfacl -m "u:$(id -un):rw" /dev/ipmi0'),
    ("Could not open device", "sudo modprobe -a ipmi_devintf ipmi_si"),
    ("RAKP", f"check user and password in the file that {CREDENTIALS} names"),
    ("DCMI request failed", "declare the BMC by Redfish: it has no power reading by IPMI"),
)
"""What ipmitool says and asking again soon cannot change -> what mends it; the first that fits."""
NOISE: Final = ("IANA PEN registry", "Unable to read password from environment")
"""What it says besides, on machines that lack a table of manufacturers, or for a user without a password."""


@dataclass(frozen=True, slots=True)
class DcmiReading:
    """One answer. watts: at the instant.  average_watts: over the last sampling_seconds.  active: it does measure."""

    watts: int
    average_watts: int | None
    sampling_seconds: float | None
    active: bool

    @property
    def figure(self) -> int | None:
        """Watts to be believed: None while it does not measure, and for 0, which is what it says that cannot."""
        return self.watts if self.active and 0 < self.watts < MOST_WATTS else None


_WATTS: Final = r":\s*(\d{1,9})\s+Watts"
_INSTANT: Final = re.compile(rf"Instantaneous power reading{_WATTS}")
_AVERAGE: Final = re.compile(rf"Average power reading over sample period{_WATTS}")
_PERIOD: Final = re.compile(r"Sampling period:\s*(\d{1,10})\s+Seconds")
_STATE: Final = re.compile(r"Power reading state is:\s*(\w+)")


def parse_reading(text: str) -> DcmiReading | None:
    """What ``ipmitool dcmi power reading`` printed; None where it holds no reading."""
    watts = _first(_INSTANT, text)
    state = _STATE.search(text)
    if watts is None or state is None:
        return None
    return DcmiReading(watts, _first(_AVERAGE, text), _first(_PERIOD, text), state[1] == "activated")


def _first(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return None if found is None else int(found[1])


class Tool:
    """The command. words: all of it.  environ: all that it inherits; a password goes here, where no list of processes
    shows it.
    """

    def __init__(self, words: Sequence[str], environ: Mapping[str, str]) -> None:
        self._words, self._environ = [*words, "dcmi", "power", "reading"], dict(environ)

    def ask(self) -> list[Reading]:
        """One reading, at the middle of the time that the command took. Raises NoAnswer."""
        began = boottime_ns()
        try:
            done = subprocess.run(
                self._words,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
                start_new_session=True,  # Ctrl-C ends the agent, which ends this
            )
        except subprocess.TimeoutExpired:
            raise NoAnswer(f"ipmitool did not end within {TIMEOUT_SECONDS:g} s", self._shown) from None
        except OSError as error:
            raise NoAnswer(f"ipmitool cannot be run: {error.strerror}", "sudo apt install ipmitool") from error
        at_ns = (began + boottime_ns()) // 2
        reading = parse_reading(done.stdout.decode(errors="replace"))
        if done.returncode or reading is None:
            raise self._failed(done.stderr.decode(errors="replace") + done.stdout.decode(errors="replace"))
        if reading.figure is None:
            what = f"{reading.watts} W" if reading.active else "that power measurement is deactivated"
            raise NoAnswer(f"the BMC says {what}: no reading", "declare the BMC by Redfish, or turn its metering on")
        return [Reading(DEVICE, at_ns, power_milliwatts=reading.figure * 1000)]

    def _failed(self, said: str) -> NoAnswer:
        lines = [" ".join(line.split()) for line in said.splitlines() if line.strip() and not line.startswith(NOISE)]
        word, remedy = next(((word, remedy) for word, remedy in REMEDIES if word in said), ("", self._shown))
        told = next((line for line in lines if word in line), "nothing")
        return NoAnswer(f"ipmitool says: {told[:200]}", remedy, lasting=bool(word))

    @property
    def _shown(self) -> str:
        return " ".join(self._words)


def open_ipmi(roots: Roots, environ: Mapping[str, str] = os.environ) -> Polled:
    """The controller that JOULEBOOK_IPMI names.

    Raises MeterAbsent where none is named, MeterUnavailable on a wrong declaration, without ipmitool, or on a refusal.
    """
    target = environ.get(TARGET)
    if not target:
        raise MeterAbsent("no BMC is declared", f"set {TARGET} to local, or to the host of this node's BMC")
    period = seconds_of(environ, POLL, POLL_SECONDS)
    path = f"{environ.get('PATH', os.defpath)}:{PLACES}"
    command = shutil.which("ipmitool", path=path)
    if command is None:
        raise MeterUnavailable("ipmitool is not installed", "sudo apt install ipmitool")
    words, secret = _session(target, environ)
    tool = Tool([command, *words], {"PATH": path, "LC_ALL": "C", **secret})
    poller = Poller("ipmi", tool.ask, period, TIMEOUT_SECONDS + period)
    return open_polled(Polled("ipmi", [_device(product_name(roots), period)], poller))


def _session(target: str, environ: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """How to reach the controller: ipmitool's options, and what must be in its environment only."""
    if target == LOCAL:
        return ["-I", "open"], {}
    host = HOST.fullmatch(target)
    if host is None:
        raise MeterUnavailable(f"{TARGET} is {target!r}", f"set {TARGET} to local, HOST or HOST:PORT")
    path = environ.get(CREDENTIALS)
    if not path:
        raise MeterUnavailable(f"{TARGET} names a host, and no credentials", f"set {CREDENTIALS} to a file of yours")
    found = read_credentials(Path(path), CREDENTIALS)
    if found.token:
        raise MeterUnavailable(f"{path} holds a Redfish token", "write one line into it: USER:PASSWORD")
    # Privilege USER is all that a reading takes. -E: the password comes from the environment.
    words = ["-I", "lanplus", "-H", host[1].strip("[]"), "-p", host[2] or "623", "-U", found.user, "-L", "USER", "-E"]
    return words, {"IPMI_PASSWORD": found.password}


def _device(product: str, period_seconds: float) -> Device:
    return Device(
        device_id=DEVICE,
        component=Component.NODE,
        method=Method.INTEGRATED,
        u_common=U_BMC,
        u_common_key=f"ipmi:{product or 'node'}",
        u_indep=U_QUANTUM,
        step_ns=round(period_seconds * NS_PER_SECOND),
        covers="node",
        model=product,
    )
