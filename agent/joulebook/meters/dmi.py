"""What the firmware calls the machine: the model of whatever meters all of it."""

from __future__ import annotations

from joulebook.meters import Roots
from joulebook.rows import MAX_TEXT


def product_name(roots: Roots) -> str:
    """Vendor and product of the machine, "" where the firmware does not tell."""
    words = []
    for name in ("sys_vendor", "product_name"):
        try:
            words.append((roots.sys / "class" / "dmi" / "id" / name).read_text(errors="replace").strip())
        except OSError:
            continue
    return " ".join(word for word in words if word.isprintable())[: MAX_TEXT // 2].strip()
