"""Close-ups: what the last iterations see of a phantom pair, prepared once and kept on disk.

Only phantoms are known well enough to teach the last tenth of a millimetre: keypoints of real scans
are placed by readers, or by a registration like the one that would learn from them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from ..core.files import atomic
from ..engine.catalogue import METHODS
from ..engine.field.levels import CONTRAST_MM, ContrastLevel, active_voxels
from ..engine.field.operations import sample_points
from ..engine.field.sampling import with_gradient
from ..engine.optimise.gauss_newton import GaussNewtonOptimiser
from ..engine.registration import Registration
from ..phantom.pair import PhantomPair

POINTS = 20_000  # of the fixed lungs
HASTY = 2  # iterations of a level that leave much to do
NEAR = 0.5  # a voxel is within reach of the contrast or not
FAR_MM = 1.0  # what is bounded counts errors above this less and less
TINY_MM = 0.05  # added to errors in squares, so that the smallest do not pull as much


@dataclass
class CloseUp:
    """A pair as the last level sees it when the learned iterations begin.

    fixed, moving: contrast (D, H, W), float16; distance: signed, mm, to the fixed lungs at the
    field voxels (1, d, h, w); near: where contrast counts at the voxels of the blocks (M, r^3),
    bytes; spacing, origin: of the field grid, mm LPS; repeated: as in `ContrastLevel`; field:
    (3, d, h, w) mm that plain iterations have reached; iterations: that are to be learned from
    there; stiffness: the plain ones'; points: (N, 3) of the fixed lungs, field voxels (x, y, z),
    targets: their true displacements, mm, against the start; usual: what is `measured` where the
    learned iterations are plain ones.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    distance: torch.Tensor
    near: torch.Tensor
    spacing: float
    origin: tuple[float, float, float]
    repeated: float
    field: torch.Tensor
    iterations: int
    stiffness: float
    points: torch.Tensor
    targets: torch.Tensor
    usual: torch.Tensor

    def errors(self, field: torch.Tensor) -> torch.Tensor:
        """How far, mm, a field (3, d, h, w), mm, takes each point from where it is, (N,)."""
        points, targets = self.points.to(field), self.targets.to(field)
        missed = (sample_points(field, points) - targets).square().sum(dim=1)
        return (missed + TINY_MM**2).sqrt()

    def save(self, path: str | Path) -> None:
        """Write to a .pt file that `load` reads."""
        with atomic(path) as temporary:
            torch.save(self.__dict__, temporary)

    @classmethod
    def load(cls, path: str | Path) -> CloseUp:
        """Read what `save` wrote."""
        stored = torch.load(path, weights_only=True)
        return cls(**{entry.name: stored[entry.name] for entry in fields(cls)})

    def level(self) -> ContrastLevel:
        """The last level."""
        distance = self.distance.float()
        seen = (with_gradient(image.float()[..., None]) for image in (self.fixed, self.moving))
        nodes, voxels = active_voxels(distance[0], self.fixed.shape, CONTRAST_MM)
        place = distance, self.spacing, self.origin, nodes, voxels
        return ContrastLevel(*place, *seen, self.near.float().flatten(), self.repeated)


def close_up(scans: PhantomPair, method: str, seed: int, early: bool = False) -> CloseUp:
    """What the last iterations of a learned method would see of two scans.

    scans: what is true of them belongs to their voxels, whatever `vary` did to the images; method:
    a key of `METHODS` whose last stage ends with `trusting` learned iterations, which are made
    here as its other ones are; early: two more of them, from where the last stage begins after
    HASTY iterations of each before it.
    """
    last = METHODS[method].stages[-1]
    plain = {key: value for key, value in last.settings.items() if key != "trusting"}
    registration = Registration(
        scans.fixed,
        scans.moving,
        fixed_mask=scans.fixed_mask,
        moving_mask=scans.moving_mask,
        method="gauss-newton",
        iterations=HASTY if early else None,
        device="cpu",
    )
    for _ in registration:
        pass
    learned = last.settings["trusting"]
    if early:
        learned, begun = learned + 2, registration.fields[-1 - HASTY]
        field = begun
    else:
        begun, field = (registration.fields[-1 - n] for n in (last.iterations, learned))
    with torch.inference_mode():
        level = registration.pyramid.contrast_level(begun)
        mismatch, _ = level.normal_equations(level.sample_field(begun), roughly=True)
    points = scans.fixed_mask.marked_points(most=10**9)
    points = points[np.random.default_rng(seed).permutation(len(points))[:POINTS]]
    moved = scans.field.transform_points(points)
    seen = scans.moving.grid.contains(moved)
    points, moved = points[seen], moved[seen]
    back = registration.starts[0].transform.GetInverse()
    targets = np.array([back.TransformPoint(p) for p in moved.tolist()]) - points
    near = level.weight.view(level.voxels.shape) > NEAR
    close = CloseUp(
        fixed=level.fixed[..., 0].half(),
        moving=level.moving[..., 0].half(),
        distance=level.distance.clone(),
        near=near.to(torch.uint8),
        spacing=float(level.spacing),
        origin=tuple(float(x) for x in level.origin),
        repeated=float(level.repeated),
        field=level.sample_field(field).clone(),
        iterations=learned,
        stiffness=GaussNewtonOptimiser(**plain).stiffened(mismatch),
        points=torch.from_numpy(level.grid.to_index(points)).float(),
        targets=torch.from_numpy(targets).float(),
        usual=torch.empty(0),
    )
    without = GaussNewtonOptimiser(close.stiffness, plain["changing"], closely=learned)
    *_, (field, _) = without.iterate(close.level(), close.field, learned)
    close.usual = measured(close.errors(field))
    return close


def measured(errors: torch.Tensor) -> torch.Tensor:
    """Of errors (N,), mm, the mean, and a mean in which a few large ones do not count most."""
    return torch.stack((errors.mean(), (errors / (FAR_MM + errors)).mean()))
