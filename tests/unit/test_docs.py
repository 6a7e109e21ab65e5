"""The docs are whole: links resolve, every option and setting has its row, every command in them is one that exists."""

import re
import shlex
from pathlib import Path

import click
import pytest
from joulebook.cli import cli
from joulebook_studies.catalogue import ENTRIES

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
SOURCES = [path for folder in ("agent", "collector", "reports", "studies") for path in (ROOT / folder).rglob("*.*")]
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
VARIABLE = re.compile(r"\bJOULEBOOK_[A-Z][A-Z_]*[A-Z]\b")


def name_of(path):
    return str(path.relative_to(ROOT))


def commands(command, words=()):
    """Every command below, with the words that call it."""
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), (*words, name))


COMMANDS = dict(commands(cli))
OPTIONS = [
    (words, [name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--")])
    for words, command in COMMANDS.items()
    for parameter in command.params
    if isinstance(parameter, click.Option) and not parameter.hidden and not parameter.is_eager
]
"""Each option of each verb with its names: a switch has one for on and one for off."""
DOCUMENTED = "\n".join(
    path.read_text() for folder in ("reference", "how-to") for path in (ROOT / "docs" / folder).glob("*.md")
)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page):
    broken = [
        target
        for target in LINK.findall(page.read_text())
        if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists()
    ]
    assert not broken


def has_its_row(names):
    return any(re.search(rf"{name}(?![\w-])", DOCUMENTED) for name in names)


def test_every_option_has_its_row():
    missing = [f"{' '.join(words)} {names[0]}" for words, names in OPTIONS if not has_its_row(names)]
    assert not missing


def test_every_verb_says_what_it_does_and_shows_examples():
    for words, command in COMMANDS.items():
        told = f"{command.help or ''}{command.epilog or ''}"
        assert told, words
        if not isinstance(command, click.Group):
            assert "joulebook " in told, f"no example in the help of {' '.join(words)}"


def variables_in_code():
    texts = [path.read_text() for path in SOURCES if path.suffix in {".py", ".c", ".sh"}]
    return {name for text in texts for name in VARIABLE.findall(text)}


def test_every_variable_has_its_row_and_no_row_is_stale():
    page = (ROOT / "docs/reference/settings.md").read_text()
    rows = {
        name for line in page.splitlines() if line.startswith("| `") for name in VARIABLE.findall(line.split("|")[1])
    }
    assert rows == variables_in_code()


def test_every_arm_of_the_study_has_its_row():
    page = (ROOT / "docs/reference/demo.md").read_text()
    for entry in ENTRIES:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{entry.name}` |")]
        assert ", ".join(entry.phases) in row
        assert entry.trades in row


def shown_commands():
    """Commands shown in the pages: indented lines, continuation lines joined."""
    for page in PAGES:
        for line in page.read_text().replace("\\\n", " ").splitlines():
            code = line.strip().removeprefix("$ ")
            if code.startswith("joulebook ") and line.startswith("    "):
                yield pytest.param(code, id=f"{name_of(page)}: {code[:60]}")


def split_words(code):
    try:
        return shlex.split(code, comments=True)
    except ValueError:
        return code.split()


@pytest.mark.parametrize("code", [*shown_commands()])
def test_shown_commands_exist(code):
    ours = split_words(code)[1:]
    ours = ours[: ours.index("--")] if "--" in ours else ours
    words = ()
    while len(ours) > len(words) and (*words, ours[len(words)]) in COMMANDS:
        words = (*words, ours[len(words)])
    known = {name for path, names in OPTIONS if path in (words, ()) for name in names} | {"--help", "--version"}
    assert words or set(ours) & known, code
    unknown = [word for word in ours if word.startswith("--") and word.split("=")[0] not in known]
    assert not unknown
