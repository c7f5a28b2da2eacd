"""The scores of conditional diffusion's protocol: both conventions, derived vorticity, bands, passes; formulas in numpy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import xarray as xr

from eddycast.data import from_arrays
from eddycast.errors import InputError
from eddycast.evaluation import Scores, compare_table, evaluate
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.metrics import bands, shells

CASES, LEADS, MEMBERS, POINTS, DT = 9, 12, 4, 16, 0.2
LINE = Grid((periodic_axis("x", POINTS, 4.0),))


def noise(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(states, members, grid, *, names=("u",), kind="forecast", **attributes):
    """Truth from (case, frame, channel, *space); forecast of its frames 1, 2, ... from (case, member, lead, channel, *space)."""
    truth = from_arrays(states, fields=list(names), grid=grid, dt=DT)
    leads = DT * np.arange(1, members.shape[2] + 1)
    coordinates = {
        "trajectory": ("init", np.arange(len(members))),
        "frame": ("init", np.zeros(len(members), dtype=int)),
        "lead_time": ("lead_time", leads, {"units": "1", "step": DT}),
    }
    dims = ("init", "member", "lead_time", *grid.names)
    fields = {name: (dims, members[:, :, :, channel].numpy()) for channel, name in enumerate(names)}
    forecast = xr.Dataset(fields, coordinates).assign_attrs(eddycast_kind=kind, **attributes)
    return forecast, truth


def fading_pair(**attributes):
    """Members that lose the truth little by little, with recoveries: the conventions differ."""
    states = noise(CASES, LEADS + 1, 1, POINTS, seed=1)
    strength = torch.linspace(0.1, 1.2, LEADS)[:, None, None] * (0.7 + 0.6 * noise(CASES, 1, LEADS, 1, 1, seed=2).abs())
    members = states[:, None, 1:] + strength * noise(CASES, MEMBERS, LEADS, 1, POINTS, seed=3)
    return pair(states, members, LINE, **attributes), states[:, 1:, 0].numpy(), members[:, :, :, 0].numpy()


@pytest.fixture(scope="module")
def fading():
    (forecast, truth), states, members = fading_pair(
        eddycast_network_passes_forward=1360.0, eddycast_network_passes_backward=0.0
    )
    return forecast, truth, states, members, evaluate(forecast, truth, given=4, resamples=100)


def published_rmsd(error):
    """mean_b sqrt(mean_t sum_x err^2) and its standard error std_b / sqrt(n)."""
    each = np.sqrt((error.astype(np.float64) ** 2).sum(axis=-1).mean(axis=-1))
    return each.mean(), each.std(ddof=1) / math.sqrt(len(each))


def test_rmsd_in_both_conventions_with_its_errors(fading):
    _, _, truth, members, scores = fading
    for name, forecast in (("member", members[:, 0]), ("mean", members.astype(np.float64).mean(axis=1))):
        found = scores.data.sel(field="u", forecast=name)
        value, error = published_rmsd(forecast - truth)
        for norm, scale in (("state", 1.0), ("point", 1 / math.sqrt(POINTS)), ("state-given", math.sqrt(12 / 16))):
            assert float(found["rmsd"].sel(norm=norm)) == pytest.approx(value * scale, rel=1e-6)
            assert float(found["rmsd_se"].sel(norm=norm)) == pytest.approx(error * scale, rel=1e-6)
            low, high = float(found["rmsd_low"].sel(norm=norm)), float(found["rmsd_high"].sel(norm=norm))
            assert low < value * scale < high
            assert 2 < (high - low) / (error * scale) < 6  # about 2 x 1.96, with nine cases
    assert evaluate(fading[0], fading[1], resamples=2).data["norm"].values.tolist() == ["point", "state"]


def test_high_correlation_times_in_every_convention(fading):
    _, _, truth, members, scores = fading

    def correlations(forecast):
        f, y = (array - array.mean(axis=-1, keepdims=True) for array in (forecast, truth))
        return (f * y).mean(axis=-1) / np.sqrt((f**2).mean(axis=-1) * (y**2).mean(axis=-1))  # (case, lead)

    for name, forecast in (("member", members[:, 0]), ("mean", members.mean(axis=1))):
        corr = correlations(forecast.astype(np.float64))
        counted = DT * (corr >= 0.8).sum(axis=1)
        crossed = DT * np.array([np.argmax(np.append(row < 0.8, True)) for row in corr])
        assert (counted != crossed).any()  # otherwise the test could not tell them apart
        curve = corr.mean(axis=0)
        expected = {
            ("count", "cases"): counted.mean(),
            ("count-given", "cases"): counted.mean() + 4 * DT,
            ("first", "cases"): crossed.mean(),
            ("count", "curve"): DT * (curve >= 0.8).sum(),
            ("first", "curve"): DT * np.argmax(np.append(curve < 0.8, True)),
        }
        for (convention, average), value in expected.items():
            key = {"field": "u", "forecast": name, "convention": convention, "average": average}
            assert float(scores.data["high_correlation_time"].sel(key)) == pytest.approx(value), key
        errors = scores.data["high_correlation_time_se"].sel(field="u", forecast=name, average="cases")
        for convention, each in (("count", counted), ("count-given", counted), ("first", crossed)):
            assert float(errors.sel(convention=convention)) == pytest.approx(each.std(ddof=1) / math.sqrt(CASES))


def test_cases_that_end_early_count_what_they_have(fading):
    forecast, truth, states, members, _ = fading
    late = forecast.assign_coords(frame=("init", [4] + [0] * (CASES - 1)))
    shown = evaluate(late, truth, resamples=2).data["rmsd"].sel(field="u", forecast="member", norm="point")
    squares = [((members[0, 0, : LEADS - 4] - states[0, 4:]) ** 2).mean()]
    squares += [((members[case, 0] - states[case]) ** 2).mean() for case in range(1, CASES)]
    assert float(shown) == pytest.approx(np.sqrt(squares).mean(), rel=1e-6)


def test_an_analysis_has_a_deviation_and_no_given_states():
    (forecast, truth), states, members = fading_pair()
    analysis = forecast.assign_attrs(eddycast_kind="analysis")
    scores = evaluate(analysis, truth, given=4, resamples=2)
    assert scores.data["norm"].values.tolist() == ["point", "state"]
    assert float(scores.data["rmsd"].sel(field="u", forecast="member", norm="state")) == pytest.approx(
        published_rmsd(members[:, 0] - states)[0], rel=1e-6
    )


def test_everything_is_in_table_file_and_array(fading, tmp_path):
    forecast, truth, _, _, scores = fading
    text = scores.table()
    for words in (
        "RMSD over all lead times, first member", "summed over points, as published", "s.e.", "4 given states, as published",
        "first crossing of the mean curve", "power by band, log10 of members over truth, early / middle / late",
        "rank histogram, distance from flat", "Network passes per member and case, forward + backward: 1360 + 0",
    ):  # fmt: skip
        assert words in text, words
    again = Scores.from_json(scores.to_json(tmp_path / "scores.json"))
    xr.testing.assert_identical(again.data, scores.data)
    assert again.table() == text
    summary = json.loads((tmp_path / "scores.json").read_text())["summary"]
    assert summary["network_passes"] == {"forward": 1360.0, "backward": 0.0}
    assert summary["fields"]["u"]["rmsd"]["member_state"]["standard_error"] > 0
    assert set(summary["fields"]["u"]["spectrum_bands"]) == {"early", "middle", "late"}
    assert [one["name"] for one in summary["failures"]] == ["error growth"]  # truth plus noise, so its energy grows
    assert scores.to_xarray().attrs["eddycast_network_passes_forward"] == 1360.0
    plain = evaluate(forecast.assign_attrs(eddycast_network_passes_forward="many"), truth, resamples=2)
    rows = compare_table({"counted": scores, "not counted": plain}).splitlines()
    assert "1360 + 0" in rows[2] and "1360" not in rows[3]
    assert "Network passes" not in plain.table()


def test_bands_of_the_spectrum_are_ratios_of_power(fading):
    """Members are the truth with its small scales tripled at late lead times: log10 9 there, 0 elsewhere."""
    states = noise(CASES, LEADS + 1, 1, POINTS, seed=5)
    modes = torch.fft.rfft(states[:, 1:])
    modes[:, LEADS // 2 :, :, bands(shells(LINE))["high"]] *= 3
    members = torch.fft.irfft(modes, n=POINTS)[:, None]
    power = evaluate(*pair(states, members, LINE), resamples=2).data["spectrum_bands"].sel(field="u")
    assert power["stage_start"].values.tolist() == pytest.approx([DT, 4 * DT, 7 * DT])
    assert float(power.sel(stage="late", spectrum_band="high")) == pytest.approx(math.log10(9), abs=1e-4)
    assert float(np.abs(power.sel(stage="early")).max()) < 1e-5
    assert float(np.abs(power.sel(spectrum_band=["low", "mid"])).max()) < 1e-5


BOX = Grid((periodic_axis("x", 16, 2.0), periodic_axis("y", 12, 1.0)))


def flow(names=("velocity_x", "velocity_y"), grid=BOX, **attributes):
    states = noise(5, LEADS + 1, len(names), *grid.shape, seed=6)
    members = states[:, None, 1:] + 0.3 * noise(5, 2, LEADS, len(names), *grid.shape, seed=7)
    return *pair(states, members, grid, names=names, **attributes), states[:, 1:].numpy(), members[:, 0].numpy()


def test_the_published_vorticity_is_scored_in_the_place_of_the_velocity():
    forecast, truth, states, members = flow()

    def published(velocity):
        u, v = (
            np.pad(part, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="wrap") for part in velocity.transpose(2, 0, 1, 3, 4)
        )
        return (np.gradient(u, axis=-1) - np.gradient(v, axis=-2))[..., 1:-1, 1:-1].reshape(5, LEADS, -1)

    scores = evaluate(forecast, truth, derive="vorticity-published", resamples=2)
    assert scores.fields == ("vorticity_published",)
    value, error = published_rmsd(published(members) - published(states))
    found = scores.data.sel(field="vorticity_published", forecast="member", norm="state")
    assert float(found["rmsd"]) == pytest.approx(value, rel=1e-5)
    assert float(found["rmsd_se"]) == pytest.approx(error, rel=1e-4)
    assert "as published: minus the vorticity times the grid spacing" in scores.table()
    assert scores.attributes["derived"] == "vorticity-published"
    pieces = evaluate(forecast, truth, derive="vorticity-published", resamples=2, memory=1)
    xr.testing.assert_allclose(pieces.data, scores.data, rtol=1e-9)


def test_the_physical_vorticity_and_other_fields():
    """Of u = sin(2 pi y) alone: -2 pi cos(2 pi y), whose deviation is 2 pi times that of u; the tracer stays as it is."""
    y = torch.tensor(BOX.axes[1].coordinates)
    wave = (torch.sin(2 * math.pi * y) + torch.zeros(16, 1))[None, None, None]
    amplitude = noise(5, LEADS + 1, 1, 1, 1, seed=8)
    states = torch.cat([0 * wave * amplitude, wave * amplitude, noise(5, LEADS + 1, 1, *BOX.shape, seed=9)], dim=2)
    forecast, truth = pair(states, 1.1 * states[:, None, 1:], BOX, names=("v", "u", "tracer"))
    velocity = evaluate(forecast, truth, resamples=2)
    scores = evaluate(forecast, truth, derive="vorticity", resamples=2)
    assert scores.fields == ("vorticity", "tracer")
    np.testing.assert_allclose(
        scores.series("rmse_mean", "vorticity"), 2 * math.pi * velocity.series("rmse_mean", "u"), rtol=1e-5
    )
    np.testing.assert_allclose(scores.series("crps", "tracer"), velocity.series("crps", "tracer"), rtol=1e-6)


def test_nothing_is_derived_where_there_is_no_vorticity():
    forecast, truth, *_ = flow()
    walls = Grid((BOX.axes[0], Axis("y", BOX.axes[1].coordinates, ("wall", "wall"))))
    for wrong, message in (
        (lambda: evaluate(forecast, truth, derive="enstrophy"), "vorticity or vorticity-published"),
        (lambda: evaluate(*flow(grid=walls)[:2], derive="vorticity"), "two periodic axes"),
        (lambda: evaluate(*fading_pair()[0], derive="vorticity"), "two periodic axes"),
        (lambda: evaluate(*flow(("a", "b", "c"))[:2], derive="vorticity"), "velocity_x and velocity_y.*has a, b, c"),
        (lambda: evaluate(forecast, truth, given=-1), "given counts"),
    ):
        with pytest.raises(InputError, match=message) as error:
            wrong()
        assert "\n" not in str(error.value)
