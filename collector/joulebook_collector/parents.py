"""A node contains its parts: of one machine at one time, or of one run, the book takes the one or the others (law 2).

An agent books a node beside its parts as what it draws beyond them. An import is not divided so, and the two together
would be summed twice; nor may a further part come where such a remainder is booked, which holds that part already.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from joulebook.errors import BadInput
from joulebook.rows import Body, Component, Measurement
from joulebook.summary import REMAINDER

from joulebook_collector.ledger import Ledger
from joulebook_collector.shadows import Covered


@dataclass(slots=True)
class Claims:
    """When machines were measured (UTC microseconds), and which runs have some of it."""

    spans: dict[str, Covered] = field(default_factory=lambda: defaultdict(Covered))
    run_ids: set[str] = field(default_factory=set)

    def what_meets(self, m: Measurement) -> str:
        """In words, what a measurement shares with these: its machine's time, or its run; "" when nothing."""
        if m.machine_id in self.spans and self.spans[m.machine_id].meets(m.started_at_us, m.ended_at_us):
            at = datetime.fromtimestamp(m.started_at_us // 1_000_000, tz=UTC)
            return f"machine {m.machine_id} at {at:%Y-%m-%dT%H:%M:%SZ}"
        mine = sorted({share.run_id for share in m.shares if share.run_id} & self.run_ids)
        return f"run {mine[0]}" if mine else ""


def refuse_node_beside_parts(ledger: Ledger, bodies: Iterable[Body]) -> None:
    """Raise BadInput when both a node's energy and that of its parts are here, or one here and one in the ledger."""
    measured = [body for body in bodies if isinstance(body, Measurement)]
    nodes = [m for m in measured if m.component is Component.NODE]
    parts = [m for m in measured if m.component is not Component.NODE]
    _refuse(parts, _claims_here(nodes), "the file has both, and the node's contains its parts'")
    _refuse(parts, _claims_held(ledger, parts, _OF_NODES), "the ledger has the node's, which contains its parts'")
    _refuse(nodes, _claims_held(ledger, nodes, _OF_PARTS), "the ledger has its parts', which the node's contains")
    remainders = _claims_held(ledger, parts, _OF_REMAINDERS)
    remainders.run_ids.clear()  # a run may have further parts on another machine
    _refuse(parts, remainders, "the ledger has all that the node drew, as metered parts and a remainder")


def _refuse(measured: Iterable[Measurement], others: Claims, where: str) -> None:
    for m in measured:
        if met := others.what_meets(m):
            raise BadInput(
                f"the energy of the node and of its parts (here {m.component}) for {met}: {where}",
                "give the node's energy or that of its parts, not both",
            )


_OF_NODES: Final = "component = 'node'"
_OF_PARTS: Final = "component <> 'node'"
_OF_REMAINDERS: Final = f"component = 'other' and source = 'agent' and ends_with(device_id, '{REMAINDER}')"


def _claims_here(measured: Iterable[Measurement]) -> Claims:
    claims = Claims()
    for m in sorted(measured, key=lambda m: m.started_at_us):
        claims.spans[m.machine_id].add(m.started_at_us, m.ended_at_us)
        claims.run_ids |= {share.run_id for share in m.shares if share.run_id}
    return claims


def _claims_held(ledger: Ledger, measured: Sequence[Measurement], which: str) -> Claims:
    """What the ledger has of these machines' times and runs. which: condition on the rows that are meant."""
    claims = Claims()
    if not measured:
        return claims
    span = (min(m.started_at_us for m in measured), max(m.ended_at_us for m in measured))
    for machine, start, end in ledger.query(
        f"select machine_id, started_at_us, ended_at_us from measurement where {which}"  # noqa: S608
        " and machine_id in (select unnest(?::varchar[])) and ended_at_us > ? and started_at_us < ?"
        " order by started_at_us, ended_at_us",
        [sorted({m.machine_id for m in measured}), *span],
    ):
        claims.spans[machine].add(start, end)
    runs = sorted({share.run_id for m in measured for share in m.shares if share.run_id})
    held = ledger.query(
        "select distinct s.run_id from share as s join measurement as m on m.txn = s.txn and m.seq = s.seq where"  # noqa: S608
        f" {which} and s.millijoules > 0 and s.run_id in (select unnest(?::varchar[]))",
        [runs],
    )
    claims.run_ids |= {run_id for (run_id,) in held}
    return claims
