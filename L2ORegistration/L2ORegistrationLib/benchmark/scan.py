"""A case in memory, as every method of the benchmark gets it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..core.files import read_mask, read_volume
from ..core.geometry import Grid, Volume

LATTICE_MM = 2.0  # all fields are judged on one lattice, or the coarser would look smoother


@dataclass
class Scan:
    """A case in memory: images in HU, lung masks (None: automatic), points LPS mm (None: none).

    labels: label maps of fixed and moving, such as lobes (None: none).
    """

    fixed: Volume
    moving: Volume
    fixed_mask: Volume | None
    moving_mask: Volume | None
    fixed_points: np.ndarray | None
    moving_points: np.ndarray | None
    labels: tuple[Volume, Volume] | None = None

    @classmethod
    def load(cls, folder: Path) -> Scan:
        """What `run.write_scan` wrote."""

        def mask(side: str) -> Volume | None:
            path = folder / f"{side}_mask.nrrd"
            return read_mask(path) if path.exists() else None

        points = folder / "points.npy"
        fixed, moving = np.load(points) if points.exists() else (None, None)
        images = (read_volume(folder / f"{side}.nrrd") for side in ("fixed", "moving"))
        labels = [folder / f"{side}_labels.nrrd" for side in ("fixed", "moving")]
        found = tuple(map(read_volume, labels)) if labels[0].exists() else None
        return cls(*images, mask("fixed"), mask("moving"), fixed, moving, found)

    @cached_property
    def region(self) -> Volume:
        """The fixed lungs: the given mask or the automatic one."""
        from ..engine.images.lungs import lung_mask

        return self.fixed_mask or lung_mask(self.fixed)

    @cached_property
    def lattice(self) -> Grid:
        """World-aligned, around the fixed lungs and points; fields are judged on it."""
        points = self.region.part(*self.region.box()).grid.corners()
        if self.fixed_points is not None:
            points = np.concatenate([points, self.fixed_points])
        return Grid.covering(points, LATTICE_MM, 2 * LATTICE_MM)
