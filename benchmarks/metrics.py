"""Speed and memory of the metrics of one volume, beside other libraries: ``python -m benchmarks.metrics [edge]``."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medsal.evaluation import METRICS


def volume(edge: int, kind: str) -> tuple[Tensor, Tensor]:
    """A map in single precision and a lesion of about half a percent: voxel noise, or a 7^3 map enlarged."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(1, 1, edge, edge, edge, dtype=torch.bool)
    low, high = edge // 3, edge // 3 + round(0.17 * edge)
    mask[..., low:high, low:high, low:high] = True
    if kind == "voxels":
        return torch.randn(1, 1, edge, edge, edge, generator=generator) + mask, mask
    coarse = torch.rand(1, 1, 7, 7, 7, generator=generator)
    return functional.interpolate(coarse, size=(edge,) * 3, mode="trilinear"), mask


def peers() -> dict[str, Callable[[Tensor, Tensor], float]]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    def flat(function: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[Tensor, Tensor], float]:
        return lambda relevance, mask: float(function(mask.numpy().ravel(), relevance.numpy().ravel()))

    return {"average_precision": flat(average_precision_score), "roc_auc": flat(roc_auc_score)}


def timed(function: Callable[[], float]) -> tuple[float, float]:
    start = time.perf_counter()
    value = function()
    return value, time.perf_counter() - start


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main(edge: int = 256) -> None:
    print(f"{edge}^3 float32 ({edge**3 * 4 / 2**20:.0f} MiB), {torch.get_num_threads()} threads")
    head = ("metric", "map", "value", "seconds", "scikit-learn", "seconds", "peak MiB")
    print("{:20s} {:8s} {:>16s} {:>9s} {:>16s} {:>9s} {:>9s}".format(*head))
    others = peers()
    for kind in ("voxels", "CAM"):
        relevance, mask = volume(edge, kind)
        before = peak()
        for name, row in METRICS.items():
            if row.family not in {"localisation", "complexity"}:
                continue
            given = (relevance, mask)[: len(row.takes)]
            value, seconds = timed(lambda row=row, given=given: row.function(*given).item())
            above = peak() - before  # of all so far: the medsal rows come first
            line = f"{name:20s} {kind:8s} {value:16.12f} {seconds:9.2f}"
            print(f"{line} {'':16s} {'':9s} {above:9.0f}", flush=True)
        for name, function in others.items():
            value, seconds = timed(lambda function=function, r=relevance, m=mask: function(r, m))
            print(f"{name:20s} {kind:8s} {'':16s} {'':9s} {value:16.12f} {seconds:9.2f}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
