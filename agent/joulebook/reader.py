"""The privileged reader of RAPL counters: opens them, drops every privilege, tells them no finer than 1 J and 1 s.

It is the only part of the book that needs root (or CAP_DAC_READ_SEARCH), and it is this one file: standard library
only, nothing of joulebook imported, so that it can be read in one sitting, copied to a place that only root may
write, and run by the system's Python:

    python3 -I reader.py --group joulebook

Why so coarse: fine readings of these counters leak what other processes compute (CVE-2020-8694, PLATYPUS).
Every peer gets the same answer until a second has gone by, and no fraction of a joule.

Protocol, over a Unix socket of type SOCK_SEQPACKET: the peer sends b"read" and gets one packet of lines,

    joulebook-reader 1 BOOTTIME_NS
    intel-rapl:0 package-0 RANGE_MICROJOULES JOULES TWIN

BOOTTIME_NS is when the counters were read, RANGE where the counter returns to zero (0: not known), TWIN an earlier zone
whose counter stood at the very same microjoule, else "-".  A peer that is not allowed gets one line that says so.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SOCKET = "/run/joulebook/rapl.sock"
REQUEST = b"read"
HEADER = "joulebook-reader 1"
REFRESH_NS = 1_000_000_000
MOST_ZONES = 64
MOST_PEERS = 16
MOST_PEERS_OF_A_USER = 4
IDLE_SECONDS = 60
DOMAINS = re.compile(r"package-\d{1,4}(-die-\d{1,4})?|dram|psys")
NOBODY = 65534
SO_PEERGROUPS = 59
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38
CAPABILITY_VERSION_3 = 0x20080522


class Counters:
    """The open counters, and the answer that stands until a second has gone by."""

    def __init__(self, sys_root: str) -> None:
        self.zones = []
        for entry in sorted((Path(sys_root) / "class" / "powercap").glob("intel-rapl*:*"))[:MOST_ZONES]:
            name = (entry / "name").read_text(errors="replace").strip()
            if re.fullmatch(r"intel-rapl[a-z-]*(:\d{1,4})+", entry.name) and DOMAINS.fullmatch(name):
                limit = (entry / "max_energy_range_uj").read_text(errors="replace").strip()
                fd = os.open(entry / "energy_uj", os.O_RDONLY | os.O_CLOEXEC)
                self.zones.append((entry.name, name, limit if re.fullmatch(r"\d{1,18}", limit) else "0", fd))
        self._read_ns = -REFRESH_NS
        self._answer = b""

    def answer(self) -> bytes:
        """The packet for every peer. Raises OSError when a zone has gone."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if now - self._read_ns >= REFRESH_NS:
            self._read_ns = now
            self._answer = "\n".join([f"{HEADER} {now}", *self._lines()]).encode()
        return self._answer

    def _lines(self) -> Iterator[str]:
        seen: dict[bytes, str] = {}
        for zone, name, limit, fd in self.zones:
            digits, newline, _ = os.pread(fd, 32, 0).partition(b"\n")
            if newline and digits.isdigit():
                twin = seen.setdefault(digits, zone)
                yield f"{zone} {name} {limit} {int(digits) // 1_000_000} {'-' if twin == zone else twin}"


def drop_privileges(uid: int, gid: int) -> None:
    """Become uid:gid for good, with no capability, no file to write, no process to start. Raises OSError."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    no_capabilities = libc.capset(struct.pack("Ii", CAPABILITY_VERSION_3, 0), bytes(24))
    if no_capabilities or libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "privileges cannot be dropped")
    for limit in (resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))


def listen(path: str, uid: int, gid: int) -> socket.socket:
    """The socket that systemd passed, else a new one at ``path`` that belongs to uid and gid (-1: our own)."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        return socket.socket(fileno=3)
    if Path(path).is_socket():
        Path(path).unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o117)
    listener.bind(path)
    os.umask(before)
    os.chown(path, uid, gid)
    listener.listen(MOST_PEERS)
    return listener


class Server:
    """The peers at the socket, answered one request at a time. Nobody else may ask for anything."""

    def __init__(self, listener: socket.socket, counters: Counters, uids: set[int], gids: set[int]) -> None:
        self._listener, self._counters, self._uids, self._gids = listener, counters, uids, gids
        self._peers: dict[int, tuple[socket.socket, int]] = {}
        self._asked: dict[int, float] = {}
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        listener.setblocking(False)

    def serve(self) -> None:
        """For ever. Raises OSError when a zone has gone: only a new process may open it again."""
        while True:
            events = self._poll.poll(1000 * IDLE_SECONDS if self._peers else None)
            now = time.monotonic()
            for fd, _ in events:
                if fd == self._listener.fileno():
                    self._accept(now)
                else:
                    self._asked[fd] = now if self._reply(self._peers[fd][0]) else now - IDLE_SECONDS
            for fd in [fd for fd, asked in self._asked.items() if now - asked >= IDLE_SECONDS]:
                self._poll.unregister(fd)
                self._asked.pop(fd)
                self._peers.pop(fd)[0].close()

    def _accept(self, now: float) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        try:
            uid, gids = peer_of(connection)
            refusal = self._refusal(uid, gids)
            if refusal:
                connection.send(refusal.encode())
        except OSError:
            refusal = "gone"
        if refusal:
            connection.close()
            return
        fd = connection.fileno()
        self._peers[fd], self._asked[fd] = (connection, uid), now
        self._poll.register(fd, select.POLLIN)

    def _refusal(self, uid: int, gids: set[int]) -> str:
        if uid != 0 and uid not in self._uids and not gids & self._gids:
            return f"refused: user {uid} is not allowed to read"
        if len(self._peers) >= MOST_PEERS or [u for _, u in self._peers.values()].count(uid) >= MOST_PEERS_OF_A_USER:
            return "refused: too many connections"
        return ""

    def _reply(self, connection: socket.socket) -> bool:
        """Answer one request; False when the peer has gone, asks for anything else, or does not read."""
        try:
            if connection.recv(len(REQUEST) + 1) != REQUEST:
                return False
        except OSError:
            return False
        packet = self._counters.answer()
        try:
            return connection.send(packet) == len(packet)
        except OSError:
            return False


def peer_of(connection: socket.socket) -> tuple[int, set[int]]:
    """User and groups (at most 256 supplementary ones) of the process at the other end, as the kernel knows them."""
    _, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    more = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)
    return uid, {gid, *struct.unpack(f"{len(more) // 4}I", more)}


def main() -> None:
    """Open, drop, serve."""
    import argparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", default=SOCKET, help="where to listen, unless systemd passes a socket")
    parser.add_argument(
        "--user", action="append", default=[], help="name or number that may read; the first owns the socket"
    )
    parser.add_argument("--group", action="append", default=[], help="likewise, for the group")
    parser.add_argument("--sys", default="/sys", help="where the host's /sys is")
    options = parser.parse_args()
    try:
        uids = [int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid for name in options.user]
        gids = [int(name) if name.isdigit() else grp.getgrnam(name).gr_gid for name in options.group]
        counters = Counters(options.sys)
        if not counters.zones:
            raise OSError(f"no RAPL zone under {options.sys}/class/powercap")
        listener = listen(options.socket, *(ids[0] if ids else -1 for ids in (uids, gids)))
        drop_privileges(NOBODY, NOBODY)
        Server(listener, counters, set(uids), set(gids)).serve()
    except (OSError, KeyError, ValueError) as error:
        sys.exit(f"joulebook reader: {error}")


if __name__ == "__main__":
    main()
