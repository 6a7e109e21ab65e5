"""Imports go one way: agent <- collector <- reports. Studies use the SDK as a user does, and nobody uses studies."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"joulebook": 0, "joulebook_collector": 1, "joulebook_reports": 2}
FOLDERS = {"agent": 0, "collector": 1, "reports": 2}
HEAVY = {"duckdb", "matplotlib", "scipy", "torch", "pyarrow", "numpy", "pandas", "jinja2"}


def imported_by(tree):
    """Top names of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


def modules(folder):
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_go_one_way(folder):
    assert modules(folder)
    for path in modules(folder):
        upwards = {
            name
            for name in imported_by(ast.parse(path.read_text()))
            if PACKAGES.get(name, 0) > FOLDERS[folder] or name == "joulebook_studies"
        }
        assert not upwards, f"{path.relative_to(ROOT)} imports {upwards}"


def test_studies_use_the_book_as_a_user_does():
    for path in modules("studies"):
        names = set(imported_by(ast.parse(path.read_text())))
        assert not names & {"joulebook_collector", "joulebook_reports"}, path


def test_the_agent_needs_nothing_heavy():
    for path in modules("agent"):
        assert not set(imported_by(ast.parse(path.read_text()))) & (HEAVY | {"pydantic", "rich"}), path


def test_help_is_quick_because_no_verb_imports_heavy_packages_to_show_it():
    import subprocess
    import sys

    probe = (
        "import sys\nfrom click.testing import CliRunner\nfrom joulebook.cli import cli\n"
        "told = CliRunner().invoke(cli, ['--help'])\nassert told.exit_code == 0, told.output\n"
        f"print(sorted({HEAVY - {'numpy'}!r} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
