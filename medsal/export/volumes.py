"""Maps as files for other programs: NIfTI on a grid in the world, and plain NumPy arrays."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import IO, Any

import numpy as np

from medsal.export.case import Array, spatial
from medsal.export.colours import largest
from medsal.files import write_file
from medsal.geometry import full_affine, position_known

_SCANNER = 1  # NIfTI code for "scanner coordinates", where the file an image came from does not say better


def save_nifti(path: Path, volume: Any, *, description: str = "", intent: str = "") -> Path:
    """Write a map as float32 NIfTI that Slicer, FSL and ITK-SNAP lay on the image it belongs to.

    The display range in the header is symmetric. A map in the plane becomes a volume of one slice, because few programs
    open anything else. The same map gives the same bytes.

    Args:
        path: ending in ``.nii.gz`` (packed fast) or ``.nii``.
        volume: ``(1, *space)`` with an affine in RAS+; ``sform_code`` of its meta is kept, also 0 (position unknown).
        description: at most 79 characters are kept.
        intent: name of the quantity, at most 15 characters are kept.

    Returns:
        ``path``.
    """
    voxels = spatial(volume, "map").astype(np.float32, copy=False)
    voxels = voxels if voxels.ndim == 3 else voxels[..., None]
    header = _header(voxels, volume, description, intent)

    def content(file: IO[bytes]) -> None:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(fileobj=file, mode="wb", filename="", compresslevel=1, mtime=0) as packed:
                _write(packed, header, voxels)
        else:
            _write(file, header, voxels)

    return write_file(path, content)


def _header(voxels: Array, volume: Any, description: str, intent: str) -> bytes:
    """The 352 bytes in front of the voxels."""
    import nibabel as nib

    affine = np.asarray(full_affine(getattr(volume, "affine", np.eye(4))))
    meta = getattr(volume, "meta", {})
    image = nib.Nifti1Image(voxels, affine, nib.Nifti1Header(endianness="<"))
    code = int(np.asarray(meta.get("sform_code", 0)).item()) or int(np.asarray(meta.get("qform_code", 0)).item())
    code = code or (_SCANNER if position_known(meta) else 0)
    image.set_sform(affine, code)
    image.set_qform(affine, code, strip_shears=True)
    if not np.allclose(image.get_qform(), affine, atol=1e-3):  # a qform cannot shear: only the sform tells the place
        image.set_qform(None, 0)
    header = image.header
    header.set_xyzt_units("mm")
    header["descrip"] = description.encode("ascii", "replace")[:79]
    header.set_intent("estimate", name=intent.encode("ascii", "replace")[:15].decode())
    header["cal_max"] = largest(voxels)
    header["cal_min"] = -header["cal_max"]
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    header.set_slope_inter(1, 0)
    return bytes(header.binaryblock) + b"\0\0\0\0"


def _write(file: Any, header: bytes, voxels: Array) -> None:
    """Write header and voxels, first axis fastest, slab by slab."""
    file.write(header)
    for start in range(0, voxels.shape[2], 16):
        file.write(np.ascontiguousarray(voxels[:, :, start : start + 16].T, dtype="<f4"))


def save_npy(path: Path, volume: Any, slice_axis: int) -> Path:
    """Write a map as float32 ``.npy``, its slices first.

    Args:
        path: ending in ``.npy``.
        volume: ``(1, *space)`` on the network's grid.
        slice_axis: the axis that comes first in the file; nothing is moved in a map in the plane.

    Returns:
        ``path``.
    """
    voxels = spatial(volume, "map").astype(np.float32, copy=False)
    ordered = np.ascontiguousarray(np.moveaxis(voxels, slice_axis, 0) if voxels.ndim == 3 else voxels)
    content = io.BytesIO()  # straight into a file, NumPy reports a full disk without saying that it is one
    np.save(content, ordered, allow_pickle=False)
    return write_file(path, content.getvalue())
