"""The MRI job as it is done without medsal: captum method by method, matplotlib slice by slice.

It reads the same volumes through the same bundle, with captum's defaults (all steps of a path in one batch), and writes
the MRI study's tree: three panels per key slice at 150 dpi, a summary per map, an array per map, a table of statistics.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from captum import attr
from monai.bundle import ConfigParser

METHODS = {
    "integrated_gradients": lambda net, x: attr.IntegratedGradients(net).attribute(x, target=0),
    "saliency": lambda net, x: attr.Saliency(net).attribute(x, target=0),
    "input_x_gradient": lambda net, x: attr.InputXGradient(net).attribute(x, target=0),
    "gradient_shap": lambda net, x: attr.GradientShap(net).attribute(
        x, torch.randn_like(x) * 0.1, n_samples=10, target=0
    ),
}


def figure_of_slice(image, found, title, path):
    figure, axes = plt.subplots(1, 3, figsize=(15, 5))
    limit = np.abs(found).max()
    axes[0].imshow(image, cmap="gray")
    shown = axes[1].imshow(found, cmap="RdBu_r", vmin=-limit, vmax=limit)
    plt.colorbar(shown, ax=axes[1])
    axes[2].imshow(image, cmap="gray", alpha=0.7)
    axes[2].imshow(np.abs(found), cmap="hot", alpha=0.5)
    for axis in axes:
        axis.axis("off")
    figure.suptitle(title)
    plt.tight_layout()
    plt.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def summary(image, found, slices, title, path):
    figure, axes = plt.subplots(2, len(slices), figsize=(3 * len(slices), 6))
    limit = np.abs(found).max()
    for column, index in enumerate(slices):
        axes[0, column].imshow(image[index], cmap="gray")
        axes[1, column].imshow(found[index], cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes[0, column].axis("off")
        axes[1, column].axis("off")
    figure.suptitle(title)
    plt.tight_layout()
    plt.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--bundle", required=True)
    options.add_argument("--csv", required=True)
    options.add_argument("--out", required=True)
    options.add_argument("--slices", type=int, nargs="+", required=True)
    args = options.parse_args()
    parser = ConfigParser()
    parser.read_config(str(Path(args.bundle) / "configs" / "inference.json"))
    parser["bundle_root"], parser["csv_path"], parser["output_dir"] = args.bundle, args.csv, args.out
    network = parser.get_parsed_content("network").eval()
    dataset = parser.get_parsed_content("dataset")
    seconds = {"read": 0.0, "compute": 0.0, "draw": 0.0, "write": 0.0}
    rows = []
    for number in range(len(dataset)):
        start = time.perf_counter()
        item = dataset[number]
        image = item["image"].as_tensor()[None].float()
        seconds["read"] += time.perf_counter() - start
        with torch.no_grad():
            prediction = torch.sigmoid(network(image)).item()
        for name, method in METHODS.items():
            start = time.perf_counter()
            found = method(network, image)[0, 0].detach().numpy()
            seconds["compute"] += time.perf_counter() - start
            folder = Path(args.out) / name / item["case"]
            folder.mkdir(parents=True, exist_ok=True)
            volume, stack = np.moveaxis(image[0, 0].numpy(), 1, 0), np.moveaxis(found, 1, 0)
            start = time.perf_counter()
            for index in args.slices:
                title = f"{item['case']} {name} slice {index} prediction {prediction:.3f}"
                figure_of_slice(volume[index], stack[index], title, folder / f"{item['case']}_{name}_slice_{index}.png")
            summary(volume, stack, args.slices, item["case"], folder / f"{item['case']}_{name}_summary.png")
            seconds["draw"] += time.perf_counter() - start
            start = time.perf_counter()
            np.save(folder / f"{item['case']}_{name}_attributions.npy", stack)
            seconds["write"] += time.perf_counter() - start
            rows.append({"method": name, "mean": stack.mean(), "std": stack.std(), "abs_mean": np.abs(stack).mean()})
    pd.DataFrame(rows).to_csv(Path(args.out) / "attribution_statistics.csv", index=False)
    (Path(args.out) / "seconds.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
