"""Class activation maps under MONAI's names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medsal.attribution.cam import gradcam, gradcam_plus_plus
from medsal.attribution.probe import Probe
from medsal.attribution.shared_pass import FEATURES
from medsal.errors import UsageError
from medsal.visualize.study import dressed, network_of, probed
from medsal.visualize.upsampling import default_upsampler, unchanged

Upsampler = Callable[..., Callable[[Tensor], Tensor]]


class CAMBase:
    """What the maps of layers have in common.

    Args:
        nn_module: the network.
        target_layers: name of the layer, or names, of which ``layer_idx`` chooses.
        upsampler: from a spatial size to a function that enlarges a map to it.
        postprocessing: what is done to the enlarged map; nothing by default. MONAI's default turns maps round: give
            ``monai.visualize.default_normalizer`` to have that.
        register_backward: has no effect; no hooks are registered.
    """

    def __init__(
        self,
        nn_module: nn.Module,
        target_layers: str | Sequence[str],
        upsampler: Upsampler = default_upsampler,
        postprocessing: Callable[[Any], Any] = unchanged,
        register_backward: bool = True,  # noqa: ARG002  in MONAI's signature
    ) -> None:
        self.nn_module = network_of(nn_module)
        self.target_layers = [target_layers] if isinstance(target_layers, str) else list(target_layers)
        self.upsampler = upsampler
        self.postprocessing = postprocessing

    def _layer(self, layer_idx: int) -> str:
        if not -len(self.target_layers) <= layer_idx < len(self.target_layers):
            raise UsageError(f"layer_idx: wanted one of {len(self.target_layers)} target layers, got {layer_idx}")
        return self.target_layers[layer_idx]

    def _map(self, probe: Probe, index: Any) -> Tensor:
        """The map of the one layer that the probe was asked for, ``(B, 1, *layer_space)``."""
        raise NotImplementedError

    def feature_map_size(
        self, input_size: Sequence[int], device: Any = "cpu", layer_idx: int = -1, **kwargs: Any
    ) -> Any:
        """The shape of the layer's map for images of a size.

        Args:
            input_size: ``(B, C, *space)``.
            device: where to compute.
            layer_idx: which of the target layers.
            **kwargs: further arguments of the network.

        Returns:
            ``(B, 1, *layer_space)``.
        """
        image = torch.zeros(*input_size, device=device)
        return self.compute_map(image, layer_idx=layer_idx, **kwargs).shape

    def compute_map(
        self,
        x: Tensor,
        class_idx: Any = None,
        retain_graph: bool = False,  # noqa: ARG002  in MONAI's signature
        layer_idx: int = -1,
        **kwargs: Any,
    ) -> Any:
        """The map on the grid of the layer.

        Args:
            x: ``(B, C, *space)``.
            class_idx: None (each image's largest output), a number, or one per image.
            retain_graph: has no effect; no graph is left.
            layer_idx: which of the target layers.
            **kwargs: further arguments of the network.

        Returns:
            ``(B, 1, *layer_space)``; with the meta of the image where it has any, and the affine of the layer's grid.
        """
        with probed(self.nn_module, x, class_idx, frozenset({FEATURES}), self._layer(layer_idx), kwargs) as probe:
            found = self._map(probe, class_idx)
        return dressed(found.detach(), x)

    def __call__(
        self,
        x: Tensor,
        class_idx: Any = None,
        layer_idx: int = -1,
        retain_graph: bool = False,  # noqa: ARG002  in MONAI's signature
        **kwargs: Any,
    ) -> Any:
        """The map on the grid of the image.

        Args:
            x: ``(B, C, *space)``.
            class_idx: None (each image's largest output), a number, or one per image.
            layer_idx: which of the target layers.
            retain_graph: has no effect; no graph is left.
            **kwargs: further arguments of the network.

        Returns:
            ``(B, 1, *space)`` after ``upsampler`` and ``postprocessing``, with the meta of the image where it has any.
        """
        found = self.compute_map(x, class_idx, layer_idx=layer_idx, **kwargs).as_subclass(Tensor)
        return dressed(self.postprocessing(self.upsampler(x.shape[2:])(found)), x)


class GradCAM(CAMBase):
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) with MONAI's call.

    Args:
        nn_module: see ``CAMBase``.
        target_layers: as there.
        upsampler: as there.
        postprocessing: as there.
        register_backward: as there.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
        >>> GradCAM(network, target_layers="1")(torch.rand(3, 1, 8, 8)).shape
        torch.Size([3, 1, 8, 8])
    """

    def compute_map(  # type: ignore[override]  # MONAI has another order here than in Grad-CAM
        self, x: Tensor, class_idx: Any = None, layer_idx: int = -1, **kwargs: Any
    ) -> Any:
        """The map on the grid of the layer.

        Args:
            x: ``(B, C, *space)``.
            class_idx: None (each image's largest output), a number, or one per image.
            layer_idx: which of the target layers.
            **kwargs: further arguments of the network.

        Returns:
            ``(B, 1, *layer_space)``, as ``GradCAM.compute_map``.
        """
        return super().compute_map(x, class_idx, layer_idx=layer_idx, **kwargs)

    def _map(self, probe: Probe, index: Any) -> Tensor:  # noqa: ARG002  the probe knows it
        return next(iter(gradcam(probe).values()))


class GradCAMpp(CAMBase):
    """Grad-CAM++ (Chattopadhay et al. 2018, arXiv:1710.11063) with MONAI's call.

    MONAI multiplies by the exponential of the score, which the paper's closed form cancels: its maps are ``exp(score)``
    times these, and not finite for large scores.

    Args:
        nn_module: see ``CAMBase``.
        target_layers: as there.
        upsampler: as there.
        postprocessing: as there.
        register_backward: as there.
    """

    def _map(self, probe: Probe, index: Any) -> Tensor:  # noqa: ARG002  the probe knows it
        return next(iter(gradcam_plus_plus(probe).values()))


class CAM(CAMBase):
    """CAM (Zhou et al. 2016, arXiv:1512.04150) with MONAI's call: the last layers, evaluated at every position.

    Args:
        nn_module: see ``CAMBase``.
        target_layers: the layer in front of the pooling.
        fc_layers: name of the layer behind it, or a function from the network to it.
        upsampler: as there.
        postprocessing: as there.
    """

    def __init__(
        self,
        nn_module: nn.Module,
        target_layers: str | Sequence[str],
        fc_layers: str | Callable[[nn.Module], nn.Module] = "fc",
        upsampler: Upsampler = default_upsampler,
        postprocessing: Callable[[Any], Any] = unchanged,
    ) -> None:
        super().__init__(nn_module, target_layers, upsampler, postprocessing)
        self.fc_layers = fc_layers

    def _head(self) -> nn.Module:
        if not isinstance(self.fc_layers, str):
            return self.fc_layers(self.nn_module)
        known: dict[str, nn.Module] = dict(self.nn_module.named_modules())
        if self.fc_layers not in known:
            raise UsageError(
                f"fc_layers: the network has no layer {self.fc_layers!r}; wanted the one behind the pooling"
            )
        return known[self.fc_layers]

    def _map(self, probe: Probe, index: Any) -> Tensor:  # noqa: ARG002  the probe knows it
        (features,) = probe.features.values()
        head = self._head()
        with torch.no_grad():
            at_each = head(features.flatten(2).mT.flatten(0, 1))
        logits, rows = probe.logits, probe.rows
        if at_each.ndim != 2 or at_each.shape[1] != logits.shape[1]:
            raise UsageError(
                f"fc_layers: wanted a layer that gives the {logits.shape[1]} outputs of the network at each position, "
                f"got {tuple(at_each.shape[1:])}"
            )
        positions = features[0, 0].numel()
        chosen = probe.target.score(at_each, rows.repeat_interleave(positions))
        return chosen.view(len(features), 1, *features.shape[2:])
