"""Reports as one self-contained HTML page: inline style, inline SVG, no script, prints on A4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from joulebook_reports import plots, tables, words
from joulebook_reports.power import Traces


def run_page(doc: Mapping[str, Any], traces: Traces) -> str:
    """The page of one run."""
    return _rendered("run.html", doc, by_phase=plots.energy_by_phase(doc), power=plots.power_over_time(traces))


def study_page(doc: Mapping[str, Any]) -> str:
    """The page of one study."""
    return _rendered(
        "study.html",
        doc,
        rows=words.arm_rows(doc),
        energy=plots.energy_per_arm(doc),
        quality=plots.quality_against_cost(doc),
        inference=plots.inference_per_arm(doc),
        differences=tables.differences(doc),
        measurement=tables.measurement_lines(doc),
    )


def _rendered(template: str, doc: Mapping[str, Any], **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("joulebook_reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Only the drawings, whose text matplotlib has escaped, go in as markup.
    drawn = {name: Markup(v) if isinstance(v, str) else v for name, v in values.items()}  # noqa: S704
    return environment.get_template(template).render(doc=doc, words=words, **drawn)
