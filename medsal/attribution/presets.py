"""The methods of published studies, with the options that they used, so that the studies can be run again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, eq=False)
class Preset(Mapping[str, Mapping[str, Any]]):
    """The methods of one study: name of each map -> its ``method`` and options, as ``explain`` takes them.

    Attributes:
        methods: name of each map, as in the study -> ``method`` and options.
        study: whose methods these are.
        differs: what of the study is not in the maps, in words.
        target: the class that the study explained; None is each image's predicted class.

    Example:
        >>> PRESETS["arun2021"]["SG"]["method"], PRESETS["arun2021"]["SG"]["samples"]
        ('smoothgrad_squared', 25)
    """

    methods: Mapping[str, Mapping[str, Any]]
    study: str
    differs: str
    target: int | None = None

    def __post_init__(self) -> None:
        """Make the methods read-only."""
        own = {label: MappingProxyType(dict(given)) for label, given in self.methods.items()}
        object.__setattr__(self, "methods", MappingProxyType(own))

    def __getitem__(self, label: str) -> Mapping[str, Any]:
        return self.methods[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self.methods)

    def __len__(self) -> int:
        return len(self.methods)

    def arguments(self) -> dict[str, Any]:
        """Arguments of ``explain``, target included: ``explain(network, image, **PRESETS[name].arguments())``.

        Returns:
            ``methods`` and ``target``.
        """
        return {"methods": {label: dict(given) for label, given in self.items()}, "target": self.target}


_OF_PAIR: Mapping[str, Any] = {"samples": 25, "noise": 0.15, "noise_unit": "range"}
_PERCENTILE = (
    "its maps are clipped at the 99th percentile and scaled to [0, 1] afterwards, here they are raw; Guided Grad-CAM "
    "is the product of the two maps before that scaling"
)

ARUN2021 = Preset(
    {
        "GRAD": {"method": "saliency", "channels": "sum_abs"},
        "SG": {"method": "smoothgrad_squared", **_OF_PAIR},
        "IG": {
            "method": "integrated_gradients",
            "steps": 10,
            "quadrature": "paper_2021",
            "baseline": -1.0,
            "channels": "sum_abs",
        },
        "SIG": {
            "method": "smooth_integrated_gradients",
            **_OF_PAIR,
            "steps": 10,
            "quadrature": "paper_2021",
            "baseline": -1.0,
            "squared": True,
        },
        "GCAM": {"method": "gradcam"},
        "XRAI": {
            "method": "xrai",
            "mode": "full",
            "steps": 100,
            "baselines": ("min", "max"),
            "quadrature": "paper_2021",
            "channels": "max",
        },
        "GBP": {"method": "guided_backprop", "channels": "sum_abs"},
        "GGCAM": {"method": "guided_gradcam", "channels": "sum_abs"},
    },
    study="Arun et al. 2021, Radiology: Artificial Intelligence 3(6):e200267, arXiv:2008.02766",
    differs=f"images are scaled to [-1, 1], so that the baseline -1 is black; {_PERCENTILE}",
)
"""Eight methods on chest X-rays (SIIM-ACR, RSNA). SG is the mean of *squared* gradients, as PAIR's code has it by
default; the images must lie in [-1, 1]."""

SUMER2023 = Preset(
    {
        "Gradient": {"method": "saliency", "channels": "sum_abs"},
        "SmoothGrad": {
            "method": "smoothgrad",
            "samples": 20,
            "noise": 0.1,
            "noise_unit": "range",
            "channels": "sum_abs",
        },
        "IntegratedGradients": {
            "method": "integrated_gradients",
            "steps": 20,
            "quadrature": "right",
            "channels": "sum_abs",
        },
        "GuidedBackprop": {"method": "guided_backprop", "channels": "sum_abs"},
        "ExcitationBackprop": {"method": "excitation_backprop", "bias": "absorb", "channels": "sum_abs"},
        "DeconvNet": {"method": "deconvnet", "channels": "sum_abs"},
        "LRP-EpsilonPlus": {"method": "lrp_epsilon_plus", "bias": "absorb", "channels": "sum_abs"},
        "LRP-EpsilonPlusFlat": {"method": "lrp_epsilon_plus_flat", "bias": "absorb", "channels": "sum_abs"},
        "LRP-EpsilonAlpha2Beta1": {"method": "lrp_epsilon_alpha2_beta1", "bias": "absorb", "channels": "sum_abs"},
        "LRP-EpsilonAlpha2Beta1Flat": {
            "method": "lrp_epsilon_alpha2_beta1_flat",
            "bias": "absorb",
            "channels": "sum_abs",
        },
        "DeepLIFT": {"method": "deep_lift", "channels": "sum_abs"},
        "GuidedGradCam": {"method": "guided_gradcam", "channels": "sum_abs"},
        "LayerDeepLIFT": {"method": "layer_deep_lift"},
        "LayerGradCam": {"method": "gradcam", "relu": False},
        "Occlusion": {"method": "occlusion", "window": 15, "stride": 8, "baseline": 0.0},
    },
    study="Sümer et al. 2023, Proceedings of Machine Learning Research 219:712-736",
    differs="the study takes the magnitude of layer maps and enlarges them by cubic interpolation, Guided Grad-CAM's "
    "to the nearest; here layer maps are signed and enlarged linearly. Occlusion sums magnitudes over "
    "the channels: three times the magnitude of this map. LRP starts from the logit, the study's from 1. The last "
    "of zennit's noisy samples has no noise. Its target layer is layer4 of a ResNet50: give target_layer",
)
"""Fifteen methods on photographs of faces. Maps are summed over channels by magnitude."""

SKIN2024 = Preset(
    {
        "GradCAM": {"method": "gradcam"},
        "GradCAMpp": {"method": "gradcam_plus_plus"},
        "HiResCAM": {"method": "hirescam", "relu": True},
        "EigenCAM": {"method": "eigencam", "relu": True},
        "EigenGradCAM": {"method": "eigengradcam", "relu": True},
        "AblationCAM": {"method": "ablationcam", "relative": True},
        "ScoreCAM": {"method": "scorecam"},
        "IntegratedGradients": {"method": "integrated_gradients", "steps": 50, "quadrature": "gauss_legendre"},
        "Saliency": {"method": "saliency", "channels": "sum_abs"},
        "GradientShap": {
            "method": "gradient_shap",
            "baseline": "gaussian:0.001",
            "samples": 5,
            "noise": 0.09,
            "noise_unit": "absolute",
        },
        "Occlusion_w15": {"method": "occlusion", "window": 15, "stride": 9, "baseline": 0.0},
        "Occlusion_w30": {"method": "occlusion", "window": 30, "stride": 9, "baseline": 0.0},
        "Occlusion_w45": {"method": "occlusion", "window": 45, "stride": 9, "baseline": 0.0},
    },
    study="Analysis of the attention of skin classifiers in high-frequency ultrasound, 2024, on the data of "
    "Czajkowska et al. 2021, Sensors 21(17):5846",
    differs="its CAMs are scaled to [0, 1], its other maps cut at the 2nd and 98th percentile and coloured; augmented "
    "(aug_smooth) and eigen_smooth variants are not made. It explains layers 1 to 4: give target_layer",
)
"""CAMs and captum's methods on ultrasound of the skin, the true class being another choice: ``target``."""

MRI_TLE = Preset(
    {
        "integrated_gradients": {"method": "integrated_gradients", "steps": 50, "quadrature": "gauss_legendre"},
        "saliency": {"method": "saliency"},
        "gradient_shap": {"method": "gradient_shap", "baseline": "gaussian:0.1", "samples": 10, "noise": 0.0},
        "input_x_gradient": {"method": "input_x_gradient"},
        "deep_lift": {"method": "deep_lift", "baseline": 0.0},
        "noise_tunnel_ig": {
            "method": "smooth_integrated_gradients",
            "samples": 10,
            "noise": 0.1,
            "noise_unit": "absolute",
            "steps": 50,
            "quadrature": "gauss_legendre",
        },
    },
    study="NeuroLDM-3D, folder classifier, 2025: saliency maps of a classifier of temporal lobe epilepsy",
    differs="the study's DeepLIFT never ran, and its GradientSHAP was not seeded. All explain the one logit, for the "
    "healthy too: a class of its own for each case is target=None",
    target=1,
)
"""Six methods on T1-weighted MRI whose slices are channels."""

PYTORCH_CXR2024 = Preset(
    {
        "Grad": {"method": "saliency", "channels": "sum"},
        "SmoothGrad": {"method": "smoothgrad_squared", **_OF_PAIR},
        "IG": {"method": "integrated_gradients", "steps": 25, "quadrature": "paper_2021", "baseline": 0.0},
        "SmoothIG": {
            "method": "smooth_integrated_gradients",
            **_OF_PAIR,
            "steps": 25,
            "quadrature": "paper_2021",
            "baseline": 0.0,
            "squared": True,
        },
        "XRAI": {
            "method": "xrai",
            "mode": "fast",
            "steps": 100,
            "baselines": ("min", "max"),
            "quadrature": "paper_2021",
            "channels": "max",
        },
        "GradCAM": {"method": "gradcam"},
        "GuidedBackprop": {"method": "guided_backprop"},
        "GuidedGradCAM": {"method": "guided_gradcam"},
        "GradCAMpp": {"method": "gradcam_plus_plus"},
        "ScoreCAM": {"method": "scorecam"},
    },
    study="PyTorchSaliency, 2024: the study of Arun et al. 2021 made again in PyTorch",
    differs="the study differentiates the softmax of the predicted class, here it is the logit: give target=lambda "
    "logits: logits.softmax(1)[:, k] for its own score. Its images are 0 to 255 and normalised inside the network, so "
    "that the baseline 0 is black. CAMs are stored as the plasma colours of their squares, and Guided Grad-CAM is a "
    "product with those colours; here neither is squared or coloured",
)
"""Ten methods on chest X-rays."""

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "arun2021": ARUN2021,
        "sumer2023": SUMER2023,
        "skin2024": SKIN2024,
        "mri_tle": MRI_TLE,
        "pytorch_cxr2024": PYTORCH_CXR2024,
    }
)
"""Name -> the methods of a study with its options; ``explain(network, image, **PRESETS["arun2021"].arguments())``."""
