"""CONTRIBUTING's example meter is a meter: taken from the page and put through the contract tests of all meters."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[3]
CONTRACT = ROOT / "tests" / "contract" / "agent" / "test_meters.py"
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
FILE = re.compile(r"^`(agent/joulebook/\S+\.py)`\n\n```python\n(.*?)```", re.DOTALL | re.MULTILINE)
NAME = "corsairpsu"

PLUGIN = """
from pathlib import Path

import joulebook.meters, joulebook.simulate

HERE = Path(__file__).parent
for package in (joulebook.meters, joulebook.simulate):
    package.__path__.append(str(HERE / "agent" / package.__name__.replace(".", "/")))

from joulebook.meters import METERS, Entry

METERS.update(eval("{" + (HERE / "row.txt").read_text() + "}"))


def pytest_collection_modifyitems(items):
    for item in items:
        item.module.DOCS = HERE / "docs"
"""


def page() -> str:
    """The page's section on meters."""
    return (ROOT / "CONTRIBUTING.md").read_text().partition("## Add a meter")[2].partition("\n## ")[0]


def one_block(beginning: str) -> str:
    """The one block that begins so."""
    (found,) = [text for _, text in BLOCK.findall(page()) if text.startswith(beginning)]
    return found


@pytest.fixture
def contributed(tmp_path: Path) -> Path:
    """The page's files as its reader would have written them, beside the project, and a plugin that adds them."""
    files = dict(FILE.findall(page()))
    assert files.keys() == {f"agent/joulebook/{package}/{NAME}.py" for package in ("meters", "simulate")}
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "row.txt").write_text(one_block(f'"{NAME}"'))
    (tmp_path / "docs" / "reference").mkdir(parents=True)
    (tmp_path / "docs" / "reference" / "meters.md").write_text(one_block(f"| `{NAME}`"))
    (tmp_path / "contributed.py").write_text(PLUGIN)
    return tmp_path


def contract_tests() -> set[str]:
    """Names of the tests that run for every meter."""
    functions = [node for node in ast.parse(CONTRACT.read_text()).body if isinstance(node, ast.FunctionDef)]
    return {
        f.name for f in functions if f.name.startswith("test_") and "name" in [argument.arg for argument in f.args.args]
    }


def outcomes(contributed: Path) -> dict[str, str]:
    """Contract test -> "passed", or what went wrong."""
    results = contributed / "results.xml"
    words = ["-p", "contributed", "-p", "no:cacheprovider", "-q", "-k", NAME, f"--junitxml={results}", str(CONTRACT)]
    path = os.pathsep.join([str(contributed), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert results.exists(), done.stdout + done.stderr
    cases = ElementTree.parse(results).getroot().iter("testcase")
    return {case.get("name", ""): "; ".join(found.get("message", "") for found in case) or "passed" for case in cases}


@pytest.mark.slow
def test_the_page_s_meter_passes_every_contract_test_of_meters(contributed: Path) -> None:
    assert len(contract_tests()) >= 10
    assert outcomes(contributed) == {f"{test}[{NAME}]": "passed" for test in contract_tests()}


@pytest.mark.slow
def test_a_wrong_meter_on_the_page_would_be_found(contributed: Path) -> None:
    meter = contributed / "agent" / "joulebook" / "meters" / f"{NAME}.py"
    meter.write_text(meter.read_text().replace("power_milliwatts=power", "power_milliwatts=power // 10"))
    wrong = {test for test, outcome in outcomes(contributed).items() if outcome != "passed"}
    assert wrong == {f"test_the_energy_is_the_true_one_within_what_the_meter_says[{NAME}]"}


def test_the_page_s_code_passes_the_checks_of_make_check(contributed: Path) -> None:
    files = [contributed / path for path in dict(FILE.findall(page()))]
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--config", str(ROOT / "pyproject.toml"), *files],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
