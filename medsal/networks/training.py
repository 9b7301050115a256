"""What a training leaves: weights with their digest, and the learning curve beside them."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from torch import nn

from medsal.errors import UsageError
from medsal.files import write_file

logger = logging.getLogger("medsal")


class LearningCurve:
    """Ignite handler of a trainer: keeps each epoch's mean loss and what the validation gave after it.

    Attach it after MONAI's ``ValidationHandler``, so that an epoch is written down with its own validation.

    Args:
        evaluator: the engine that validates, or None.

    Attributes:
        rows: one mapping per epoch: ``epoch``, ``loss``, and the evaluator's metrics.
    """

    def __init__(self, evaluator: Any = None) -> None:
        self.evaluator = evaluator
        self.rows: list[dict[str, float]] = []
        self._losses: list[float] = []

    def attach(self, engine: Any) -> None:
        """Listen to a trainer.

        Args:
            engine: MONAI's ``Trainer``.
        """
        from ignite.engine import Events

        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)

    def _iteration(self, engine: Any) -> None:
        output = engine.state.output
        self._losses.append(float((output[0] if isinstance(output, list) else output)["loss"]))

    def _epoch(self, engine: Any) -> None:
        metrics = dict(self.evaluator.state.metrics) if self.evaluator is not None else {}
        loss = sum(self._losses) / max(len(self._losses), 1)
        self.rows.append({"epoch": engine.state.epoch, "loss": loss, **metrics})
        self._losses = []
        logger.info("; ".join(f"{name} {value:.4g}" for name, value in self.rows[-1].items()))

    def to_csv(self) -> str:
        """Write the curve as a table.

        Returns:
            CSV text with a header.

        Example:
            >>> curve = LearningCurve()
            >>> curve.rows = [{"epoch": 1, "loss": 0.5, "auc": 0.75}]
            >>> print(curve.to_csv(), end="")
            epoch,loss,auc
            1,0.5,0.75
        """
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        lines = [",".join(f"{row[name]:.6g}" if name in row else "" for name in names) for row in self.rows]
        return "\n".join([",".join(names), *lines]) + "\n"


def save_weights(network: nn.Module, path: str | Path, *, curve: LearningCurve | None = None) -> Path:
    """Write a network's weights as safetensors, their sha256 beside them, and the learning curve.

    The same weights give the same bytes. Files appear whole or not at all, the digest last.

    Args:
        network: its ``state_dict`` is written, contiguous and on the CPU.
        path: ends in ``.safetensors``; the digest goes to ``<path>.sha256``, the curve to ``<path stem>_curve.csv``.
        curve: the learning curve, where there is one.

    Returns:
        The path.

    Raises:
        UsageError: when the name does not do.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_weights(nn.Linear(2, 1), f"{folder}/a.safetensors")
        ...     print(sorted(file.name for file in path.parent.iterdir()))
        ['a.safetensors', 'a.safetensors.sha256']
    """
    from safetensors.torch import save

    target = Path(path)
    if target.suffix != ".safetensors":
        raise UsageError(f"weights are written as .safetensors, got '{target}'; set --ckpt_path")
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()})
    digest = hashlib.sha256(content).hexdigest()
    if curve is not None:
        write_file(target.with_name(f"{target.stem}_curve.csv"), curve.to_csv().encode())
    write_file(target, content)
    write_file(target.with_name(f"{target.name}.sha256"), f"{digest}  {target.name}\n".encode())
    logger.info("weights in %s, sha256 %s", target, digest)
    return target
