"""Every method on every network that people use: it works, or a clear error says why not; as docs/networks.md has it.

    python -m pytest tests/reference/test_networks.py -m "slow or not slow" --write-networks

writes that page anew.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medsal.attribution import METHODS
from medsal.attribution.explain import Explanation, explain
from medsal.errors import UsageError
from tests.networks_of_the_field import NETWORKS, build, convolutional

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"
QUICK = {
    "DenseNet121 3D",
    "SEResNet50 2D",
    "EfficientNetV2 (medsal) 3D",
    "ViT 3D",
    "Swin encoder 2D",
    "torchvision mobilenet_v2",
}
FEW: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 2},
    "smoothgrad": {"samples": 2},
    "smoothgrad_squared": {"samples": 2},
    "vargrad": {"samples": 2},
    "smooth_integrated_gradients": {"samples": 1, "steps": 2},
    "gradient_shap": {"samples": 2},
    "occlusion": {"window": 24, "stride": 24},
    "rise": {"masks": 4, "cells": 3},
    "xrai": {"steps": 2},
}
REASONS = {
    "no ReLU": r"defined by ReLUs and the network has none",
    "no pooling and linear head": r"cam is defined for global average pooling",
    "no rule": r"no rule",
}
CLAIMS = {"deep_lift": "relative_gap", "lrp_epsilon_plus": "relevance_kept"}

Row = dict[str, tuple[str, float]]
FOUND: dict[str, Row] = {}


def outcome(network: nn.Module, image: Tensor, method: str) -> tuple[str, float]:
    """What comes of a method: ``works`` or a reason, and what it claims."""
    layer = first_convolution(network) if method == "scorecam" else None  # a forward for each channel of the layer
    try:
        found = explain(network, image, method, target=1, target_layer=layer, options={method: FEW.get(method, {})})
    except UsageError as error:
        reasons = [reason for reason, pattern in REASONS.items() if re.search(pattern, str(error))]
        if len(reasons) != 1:
            raise
        return reasons[0], math.nan
    relevance = found[method]
    assert relevance.shape == (1, 1, *image.shape[2:])
    assert torch.isfinite(relevance).all()
    return ("works" if relevance.any() else "works, a zero map with these weights"), claim_of(found, method)


def first_convolution(network: nn.Module) -> str:
    return next(name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Conv3d))


def claim_of(found: Explanation, method: str) -> float:
    claims = found.records[method]["claims"]
    return float(claims[CLAIMS[method]][0]) if method in CLAIMS else math.nan


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def test_every_method_works_or_says_why_not(name, request):
    network, image = build(name)
    row = {method: outcome(network, image, method) for method in METHODS}
    FOUND[name] = row
    if convolutional(name):
        assert row["deep_lift"][1] <= 1e-4
        assert 0.95 <= row["lrp_epsilon_plus"][1] <= 1.05
    if request.config.getoption("--write-networks"):
        PAGE.write_text(written(FOUND), encoding="utf-8")
        return
    table = read(request.getfixturevalue("page"))
    assert {method: found for method, (found, _) in row.items()} == table[name]


def written(found: dict[str, Row]) -> str:
    """The page: one row per method, one column per family of networks, and what DeepLIFT and LRP claim."""
    names = [name for name in NETWORKS if name in found]
    families = {family_of(name): [n for n in names if family_of(n) == family_of(name)] for name in names}
    marks = {"works": "+", "works, a zero map with these weights": "0", **dict(zip(REASONS, "abcdefgh", strict=False))}
    heads = [family + f" ({', '.join(n[-2:] for n in of)})" * (of != [family]) for family, of in families.items()]
    lines = [HEAD, "", "| method | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for method in METHODS:
        cells = [" ".join(marks[found[name][method][0]] for name in of) for of in families.values()]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    seen = {reason for row in found.values() for reason, _ in row.values()}
    lines += ["", *[f"{mark}: {reason}  " for reason, mark in marks.items() if reason in seen], "", CLAIMED, ""]
    lines += ["| network | DeepLIFT gap | LRP relevance kept |", "|---|---|---|"]
    for name in names:
        gap, kept = found[name]["deep_lift"][1], found[name]["lrp_epsilon_plus"][1]
        lines.append(f"| {name} | {gap:.0e} | {kept:.3f} |")
    return "\n".join(lines) + "\n"


def family_of(name: str) -> str:
    return name if name.startswith("torchvision") else name.rsplit(" ", 1)[0]


def read(page: str) -> dict[str, dict[str, str]]:
    """Network -> method -> outcome, from the page."""
    marks = dict(re.findall(r"^(\S): (.+?)  $", page, re.MULTILINE))
    lines = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line] for line in lines]
    header, *body = rows[: next(i for i, row in enumerate(rows) if row[0] == "network")]
    families = [[n for n in NETWORKS if family_of(n) == head.split(" (2D")[0]] for head in header[1:]]
    table: dict[str, dict[str, str]] = {name: {} for family in families for name in family}
    for method, *cells in body[1:]:
        for family, cell in zip(families, cells, strict=True):
            for name, mark in zip(family, cell.split(), strict=True):
                table[name][method] = marks[mark]
    return table


HEAD = """# Methods and networks

Each method was run on each network, at a small size, with random weights; the page is written by the test
`tests/reference/test_networks.py`, which also fails when it is no longer true. Two marks are for 2D and 3D."""
CLAIMED = """What two methods say about themselves, in single precision: DeepLIFT, how far the sum of its map is from
the difference of scores, as a share of it; LRP (`lrp_epsilon_plus`), which share of the score arrives at the image."""
