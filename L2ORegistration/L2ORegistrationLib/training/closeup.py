"""Close-ups: what the learned iterations see of a phantom pair, prepared once and kept on disk.

Only phantoms are known well enough to teach the last tenth of a millimetre: keypoints of real scans
are placed by readers, or by a registration like the one that would learn from them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..core.errors import InputError
from ..core.geometry import Volume
from ..core.paths import existing
from ..engine.catalogue import DESCRIPTORS, METHODS, Stage, load
from ..engine.field.levels import (
    ACTIVE_MM,
    CONTRAST_MM,
    ContrastLevel,
    Level,
    MindLevel,
    active_voxels,
)
from ..engine.field.operations import sample_points
from ..engine.field.sampling import with_gradient
from ..engine.optimise.gauss_newton import GaussNewtonOptimiser
from ..engine.registration import Registration
from ..engine.start.alignment import moved
from ..phantom.pair import PhantomPair
from . import prepared

POINTS = 20_000  # of the fixed lungs
LEARNED = "l2o"  # the method whose last iterations, of each level, are learned
PLAIN = "gauss-newton"  # the method that leads there
HASTY = 2  # iterations of a level that leave much to do
FEWEST = 2  # iterations of a level that is not the last one
NEAR = 0.5  # a voxel is within reach of the contrast or not
FAR_MM = 1.0  # what is bounded counts errors above this less and less
TINY_MM = 0.05  # added to errors in squares, so that the smallest do not pull as much


@dataclass
class CloseUp:
    """A pair as a level sees it when the learned iterations begin.

    fixed, moving: MIND (D, H, W, 12) or, on the last level, contrast (D, H, W), float16; distance:
    signed, mm, to the fixed lungs at the field voxels (1, d, h, w); spacing, origin: of the field
    grid, mm LPS; field: (3, d, h, w) mm that plain iterations have reached; iterations: that are to
    be learned from there; closely: those of them, the last, that look closely; stiffness, changing:
    the plain ones'; points: (N, 3) of the fixed lungs, field voxels (x, y, z), targets: their true
    displacements, mm, against the start; usual: what is `measured` where the learned iterations are
    plain ones. Of contrast, near: where it counts at the voxels of the blocks (M, r^3), bytes;
    repeated: as in `ContrastLevel`.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    distance: torch.Tensor
    spacing: float
    origin: tuple[float, float, float]
    field: torch.Tensor
    iterations: int
    closely: int
    stiffness: float
    changing: float
    points: torch.Tensor
    targets: torch.Tensor
    usual: torch.Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))
    near: torch.Tensor | None = None
    repeated: float = 1.0

    def errors(self, field: torch.Tensor) -> torch.Tensor:
        """How far, mm, a field (3, d, h, w), mm, takes each point from where it is, (N,)."""
        points, targets = self.points.to(field), self.targets.to(field)
        missed = (sample_points(field, points) - targets).square().sum(dim=1)
        return (missed + TINY_MM**2).sqrt()

    def level(self) -> Level:
        """The level."""
        distance = self.distance.float()
        fixed, moving = self.fixed.float(), self.moving.float()
        place = distance, self.spacing, self.origin
        if self.near is None:
            reach = ACTIVE_MM + self.spacing / 2
            active = active_voxels(distance[0], fixed.shape[:3], reach)
            return MindLevel(*place, *active, fixed, moving)
        seen = (with_gradient(image[..., None]) for image in (fixed, moving))
        active = active_voxels(distance[0], fixed.shape, CONTRAST_MM)
        return ContrastLevel(*place, *active, *seen, self.near.float(), self.repeated)


def save(close_ups: list[CloseUp], path: str | Path) -> None:
    """Write those of one pair, of each level one, to a .pt file that `load_one` reads."""
    prepared.save([close.__dict__ for close in close_ups], path)


def load_one(path: str | Path, number: int) -> CloseUp:
    """What `save` wrote of a level.

    Raises InputError for a file of another version, damaged or out of reach.
    """
    path = existing(path)
    try:
        return CloseUp(**torch.load(path, weights_only=True)[number])
    except Exception as error:
        raise InputError(
            f"{path} is damaged, or of another version: delete it, and it is drawn again."
        ) from error


def close_ups(scans: PhantomPair, lungs: Volume, seed: int, early: bool = False) -> list[CloseUp]:
    """What the learned iterations of each level would see of two scans, the coarsest level first.

    lungs: the fixed ones as they were before `vary` did something to images and masks, because the
    motion is known exactly at their voxels only: it jumps where things slide. On the last level
    the iterations before the learned ones are made here as plain ones; early: two more are left to
    learn, from where the level begins after HASTY iterations of each before it. Other levels begin
    with the start, or after any iteration of the level before.
    """
    rng = np.random.default_rng([seed, 4])
    registration = Registration(
        scans.fixed,
        scans.moving,
        fixed_mask=scans.fixed_mask,
        moving_mask=scans.moving_mask,
        method=PLAIN,
        iterations=HASTY if early else None,
        device="cpu",
    )
    for _ in registration:
        pass
    points = lungs.marked_points(most=10**9)
    points = points[scans.fixed.grid.contains(points)]
    points = points[np.random.default_rng(seed).permutation(len(points))[:POINTS]]
    ends = scans.field.transform_points(points)
    seen = scans.moving.grid.contains(ends)
    points, ends = points[seen], ends[seen]
    targets = moved(registration.starts[0].transform.GetInverse(), ends) - points

    *coarse, last = METHODS[LEARNED].stages
    made = [HASTY if early else stage.iterations for stage in METHODS[PLAIN].stages]
    begins, done = [1], 1  # which of the steps each level begins with
    for count in made[:-2]:
        begins.append(done + int(rng.integers(1, count + 1)))
        done += count
    found = []
    for stage, begin in zip(coarse, begins):
        begun = registration.fields[begin]
        learned = int(rng.integers(FEWEST, stage.settings["trusting"] + 1))
        found.append(_seen(registration, stage, begun, begun, learned, points, targets))
    learned = last.settings["trusting"]
    begun = registration.fields[-1 - made[-1]]
    if early:
        learned, field = learned + 2, begun
    else:
        field = registration.fields[-1 - learned]
    found.append(_seen(registration, last, begun, field, learned, points, targets))
    return found


def _seen(
    registration: Registration,
    stage: Stage,
    begun: torch.Tensor,
    field: torch.Tensor,
    learned: int,
    points: np.ndarray,
    targets: np.ndarray,
) -> CloseUp:
    """What iterations of a stage that began with one field see of a registration in another."""
    plain = stage.unweighed.settings
    with torch.inference_mode():
        level = load(DESCRIPTORS[stage.compares])(registration.pyramid, begun)
        mismatch, _ = level.normal_equations(level.sample_field(begun), roughly=True)
    fixed, moving, of_contrast = level.fixed, level.moving, {}
    if isinstance(level, ContrastLevel):
        fixed, moving = fixed[..., 0], moving[..., 0]
        near = level.weight > NEAR
        of_contrast = {"near": near.to(torch.uint8), "repeated": float(level.repeated)}
    close = CloseUp(
        fixed=fixed.half(),
        moving=moving.half(),
        distance=level.distance.clone(),
        spacing=float(level.spacing),
        origin=tuple(float(x) for x in level.origin),
        field=level.sample_field(field).clone(),
        iterations=learned,
        closely=plain.get("closely", 0),
        stiffness=GaussNewtonOptimiser(**plain).stiffened(mismatch),
        changing=plain.get("changing", 0.0),
        points=torch.from_numpy(level.grid.to_index(points)).float(),
        targets=torch.from_numpy(targets).float(),
        **of_contrast,
    )
    without = GaussNewtonOptimiser(close.stiffness, close.changing, closely=close.closely)
    *_, (field, _) = without.iterate(close.level(), close.field, learned)
    close.usual = measured(close.errors(field))
    return close


def measured(errors: torch.Tensor) -> torch.Tensor:
    """Of errors (N,), mm, the mean, and a mean in which a few large ones do not count most."""
    return torch.stack((errors.mean(), (errors / (FAR_MM + errors)).mean()))
