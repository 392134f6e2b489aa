"""ANTs: symmetric normalisation with local correlation, by the ANTs package for Python."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from ...core.geometry import DisplacementField, Volume
from .common import prepared

if TYPE_CHECKING:
    from ..scan import Scan

# No affine before it: lungs breathe, the thorax around them stays. Correlation in cubes of five;
# none at full resolution, as in ANTs' quick script: with it a pair took over six minutes of a core.
SETTINGS = {
    "type_of_transform": "SyNOnly",
    "initial_transform": "Identity",
    "syn_metric": "CC",
    "syn_sampling": 2,
    "reg_iterations": (100, 70, 50, 0),
}
_THREADS = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"


def load() -> None:
    """Load the software."""
    import_module("ants")


def register(scan: Scan, options: dict[str, Any]) -> DisplacementField:
    """SyN within the fixed lung mask; the field on fixed's voxels."""
    import ants

    if options.get("threads"):
        os.environ[_THREADS] = str(options["threads"])
    given = prepared(scan)
    with TemporaryDirectory() as folder:  # it leaves its files where it is told
        found = ants.registration(
            _image(given.fixed),
            _image(given.moving),
            mask=_image(given.mask),
            outprefix=str(Path(folder) / "found"),
            **SETTINGS,
        )
        field = sitk.ReadImage(next(p for p in found["fwdtransforms"] if p.endswith(".nii.gz")))
    return given.field(sitk.GetArrayFromImage(field), scan.fixed.grid)


def _image(volume: Volume):
    import ants

    grid = volume.grid
    return ants.from_numpy(
        np.ascontiguousarray(volume.array.T).astype(np.float32),
        origin=grid.origin,
        spacing=grid.spacing,
        direction=np.reshape(grid.direction, (3, 3)),
    )
