"""A simulated management controller: a Redfish service on loopback whose chassis follows a power curve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from joulebook.clock import boottime_ns
from joulebook.meters.redfish import CA, CREDENTIALS, DEVICE, INSECURE, POLL, URL
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.server import PageServer
from joulebook.simulate.truth import Source, write_truth
from joulebook.units import JOULES_PER_KWH

CHASSIS: Final = "/redfish/v1/Chassis/1"
FAULTS: Final = "redfish.faults"


class Bmc:
    """The controller. view: which resources its chassis has.

    The fault ``value`` replaces the figure: null, 0.0, text, anything that JSON can say.
    """

    def __init__(
        self, directory: Path, source: Source, *, view: str = "both", port: int = 0, credentials: str = "",
        certificate: Path | None = None,
    ) -> None:  # fmt: skip
        self._source, self._view = source, view
        write_truth(directory, "redfish", [source])
        self.server = PageServer(
            self._respond, directory / FAULTS, port=port, credentials=credentials, certificate=certificate
        )
        self.url = f"{self.server.url}{CHASSIS}"

    def _respond(self, path: str, faults: Mapping[str, str]) -> tuple[str, str] | None:
        now = boottime_ns()
        # Whole watts, as controllers give them.
        watts = json.loads(faults["value"]) if "value" in faults else round(self._source.watts(now))
        kwh = json.loads(faults["value"]) if "value" in faults else self._source.joules(now) / JOULES_PER_KWH
        pages: dict[str, dict[str, Any]] = {}
        if self._view in ("power", "both"):
            supplies = [{"PowerInputWatts": watts}, {"PowerInputWatts": 0.0}]
            pages["Power"] = {"PowerControl": [{"PowerConsumedWatts": watts}], "PowerSupplies": supplies}
        if self._view in ("environment", "both"):
            pages["EnvironmentMetrics"] = {"PowerWatts": {"Reading": watts}, "EnergykWh": {"Reading": kwh}}
        parent, _, name = path.rpartition("/")
        if parent != CHASSIS or name not in pages:
            return None
        return "application/json", json.dumps({"@odata.id": path, "Name": name, **pages[name]})

    def close(self) -> None:
        """Stop the service."""
        self.server.close()


def settings(bmc: Bmc, directory: Path, credentials: str, certificate: Path | None) -> dict[str, str]:
    """Settings that make joulebook read it; the credentials go into a file of their own."""
    found = {URL: bmc.url}
    if certificate is not None:
        found[CA] = str(certificate.absolute())
    if credentials:
        path = directory.absolute() / "redfish.credentials"
        path.touch(mode=0o600)
        path.write_text(credentials + "\n")
        found |= {CREDENTIALS: str(path)} | ({} if certificate is not None else {INSECURE: "1"})
    return found


class Stand:
    """A node of 100 W, polled quickly."""

    def __init__(self, root: Path, began_ns: int) -> None:
        self._source = Source(DEVICE, began_ns, (parse_curve("constant:100"),))
        self._bmc = Bmc(root, self._source)
        self.environ: Mapping[str, str] = {URL: self._bmc.url, POLL: "0.1"}

    def move(self, now_ns: int) -> None:
        """It computes when asked."""

    def joules(self, from_ns: int, to_ns: int) -> dict[str, float]:
        """What the node drew."""
        return {DEVICE: self._source.joules(to_ns) - self._source.joules(from_ns)}

    def close(self) -> None:
        """Stop the service."""
        self._bmc.close()


def stand(root: Path, began_ns: int) -> Stand:
    """A BMC on loopback."""
    return Stand(root, began_ns)
