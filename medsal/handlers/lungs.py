"""Lung fields that a network finds: to files, on the films' own grids, with what is odd about them."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from medsal.errors import UsageError
from medsal.export.layout import safe_name
from medsal.files import write_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOG = logging.getLogger("medsal")
COLUMNS = ("case", "share", "doubts")
"""Of ``lung_fields.csv``: the share of the film that is lung, and what is odd, separated by semicolons."""


class LungFieldSaver:
    """Writes each film's lung fields and their six regions.

    ``lung_fields/<case>.png`` (0 and 255), ``lung_regions/<case>.png`` (labels of ``medsal.data.LUNG_REGIONS``), both
    on the grid of the film's file, and ``lung_fields.csv`` with a line for each film.

    Args:
        output_dir: folder of the run.
        key: of the probability of lung, ``(1, rows, columns)`` on the network's grid, in the engine's output.
    """

    def __init__(self, output_dir: str, key: str = "pred") -> None:
        self.output_dir = Path(output_dir)
        self.key = key
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Listen to an engine.

        Args:
            engine: an evaluator whose postprocessing decollates.
        """
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:  # noqa: ARG002  the signature of an Ignite handler
        """Begin a table.

        Args:
            engine: the engine.
        """
        self.rows = []

    def save(self, engine: Engine) -> None:
        """Write the films of a batch.

        Args:
            engine: the engine, its batch and output decollated.

        Raises:
            UsageError: if two films have one name.
        """
        from medsal.data.films.lungs import lung_doubts, lung_regions

        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            case = safe_name(str(batch["case"]))
            if any(row["case"] == case for row in self.rows):
                raise UsageError(f"lung fields: two films are called {case}")
            shape = [int(n) for n in batch["image"].meta["spatial_shape"]]
            probability = on_film(output[self.key], shape)
            doubts = lung_doubts(probability)
            lungs = probability > 0.5
            for folder, picture in (("lung_fields", lungs * np.uint8(255)), ("lung_regions", lung_regions(lungs))):
                write_file(self.output_dir / folder / f"{case}.png", _png(picture))
            self.rows.append({"case": case, "share": f"{lungs.mean():.4f}", "doubts": "; ".join(doubts)})
            for doubt in doubts:
                _LOG.warning("%s: %s", case, doubt)

    def finish(self, engine: Engine) -> None:  # noqa: ARG002  the signature of an Ignite handler
        """Write the table.

        Args:
            engine: the engine.
        """
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_file(self.output_dir / "lung_fields.csv", text.getvalue().encode())
        odd = sum(bool(row["doubts"]) for row in self.rows)
        _LOG.info("lung fields of %d films in %s, %d of them odd", len(self.rows), self.output_dir, odd)


def _png(picture: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def on_film(probability: torch.Tensor, shape: list[int]) -> NDArray[np.float32]:
    """Bring what a network says of a stretched film back to the film.

    Args:
        probability: ``(1, rows, columns)``.
        shape: rows and columns of the film.

    Returns:
        Of that shape.
    """
    plain = probability.detach().as_subclass(torch.Tensor).float().cpu()
    found = torch.nn.functional.interpolate(plain[None], size=shape, mode="bilinear", align_corners=False)[0, 0]
    values: NDArray[np.float32] = found.numpy()
    return values
