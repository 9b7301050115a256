"""One picture per input with a panel for every method of ``METHODS``: a chest X-ray and an MRI, to look at.

    python benchmarks/gallery.py --output gallery

The MRI is a head of the embedded set with the network of its bundle. There is no trained network of X-rays that may be
shipped, so that a small one is trained here on the films in ``MEDSAL_TEST_DATA``/cxr_pediatric, the explained film held
out; without that folder only the MRI is drawn. Signed maps are red (for the class) and blue, unsigned ones from black
to yellow, both up to their largest value; ± says that a map is signed.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.networks.nets import DenseNet
from PIL import Image, ImageDraw, ImageOps

import medsal
from medsal.attribution import METHODS
from medsal.bundle import load_weights
from medsal.data import mri_cases, write_planted_set
from medsal.errors import MedsalError
from medsal.export.colours import font, largest, signed_levels, table
from medsal.geometry import plane_axis

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "mri_tle_efficientnet"
PANEL, COLUMNS, HEAD, LINE = 220, 6, 34, 20
SIDE, HELD_OUT = 128, 5


def film(path):
    """A film as the small network takes it, ``(1, SIDE, SIDE)``, rows first."""
    with Image.open(path) as picture:
        pixels = np.asarray(ImageOps.fit(picture.convert("L"), (SIDE, SIDE)), dtype=np.float32)
    return torch.from_numpy((pixels - pixels.mean()) / pixels.std())[None]


def trained_on_films(folder, steps):
    """A small DenseNet trained on films of both classes, and of the films held out the sick one it is surest of."""
    paths = {label: sorted((folder / name).glob("*.jpeg")) for label, name in enumerate(("NORMAL", "PNEUMONIA"))}
    seen = [(film(path), label) for label, found in paths.items() for path in found[HELD_OUT:]]
    held = [(film(path), label) for label, found in paths.items() for path in found[:HELD_OUT]]
    images, labels = torch.stack([one for one, _ in seen]), torch.tensor([label for _, label in seen])
    torch.manual_seed(0)
    network = DenseNet(2, 1, 2, init_features=16, growth_rate=12, block_config=(3, 3, 3), bn_size=2, dropout_prob=0.2)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.05)
    for _ in range(steps):
        chosen = torch.randperm(len(images))[:16]
        batch = images[chosen].roll(torch.randint(-12, 13, (2,)).tolist(), (2, 3))
        batch = batch * (1 + 0.2 * torch.randn(len(chosen), 1, 1, 1)) + 0.2 * torch.randn_like(batch)
        loss = torch.nn.functional.cross_entropy(network(batch), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        said = network(torch.stack([one for one, _ in held])).softmax(1)[:, 1]
    right = sum(int(one > 0.5) == label for one, (_, label) in zip(said, held, strict=True))
    place = int(said[HELD_OUT:].argmax())
    note = (
        f"{paths[1][place].stem} (pneumonia, held out, said {said[HELD_OUT + place]:.2f}); a small DenseNet trained "
        f"here on {len(seen)} pediatric films, {right} of {len(held)} held out right: it knows little"
    )
    return network, held[HELD_OUT + place][0][None], note


def embedded_head():
    """The bundle's network, a head with a lesion on the network's grid, and the slice that holds most of it."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs/inference.json"))
    parser["bundle_root"] = str(BUNDLE)
    network = load_weights(parser.get_parsed_content("network_def"), BUNDLE / "models/model.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        case = next(one for one in mri_cases(write_planted_set(folder, cases=8, seed=0)) if one["label"])
        keys = {key: case[key] for key in ("image", "lesion")}
        transforms = parser.get_parsed_content("preprocessing")
        image = transforms({"image": keys["image"]})["image"]
        lesion = lesion_on(keys["lesion"], image)
    axis = plane_axis(image.affine, "coronal")
    place = int(lesion.sum(tuple(a for a in range(3) if a != axis)).argmax())
    note = (
        f"{case['case']} of the embedded set, the bundle's network; coronal slice {place}, through the planted lesion"
    )
    return network.eval(), image[None], axis, place, note


def lesion_on(path, image):
    """The planted lesion on the grid of an image, ``(*space)``."""
    from medsal.geometry import to_grid
    from medsal.transforms import LoadVolume

    return to_grid(LoadVolume()(path), image.affine, image.shape[1:], mode="nearest")[0].as_tensor()


def panel(values, signed):
    """A map in colours: red and blue around 0, or from black to white."""
    limit = largest(values)
    if signed:
        return table("RdBu_r")[signed_levels(values, limit)]
    levels = np.rint(np.clip(values / (limit or 1), 0, 1) * 254).astype(int)
    return table("inferno")[levels]


def grey(values):
    low, high = np.percentile(values, (0.5, 99.5))
    levels = np.rint(np.clip((values - low) / (high - low or 1), 0, 1) * 255).astype(np.uint8)
    return np.repeat(levels[..., None], 3, -1)


def contact_sheet(panels, note):
    """Panels with their titles in rows, and what they show above."""
    rows = math.ceil(len(panels) / COLUMNS)
    high, wide = panels[0][1].shape[:2]
    height = round(PANEL * high / wide)
    sheet = Image.new("RGB", (COLUMNS * PANEL, HEAD + rows * (height + LINE)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((6, 8), note, "black", font=font(14))
    for index, (title, colours) in enumerate(panels):
        x, y = index % COLUMNS * PANEL, HEAD + index // COLUMNS * (height + LINE)
        pen.text((x + 6, y + 3), title, "black", font=font(12))
        if colours is not None:
            picture = Image.fromarray(colours).resize((PANEL - 6, height - 6), Image.Resampling.NEAREST)
            sheet.paste(picture, (x + 3, y + LINE))
    return sheet


def gallery(network, image, options, cut, note):
    """A panel for the image and for every method; a method that refuses the network says so in its title."""
    panels = [("image", grey(cut(image[0, 0].numpy())))]
    for name, row in METHODS.items():
        began = time.perf_counter()
        try:
            given = {name: options[name]} if name in options else None
            found = medsal.explain(network, image, [name], target=1, options=given)
        except MedsalError as error:
            panels.append((f"{name}: refused", None))
            sys.stderr.write(f"{name}: {error}\n")
            continue
        values = cut(torch.as_tensor(found[name][0, 0]).numpy())
        panels.append((f"{name}{' ±' if row.signed else ''}", panel(values, row.signed)))
        sys.stderr.write(f"{name}: {time.perf_counter() - began:.1f} s\n")
    return contact_sheet(panels, note)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gallery"), help="folder of the pictures")
    parser.add_argument("--steps", type=int, default=300, help="of training for the X-ray")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    films = Path(os.environ.get("MEDSAL_TEST_DATA", ROOT.parent / "shared" / "data")) / "cxr_pediatric"
    if films.is_dir():
        network, image, note = trained_on_films(films, arguments.steps)
        options = {
            "occlusion": {"window": 16, "stride": 4},
            "rise": {"masks": 800},
            "integrated_gradients": {"baseline": "min"},
            "deep_lift": {"baseline": "min"},
        }
        found = gallery(network, image, options, lambda a: a, f"Chest X-ray: {note}")
        found.save(arguments.output / "gallery_xray.png")
    else:
        sys.stderr.write(f"no films at {films}: set MEDSAL_TEST_DATA to the folder of real images\n")
    network, image, axis, place, note = embedded_head()
    options = {
        "occlusion": {"window": 6, "stride": 3},
        "rise": {"masks": 800},
        "smooth_integrated_gradients": {"samples": 4, "steps": 20},
    }

    def cut(volume):
        return np.rot90(volume.take(place, axis))

    plain = image.as_tensor() if isinstance(image, MetaTensor) else image
    gallery(network, plain, options, cut, f"MRI: {note}").save(arguments.output / "gallery_mri.png")


if __name__ == "__main__":
    main()
