"""Digits and products by METHODS 4.8, with the working."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook_reports.uncertainty import (
    GRAMS,
    JOULES,
    at_digits_of,
    common_u,
    decimals,
    emissions_text,
    energy_text,
    figure,
    interval,
    product_u_rel,
    scale_for,
    significant,
)


def test_product_rule() -> None:
    # energy 3 %, PUE 4 %, intensity 12 %: sqrt(9 + 16 + 144) = 13 %
    assert product_u_rel(0.03, 0.04, 0.12) == pytest.approx(0.13)


def test_a_shared_factor_adds_and_others_square() -> None:
    # 3 g and 1 g under one factor, 3 g under another: sqrt((3 + 1)^2 + 3^2) = 5
    assert common_u([("DE", 3.0), ("DE", 1.0), ("FR", 3.0)]) == pytest.approx(5.0)


def test_interval_is_two_u_and_never_negative() -> None:
    assert interval(10.0, 1.5) == (7.0, 13.0)
    assert interval(1.0, 0.8) == (0.0, 2.6)


@pytest.mark.parametrize(
    ("u", "places"),
    [(0.4, 1), (0.04, 2), (0.13, 2), (0.013, 3), (4.0, 0), (13.0, 0), (130.0, -1), (400.0, -2), (1.0, 1), (0.1, 2)],
)
def test_one_digit_of_u_two_when_it_leads_with_one(u: float, places: int) -> None:
    assert decimals(u) == places


@pytest.mark.parametrize(
    ("value", "u", "text"),
    [
        (12.345, 0.42, "12.3 ± 0.4 J"),
        (12.345, 0.13, "12.35 ± 0.13 J"),
        (855.36, 27.0, "860 ± 30 J"),
        (855.36, 1.9, "855.4 ± 1.9 J"),
        (0.5, 0.0, "0.500 J"),
    ],
)
def test_value_is_shown_to_the_same_decimal(value: float, u: float, text: str) -> None:
    assert figure(value, u, JOULES[0]) == text


def test_units_for_people() -> None:
    assert scale_for(999.0, JOULES).unit == "J"
    assert scale_for(1000.0, JOULES).unit == "kJ"
    assert scale_for(1e-9, GRAMS).unit == "µg"
    assert energy_text(26_601.0, (25_300.0, 27_902.0)) == "26.6 ± 1.3 kJ"
    assert emissions_text(0.0282, (0.0202, 0.0362)) == "28 ± 8 mg"


def test_clipped_intervals_show_their_longer_half() -> None:
    assert energy_text(27.3, (0.0, 67.0)) == "30 ± 40 J"


@given(st.floats(1e-6, 1e9), st.floats(1e-6, 1e6))
def test_printed_value_is_within_half_of_the_last_digit_of_u(value: float, u: float) -> None:
    shown = float(figure(value, u, JOULES[0]).split(" ")[0])
    assert abs(shown - value) <= 0.5001 * 10.0 ** -decimals(u) + 1e-15 * value


def test_significant_digits_without_exponent() -> None:
    assert [significant(v) for v in (0.0, 0.0012345, 12.345, 123456.0)] == ["0", "0.00123", "12.3", "123000"]


def test_a_part_without_u_of_its_own_takes_the_digits_of_the_whole() -> None:
    # 4654 J at a relative half-width of 4.9 % is +- 228 J: one digit, so hundreds; 746 J is +- 37 J: tens
    assert at_digits_of(4654.0, 228.0, JOULES[1]) == "4.7 kJ"
    assert at_digits_of(746.0, 37.0, JOULES[0]) == "750 J"
    assert at_digits_of(746.4, 0.0, JOULES[0]) == "746 J"
