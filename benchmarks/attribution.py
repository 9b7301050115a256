"""Speed of every method beside every peer that has it, on four networks; prints Markdown tables.

    python -m benchmarks.attribution --networks densenet121 efficientnet_3d --runs 3
    python -m benchmarks.attribution --networks densenet121 --slow

Runs are interleaved in one process; a figure is the median of the CPU seconds of all threads. "x f+b" is its multiple
of one forward and one backward to the image with frozen weights, in the same run. Peers are measured where installed
(captum, grad-cam, torchcam, zennit; monai always), each on a copy of the network, for some leave it changed; a peer
that raises says so in its row.
"""

from __future__ import annotations

import argparse
import gc
import os
import pathlib
import platform
import statistics
import threading
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import peers
from medsal import explain

TARGET = 1
ONE_CALL = ["saliency", "input_x_gradient", "gradcam", "gradcam_plus_plus", "hirescam", "layercam", "eigengradcam",
            "fullgrad"]  # fmt: skip
TWELVE = [*ONE_CALL, "guided_backprop", "guided_gradcam", "deep_lift", "eigencam"]
NO_RELU = {"guided_backprop", "guided_gradcam"}

OPTIONS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 50},
    "smoothgrad": {"samples": 25},
    "gradient_shap": {"samples": 5},
    "occlusion": {"window": 15, "stride": 8},
}
OPTIONS_3D = {**OPTIONS, "integrated_gradients": {"steps": 20}, "occlusion": {"window": 16, "stride": 16}}
CHEAP = [*ONE_CALL, "guided_backprop", "guided_gradcam", "deep_lift", "lrp_epsilon_plus"]
LOOPS = ["integrated_gradients", "smoothgrad", "gradient_shap"]
SLOW = ["ablationcam", "scorecam", "occlusion"]


def densenet121() -> tuple[nn.Module, Tensor, str]:
    from torchvision.models import densenet121

    return densenet121(num_classes=2), torch.randn(1, 3, 224, 224), "features.denseblock4"


def inception_v3() -> tuple[nn.Module, Tensor, str]:
    from torchvision.models import inception_v3

    return inception_v3(num_classes=2, init_weights=False), torch.randn(1, 3, 299, 299), "Mixed_7c"


def efficientnet_3d() -> tuple[nn.Module, Tensor, str]:
    from monai.networks.nets import EfficientNetBN

    network = EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=1, num_classes=2)
    return network, torch.randn(1, 1, 96, 112, 96), "_conv_head"


def densenet121_3d() -> tuple[nn.Module, Tensor, str]:
    from monai.networks.nets import DenseNet121

    return DenseNet121(3, 1, 2), torch.randn(1, 1, 96, 112, 96), "features.denseblock4"


NETWORKS = {f.__name__: f for f in (densenet121, inception_v3, efficientnet_3d, densenet121_3d)}


class Peak:
    """Peak of the resident memory above its start, sampled by a thread."""

    def __enter__(self) -> Peak:
        gc.collect()
        self.start = self.top = _resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.top = max(self.top, _resident())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.mib = (self.top - self.start) / 2**20


def _resident() -> int:
    with pathlib.Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def medsal_job(network: nn.Module, image: Tensor, methods: list[str], layer: str) -> Callable[[], Any]:
    options = OPTIONS_3D if image.ndim == 5 else OPTIONS
    chosen = {name: given for name, given in options.items() if name in methods}
    return lambda: explain(network, image, methods, target=TARGET, target_layer=layer, options=chosen)


def floor_job(network: nn.Module, image: Tensor) -> Callable[[], Any]:
    def run() -> None:
        flags = [(p, p.requires_grad) for p in network.parameters()]
        for weight, _ in flags:
            weight.requires_grad_(False)
        x = image.clone().requires_grad_()
        torch.autograd.grad(network(x)[:, TARGET].sum(), x)
        for weight, flag in flags:
            weight.requires_grad_(flag)

    return run


def measure(job: Callable[[], Any]) -> tuple[float, float]:
    """CPU seconds and peak MiB of one run."""
    with Peak() as peak:
        began = time.process_time()
        job()
        seconds = time.process_time() - began
    return seconds, peak.mib


def jobs_of(
    network: nn.Module, image: Tensor, layer: str, methods: list[str]
) -> dict[tuple[str, str], Callable[[], Any]]:
    options = OPTIONS_3D if image.ndim == 5 else OPTIONS
    jobs = {}
    for method in methods:
        jobs[method, "medsal"] = medsal_job(network, image, [method], layer)
        for who, job in peers.jobs(method, network, image, TARGET, layer, options.get(method, {})).items():
            jobs[method, who] = job
    return jobs


def table(name: str, runs: int, methods: list[str], calls: dict[str, list[str]]) -> None:
    torch.manual_seed(0)
    network, image, layer = NETWORKS[name]()
    network.eval()
    relu = any("relu" in type(m).__name__.lower() for m in network.modules()) or "inception" in name
    keep = [m for m in methods if relu or m not in NO_RELU]
    jobs = {("forward+backward", "torch"): floor_job(network, image), **jobs_of(network, image, layer, keep)}
    for label, among in calls.items():
        kept = [m for m in among if relu or m not in NO_RELU]
        jobs[f"{label} ({len(kept)} methods)", "medsal"] = medsal_job(network, image, kept, layer)
    figures: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in jobs}
    failed: dict[tuple[str, str], str] = {}
    for _ in range(runs + 1):  # the first one warms up
        for key, job in jobs.items():
            if key in failed:
                continue
            try:
                figures[key].append(measure(job))
            except Exception as error:  # noqa: BLE001  a peer that fails is a row of the table
                failed[key] = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:70]}"
    print(f"\n### {name}, {'x'.join(map(str, image.shape[2:]))}\n")
    print("| method | who | CPU s | x f+b | peak MiB | medsal / this |\n|---|---|---|---|---|---|")
    middle = {key: statistics.median(s for s, _ in found[1:] or found) for key, found in figures.items() if found}
    floor = middle["forward+backward", "torch"]
    for key in jobs:
        if key in failed:
            print(f"| {key[0]} | {key[1]} | fails: {failed[key]} | | | |")
            continue
        peak = max(mib for _, mib in figures[key])
        ratio = f"{middle[key[0], 'medsal'] / middle[key]:.2f}" if (key[0], "medsal") in middle else ""
        print(f"| {key[0]} | {key[1]} | {middle[key]:.2f} | {middle[key] / floor:.2f} | {peak:.0f} | {ratio} |")
    _sums(middle, calls, relu)


def _sums(middle: dict[tuple[str, str], float], calls: dict[str, list[str]], relu: bool) -> None:
    """One call against the sum of the best peer of each method."""
    for label, among in calls.items():
        kept = [m for m in among if relu or m not in NO_RELU]
        ours = middle[f"{label} ({len(kept)} methods)", "medsal"]
        best = {
            m: min((s for (method, who), s in middle.items() if method == m and who != "medsal"), default=None)
            for m in kept
        }
        have = {m: s for m, s in best.items() if s is not None}
        missing = f"; no peer: {', '.join(set(kept) - set(have))}" if len(have) < len(kept) else ""
        print(f"\n{label}: best peers one by one {sum(have.values()):.2f} CPU s, one call {ours:.2f}: "
              f"{sum(have.values()) / ours:.1f} times{missing}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--slow", action="store_true", help="the methods of hundreds of passes, once each")
    parser.add_argument("--loops", action="store_true", help="integrated gradients, SmoothGrad, GradientShap")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    names = ("torch", "monai", *peers.installed())
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads; "
          + ", ".join(f"{name} {version(name)}" for name in names))  # fmt: skip
    for name in arguments.networks:
        if arguments.slow:
            table(name, 0, SLOW, {})
        elif arguments.loops:
            table(name, arguments.runs, LOOPS, {})
        else:
            table(name, arguments.runs, CHEAP, {"one pass": ONE_CALL, "twelve": [*TWELVE]})


if __name__ == "__main__":
    main()
