"""The other end of the privileged reader: readings of 1 J and 1 s through its socket."""

from __future__ import annotations

import re
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from joulebook.clock import boottime_ns
from joulebook.meters import LeftOut, Reading
from joulebook.powercap import MOST_COUNT
from joulebook.reader import HEADER, REFRESH_NS, REQUEST
from joulebook.units import NS_PER_SECOND

OPEN_SECONDS: Final = 1.0
READ_SECONDS: Final = 0.1
"""How long the reader may take when the meter opens, and at each read: one that hangs must not hold up the rest."""
FIRST_RETRY_NS: Final = NS_PER_SECOND
LAST_RETRY_NS: Final = 30 * NS_PER_SECOND
"""How long after a vain attempt the next one comes: doubling from the first to the last."""
MOST_PACKET: Final = 8192

_LINE: Final = re.compile(r"(intel-rapl[a-z-]*(?::\d{1,4})+) ([a-z0-9-]{1,40}) (\d{1,18}) (\d{1,12}) (\S{1,80})")


class ReaderRefused(OSError):
    """The reader answers and will not read for this process."""


@dataclass(frozen=True, slots=True)
class Told:
    """One zone as the reader tells it. twin: the zone whose counter stood at the same microjoule, "" for none."""

    zone_id: str
    name: str
    range_microjoules: int | None
    energy_microjoules: int
    twin: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the reader said. read_ns: CLOCK_BOOTTIME at which it read the counters."""

    read_ns: int
    zones: tuple[Told, ...]


def parse_answer(packet: bytes) -> Answer:
    """The answer in a packet. Raises ReaderRefused, or ValueError for what is no answer."""
    head, *lines = packet.decode("ascii", "replace").split("\n")
    if head.startswith("refused: "):
        raise ReaderRefused(0, "".join(c if c.isprintable() else "?" for c in head)[:200])
    version, _, read_ns = head.rpartition(" ")
    matches = [_LINE.fullmatch(line) for line in lines]
    if version != HEADER or not re.fullmatch(r"[0-9]{1,18}", read_ns) or not all(matches):
        raise ValueError(f"no answer of a reader: {packet[:40]!r}")
    zones = []
    for match in matches:
        assert match is not None
        zone_id, name, limit, joules, twin = match.groups()
        zones.append(Told(zone_id, name, int(limit) or None, int(joules) * 10**6, "" if twin == "-" else twin))
    return Answer(int(read_ns), tuple(zones))


class ReaderClient:
    """A connection to the reader, made anew when it breaks. device_ids: zone id -> device_id of what is wanted.

    troubles: why nothing is read now.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._retry_ns = FIRST_RETRY_NS
        self._retry_at = 0
        self._packet = b""
        self._read_ns = 0
        self._readings: list[Reading] = []
        self.device_ids: Mapping[str, str] = {}
        self.troubles: dict[str, LeftOut] = {}

    def open(self) -> Answer:
        """The first answer. Raises OSError (ReaderRefused) or ValueError."""
        try:
            return parse_answer(self._ask(OPEN_SECONDS))
        except (OSError, ValueError):
            self.close()
            raise

    def read(self) -> list[Reading]:
        """The last joules told, in microjoules; the same again where no second has gone by.

        at_ns is the middle of the second for which the reader says the same: with step_ns of a second, half of which
        the history takes off again, a value is bound to the very instant at which the reader read it.
        """
        now = boottime_ns()
        if self._socket is None and now < self._retry_at:
            return []
        was_open = self._socket is not None
        try:
            try:
                packet = self._ask(READ_SECONDS)
            except (ConnectionError, TimeoutError) as error:
                self.close()
                if not was_open or isinstance(error, TimeoutError):
                    raise
                packet = self._ask(READ_SECONDS)  # the reader was started anew, or found the connection idle
            if packet != self._packet:
                self._take(parse_answer(packet))
                self._packet = packet
        except (OSError, ValueError) as error:
            self.close()
            why = str(getattr(error, "strerror", None) or error or "no answer").lower()
            self.troubles["reader"] = LeftOut(f"reader at {self._path}", f"not read now: {why}")
            self._retry_at = now + self._retry_ns
            self._retry_ns = min(2 * self._retry_ns, LAST_RETRY_NS)
            return []
        self._retry_ns = FIRST_RETRY_NS
        self.troubles.pop("reader", None)
        return self._readings

    def keep(self, device_ids: Collection[str]) -> None:
        """Read only these from now on."""
        self.device_ids = {zone: one for zone, one in self.device_ids.items() if one in device_ids}
        self._packet = b""

    def close(self) -> None:
        """Close the connection; the next read makes another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, seconds: float) -> bytes:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._socket.settimeout(seconds)
            self._socket.connect(self._path)
        self._socket.settimeout(seconds)
        try:
            self._socket.send(REQUEST)
            packet = self._socket.recv(MOST_PACKET)
        except (BrokenPipeError, ConnectionResetError):
            packet = self._socket.recv(MOST_PACKET)  # why it closed the connection, if it said so
        if not packet:
            raise ConnectionResetError(0, "the reader closed the connection")
        return packet

    def _take(self, answer: Answer) -> None:
        if 0 < answer.read_ns - self._read_ns < REFRESH_NS and self._readings:
            return  # a reader started anew has read within the same second
        self._read_ns = answer.read_ns
        self._readings = [
            Reading(self.device_ids[told.zone_id], answer.read_ns + REFRESH_NS // 2, told.energy_microjoules)
            for told in answer.zones
            if told.zone_id in self.device_ids and told.energy_microjoules <= (told.range_microjoules or MOST_COUNT)
        ]
