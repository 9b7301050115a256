"""Targets: which score of each image is explained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medsal.errors import UsageError

TargetLike = int | Sequence[int] | Tensor | Callable[[Tensor], Tensor] | None


class Target:
    """One score per image, read from the logits of a network.

    ``None`` explains each image's own predicted class, an int the same class for every image, a sequence of ints one
    class per image, and a callable any score: it maps logits ``(N, K)`` to scores ``(N,)``. A network with a single
    logit is read as binary: class 1 is the logit and class 0 its negative. For the single output of a regression, or
    the grade of an ordinal head, give a callable such as ``lambda logits: logits[:, 0]``.

    Args:
        wanted: the target as the user gave it.
        batch: number of images.

    Raises:
        UsageError: if it is none of these, or the number of classes given is not the number of images.
    """

    def __init__(self, wanted: TargetLike, batch: int) -> None:
        self.function = wanted if callable(wanted) else None
        self.classes: Tensor | None = None
        if wanted is None or self.function is not None:
            return
        try:
            given = torch.as_tensor(wanted).detach().flatten().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"target: wanted a class, a class per image or a callable, got {wanted!r}") from error
        classes = given.long()
        if given.dtype == torch.bool or (classes != given).any():
            raise UsageError(f"target: wanted whole numbers, got {wanted!r}")
        if classes.numel() == 1:
            classes = classes.expand(batch)
        if classes.numel() != batch:
            raise UsageError(f"target: wanted one class for each of {batch} images, got {classes.numel()}")
        self.classes = classes.clone()

    @property
    def resolved(self) -> bool:
        """Whether the score of an image is fixed already, without its logits."""
        return self.function is not None or self.classes is not None

    def resolve(self, logits: Tensor) -> None:
        """Fix the predicted classes, once the logits ``(B, K)`` of the images themselves are known.

        Args:
            logits: logits of the images, in their order.

        Raises:
            UsageError: if a class does not exist.
        """
        if self.function is not None:
            return
        count = max(logits.shape[1], 2)
        if self.classes is None:
            scores = torch.cat([-logits, logits], 1) if logits.shape[1] == 1 else logits
            self.classes = scores.detach().argmax(1).cpu()
        bad = [int(c) for c in self.classes if not 0 <= c < count]
        if bad:
            raise UsageError(f"target: wanted a class from 0 to {count - 1}, got {bad[0]}")

    def score(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Read the score of each row.

        Args:
            logits: ``(N, K)``, of any images made from those of the batch.
            rows: ``(N,)``, the image of the batch that each row belongs to.

        Returns:
            The scores, ``(N,)``.

        Raises:
            UsageError: if a callable target does not give one score per image.
        """
        if self.function is not None:
            score = self.function(logits)
            if not isinstance(score, Tensor) or score.shape != logits.shape[:1]:
                came = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
                raise UsageError(f"target: wanted a callable that gives scores of shape ({len(logits)},), got {came}")
            return score
        if self.classes is None:
            self.resolve(logits)
        assert self.classes is not None
        classes = self.classes.to(logits.device)[rows]
        if logits.shape[1] == 1:
            return logits[:, 0] * (2 * classes - 1).to(logits.dtype)
        return logits.gather(1, classes[:, None])[:, 0]

    def names(self, batch: int) -> list[int | None]:
        """Say which class each image was explained for.

        Args:
            batch: number of images.

        Returns:
            One class per image, None where a callable was the target.
        """
        return [None] * batch if self.classes is None else [int(c) for c in self.classes]
