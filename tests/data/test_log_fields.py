"""Fields that are normalised as logarithms, and vectors whose components share one scale."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from eddycast.autoencoders import Components, View
from eddycast.data import Dataset, Field, Normalisation, from_arrays, statistics
from eddycast.data.logarithms import LARGEST_LOG
from eddycast.errors import InputError
from eddycast.grid import Axis, Grid, periodic_axis

GRID = Grid((periodic_axis("x", 6, 1.0), periodic_axis("y", 6, 1.0)))
FIELDS = (
    Field("density"), Field("momentum_x", vector="momentum"), Field("momentum_y", vector="momentum"), Field("pressure"), Field("tracer"),
)  # fmt: skip
LOG = {"density": 0.1, "pressure": 1e-6}
CHANNELS = [0, 3]


def states(trajectories: int = 5, frames: int = 9) -> Tensor:
    noise = torch.randn(trajectories, frames, 5, 6, 6, generator=torch.Generator().manual_seed(0)).cumsum(1) / 3
    scale = torch.tensor([1.0, 2.0, 0.5, 1.5, 3.0])[:, None, None]
    shift = torch.tensor([0.0, 0.7, -0.2, -3.0, 4.0])[:, None, None]
    x = scale * noise + shift
    x[:, :, CHANNELS] = x[:, :, CHANNELS].exp()
    return x


def data(values: Tensor | None = None, fields=FIELDS, grid: Grid = GRID) -> Dataset:
    return from_arrays(states() if values is None else values, fields=fields, grid=grid, dt=1.0)


def logged(x: Tensor) -> Tensor:
    x = x.double().clone()
    x[:, :, 0] = torch.log(x[:, :, 0] + 0.1)
    x[:, :, 3] = torch.log(x[:, :, 3] + 1e-6)
    return x


def test_statistics_are_those_of_the_logarithms():
    made = data()
    train = logged(states()[: len(made.splits["train"])])
    found = statistics(made, mean="field", log=LOG)
    axes = (0, 1, 3, 4)
    torch.testing.assert_close(found.mean.flatten().double(), train.mean(axes), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.std.flatten().double(), train.std(axes, correction=0), rtol=1e-5, atol=0)
    change = train.diff(dim=1).std(axes, correction=0) / train.std(axes, correction=0)
    torch.testing.assert_close(found.increment_std.double(), change, rtol=1e-5, atol=0)
    assert found.offsets == (0.1, None, None, 1e-6, None)
    assert statistics(made, mean="field").offsets == ()


@pytest.mark.parametrize(
    "options", [{"mean": "field"}, {"mean": "pixel", "std": "pixel"}, {"mean": "field", "vectors": "shared"}], ids=str
)
def test_encode_and_decode_are_inverse(options):
    made = data()
    space = statistics(made, log=LOG, **options)
    start = made.initial("test", start=2)
    here, leads = start.conditions(), torch.arange(3.0)
    x = torch.cat([start.context(3), start.context(3)]).double()
    encoded = space.encode(x, here, leads)
    torch.testing.assert_close(space.decode(encoded, here, leads), x, rtol=1e-6, atol=1e-6)
    train = space.encode(states()[: len(made.splits["train"])], here, leads)
    assert (train.mean((0, 1, 3, 4)).abs() < 1e-4)[CHANNELS].all()
    assert train[:, :, CHANNELS].std().item() == pytest.approx(1, abs=0.05)


def test_shared_vectors_have_no_mean_and_one_scale_about_zero():
    made = data()
    train = logged(states()[: len(made.splits["train"])])
    found = statistics(made, mean="field", log=LOG, vectors="shared")
    rms = train[:, :, 1:3].square().mean().sqrt()
    assert found.mean[1:3].abs().max() == 0
    torch.testing.assert_close(found.std[1:3].flatten().double(), rms.expand(2), rtol=1e-5, atol=0)
    separate = statistics(made, mean="field", log=LOG)
    for channel in (0, 3, 4):
        assert torch.equal(found.mean[channel], separate.mean[channel])
        assert torch.equal(found.std[channel], separate.std[channel])
    change = train.diff(dim=1).std((0, 1, 3, 4), correction=0) / found.std.flatten().double()
    torch.testing.assert_close(found.increment_std.double(), change, rtol=1e-5, atol=0)


def test_views_of_normalised_states_are_normalised_views():
    """That is what a shared scale is for; with separate ones it is not so."""
    made = data()
    components = Components.of([item.name for item in FIELDS], [item.vector for item in FIELDS], GRID.names)
    view = View((True, False), (1, 0), (2, 1))
    start = made.initial("test", start=4)
    here, leads, x = start.conditions(), torch.zeros(1), start.context(1)
    for vectors, alike in (("shared", True), ("separate", False)):
        space = statistics(made, mean="field", log=LOG, vectors=vectors)  # type: ignore[arg-type]
        one = view(space.encode(x, here, leads), components)
        other = space.encode(view(x, components), here, leads)
        assert torch.allclose(one, other, atol=1e-5) == alike


@pytest.mark.parametrize("still", [[2], [1, 2]], ids=["one component", "both"])
def test_components_that_do_not_vary(still):
    """One that is zero everywhere takes part in the common scale with what it is; all of them, and the scale is 1."""
    values = states()
    values[:, :, still] = 0
    made = data(values)
    found = statistics(made, mean="field", vectors="shared")
    rms = values[: len(made.splits["train"]), :, 1:3].double().square().mean().sqrt().item()
    assert found.std[1:3].flatten().tolist() == pytest.approx([rms or 1.0] * 2, rel=1e-5)


def test_statistics_of_a_part_with_land():
    values = states()
    values[..., 2:, 3] = math.nan
    made = data(values)
    found = statistics(made, mean="field", log=LOG)
    density = logged(values)[: len(made.splits["train"]), :, 0]
    sea = density[torch.isfinite(density)]
    assert sea.numel() < density.numel()
    assert found.mean[0].item() == pytest.approx(sea.mean().item(), rel=1e-4)
    assert found.std[0].item() == pytest.approx(sea.std(correction=0).item(), rel=1e-4)


def told(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_values_without_a_logarithm_are_refused():
    values = states()
    values[1, 4, 0, 2, 3] = -0.1
    with pytest.raises(
        InputError, match=r"'density' has values as low as -0\.1 \(trajectory 1\).*raise the offset"
    ) as caught:
        statistics(data(values), log=LOG)
    told(caught)
    assert statistics(data(values), log=LOG | {"density": 0.2}).offsets[0] == 0.2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"log": {"densty": 1.0}}, "names 'densty'; the data have the fields density, momentum_x"),
        ({"log": {"density": 0.0}}, "offset of 'density' must be positive, got 0"),
        ({"log": {"density": -1.0}}, "must be positive"),
        ({"log": {"density": math.nan}}, "must be positive"),
        ({"log": {"density": math.inf}}, "must be positive"),
        ({"vectors": "shared", "mean": "pixel"}, "needs space.mean=field"),
        ({"vectors": "shared", "mean": "field", "std": "pixel"}, "needs space.mean=field"),
        (
            {"vectors": "shared", "mean": "field", "log": {"momentum_x": 99.0}},
            "'momentum_x', a component of a vector, which has a sign",
        ),
    ],
)
def test_settings_that_do_not_fit_the_fields(options, words):
    with pytest.raises(InputError, match=words) as caught:
        statistics(data(), **options)
    told(caught)


def test_huge_logarithms_give_huge_and_not_infinite_numbers():
    space = statistics(data(), mean="field", log=LOG)
    x = torch.full((1, 1, 5, 6, 6), 1e4)
    here = data().initial("test", start=0).conditions()
    assert torch.isfinite(space.decode(x, here, torch.zeros(1))).all()
    assert space.decode(x, here, torch.zeros(1))[0, 0, 0, 0, 0].item() == pytest.approx(math.exp(LARGEST_LOG), rel=1e-3)


def test_a_normalisation_is_stored_with_its_offsets_and_older_ones_have_none():
    space = statistics(data(), mean="field", log=LOG, vectors="shared")
    again = Normalisation.from_tensors(space.to_tensors(), space.summary())
    assert again.offsets == space.offsets and again.names == space.names
    assert torch.equal(again.coefficients, space.coefficients) and torch.equal(again.std, space.std)
    older = {key: value for key, value in space.summary().items() if key != "offsets"}
    assert Normalisation.from_tensors(space.to_tensors(), older).offsets == ()
    x = states()[:1, :2]
    here = data().initial("test", start=0).conditions()
    plain = replace(space, offsets=())
    torch.testing.assert_close(
        Normalisation.from_tensors(space.to_tensors(), older).encode(x, here, torch.zeros(2)),
        plain.encode(x, here, torch.zeros(2)),
    )


def test_weights_of_a_grid_count_in_shared_scales():
    """Points of an axis with quadrature weights 1, ..., 6."""
    axis = Axis("y", tuple(float(j) for j in range(6)), ("wall", "wall"), weights=tuple(range(1, 7)))
    made = data(grid=Grid((GRID.axes[0], axis)))
    train = states()[: len(made.splits["train"])].double()
    weights = torch.arange(1.0, 7.0) / 3.5
    rms = (train[:, :, 1:3].square() * weights).mean().sqrt().item()
    assert statistics(made, mean="field", vectors="shared").std[1].item() == pytest.approx(rms, rel=1e-5)
