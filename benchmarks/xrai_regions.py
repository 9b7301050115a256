"""The region part of XRAI: medsal beside PAIR's saliency 0.2.1 on a picture, and medsal alone on a volume.

Run it with ``OMP_NUM_THREADS=1 python benchmarks/xrai_regions.py``; PAIR is installed by ``pip install --no-deps
saliency==0.2.1``. CPU seconds are the median of interleaved runs in one process; memory is what the highest resident
size rose by while a step ran, each step of the volume in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from medsal.attribution.regions import region_ranking, regions_of
from medsal.attribution.segments import Felzenszwalb, Segments
from medsal.attribution.supervoxels import Supervoxels


def smooth(shape: tuple[int, ...], sigma: float, seed: int) -> np.ndarray:
    found = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32), sigma)
    return found / found.std()


def cpu_seconds(job: Callable[[], Any]) -> float:
    start = time.process_time()
    job()
    return time.process_time() - start


def masks_of(segments: Segments) -> list[np.ndarray]:
    found = []
    for box, mask in segments.masks():
        found.append(np.zeros(segments.labels[0].shape, dtype=bool))
        found[-1][box] = mask
    return found


def picture(repeats: int) -> None:
    """Print the table of the picture of 224 x 224 pixels."""
    from saliency.core import xrai as pair
    from skimage.morphology import dilation, disk

    image = np.stack([smooth((224, 224), 4, channel) + 0.05 * smooth((224, 224), 0, 9) for channel in range(3)])
    attribution = ndimage.gaussian_filter(np.random.default_rng(5).standard_normal((224, 224)), 2)
    image, theirs = image.astype(float), np.moveaxis(image, 0, -1).astype(float)
    segments = Felzenszwalb()(image, (1.0, 1.0))
    regions, masks = regions_of(segments), masks_of(segments)
    thin = pair._get_segments_felzenszwalb(theirs, dilation_rad=0)
    jobs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "Felzenszwalb": (
            lambda: pair._get_segments_felzenszwalb(theirs, dilation_rad=0),
            lambda: Felzenszwalb()(image, (1.0, 1.0)),
        ),
        "widening": (lambda: [dilation(mask, footprint=disk(5)) for mask in thin], lambda: regions_of(segments)),
        "full": (lambda: pair.XRAI._xrai(attribution, masks), lambda: region_ranking(attribution, regions)),
        "fast": (
            lambda: pair.XRAI._xrai_fast(attribution, masks),
            lambda: region_ranking(attribution, regions, mode="fast"),
        ),
    }
    runs = [[[cpu_seconds(job) for job in both] for both in jobs.values()] for _ in range(repeats)]
    cut, wide, full, fast = np.median(runs, axis=0)
    print(f"\n### 224 x 224, {len(masks)} segments, {len(regions.voxels)} atoms\n")
    print("| step | PAIR CPU s | medsal CPU s | PAIR / medsal | largest difference |\n|---|---|---|---|---|")
    differences = {
        mode: f"{np.abs(one(attribution, masks)[0] - region_ranking(attribution, regions, mode=mode)).max():.0e}"
        for mode, one in (("full", pair.XRAI._xrai), ("fast", pair.XRAI._xrai_fast))
    }
    for name, (a, b), away in (
        ("Felzenszwalb at 6 scales (scikit-image in both)", cut, ""),
        ("widening by 5 pixels, tables", wide, ""),
        ("ranking, full", full, differences["full"]),
        ("ranking, fast", fast, differences["fast"]),
        ("widening and ranking, full", wide + full, ""),
        ("widening and ranking, fast", wide + fast, ""),
        ("all of it, full, first class", cut + wide + full, ""),
        ("all of it, fast, first class", cut + wide + fast, ""),
        ("all of it, full, each further class", (sum(x[0] for x in (cut, wide, full)), full[1]), ""),
        ("all of it, fast, each further class", (sum(x[0] for x in (cut, wide, fast)), fast[1]), ""),
    ):
        print(f"| {name} | {a:.4f} | {b:.4f} | {a / b:.1f} | {away} |")


def head(shape: tuple[int, ...]) -> np.ndarray:
    """A textured ellipsoid, a third of the volume, on a background of zeros."""
    away = sum(
        (np.linspace(-1, 1, n).reshape([-1 if a == i else 1 for a in range(3)])) ** 2 for i, n in enumerate(shape)
    )
    return np.where(away < 0.72, 3 + smooth(shape, 6, 0) + 0.1 * smooth(shape, 0, 1), 0)[None].astype(float)


def segment(folder: Path, shape: tuple[int, ...]) -> str:
    found = Supervoxels()(head(shape), (1.0, 1.0, 1.0))
    np.savez(folder / "segments.npz", labels=np.stack(found.labels), min_new=found.min_new)
    return f"labels {[len(np.unique(one)) - 1 for one in found.labels]}"


def atoms(folder: Path, _: tuple[int, ...]) -> str:
    regions = stored(folder)
    return f"{regions.members.shape[0]} regions, {len(regions.voxels)} atoms, keeps {regions.bytes / 2**20:.0f} MiB"


def rank(folder: Path, shape: tuple[int, ...], mode: str) -> str:
    attribution = smooth(shape, 4, 7).astype(float)
    regions = stored(folder)
    before, start = peak(), time.process_time()
    found = region_ranking(attribution, regions, mode=mode)
    return (
        f"the ranking alone {time.process_time() - start:.2f} CPU s, {peak() - before} MiB more; "
        f"mass gap {found.sum() - attribution.sum():.0e}, {len(np.unique(found))} values"
    )


def stored(folder: Path) -> Any:
    with np.load(folder / "segments.npz") as found:
        labels = tuple(found["labels"])
        return regions_of(Segments(labels, (1.0, 1.0, 1.0), dilation=3.0, min_new=int(found["min_new"])))


def peak() -> int:
    """Highest resident size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measured(queue: Any, job: Callable[..., str], *args: Any) -> None:
    before, start = peak(), time.process_time()
    said = job(*args)
    queue.put((time.process_time() - start, peak() - before, said))


def volume(shape: tuple[int, ...]) -> None:
    """Print the table of the volume."""
    print(f"\n### {' x '.join(map(str, shape))}\n\n| step | CPU s | MiB above start | |\n|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for step, job, *more in (
            ("supervoxels at 5 sizes (with the image)", segment),
            ("regions from labels", atoms),
            ("regions and ranking, full", rank, "full"),
            ("regions and ranking, fast", rank, "fast"),
        ):
            queue = context.Queue()
            process = context.Process(target=measured, args=(queue, job, folder, shape, *more))
            process.start()
            seconds, rise, said = queue.get()
            process.join()
            print(f"| {step} | {seconds:.2f} | {rise} | {said} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shape", type=int, nargs=3, default=(160, 192, 160))
    given = parser.parse_args()
    picture(given.repeats)
    volume(tuple(given.shape))
