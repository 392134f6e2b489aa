"""Make harder pairs with exact landmarks from a folder of pairs: where does a registration break?

    python Testing/tools/harder_pairs.py PAIRS OUT

A thin-plate spline through a pair's landmarks gives its motion. It moves the pair's own moving
image further, another pair's image, or lands on thick noisy slices. OUT is then a folder for
`l2o-registration benchmark --data pairs=OUT`.
"""

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from L2ORegistrationLib.core.files import write_volume
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.datasets.cases import Case
from L2ORegistrationLib.datasets.registry import load_dataset
from scipy import ndimage
from scipy.interpolate import RBFInterpolator

LATTICE_MM = 5.0
LANDMARKS = 400
# name: (how much of the motion, whose: 0 own, 1 of the next pair, noise in HU, spacing in mm)
KINDS = {
    "further": (1.25, 0, 20, None),
    "exchanged": (1.0, 1, 20, None),
    "thick": (1.0, 0, 35, (1.2, 1.2, 5.0)),
}


class Pair:
    """A case's moving image and mask, and its landmarks."""

    def __init__(self, case: Case):
        self.name, self.points = case.name, case.landmarks
        self.image, self.mask = case.moving(), case.moving_mask()

    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """The lungs' lowest corner and size, mm."""
        points = self.mask.marked_points()
        return points.min(axis=0), np.ptp(points, axis=0)


def motion_of(pair: Pair, target: Pair, scale: float) -> DisplacementField:
    """The pair's motion fixed -> moving, brought from its lungs' box to that of the target."""
    (first, size), (to, to_size) = pair.box(), target.box()
    fixed, moving = ((points - first) / size * to_size + to for points in pair.points)
    spline = RBFInterpolator(fixed, scale * (moving - fixed), neighbors=80, smoothing=1.0)
    grid = Grid.covering(target.image.grid.corners(), LATTICE_MM, margin=20.0)
    motion = spline(grid.points().reshape(-1, 3)).reshape(*grid.shape, 3)
    return DisplacementField(motion.astype(np.float32), grid)


def moved(pair: Pair, field: DisplacementField, noise: float, spacing, rng) -> tuple:
    """(fixed, its mask, fixed points, moving points): the pair's moving image, moved by the field.

    Air is compressed with the lungs, and every image has noise of its own.
    """
    grid, image = pair.image.grid, pair.image.to_image()
    if spacing:
        size = np.ceil(np.multiply(grid.size, grid.spacing) / spacing).astype(int)
        grid = Grid(tuple(size), spacing, grid.origin, grid.direction)
        image = sitk.DiscreteGaussian(sitk.Cast(image, sitk.sitkFloat32), [1.0] * 3)
    reference = Volume(np.zeros(grid.shape, np.uint8), grid).to_image()
    transform = field.to_transform()
    array, mask, volume = (
        sitk.GetArrayFromImage(sitk.Resample(source, reference, by, kind, outside, source_type))
        for source, by, kind, outside, source_type in (
            (image, transform, sitk.sitkLinear, -1000.0, sitk.sitkFloat32),
            (pair.mask.to_image(), transform, sitk.sitkNearestNeighbor, 0.0, sitk.sitkUInt8),
            (
                sitk.DisplacementFieldJacobianDeterminant(field.to_image()),
                sitk.Transform(),
                sitk.sitkLinear,
                1.0,
                sitk.sitkFloat32,
            ),
        )
    )
    lungs = ndimage.gaussian_filter(mask.astype(np.float32), 1.0) > 0.5
    array = np.where(lungs, (array + 1000) * np.clip(volume, 0.4, 2.5) - 1000, array)
    grain = ndimage.gaussian_filter(rng.standard_normal(array.shape), 0.7)
    array = np.clip(array + noise * grain / grain.std(), -1024, 2000).round().astype(np.int16)
    inside = np.argwhere(mask)
    chosen = inside[rng.permutation(len(inside))[:LANDMARKS], ::-1]
    points = grid.to_world(chosen)
    return Volume(array, grid), Volume(mask, grid), points, field.transform_points(points)


def write(folder: Path, pair: Pair, fixed, mask, points, partners) -> None:
    """A folder as `benchmark` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, volume in (("fixed", fixed), ("moving", pair.image)):
        write_volume(volume, folder / f"{name}.nii.gz")
    for name, volume in (("fixed", mask), ("moving", pair.mask)):
        write_volume(volume, folder / f"{name}_mask.nii.gz")
    for name, rows in (("fixed", points), ("moving", partners)):
        path = folder / f"{name}_landmarks.csv"
        np.savetxt(path, rows, "%.4f", ",", header="x,y,z", comments="")


def main() -> None:
    """Every kind of every pair that has masks and landmarks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    cases = load_dataset("pairs", options.pairs)
    pairs = [Pair(case) for case in cases if case.moving_mask and case.landmarks]
    for number, pair in enumerate(pairs):
        for seed, (kind, (scale, whose, noise, spacing)) in enumerate(KINDS.items()):
            other = pairs[(number + whose) % len(pairs)]
            field = motion_of(other, pair, scale)
            made = moved(pair, field, noise, spacing, np.random.default_rng([number, seed]))
            write(options.out / f"{pair.name}-{kind}", pair, *made)
            distance = np.linalg.norm(made[3] - made[2], axis=1).mean()
            print(f"{pair.name}-{kind}: {distance:.1f} mm apart")


if __name__ == "__main__":
    main()
