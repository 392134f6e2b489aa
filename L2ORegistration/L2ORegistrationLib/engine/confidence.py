"""How far off a registration may be: for each place of the fixed lungs a distance in mm.

Of the places that are told a distance, 90 % are off by less. Four things say it, on MIND of 3 mm:
how well the images match, how sharply they locate that match, how much better it is than what lies
beside it, and how far the place is from being settled: what the last stage still moved it by, or
one more step would. Their logarithms, weighted, are a score, and phantoms whose motion is known say
which distance belongs to it, see Testing/tools/calibrate_confidence.py. Where nothing corresponds,
as in fluid, nothing matches and nothing is sharp: the distance is large.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..core.geometry import Volume
from .field.levels import MindLevel
from .match import dissimilarities_around
from .optimise.gauss_newton import gauss_newton_step

COVERAGE = 0.9
UNSURE_MM = 5.0  # a place that may be off by more is told apart in summaries
OUTSIDE_MM = 16.0  # where the field leads out of the moving image
_BESIDE_MM = 6.0
_BLOCK = 5  # field voxels along an axis that are looked at together
_LEAST_WAY_MM = 0.01
_SOFT = 5e-4  # stiffness of the step, a quarter of what is usual on this level
_SOLVER_ITERATIONS = 30
WEIGHTS = (0.529, -0.191, 0.0, 0.438)  # of what `evidence` returns
# Scores and the distances, mm, that belong to them; between them the logarithms are linear.
SCORES = (-1.51, -1.2, -0.87, -0.57, -0.3, -0.05, 0.14, 0.38, 0.73, 1.05)
DISTANCES_MM = (0.54, 0.58, 0.75, 0.96, 1.2, 1.6, 2.03, 3.54, 5.26, 6.42)


def confidence(
    level: MindLevel, field: torch.Tensor, before: torch.Tensor, inside: np.ndarray
) -> Volume:
    """The distance in mm that 90 % of such places are off by less than, on the level's field grid.

    level: MIND of 3 mm; field, before: (3, d, h, w), mm, on its field grid: the result, and what
    there was before the last stage; inside: bool (d, h, w), what the field leaves within the moving
    image. NaN farther than two field voxels from the fixed lungs, of which nothing is said.
    """
    found = evidence(level, field, before).cpu().numpy()
    return Volume(distances(found, inside), level.grid)


def distances(found: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The distances (...), mm, float32, that `evidence` (4, ...) means; NaN stays."""
    score = np.tensordot(WEIGHTS, found, axes=1)
    distance = np.exp(np.interp(score, SCORES, np.log(DISTANCES_MM)))
    distance[~inside] = np.maximum(distance[~inside], OUTSIDE_MM)
    distance[np.isnan(score)] = np.nan
    return distance.astype(np.float32)


@torch.inference_mode()
def evidence(level: MindLevel, field: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """What tells how sure a field is at each voxel of the field grid: (4, d, h, w), logarithms.

    Of the mean squared MIND difference; of how fast (1 / mm^2) it grows in the direction in which
    it grows least; of the share that it is of the least of the six 6 mm beside; and of the way, mm,
    from the field before or of one more Gauss-Newton step, whichever is longer. All but the last
    are means over blocks of lung; NaN where there is none.
    """
    nodes = level.active_nodes
    lungs = level.distance.flatten()[nodes] < 0
    mismatch, system = level.normal_equations(field, every_second=True)
    step = gauss_newton_step(level, field, system, _SOFT, _SOLVER_ITERATIONS)
    every = torch.arange(len(nodes), device=nodes.device)
    here, beside = dissimilarities_around(level, field, every, _BESIDE_MM)
    columns = torch.cat((mismatch[:, None], system[:, :6], here[:, None], beside), dim=1)
    dense = columns.new_zeros((columns.shape[1] + 1, level.distance.numel()))
    dense[:-1, nodes] = (columns * lungs[:, None]).T
    dense[-1, nodes] = lungs.to(columns)
    around = F.avg_pool3d(dense.view(1, -1, *level.shape), _BLOCK, 1, _BLOCK // 2)[0]
    known = around[-1] > 1e-6
    around = around[:, known]
    mismatch, xx, yy, zz, xy, xz, yz, here, *beside = around[:-1] / around[-1]
    rows = [torch.stack(row, dim=-1) for row in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))]
    # On the CPU, because Apple's GPUs know neither eigenvalues nor double precision.
    weakest = torch.linalg.eigvalsh(torch.stack(rows, dim=-2).cpu().double())[:, 0]
    least = torch.stack(beside).amin(dim=0)
    way = torch.maximum((field - before).norm(dim=0), step.norm(dim=0))[known]
    found = field.new_full((4, *level.shape), torch.nan)
    found[0, known] = mismatch.clamp(min=1e-9).log()
    found[1, known] = weakest.clamp(min=1e-9).log().to(found)
    found[2, known] = (here.clamp(min=1e-9) / least.clamp(min=1e-9)).log()
    found[3, known] = way.clamp(min=_LEAST_WAY_MM).log()
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
