"""Reading wanted samples out of a Prometheus page that comes in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook.meters.samples import LONGEST_LINE, Sample, parse_sample, wanted_samples


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("joules 1", Sample("joules", {}, 1.0)),
        ("joules{} 1.5e3", Sample("joules", {}, 1500.0)),
        ('joules{a="x",b="y"} 2', Sample("joules", {"a": "x", "b": "y"}, 2.0)),
        ('joules{a="x",} 2', Sample("joules", {"a": "x"}, 2.0)),
        ('  joules { } 2', None),
        ('joules{ a = "x" , b = "y" }\t2\r', Sample("joules", {"a": "x", "b": "y"}, 2.0)),
        (r'joules{a="say \"hi\", {x}\\\n"} 2', Sample("joules", {"a": 'say "hi", {x}\\\n'}, 2.0)),
        ("joules +Inf", Sample("joules", {}, float("inf"))),
        ("# TYPE joules counter", None),
        ("", None),
        ("joules", None),
        ("joules one", None),
        ('joules{a="x} 1', None),
        ("joules{a=x} 1", None),
        ("joules 1 1700000000000", None),
        ('joules{a="x"} 1 # {trace_id="t"} 0.5', None),
    ],
)  # fmt: skip
def test_a_line(line: str, expected: Sample | None) -> None:
    assert parse_sample(line) == expected


PAGE = b'# HELP joules J\njoules{a="1"} 1\nother{a="2"} 2\njoules_more 3\njoules{a="4"} 4\n'


@given(st.lists(st.integers(0, len(PAGE)), max_size=8).map(sorted))
def test_where_the_page_is_cut_into_pieces_changes_nothing(cuts: list[int]) -> None:
    pieces = [PAGE[a:b] for a, b in zip([0, *cuts], [*cuts, len(PAGE)], strict=True)]
    assert [(s.label("a"), s.value) for s in wanted_samples(pieces, {"joules"})] == [("1", 1.0), ("4", 4.0)]


def test_a_page_that_breaks_off_within_a_line_is_refused_and_an_empty_one_is_empty() -> None:
    with pytest.raises(ValueError, match="ends within a line"):
        list(wanted_samples([b"joules 12", b"34"], {"joules"}))
    assert list(wanted_samples([], {"joules"})) == []


def test_a_line_without_end_is_not_held() -> None:
    with pytest.raises(ValueError, match="longer than"):
        list(wanted_samples((b"x" * 4096 for _ in range(LONGEST_LINE)), {"joules"}))


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_no_bytes_break_the_reader(pieces: list[bytes]) -> None:
    try:
        list(wanted_samples([*pieces, b"\n"], {"", "a"}))
    except ValueError:
        pytest.fail("a page of short lines that ends with its last one is read")


@given(st.text(alphabet='a{}="\\, \t1', max_size=40))
def test_no_line_breaks_the_parser(line: str) -> None:
    found = parse_sample(line)
    assert found is None or found.name
