"""Which metrics of Quantus take a volume, and what other libraries give and cost.

Run by ``python -m benchmarks.evaluation_peers``.

It needs ``pip install quantus torchmetrics``. Quantus is asked with its default arguments.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medsal.evaluation import METRICS

COUNTERPARTS = {
    "AUC": "roc_auc", "Pointing Game": "pointing_game", "Relevance Mass Accuracy": "relevance_mass",
    "Relevance Rank Accuracy": "relevance_rank", "Top-K Intersection": "relevance_rank", "Sparseness": "sparseness",
    "Complexity": "entropy", "Pixel-Flipping": "deletion", "Infidelity": "infidelity",
    "Max-Sensitivity": "sensitivity_max", "MPRT": "medsal.studies", "Smooth MPRT": "medsal.studies",
    "Efficient MPRT": "medsal.studies", "Completeness": "the record of every map",
}  # fmt: skip


class Classifier(nn.Module):
    """A small network of convolutions, in 2D or 3D."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        pool = nn.AdaptiveAvgPool2d if dims == 2 else nn.AdaptiveAvgPool3d
        self.features = nn.Sequential(conv(1, 4, 3, padding=1), nn.ReLU(), conv(4, 8, 3, padding=1), nn.ReLU())
        self.pool = pool(1)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(x)).flatten(1))


def case(space: tuple[int, ...]) -> tuple[Classifier, dict[str, np.ndarray]]:
    """A network and two images with maps and masks, as Quantus takes them."""
    torch.manual_seed(0)
    network = Classifier(len(space)).eval()
    images = torch.rand(2, 1, *space, requires_grad=True)
    (maps,) = torch.autograd.grad(network(images)[:, 1].sum(), images)
    masks = np.zeros((2, 1, *space), dtype=np.int64)
    masks[(slice(None), slice(None), *(slice(n // 4, n // 2) for n in space))] = 1
    return network, {
        "x_batch": images.detach().numpy(), "y_batch": np.array([1, 1]), "a_batch": maps.numpy(), "s_batch": masks,
    }  # fmt: skip


def saliency(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
    """The explanation that Quantus may ask for again."""
    images = torch.as_tensor(np.asarray(inputs), dtype=torch.float32).requires_grad_()
    chosen = torch.as_tensor(np.asarray(targets), dtype=torch.int64).reshape(-1, 1)
    (maps,) = torch.autograd.grad(model(images).gather(1, chosen).sum(), images)
    return maps.numpy()


def attempt(metric: type, space: tuple[int, ...], **options: Any) -> tuple[str, float]:
    """Run one metric of Quantus; what came of it, and seconds."""
    network, batch = case(space)
    began = time.perf_counter()
    noise = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
            warnings.simplefilter("ignore")
            known = inspect.signature(metric.__init__).parameters
            quiet = {name: True for name in ("disable_warnings",) if name in known}
            given = metric(**quiet)
            scores = given(
                model=network, **batch, explain_func=saliency, explain_func_kwargs={}, device="cpu",
                softmax=False, **options,
            )  # fmt: skip
    except Exception as error:  # noqa: BLE001  whatever fails is the answer here
        return f"{type(error).__name__}: {' '.join(str(error).split())[:50]}", time.perf_counter() - began
    values = np.asarray(scores, dtype=object).ravel()
    finite = all(np.isfinite(np.asarray(v, dtype=float)).all() for v in values if not isinstance(v, dict | str))
    return "runs" if finite else "runs, NaN", time.perf_counter() - began


def quantus_table() -> None:
    """Every metric of Quantus on a picture and on a volume."""
    import quantus

    print("| Quantus metric | 32x32 | 12x12x12, default | 12x12x12, channel_first | seconds | in medsal |")
    print("|---|---|---|---|---|---|")
    counts = [0, 0, 0]
    for family in quantus.AVAILABLE_METRICS.values():
        for name, metric in family.items():
            flat, _ = attempt(metric, (32, 32))
            plain, _ = attempt(metric, (12, 12, 12))
            told, seconds = attempt(metric, (12, 12, 12), channel_first=True)
            counts = [n + found.startswith("runs") for n, found in zip(counts, (flat, plain, told), strict=True)]
            ours = COUNTERPARTS.get(name.strip(), "")
            print(f"| {name.strip()} | {flat} | {plain} | {told} | {seconds:.1f} | {ours} |", flush=True)
    total = sum(len(family) for family in quantus.AVAILABLE_METRICS.values())
    print(f"| of {total} run | {counts[0]} | {counts[1]} | {counts[2]} | | {len(METRICS)} of {len(METRICS)} |")


def numbers_table(edge: int) -> None:
    """Average precision, ROC-AUC and SSIM of one volume by every library that has them."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(1, 1, edge, edge, edge, dtype=torch.bool)
    mask[..., edge // 4 : edge // 4 + edge // 6, edge // 4 : edge // 2, edge // 3 : edge // 2] = True
    relevance = torch.randn(1, 1, edge, edge, edge, generator=generator, dtype=torch.float64) + mask
    one = torch.rand(1, 1, edge, edge, edge, generator=generator, dtype=torch.float64)
    two = (one + 0.2 * torch.randn(one.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)
    print(f"\n| {edge}^3 float64 | library | value | seconds |\n|---|---|---|---|")
    for metric, library, function in rows(relevance, mask, one, two):
        began = time.perf_counter()
        try:
            value = f"{float(function()):.12f}"
        except Exception as error:  # noqa: BLE001  whatever fails is the answer here
            value = type(error).__name__
        print(f"| {metric} | {library} | {value} | {time.perf_counter() - began:.2f} |", flush=True)


def rows(relevance: Tensor, mask: Tensor, one: Tensor, two: Tensor) -> list[tuple[str, str, Callable[[], Any]]]:
    """What is computed: metric, library, call."""
    import monai.metrics as theirs
    import sklearn.metrics as sk
    import torchmetrics.functional as tm
    from skimage.metrics import structural_similarity
    from torchmetrics.functional.image import structural_similarity_index_measure as theirs_ssim

    truth, score = mask.flatten().int(), relevance.flatten()
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    ap, auc, ssim = (METRICS[name].function for name in ("average_precision", "roc_auc", "ssim"))
    return [
        ("average precision", "medsal", lambda: ap(relevance, mask)),
        ("average precision", "scikit-learn", lambda: sk.average_precision_score(truth, score)),
        ("average precision", "torchmetrics", lambda: tm.average_precision(score, truth, "binary")),
        ("average precision", "MONAI", lambda: theirs.compute_average_precision(score[:, None], truth[:, None])),
        ("ROC-AUC", "medsal", lambda: auc(relevance, mask)),
        ("ROC-AUC", "scikit-learn", lambda: sk.roc_auc_score(truth, score)),
        ("ROC-AUC", "torchmetrics", lambda: tm.auroc(score, truth, "binary")),
        ("ROC-AUC", "MONAI", lambda: theirs.compute_roc_auc(score[:, None], truth[:, None])),
        ("SSIM", "medsal", lambda: ssim(one, two)),
        ("SSIM", "scikit-image", lambda: structural_similarity(one[0, 0].numpy(), two[0, 0].numpy(), **gaussian)),
        ("SSIM", "torchmetrics, float32", lambda: theirs_ssim(one.float(), two.float(), data_range=1.0)),
        ("SSIM", "MONAI, float32", lambda: theirs.SSIMMetric(3, data_range=1.0)(one.float(), two.float())),
    ]  # fmt: skip


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(2)
    numbers_table(48)
    numbers_table(128)
    print()
    quantus_table()


if __name__ == "__main__":
    main()
