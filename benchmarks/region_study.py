"""The region study on films of children: networks cross-validated by patient, their maps, lung regions, tests.

python -m benchmarks.region_study FILMS OUT [seed]

FILMS holds the folders NORMAL and PNEUMONIA. Every film is explained by a network that has not seen its patient. Writes
to OUT: ``fold_1`` and so on (weights, maps, page), ``lungs``, ``performance.json``, ``lung_study``, ``all_study`` (with
doubted lung fields kept), ``strip_study`` (three strips of the film).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow
from torch import Tensor, nn
from torch.nn import functional

from medsal.bundle import Workflow
from medsal.data import class_folder_cases, film_transforms, patient_folds
from medsal.files import json_bytes, write_file
from medsal.networks import film_classifier, save_weights

FOLDS, SIZE, EPOCHS, BATCH, RATE = 5, 128, 60, 8, 3e-3
METHODS = ["saliency", "gradcam", "lrp_epsilon_plus"]
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
LUNGS = Path(__file__).resolve().parents[1] / "bundles" / "cxr_lung_fields"
FILM = {"_target_": "medsal.data.film_transforms", "size": SIZE, "channels": 1, "truth": False}
NETWORK = {"_target_": "medsal.networks.film_classifier", "architecture": "resnet_small", "in_channels": 1}


def moved(films: Tensor, generator: torch.Generator) -> Tensor:
    """Films turned by up to 6 degrees, shifted and scaled by up to 6 %, with another contrast; never mirrored."""
    count = len(films)
    turn, wide, high, across, down, gain = (2 * torch.rand(6, count, generator=generator) - 1) * torch.tensor(
        [0.1, 0.06, 0.06, 0.12, 0.12, 0.15]
    ).unsqueeze(1)
    above = torch.stack([turn.cos() * (1 + wide), -turn.sin(), across], 1)
    below = torch.stack([turn.sin(), turn.cos() * (1 + high), down], 1)
    grid = functional.affine_grid(torch.stack([above, below], 1), list(films.shape), align_corners=False)
    found = functional.grid_sample(films, grid, padding_mode="border", align_corners=False)
    return found * (1 + gain.view(-1, 1, 1, 1))


def trained(films: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """A network after a fixed number of epochs: nothing is chosen by looking at held-out films."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = film_classifier("resnet_small", in_channels=1)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.05)
    steps = EPOCHS * (len(films) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(films), generator=generator).split(BATCH)[: len(films) // BATCH]:
            optimizer.zero_grad()
            functional.cross_entropy(network(moved(films[chosen], generator)), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def run(files: Sequence[str], **options: Any) -> None:
    """One bundle run, in this process."""
    kind = Workflow if len(files) > 1 else ConfigWorkflow
    workflow = kind(config_file=[*files], logging_file=False, workflow_type="infer", device="cpu", **options)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def described(cases: Sequence[dict[str, Any]], **ids: Any) -> dict[str, Any]:
    """A bundle's inference.json for these cases."""
    loader = {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 8, "num_workers": 0}
    return {
        "bundle_root": ".", "device": "cpu", "output_dir": "out", "datalist": list(cases), "network_def": NETWORK,
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": FILM}, "dataloader": loader, **ids,
    }  # fmt: skip


def performance(cases: Sequence[dict[str, Any]], scores: dict[str, float], seed: int) -> dict[str, Any]:
    """Area under the curve of all held-out films, pooled over folds, with its interval over patients."""
    from sklearn.metrics import roc_auc_score

    truth = torch.tensor([case["label"] for case in cases])
    found = torch.tensor([scores[case["case"]] for case in cases])
    people = [case["subject"] for case in cases]
    names, generator = sorted(set(people)), torch.Generator().manual_seed(0)
    rows = {name: [i for i, owner in enumerate(people) if owner == name] for name in names}
    again = []
    for _ in range(2000):
        chosen = [names[k] for k in torch.randint(len(names), (len(names),), generator=generator).tolist()]
        drawn = [i for name in chosen for i in rows[name]]
        if len(set(truth[drawn].tolist())) == 2:
            again.append(roc_auc_score(truth[drawn], found[drawn]))
    low, high = torch.tensor(again).quantile(torch.tensor([0.025, 0.975])).tolist()
    right = ((found > 0.5) == truth.bool()).float().mean().item()
    return {
        "seed": seed, "folds": FOLDS, "films": len(cases), "patients": len(names), "auc": roc_auc_score(truth, found),
        "auc_low": low, "auc_high": high, "accuracy": right, "probability": scores,
    }  # fmt: skip


def main(films: Path, out: Path, seed: int = 0) -> None:
    """Train, explain, find lungs, test."""
    torch.set_num_threads(1)
    cases = patient_folds(class_folder_cases(films), FOLDS, seed=seed)
    chain = film_transforms(SIZE, channels=1, truth=False)
    images = torch.stack([chain(dict(case))["image"].as_tensor() for case in cases])
    labels = torch.tensor([case["label"] for case in cases])
    fold = torch.tensor([case["fold"] for case in cases])
    scores: dict[str, float] = {}
    for number in range(1, FOLDS + 1):
        network, held = trained(images[fold != number], labels[fold != number], 100 * seed + number), fold == number
        with torch.no_grad():
            found = network(images[held]).softmax(1)[:, 1].tolist()
        own = [case for case, mine in zip(cases, held.tolist(), strict=True) if mine]
        scores |= dict(zip([case["case"] for case in own], found, strict=True))
        folder = out / f"fold_{number}"
        weights = save_weights(network, folder / "model.safetensors")
        config = write_file(folder / "inference.json", json_bytes(described(own, ckpt_path=str(weights))))
        run([str(config), str(CONFIGS / "explain.yaml")], output_dir=str(folder), methods=METHODS)
    write_file(out / "performance.json", json_bytes(performance(cases, scores, seed)))
    write_file(out / "study.json", json_bytes(described(cases)))
    lungs, given = out / "lungs", str(LUNGS / "configs/inference.json")
    run([given], bundle_root=str(LUNGS), dataset_dir=str(films), output_dir=str(lungs))
    test(out)
    print(json.dumps({key: value for key, value in performance(cases, scores, seed).items() if key != "probability"}))


def test(out: Path) -> None:
    """The study of lung regions, with doubted lung fields left out and kept, and that of the three strips."""
    study = [str(out / "study.json"), str(CONFIGS / "studies/regions.yaml")]
    common = {"output_dir": str(out), "maps_dir": [str(out / f"fold_{number}") for number in range(1, FOLDS + 1)]}
    run(study, lungs_dir=str(out / "lungs"), region_dir=str(out / "lung_study"), **common)
    run(study, lungs_dir=str(out / "lungs"), doubted="keep", region_dir=str(out / "all_study"), **common)
    run(study, cells=[1, 3], region_dir=str(out / "strip_study"), **common)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
