"""What a registration gives: its steps, and the chosen one's field with what to think of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..core.files import write_transform
from ..core.geometry import DisplacementField, Grid, Volume
from .arguments import as_points
from .verdict import Verdict


@dataclass(frozen=True)
class Step:
    """The state after one iteration.

    index: 0 before registration, 1 the start, then one for each iteration; total: index of the
    last planned step; stage: "initial", "start" or the name of a stage in the catalogue; level:
    0 is the coarsest; field: the whole motion fixed -> moving, mm LPS, on a world-aligned grid that
    all steps share and that covers the fixed image; dissimilarity: mean squared MIND difference in
    the fixed lungs, comparable between steps; seconds: since the registration began.
    """

    index: int
    total: int
    stage: str
    level: int
    field: DisplacementField
    dissimilarity: float
    seconds: float


@dataclass
class Result:
    """A registration's outcome: the chosen step's field, all steps, the inputs and provenance.

    confidence: mm that 90 % of the places which are told so are off by less than, on a grid of its
    own; NaN away from the fixed lungs. See `confidence.confidence`.
    """

    field: DisplacementField
    steps: list[Step]
    best: int
    fixed: Volume
    moving: Volume
    fixed_mask: Volume
    moving_mask: Volume
    seconds: float
    provenance: dict[str, str | int | float]
    cancelled: bool
    judgement: Verdict
    confidence: Volume

    @property
    def verdict(self) -> str:
        """ "good", "check" or "failed"; `reasons` say why."""
        return self.judgement.level

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the verdict is not "good": sentences."""
        return self.judgement.reasons

    def save(self, path: str | Path) -> None:
        """Write the field as one transform: .h5, .tfm, .nrrd, .mha or .nii.gz."""
        write_transform(self.field, path)

    def confidence_at(self, points: np.ndarray) -> np.ndarray:
        """(N,) mm, for points (N, 3), LPS mm, of the fixed scan; NaN 18 mm and more from the lungs.

        Raises InputError for anything else than points.
        """
        points = as_points(points)
        values = self.confidence.sample(points)
        return np.where(self.confidence.grid.contains(points, margin=0), values, np.nan)

    def confidence_image(self, grid: Grid | None = None) -> Volume:
        """The confidence, mm, on a grid (None: one of 2 mm around the lungs); 0 outside them."""
        if grid is None:
            grid = Grid.covering(self.confidence.grid.corners(), 2.0)
        told = replace(self.confidence, array=np.nan_to_num(self.confidence.array))
        shown = told.resampled(grid)
        shown.array[self.fixed_mask.on_grid(grid).array == 0] = 0
        return shown

    def warped(self) -> Volume:
        """Moving in the geometry of fixed, linear; its lowest value beyond the moving image."""
        return self.field.warp(self.moving, self.fixed.grid)
