"""Rows of the book as columns of the ledger, and back.

Going in, every value must fit its column exactly: what does not is refused in words. Coming out,
nothing is trusted: law 1 is checked on the raw numbers before a Measurement is built.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec
from joulebook.errors import BadInput, LedgerError
from joulebook.rows import (
    Body,
    Component,
    Mark,
    Measurement,
    Method,
    Policy,
    Reassignment,
    Run,
    Share,
    ShareKind,
    Status,
    Weights,
    kind_of,
    labels_from_wire,
    share_from_wire,
)

from joulebook_collector.chain import pack_values
from joulebook_collector.schema import MARK, MEASUREMENT, REASSIGNMENT, RUN, SHARE

BIGINT_MAX: Final = 2**63 - 1
_TO_TEXT: Final = msgspec.json.Encoder(order="deterministic")

Values = tuple[Any, ...]


class Record(msgspec.Struct, frozen=True, gc=False):
    """One row as columns. shares: of a measurement, else empty. packed: all of it, as chain.pack_values makes it."""

    kind: str
    values: Values
    shares: tuple[Values, ...]
    packed: bytes


def record_of(body: Body) -> Record:
    """The row as columns. Raises BadInput when a value does not fit its column."""
    kind = kind_of(body)
    maker, columns = _MAKERS[kind]
    try:
        values = _fitted(kind, columns, maker(body))
        shares: tuple[Values, ...] = ()
        if isinstance(body, Measurement):
            shares = tuple(_fitted("share", SHARE, _share_values(i, share)) for i, share in enumerate(body.shares))
        return Record(kind, values, shares, pack_values(values, shares))
    except (TypeError, OverflowError, UnicodeEncodeError) as error:
        raise BadInput(f"a {kind} row cannot be written as JSON: {error}", "send JSON types in UTF-8") from error


def measurement_records(measured: Sequence[Measurement]) -> list[Record] | None:
    """``record_of`` each of them, five times as fast; None when any does not fit, a negative zero included."""
    rows = list(map(_VALUES, measured))
    shares = [tuple([_share_values(i, share) for i, share in enumerate(m.shares)]) for m in measured]
    flat = [share for group in shares for share in group]
    if not _fit_at_once(rows, MEASUREMENT) or not _fit_at_once(flat, SHARE):
        return None
    try:
        return [
            Record("measurement", row, group, pack_values(row, group)) for row, group in zip(rows, shares, strict=True)
        ]
    except (OverflowError, UnicodeEncodeError):
        return None


def _fit_at_once(rows: Sequence[Values], columns: Sequence[tuple[str, str]]) -> bool:
    return all(_AT_ONCE[sql](column) for (_, sql), column in zip(columns, zip(*rows, strict=True), strict=False))


def _whole_at_once(column: Sequence[Any]) -> bool:
    return set(map(type, column)) == {int} and min(column) >= -BIGINT_MAX and max(column) <= BIGINT_MAX


def _whole_or_none_at_once(column: Sequence[Any]) -> bool:
    kinds = set(map(type, column))
    if kinds == {_NONE}:
        return True
    return kinds <= {int, _NONE} and _whole_at_once([value for value in column if value is not None])


def _real_at_once(column: Sequence[Any]) -> bool:
    """Not negative, negative zero and not a number included: their bits are those of larger whole numbers."""
    if set(map(type, column)) != {float}:
        return False
    return max(memoryview(array("d", column)).cast("B").cast("Q")) < _BITS_OF_INFINITY


def _text_at_once(column: Sequence[Any]) -> bool:
    return set(map(type, column)) <= _TEXTS


def _text_or_none_at_once(column: Sequence[Any]) -> bool:
    return set(map(type, column)) <= _TEXTS_AND_NONE


_NONE: Final = type(None)
_TEXTS: Final = {str, Component, Method, Policy, ShareKind}
_TEXTS_AND_NONE: Final = _TEXTS | {_NONE}
_BITS_OF_INFINITY: Final = 0x7FF0_0000_0000_0000
_VALUES: Final = attrgetter(*(name for name, _ in MEASUREMENT))
_AT_ONCE: Final[dict[str, Callable[[Sequence[Any]], bool]]] = {
    "bigint": _whole_at_once,
    "bigint null": _whole_or_none_at_once,
    "double": _real_at_once,
    "varchar": _text_at_once,
    "varchar null": _text_or_none_at_once,
}


def as_text(value: Any) -> str:
    """JSON text with sorted keys: equal values give equal text."""
    return _TO_TEXT.encode(value).decode()


def measurement_from(values: Sequence[Any], shares: Sequence[Sequence[Any]]) -> Measurement:
    """A stored measurement with its stored shares.

    values: in the order of schema.MEASUREMENT; shares: in that of schema.SHARE.
    Raises LedgerError naming the row when the shares do not exhaust it (law 1), or a value is none
    that could have been stored.
    """
    (machine_id, boot_id, device_id, component, started_at_us, ended_at_us, started_ns, ended_ns, energy, *rest) = (
        values
    )
    if sum(share[2] for share in shares) != energy:
        raise LedgerError(
            f"the shares of {device_id} on {machine_id} at {started_at_us} us sum to "
            f"{sum(share[2] for share in shares)} mJ, its measurement is {energy} mJ",
            "restore the ledger from a backup: a row was altered after it was written",
        )
    meter, method, u_common, u_common_key, u_indep, coverage, source, idle, note, *slack = rest
    try:
        return Measurement(
            machine_id,
            boot_id,
            device_id,
            Component(component),
            started_at_us,
            ended_at_us,
            started_ns,
            ended_ns,
            energy,
            meter,
            Method(method),
            u_common,
            u_common_key,
            u_indep,
            coverage,
            source,
            tuple(_share_from(share) for share in shares),
            idle,
            note,
            *slack,
        )
    except (BadInput, ValueError) as error:
        raise LedgerError(
            f"the measurement of {device_id} on {machine_id} at {started_at_us} us cannot be read: {error}",
            "restore the ledger from a backup: a row was altered after it was written",
        ) from error


def run_from(values: Sequence[Any]) -> Run:
    """A stored run, from columns in the order of schema.RUN."""
    run_id, machine_id, boot_id, status, started_at_us, started_ns, labels, ended_at_us, ended_ns, exit_code = values[
        :10
    ]
    command, record, reason, notes, source = values[10:15]
    return Run(
        run_id,
        machine_id,
        boot_id,
        Status(status),
        started_at_us,
        started_ns,
        labels_from_wire(msgspec.json.decode(labels)),
        ended_at_us,
        ended_ns,
        exit_code,
        tuple(msgspec.json.decode(command)),
        msgspec.json.decode(record),
        reason,
        tuple(msgspec.json.decode(notes)),
        source,
    )


def mark_from(values: Sequence[Any]) -> Mark:
    """A stored mark, from columns in the order of schema.MARK."""
    named = {name: value for (name, _), value in zip(MARK, values, strict=True)}
    return Mark(**{**named, "quality": msgspec.json.decode(named["quality"])})


def reassignment_from(values: Sequence[Any]) -> Reassignment:
    """A stored reassignment, from columns in the order of schema.REASSIGNMENT."""
    incarnation, seq, millijoules, from_share, to_share, _ = values
    return Reassignment(
        incarnation,
        seq,
        millijoules,
        share_from_wire(msgspec.json.decode(from_share)),
        share_from_wire(msgspec.json.decode(to_share)),
    )


def _share_from(values: Sequence[Any]) -> Share:
    _, kind, millijoules, policy, run_id, phase, member, rank, cpu_seconds, sm_seconds, reserved = values
    weights = Weights(cpu_seconds, sm_seconds, reserved)
    return Share(_KIND[kind], millijoules, _POLICY[policy], run_id, phase, member, rank, weights)


def _measurement_values(m: Measurement) -> Values:
    return (
        *(m.machine_id, m.boot_id, m.device_id, m.component, m.started_at_us, m.ended_at_us, m.started_ns, m.ended_ns),
        *(m.energy_millijoules, m.meter, m.method, m.u_common, m.u_common_key, m.u_indep, m.coverage, m.source),
        *(m.idle_millijoules, m.note, m.start_slack_millijoules, m.end_slack_millijoules),
    )


def _share_values(ordinal: int, s: Share) -> Values:
    w = s.weights
    return (
        ordinal, s.kind, s.millijoules, s.policy, s.run_id, s.phase, s.member, s.rank,
        w.cpu_seconds, w.sm_seconds, w.reserved_fraction,
    )  # fmt: skip


def _run_values(r: Run) -> Values:
    return (
        *(r.run_id, r.machine_id, r.boot_id, r.status, r.started_at_us, r.started_ns, as_text(r.labels)),
        *(r.ended_at_us, r.ended_ns, r.exit_code, as_text(r.command), as_text(r.record), r.reason),
        *(as_text(r.notes), r.source, r.labels.study, r.labels.parent_run_id),
    )


def _mark_values(m: Mark) -> Values:
    *plain, quality, synced = (getattr(m, name) for name, _ in MARK)
    return (*plain, as_text(quality), synced)


def _reassignment_values(r: Reassignment) -> Values:
    shares = (as_text(r.from_share), as_text(r.to_share))
    return (r.incarnation, r.seq, r.millijoules, *shares, r.to_share.run_id)


def _fitted(kind: str, columns: Sequence[tuple[str, str]], values: Values) -> Values:
    return tuple(_FIT[sql](kind, name, value) for (name, sql), value in zip(columns, values, strict=True))


def _whole(kind: str, name: str, value: Any) -> int:
    if type(value) is int and -BIGINT_MAX <= value <= BIGINT_MAX:
        return value
    raise BadInput(f"{name} of a {kind} row is {value!r}", "give a whole number within 64 bits")


def _real(kind: str, name: str, value: Any) -> float:
    if type(value) in (float, int) and math.isfinite(value):
        return float(value) + 0.0  # no negative zero: it would be another text with the same value
    raise BadInput(f"{name} of a {kind} row is {value!r}", "give a finite number")


def _text(kind: str, name: str, value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    raise BadInput(f"{name} of a {kind} row is {value!r}", "give text")


def _truth(kind: str, name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise BadInput(f"{name} of a {kind} row is {value!r}", "give true or false")


def _or_none(fit: Callable[[str, str, Any], Any]) -> Callable[[str, str, Any], Any]:
    return lambda kind, name, value: None if value is None else fit(kind, name, value)


_KIND: Final = {str(kind): kind for kind in ShareKind}
_POLICY: Final = {str(policy): policy for policy in Policy}
_FIT: Final[dict[str, Callable[[str, str, Any], Any]]] = {
    "bigint": _whole,
    "double": _real,
    "varchar": _text,
    "boolean": _truth,
    "bigint null": _or_none(_whole),
    "double null": _or_none(_real),
    "varchar null": _or_none(_text),
}
_MAKERS: Final[dict[str, tuple[Callable[[Any], Values], Sequence[tuple[str, str]]]]] = {
    "measurement": (_measurement_values, MEASUREMENT),
    "run": (_run_values, RUN),
    "mark": (_mark_values, MARK),
    "reassignment": (_reassignment_values, REASSIGNMENT),
}
