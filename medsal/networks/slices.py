"""Two-dimensional networks that take the slices of a volume as their input channels, and say so."""

from __future__ import annotations

from torch import Tensor, nn

from medsal.errors import InputError, UsageError


def slices_to_channels(x: Tensor, slice_axis: int) -> Tensor:
    """Move the slices of volumes to the channels.

    ``y[b, s, ...] = x[b, 0, ..., s, ...]`` with ``s`` the index along the spatial axis ``slice_axis``.

    Args:
        x: volumes (B, 1, *space) of three spatial axes, or images (B, S, H, W) that have their slices in the
            channels already; the latter pass unchanged.
        slice_axis: the spatial axis (0, 1 or 2) along which the slices lie.

    Returns:
        The images (B, S, H, W).

    Raises:
        UsageError: when ``slice_axis`` is none of 0, 1 and 2.
        InputError: when ``x`` is neither a one-channel volume nor an image.

    Example:
        >>> import torch
        >>> slices_to_channels(torch.zeros(2, 1, 8, 5, 9), slice_axis=1).shape
        torch.Size([2, 5, 8, 9])
    """
    if slice_axis not in {0, 1, 2}:
        raise UsageError(f"slice_axis must be 0, 1 or 2 (an axis of the volume), got {slice_axis!r}")
    if x.dim() == 4:
        return x
    if x.dim() != 5 or x.shape[1] != 1:
        raise InputError(
            "a network that takes slices as channels wants volumes (B, 1, X, Y, Z) or images (B, slices, H, W), "
            f"got {tuple(x.shape)}; give one-channel volumes"
        )
    return x[:, 0].movedim(slice_axis + 1, 1)


class SlicesAsChannels(nn.Module):
    """Declare that a 2D network reads the slices of a volume from its channels.

    The wrapped network then takes volumes (B, 1, X, Y, Z), and whoever looks at :attr:`slice_axis` can give its maps
    back as volumes.

    Args:
        network: any 2D network with as many input channels as a volume has slices.
        slice_axis: the spatial axis of the volume (0, 1 or 2) along which the slices lie.

    Attributes:
        slice_axis: the declaration.

    Example:
        >>> import torch
        >>> network = SlicesAsChannels(nn.Conv2d(5, 1, 3), slice_axis=1)
        >>> network(torch.zeros(2, 1, 8, 5, 9)).shape
        torch.Size([2, 1, 6, 7])
    """

    def __init__(self, network: nn.Module, slice_axis: int) -> None:
        super().__init__()
        if slice_axis not in {0, 1, 2}:
            raise UsageError(f"slice_axis must be 0, 1 or 2 (an axis of the volume), got {slice_axis!r}")
        self.network = network
        self.slice_axis = slice_axis

    def forward(self, x: Tensor) -> Tensor:
        """Run the 2D network on the slices.

        Args:
            x: volumes (B, 1, X, Y, Z) or images (B, slices, H, W).

        Returns:
            What the wrapped network returns.
        """
        result: Tensor = self.network(slices_to_channels(x, self.slice_axis))
        return result
