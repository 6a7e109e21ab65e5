"""Sentences and cells that the terminal and the page share, made from a report's JSON object. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from joulebook_reports.uncertainty import (
    GRAMS,
    JOULES,
    WATT_HOURS,
    at_digits_of,
    decimals,
    emissions_text,
    energy_text,
    rounded,
    scale_for,
    significant,
)

NOT_MEASURED = "no meter"
NONE = "–"
MOST_DEVICES = 3
"""Devices named before a note that more of them carry."""


RunDocument = Mapping[str, Any]
StudyDocument = Mapping[str, Any]


def component_rows(doc: RunDocument) -> list[tuple[str, str, str, str]]:
    """(component, energy with interval, share of the run's energy, method)."""
    rows = []
    total = doc["energy_total_joules"]
    for name, joules in sorted(doc["energy_joules"].items()):
        shown = doc["component_names"].get(name, name)
        if joules is None:
            rows.append((shown, NOT_MEASURED, NONE, NONE))
            continue
        pair = doc["energy_interval_joules"].get(name)
        rows.append((shown, energy_text(joules, pair), _percent(joules, total), doc["method"].get(name, NONE)))
    rows.append(("total", energy_text(total, doc["energy_total_interval_joules"]), _percent(total, total), ""))
    return rows


def phase_rows(doc: RunDocument) -> list[tuple[str, str, str, str, str, str]]:
    """(phase, time, energy, edges, share, emissions), largest first.

    edges: how far the energy may be off for where the phase began and ended, a hard bound.

    A phase has no interval of its own: it is shown to the digits that the whole run's relative u allows.
    """
    rows = []
    u_energy = _relative(doc["energy_total_joules"], doc["energy_total_interval_joules"])
    u_grams = _relative(doc["emissions_g"], doc["emissions_interval_g"])
    phases = {name: sum(parts.values()) for name, parts in doc["phases"].items()}
    for name, joules in sorted(phases.items(), key=lambda item: (-item[1], item[0])):
        seconds = doc["phase_seconds"].get(name)
        grams = doc["emissions_by_phase_g"].get(name) if doc["emissions_g"] is not None else None
        time = NONE if seconds is None else duration_text(seconds)
        share = _percent(joules, doc["energy_total_joules"])
        energy = at_digits_of(joules, u_energy * joules, scale_for(joules, JOULES))
        emitted = NONE if grams is None else at_digits_of(grams, u_grams * grams, scale_for(grams, GRAMS))
        rows.append((name, time, energy, _edges(doc["phase_bounds_joules"].get(name), joules), share, emitted))
    return rows


def _edges(bounds: Sequence[float] | None, joules: float) -> str:
    """Two digits, rounded up: a bound that is rounded down is none."""
    if bounds is None:
        return NONE
    slack = max(bounds[1] - joules, joules - bounds[0])
    if slack <= 0:
        return "exact"
    step = 10.0 ** (math.floor(math.log10(slack)) - 1)
    return f"± {math.ceil(slack / step - 1e-9) * step:.{max(0, -math.floor(math.log10(step)))}f} J"


def _relative(value: float | None, pair: Sequence[float] | None) -> float:
    """Half-width at k = 2 as part of the value; 0 where either is missing."""
    return (pair[1] - value) / value if value and pair else 0.0


def child_rows(doc: RunDocument) -> list[tuple[str, str]]:
    """(child run or total, energy); empty without children."""
    rows = [(run_id, energy_text(joules)) for run_id, joules in sorted(doc["children"].items())]
    if not rows:
        return []
    own, total = energy_text(doc["energy_total_joules"]), energy_text(doc["energy_with_children_joules"])
    return [("this run's own", own), *rows, ("with child runs", total)]


def headline_energy(doc: RunDocument) -> str:
    """The run's own energy with its interval."""
    return energy_text(doc["energy_total_joules"], doc["energy_total_interval_joules"])


def headline_emissions(doc: RunDocument) -> str:
    """The run's own emissions with their interval, or that they are not priced."""
    if doc["emissions_g"] is None:
        return "not priced"
    return f"{emissions_text(doc['emissions_g'], doc['emissions_interval_g'])} {gases(doc)}"


def gases(doc: RunDocument) -> str:
    """CO2 or CO2e, as the series that priced the run says."""
    named = {gases_of(row["series"]) for row in doc["pricing"] if row["series"]}
    return next(iter(named)) if len(named) == 1 else "CO2e"


def gases_of(series: str) -> str:
    """The gases that a series' label ends with."""
    return series.rsplit(" ", 1)[-1]


def facility_text(doc: RunDocument) -> str:
    """Facility energy in watt hours, as people buy it."""
    kwh = doc["facility_energy_kwh"]
    if kwh is None:
        return "not known"
    scale = scale_for(kwh * 1000, WATT_HOURS)
    return f"{significant(kwh * 1000 / scale.factor)} {scale.unit}"


def pricing_rows(doc: RunDocument) -> list[tuple[str, str, str, str, str]]:
    """(site, PUE, intensity, series and label, source) per way of pricing."""
    rows = []
    for row in doc["pricing"]:
        note = doc["site_notes"].get(row["site"], "")
        site = f"{row['site']} ({note})" if note else row["site"]
        named = doc["pue_sources"].get(row["site"], "")
        pue = NONE if row["pue"] is None else f"{row['pue']:g} ± {100 * 2 * row['u_pue']:.2g} % ({named})"
        factor = "missing" if row["g_per_kwh"] is None else f"{_intensity(row)} ± {200 * row['u_g_per_kwh']:.2g} %"
        series = ", ".join(filter(None, (row["series"], row["label"]))) or row["missing"] or NONE
        rows.append((site, pue, factor, series, row["factor_source"] or NONE))
    return rows


def _intensity(row: Mapping[str, Any]) -> str:
    """An intensity, and the least and most of the hours that it is the mean of."""
    low, high = row["g_per_kwh_range"]
    spread = "" if low == high else f" ({low:.4g} to {high:.4g})"
    return f"{row['g_per_kwh']:.4g} g/kWh{spread}"


def restatement_lines(doc: Mapping[str, Any]) -> list[str]:
    """One line per change since the run was first priced."""
    lines = []
    for change in doc["restatements"]:
        whose = f"{change['run_id']}: " if "run_id" in change else ""
        delta = "no difference" if change["delta_g"] is None else signed_grams(change["delta_g"])
        if change["old_g"] is not None and change["new_g"] is not None:
            delta += f" ({emissions_text(change['old_g'])} before, {emissions_text(change['new_g'])} now)"
        lines.append(f"{whose}{delta} since {change['known_at'][:19]}Z: {change['reason']}")
    return lines


def signed_grams(delta_g: float) -> str:
    """A change of emissions, its sign shown."""
    return f"{'-' if delta_g < 0 else '+'}{emissions_text(abs(delta_g))}"


def duration_text(seconds: float) -> str:
    """``1 h 02 min``, ``3 min 05 s`` or ``4.2 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def status_text(doc: RunDocument) -> str:
    """The run's status and why."""
    return f"{doc['status']}: {doc['reason']}" if doc["reason"] else str(doc["status"])


def arm_rows(doc: StudyDocument) -> list[dict[str, str]]:
    """The cells of the comparison, one dict per arm."""
    return [_arm_cells(arm, doc) for arm in doc["arms"]]


def _arm_cells(arm: Mapping[str, Any], doc: StudyDocument) -> dict[str, str]:
    return {
        "arm": arm["arm"],
        "n": str(arm["n"]),
        "marginal": estimate_energy(arm["marginal_joules"]),
        "full": estimate_energy(arm["full_joules"]) if arm["inherits"] else "same",
        "ratio": estimate_ratio(arm["energy_ratio"]),
        "marginal_ratio": estimate_ratio(arm["marginal_ratio"]) if arm["inherits"] else NONE,
        "emissions": estimate_emissions(arm["full_emissions_g"]),
        "marginal_emissions": estimate_emissions(arm["marginal_emissions_g"]),
        "quality": estimate_plain(arm["quality"]),
        "quality_difference": estimate_signed(arm["quality_difference"]),
        "gate": gate_text(arm, doc),
        "inference": estimate_energy(arm["inference_joules_per_10k"]),
        "inference_ratio": estimate_ratio(arm["inference_ratio"]),
        "inference_verdict": arm["inference_verdict"] or NONE,
        "verdict": arm["verdict"],
        "holm": p_text(arm["energy_ratio"]),
        "inference_holm": p_text(arm["inference_ratio"]),
    }


def verdict_lines(doc: StudyDocument) -> list[str]:
    """One line per arm but the baseline, its inference told apart."""
    lines = []
    for arm in doc["arms"]:
        if arm["arm"] != doc["baseline"]:
            inference = f"; inference per 10,000: {arm['inference_verdict']}" if arm["inference_verdict"] else ""
            lines.append(f"{arm['arm']}: {arm['verdict']}{inference}")
    return lines


def quality_text(doc: StudyDocument) -> str:
    """The metric, the split that it is of, and how it is judged."""
    gate = doc["quality_gate"]
    on = f" on split {gate['split']}" if gate["split"] else ", no split named"
    return f"{gate['metric']}{on}; {gate['statement']}"


def p_text(ratio: Mapping[str, Any] | None) -> str:
    """The p value after Holm."""
    if not ratio or ratio.get("p_holm") is None:
        return NONE
    return "< 0.001" if ratio["p_holm"] < 0.001 else f"{ratio['p_holm']:.3f}"


def gate_text(arm: Mapping[str, Any], doc: StudyDocument) -> str:
    """What the quality gate answered for an arm."""
    if arm["arm"] == doc["baseline"]:
        return NONE
    if arm["not_inferior"] is None:
        return "not judged"
    change, higher = arm["quality_difference"], doc["quality_gate"]["direction"] == "higher"
    above, below = change["low"] > 0, change["high"] < 0
    if above if higher else below:
        return "better"
    if not arm["not_inferior"]:
        return "not shown equal"
    return "no worse than the margin" if (below if higher else above) else "equal"


def estimate_energy(found: Mapping[str, Any] | None) -> str:
    """Mean energy with its run-to-run interval."""
    if found is None:
        return NONE
    scale = scale_for(found["point"], JOULES)
    return _estimate({k: _scaled(found[k], scale.factor) for k in ("point", "low", "high")}, scale.unit)


def estimate_emissions(found: Mapping[str, Any] | None) -> str:
    """Mean emissions with their run-to-run interval."""
    if found is None:
        return NONE
    scale = scale_for(found["point"], GRAMS)
    return _estimate({k: _scaled(found[k], scale.factor) for k in ("point", "low", "high")}, scale.unit)


def estimate_ratio(found: Mapping[str, Any] | None) -> str:
    """A ratio and its interval, three decimals."""
    if found is None:
        return NONE
    if found["low"] is None:
        return f"{found['point']:.3f} (no interval)"
    return f"{found['point']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def estimate_plain(found: Mapping[str, Any] | None) -> str:
    """A mean in the metric's own unit."""
    return NONE if found is None else _estimate(found, "")


def estimate_signed(found: Mapping[str, Any] | None) -> str:
    """A difference in the metric's own unit, its sign shown."""
    if found is None:
        return NONE
    if found["low"] is None:
        return f"{found['point']:+.4g}"
    half = (found["high"] - found["low"]) / 2
    places = max(0, decimals(half)) if half > 0 else 4
    return f"{found['point']:+.{places}f} [{found['low']:+.{places}f}, {found['high']:+.{places}f}]"


def _estimate(found: Mapping[str, Any], unit: str) -> str:
    """Point and interval to two digits of its half-width, but three to four of the point."""
    point, low, high = found["point"], found["low"], found["high"]
    if low is None or high is None:
        return f"{significant(point)} {unit}".strip()
    half = (high - low) / 2
    finest = 3 - math.floor(math.log10(abs(point))) if point else 3
    places = min(finest, max(finest - 1, 1 - math.floor(math.log10(half)))) if half > 0 else finest
    return f"{rounded(point, places)} [{rounded(low, places)}, {rounded(high, places)}] {unit}".strip()


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value / factor


def reference_text(doc: StudyDocument) -> str:
    """The reference site in one sentence."""
    ref = doc["reference"]
    if ref["missing"]:
        return f"Emissions not priced: {ref['missing']}"
    notes = [f"{site} ({doc['site_notes'][site]})" if site in doc["site_notes"] else site for site in ref["sites"]]
    label = "; ".join(ref["labels"])
    return (
        f"Every arm at PUE {ref['pue']:.4g} and {ref['g_per_kwh']:.4g} g/kWh ({ref['series']}"
        f"{'; ' + label if label else ''}), site {', '.join(notes)}, source {', '.join(ref['sources'])};"
        f" these factors are uncertain by ± {200 * ref['u_rel']:.2g} % (k = 2), which moves all arms alike"
    )


def inherits(doc: StudyDocument) -> bool:
    """True when some arm reuses the cost of other runs."""
    return any(arm["inherits"] for arm in doc["arms"])


def note_lines(doc: Mapping[str, Any]) -> list[str]:
    """Notes without the machine's id before each device where there is but one machine, each text once.

    Devices that carry the same text stand together before it: ``a, b, c and 9 more: text``.
    """
    machine = doc.get("machine_id") or _common_machine(doc["notes"])
    by_text: dict[str, list[str]] = defaultdict(list)
    for note in sorted({note.removeprefix(f"{machine}/") for note in doc["notes"]}):
        device, colon, text = note.partition(": ")
        by_text[f": {text}" if colon else note] += [device] * bool(colon)
    return sorted(_named(devices) + text for text, devices in by_text.items())


def _named(devices: Sequence[str]) -> str:
    more = f" and {len(devices) - MOST_DEVICES} more" if len(devices) > MOST_DEVICES else ""
    return ", ".join(devices[:MOST_DEVICES]) + more


def _common_machine(notes: Sequence[str]) -> str:
    machines = {note.partition("/")[0] for note in notes if "/" in note.partition(":")[0]}
    return next(iter(machines)) if len(machines) == 1 else ""


def _percent(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else NONE


def example_sites(doc: Mapping[str, Any]) -> Sequence[str]:
    """Sites whose own note says that they are an example, not a place."""
    return [f"{site}: {note}" for site, note in sorted(doc["site_notes"].items()) if "example" in note.lower()]


def book_lines(doc: Mapping[str, Any]) -> list[str]:
    """The whole book's check and what it sets apart, empty where it was not made."""
    book = doc["book"]
    if book is None:
        return []
    apart = {
        "shadowed by a better look at the same device": book["shadowed"],
        "refused and kept in quarantine": book["quarantined"],
        "rows that never arrived": book["missing_rows"],
    }
    found = [f"{count:,} {what}" for what, count in apart.items() if count]
    return [
        f"the whole book: {book['measurements']:,} measurements as they were written"
        + (f"; {', '.join(found)}" if found else "")
    ]
