"""Attribution: from a network and images to relevance. ``METHODS`` is the table of all methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from medsal.attribution.cam import (
    cam,
    eigencam,
    eigengradcam,
    gradcam,
    gradcam_plus_plus,
    guided_gradcam,
    hirescam,
    layercam,
    xgradcam,
)
from medsal.attribution.cam_perturbation import ablationcam, scorecam
from medsal.attribution.deep_lift import deep_lift, layer_deep_lift
from medsal.attribution.gradient import deconvnet, fullgrad, guided_backprop, input_x_gradient, saliency
from medsal.attribution.lrp import (
    excitation_backprop,
    lrp_epsilon,
    lrp_epsilon_alpha2_beta1,
    lrp_epsilon_alpha2_beta1_flat,
    lrp_epsilon_plus,
    lrp_epsilon_plus_flat,
)
from medsal.attribution.noise import gradient_shap, smooth_integrated_gradients, smoothgrad, smoothgrad_squared, vargrad
from medsal.attribution.path import integrated_gradients
from medsal.attribution.perturbation import occlusion, rise
from medsal.attribution.presets import PRESETS, Preset
from medsal.attribution.probe import BASELINE, RULES, SEED
from medsal.attribution.shared_pass import BIASES, DECONV, FEATURES, GUIDED, IMAGE_GRADIENT
from medsal.attribution.xrai import SEGMENTS, xrai


@dataclass(frozen=True)
class Method:
    """One row of the table: a method and what is true of it.

    Attributes:
        function: ``method(probe, *, options) -> relevance (B, 1, *space)``, or layer -> map for CAMs.
        paper: where it was published.
        signed: whether its relevance has signs (with default options).
        needs: what it reads: ``"image gradient"``, ``"guided gradient"``, ``"features"``, ``"baseline"``, ``"seed"``...
        cost: passes (one forward and one backward each) with default options, beyond the shared pass.
        complete: whether its sum is the difference of scores to the baseline.
        degree: how its map grows with the score: by its square for 2, not at all for 0; None for no power of it.
    """

    function: Callable[..., Any]
    paper: str
    signed: bool
    needs: frozenset[str] = frozenset()
    cost: float = 0.0
    complete: bool = False
    degree: int | None = 1

    @property
    def name(self) -> str:
        """The method's name, that of its function."""
        return self.function.__name__


def _row(function: Callable[..., Any], paper: str, *needs: str, **facts: Any) -> Method:
    return Method(function, paper, needs=frozenset(needs), **facts)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            # one gradient
            _row(saliency, "Simonyan 2013, arXiv:1312.6034", IMAGE_GRADIENT, signed=False),
            _row(input_x_gradient, "Shrikumar 2016, arXiv:1605.01713", IMAGE_GRADIENT, signed=True),
            _row(guided_backprop, "Springenberg 2014, arXiv:1412.6806", GUIDED, signed=True, cost=0.5),
            _row(deconvnet, "Zeiler 2013, arXiv:1311.2901", DECONV, signed=True, cost=0.5),
            _row(fullgrad, "Srinivas 2019, arXiv:1905.00780", IMAGE_GRADIENT, BIASES, signed=False, degree=0),
            # many gradients
            _row(
                integrated_gradients,
                "Sundararajan 2017, arXiv:1703.01365",
                BASELINE,
                signed=True,
                cost=50,
                complete=True,
            ),
            _row(smoothgrad, "Smilkov 2017, arXiv:1706.03825", SEED, signed=True, cost=25),
            _row(smoothgrad_squared, "Hooker 2019, arXiv:1806.10758", SEED, signed=False, cost=25, degree=2),
            _row(vargrad, "Adebayo 2018, arXiv:1810.03307", SEED, signed=False, cost=25, degree=2),
            _row(smooth_integrated_gradients, "Smilkov 2017, arXiv:1706.03825", BASELINE, SEED, signed=True, cost=500),
            _row(gradient_shap, "Lundberg 2017, arXiv:1705.07874", BASELINE, SEED, signed=True, cost=10),
            # features of a layer and their gradients
            _row(cam, "Zhou 2016, arXiv:1512.04150", FEATURES, signed=True),
            _row(gradcam, "Selvaraju 2017, arXiv:1610.02391", FEATURES, signed=False),
            _row(gradcam_plus_plus, "Chattopadhay 2018, arXiv:1710.11063", FEATURES, signed=False, degree=None),
            _row(xgradcam, "Fu 2020, arXiv:2008.02312", FEATURES, signed=False),
            _row(hirescam, "Draelos 2020, arXiv:2011.08891", FEATURES, signed=True),
            _row(layercam, "Jiang 2021, doi:10.1109/TIP.2021.3089943", FEATURES, signed=False),
            _row(eigencam, "Muhammad 2020, arXiv:2008.00299", FEATURES, signed=True, degree=0),
            _row(eigengradcam, "Muhammad 2020, arXiv:2008.00299", FEATURES, signed=True),
            _row(guided_gradcam, "Selvaraju 2017, arXiv:1610.02391", GUIDED, FEATURES, signed=True, cost=0.5, degree=2),
            # what the score does when something is hidden
            _row(scorecam, "Wang 2019, arXiv:1910.01279", FEATURES, signed=False, cost=250, degree=None),
            _row(ablationcam, "Ramaswamy 2020, doi:10.1109/WACV45572.2020.9093360", FEATURES, signed=False, cost=2),
            _row(occlusion, "Zeiler 2013, arXiv:1311.2901", BASELINE, signed=True, cost=365),
            _row(rise, "Petsiuk 2018, arXiv:1806.07421", BASELINE, SEED, signed=True, cost=2000),
            # rules on operations
            _row(deep_lift, "Shrikumar 2017, arXiv:1704.02685", BASELINE, RULES, signed=True, cost=1.6, complete=True),
            _row(layer_deep_lift, "Shrikumar 2017, arXiv:1704.02685", BASELINE, FEATURES, RULES, signed=True, cost=1.0),
            _row(lrp_epsilon, "Binder 2016, arXiv:1604.00825", RULES, signed=True, cost=1.7),
            _row(lrp_epsilon_plus, "Kohlbrenner 2020, arXiv:1910.09840", RULES, signed=True, cost=2),
            _row(lrp_epsilon_plus_flat, "Lapuschkin 2019, arXiv:1902.10178", RULES, signed=True, cost=2),
            _row(lrp_epsilon_alpha2_beta1, "Kohlbrenner 2020, arXiv:1910.09840", RULES, signed=True, cost=4),
            _row(lrp_epsilon_alpha2_beta1_flat, "Kohlbrenner 2020, arXiv:1910.09840", RULES, signed=True, cost=4),
            _row(excitation_backprop, "Zhang 2016, arXiv:1608.00507", RULES, signed=False, cost=2),
            # regions
            _row(xrai, "Kapishnikov 2019, arXiv:1906.02825", BASELINE, SEGMENTS, signed=True, cost=200),
        )
    }
)
"""Name -> row, for every attribution method."""

ALIASES: Mapping[str, str] = MappingProxyType({"noise_tunnel_ig": "smooth_integrated_gradients"})
"""Other names under which methods are known."""

__all__ = ["ALIASES", "METHODS", "PRESETS", "Method", "Preset"]
