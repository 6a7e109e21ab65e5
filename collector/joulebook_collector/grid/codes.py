"""Providers' own codes of zones."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from joulebook.errors import BadInput

from joulebook_collector.near import near


def only(name: str, codes: Mapping[str, str]) -> Callable[[str], str]:
    """zone -> code by a table. The function raises BadInput on a zone that is not in it, naming near ones."""

    def code_of(zone: str) -> str:
        if zone in codes:
            return codes[zone]
        meant = near(zone, codes) or sorted(codes)[:20]
        raise BadInput(f"{name} has no zone {zone!r} that joulebook knows", f"use one of {', '.join(meant)}, or --code")

    return code_of
