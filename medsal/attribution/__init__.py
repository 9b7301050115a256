"""Attribution: from a network and images to relevance. ``METHODS`` is the table of all methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from medsal.attribution.cam import gradcam
from medsal.attribution.deep_lift import deep_lift
from medsal.attribution.gradient import input_x_gradient, saliency
from medsal.attribution.lrp import (
    excitation_backprop,
    lrp_epsilon,
    lrp_epsilon_alpha2_beta1,
    lrp_epsilon_alpha2_beta1_flat,
    lrp_epsilon_plus,
    lrp_epsilon_plus_flat,
)
from medsal.attribution.path import gradient_shap, integrated_gradients, smooth_integrated_gradients, smoothgrad
from medsal.attribution.probe import BASELINE, FEATURES, IMAGE_GRADIENT, RULES, SEED


@dataclass(frozen=True)
class Method:
    """One row of the table: a method and what is true of it.

    Attributes:
        function: ``method(probe, *, options) -> relevance (B, 1, *space)``, or layer -> map for CAMs.
        paper: where it was published.
        signed: whether its relevance has signs (with default options).
        needs: what it reads: ``"image gradient"``, ``"features"``, ``"baseline"``, ``"seed"``, ``"rules"``.
        cost: passes (one forward and one backward each) with default options, beyond the shared pass.
        complete: whether its sum is the difference of scores to the baseline.
    """

    function: Callable[..., Any]
    paper: str
    signed: bool
    needs: frozenset[str] = frozenset()
    cost: float = 0.0
    complete: bool = False

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
            _row(saliency, "Simonyan 2013, arXiv:1312.6034", IMAGE_GRADIENT, signed=False),
            _row(input_x_gradient, "Shrikumar 2016, arXiv:1605.01713", IMAGE_GRADIENT, signed=True),
            _row(
                integrated_gradients,
                "Sundararajan 2017, arXiv:1703.01365",
                BASELINE,
                signed=True,
                cost=50,
                complete=True,
            ),
            _row(smoothgrad, "Smilkov 2017, arXiv:1706.03825", SEED, signed=True, cost=25),
            _row(smooth_integrated_gradients, "Smilkov 2017, arXiv:1706.03825", BASELINE, SEED, signed=True, cost=500),
            _row(gradient_shap, "Lundberg 2017, arXiv:1705.07874", BASELINE, SEED, signed=True, cost=10),
            _row(deep_lift, "Shrikumar 2017, arXiv:1704.02685", BASELINE, RULES, signed=True, cost=1.3, complete=True),
            _row(lrp_epsilon, "Binder 2016, arXiv:1604.00825", RULES, signed=True, cost=1.3),
            _row(lrp_epsilon_plus, "Kohlbrenner 2020, arXiv:1910.09840", RULES, signed=True, cost=2),
            _row(lrp_epsilon_plus_flat, "Lapuschkin 2019, arXiv:1902.10178", RULES, signed=True, cost=2),
            _row(lrp_epsilon_alpha2_beta1, "Kohlbrenner 2020, arXiv:1910.09840", RULES, signed=True, cost=3),
            _row(lrp_epsilon_alpha2_beta1_flat, "Kohlbrenner 2020, arXiv:1910.09840", RULES, signed=True, cost=3),
            _row(excitation_backprop, "Zhang 2016, arXiv:1608.00507", RULES, signed=False, cost=2),
            _row(gradcam, "Selvaraju 2017, arXiv:1610.02391", FEATURES, signed=False),
        )
    }
)
"""Name -> row, for every attribution method."""

ALIASES: Mapping[str, str] = MappingProxyType({"noise_tunnel_ig": "smooth_integrated_gradients"})
"""Other names under which methods are known."""

__all__ = ["ALIASES", "METHODS", "Method"]
