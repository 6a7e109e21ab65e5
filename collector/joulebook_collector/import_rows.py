"""What a row of an imported file may hold: the edge where foreign values are checked, by pydantic.

Units are in the column names. A row says its energy in exactly one unit; what a column's name does
not say is not taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Any, Final, Literal, TypeVar

from joulebook.errors import BadInput
from joulebook.rows import Component, Method, Status
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from joulebook_collector.columns import BIGINT_MAX
from joulebook_collector.near import near
from joulebook_collector.tables import Cells

MILLIJOULES: Final[Mapping[str, Decimal]] = {
    "microjoules": Decimal("0.001"),
    "millijoules": Decimal(1),
    "joules": Decimal(1000),
    "kilojoules": Decimal(1_000_000),
    "wh": Decimal(3_600_000),
    "kwh": Decimal(3_600_000_000),
    "mwh": Decimal(3_600_000_000_000),
}
"""Unit in a column's name -> millijoules; mwh is the megawatt hour."""

G_PER_KWH: Final[Mapping[str, Decimal]] = {
    "g_per_kwh": Decimal(1),
    "kg_per_kwh": Decimal(1000),
    "g_per_mwh": Decimal("0.001"),
    "kg_per_mwh": Decimal(1),
    "t_per_mwh": Decimal(1000),
    "lb_per_mwh": Decimal("0.45359237"),
}
"""Unit of an intensity in a column's name -> g/kWh."""

MOST: Final = Decimal(BIGINT_MAX) * 1000
"""The largest amount that is read, in any unit that a row is brought to: 64 bits of millijoules, as microjoules."""

U_ASSUMED: Final = {Method.COUNTER: 0.05, Method.INTEGRATED: 0.1, Method.MODELLED: 0.3}
"""Relative standard uncertainty taken, and labelled, for an import that states none."""


def _no_bare_number(value: Any) -> Any:
    if isinstance(value, datetime) or (isinstance(value, str) and not re.fullmatch(r"[-+.\deE]+", value)):
        return value
    raise ValueError("give ISO 8601 with a time zone, for example 2026-03-01T12:00:00Z")


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("give a number")  # noqa: TRY004 - pydantic collects ValueError
    return value


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _known_status(value: Status) -> Status:
    if value is Status.RUNNING:
        raise ValueError("an imported run has ended: ok, failed or interrupted")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_no_bare_number)]
Text = Annotated[str, BeforeValidator(_as_text), Field(min_length=1, max_length=512)]
Amount = Annotated[Decimal, BeforeValidator(_no_truth), Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, BeforeValidator(_no_truth), Field(ge=0, le=1, allow_inf_nan=False)]
Uncertainty = Annotated[float, BeforeValidator(_no_truth), Field(ge=0, le=2, allow_inf_nan=False)]
Real = Annotated[float, BeforeValidator(_no_truth), Field(allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_no_truth), Field(ge=0)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MeasurementRow(_Row):
    """Energy of one device over one span; run names whose it was, else it is unattributed."""

    machine: Text
    device: Text
    component: Component
    started_at: Moment
    ended_at: Moment
    energy_millijoules: Amount
    meter: Text = "import"
    method: Method | None = None
    u: Uncertainty | None = None
    coverage: Fraction = 1.0
    run: str = ""
    phase: str = ""
    member: str | None = None
    note: str = ""


class CounterRow(_Row):
    """One read of a device's cumulative energy, in microjoules."""

    machine: Text
    device: Text
    component: Component
    at: Moment
    energy_microjoules: Annotated[int, BeforeValidator(_no_truth), Field(ge=0)]
    wraps_at_microjoules: Annotated[int, BeforeValidator(_no_truth), Field(gt=0)] | None = None
    most_watts: Annotated[float, BeforeValidator(_no_truth), Field(gt=0, allow_inf_nan=False)] | None = None
    meter: Text = "import"
    u: Uncertainty | None = None
    run: str = ""
    phase: str = ""
    member: str | None = None


class RunRow(_Row):
    """One run, or one phase of it, that was measured elsewhere."""

    run: Text
    machine: Text
    started_at: Moment
    ended_at: Moment
    status: Annotated[Status, AfterValidator(_known_status)] = Status.OK
    name: str = ""
    project: str = ""
    study: str = ""
    arm: str = ""
    techniques: str = ""
    ensemble: str = ""
    ensemble_method: str = ""
    members: Count | None = None
    member: str | None = None
    seed: int | None = None
    parent: str = ""
    inherits: str = ""
    data_hash: str = ""
    phase: str = ""
    samples: Count | None = None
    flops: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    split: str = ""
    method: Method | None = None
    u: Uncertainty | None = None
    coverage: Fraction = 1.0
    source: str = ""
    note: str = ""
    energy: dict[Component, Amount] = {}
    quality: dict[str, Real] = {}


class FactorRow(_Row):
    """An intensity over a period or a year."""

    zone: Text
    g_per_kwh: Amount
    source: Text
    year: int | None = None
    started_at: Moment | None = None
    ended_at: Moment | None = None
    kind: str | None = None
    basis: str | None = None
    flow: str | None = None
    accounting: str | None = None
    gases: str | None = None
    u: Uncertainty | None = None
    status: Literal["", "forecast", "estimated"] = ""
    name: str = ""
    note: str = ""


R = TypeVar("R", bound=_Row)


def columns_of(kind: str) -> set[str]:
    """Columns of a kind of file, those that carry a unit apart."""
    models: dict[str, type[_Row]] = {
        "measurements": MeasurementRow,
        "counters": CounterRow,
        "runs": RunRow,
        "factors": FactorRow,
    }
    return set(models[kind].model_fields)


def parse_rows(model: type[R], rows: list[Cells], defaults: Mapping[str, Any]) -> list[R]:
    """Every row as the model. defaults: for cells that a row leaves empty.

    Raises BadInput with the number, column and cause of the first bad row.
    """
    return [_parse(model, {**_set(defaults), **cells}, number) for number, cells in enumerate(rows, start=1)]


def _set(defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in defaults.items() if value is not None}


def _parse(model: type[R], cells: Cells, number: int) -> R:
    try:
        return model.model_validate(_PREPARED.get(model, lambda same, _: same)(cells, number))
    except ValidationError as error:
        # An unknown column explains a missing one, so it is told first.
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        column = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise _unknown_column(column, model, number) from None
        if first["type"] == "missing":
            raise BadInput(f"row {number} has no {column}", f"add the column {_spelled(model, column)}") from None
        cause = first["msg"].removeprefix("Value error, ")
        raise BadInput(f"row {number}, {column}: {cause} (it is {first['input']!r})", "mend the row") from None


def _unknown_column(column: str, model: type[_Row], number: int) -> BadInput:
    known = [*model.model_fields, *_UNIT_COLUMNS.get(model, ())]
    meant = near(column, known) or sorted(known)
    return BadInput(
        f"row {number} has a column {column!r} that nothing knows (units are part of the name)",
        f"use one of: {', '.join(meant)}",
    )


def _spelled(model: type[_Row], column: str) -> str:
    units = _UNIT_COLUMNS.get(model, ())
    return f"{column}, or one of {', '.join(units)}" if units and column in (units[0], *units) else column


def _measurement_cells(cells: Cells, number: int) -> Cells:
    rest, amount = _one_of(cells, {f"energy_{unit}": scale for unit, scale in MILLIJOULES.items()}, number)
    if "power_watts" in rest:
        if amount is not None:
            raise BadInput(f"row {number} gives both power and energy", "give one of them")
        return _from_power(rest, number)
    return rest if amount is None else {**rest, "energy_millijoules": amount}


def _from_power(cells: Cells, number: int) -> Cells:
    """Mean power over the span as energy: a step, for the mean belongs to its whole window."""
    watts = _scaled(cells.pop("power_watts"), "power_watts", number, Decimal(1))
    ends = _Ends.model_validate({k: cells[k] for k in ("started_at", "ended_at") if k in cells})
    span = ends.ended_at - ends.started_at
    micros = span.days * 86_400_000_000 + span.seconds * 1_000_000 + span.microseconds
    return {"method": Method.INTEGRATED, **cells, "energy_millijoules": watts * micros / 1000}


class _Ends(BaseModel):
    started_at: Moment
    ended_at: Moment


def _counter_cells(cells: Cells, number: int) -> Cells:
    micro = {f"energy_{unit}": scale * 1000 for unit, scale in MILLIJOULES.items()}
    rest, amount = _one_of(cells, micro, number)
    wraps = {f"wraps_at_{unit}": scale * 1000 for unit, scale in MILLIJOULES.items()}
    rest, wraps_at = _one_of(rest, wraps, number)
    found = {"energy_microjoules": amount, "wraps_at_microjoules": wraps_at}
    return {**rest, **{name: int(value) for name, value in found.items() if value is not None}}


def _run_cells(cells: Cells, number: int) -> Cells:
    energy: dict[str, Decimal] = {}
    quality: dict[str, Any] = {}
    rest: Cells = {}
    for name, value in cells.items():
        if name in ("energy", "quality"):
            raise _unknown_column(name, RunRow, number)
        found = _ENERGY.fullmatch(name)
        if found:
            component, unit = found.groups()
            if component in energy:
                raise BadInput(f"row {number} gives the energy of {component} twice", "give it in one unit")
            energy[component] = _scaled(value, name, number, MILLIJOULES[unit])
        elif name.startswith("quality_") and len(name) > len("quality_"):
            quality[name.removeprefix("quality_")] = value
        else:
            rest[name] = value
    if isinstance(rest.get("techniques"), list):
        rest["techniques"] = json.dumps(rest["techniques"])
    if isinstance(rest.get("inherits"), list):
        rest["inherits"] = ";".join(map(str, rest["inherits"]))
    return {**rest, "energy": energy, "quality": quality}


def _factor_cells(cells: Cells, number: int) -> Cells:
    rest, amount = _one_of(cells, G_PER_KWH, number)
    return rest if amount is None else {**rest, "g_per_kwh": amount}


def _one_of(cells: Cells, scales: Mapping[str, Decimal], number: int) -> tuple[Cells, Decimal | None]:
    """The cells without those columns, and the value of the one that is there, scaled."""
    given = [name for name in scales if name in cells]
    if len(given) > 1:
        raise BadInput(f"row {number} gives {' and '.join(given)}", "give it in one unit")
    rest = {name: value for name, value in cells.items() if name not in scales}
    return rest, _scaled(cells[given[0]], given[0], number, scales[given[0]]) if given else None


def _scaled(value: Any, name: str, number: int, scale: Decimal) -> Decimal:
    """The amount in the unit that scale leads to; compared before it is multiplied, which could overflow."""
    amount = _decimal(value, name, number)
    if amount > MOST / scale:
        raise BadInput(
            f"row {number}, {name}: {value!r} is more than the ledger can hold", "mend the value or its unit"
        )
    return amount * scale


def _decimal(value: Any, name: str, number: int) -> Decimal:
    try:
        amount = Decimal(str(value))
    except ArithmeticError:
        amount = Decimal("nan")
    if isinstance(value, bool) or not amount.is_finite() or amount < 0:
        raise BadInput(f"row {number}, {name}: {value!r} is no amount", "give a finite number, 0 or more")
    return amount


def whole_millijoules(amount: Decimal) -> int:
    """An exact amount in millijoules, rounded to a whole one, half to even. Raises BadInput beyond 64 bits."""
    if amount > BIGINT_MAX:
        raise BadInput(f"{amount:.3g} mJ is more than the ledger can hold", "mend the value or its unit")
    return int(amount.quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


def micros(at: datetime) -> int:
    """An aware moment as UTC microseconds, exactly."""
    span = at - datetime(1970, 1, 1, tzinfo=UTC)
    return span.days * 86_400_000_000 + span.seconds * 1_000_000 + span.microseconds


_ENERGY: Final = re.compile(rf"energy_({'|'.join(Component)})_({'|'.join(MILLIJOULES)})")
_PREPARED: Final[dict[Any, Any]] = {
    MeasurementRow: _measurement_cells,
    CounterRow: _counter_cells,
    RunRow: _run_cells,
    FactorRow: _factor_cells,
}
_UNIT_COLUMNS: Final[dict[Any, tuple[str, ...]]] = {
    MeasurementRow: ("energy_millijoules", *(f"energy_{unit}" for unit in MILLIJOULES), "power_watts"),
    CounterRow: ("energy_microjoules", *(f"energy_{unit}" for unit in MILLIJOULES), "wraps_at_microjoules"),
    RunRow: ("energy_cpu_joules", "energy_gpu_joules", "energy_dram_joules", "quality_accuracy"),
    FactorRow: tuple(G_PER_KWH),
}
