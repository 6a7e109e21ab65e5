"""Attributes of /sys: kept open, found again, and never believed beyond what they hold."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook.meters.sysfs import MOST_TEXT, Attribute, milliwatts, number_of, text_of


def test_a_number_is_read_again_through_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "energy1_input").write_text("12\n")
    attribute = Attribute(tmp_path, "energy1_input")
    assert attribute.number() == 12
    (tmp_path / "energy1_input").write_text("345\n")
    assert attribute.number() == 345
    attribute.close()


def test_what_follows_the_first_newline_is_stale(tmp_path: Path) -> None:
    (tmp_path / "power1_average").write_text("99\n00\n")
    attribute = Attribute(tmp_path, "power1_average")
    assert attribute.number() == 99
    attribute.close()


def test_a_file_that_went_is_found_again_under_another_number(tmp_path: Path) -> None:
    old = tmp_path / "hwmon3" / "power1_average"
    old.parent.mkdir()
    old.write_text("1\n")
    attribute = Attribute(tmp_path, "hwmon*/power1_average")
    assert attribute.number() == 1
    old.write_text("")
    with pytest.raises(OSError, match="No such device"):
        attribute.number()
    old.unlink()
    with pytest.raises(FileNotFoundError):
        attribute.number()
    (tmp_path / "hwmon7").mkdir()
    (tmp_path / "hwmon7" / "power1_average").write_text("2\n")
    assert attribute.number() == 2
    attribute.close()


def test_no_descriptor_is_left_after_close(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1\n")
    before = len(list(Path("/proc/self/fd").iterdir()))
    attribute = Attribute(tmp_path, "a")
    attribute.number()
    attribute.close()
    attribute.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("held", ["-5", "", " ", "+5", "1_000", "0x10", "1e3", "5 6", "\x00"])
def test_what_is_no_plain_number_is_refused(held: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(held + "\n")
    attribute = Attribute(tmp_path, "a")
    with pytest.raises(ValueError, match="holds"):
        attribute.number()
    assert number_of(tmp_path / "a") is None
    attribute.close()


@pytest.mark.parametrize(
    "microwatts", [0, 999, 0xFFFF, 0xFFFF_FFFF, 65_535_000, 65_535_000_000, 4_294_967_295_000_000, 700_000_001]
)
def test_no_power_is_made_of_all_ones_nothing_or_too_much(microwatts: int) -> None:
    with pytest.raises(ValueError, match="no power"):
        milliwatts(microwatts, 700)


def test_power_is_whole_milliwatts() -> None:
    assert milliwatts(123_456_789, 700) == 123_456
    assert milliwatts(700_000_000, 700) == 700_000


def test_a_name_is_its_printable_first_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"  Instinct \x07\xffMI300X  \nsecond\n")
    assert text_of(tmp_path / "a") == "Instinct MI300X"
    assert text_of(tmp_path / "none") == ""


@given(st.binary(max_size=300))
def test_any_bytes_give_a_number_or_a_refusal(tmp_path_factory: pytest.TempPathFactory, held: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(held)
    attribute = Attribute(path.parent, "fuzzed")
    try:
        number = attribute.number()
    except (OSError, ValueError):
        number = None
    attribute.close()
    assert (
        number is None or str(number) == held.split(b"\n", 1)[0][:MOST_TEXT].strip().decode().lstrip("0") or number == 0
    )
    assert len(text_of(path)) <= MOST_TEXT
    assert text_of(path).isprintable()
