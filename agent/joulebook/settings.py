"""Settings of the agent, from JOULEBOOK_* variables (docs/reference/settings.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from joulebook.errors import BadInput
from joulebook.outbox import MOST_BYTES
from joulebook.rows import Policy
from joulebook.units import NS_PER_SECOND

SPAN_SECONDS = 4
"""Length of a span while a run is open: each is flushed, so that with its settling second at most 5 s are lost."""
IDLE_SPAN_SECONDS = 60
"""Length of a span while none is; both divide the hour, which no span crosses."""


@dataclass(frozen=True, slots=True)
class Settings:
    """sample_ns: time between reads.  grace_ns: how long shares stay open for late marks.  outbox_bytes: its bound.

    collector_url: where rows go, empty when they wait for a report.  collector_token_file, collector_ca_file: paths, or
    empty.
    """

    sample_ns: int = NS_PER_SECOND
    grace_ns: int = 30 * NS_PER_SECOND
    policy: Policy = Policy.RESERVED
    outbox_bytes: int = MOST_BYTES
    collector_url: str = ""
    collector_token_file: str = ""
    collector_ca_file: str = ""


def settings_from_environment(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings that the variables give. Raises BadInput on a value that cannot be."""
    sample = _number(environ, "JOULEBOOK_SAMPLE_SECONDS", 1.0, least=0.01, most=SPAN_SECONDS / 2)
    grace = _number(environ, "JOULEBOOK_GRACE_SECONDS", 30.0, least=0.0, most=3600.0)
    outbox_mib = _number(environ, "JOULEBOOK_OUTBOX_MIB", MOST_BYTES >> 20, least=1, most=1 << 20)
    name = environ.get("JOULEBOOK_POLICY", Policy.RESERVED)
    try:
        policy = Policy(name)
    except ValueError:
        raise BadInput(f"JOULEBOOK_POLICY is {name!r}", f"set it to one of {', '.join(Policy)}") from None
    return Settings(
        round(sample * NS_PER_SECOND),
        round(grace * NS_PER_SECOND),
        policy,
        outbox_bytes=int(outbox_mib * (1 << 20)),
        collector_url=environ.get("JOULEBOOK_COLLECTOR_URL", ""),
        collector_token_file=environ.get("JOULEBOOK_COLLECTOR_TOKEN_FILE", ""),
        collector_ca_file=environ.get("JOULEBOOK_COLLECTOR_CA_FILE", ""),
    )


def _number(environ: Mapping[str, str], name: str, default: float, *, least: float, most: float) -> float:
    text = environ.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise BadInput(f"{name} is {text!r}", f"set it to a number from {least:g} to {most:g}")
    return value
