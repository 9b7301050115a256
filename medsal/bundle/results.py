"""From the engine's output to what is written: one case on the network's grid and on the patient's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from medsal.bundle.fingerprint import identified
from medsal.export import CaseResult
from medsal.geometry import full_affine, patient_grid, to_grid

ENOUGH_SHARE = 0.5
"""A case whose image fills less of the network's field of view than this gets a warning."""
_PREFIX = "saliency_"


def slice_choice(key_slices: Any = None, slices: Any = None) -> str | None:
    """Join plain slice numbers and choices by anatomy into one choice.

    Args:
        key_slices: a number, numbers, or text with commas.
        slices: a choice, or several.

    Returns:
        Both, as ``medsal.export.parse_slices`` reads them; None if neither is given.

    Example:
        >>> slice_choice((30, 40), "axial:peak")
        '30,40;axial:peak'
    """
    parts = []
    for given, joint in ((key_slices, ","), (slices, ";")):
        several = given if isinstance(given, list | tuple) else [given]
        parts.append(joint.join(str(part) for part in several if part not in {None, ""}))
    return ";".join(part for part in parts if part) or None


def case_result(
    case: Mapping[str, Any], output: Mapping[str, Any], slice_axis: int = 1, position: int | None = None
) -> CaseResult:
    """Gather what is known of an explained case, on the network's grid and on the patient's.

    Args:
        case: the decollated item of the batch, with ``case``, ``subject`` and ``session``.
        output: the decollated item of the engine's output.
        slice_axis: array axis that plain slice numbers count along.
        position: place of the case in the data list.

    Returns:
        The case, ready to be written.
    """
    image = _one_channel(output[Keys.IMAGE])
    facts, notes = image_facts(image.meta)
    maps = {
        key.removeprefix(_PREFIX): value.cpu()
        for key, value in output.items()
        if key.startswith(_PREFIX) and isinstance(value, Tensor) and value.ndim == image.ndim  # scores are no maps
    }
    source = Path(str(image.meta.get("filename_or_obj", "")))
    native = _native(image, source)
    known = image.meta.get("original_affine") is not None  # pictures say nothing of a patient's space
    affine, shape = patient_grid(image) if known else (native.affine, native.shape[1:])
    label, logits = true_class(case.get("label")), output[Keys.PRED].detach().float().cpu().flatten()
    regions = case.get("regions")
    return CaseResult(
        case=str(case["case"]),
        subject=str(case["subject"]),
        session=str(case["session"]),
        source=Path(str(case["case"])) if case.get("anonymous") else source,
        label=label,
        label_name=str(case.get("label_name", "")),
        prediction=probability(logits),
        logits=logits.tolist(),
        target=output.get("target"),
        image=image,
        maps=maps,
        native=native,
        native_maps={name: to_grid(relevance, affine, shape) for name, relevance in maps.items()},
        records=output.get("records", {}),
        slice_axis=slice_axis,
        regions=regions.cpu() if isinstance(regions, MetaTensor) and regions.shape[1:] == image.shape[1:] else None,
        sample_idx=position,
        facts=facts,
        notes=notes,
    )


def places(result: CaseResult, maps: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Where the maps of a case lie, for whoever reads its files.

    Args:
        result: the case.
        maps: method -> its files.

    Returns:
        ``maps``, and ``grid``: ``affine`` (4, 4) and ``shape`` of the network's grid, ``slice_axis`` (comes first in
        NPY files), ``patient_shape``, ``film`` (affine of a film, which has rows first), and ``layers``: method -> grid
        of the layer that its map was taken from, 1 along the slices where one map stands for all of them.
    """
    shape, axis, layers = list(result.image.shape[1:]), result.slice_axis, {}
    for name, record in result.records.items():
        found, slices = list(record.get("layer_shape", ())), record.get("repeated_over_slices")
        if slices is not None and len(found) == len(shape) - 1:
            found.insert(axis if shape[axis] == slices else shape.index(slices), 1)
        if len(found) == len(shape):
            layers[name] = found
    return {
        "maps": {method: dict(files) for method, files in maps.items()},
        "grid": {
            "affine": full_affine(result.image.affine).tolist(),
            "shape": shape,
            "slice_axis": axis,
            "patient_shape": list(result.native.shape[1:]),
            "layers": layers,
            **({"film": full_affine(result.native.affine).tolist()} if _is_film(result.image) else {}),
        },
    }


def image_facts(meta: Mapping[str, Any]) -> tuple[dict[str, float], list[str]]:
    """What preparing an image found, and what of it should make a reader doubt the case.

    Args:
        meta: of the image on the network's grid.

    Returns:
        ``field_of_view`` (share of the grid inside the image) and ``background`` where known; warnings.

    Example:
        >>> image_facts({"field_of_view": 0.25})[1]
        ['only 25% of what the network looks at lies inside the image; the rest counts as background']
    """
    facts = {key: float(meta[key]) for key in ("field_of_view", "background") if key in meta}
    share = facts.get("field_of_view", 1.0)
    if share >= ENOUGH_SHARE:
        return facts, []
    return facts, [
        f"only {share:.0%} of what the network looks at lies inside the image; the rest counts as background"
    ]


def true_class(label: Any) -> int | None:
    """The true class, however a data list writes it.

    Args:
        label: a number, or one-hot numbers or tensors.

    Returns:
        The class; None where it is not known: no label, a negative one, or several or no classes at once.

    Example:
        >>> true_class(torch.tensor(2)), true_class([0, 1, 0]), true_class([1, 1]), true_class(-1)
        (2, 1, None, None)
    """
    if label is None or isinstance(label, str):
        return None
    parts = label if isinstance(label, list | tuple) else torch.as_tensor(label).flatten().tolist()
    values = [float(part) for part in parts]
    if len(values) == 1:
        return int(values[0]) if values[0] >= 0 else None
    return values.index(1.0) if sorted(values) == [0.0] * (len(values) - 1) + [1.0] else None


def probability(logits: Tensor) -> float:
    """Probability of class 1.

    Args:
        logits: of one image, ``(K,)``; a single one is binary.

    Returns:
        Between 0 and 1.

    Example:
        >>> probability(torch.zeros(1)), probability(torch.zeros(2))
        (0.5, 0.5)
    """
    values = torch.sigmoid(logits) if len(logits) == 1 else torch.softmax(logits, 0)[1:]
    return float(values[0])


def _one_channel(image: Tensor) -> MetaTensor:
    """The image as it is shown: the mean of its channels."""
    shown = image if isinstance(image, MetaTensor) else MetaTensor(image)
    return (shown if len(shown) == 1 else shown.mean(0, keepdim=True)).cpu()


def _native(image: MetaTensor, source: Path) -> MetaTensor:
    """The image of the file itself, where there is one; else the network's image on the grid that it came from."""
    if not source.name or not source.exists():
        known = image.meta.get("original_affine") is not None
        return to_grid(image, *patient_grid(image)) if known else image
    if source.name.endswith((".nii", ".nii.gz")):
        from medsal.transforms import LoadVolume

        return _one_channel(LoadVolume(placed=False)(source))
    if _is_film(image):  # as it was read for the network: rows first, from 0 to 1
        from medsal.data.films.loading import LoadFilm

        return _one_channel(LoadFilm(str(image.meta["loader"]).partition(" ")[2])(source))
    from monai.transforms import LoadImage

    return _one_channel(LoadImage(image_only=True, ensure_channel_first=True)(source))


def _is_film(image: MetaTensor) -> bool:
    """Whether an image was read by ``medsal.data.LoadFilm``: rows first."""
    return str(image.meta.get("loader", "")).partition(" ")[0] == "LoadFilm"


def named(batch: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
    """Names of a case, by its file where the item has none.

    Args:
        batch: the decollated item of the batch.
        output: the decollated item of the engine's output.

    Returns:
        ``case``, ``subject`` and ``session``.
    """
    meta = getattr(output.get(Keys.IMAGE), "meta", {})
    item = {key: batch[key] for key in ("case", "subject", "session") if key in batch}
    found = identified({"image": meta.get("filename_or_obj", "case"), **item})
    return {key: found[key] for key in ("case", "subject", "session")}
