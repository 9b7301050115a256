"""Speed of nulls and similarity on volumes; prints a Markdown table.

python -m benchmarks.chance --size 256
"""

from __future__ import annotations

import argparse
import time

import torch
from skimage.metrics import structural_similarity

from medsal.evaluation.chance import mass_null
from medsal.evaluation.chance_hits import average_precision_null
from medsal.evaluation.similarity import spearman, ssim, top_k_overlap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    n = parser.parse_args().size
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 1, 1, n, n, n, generator=generator)
    mask, body = torch.zeros(2, 1, 1, n, n, n, dtype=torch.bool)
    mask[..., n // 3 : n // 2, n // 3 : n // 2, n // 3 : n // 2] = True
    body[..., n // 8 : -n // 8, n // 8 : -n // 8, n // 8 : -n // 8] = True
    arrays = first[0, 0].double().numpy(), second[0, 0].double().numpy()
    pinned = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    jobs = {
        "exact null of mass, all shifts": lambda: mass_null(first, mask),
        "exact null of mass, shifts inside the body": lambda: mass_null(first, mask, body=body),
        "null of average precision, 199 shifts": lambda: average_precision_null(first, mask),
        "ssim": lambda: ssim(first, second),
        "ssim, scikit-image": lambda: structural_similarity(*arrays, **pinned),
        "spearman": lambda: spearman(first, second),
        "top_k_overlap": lambda: top_k_overlap(first, second),
    }
    print(f"| {n} x {n} x {n} | seconds |\n|---|---|")
    for name, job in jobs.items():
        start = time.perf_counter()
        job()
        print(f"| {name} | {time.perf_counter() - start:.2f} |")


if __name__ == "__main__":
    main()
