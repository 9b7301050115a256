"""An Ignite engine that explains a classifier case by case, in place of MONAI's ``SupervisedEvaluator``."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import EventEnum, Events
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.inferers import SimpleInferer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn

from medsal.attribution.choice import MethodsLike, chosen_methods
from medsal.attribution.classifier import borrowed
from medsal.attribution.explain import Explanation, explain
from medsal.attribution.features import layer_names
from medsal.attribution.images import spacings_of
from medsal.attribution.presets import PRESETS
from medsal.bundle.asked import asked_methods, method_names
from medsal.bundle.exits import reason
from medsal.errors import InputError, UsageError
from medsal.inferers import memory_format_of, precision_of

__all__ = [
    "AttributionEvaluator",
    "AttributionEvents",
    "Failure",
    "attribution_mode",
    "case_records",
    "method_names",
]

_LOG = logging.getLogger("medsal")


class AttributionEvents(EventEnum):  # type: ignore[misc]  # ignite has no type information
    """What an ``AttributionEvaluator`` fires beside the events of Ignite and MONAI."""

    BATCH_FAILED = "batch_failed"
    """In place of ``ITERATION_COMPLETED`` where no case of a batch was explained: metrics have nothing to look at."""


@dataclass(frozen=True)
class Failure:
    """A case that could not be read or explained.

    Attributes:
        case: its item, as far as it is known: ``case``, ``subject``, ``session`` and the like.
        error: one line that says why.
    """

    case: Mapping[str, Any]
    error: str


@contextmanager
def attribution_mode(network: nn.Module) -> Iterator[nn.Module]:
    """Evaluation with gradients on: ``eval()``, no gradient of weights, gradients of activations; restored at the end.

    Args:
        network: the network.

    Yields:
        The network.

    Example:
        >>> network = nn.Dropout()
        >>> with torch.no_grad(), attribution_mode(network):
        ...     print(network.training, torch.is_grad_enabled())
        False True
    """
    with borrowed(network), torch.enable_grad():
        yield network


class AttributionEvaluator(SupervisedEvaluator):  # type: ignore[misc]  # MONAI has no type information
    """Explains every case of a data loader; loaders, transforms, savers and metrics of MONAI work around it unchanged.

    Per batch the output holds ``pred`` (logits), ``image``, ``label`` and ``saliency_<method>`` (a ``MetaTensor`` on
    the grid of the image, so that ``Invertd`` and ``SaveImaged`` know where it lies); after decollation each item also
    holds ``records`` (method -> what went into its map), ``target`` and ``seconds``. Cases that cannot be explained are
    in ``engine.state.failures``, with the failures that the data loader handed over under the key ``failures``; the
    other cases of their batch go on.

    Args:
        device: where to compute.
        val_data_loader: batches with ``image`` and, where known, ``label``.
        network: the classifier; weights must be in it already, or come through a ``CheckpointLoader``.
        methods: names of ``medsal.METHODS``, a list or text with commas; or name of each map -> ``method`` and options.
        options: method, or name of the map -> its options.
        target: None (each image's predicted class), a class, ``"label"`` (the true class), or one class per image.
        **kwargs: ``preset`` (a name of ``medsal.PRESETS``, in place of ``methods``), ``target_layer``, ``seed``,
            ``memory_format`` (``auto``, ``contiguous``, ``channels_last``, ``channels_last_3d``) and ``autocast``
            (``bfloat16``, ``float16``) are for ``medsal.explain``, all else for ``SupervisedEvaluator``.

    Raises:
        UsageError: if a method, an option or the target does not exist, or an inferer is given that would not be used.
    """

    def __init__(
        self,
        device: torch.device | str,
        val_data_loader: Iterable[Any],
        network: nn.Module,
        methods: MethodsLike,
        *,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        target: int | str | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        preset = kwargs.pop("preset", None)
        self.methods = asked_methods(methods, preset)
        self.target = _target(target)
        if self.target is None and preset in PRESETS:
            self.target = PRESETS[preset].target
        options = {name: dict(given) for name, given in (options or {}).items() if given}
        layer, seed = kwargs.pop("target_layer", None), int(kwargs.pop("seed", 0))
        if isinstance(layer, str) and "," in layer:
            layer = [name.strip() for name in layer.split(",")]
        autocast, memory_format = kwargs.pop("autocast", None), kwargs.pop("memory_format", "auto")
        chosen_methods(self.methods, options)
        layer_names(network, layer)
        if not isinstance(kwargs.get("inferer", SimpleInferer()), SimpleInferer):
            raise UsageError("inferer: maps are computed on the whole image; leave inferer out or use SimpleInferer")
        events = [*(kwargs.pop("event_names", None) or []), AttributionEvents]
        self.explain_options = {
            "options": options,
            "target_layer": layer,
            "seed": seed,
            "memory_format": memory_format_of(memory_format),
            "autocast": precision_of(autocast),
        }
        super().__init__(device=device, val_data_loader=val_data_loader, network=network, event_names=events, **kwargs)
        self.mode = attribution_mode
        self.state.failures = []

    def run(self, global_epoch: int = 1) -> None:
        """Explain every case of the data loader.

        Args:
            global_epoch: as in MONAI.
        """
        if self.state.epoch_length != 0:  # every case may be finished already: no reason to warn
            super().run(global_epoch)

    def _fire_event(self, event_name: Any, *args: Any, **kwargs: Any) -> None:
        """Keep metrics and savers away from a batch of which nothing is left."""
        if event_name is Events.ITERATION_COMPLETED and not self.state.output:
            event_name = AttributionEvents.BATCH_FAILED
        super()._fire_event(event_name, *args, **kwargs)

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> Any:
        """Explain one batch."""
        state = engine.state
        state.failures = [_failure(found) for found in batchdata.pop("failures", None) or ()]
        state.output = []
        if Keys.IMAGE not in batchdata:
            state.batch = []
            return state.output
        began = time.perf_counter()
        with engine.mode(engine.network):
            batchdata, parts = self._explained(engine, batchdata)
        if not parts:
            state.batch = []
            return state.output
        image, label = self._prepared(engine, batchdata)
        state.batch = batchdata
        state.output = {Keys.IMAGE: image, Keys.LABEL: label, Keys.PRED: torch.cat([part.logits for part in parts])}
        for name in parts[0]:
            state.output[f"saliency_{name}"] = _dressed([part[name] for part in parts], image)
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        per_case = list(case_records(parts))
        seconds = (time.perf_counter() - began) / len(per_case)
        if isinstance(state.output, list):
            for item, (records, target) in zip(state.output, per_case, strict=True):
                item.update(records=records, target=target, seconds={"compute": seconds})
        return state.output

    def _explained(self, engine: Any, batch: dict[str, Any]) -> tuple[dict[str, Any], list[Explanation]]:
        """Explain a batch; where that fails, each case alone, and go on with those that succeed."""
        try:
            return batch, [self._explain(engine, batch)]
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, the other cases of the batch go on
            items = decollate_batch(batch, detach=True)
            if len(items) == 1:
                self._failed(engine, items[0], error)
                return batch, []
        kept, parts = [], []
        for item in items:
            try:
                parts.append(self._explain(engine, list_data_collate([item])))
                kept.append(item)
            except UsageError:
                raise
            except Exception as error:  # noqa: BLE001  recorded with the case
                self._failed(engine, item, error)
        return (list_data_collate(kept) if kept else {}), parts

    def _explain(self, engine: Any, batch: dict[str, Any]) -> Explanation:
        """Explain a batch, stripped of its meta: indexing a ``MetaTensor`` would move data away from its meta."""
        image, label = self._prepared(engine, batch)
        target: Any = self.target
        if target == "label":
            if not isinstance(label, Tensor) or bool((label < 0).any()):
                raise UsageError("target: 'label' wants a label for every case, this data list has none or lacks some")
            target = [int(value) for value in label.flatten()]
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        try:
            spacing = spacings_of(image, plain) if isinstance(image, MetaTensor) else None
            return explain(self.network, plain, self.methods, target=target, spacing=spacing, **self.explain_options)
        except RuntimeError as error:
            raise InputError(f"cannot explain images of shape {tuple(plain.shape)}: {reason(error)}") from error

    @staticmethod
    def _prepared(engine: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Image and label on the device, without the further arguments that ``prepare_batch`` may give."""
        image, label, *_ = engine.prepare_batch(batch, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        return image, label

    @staticmethod
    def _failed(engine: Any, item: Mapping[str, Any], error: Exception) -> None:
        """Remember a case that failed, without its voxels."""
        case = {key: value for key, value in item.items() if isinstance(value, str | int | float)}
        _LOG.debug("case %s failed", case.get("case"), exc_info=error)
        engine.state.failures.append(Failure(case, reason(error)))


def case_records(parts: Iterable[Explanation]) -> Iterator[tuple[dict[str, Any], int | None]]:
    """Split the records of explanations by case.

    Args:
        parts: explanations of batches.

    Yields:
        For each image, method -> record with this image's claims only, and its target.
    """
    for part in parts:
        for index, target in enumerate(part.target):
            yield (
                {
                    name: {
                        **record,
                        "claims": {k: _of_image(v, index, len(part.target)) for k, v in record["claims"].items()},
                    }
                    for name, record in part.records.items()
                },
                target,
            )


def _of_image(value: Any, index: int, batch: int) -> Any:
    """One image's part of a claim that has one value per image."""
    return value[index] if isinstance(value, list | tuple) and len(value) == batch else value


def _dressed(maps: list[Tensor], image: Tensor) -> Tensor:
    """Join maps of consecutive cases and give them the meta of the images."""
    joined = torch.cat([relevance.as_subclass(Tensor) for relevance in maps])
    return MetaTensor(joined).copy_meta_from(image) if isinstance(image, MetaTensor) else joined


def _failure(found: Any) -> Failure:
    """A failure as the data loader hands it over: a ``Failure``, or a dictionary with ``error`` and the case's keys."""
    if isinstance(found, Failure):
        return found
    known = dict(found)
    return Failure(known, str(known.pop("error", "cannot be read")))


def _target(target: Any) -> Any:
    """Read a target as a command line has it."""
    if isinstance(target, float | bool):
        raise UsageError(f"target: wanted a class number, 'label' or 'predicted', got {target!r}")
    if not isinstance(target, str) or target == "label":
        return target
    if target in {"", "predicted", "null"}:
        return None
    if target.lstrip("-").isdigit():
        return int(target)
    raise UsageError(f"target: wanted a class number, 'label' or 'predicted', got {target!r}")
