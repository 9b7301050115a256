"""Gradients of the image under MONAI's names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medsal.attribution.baseline import NOISE_STREAM
from medsal.attribution.path import column
from medsal.attribution.probe import Probe
from medsal.attribution.shared_pass import GUIDED, IMAGE_GRADIENT
from medsal.attribution.target import Target
from medsal.errors import UsageError
from medsal.visualize.study import dressed, network_of, probed


class VanillaGrad:
    """The gradient of an output with respect to the image (Simonyan et al. 2013, arXiv:1312.6034) with MONAI's call.

    Args:
        model: the network.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        >>> VanillaGrad(network)(torch.rand(3, 1, 8, 8), index=1).shape
        torch.Size([3, 1, 8, 8])
    """

    _need = IMAGE_GRADIENT

    def __init__(self, model: nn.Module) -> None:
        self._model = network_of(model)

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self._model

    @model.setter
    def model(self, m: nn.Module) -> None:
        self._model = network_of(m)

    def get_grad(
        self,
        x: Tensor,
        index: Any = None,
        retain_graph: bool = True,  # noqa: ARG002  in MONAI's signature
        **kwargs: Any,
    ) -> Any:
        """The gradient at the images themselves.

        Args:
            x: ``(B, C, *space)``; neither its flags nor its ``.grad`` are touched.
            index: None (each image's largest output), a number, or one per image.
            retain_graph: has no effect; no graph is left.
            **kwargs: further arguments of the network.

        Returns:
            Signed, of the shape of ``x``; with its meta where it has any.
        """
        with probed(self._model, x, index, frozenset({self._need}), None, kwargs) as probe:
            found = self._gradient(probe)
        return dressed(found.detach(), x)

    def _gradient(self, probe: Probe) -> Tensor:
        return probe.image_gradient if self._need == IMAGE_GRADIENT else probe.guided_gradient

    def __call__(self, x: Tensor, index: Any = None, **kwargs: Any) -> Any:
        """Explain a batch.

        Args:
            x: ``(B, C, *space)``.
            index: None (each image's largest output), a number, or one per image.
            **kwargs: further arguments of the network.

        Returns:
            Of the shape of ``x``; with its meta where it has any.
        """
        return self.get_grad(x, index, **kwargs)


class GuidedBackpropGrad(VanillaGrad):
    """Guided backpropagation (Springenberg et al. 2014, arXiv:1412.6806) with MONAI's call.

    The rule acts on every ReLU that runs, whatever its module is called; a network without any is refused.

    Args:
        model: the network.
    """

    _need = GUIDED


class SmoothGrad(VanillaGrad):
    """Gradients of noisy copies of the image (Smilkov et al. 2017, arXiv:1706.03825) with MONAI's call.

    Args:
        model: the network.
        stdev_spread: standard deviation of the noise, as a share of each image's range.
        n_samples: number of noisy copies.
        magnitude: root mean square of the gradients instead of their mean. MONAI divides the root of the *sum* by
            ``n_samples``, so that its maps shrink as samples are added.
        verbose: has no effect; nothing is printed.
        seed: of the noise; the same seed gives the same map.

    Raises:
        UsageError: if there is no sample.
    """

    def __init__(
        self,
        model: nn.Module,
        stdev_spread: float = 0.15,
        n_samples: int = 25,
        magnitude: bool = True,
        verbose: bool = True,  # noqa: ARG002  in MONAI's signature
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        if n_samples < 1:
            raise UsageError(f"n_samples: wanted at least 1, got {n_samples}")
        self.stdev_spread, self.n_samples, self.magnitude, self.seed = stdev_spread, n_samples, magnitude, seed

    def __call__(self, x: Tensor, index: Any = None, **kwargs: Any) -> Any:
        """Explain a batch.

        Args:
            x: ``(B, C, *space)``.
            index: None (each image's largest output, the same for all its noisy copies), a number, or one per image.
            **kwargs: further arguments of the network.

        Returns:
            Of the shape of ``x``; with its meta where it has any.
        """
        with probed(self._model, x, index, frozenset({self._need}), None, kwargs) as probe:
            probe.seed = self.seed
            flat = probe.image.flatten(1)
            scale = column(self.stdev_spread * (flat.amax(1) - flat.amin(1)), probe.image)
            mean = self._mean_power(probe, scale, 2 if self.magnitude else 1)
        return dressed((mean.sqrt() if self.magnitude else mean).to(probe.image).detach(), x)

    def _mean_power(self, probe: Probe, scale: Tensor, power: int) -> Tensor:
        """Mean over noisy copies of a power of the gradient."""

        def point(rows: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
            noisy = probe.image[rows] + scale[rows] * probe.draw(NOISE_STREAM, steps)
            return noisy, torch.ones((), device=noisy.device, dtype=noisy.dtype)

        return probe.gradient_moments(self.n_samples, point, (power,))[0]


class GuidedBackpropSmoothGrad(SmoothGrad):
    """Guided backpropagation at noisy copies of the image, with MONAI's call.

    Args:
        model: the network.
        stdev_spread: as in ``SmoothGrad``.
        n_samples: as there.
        magnitude: as there.
        verbose: as there.
        seed: as there.
    """

    _need = GUIDED

    def _mean_power(self, probe: Probe, scale: Tensor, power: int) -> Tensor:
        probe.logits  # noqa: B018  the outputs are those of the images themselves
        total = torch.zeros_like(probe.image)
        for step in range(self.n_samples):
            noisy = probe.image + scale * probe.draw(NOISE_STREAM, torch.tensor([step]))
            copy = Probe(probe.network, noisy, _same(probe.target), frozenset({GUIDED}))
            total += copy.guided_gradient**power
        return total / self.n_samples


def _same(target: Target) -> Target:
    """The target as it was resolved at the images themselves."""
    return target
