"""What a meter is tested on: its simulated counterpart, alike for every meter of METERS."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Protocol

from joulebook.meters import METERS


class Stand(Protocol):
    """A simulated part of a machine under ``root``, which follows known power curves.

    environ: settings that point the meter at it; JOULEBOOK_SYS_ROOT is root/sys and
    JOULEBOOK_PROC_ROOT is root/proc, whoever stands there.
    """

    environ: Mapping[str, str]

    def move(self, now_ns: int) -> None:
        """Bring what it shows to this CLOCK_BOOTTIME instant; nothing to do for a part that computes when asked."""
        ...

    def joules(self, from_ns: int, to_ns: int) -> dict[str, float]:
        """device_id -> true joules over [from_ns, to_ns), with the ids that the meter reports."""
        ...

    def close(self) -> None:
        """Stop what it runs; its files stay."""
        ...


def make_stand(name: str, root: Path, began_ns: int) -> Stand:
    """The counterpart of that meter. root: an existing empty directory.  began_ns: when its curves begin."""
    module, maker = METERS[name].stand.split(":")
    stand: Stand = getattr(import_module(module), maker)(root, began_ns)
    return stand
