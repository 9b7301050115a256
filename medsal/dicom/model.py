"""A bundle that explains images which medsal.dicom has read: its own preparation, network, methods and options."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from monai.data import MetaTensor

from medsal.dicom.loader import Loader, without_loader
from medsal.dicom.save import Findings
from medsal.dicom.uids import Provenance
from medsal.errors import InputError, UsageError

if TYPE_CHECKING:
    from medsal.engines import AttributionEvaluator

RULES = "dicom.json"
"""Beside a bundle's inference.json: which series it takes; without it MR volumes, or chest films, by its network."""


@dataclass(frozen=True)
class Explained:
    """What a model says of one image.

    Attributes:
        maps: method -> ``(1, *space)`` on the network's grid.
        findings: prediction and probabilities.
        provenance: method -> what made its map.
        records: method -> what it says about itself.
        notes: what should make a reader doubt the case.
    """

    maps: dict[str, MetaTensor]
    findings: Findings
    provenance: dict[str, Provenance]
    records: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Model:
    """A bundle, loaded once.

    Attributes:
        evaluator: holds the network and the checked options.
        steps: of its preparation, after the loader.
        loader: how it reads images.
        classes: names of its classes.
        provenance: of its results, without method and target.
        setup: digest of all that its results depend on.
    """

    evaluator: AttributionEvaluator
    steps: tuple[Any, ...]
    loader: Loader
    classes: Mapping[int, str]
    provenance: Provenance
    setup: str

    def explain(self, image: MetaTensor) -> Explained:
        """Explain an image.

        Args:
            image: as medsal.dicom has read it.

        Returns:
            Its maps, and what the model says.

        Raises:
            InputError: the image is not what the network takes.
        """
        from medsal.attribution.explain import explain
        from medsal.attribution.images import spacings_of
        from medsal.bundle.results import image_facts

        ready = self.prepared(image)
        plain = ready.as_tensor()[None].to(self.evaluator.state.device)
        own = self.evaluator
        try:
            made = explain(
                own.network,
                plain,
                own.methods,
                target=own.target,
                spacing=spacings_of(ready[None], plain),
                **own.explain_options,
            )
        except RuntimeError as error:
            raise InputError(f"cannot explain images of shape {tuple(plain.shape)}: {type(error).__name__}") from error
        target = "" if made.target[0] is None else self.target_name(made.target[0], made.logits.shape[1])
        maps = {
            name: MetaTensor(value[0].detach().float().cpu().as_subclass(torch.Tensor)).copy_meta_from(ready)
            for name, value in made.items()
        }
        return Explained(
            maps,
            self.said(made.logits[0]),
            {name: self.made_by(name, target, made.records.get(name, {})) for name in maps},
            made.records,
            tuple(image_facts(ready.meta)[1]),
        )

    def prepared(self, image: MetaTensor) -> MetaTensor:
        """Prepare an image as the bundle does.

        Args:
            image: as medsal.dicom has read it.

        Returns:
            On the network's grid, with its affine.

        Raises:
            InputError: the preparation lost the place of the image.
        """
        from monai.transforms import Compose

        ready = Compose(list(self.steps))({"image": self.loader.given(image)})["image"]
        if not isinstance(ready, MetaTensor):
            raise InputError("the bundle's preprocessing loses the affine of the image; its maps have no place")
        return ready

    def said(self, logits: torch.Tensor) -> Findings:
        """Read logits.

        Args:
            logits: ``(K,)``; a single one is binary.

        Returns:
            The class with the highest probability, and the probability of each.
        """
        values = logits.detach().float().cpu()
        if len(values) == 1:
            share, name = float(torch.sigmoid(values[0])), self.target_name(1, 1)
            return Findings(prediction=self.target_name(int(share > 0.5), 1), probabilities={name: share})
        shares = torch.softmax(values, 0).tolist()
        best = max(range(len(shares)), key=shares.__getitem__)
        return Findings(
            prediction=self.name_of(best), probabilities={self.name_of(i): share for i, share in enumerate(shares)}
        )

    def name_of(self, index: int) -> str:
        """Name a class.

        Args:
            index: its number.

        Returns:
            Its name in the metadata, or ``class <number>``.
        """
        return str(self.classes.get(index, f"class {index}"))

    def target_name(self, target: int, outputs: int) -> str:
        """Name what was explained.

        Args:
            target: class; of a single logit 1, or 0 for what speaks against it.
            outputs: number of logits.

        Returns:
            The name of the class; of a single logit that of its finding, or ``no`` and that name.
        """
        if outputs > 1:
            return self.name_of(target)
        name = self.name_of(1 if 1 in self.classes else 0)
        return name if target else f"no {name}"

    def made_by(self, method: str, target: str, record: Mapping[str, Any]) -> Provenance:
        """What one map was made by.

        Args:
            method: name of the map.
            target: name of the class that was explained.
            record: what the method says about itself.

        Returns:
            For the DICOM objects.
        """
        layer = record.get("layer", "")
        layer = layer if isinstance(layer, str) else ""
        return replace(self.provenance, method=method, target=target, layer=layer)


def rules_of(bundle: str | Path) -> Any:
    """Which series a bundle takes.

    Args:
        bundle: its folder.

    Returns:
        Rules for `medsal.dicom.select_series`: ``configs/dicom.json``, or the preset for volumes or films.

    Raises:
        UsageError: it is no bundle, or does not say what its network takes.
    """
    folder = Path(bundle) / "configs"
    if (folder / RULES).is_file():
        return folder / RULES
    shape = _image_format(metadata_of(bundle)).get("spatial_shape")
    if not isinstance(shape, list) or len(shape) not in {2, 3}:
        raise UsageError(f"bundle: {folder / 'metadata.json'} has no spatial_shape of its image; give --rules")
    return "mr_volume" if len(shape) == 3 else "chest_film"


def metadata_of(bundle: str | Path) -> dict[str, Any]:
    """Read the metadata of a bundle.

    Args:
        bundle: its folder.

    Returns:
        They.

    Raises:
        UsageError: there are none.
    """
    path = Path(bundle) / "configs" / "metadata.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"bundle: cannot read {path} ({type(error).__name__}); wanted the folder of a bundle"
        ) from None
    return found


def _image_format(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = metadata.get("network_data_format", {}).get("inputs", {}).get("image", {})
    return found if isinstance(found, Mapping) else {}


@contextmanager
def _hushed(name: str) -> Iterator[None]:
    """Keep a logger of MONAI's, which writes to standard output, from saying where configuration files lie."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def load_model(bundle: str | Path, **options: Any) -> Model:
    """Load a bundle: its configuration is checked and audited, its weights are loaded strictly.

    Args:
        bundle: its folder, with ``configs/inference.json`` (or YAML).
        **options: ids of the configuration and of ``configs/explain.yaml``, such as ``methods`` or ``device``.

    Returns:
        The model.

    Raises:
        UsageError: the bundle, an option or the weights are wrong, or its loader is not known here.
    """
    from medsal.bundle import Workflow
    from medsal.bundle.fingerprint import setup_digest
    from medsal.bundle.weights import weights_record
    from medsal.engines import AttributionEvaluator

    root = Path(bundle).resolve()
    metadata = metadata_of(root)
    files = [root / "configs" / f"inference.{ending}" for ending in ("json", "yaml", "yml")]
    config = next((file for file in files if file.is_file()), files[0])
    with _hushed("monai.bundle.workflows"):
        workflow = Workflow([str(config), "medsal:explain.yaml"], bundle_root=str(root), logging_file=False, **options)
    parser = workflow.parser
    network = parser.get_parsed_content("network").eval()
    names = ("methods", "preset", "options", "target", "target_layer", "seed", "memory_format", "autocast")
    asked = {name: parser.get_parsed_content(name) for name in names}
    if asked["target"] == "label":
        raise UsageError("target: DICOM images bring no label; wanted a class, or none for the predicted one")
    evaluator = AttributionEvaluator(parser.get_parsed_content("device"), [], network, **asked)
    steps, loader = without_loader(parser.get_parsed_content("dataset#transform"))
    if not loader.film and len(_image_format(metadata).get("spatial_shape") or ()) == 2:
        raise UsageError(
            "bundle: its films are read by LoadImaged, which shows DICOM one way or another by what is installed; "
            "wanted medsal.data.LoadFilmd or medsal.dicom.transforms.LoadDicomFilmd"
        )
    weights = weights_record(network)["sha256"]
    setup = setup_digest(workflow.configuration, weights)
    output = metadata.get("network_data_format", {}).get("outputs", {}).get("pred", {})
    return Model(
        evaluator,
        steps,
        loader,
        {int(key): str(value) for key, value in (output.get("channel_def") or {}).items() if str(key).isdigit()},
        Provenance(
            bundle=root.name, bundle_version=str(metadata.get("version", "")), model_sha256=weights, config_sha256=setup
        ),
        setup,
    )
