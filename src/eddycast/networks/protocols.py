"""What a backbone looks like to those who use one."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Network(Protocol):
    """Map of some frames of channels, and scalars, to frames of channels.

    Built by `build_network(config, in_frames=, out_frames=, in_channels=, out_channels=, num_scalars=, periodic=, shared_channels=)`:

        in_frames, out_frames: Frames that come in and go out, out_frames <= in_frames. A network with a token for each time gives its
            outputs at the last `out_frames` of the frames that came in; one that stacks time into channels knows no such places.
        in_channels, out_channels: Channels of one frame.
        num_scalars: Scalars of order one that condition every layer: diffusion time, lead time, parameters, season.
        periodic: Whether each space axis is periodic; its length is the number of space axes, 1 to 3.
        shared_channels: How many of the `in_channels`, the last ones, are the same in all frames (static fields, one noise field for
            the window). They come in with every frame; a network that stacks time looks at them once.

    A network takes grids of any size, knows nothing of ensembles or diffusion, treats each entry of the batch on its own, starts with
    an output of zero (unless its config asks for a published start that is another), and has the fields `kind` and `checkpoint` in its
    config: with `checkpoint` its blocks are computed again in the backward pass instead of being kept, for the same gradients.
    """

    def __call__(self, x: Tensor, scalars: Tensor) -> Tensor:
        """Frames x (batch, in_frames, in_channels, *space), scalars (batch, num_scalars) -> (batch, out_frames, out_channels, *space)."""
        ...
