"""One case to be scored: its maps, its truth, and what chance levels, baselines and ceilings are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from medsal.errors import InputError
from medsal.evaluation.baselines import MaskPrior
from medsal.evaluation.truth import bare


@dataclass(frozen=True, eq=False)
class ScoredCase:
    """One case, everything on one grid ``(1, *space)``; what is not known is left out.

    Attributes:
        case: its name.
        patient: whose it is.
        maps: method -> relevance; each is asked for once, so that a mapping may read maps as they are needed.
        mask: truth of 0 and 1.
        layers: codes of layers.
        layer_names: code -> name; the code itself where it has none.
        regions: labels of regions.
        region_names: label -> name; these regions and no others, or all but 0 of the image if empty.
        boxes: whether the mask is drawn from boxes around findings.
        ignore: voxels that do not count.
        body: where findings can lie.
        image: what was explained, any number of channels.
        readers: masks or probabilities of other readers; NaN throughout where one did not read.
        grids: method -> shape of the layer that its maps were brought up from.
        prior: mean training mask.
        others: method -> its map of another patient.
        untrained: method -> its map of the untrained network.
        other_mask: another patient's truth, an adversarial map.
        missing: method -> why it has no map of this case.
        spacing: mm per voxel along each axis, for tolerances.
    """

    case: str
    patient: str
    maps: Mapping[str, Tensor]
    mask: Tensor | None = None
    layers: Tensor | None = None
    layer_names: Mapping[int, str] = field(default_factory=dict)
    regions: Tensor | None = None
    region_names: Mapping[int, str] = field(default_factory=dict)
    boxes: bool = False
    ignore: Tensor | None = None
    body: Tensor | None = None
    image: Tensor | None = None
    readers: Sequence[Tensor] = ()
    grids: Mapping[str, Sequence[int]] = field(default_factory=dict)
    prior: MaskPrior | None = None
    others: Mapping[str, Tensor] = field(default_factory=dict)
    untrained: Mapping[str, Tensor] = field(default_factory=dict)
    other_mask: Tensor | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    spacing: Sequence[float] | None = None

    def __post_init__(self) -> None:
        """Hold every part against the grid of the truth.

        Raises:
            InputError: if there is no truth, a part lies on another grid, or a method both has a map and has none.
        """
        parts = {name: getattr(self, name) for name in ("mask", "layers", "regions", "ignore", "body")}
        parts |= {f"reader {number}": reader for number, reader in enumerate(self.readers, 1)}
        for name, part in parts.items():
            if part is not None:
                self.checked(name, part)
        if self.image is not None:
            self.checked("image", self.image[:1])
        for name in set(self.maps) & set(self.missing):
            raise InputError(f"{self.case}: {name}: wanted a map or the reason why there is none, got both")

    @property
    def space(self) -> tuple[int, ...]:
        """The grid that everything is scored on, that of the truth.

        Raises:
            InputError: if there is no truth.
        """
        for truth in (self.mask, self.layers, self.regions):
            if truth is not None:
                return tuple(truth.shape[1:])
        raise InputError(f"{self.case}: wanted a mask, layers or regions to score maps against, got none")

    def checked(self, name: str, part: Tensor) -> Tensor:
        """Refuse what lies on another grid.

        Args:
            name: of the map or part, for the error.
            part: should be ``(1, *space)``.

        Returns:
            The part as a batch of one, ``(1, 1, *space)``, without metadata.

        Raises:
            InputError: if its shape is another.
        """
        wanted = (1, *self.space)
        if tuple(part.shape) != wanted:
            raise InputError(f"{self.case}: {name}: wanted the grid of the truth {wanted}, got {tuple(part.shape)}")
        return bare(part)[None]
