"""Golden files of reports. Renew and then review them: pytest tests/golden/reports --renew-golden"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-golden", action="store_true", help="Write golden files anew instead of comparing.")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare text with a golden file, or write it when renewing."""
    renew = request.config.getoption("--renew-golden", default=False)

    def compare(name: str, text: str) -> None:
        path = HERE / name
        if renew:
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), "renew with: pytest tests/golden/reports --renew-golden"

    return compare
