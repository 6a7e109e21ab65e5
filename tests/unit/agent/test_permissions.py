"""The how-to of permissions is whole: a row for every meter, and every option of the reader."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from joulebook import reader
from joulebook.meters import METERS

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "permissions.md").read_text()


@pytest.mark.parametrize("name", sorted(METERS))
def test_every_meter_says_what_it_needs_and_what_that_gives_away(name: str) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
    cells = [cell.strip() for cell in row.strip("|").split(" | ")]
    assert len(cells) == 5
    assert all(cells)


def test_every_option_of_the_reader_has_its_row() -> None:
    words = [sys.executable, "-I", reader.__file__, "--help"]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"^ +(?:-h, )?(--[a-z]+)", told, re.MULTILINE)) - {"--help"}
    assert options == set(re.findall(r"^\| `(--[a-z]+)", PAGE, re.MULTILINE))
    for figure in (reader.MOST_PEERS, reader.MOST_PEERS_OF_A_USER):
        assert re.search(rf"\b{figure}\b", PAGE)


def test_the_reader_imports_nothing_of_ours() -> None:
    text = Path(reader.__file__).read_text()
    modules = set(re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE))
    assert modules - {"__future__"} <= set(sys.stdlib_module_names)
