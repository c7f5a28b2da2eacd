"""An emulator: a space, a window model and the settings of its rollout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from eddycast.conditions import Conditions
from eddycast.emulators.guard import SpectralGuard
from eddycast.emulators.latent import LatentSpace
from eddycast.emulators.protocols import Space, WindowModel
from eddycast.emulators.rollout import StateHook, rollout
from eddycast.noise import MemberNoise

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True)
class Emulator:
    """A distribution over the next states given the last ones; trained models, the solver and the baselines alike.

    Args:
        model: One window of the family.
        space: Physical <-> model space.
        guard: Keeps rollouts in the band and with the means of the training data; None for none.
        hook: Re-imposes boundary values on every member after each window; see `boundary_values`.
        dress: Add to decoded states what the space has lost of them, as noise of its learned scale (`LatentSpace.dressed`).
        chunk: Members (times cases) in one pass. Results are bitwise the same in any run at a fixed chunk, and agree to rounding
            between chunks; it bounds the memory of the network. A model that takes a whole forecast as one window counts each lead.
        place: Device of a model without weights, such as the solver; None for the CPU.
    """

    model: WindowModel
    space: Space
    guard: SpectralGuard | None = None
    hook: StateHook | None = None
    dress: bool = False
    chunk: int = 256
    place: torch.device | str | None = None

    @property
    def context(self) -> int:
        return self.model.context

    @property
    def device(self) -> torch.device:
        """Device of the model's weights; `place` for models without."""
        if isinstance(self.model, nn.Module):
            for parameter in self.model.parameters():
                return parameter.device
        return torch.device("cpu" if self.place is None else self.place)

    def without_guard(self) -> Emulator:
        return replace(self, guard=None)

    def forecast(
        self,
        context: Tensor,
        conditions: Conditions,
        lead_times: Tensor,
        *,
        members: int,
        seed: int,
        cases: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Ensemble forecast of physical states.

        Args:
            context: Last states known, (case, time, channel, *space).
            conditions: Batch (case,), origin at the last state of the context.
            lead_times: In steps of dt, ascending, (lead,).
            members: Members per case.
            seed: Of the ensemble.
            cases: Numbers of the cases in the address of their noise, (case,); default 0, 1, ...
            progress: Called with states done and states in all.

        Returns: (member, case, lead, channel, *space).
        """
        noise = MemberNoise.grid(seed, len(context) if cases is None else cases, members)
        return self.advance(
            context.expand(members, *context.shape),
            conditions.expand(members),
            lead_times,
            noise=noise,
            progress=progress,
        )

    def advance(
        self,
        context: Tensor,
        conditions: Conditions,
        lead_times: Tensor,
        *,
        noise: MemberNoise,
        first_window: int = 0,
        progress: Progress | None = None,
    ) -> Tensor:
        """Physical states at `lead_times` of members that may differ from the start.

        Differentiable with respect to the context where that asks for gradients and the model has them (a sampler of a diffusion has
        none); without gradients otherwise.

        Args:
            context: (*batch, time, channel, *space); the last `model.context` states are used. Undefined points may be NaN.
            conditions, noise: Batch (*batch).
            lead_times: In steps of dt, ascending, (lead,).
            first_window: Number of the first window in the addresses of the noise.
            progress: Called with states done and states in all.

        Returns: (*batch, lead, channel, *space), on the device and in the dtype of the context.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and context.requires_grad):
            leads = torch.as_tensor(lead_times, dtype=torch.float64)
            flat = context.reshape(-1, *context.shape[-len(conditions.grid.axes) - 2 :])
            conditions, noise = conditions.flatten(), noise.flatten()
            result = flat.new_empty((len(flat), len(leads), *flat.shape[2:]))
            total = len(flat) * len(leads)
            chunk = self.chunk if self.model.window is not None else max(1, self.chunk // max(1, len(leads)))
            for start in range(0, len(flat), chunk):
                part = slice(start, min(start + chunk, len(flat)))
                here = conditions.select(part).to(self.device)
                done = start * len(leads)
                for positions, states in self._windows(flat[part], here, leads, noise.select(part), first_window):
                    result[part, positions] = states.to(result)
                    done += states.shape[0] * states.shape[1]
                    if progress is not None:
                        progress(done, total)
            return result.reshape(*context.shape[: -flat.ndim + 1], *result.shape[1:])

    def _windows(
        self,
        context: Tensor,
        conditions: Conditions,
        leads: Tensor,
        noise: MemberNoise,
        first_window: int,
    ):
        """Decoded windows of one chunk."""
        past = torch.arange(1 - context.shape[1], 1, dtype=torch.float64)
        context = context.to(self.device)
        known = self.space.encode(context, conditions, past)
        start = context[:, -1]
        guard = self.guard
        if guard is not None and not guard.fits(conditions.grid):
            guard = guard.on(conditions.grid)
        windows = rollout(
            self.model,
            known,
            conditions,
            leads,
            noise=noise,
            guard=guard,
            space=self.space,
            hook=self.hook,
            start=start,
            first_window=first_window,
        )
        for number, (positions, x, states) in enumerate(windows):
            if not self.dress:
                yield positions, self.space.decode(x, conditions, leads[positions]) if states is None else states
                continue
            assert isinstance(self.space, LatentSpace), "only latents lose anything"
            shape = (len(positions), *context.shape[2:])
            drawn = noise.draw(shape, key=(first_window + number, 0, "decoder"), dtype=x.dtype, device=x.device)
            states = self.space.dressed(x, conditions, leads[positions], drawn)
            yield positions, states if self.hook is None else self.hook(states, conditions, leads[positions], start)
