"""What the command line's words become, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eddycast.cli import parse
from eddycast.errors import InputError

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(NAMES, NUMBERS | st.tuples(NUMBERS, NUMBERS).filter(lambda pair: pair[0] < pair[1])))
def test_parameters_survive_the_round_trip(parameters):
    texts = [
        f"{name}={value[0]!r}:{value[1]!r}" if isinstance(value, tuple) else f"{name}={value!r}"
        for name, value in parameters.items()
    ]
    assert parse.parameter_ranges(texts) == parameters


@given(st.lists(st.integers(1, 4096), min_size=1, max_size=3))
def test_grid_survives_the_round_trip(shape):
    assert parse.grid_shape("x".join(map(str, shape))) == tuple(shape)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=6, unique=True).map(sorted))
def test_leads_survive_the_round_trip(leads):
    assert parse.lead_times(",".join(map(repr, leads))) == leads


def test_absent_options_stay_absent():
    assert parse.grid_shape(None) is parse.lead_times(None) is parse.start_frame(None) is None
    assert parse.parameter_ranges([]) == parse.overrides([]) == {}


def test_the_value_of_a_setting_may_hold_equals_signs_and_spaces():
    assert parse.overrides(["a.b=c=d", "title= two words "]) == {"a.b": "c=d", "title": "two words"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.1", 0.1), ("0", 0.0), ("1e-3", 1e-3), ("0.5 K", "0.5 K"), ("0.5K", "0.5 K"), ("2 m s-1", "2 m s-1")],
)
def test_noise_is_a_number_of_standard_deviations_or_carries_its_unit(text, expected):
    assert parse.noise_level(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("0", 0), ("17", 17), ("last", "last")])
def test_start_is_a_frame_or_the_last(text, expected):
    assert parse.start_frame(text) == expected


@pytest.mark.parametrize(
    ("function", "text", "hint"),
    [
        (parse.grid_shape, "64x", "64x64"),
        (parse.grid_shape, "0", "64x64"),
        (parse.grid_shape, "-4", "64x64"),
        (parse.grid_shape, "1x1x1x1", "64x64"),
        (parse.grid_shape, "²", "64x64"),
        (parse.lead_times, "1,1", "0.5,1,2"),
        (parse.lead_times, "0,1", "0.5,1,2"),
        (parse.lead_times, "1,,2", "--leads"),
        (parse.lead_times, "1,inf", "--leads"),
        (parse.start_frame, "-1", "last"),
        (parse.start_frame, "first", "last"),
        (parse.noise_level, "-0.1", "0.5 K"),
        (parse.noise_level, "K", "0.5 K"),
        (parse.noise_level, "nan", "0.5 K"),
        (parse.noise_level, "inf", "0.5 K"),
        (lambda text: parse.parameter_ranges([text]), "viscosity", "name=lo:hi"),
        (lambda text: parse.parameter_ranges([text]), "viscosity=", "name=lo:hi"),
        (lambda text: parse.parameter_ranges([text]), "=1", "name=lo:hi"),
        (lambda text: parse.parameter_ranges([text]), "viscosity=thin", "viscosity"),
        (lambda text: parse.parameter_ranges([text]), "viscosity=2:1", "smaller number first"),
        (lambda text: parse.parameter_ranges([text]), "viscosity=1:", "upper end"),
        (lambda text: parse.parameter_values([text]), "viscosity=1:2", "viscosity"),
        (lambda text: parse.overrides([text, text]), "a=1", "twice"),
        (lambda text: parse.overrides([text]), "training.steps", "path.to.setting=value"),
    ],
)
def test_refusals_show_the_right_form(function, text, hint):
    with pytest.raises(InputError) as caught:
        function(text)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)
