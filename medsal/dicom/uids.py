"""UIDs that follow from what an object was made from, and the record of what it was made by."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from medsal._version import __version__
from medsal.files import json_bytes

if TYPE_CHECKING:
    from pydicom import Dataset

MANUFACTURER = "medsal"
"""What the results of medsal say under Manufacturer, and are known by."""

_FORM = re.compile(r"[0-9]+(\.[0-9]+)*")


def valid_uid(uid: object) -> bool:
    """Whether a text is a UID: digits and dots, at most 64 characters.

    Args:
        uid: as it stands in a file or came over a network.

    Returns:
        True or False.

    Example:
        >>> valid_uid("1.2.840.10008"), valid_uid("../escaped"), valid_uid("")
        (True, False, False)
    """
    text = str(uid) if uid is not None else ""
    return len(text) <= 64 and _FORM.fullmatch(text) is not None


def derived_uid(*parts: object) -> str:
    """A UID that is the same whenever it is made from the same parts.

    ``2.25.<first 128 bits of SHA-256>``, the form of PS3.5 B.2 for UIDs made from UUIDs.

    Args:
        parts: for example series UID, digest of the configuration, kind of object, index.

    Returns:
        At most 44 characters.

    Example:
        >>> derived_uid("1.2.3", "sc", 0) == derived_uid("1.2.3", "sc", 0) != derived_uid("1.2.3", "sc", 1)
        True
    """
    digest = hashlib.sha256("|".join(f"{len(str(part))}:{part}" for part in parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a result was made by; it stands in every object that is written.

    Attributes:
        bundle: name of the model's bundle.
        bundle_version: its version.
        model_sha256: digest of its weights.
        method: of attribution.
        target: the class that was explained.
        layer: of the network, where the method has one.
        config_sha256: digest of the configuration.
        version: of medsal.
    """

    bundle: str = ""
    bundle_version: str = ""
    model_sha256: str = ""
    method: str = ""
    target: str = ""
    layer: str = ""
    config_sha256: str = ""
    version: str = __version__

    def as_dict(self) -> dict[str, str]:
        """All entries.

        Returns:
            Name -> value.
        """
        return asdict(self)

    @property
    def digest(self) -> str:
        """SHA-256 over all entries, for `derived_uid`."""
        return hashlib.sha256(json_bytes(dict(sorted(self.as_dict().items())))).hexdigest()

    @property
    def parameters(self) -> list[str]:
        """``name=value`` of every entry that is set."""
        return [f"{name}={value}" for name, value in self.as_dict().items() if value]


def is_own(dataset: Dataset) -> bool:
    """Whether an object is a result of medsal, which must never be explained.

    Args:
        dataset: its header.

    Returns:
        True where it names medsal as its manufacturer or among the contributing equipment.
    """
    makers: list[Any] = [dataset.get("Manufacturer")]
    makers += [item.get("Manufacturer") for item in dataset.get("ContributingEquipmentSequence") or []]
    return MANUFACTURER in {str(maker).strip().casefold() for maker in makers if maker}
