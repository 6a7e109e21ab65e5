"""CSV, JSON lines or Parquet files of intensities, in the columns of ``joulebook import factors``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from joulebook.errors import BadInput

from joulebook_collector.factors import WORDS
from joulebook_collector.grid import DAY_US, Ask, Provider, Rate, Value
from joulebook_collector.grid.session import Session
from joulebook_collector.import_rows import FactorRow, micros, parse_rows
from joulebook_collector.tables import read_table

SETTING = "JOULEBOOK_GRID_FILE"


def fetch(session: Session, ask: Ask) -> Iterator[Value]:
    """Rows of the zone and the series; a word that a row does not say is the one asked for: all of them were said."""
    named = os.environ.get(SETTING)
    if not named:
        raise BadInput("no file of intensities is named", f"set {SETTING} to a CSV, JSON lines or Parquet file")
    path = Path(named)
    learnt_at = path.stat().st_mtime if path.exists() else session.waits.now()
    session.learnt(learnt_at)
    for row in parse_rows(FactorRow, read_table(path), {"source": path.name}):
        said = {word: getattr(row, word) for word in WORDS}
        same = all(value in (None, getattr(ask.series, word)) for word, value in said.items())
        if row.zone == ask.code and same and row.started_at is not None and row.ended_at is not None:
            period = (micros(row.started_at), micros(row.ended_at))
            yield Value(*period, float(row.g_per_kwh), row.status, row.u, row.note, row.source)


PROVIDER = Provider(
    name="file",
    title="a file of intensities",
    series=(),
    url="",
    url_setting=SETTING,
    most_span_us=36525 * DAY_US,
    rate=Rate(1000, 1),
    fetch=fetch,
    verified="yes",
    licence="the file's own",
    forecasts=True,
    online=False,
)
