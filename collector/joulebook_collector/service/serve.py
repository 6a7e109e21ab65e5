"""The process: opens the ledger and its door, listens, and on SIGTERM drains what waits before it ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sqlite3
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from joulebook.errors import BadInput, JoulebookError
from joulebook.home import Home
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from joulebook_collector.ledger import Ledger
from joulebook_collector.service.access import Access
from joulebook_collector.service.app import application
from joulebook_collector.service.context import Service
from joulebook_collector.service.metrics import Metrics
from joulebook_collector.service.refusals import Refusals
from joulebook_collector.service.writer import QUEUE_ROWS, Writer

FLUSH_SECONDS: Final = 60.0
KEEP_ALIVE_SECONDS: Final = 90
"""Agents send every 30 s and keep their connection."""
STOP_SECONDS: Final = 20
"""For requests under way at the end."""
OPEN_SECONDS: Final = 60.0
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
GARBAGE_THRESHOLD: Final = (100_000, 20, 20)
"""Batches are freed as soon as they are answered; looking for cycles among their rows finds none."""
DATABASE_MEMORY: Final = "256MB"


@dataclass(frozen=True, slots=True)
class Listen:
    """Where and how. certificate, key: PEM files, both or neither.  insecure: plain HTTP beyond loopback too.

    token_free: no tokens are asked for, on loopback only.
    """

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None
    insecure: bool = False
    token_free: bool = False

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise BadInput("a certificate without its key, or a key alone", "give --cert and --key")
        if self.host in LOOPBACK:
            return
        if self.token_free:
            raise BadInput(f"everybody who reaches {self.host} could write and read", "leave --no-tokens out")
        if self.certificate is None and not self.insecure:
            raise BadInput(
                f"tokens and rows would pass {self.host} unencrypted",
                "give --cert and --key, or --insecure behind a proxy that ends TLS",
            )

    def url(self, port: int) -> str:
        """As agents are told it. port: that was taken, where 0 asked for any."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.certificate else ''}://{host}:{port}"


def access_path(home: Home) -> Path:
    """Where the tokens of a home are."""
    return home.root / "access.sqlite"


def serve(home: Home, listen: Listen, queue_rows: int = QUEUE_ROWS) -> int:
    """Run a collector until SIGTERM or SIGINT; the exit status: 1 when the ledger could not be written any more."""
    with ExitStack() as stack:
        sockets = [_bound(listen)]
        stack.callback(sockets[0].close)
        ledger = stack.enter_context(Ledger.open(home.ledger, wait_seconds=OPEN_SECONDS, own=True))
        ledger.query(f"set memory_limit = '{DATABASE_MEMORY}'")
        access = stack.enter_context(Access(access_path(home)))
        if not listen.token_free and not access.tokens():
            print(
                "joulebook collector: there is no token yet; try: joulebook token create", file=sys.stderr, flush=True
            )
        return asyncio.run(_serve(ledger, access, listen, sockets, queue_rows))


class _Protocol(HttpToolsProtocol):
    """Lets go of a connection that never asks anything, as of one that asks nothing more."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)


class _Server(uvicorn.Server):
    """Ends in order on a signal; uvicorn's own would then die of it, before the queue is drained."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        yield

    def _end(self) -> None:
        self.should_exit = True


async def _serve(ledger: Ledger, access: Access, listen: Listen, sockets: list[socket.socket], queue_rows: int) -> int:
    server: _Server | None = None

    def broken(why: str) -> None:
        service.broken = why
        print(f"joulebook collector: the ledger cannot be written any more: {why}", file=sys.stderr, flush=True)
        if server is not None:
            server.should_exit = True

    turn = threading.Lock()
    writer = Writer(ledger, turn, broken, queue_rows)
    service = Service(ledger, writer, access, Refusals(access), Metrics(), listen.token_free)
    door = ledger.door(turn)
    server = _Server(_config(service, listen))
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLD)
    upkeep = asyncio.create_task(_upkeep(access))
    print(f"joulebook collector: {ledger.path} at {listen.url(sockets[0].getsockname()[1])}", flush=True)
    try:
        await server.serve(sockets)
    finally:
        upkeep.cancel()
        await writer.stop()
        door.close()
        service.readers.shutdown()
        gc.unfreeze()  # else what the database's own objects still refer to is told as a leak at exit
    print("joulebook collector: stopped, everything acknowledged is in the ledger", flush=True)
    return 1 if service.broken else 0


async def _upkeep(access: Access) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        try:
            access.flush()
        except sqlite3.Error as error:
            print(f"joulebook collector: {access.path}: {error}", file=sys.stderr, flush=True)


def _config(service: Service, listen: Listen) -> uvicorn.Config:
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return uvicorn.Config(
        application(service),
        loop="uvloop",
        http=_Protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        proxy_headers=False,
        log_level="error",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        ssl_certfile=listen.certificate,
        ssl_keyfile=listen.key,
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
    )


def _bound(listen: Listen) -> socket.socket:
    try:
        return socket.create_server(
            (listen.host, listen.port), family=socket.AF_INET6 if ":" in listen.host else socket.AF_INET, backlog=4096
        )
    except OSError as error:
        raise JoulebookError(
            f"cannot listen at {listen.host}:{listen.port}: {error.strerror or error}", "give another --listen"
        ) from error
