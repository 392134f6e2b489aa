"""How far off a registration may be: for each place of the fixed lungs a distance in mm.

Of the places that are told a distance, 90 % are off by less. Three things say it on MIND of 3 mm:
how sharply the images locate what matches there, how far the place and those around it are from
being settled (what the last stage still moved them by, or one more step would), and how near the
lungs' surface is, where they slide and only one side knows. Coarse voxels, which look sharp on a
fine lattice, add to it. Weighted they are a score, and phantoms whose motion is known say which
distance belongs to it, see Testing/tools/calibrate_confidence.py: a smaller one where the last
iterations looked closer. Where nothing corresponds, as in fluid, nothing is sharp or settled, and
the distance is large.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from ..core.geometry import Volume
from .field.levels import MindLevel
from .images.preprocessing import WORKING_SPACING_MM
from .optimise.gauss_newton import gauss_newton_step
from .optimise.penalty import Penalty
from .verdict import UNSURE_MM

COVERAGE = 0.9
OUTSIDE_MM = 16.0  # where one image shows nothing, and where nothing corresponds
_BLOCK = 5  # field voxels along an axis that are looked at together
_LEAST_WAY_MM = 0.01
_SURFACE_MM = 4.0  # how deep the lungs' surface is felt
_SOFT = Penalty(5e-4)  # of the step, a quarter of what is usual on this level
WEIGHTS = (-0.226, 0.834, 0.137, 0.426)  # of what `evidence` returns
# Scores and the distances, mm, that belong to them, where the last iterations looked at the working
# grid and where at one of CLOSEST_MM; between them the logarithms are linear.
SCORES = (0.56, 0.79, 1.09, 1.4, 1.69, 1.98, 2.27, 2.59, 2.99, 3.49)
DISTANCES_MM = (0.4, 0.41, 0.54, 0.72, 0.98, 1.37, 1.86, 2.73, 4.05, 7.4)
CLOSEST_MM = 1.0
CLOSE_SCORES = (0.34, 0.51, 0.72, 0.96, 1.23, 1.56, 1.99, 2.75, 3.36, 3.85)
CLOSE_DISTANCES_MM = (0.17, 0.18, 0.22, 0.29, 0.43, 0.8, 1.85, 3.89, 5.9, 7.88)


def confidence(
    level: MindLevel,
    field: torch.Tensor,
    before: torch.Tensor,
    repeated: float,
    inside: np.ndarray,
    closest: float = WORKING_SPACING_MM,
) -> Volume:
    """The distance in mm that 90 % of such places are off by less than, on the level's field grid.

    level: MIND of 3 mm; field, before: (3, d, h, w), mm, on its field grid: the result, and what
    there was before the last stage; repeated: how many voxels of WORKING_SPACING_MM show one of the
    images'; inside: bool (d, h, w), what both images show where the field leads; closest: mm, the
    grid that the last iterations looked at. NaN farther than three field voxels from the fixed
    lungs, of which nothing is said.
    """
    found = evidence(level, field, before, repeated).cpu().numpy()
    told = distances(found, inside, closest)
    # One voxel further, so that a thin part of the lungs between the field voxels has its value.
    away, nearest = ndimage.distance_transform_edt(np.isnan(told), return_indices=True)
    return Volume(np.where(away < 2, told[tuple(nearest)], np.nan), level.grid)


def distances(
    found: np.ndarray, inside: np.ndarray, closest: float = WORKING_SPACING_MM
) -> np.ndarray:
    """The distances (...), mm, float32, that `evidence` (4, ...) means; NaN stays."""
    score = np.tensordot(WEIGHTS, found, axes=1)
    share = np.log(WORKING_SPACING_MM / closest) / np.log(WORKING_SPACING_MM / CLOSEST_MM)
    usual, closely = (
        np.interp(score, scores, np.log(those))
        for scores, those in ((SCORES, DISTANCES_MM), (CLOSE_SCORES, CLOSE_DISTANCES_MM))
    )
    distance = np.exp(usual + np.clip(share, 0, 1) * (closely - usual))
    distance[~inside] = np.maximum(distance[~inside], OUTSIDE_MM)
    distance[np.isnan(score)] = np.nan
    return distance.astype(np.float32)


@torch.inference_mode()
def evidence(
    level: MindLevel, field: torch.Tensor, before: torch.Tensor, repeated: float
) -> torch.Tensor:
    """What tells how sure a field is at each voxel of the field grid: (4, d, h, w).

    Logarithms: of how fast (1 / mm^2) the mean squared MIND difference grows in the direction in
    which it grows least, after the mean of a block; of the way, mm, from the field before or of one
    more Gauss-Newton step, whichever is longer, their mean over the lungs of a block; of
    `repeated`. And how near the lungs' surface is: 1 there and outside, falling to 0 in the depth.
    NaN where no lung is around.
    """
    nodes = level.active_nodes
    lungs = level.distance.flatten()[nodes] < 0
    _, system = level.normal_equations(field, roughly=True)
    step = gauss_newton_step(level, field, system, _SOFT)
    way = torch.maximum((field - before).norm(dim=0), step.norm(dim=0))
    way = way.clamp(min=_LEAST_WAY_MM).log().flatten()[nodes]
    dense = system.new_zeros((8, level.distance.numel()))
    dense[:7, nodes] = torch.cat((system[:, :6], way[:, None]), dim=1).T * lungs
    dense[7, nodes] = lungs.to(system)
    # Padded here, because torch refuses lattices that are thinner than a block.
    dense = F.pad(dense.view(1, 8, *level.shape), 6 * (_BLOCK // 2,))
    around = F.avg_pool3d(dense, _BLOCK, 1)[0]
    known = around[7] > 1e-6
    around = around[:, known]
    xx, yy, zz, xy, xz, yz, way = around[:7] / around[7]
    rows = [torch.stack(row, dim=-1) for row in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))]
    # On the CPU, because Apple's GPUs know neither eigenvalues nor double precision.
    weakest = torch.linalg.eigvalsh(torch.stack(rows, dim=-2).cpu().double())[:, 0]
    found = field.new_full((4, *level.shape), torch.nan)
    found[0, known] = weakest.clamp(min=1e-9).log().to(found)
    found[1, known] = way
    found[2, known] = float(np.log(repeated))
    found[3, known] = (level.distance[0][known].clamp(max=0) / _SURFACE_MM).exp()
    return found


def summary(told: Volume, lungs: Volume) -> dict[str, float]:
    """median and p95 (mm) of the distances told in the lungs (a mask), and the share `unsure`.

    unsure: 0 to 1, may be off by more than UNSURE_MM. NaN where nothing is known.
    """
    values = told.sample(lungs.marked_points(most=20000))
    values = values[np.isfinite(values)]
    if not len(values):
        return {"median": np.nan, "p95": np.nan, "unsure": np.nan}
    return {
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "unsure": float((values > UNSURE_MM).mean()),
    }
