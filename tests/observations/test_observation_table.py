"""Tables of observations: operators, missing rows, order, windows, correlated errors, speed."""

from __future__ import annotations

import math
import time

import numpy as np
import pandas as pd
import pytest
import torch

from eddycast.assimilation import enlarged, representation_of
from eddycast.errors import InputError
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.observations import CoarsenOperator, Measurement, observe, rows_of, table_from_frame
from eddycast.observations.measurement import decorrelated
from eddycast.observations.rows import refined

FIELDS = (("u", "m s-1"), ("v", "m s-1"))
LINE = Grid((periodic_axis("x", 16, 32.0),))
PLANE = Grid(
    (Axis("y", tuple(np.linspace(-3, 3, 8).tolist()), ("wall", "wall")), periodic_axis("x", 12, 12.0)),
)
BOX = Grid((*PLANE.axes, Axis("z", (0.0, 1.0, 2.5, 4.0, 4.5), ("open", "wall"))))
GRIDS = {"line": LINE, "plane": PLANE, "box": BOX}


def rows_on(grid, size=60, times=6, seed=0, variables=("u", "v")):
    rng = np.random.default_rng(seed)
    columns = {"time": rng.uniform(0, times - 1, size)}
    for axis in grid.axes:
        low, high = (-axis.period, 2 * axis.period) if axis.period else (axis.coordinates[0], axis.coordinates[-1])
        columns[axis.name] = rng.uniform(low, high, size)
    return pd.DataFrame(
        columns
        | {
            "variable": rng.choice(variables, size),
            "value": rng.normal(size=size),
            "error": rng.uniform(0.1, 1, size),
            "platform": rng.choice(["ship", "buoy", "plane"], size),
            "trajectory": rng.integers(0, 2, size),
        }
    )


def table_on(frame, grid=PLANE, **settings):
    return table_from_frame(frame, **{"grid": grid, "fields": FIELDS, "dt": 1.0, "num_times": 6, **settings})


def states_on(grid, *lead, times=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*lead, 2, times, 2, *grid.shape, generator=generator, dtype=torch.float64)


def same(a: Measurement, b: Measurement) -> None:
    """The same bits, operators included."""
    states = states_on(PLANE, seed=3)[:, :6]
    for name in ("values", "std", "positions", "frames", "groups", "correlation"):
        left, right = getattr(a, name), getattr(b, name)
        if left is None or right is None:
            assert left is right, name
        else:
            assert left.dtype == right.dtype and torch.equal(left.nan_to_num(nan=9e9), right.nan_to_num(nan=9e9)), name
    assert torch.equal(a.operator(states), b.operator(states))


def boxes(frame, grid, seed=1):
    rng = np.random.default_rng(seed)
    for axis in grid.axes:
        width = rng.uniform(0, 1, len(frame)) * (axis.period or 1.0) * (rng.random(len(frame)) < 0.5)
        if axis.period is None:
            width = np.minimum(
                width, 2 * np.minimum(frame[axis.name] - axis.coordinates[0], axis.coordinates[-1] - frame[axis.name])
            )
        frame[f"{axis.name}_width"] = width
    return frame


def spectral(grid, size=30, seed=2):
    rng = np.random.default_rng(seed)
    frame = rows_on(grid, size, seed=seed).drop(columns=list(grid.names))
    for axis in grid.axes:
        frame[f"k_{axis.name}"] = rng.integers(-axis.size // 2 + 1, axis.size // 2, size)
    return frame.assign(part=rng.choice(["real", "imag"], size))


RING = Grid((periodic_axis("y", 6, 1.0), periodic_axis("x", 8, 2.0)))
LINEAR = [
    *((name, rule, False) for name in GRIDS for rule in ("nearest", "linear", "cubic")),
    *((name, "linear", True) for name in GRIDS),
    ("line", "fourier", False),
    ("ring", "fourier", False),
    ("ring", "spectral", False),
]


@pytest.mark.parametrize("name, rule, box", LINEAR)
def test_linear_operators_pass_the_dot_test(name, rule, box):
    """<H v, w> = <v, H^T w> to 1e-10 of the norms, and H is linear, for points, boxes, lines and spectral coefficients."""
    grid = RING if name == "ring" else GRIDS[name]
    frame = spectral(grid) if rule == "spectral" else rows_on(grid)
    frame = boxes(frame, grid) if box else frame
    measurement = table_on(frame, grid, interpolation="linear" if rule == "spectral" else rule).seen(0, 6)
    assert measurement is not None and measurement.count == len(frame)
    v = states_on(grid).requires_grad_()
    seen = measurement.operator(v)
    w = torch.randn(seen.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    (back,) = torch.autograd.grad(seen, v, w)
    other = states_on(grid, seed=7)
    gap = (measurement.operator(other) * w).sum() - (other * back).sum()
    assert abs(gap.item()) <= 1e-10 * other.norm() * back.norm()
    both = measurement.operator(2 * v.detach() - 3 * other)
    assert torch.allclose(both, 2 * seen.detach() - 3 * measurement.operator(other), atol=1e-11)
    _, forward = torch.func.jvp(measurement.operator, (v.detach(),), (other,))
    assert torch.allclose(forward, measurement.operator(other), atol=1e-12)


@pytest.mark.parametrize(
    "variable", ["speed", "speed(u, v)", "energy(u,v)", "arctan(u)", "square(v)", "exp(u)", "product(u, v)", "own"]
)
def test_derived_variables_pass_the_taylor_test(variable):
    """|H(x + h d) - H(x) - h H'(x) d| falls as h^2."""
    own = {"own": (lambda a, b: torch.sin(a) * torch.exp(b), ("u", "v"))}
    frame = rows_on(PLANE).assign(variable=variable)
    measurement = table_on(frame, functions=own).seen(0, 6)
    assert measurement is not None
    x, d = states_on(PLANE), states_on(PLANE, seed=5)
    value, slope = torch.func.jvp(measurement.operator, (x,), (d,))
    steps = [1e-2, 1e-3, 1e-4]
    rest = [(measurement.operator(x + h * d) - value - h * slope).norm().item() for h in steps]
    assert np.diff(np.log10(rest)) == pytest.approx(-2, abs=0.05)
    w = torch.randn(value.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    (back,) = torch.autograd.grad(measurement.operator(x.requires_grad_()), x, w)
    assert (slope * w).sum().item() == pytest.approx((back * d).sum().item(), rel=1e-10)


def test_a_speed_at_rest_has_the_slope_0():
    table = table_on(rows_on(PLANE).assign(variable="speed"))
    rest = torch.zeros_like(states_on(PLANE)).requires_grad_()
    seen = table.seen(0, 6)
    assert seen is not None
    seen.operator(rest).sum().backward()
    assert rest.grad is not None and not rest.grad.any()


def test_values_at_rows_are_those_of_the_field():
    """A field that is linear in time and space is interpolated exactly, and a speed is that of the interpolated components."""
    y = torch.tensor(PLANE.axes[0].coordinates, dtype=torch.float64)[:, None]
    field = torch.stack([(1 + 0.5 * t + (2 - t) * y).expand(8, 12) for t in range(6)])
    states = torch.stack([field, 2 * field], dim=1).expand(2, 6, 2, 8, 12)
    frame = rows_on(PLANE, variables=("u", "v", "speed"))
    table = table_on(frame)
    out = rows_of(table, states[None])
    t, height = frame["time"], frame["y"]
    first = np.floor(t)
    at = [(1 + 0.5 * s + (2 - s) * height) for s in (first, first + 1)]
    exact = (1 - (t - first)) * at[0] + (t - first) * at[1]
    factor = frame["variable"].map({"u": 1.0, "v": 2.0, "speed": math.sqrt(5)})
    exact = np.where(frame["variable"] == "speed", np.abs(exact), exact) * factor
    assert np.abs(out["mean"] - exact).max() < 1e-12
    assert (out["row"] == np.arange(1, 61)).all() and out["used"].all()


def test_boxes_of_whole_cells_are_block_means_and_modes_are_fourier_coefficients():
    states = states_on(RING)
    block = CoarsenOperator((3, 2))(states)  # cells of RING reach half a spacing to both sides
    table = table_on(
        pd.DataFrame(
            [
                {"time": 2.0, "trajectory": case, "variable": "v", "value": 0.0, "error": 1.0, "y_from": (3 * i - 0.5) / 6,
                 "y_to": (3 * i + 2.5) / 6, "x_from": (2 * j - 0.5) / 4, "x_to": (2 * j + 1.5) / 4}
                for case in range(2) for i in range(2) for j in range(4)
            ]
        ),
        RING,
    )  # fmt: skip
    out = rows_of(table, states[None])
    assert np.abs(out["mean"].to_numpy().reshape(2, 2, 4) - block[:, 2, 1].numpy()).max() < 1e-12
    frame = spectral(RING).assign(time=3.0)
    out = rows_of(table_on(frame, RING), states[None])
    modes = np.fft.fft2(states[:, 3].numpy(), norm="forward")
    channel = (frame["variable"] == "v").astype(int)
    exact = modes[frame["trajectory"], channel, frame["k_y"], frame["k_x"]]
    assert np.abs(out["mean"] - np.where(frame["part"] == "real", exact.real, exact.imag)).max() < 1e-12


def test_removed_missing_and_refused_rows_leave_the_same_bits_and_so_does_any_order():
    frame = boxes(rows_on(PLANE, 80, variables=("u", "v", "speed", "arctan(u)")), PLANE)
    frame["quality"] = 0
    lost = np.arange(0, 80, 3)
    kept = frame.drop(index=lost)
    nan = frame.copy()
    nan.loc[lost, "value"] = np.nan
    refused = frame.copy()
    refused.loc[lost, "quality"] = 4
    outside = frame.copy()
    outside.loc[lost, "y"] = 99.0
    settings = {"correlation": {"ship": 0.4, "plane": 0.7}}
    known = table_on(kept, **settings)
    for other in (nan, refused, outside, kept.sample(frac=1, random_state=1), refused.sample(frac=1, random_state=2)):
        table = table_on(other, **settings)
        same(table.seen(0, 6), known.seen(0, 6))
        for k in range(6):
            a, b = table.seen(k - 1, k + 1, since=k), known.seen(k - 1, k + 1, since=k)
            assert (a is None) == (b is None) and (
                a is None or torch.equal(a.values.nan_to_num(), b.values.nan_to_num())
            )
    assert table_on(outside).reasons() == {"outside the grid": len(lost)}
    assert table_on(nan).reasons() == {"no value": len(lost)} and table_on(refused).reasons() == {
        "quality flag": len(lost)
    }
    told = rows_of(table_on(refused), states_on(PLANE, 3))
    assert (~told["used"]).sum() == len(lost) and set(told["reason"][lost]) == {"quality flag"}
    assert np.isfinite(told["mean"]).all()  # what the model has where a flag is refused is told


def test_frames_cut_the_rows_once():
    """Going through frames one by one sees each row once; a window that starts later sees the same, given the frame before."""
    table = table_on(rows_on(PLANE, 80))
    whole = table.seen(0, 6)
    assert whole is not None
    parts = [table.seen(k - 1, k + 1, since=k) for k in range(6)]
    assert sum(part.count for part in parts if part is not None) == whole.count == 80
    states = states_on(PLANE)
    window, cases = table.window(3, 5), torch.tensor([1, 0, 1])
    direct, shifted = table.seen(2, 5, since=3), window.seen(-1, 2, since=0)
    assert direct is not None and shifted is not None
    assert torch.equal(direct.operator(states[:, 2:5]), shifted.operator(states[:, 2:5]))
    assert torch.equal(direct.frames - 3, torch.where(direct.mask, shifted.frames, direct.frames - 3))
    inner = window.seen(0, 2)
    assert inner is not None and 0 < inner.count < shifted.count
    several = table.select(cases).seen(0, 6)
    assert several is not None
    assert torch.equal(several.operator(states[cases]), whole.select(cases).operator(states[cases]))
    assert torch.equal(several.values.nan_to_num(), whole.values[cases].nan_to_num())
    assert window.num_times == 2 and window.frames.tolist() == [3, 3]
    assert table.observed_frames().tolist() == [part is not None for part in parts]


def test_the_nearest_frame_has_a_tolerance_and_its_distance_is_an_error():
    frame = pd.DataFrame(
        {"time": [1.0, 1.2, 1.4, 1.5, 2.6], "y": 0.0, "x": 0.0, "variable": "u", "value": 1.0, "error": 0.3}
    )
    table = table_on(frame, in_time="nearest", tolerance=0.3, tendency={"u": 2.0})
    assert table.reasons() == {"no frame within the tolerance": 3}
    seen = table.seen(0, 6)
    assert seen is not None and seen.frames.tolist() == [[1, 1]]
    assert seen.std[0].tolist() == pytest.approx([0.3, math.hypot(0.3, 2.0 * 0.2)])
    own = table_on(frame.assign(tolerance=[0.0, 0.1, 0.4, 0.5, 0.4]), in_time="nearest")
    assert own.reasons() == {"no frame within the tolerance": 1}
    assert own.seen(0, 6).frames.tolist() == [[1, 1, 2, 3]]


def test_land_is_left_out_of_what_can_do_without_it():
    """On a field that is 1 at sea and NaN on land, linear points and boxes that touch the sea give 1; cubics need the sea all around."""
    valid = torch.ones(8, 12, dtype=torch.bool)
    valid[:, 4:7] = False
    sea = torch.where(valid, 1.0, torch.nan).double().expand(2, 6, 2, 8, 12)
    frame = rows_on(PLANE, 300)
    x = frame["x"] % 12
    for rule, lost in (
        ("linear", (x >= 4) & (x <= 6)),
        ("nearest", (x > 3.5) & (x < 6.5)),
        ("cubic", (x > 2) & (x < 8)),
    ):
        table = table_on(frame, interpolation=rule, valid=valid)
        assert table.reasons() == {"touches points where nothing is defined": int(lost.sum())}
        out = rows_of(table, sea[None])
        assert np.abs(out["mean"][out["used"]] - 1).max() < 1e-12 and out["mean"][~out["used"]].isna().all()
    wide = table_on(frame.assign(x_from=0.0, x_to=12.0), valid=valid)  # all around: sums over the whole frame
    state = sea.clone().requires_grad_()
    seen = wide.seen(0, 6)
    value = seen.operator(state)
    assert wide.count == 300 and torch.allclose(value[seen.mask], torch.ones(()).double())
    value.sum().backward()
    assert torch.isfinite(state.grad).all() and not state.grad[..., ~valid].any()
    assert seen.positions[..., 1].isnan().all()


def test_errors_that_go_together_are_whitened_by_the_symmetric_root():
    """R^-1/2 against numpy, groups of several sizes in two cases; white residuals are white: their covariance is 1."""
    rng = np.random.default_rng(0)
    groups = torch.tensor([[0, 1, 0, -1, 0, 1], [2, 2, 0, -1, -1, -1]])
    rho = torch.tensor([[0.6, 0.9, 0.6, 0.0, 0.6, 0.9], [0.3, 0.3, 0.5, 0.0, 0.0, 0.0]], dtype=torch.float64)
    x = torch.from_numpy(rng.normal(size=(4, 2, 6)))
    white = decorrelated(x, groups, rho)
    for case in range(2):
        together = (groups[case][:, None] == groups[case]) & (groups[case] >= 0)
        c = np.where(together, rho[case].numpy(), 0.0)
        np.fill_diagonal(c, 1.0)
        values, vectors = np.linalg.eigh(c)
        root = vectors @ np.diag(values**-0.5) @ vectors.T
        assert np.abs(white[:, case].numpy() - x[:, case].numpy() @ root).max() < 1e-12
    frame = rows_on(PLANE, 80).assign(time=lambda f: f["time"].round())
    plain, table = table_on(frame, dtype=torch.float64), table_on(frame, correlation=0.5, dtype=torch.float64)
    a, b = plain.seen(0, 6), table.seen(0, 6)
    assert a is not None and b is not None and a.groups is None
    states = states_on(PLANE)
    known, value = b.whitened(states)
    for case in range(2):
        n = int(b.mask[case].sum())
        where = frame[frame["trajectory"] == case]
        order = [int(np.flatnonzero(where["value"] == v)[0]) for v in b.values[case, :n].tolist()]
        where = where.iloc[order]
        alike = (where["platform"].to_numpy()[:, None] == where["platform"].to_numpy()) & (
            where["time"].to_numpy()[:, None] == where["time"].to_numpy()
        )
        r = np.where(alike, 0.5, 0.0) + np.diag(np.full(n, 0.5))
        r *= np.outer(where["error"], where["error"])
        residual = (b.operator(states) - b.values)[case, :n].numpy()
        chi = np.square((known - value)[case, :n].numpy()).sum()
        assert chi == pytest.approx(residual @ np.linalg.solve(r, residual), rel=1e-10)
    alone = b.independent()
    assert alone.groups is None and alone.count == b.count and a.independent() is a
    assert torch.equal(alone.select(torch.tensor([1])).operator(states[1:]), known[1:])
    assert torch.allclose(alone.whitened(states)[1], value, atol=1e-14)
    assert torch.equal(a.whitened(states)[0], a.operator(states) / a.std)


def test_platforms_and_places_are_withheld():
    frame = rows_on(PLANE, 90)
    table = table_on(frame)
    used, held = table.withhold(platforms=["ship", "buoy"])
    assert held.count == frame["platform"].isin(["ship", "buoy"]).sum() and used.count + held.count == 90
    assert used.reasons() == {"withheld": held.count}
    sensors = pd.concat([frame.iloc[:20].assign(time=float(t)) for t in range(6)], ignore_index=True)
    used, held = table_on(sensors).withhold(0.25, seed=3)
    places = [
        set(zip(rows_of(part, states_on(PLANE, 1))[lambda f: f["used"]]["x"].round(9), strict=False))
        for part in (used, held)
    ]
    assert not places[0] & places[1] and held.count == 6 * len(places[1]) and len(places[1]) in (4, 5, 6)
    again = table_on(sensors.sample(frac=1, random_state=0)).withhold(0.25, seed=3)[1]
    same(again.seen(0, 6), held.seen(0, 6))
    other = table_on(sensors).withhold(0.25, seed=4)[1]
    assert not torch.equal(other.seen(0, 6).values.nan_to_num(), held.seen(0, 6).values.nan_to_num())
    for arguments, word in (
        ({"platforms": ["rocket"]}, "no platform 'rocket'"),
        ({"fraction": 1.0}, "between 0 and 1"),
        ({}, "Say what"),
    ):
        with pytest.raises(InputError, match=word):
            table.withhold(**arguments)


def test_points_of_a_grid_are_the_same_as_rows_and_as_cells(tmp_path):
    """The CSV of gridded observations, read as a table: the same entries, for the representation error as well."""
    gridded = observe(
        states_on(PLANE).float(),
        grid=PLANE,
        fields=FIELDS,
        dt=0.5,
        noise_std=torch.tensor([0.1, 0.3]),
        seed=3,
        fraction=0.2,
    )
    gridded.to_csv(tmp_path / "obs.csv")
    table = table_on(pd.read_csv(tmp_path / "obs.csv", comment="#"), dt=0.5)
    states = states_on(PLANE, 3, seed=9)
    for start, stop, since in ((0, 6, None), (2, 5, 4)):
        a, b = gridded.seen(start, stop, since=since), table.seen(start, stop, since=since)
        assert a is not None and b is not None and a.count == b.count == int(a.mask.sum())
        for left, right in (
            (a.values, b.values),
            (a.std, b.std),
            (a.operator(states[:, :, start:stop]), b.operator(states[:, :, start:stop])),
        ):
            for case in range(2):
                one, other = (part[..., case, :][..., mask[case]] for part, mask in ((left, a.mask), (right, b.mask)))
                assert torch.allclose(one.sort(dim=-1).values, other.sort(dim=-1).values, atol=1e-6)

    class Halves:
        """Forgets every other point along y."""

        def encode(self, states, conditions, leads):
            return states[..., ::2, :]

        def decode(self, z, conditions, leads):
            return z.repeat_interleave(2, dim=-2)

    archive = states_on(PLANE)[:, :4].flatten(0, 1).float()
    conditions = gridded.conditions()
    known = representation_of(gridded, Halves(), archive, conditions)
    told = representation_of(table, Halves(), archive, conditions)
    assert told.tolist() == pytest.approx(known.tolist(), rel=1e-6)
    more = enlarged(table, told).seen(0, 6)
    assert more is not None
    stds = [math.hypot(stated, extra) for stated, extra in zip((0.1, 0.3), told.tolist(), strict=True)]
    assert more.std[more.mask].unique().tolist() == pytest.approx(sorted(stds), rel=1e-6)


def test_ranks_of_a_reliable_ensemble_are_uniform():
    """Members, truth and errors from the same laws; 4000 ranks of 7 members: chi-square of 8 counts below its 0.999 quantile, 24.3."""
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    states = torch.randn(8, 1, 40, 2, *PLANE.shape, generator=generator, dtype=torch.float64)
    frame = pd.DataFrame({
        "time": rng.integers(0, 40, 4000), "y": rng.choice(PLANE.axes[0].coordinates, 4000),
        "x": rng.integers(0, 12, 4000), "variable": "u", "error": 0.5, "value": 0.0,
    })  # fmt: skip
    row = np.searchsorted(PLANE.axes[0].coordinates, frame["y"])
    truth = states[7, 0, frame["time"].to_numpy().copy(), 0, row, frame["x"].to_numpy().copy()]
    frame["value"] = truth.numpy() + 0.5 * rng.normal(size=4000)
    out = rows_of(table_on(frame, num_times=40, dtype=torch.float64), states[:7])
    counts = np.bincount(out["rank"].astype(int), minlength=8)
    assert len(counts) == 8 and ((counts - 500) ** 2 / 500).sum() < 24.3
    assert np.square(out["innovation"]).mean() == pytest.approx(1 + 1 / 7 + 0.25, rel=0.1)
    assert np.square(out["spread"]).mean() == pytest.approx(1, rel=0.1)


def test_the_order_of_rows_is_that_of_a_sort_by_all_columns():
    rng = np.random.default_rng(0)
    keys = [rng.integers(0, size, 500).astype(float) for size in (3, 4, 2, 5, 500)]
    assert (refined(keys, 500) == np.lexsort(keys[::-1])).all()
    assert refined([], 0).tolist() == [] and refined([np.zeros(3)], 3).tolist() == [0, 1, 2]


def test_a_hundred_thousand_rows_become_an_operator_in_half_a_second():
    """A million take 5 s at most on one core; CPU time, so that other work on the machine does not count."""
    rng = np.random.default_rng(0)
    size = 100_000
    frame = pd.DataFrame({
        "time": rng.uniform(0, 99, size), "y": rng.uniform(-3, 3, size), "x": rng.uniform(0, 12, size),
        "variable": rng.choice(["u", "v", "speed"], size), "value": rng.normal(size=size), "error": 0.1,
        "platform": rng.choice(["a", "b"], size), "quality": 0,
    })  # fmt: skip
    table_on(frame.iloc[:100], num_times=100).seen(0, 100)  # imports
    begin = time.process_time()
    seen = table_on(frame, num_times=100, correlation=0.2).seen(0, 100)
    assert time.process_time() - begin < 0.5
    assert seen is not None and seen.count == size
