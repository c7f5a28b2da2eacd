"""Statistics by parameter value: what is equal is told as equal, in physical units and each value's own Lyapunov time."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from eddycast import api
from eddycast.data import Dataset
from eddycast.errors import InputError
from eddycast.evaluation import JetSettings, statistics
from eddycast.metrics.density import empty_histogram
from eddycast.numerics.spectral import derivative

LENGTHS = (22.0, 36.0)
EXPONENTS = {22.0: 0.0484, 36.0: 0.0759}


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Eight test trajectories of each of two lengths, on one grid of period 1."""
    made = api.simulate(
        "kuramoto-sivashinsky", trajectories=20, steps=80, split=(4, 0, 16), grid=(64,), seed=1,
        parameters={"domain_length": api.Values(LENGTHS)},
    )  # fmt: skip
    assert isinstance(made, Dataset)
    return made


def forecast_of(data: Dataset, change, *, first=0, members=1) -> xr.Dataset:
    """The truth of each test trajectory from `first` on, changed: (states (frame, point), trajectory, member) -> the same shape."""
    segments = data.segments("test")
    states = [
        [
            change(data.read(one.trajectory, one.start, one.stop)[:, 0].double(), one.trajectory, member)
            for member in range(members)
        ]
        for one in segments
    ]
    values = torch.stack([torch.stack(row) for row in states])[:, :, first:].numpy()
    axis = data.grid.axes[0]
    return xr.Dataset(
        {"u": (("init", "member", "lead_time", "x"), values)},
        {
            "trajectory": ("init", [one.trajectory for one in segments]),
            "frame": ("init", [one.start for one in segments]),
            "lead_time": ("lead_time", data.dt * np.arange(first, 80), {"units": "1", "step": data.dt}),
            "x": (
                "x",
                np.array(axis.coordinates),
                {"eddycast_boundary": "periodic periodic", "eddycast_period": axis.period},
            ),
        },
        {"eddycast_kind": "forecast", "lyapunov_time": 15.0},
    )


def same(states, trajectory, member):
    return states


def test_what_is_the_truth_is_at_no_distance_from_it(data):
    found = statistics(forecast_of(data, same), data)
    assert [group.parameters for group in found.groups] == [{"domain_length": length} for length in LENGTHS]
    for group in found.groups:
        assert (group.runs, group.truth_runs) == (8, 8)
        assert [one.quantities for one in group.distances[:4]] == [("u",), ("u_x",), ("u_xx",), ("u_t",)]
        assert (
            max(one.hellinger or 0.0 for one in group.distances) < 1e-3
        )  # float32 files, a few points change their bin
        assert group.average is not None and group.average.bound is not None and group.average.bound > 0.02
        assert group.spectrum is not None and group.spectrum.error is not None and group.spectrum.error["all"] < 1e-3
        assert group.reach is not None and group.truth_reach is not None
        assert group.reach.time == pytest.approx(group.truth_reach.time, rel=1e-3)
        assert group.tracking[0].censored == 1 and group.tracking[0].quartiles[1] == math.inf
        assert all(one.outside is not None and one.outside < 1e-3 for one in group.distances)


def test_each_value_has_its_own_lyapunov_time_and_not_the_mean_of_the_file(data):
    """The forecast departs by 0.02 deviations per time: it passes 0.5 after 25, and 25 is another number of Lyapunov times for each."""
    stds = {group.parameters["domain_length"]: group.std for group in statistics(data).groups}

    def depart(states, trajectory, member):
        std = stds[float(data.parameters(trajectory)[0])]
        return states + std * 0.02 * data.dt * torch.arange(len(states))[:, None]

    found = statistics(forecast_of(data, depart, first=1), data, thresholds=(0.3, 0.5))
    for group in found.groups:
        length = group.parameters["domain_length"]
        assert group.lyapunov_time == pytest.approx(1 / EXPONENTS[length], rel=0.02)
        for one, expected in zip(group.tracking, (15.0, 25.0), strict=True):
            assert one.cases == 8 and one.censored == 0
            assert one.quartiles == pytest.approx((expected,) * 3, rel=1e-3)
            assert one.lyapunov == pytest.approx((expected / group.lyapunov_time,) * 3, rel=1e-3)
    assert "Lyapunov times" in found.table()


def test_derivatives_are_in_physical_units_for_each_length(data):
    """The grid is stored with period 1; edges of the laws are the extremes of the derivative over the true length."""
    for group in statistics(data).groups:
        length = group.parameters["domain_length"]
        states = [data.read(one.trajectory, one.start, one.stop)[1:-1, 0].double() for one in data.segments("test")
                  if float(data.parameters(one.trajectory)[0]) == length]  # fmt: skip
        for density, order in zip(group.densities[:3], (0, 1, 2), strict=True):
            values = torch.stack(states) if order == 0 else derivative(torch.stack(states), [length], [order])
            assert (density.edges[0], density.edges[-1]) == pytest.approx(
                (float(values.min()), float(values.max())), rel=1e-6
            )
            widths = np.diff(density.edges)
            assert float(np.sum(widths * density.truth)) == pytest.approx(1.0)
        assert group.spectrum is not None and group.spectrum.wavenumber[1] == pytest.approx(2 * math.pi / length)
        assert group.reach is not None and group.reach.offsets[0] == pytest.approx(-length / 2)
        assert sum(group.spectrum.truth["mean"]) == pytest.approx(group.std**2, rel=0.02)  # Parseval, mean zero


def test_a_wrong_law_is_beyond_chance_and_what_leaves_the_range_is_told(data):
    def stronger(states, trajectory, member):
        return 1.4 * states if float(data.parameters(trajectory)[0]) == 36 else states

    one, other = statistics(forecast_of(data, stronger), data).groups
    assert one.average is not None and other.average is not None
    assert one.average.hellinger < one.average.bound and other.average.hellinger > 2 * other.average.bound
    assert other.distances[0].outside > 0.02
    assert other.spectrum.error["all"] == pytest.approx(math.log10(1.4**2), rel=1e-3)


def test_chance_is_larger_for_a_smaller_forecast(data):
    """One of eight runs against all eight: splits of one part against the other seven, not of halves."""
    whole = forecast_of(data, lambda states, *_: states)
    first = whole.isel(init=[0, 1])  # one of each length
    for one, all_ in zip(statistics(first, data).groups, statistics(whole, data).groups, strict=True):
        assert one.average is not None and all_.average is not None
        assert one.average.by_chance / all_.average.by_chance == pytest.approx(
            ((1 + 1 / 7) / (1 / 4 + 1 / 4)) ** 0.5, rel=0.25
        )


def test_a_blown_up_member_is_lost_and_not_averaged_away(data):
    def burst(states, trajectory, member):
        return torch.where((torch.arange(80) >= 40)[:, None], math.nan, states) if member else states

    for group in statistics(forecast_of(data, burst, members=2), data).groups:
        assert group.distances[0].lost == pytest.approx((78 - 38) / (2 * 78), abs=0.02)
        assert group.spectrum is not None and math.isfinite(group.spectrum.error["all"])


def test_jets_of_known_history_are_counted_with_their_rates():
    """Each run has 4 jets, 3 from frame 30 on, 4 again from frame 70 on."""
    y = 2 * np.pi * np.arange(64) / 64
    counts = np.r_[np.full(30, 4), np.full(40, 3), np.full(30, 4)]
    profiles = np.stack([np.stack([np.cos(n * (y - phase)) for n in counts]) for phase in (0.0, 0.4, 1.1)])
    made = xr.Dataset(
        {"u": (("trajectory", "time", "y"), profiles)},
        {
            "time": 2.0 * np.arange(100),
            "y": ("y", y, {"eddycast_boundary": "periodic periodic", "eddycast_period": 2 * np.pi}),
        },
    )
    (group,) = statistics(made, split="all", jets=JetSettings(width=1.0, prominence=0.5, hold=5)).groups
    jets = group.jets
    assert jets is not None and (jets.nucleations, jets.coalescences, jets.waits) == (3, 3, 3)
    assert jets.mean == pytest.approx(3.6) and jets.share == pytest.approx([0, 0, 0, 0.4, 0.6])
    assert jets.exposure == 3 * 95 * 2.0 and jets.nucleation_rate[0] == pytest.approx(3 / jets.exposure)
    assert jets.nucleation_rate[1] < jets.nucleation_rate[0] < jets.nucleation_rate[2]
    assert jets.wait_quartiles == pytest.approx((80.0, 80.0, 80.0))


def test_a_run_that_blows_up_has_its_jets_until_then():
    """Four jets, three from frame 20 on, nothing from frame 60 on: one merger, no second one, no states without jets."""
    y = 2 * np.pi * np.arange(64) / 64
    profiles = np.stack([np.cos(n * (y - 0.3)) for n in np.r_[np.full(20, 4), np.full(80, 3)]])
    profiles[60:] = np.nan
    whole = np.cos(4 * np.broadcast_to(y, (100, 64)))
    made = xr.Dataset(
        {"u": (("trajectory", "time", "y"), np.stack([profiles, whole]))},
        {
            "time": 2.0 * np.arange(100),
            "y": ("y", y, {"eddycast_boundary": "periodic periodic", "eddycast_period": 2 * np.pi}),
        },
    )
    (group,) = statistics(forecast_like(made), jets=JetSettings(width=1.0, prominence=0.5, hold=5)).groups
    jets = group.jets
    assert jets is not None and (jets.nucleations, jets.coalescences) == (0, 1)
    assert jets.exposure == (55 + 95) * 2.0 and jets.share == pytest.approx([0, 0, 0, 40 / 160, 120 / 160])


def forecast_like(made: xr.Dataset) -> xr.Dataset:
    """Trajectories as the members of a forecast of one case."""
    held = made.rename(trajectory="member", time="lead_time").expand_dims("init")
    held["lead_time"].attrs |= {"units": "1", "step": 2.0}
    return held.assign_attrs(eddycast_kind="forecast")


def test_the_result_is_plain_json_and_skipped_states_do_not_count(data):
    found = statistics(data, skip=30, lags=5)
    assert found.groups[0].states == 8 * 50 and len(found.groups[0].reach.lags) == 6
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["groups"][1]["parameters"] == {"domain_length": 36.0} and not content["compared"]


def test_a_forecast_without_data_behind_it_is_one_group(data):
    made = forecast_of(data, same)
    (group,) = statistics(made, made).groups
    assert group.runs == 16 and group.parameters == {} and group.lyapunov_time == 15.0
    with pytest.raises(InputError, match="no parameter"):
        statistics(made, made, by=["domain_length"])


def test_members_of_a_deterministic_forecast_are_one_run(data):
    """Sixteen copies say no more than one: the same numbers, and no error of the mean from copies."""
    one, many = (statistics(forecast_of(data, same, members=members), data) for members in (1, 3))
    assert [group.runs for group in many.groups] == [8, 8] == [group.runs for group in one.groups]
    assert many.groups[0].states == one.groups[0].states and vars(many.groups[0].reach) == vars(one.groups[0].reach)
    (note,) = [note for note in many.notes if "count as one run" in note]
    assert "the 3 members of a case are the same" in note and not any("count as" in note for note in one.notes)
    apart = forecast_of(data, lambda states, trajectory, member: states + 1e-6 * member, members=3)
    assert statistics(apart, data).groups[0].runs == 24


def test_what_short_runs_cannot_tell_is_said(data):
    single = forecast_of(data, same).isel(lead_time=slice(0, 2))
    told = statistics(single, jets=JetSettings(hold=2)).table()
    assert "unknown in time" in told and "more than 0" not in told
    assert "nan" in told and "a change must last 2 states (--hold), and no run is longer" in told
    longer = statistics(forecast_of(data, same).isel(lead_time=slice(0, 9)), jets=JetSettings(hold=2)).table()
    assert "nan" not in longer and "--hold" not in longer


def test_nothing_outside_is_no_negative_share():
    part = empty_histogram(torch.linspace(0, 1, 8)).add(torch.full((49, 1), 0.3), weights=torch.tensor([1 / 49]))
    mixed = part + empty_histogram(torch.linspace(0, 1, 8)).add(torch.rand(1000, 1), weights=torch.tensor([0.1]))
    for one in (part, mixed):
        assert one.outside >= 0 and math.copysign(1, one.outside) == 1 and one.outside < 1e-12
    assert math.isnan(empty_histogram(torch.linspace(0, 1, 8)).outside)


def test_two_dimensions_and_walls_are_read_along_the_axis_that_is_named():
    """v = sin(x) (1 + z): v_z = sin(x) exactly by central differences, without the two ends."""
    x, z = 2 * np.pi * np.arange(16) / 16, np.linspace(0, 1, 9)
    field = np.sin(x)[:, None] * (1 + z) * np.ones((2, 12, 1, 1))
    made = xr.Dataset(
        {"v": (("trajectory", "time", "x", "z"), field)},
        {
            "time": np.arange(12.0),
            "x": ("x", x, {"eddycast_boundary": "periodic periodic", "eddycast_period": 2 * np.pi}),
            "z": z,
        },
    )
    (group,) = statistics(made, split="all", axis="z").groups
    slope = group.densities[1]
    assert slope.quantity == "v_z" and (slope.edges[0], slope.edges[-1]) == pytest.approx((-1, 1), rel=1e-6)
    for wrong, message in (
        ({"axis": "y"}, "no axis 'y'"),
        ({"jets": JetSettings()}, "one axis"),
        ({"field": "w"}, "no field 'w'"),
    ):
        with pytest.raises(InputError, match=message):
            statistics(made, split="all", **wrong)


def test_what_does_not_fit_is_told(data):
    made = forecast_of(data, same)
    with pytest.raises(InputError, match="domain_length = 22"):
        statistics(made, _only(data, 36.0))
    with pytest.raises(InputError, match="states every"):
        statistics(made.isel(lead_time=slice(0, None, 2)), data)
    with pytest.raises(InputError, match="evenly spaced"):
        statistics(made.isel(lead_time=[0, 1, 3]), data)
    with pytest.raises(InputError, match="lower --skip"):
        statistics(made, data, skip=80)
    with pytest.raises(InputError, match="no parameter 'beta'"):
        statistics(made, data, by=["beta"])
    with pytest.raises(InputError, match="must be positive"):
        statistics(made, data, thresholds=(0.0,))


def _only(data: Dataset, length: float) -> Dataset:
    """The same data with the other length's trajectories out of the test split."""
    kept = tuple(one for one in data.segments("test") if float(data.parameters(one.trajectory)[0]) == length)
    return replace(data, splits=data.splits | {"test": kept})


def test_a_forecast_with_replaced_parameters_counts_for_those(data):
    """`forecast --param domain_length=36` from all trajectories is one group, compared with the truth of that value."""
    made = forecast_of(data, same).isel(init=[0, 2])
    made.attrs["eddycast_parameters"] = "domain_length=36"
    (group,) = statistics(made, data).groups
    assert group.parameters == {"domain_length": 36.0}
    made.attrs["eddycast_parameters"] = "domain_length=44"
    with pytest.raises(InputError, match="no run with domain_length = 44"):
        statistics(made, data)
