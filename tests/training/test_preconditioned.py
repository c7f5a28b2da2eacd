"""SOAP: what its preconditioner is for, and that a training goes on from its state bit by bit."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from eddycast import api
from eddycast.errors import InputError
from eddycast.training import RunDirectory, SilentObserver, read_tensors
from eddycast.training.checkpoint import Position, read_position, restore, save_checkpoint
from eddycast.training.loop import learning_rate_factor
from eddycast.training.optimiser import build_optimisers
from eddycast.training.preconditioned import soap_shapes, soap_tensors

RECIPE = "ks/regression-smoke"


@pytest.fixture
def library():
    return pytest.importorskip("pytorch_optimizer")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(draw(size, size, seed=seed))[0]


def distance(kind: str, steps: int = 300) -> float:
    """Of W from the minimum of |A (W - W*) B|^2, relative to the start, where A and B have rotated axes and condition number 30."""
    size, rate = 16, 0.1
    stretch = torch.logspace(-0.75, 0.75, size, dtype=torch.float64)
    left, right = (rotation(size, seed) @ torch.diag(stretch) @ rotation(size, seed + 1).T for seed in (1, 3))
    target = draw(size, size, seed=5)
    layer = nn.Linear(size, size, bias=False, dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    (optimiser,) = build_optimisers(layer, kind=kind, learning_rate=rate, weight_decay=0.0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * learning_rate_factor(step, steps, 10)
        optimiser.zero_grad()
        (left @ (layer.weight - target) @ right).square().sum().backward()
        optimiser.step()
    return ((layer.weight.detach() - target).norm() / target.norm()).item()


def test_soap_finds_the_axes_of_a_badly_conditioned_quadratic_that_adamw_does_not(library):
    """Its Hessian has condition number 1e6 and axes that are not those of the weights; in its own axes Adam is nearly Newton."""
    with_bases, without = distance("soap"), distance("adamw")
    assert with_bases < 0.2 * without


class Mixed(nn.Module):
    """A parameter of each number of axes."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((), (5,), (4, 6), (3, 2, 3, 3))
        )

    def step(self, optimisers: list[torch.optim.Optimizer], number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss = sum((weight * torch.randn(weight.shape, generator=generator)).sum().sin() for weight in self.weights)
        loss.backward()  # type: ignore[union-attr]
        for optimiser in optimisers:
            optimiser.step()


def made() -> tuple[Mixed, list[torch.optim.Optimizer]]:
    module = Mixed()
    return module, build_optimisers(module, kind="soap", learning_rate=0.01, weight_decay=0.1)


SETTINGS = {"stages": ["only"]}


@pytest.mark.parametrize("stop", [0, 1, 2, 10, 11, 23])
def test_a_checkpoint_has_all_of_its_state(library, tmp_path, stop):
    """Stopped before, at and after the steps that only measure (1) and that turn the bases (11, 21)."""
    whole, optimisers = made()
    for number in range(30):
        whole.step(optimisers, number)
    first, optimisers = made()
    for number in range(stop):
        first.step(optimisers, number)
    save_checkpoint(tmp_path / "c.safetensors", Position("only", stop), first, optimisers, None, SETTINGS)
    _, tensors, updates = read_position(tmp_path / "c.safetensors", SETTINGS)
    second, optimisers = made()
    restore(tensors, updates, second, optimisers, None)
    torch.rand(3)
    for number in range(stop, 30):
        second.step(optimisers, number)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(second.weights, whole.weights, strict=True))


def test_names_and_shapes_of_its_state_are_those_announced(library):
    module, (optimiser,) = made()
    module.step([optimiser], 0)
    tensors = soap_tensors(optimiser)
    assert len(tensors) == 4
    for index, parameter in enumerate(module.weights):
        assert {name: tuple(value.shape) for name, value in tensors[index].items()} == soap_shapes(parameter)
    kernel = soap_shapes(module.weights[3])
    assert (kernel["gram.0"], kernel["basis.2"]) == ((3, 3), (3, 3))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("optimiser.0.2.basis.1"), "not whole"),
        (lambda state: state.update({"optimiser.0.2.gram.0": torch.zeros(3, 3)}), "gram.0 of parameter 2"),
        (lambda state: state.update({"optimiser.0.7.step": torch.zeros(())}), "parameter 7 is not whole"),
        (lambda state: state["optimiser.0.1.step"].add_(1), "different steps: 5, 6"),
    ],
)
def test_a_damaged_state_is_refused(library, tmp_path, damage, message):
    module, optimisers = made()
    for number in range(5):
        module.step(optimisers, number)
    save_checkpoint(tmp_path / "c.safetensors", Position("only", 5), module, optimisers, None, SETTINGS)
    _, tensors, updates = read_position(tmp_path / "c.safetensors", SETTINGS)
    damage(tensors)
    with pytest.raises(InputError, match=message):
        restore(tensors, updates, *made(), None)


def test_a_training_with_it_stopped_and_resumed_ends_with_the_same_weights(library, tmp_path):
    class Stops(SilentObserver):
        def step(self, done: int, loss: float) -> None:
            if done == 13:
                raise KeyboardInterrupt

    data = api.simulate("kuramoto-sivashinsky", trajectories=8, steps=24, seed=0)
    settings = {"training.steps": 25, "training.optimiser": "soap"}
    options = {"data": data, "overrides": settings}
    api.train(RECIPE, out=tmp_path / "whole", observer=SilentObserver(), **options)
    with pytest.raises(KeyboardInterrupt):
        api.train(RECIPE, out=tmp_path / "stopped", observer=Stops(), **options)
    api.train(RECIPE, out=tmp_path / "stopped", observer=SilentObserver(), resume=True, **options)
    ours, theirs = (read_tensors(RunDirectory(tmp_path / name).component("model"))[0] for name in ("stopped", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_without_its_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(InputError, match=r"pip install 'eddycast\[optimisers\]'") as caught:
        build_optimisers(nn.Linear(4, 4), kind="soap", learning_rate=0.1, weight_decay=0.0)
    assert "\n" not in str(caught.value)
