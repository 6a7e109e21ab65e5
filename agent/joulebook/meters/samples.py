"""The samples of a Prometheus page that are wanted, read as the page comes: most of a page is never held or parsed.

Source: Prometheus exposition format 0.0.4. An own reader, since the general one costs 1.7 MiB and the time of parsing
pages that hold thousands of other samples.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

LONGEST_LINE: Final = 1 << 16
_SAMPLE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?[ \t]+([^ \t}]+)")
_LABEL: Final = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(?:,|$)')
_ESCAPE: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a page. value: in the metric's own unit."""

    name: str
    labels: Mapping[str, str]
    value: float

    def label(self, name: str) -> str:
        """A label's value, "" where it has none."""
        return self.labels.get(name, "")


def wanted_samples(pieces: Iterable[bytes], names: Collection[str]) -> Iterator[Sample]:
    """The samples of those names, in the order of the page. pieces: the page, cut anywhere.

    Lines that are no sample, and samples with a time of their own, are passed over.  Raises ValueError on a page that
    ends within a line (it was cut off) or has a line longer than 64 KiB.
    """
    starts = tuple(name.encode() for name in names)
    for line in _lines(pieces):
        if line.startswith(starts):
            sample = parse_sample(line.decode(errors="replace"))
            if sample is not None and sample.name in names:
                yield sample


def parse_sample(line: str) -> Sample | None:
    """One line, None where it is no sample or has a time of its own (it may be of any age)."""
    found = _SAMPLE.fullmatch(line.strip(" \t\r"))
    if found is None:
        return None
    labels = _labels(found[2] or "")
    try:
        value = float(found[3])
    except ValueError:
        return None
    return None if labels is None else Sample(found[1], labels, value)


def _labels(text: str) -> dict[str, str] | None:
    labels: dict[str, str] = {}
    at = 0
    while text[at:].strip(" \t"):
        found = _LABEL.match(text, at)
        if found is None:
            return None
        labels[found[1]] = _ESCAPE.sub(lambda m: {"n": "\n"}.get(m[1], m[1]), found[2])
        at = found.end()
    return labels


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
        if len(rest) > LONGEST_LINE:
            raise ValueError(f"a line is longer than {LONGEST_LINE} bytes")
    if rest:
        raise ValueError("the page ends within a line")
