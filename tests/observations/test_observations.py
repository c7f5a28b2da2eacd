"""Observations: law of positions and noise, files, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eddycast.errors import InputError
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.observations import CoarsenOperator, MaskOperator, Observations, PointwiseOperator, observe

LATITUDE = Axis("y", (-60.0, -20.0, 20.0, 60.0), ("wall", "wall"), "degree", weights=(0.5, 0.94, 0.94, 0.5))
GRID = Grid((LATITUDE, periodic_axis("x", 6, 36.0, "m")))
FIELDS = (("u", "m s-1"), ("t", "K"))
STD = torch.tensor([0.1, 0.3])


def example(**changes):
    states = torch.randn(3, 5, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    settings = {"grid": GRID, "fields": FIELDS, "dt": 0.5, "noise_std": STD, "seed": 3, "fraction": 0.3}
    if changes.keys() & {"sensors", "coarsen"}:
        del settings["fraction"]
    return states, observe(states, **(settings | changes))


def equal(a: Observations, b: Observations) -> None:
    assert torch.equal(a.mask, b.mask) and a.values.dtype == b.values.dtype
    assert torch.equal(a.filled, b.filled)
    for name in ("noise_std", "trajectories", "frames", "valid", "parameters", "time"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None and right is None) or (torch.equal(left, right) and left.dtype == right.dtype), name
    for name in ("grid", "fields", "dt", "kind", "factor", "time_units", "parameter_names", "cycle", "attributes"):
        assert getattr(a, name) == getattr(b, name), name


@settings(max_examples=15, deadline=None)
@given(
    instrument=st.sampled_from([{"fraction": 0.3}, {"sensors": 4}, {"coarsen": (2, 3)}, {"coarsen": 2}]),
    suffix=st.sampled_from([".nc", ".csv"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    land=st.booleans(),
    conditions=st.booleans(),
    seed=st.integers(0, 2**40),
)
def test_files_bring_back_the_same_bits(tmp_path_factory, instrument, suffix, dtype, land, conditions, seed):
    generator = torch.Generator().manual_seed(seed % 1000)
    states = 1e3 * torch.randn(2, 3, 2, 4, 6, generator=generator, dtype=dtype)
    more = {}
    if conditions:
        more = {
            "parameters": torch.randn(2, 1, generator=generator),
            "parameter_names": ("viscosity",),
            "time": torch.tensor([3.0, 4.5]),
            "cycle": 12.0,
            "attributes": {"system": 'test, with "quotes"'},
            "trajectories": torch.tensor([7, 7]),
            "frames": torch.tensor([2, 9]),
        }
    valid = torch.rand(4, 6, generator=generator) > 0.2 if land else None
    std = torch.tensor([0.1, 1 / 3], dtype=dtype)
    settings = {"grid": GRID, "fields": FIELDS, "dt": 0.1, "noise_std": std, "seed": seed}
    original = observe(states, valid=valid, **settings, **instrument, **more)
    path = tmp_path_factory.mktemp("obs") / f"obs{suffix}"
    original.save(path)
    equal(Observations.open(path), original)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_number_of_points_has_the_exact_mean_and_least_variance():
    states = torch.zeros(40, 50, 1, 64)
    grid = Grid((periodic_axis("x", 64, 36.0),))
    obs = observe(states, grid=grid, fields=(("u", "1"),), dt=1.0, noise_std=torch.ones(1), seed=0, fraction=0.1)
    count = obs.mask.sum(dim=(-2, -1)).float()
    assert set(count.unique().tolist()) == {6.0, 7.0}
    assert count.mean().item() == pytest.approx(6.4, abs=4 * 0.49 / 2000**0.5)
    share = obs.mask.float().mean(dim=(0, 1, 2))  # every point is seen equally often
    assert (share - 0.1).abs().max() < 4.5 * (0.1 * 0.9 / 2000) ** 0.5
    joint = (obs.mask[:, 1:] & obs.mask[:, :-1]).float().mean().item()  # anew at each frame
    assert joint == pytest.approx(0.01, abs=4 * (0.01 / (40 * 49 * 64)) ** 0.5)


def test_noise_has_the_stated_law_in_each_field():
    states = torch.randn(20, 40, 2, 4, 6, generator=torch.Generator().manual_seed(5))
    obs = observe(states, grid=GRID, fields=FIELDS, dt=1.0, noise_std=STD, seed=1, fraction=1.0)
    error = (obs.values - states) / STD[:, None, None]
    number = error[:, :, 0].numel()
    assert error.mean(dim=(0, 1, 3, 4)).abs().max() < 4 / number**0.5
    assert (error.square().mean(dim=(0, 1, 3, 4)) - 1).abs().max() < 4 * (2 / number) ** 0.5
    assert (error[:, :, 0] * error[:, :, 1]).mean().abs() < 4 / number**0.5
    assert (error[:, 1:] * error[:, :-1]).mean().abs() < 4 / number**0.5


def test_a_case_is_the_same_alone_and_in_a_batch_and_depends_on_the_seed():
    states, obs = example(trajectories=torch.tensor([4, 5, 6]), frames=torch.tensor([1, 2, 3]))
    settings = {"grid": GRID, "fields": FIELDS, "dt": 0.5, "noise_std": STD, "fraction": 0.3}
    where = {"trajectories": torch.tensor([5]), "frames": torch.tensor([2])}
    alone = observe(states[1:2], **settings, **where, seed=3)
    assert torch.equal(alone.filled, obs.filled[1:2]) and torch.equal(alone.mask, obs.mask[1:2])
    assert not torch.equal(observe(states[1:2], **settings, **where, seed=4).mask, alone.mask)
    later = observe(states[1:2], **settings, trajectories=torch.tensor([5]), frames=torch.tensor([3]), seed=3)
    assert not torch.equal(later.mask, alone.mask)


def test_sensors_stand_still_and_share_all_fields():
    _, obs = example(sensors=4)
    assert (obs.mask == obs.mask[:, :1, :1]).all()
    assert (obs.mask[:, 0, 0].sum(dim=(-2, -1)) == 4).all()
    assert not torch.equal(obs.mask[0], obs.mask[1])


@pytest.mark.parametrize("instrument", [{"fraction": 0.5}, {"sensors": 3}, {"coarsen": (2, 3)}])
def test_land_is_not_observed_and_its_nan_does_not_spread(instrument):
    valid = torch.ones(4, 6, dtype=torch.bool)
    valid[:2, :3] = False  # one whole block of (2, 3)
    valid[3, 5] = False
    states = torch.randn(2, 3, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    states[..., ~valid] = torch.nan
    settings = {"grid": GRID, "fields": FIELDS, "dt": 1.0, "noise_std": STD, "seed": 0, "valid": valid}
    obs = observe(states, **settings, **instrument)
    if obs.kind == "coarsen":
        assert obs.mask[:, :, :, 0, 0].sum() == 0 and obs.mask.sum() == obs.mask.numel() * 3 / 4
    else:
        assert not obs.mask[..., ~valid].any()
    seen = obs.operator()(states)
    assert torch.isfinite(seen).all() and (seen[~obs.mask] == 0).all()
    clean = observe(states, **settings, **instrument, added_std=torch.zeros(2))
    torch.testing.assert_close(clean.filled, clean.operator()(states))


def test_block_means_weigh_by_area():
    states = torch.arange(24.0).reshape(1, 1, 1, 4, 6)
    obs = observe(
        states,
        grid=GRID,
        fields=(("u", "1"),),
        dt=1.0,
        noise_std=STD[:1],
        seed=0,
        coarsen=(2, 2),
        added_std=torch.zeros(1),
    )
    expected = (0.5 * (0 + 1) + 0.94 * (6 + 7)) / (2 * (0.5 + 0.94))
    assert obs.values[0, 0, 0, 0, 0].item() == pytest.approx(expected, rel=1e-6)
    plain = CoarsenOperator((2, 2))(states)
    assert plain[0, 0, 0, 1, 2].item() == pytest.approx((16 + 17 + 22 + 23) / 4)


@pytest.mark.parametrize("instrument", [{"fraction": 0.3}, {"sensors": 3}, {"coarsen": (2, 3)}])
def test_operators_are_linear_and_their_gradient_is_the_adjoint(instrument):
    states, obs = example(**instrument)
    operator = obs.operator()
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(states.shape, generator=generator, dtype=torch.float64).requires_grad_()
    out = operator(v)
    u = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    (adjoint,) = torch.autograd.grad(out, v, u)
    left, right = (out * u).sum(), (v * adjoint).sum()
    assert (left - right).abs() <= 1e-12 * v.detach().norm() * u.norm()
    w = torch.randn(states.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(operator(2 * v - 3 * w), 2 * operator(v) - 3 * operator(w))


def test_pointwise_operator_has_a_taylor_remainder_of_second_order():
    states, obs = example(fraction=0.5)
    operator = PointwiseOperator(torch.atan, obs.operator())
    x = states.double()
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    _, slope = torch.func.jvp(operator, (x,), (v,))
    remainder = [(operator(x + h * v) - operator(x) - h * slope).norm() for h in (1e-2, 5e-3)]
    assert (remainder[0] / remainder[1]).log2().item() == pytest.approx(2, abs=0.05)
    assert (operator(x)[~obs.mask] == 0).all()
    with pytest.raises(ValueError, match="map 0 to 0"):
        PointwiseOperator(torch.exp, obs.operator())


@pytest.mark.parametrize("instrument", [{"fraction": 0.5}, {"sensors": 10}, {"coarsen": (2, 1)}])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_withheld_and_used_are_a_partition(instrument, share):
    _, obs = example(**instrument)
    used, withheld = obs.withhold(share, seed=0)
    assert torch.equal(used.mask ^ withheld.mask, obs.mask) and not (used.mask & withheld.mask).any()
    assert torch.equal(torch.where(used.mask, used.filled, withheld.filled), obs.filled)
    if obs.kind == "sensors":
        assert (withheld.mask == withheld.mask[:, :1]).all()
        assert (withheld.mask[:, 0, 0].sum(dim=(-2, -1)) == round(10 * share)).all()
    per_case = withheld.mask[:, :, 0].flatten(1).sum(dim=1)
    total = obs.mask[:, :, 0].flatten(1).sum(dim=1)
    if obs.kind != "sensors":
        assert torch.equal(per_case, (share * total).round().long())
    again, _ = obs.withhold(share, seed=0)
    assert torch.equal(again.mask, used.mask)
    other, _ = obs.withhold(share, seed=1)
    assert not torch.equal(other.mask, used.mask)


def test_windows_and_cases_move_frames_and_time():
    _, obs = example(time=torch.tensor([10.0, 11.0, 12.0]), trajectories=torch.tensor([4, 5, 6]))
    part = obs.window(2, 4).select(torch.tensor([2, 0]))
    assert torch.equal(part.filled, obs.filled[[2, 0], 2:4])
    assert part.frames.tolist() == [2, 2] and part.trajectories.tolist() == [6, 4]
    assert part.conditions().time.tolist() == [14.0, 12.0]
    assert isinstance(part.operator(), MaskOperator)


def test_first_frames_may_be_seen_everywhere():
    """Fresh points at each frame or fixed sensors come after them, as they would without."""
    valid = torch.ones(4, 6, dtype=torch.bool)
    valid[0, :3] = False
    for instrument in ({"fraction": 0.2}, {"sensors": 3}):
        plain, begun = (example(valid=valid, complete=complete, **instrument)[1] for complete in (0, 2))
        assert begun.mask[:, :2, :, valid].all() and not begun.mask[..., ~valid].any()
        assert torch.equal(begun.mask[:, 2:], plain.mask[:, 2:]) and torch.equal(
            begun.filled[:, 2:], plain.filled[:, 2:]
        )
        assert begun.kind == "points"
        used, withheld = begun.withhold(0.2, seed=0)
        assert torch.equal(used.mask ^ withheld.mask, begun.mask)
    whole = example(fraction=0.2, complete=5)[1]
    assert whole.mask.all()


def test_added_and_stated_noise_may_differ():
    states, plain = example(fraction=0.5)
    std = torch.tensor([0.01, 0.02])
    clean = example(fraction=0.5, noise_std=std, added_std=torch.zeros(2))[1]
    assert torch.equal(clean.mask, plain.mask) and torch.equal(clean.noise_std, std)
    assert torch.equal(clean.values[clean.mask], states[clean.mask]), "no error at all"
    wrong = example(fraction=0.5, noise_std=std, added_std=STD)[1]
    assert torch.equal(wrong.filled, plain.filled) and torch.equal(wrong.noise_std, std)


def test_only_some_fields_are_seen():
    _, obs = example(only=["t"])
    assert not obs.mask[:, :, 0].any() and obs.mask[:, :, 1].any()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"fraction": 0.0}, "fraction must lie"),
        ({"fraction": 1.2}, "fraction must lie"),
        ({"sensors": 25}, "Between 1 and 24 sensors"),
        ({"coarsen": 4}, "do not divide the 6 points"),
        ({"coarsen": (2, 2, 2)}, "one per axis"),
        ({"only": ["w"]}, "Field 'w' cannot be observed"),
        ({"noise_std": torch.tensor([0.1, 0.0])}, "noise std of field 't' is 0"),
        ({"noise_std": torch.tensor([0.1, torch.nan])}, "must be positive"),
        ({"noise_std": torch.tensor([0.1])}, "One noise std per field"),
        ({"fraction": None}, "exactly one"),
        ({"complete": 6}, "0 to 5, with points of any kind; got 6"),
        ({"complete": -1}, "got -1"),
        ({"coarsen": 2, "complete": 1}, "got 1 with coarsen"),
    ],
)
def test_bad_requests_are_told_in_one_line(changes, words):
    with pytest.raises(InputError, match=words) as error:
        example(**changes)
    assert "\n" not in str(error.value)


def test_misfits_with_a_run_are_told():
    _, obs = example()
    obs.require(GRID, ("u", "t"))
    with pytest.raises(InputError, match="'t' is not in the run, which has u, v"):
        obs.require(GRID, ("u", "v"))
    with pytest.raises(InputError, match="in order"):
        obs.require(GRID, ("t", "u"))
    with pytest.raises(InputError, match="the run on"):
        obs.require(Grid((LATITUDE, periodic_axis("x", 8, 36.0))), ("u", "t"))
    with pytest.raises(InputError, match="Axis 'x' of the observations spans"):
        obs.require(Grid((LATITUDE, periodic_axis("x", 6, 22.0))), ("u", "t"))
    with pytest.raises(InputError, match="No observations are left"):
        replace(obs, values=torch.full_like(obs.values, torch.nan))
    with pytest.raises(InputError, match="No observations are left"):
        example(only=["t"])[1].select(torch.tensor([], dtype=torch.long))
    with pytest.raises(InputError, match=r"Window \[2, 9\)"):
        obs.window(2, 9)


def test_a_bare_table_of_stations_is_read_with_a_grid(tmp_path):
    path = tmp_path / "stations.csv"
    path.write_text(
        "trajectory,time_index,field,y,x,value,std\n0,0,t,-20,35.0,1.5,0.3\n0,2,t,60,6,nan,0.3\n0,2,u,60,6,-2,0.1\n"
    )
    obs = Observations.from_csv(path, grid=GRID, fields=FIELDS, dt=1.0, nearest=True)
    assert obs.num_times == 3 and obs.count == 2
    assert obs.values[0, 0, 1, 1, 0].item() == 1.5  # 35 is nearer to 0 = 36 than to 30
    assert obs.values[0, 2, 0, 3, 1].item() == -2.0
    with pytest.raises(InputError, match="line 2: x = 35 is not a grid point, the nearest is 0"):
        Observations.from_csv(path, grid=GRID, fields=FIELDS, dt=1.0)
    with pytest.raises(InputError, match="no '# eddycast:' header"):
        Observations.from_csv(path)


@pytest.mark.parametrize(
    "old, new, words",
    [
        (",value,", ",worth,", "lacks the column 'value'"),
        ("\n0,0,0,u,", "\n0,0,0,w,", "line 5: field 'w' is not one of u, t"),
        ("\n0,0,0,u,", "\n9,0,0,u,", "line 5: trajectory 9"),
        ("\n0,0,0,u,", "\n0,0,zero,u,", "line 5: invalid literal"),
        ('{"kind"', '{"kin', "header line .* is damaged"),
    ],
)
def test_damaged_tables_name_the_line(tmp_path, old, new, words):
    _, obs = example()
    path = tmp_path / "obs.csv"
    obs.to_csv(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=words) as error:
        Observations.open(path)
    assert "\n" not in str(error.value)


def test_a_double_value_and_a_second_std_are_told(tmp_path):
    _, obs = example()
    path = tmp_path / "obs.csv"
    obs.to_csv(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[-1]]))
    with pytest.raises(InputError, match="a second value in one cell"):
        Observations.open(path)
    path.write_text("\n".join([*lines[:-1], lines[-1] + "e1"]))
    with pytest.raises(InputError, match="each field has one noise std"):
        Observations.open(path)


def test_masks_and_arrays_of_another_shape_are_told(tmp_path):
    """Files whose values, mask of valid points or parameters do not have the shape that their header announces."""
    xarray = pytest.importorskip("xarray")
    valid = torch.ones(4, 6, dtype=torch.bool)
    _, obs = example(valid=valid)
    obs.save(tmp_path / "obs.nc")
    with xarray.open_dataset(tmp_path / "obs.nc", engine="h5netcdf", decode_times=False) as opened:
        whole = opened.load()
    for name, cut, words in (
        (
            "eddycast_valid",
            {"state_x": slice(0, 5)},
            r"'eddycast_valid' is .*shape \(4, 5\), expected numbers of shape \(4, 6\)",
        ),
        ("u", {"x": slice(0, 5)}, r"'u' is .* expected numbers of shape \(3, 5, 4, 6\)"),
    ):
        dims = [f"other_{dim}" if dim in cut else dim for dim in whole[name].dims]
        spoiled = whole.assign({name: (dims, whole[name].isel(cut).values, whole[name].attrs)})
        spoiled.to_netcdf(tmp_path / "spoiled.nc", engine="h5netcdf")
        with pytest.raises(InputError, match=words) as told:
            Observations.open(tmp_path / "spoiled.nc")
        assert "\n" not in str(told.value)
    with pytest.raises(InputError, match=r"do not fit \(case, time, channel"):
        replace(obs, values=obs.values[..., :5])


def test_unreadable_and_unwritable_files_are_told(tmp_path):
    _, obs = example()
    with pytest.raises(InputError, match="no such file"):
        Observations.open(tmp_path / "none.nc")
    with pytest.raises(InputError, match=r"\.nc or \.csv"):
        obs.save(tmp_path / "obs.txt")
    with pytest.raises(InputError, match="Cannot write"):
        obs.save(tmp_path / "missing" / "obs.nc")
    with pytest.raises(InputError, match="Cannot write"):
        obs.save(tmp_path / "missing" / "obs.csv")
    whole = tmp_path / "obs.nc"
    obs.save(whole)
    whole.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a readable"):
        Observations.open(whole)
