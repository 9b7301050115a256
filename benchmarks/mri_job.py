"""The whole MRI job, medsal against the naive way, on the same volumes; prints a Markdown table.

    python benchmarks/mri_job.py --cases 8 --runs 3

Each run is a fresh process into an empty folder, the two in turn. Wall and CPU seconds and peak memory are the
operating system's own account of the finished process; the share of drawing is the program's own account.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from medsal.data import write_planted_set

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "mri_tle_efficientnet"
METHODS = "integrated_gradients,saliency,input_x_gradient,gradient_shap"
SLICES = (3, 7, 11, 14, 17, 21, 25)


def run(command, folder):
    start = time.perf_counter()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=BUNDLE, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(
            f"{' '.join(command)} ended with {process.returncode}:\n{(folder / 'log.txt').read_text()[-3000:]}"
        )
    return {
        "wall": time.perf_counter() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss / 1024,
    }


def same_files_job(csv, folder):
    return medsal_job(csv, folder, "--exporter#options#write", "npy,slices,summary")


def medsal_job(csv, folder, *more):
    figures = run(
        [
            sys.executable, "-m", "monai.bundle", "run", "--args_file", "configs/explain.args.yaml",
            "--csv_path", str(csv), "--output_dir", str(folder), "--methods", METHODS,
            "--key_slices", ",".join(map(str, SLICES)), "--options#gradient_shap#baseline", "gaussian:0.1",
            "--target", "1", *more,
        ],
        folder,
    )  # fmt: skip
    for case in (folder / "cases").glob("*.json"):
        for part, seconds in json.loads(case.read_text())["seconds"].items():
            figures[part] = figures.get(part, 0.0) + seconds
    return figures


def naive_job(csv, folder):
    script = str(ROOT / "benchmarks" / "naive_mri_job.py")
    slices = [str(index) for index in SLICES]
    command = [
        sys.executable,
        script,
        "--bundle",
        str(BUNDLE),
        "--csv",
        str(csv),
        "--out",
        str(folder),
        "--slices",
        *slices,
    ]
    return {**run(command, folder), **json.loads((folder / "seconds.json").read_text())}


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--cases", type=int, default=8)
    options.add_argument("--runs", type=int, default=3)
    args = options.parse_args()
    jobs = {
        "medsal: all its files": medsal_job,
        "medsal: the same files as the naive job": same_files_job,
        "naive: captum, matplotlib": naive_job,
    }
    found = {name: [] for name in jobs}
    with tempfile.TemporaryDirectory() as temporary:
        csv = write_planted_set(Path(temporary) / "set", cases=args.cases, seed=0)
        for number in range(args.runs):
            for name, job in jobs.items():
                folder = Path(temporary) / f"{job.__name__}{number}"
                folder.mkdir()
                found[name].append(job(csv, folder))
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "monai", "captum", "matplotlib", "pillow"))
    print(f"{args.cases} volumes x 4 methods x {len(SLICES)} slices, median of {args.runs} interleaved runs; "
          f"{os.cpu_count()} cores, "
          f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads, {platform.machine()}, "
          f"Python {platform.python_version()}, {packages}\n")  # fmt: skip
    parts = ("wall", "cpu", "peak", "compute", "draw", "write")
    print("| job | wall s | CPU s | peak MiB | compute s | draw s | write s |\n|---|---|---|---|---|---|---|")
    medians = {}
    for name, runs in found.items():
        medians[name] = [statistics.median(figures.get(part, 0.0) for figures in runs) for part in parts]
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in medians[name]) + " |")
    naive = medians.popitem()[1]
    for name, ours in medians.items():
        ratios = [f"{b / a:.1f}" if a and b else "" for a, b in zip(ours, naive, strict=True)]
        print(f"| naive / {name} | " + " | ".join(ratios) + " |")


if __name__ == "__main__":
    main()
