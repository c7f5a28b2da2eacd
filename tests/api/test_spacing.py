"""Values that trajectories take in turn, and points a fixed distance apart on domains of any length."""

from __future__ import annotations

import json

import pytest
import torch

import eddycast as ec
from eddycast import api
from eddycast.cli.app import run
from eddycast.errors import InputError
from eddycast.noise import MemberNoise
from eddycast.simulators import Values, draw_parameters, get_system

KS = get_system("kuramoto-sivashinsky")


def drawn(values, numbers=range(7)):
    cases = torch.tensor(list(numbers))
    return draw_parameters(KS, {"domain_length": values}, MemberNoise(0, cases, torch.zeros_like(cases)))[:, 0].tolist()


def test_values_are_taken_in_turn_by_number():
    assert drawn(Values((22.0, 36.0), (2, 1))) == [22, 22, 36, 22, 22, 36, 22]
    assert drawn(Values((22.0, 36.0, 64.0))) == [22, 36, 64, 22, 36, 64, 22]
    assert drawn(Values((22.0, 36.0), (2, 1)), range(5, 7)) == [36, 22]  # a part of an ensemble is that part


@pytest.mark.parametrize("wrong", [((),), ((1.0,), (1, 2)), ((1.0, 2.0), (1, 0))])
def test_values_that_make_no_turns_are_refused(wrong):
    with pytest.raises(ValueError, match="Values need a number at least"):
        Values(*wrong)


def test_lists_that_are_no_range_name_what_they_may_be():
    for wrong in ([22.0, 22.0, 36.0], (22.0,)):
        with pytest.raises(InputError, match=rf"ec\.Values\(\(22\.0, 36\.0\)\); got {len(wrong)} numbers"):
            api.simulate("kuramoto-sivashinsky", trajectories=3, steps=2, parameters={"domain_length": wrong})
    assert drawn([30.0, 30.0]) == [30.0] * 7


def test_a_family_is_refused_where_one_data_set_is_needed(tmp_path):
    family = ec.simulate(
        "kuramoto-sivashinsky", trajectories=6, steps=3, spin_up=1.0, spacing=0.5, parameters={"domain_length": Values((20.0, 40.0))}
    )  # fmt: skip
    one = family["domain_length-20"]
    for call in (
        lambda: ec.statistics(family),
        lambda: ec.statistics(one, truth=family),
        lambda: ec.events(family, event="max>1"),
        lambda: ec.observe(family),
        lambda: ec.plot(family, tmp_path / "p.png"),
        lambda: api.forecast("baseline:persistence", data=family, out=tmp_path / "f.nc"),
        lambda: ec.evaluate(tmp_path / "f.nc", truth=family),
    ):
        with pytest.raises(InputError, match=r"family\['domain_length-20'\] \(domain_length-20, domain_length-40\)"):
            call()
    assert [group.parameters for group in ec.statistics(one, by="domain_length").groups] == [{"domain_length": 20.0}]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "told"), [("22*1000,36*12,22", "no trajectory has domain_length 36:"), ("22*3,36*12", None)]
)
def test_values_that_no_trajectory_takes_are_told(value, told, tmp_path, capsys):
    words = f"kuramoto-sivashinsky --grid 32 --trajectories 4 --steps 2 --spin-up 1 --param domain_length={value}"
    assert run(["simulate", *words.split(), "--out", str(tmp_path / "data")]) == 0
    shown = capsys.readouterr().out
    assert (told or "Next: ") in shown and ("Note:" in shown) == (told is not None)


def test_values_outside_the_range_of_a_system_are_refused():
    with pytest.raises(InputError, match=r"domain_length must lie within 1 to 1000.* got 5000\."):
        drawn(Values((22.0, 5000.0)))
    with pytest.raises(InputError, match=r"forcing_wavenumber takes whole numbers; got 2, 3\.5"):
        api.simulate("kolmogorov-flow", trajectories=3, steps=2, parameters={"forcing_wavenumber": Values((2.0, 3.5))})


def test_one_length_is_a_data_set_and_several_are_a_family(tmp_path):
    one = ec.simulate(
        "kuramoto-sivashinsky", trajectories=3, steps=3, spin_up=1.0, spacing=0.5, parameters={"domain_length": 40.0}
    )
    assert one.grid.shape == (80,)
    several = ec.simulate(
        "kuramoto-sivashinsky", trajectories=6, steps=3, spin_up=1.0, spacing=0.5, parameters={"domain_length": Values((20.0, 40.0))},
        out=tmp_path / "family",
    )  # fmt: skip
    assert isinstance(several, api.Family)
    assert [data.grid.shape for data in several.datasets] == [(40,), (80,)]
    assert sorted(path.name for path in (tmp_path / "family").iterdir()) == ["domain_length-20", "domain_length-40"]
    assert torch.equal(several["domain_length-40"].read(0, 0, 3), one.read(0, 0, 3))
    content = json.loads((tmp_path / "family" / "domain_length-40" / "manifest.json").read_text())
    assert content["parameters"] == {"domain_length": 40.0}


def test_other_parameters_stay_those_of_their_trajectories():
    """Lengths and coefficients in turn: each data set of a length has the coefficients that fell to it."""
    found = ec.simulate(
        "kuramoto-sivashinsky-viscous", trajectories=12, steps=2, spin_up=1.0, spacing=0.5,
        parameters={"domain_length": Values((20.0, 40.0)), "viscosity": Values((1.0, 1.5, 2.0))},
    )  # fmt: skip
    assert isinstance(found, api.Family)
    assert list(found.members) == ["domain_length-20", "domain_length-40"]
    values = [data.parameter_values for data in found.datasets]
    assert values[0].tolist() == [[20.0, one] for one in (1.0, 2.0, 1.5, 1.0, 2.0, 1.5)]
    assert values[1].tolist() == [[40.0, one] for one in (1.5, 1.0, 2.0, 1.5, 1.0, 2.0)]


def test_a_manifest_keeps_values_that_were_taken_in_turn(tmp_path):
    api.simulate(
        "kuramoto-sivashinsky-viscous", trajectories=4, steps=2, spin_up=1.0, out=tmp_path / "data",
        parameters={"viscosity": Values((1.0, 2.0))},
    )  # fmt: skip
    content = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert content["parameters"]["viscosity"] == {"values": [1.0, 2.0], "counts": []}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("kuramoto-sivashinsky --spacing 0.5 --param domain_length=22.3", "a length of 22 or 23 does"),
        (
            "kuramoto-sivashinsky --spacing 0.5 --param domain_length=20:40",
            "write domain_length=36,64,100 instead of a range",
        ),
        ("kuramoto-sivashinsky --spacing 0.5 --grid 64", "leave --grid and --solver-grid out"),
        ("kuramoto-sivashinsky --spacing 0", "--spacing must be positive"),
        ("burgers --spacing 0.5", "has one length: give --grid"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(words, told, tmp_path, capsys):
    assert (
        run(["simulate", *words.split(), "--trajectories", "4", "--steps", "2", "--out", str(tmp_path / "data")]) == 2
    )
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "data").exists()
