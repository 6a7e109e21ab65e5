"""How agent/joulebook/data/cpu_power.csv was made: the rows of a larger table that give power per thread.

    python tools/make_cpu_table.py LARGE.csv > agent/joulebook/data/cpu_power.csv

Kept: rows with a vendor, a TDP that is no estimate and a core count, without which no power per thread follows; of two
rows whose names are read alike (joulebook.cpus.plain_name) the one that states its threads.
"""

import csv
import sys
from pathlib import Path

from joulebook.cpus import plain_name

COLUMNS = ("model", "vendor", "tdp_w", "cores", "threads", "is_server", "source")


def kept(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows of the small table, one per name, in order of name."""
    full = [row for row in rows if row["vendor"] and row["tdp_w"] and row["cores"] and not row["note"]]
    by_name = {plain_name(row["model"]): row for row in sorted(full, key=lambda row: bool(row["threads"]))}
    return sorted(by_name.values(), key=lambda row: (row["vendor"], row["model"]))


if __name__ == "__main__":
    with Path(sys.argv[1]).open(newline="") as file:
        table = kept(list(csv.DictReader(file)))
    writer = csv.DictWriter(sys.stdout, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
