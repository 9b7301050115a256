"""Peak memory of integrated gradients on a large volume against one forward and one backward; prints a Markdown table.

    python -m benchmarks.memory --steps 50

Each job is a process of its own; its peak is the operating system's account, above that of a process that only made the
network and the image.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

SETUP = """
import resource, sys, torch
from monai.networks.nets import EfficientNetBN
from medsal import explain
network = EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=1, num_classes=2).eval()
network.requires_grad_(False)
image = torch.randn(1, 1, 160, 192, 160)
network(torch.randn(1, 1, 32, 32, 32))
"""
JOBS = {
    "nothing": "",
    "one forward and backward": "x = image.clone().requires_grad_(); torch.autograd.grad(network(x)[:, 1].sum(), x)",
    "integrated gradients, {steps} steps": "explain(network, image, 'integrated_gradients', target=1, "
    "options={{'integrated_gradients': {{'steps': {steps}}}}})",
    "smoothgrad, saliency and gradcam": "explain(network, image, ['smoothgrad', 'saliency', 'gradcam'], target=1, "
    "options={{'smoothgrad': {{'samples': 2}}}})",
}
REPORT = "\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    steps = parser.parse_args().steps
    peaks = {}
    for name, job in JOBS.items():
        code = SETUP + job.format(steps=steps) + REPORT
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks[name.format(steps=steps)] = float(done.stdout.split()[-1])
    base = peaks.pop("nothing")
    one = peaks["one forward and backward"] - base
    print("| job | peak MiB | x one forward and backward |\n|---|---|---|")
    for name, peak in peaks.items():
        print(f"| {name} | {peak - base:.0f} | {(peak - base) / one:.2f} |")


if __name__ == "__main__":
    main()
