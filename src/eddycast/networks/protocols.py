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

    Three things are optional; `local_transformer.py` has them all:

        noise_shape: Method, from `space` to the shape of the standard normal numbers that each entry of the batch takes in, or None. Its
            call then has the keywords `noise` (batch, *noise_shape), None for the deterministic pass, and `spacing`, the distance of
            points along each axis.
        physical: Whether it computes with that distance, so that points may lie closer or further apart than in training.
        modulations: The module of all weights that only scalars reach, doing nothing at the start: frozen in pre-training.
    """

    def __call__(self, x: Tensor, scalars: Tensor) -> Tensor:
        """Frames x (batch, in_frames, in_channels, *space), scalars (batch, num_scalars) -> (batch, out_frames, out_channels, *space)."""
        ...
