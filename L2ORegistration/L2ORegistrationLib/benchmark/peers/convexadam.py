"""convexAdam: a discrete search on MIND, then Adam, by its authors' package."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from ...core.geometry import DisplacementField
from .common import prepared

if TYPE_CHECKING:
    from ..scan import Scan


def load() -> None:
    """Load the software."""
    import_module("convexAdam.convex_adam_MIND")


def register(scan: Scan, options: dict[str, Any]) -> DisplacementField:
    """convexAdam with its defaults, moving resampled to the fixed voxels; the field on those."""
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    if options.get("threads"):
        torch.set_num_threads(options["threads"])
    given = prepared(scan)
    outside = float(given.moving.array.min())
    there = sitk.Resample(
        given.moving.to_image(), scan.fixed.to_image(), sitk.Transform(), sitk.sitkLinear, outside
    )
    device = "cuda" if options.get("device") != "cpu" and torch.cuda.is_available() else "cpu"
    displacement = convex_adam_pt(
        img_fixed=given.fixed.array.astype(np.float32),
        img_moving=sitk.GetArrayFromImage(there).astype(np.float32),
        dtype=torch.float32,
        device=torch.device(device),
    )
    voxels = displacement[..., ::-1].astype(np.float32)  # array axes (z, y, x) to (x, y, z)
    world = voxels @ scan.fixed.grid.matrix[:3, :3].T.astype(np.float32)
    return given.field(world, scan.fixed.grid)
