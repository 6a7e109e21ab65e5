"""Files of rows: CSV, JSON lines and Parquet, read whole, each row with its number."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from joulebook.errors import BadInput

Cells = dict[str, Any]


def read_table(path: Path) -> list[Cells]:
    """Rows of a file as dicts, in order; cells that are empty or null are left out. At least one row.

    Raises BadInput on a suffix, an encoding or a shape that it cannot read.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise BadInput(f"cannot tell the format of {path.name}", f"name it {', '.join(sorted(READERS))}")
    try:
        rows = reader(path)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", "give a file that you may read") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text: {error.reason}", "save it as UTF-8") from error
    if not rows:
        raise BadInput(f"{path} has no rows", "give at least one row under the header")
    return [_filled(row, number) for number, row in enumerate(rows, start=1)]


def file_identity(path: Path) -> str:
    """Hash of the file's bytes: importing the same bytes twice counts once."""
    return sha256(path.read_bytes()).hexdigest()[:32]


def _filled(row: Mapping[Any, Any], number: int) -> Cells:
    if None in row or any(value is None and key is None for key, value in row.items()):
        raise BadInput(f"row {number} has more cells than the header has names", "quote cells that hold a comma")
    cells = {str(key).strip(): _stripped(value) for key, value in row.items()}
    return {key: value for key, value in cells.items() if value is not None and value != ""}


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _read_csv(path: Path) -> list[Cells]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            names = reader.fieldnames or []
            if len(set(names)) != len(names):
                raise BadInput(f"{path.name} names a column twice", "give every column its own name")
            return list(reader)
        except csv.Error as error:
            raise BadInput(f"line {reader.reader.line_num} of {path.name}: {error}", "mend the quoting") from error


def _read_json_lines(path: Path) -> list[Cells]:
    rows: list[Cells] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
        except ValueError as error:
            raise BadInput(f"line {number} of {path.name} is not JSON: {error}", "give one object per line") from error
        if not isinstance(row, dict):
            raise BadInput(f"line {number} of {path.name} is not an object", "give one object per line")
        rows.append(row)
    return rows


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not a number")


def _read_parquet(path: Path) -> list[Cells]:
    import duckdb

    path.stat()
    with duckdb.connect() as db:
        try:
            kinds = db.execute("describe select * from read_parquet(?)", [str(path)]).fetchall()
            names = [name for name, *_ in kinds]
            wanted = ", ".join(_parquet_column(name, kind) for name, kind, *_ in kinds)
            rows = db.execute(f"select {wanted} from read_parquet(?)", [str(path)]).fetchall()  # noqa: S608
        except duckdb.Error as error:
            raise BadInput(f"cannot read {path.name}: {str(error).splitlines()[0]}", "give a Parquet file") from error
    return [dict(zip(names, row, strict=True)) for row in rows]


def _parquet_column(name: str, kind: str) -> str:
    """A time with a zone as UTC text, exactly: as a value it would need one more package."""
    quoted = '"' + name.replace('"', '""') + '"'
    if kind != "TIMESTAMP WITH TIME ZONE":
        return quoted
    return f"strftime({quoted} at time zone 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')"


READERS: Final[dict[str, Callable[[Path], list[Cells]]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}
