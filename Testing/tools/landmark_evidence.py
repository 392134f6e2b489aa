"""Which of the two do the images support, the landmarks of a case or the registration?

    python Testing/tools/landmark_evidence.py FOLDER

FOLDER is a case as `l2o-registration benchmark --data pairs=...` reads it. The motion found is bent
so that it hits every landmark exactly, and registered once more from there. A registration that
had missed its optimum stays at the landmarks; one that had found it comes back. At each landmark,
`found` and `annotated` are the correlation of both images around it under either motion.
"""

import argparse

import L2ORegistrationLib as l2o
import numpy as np
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.datasets.registry import load_dataset
from scipy.interpolate import RBFInterpolator

LATTICE_MM = 4.0
PATCH_MM = 8.0  # from a landmark to the sides of the cube that is compared


def bent(field: DisplacementField, fixed: np.ndarray, moving: np.ndarray) -> DisplacementField:
    """The field and a thin plate on top of it that leads fixed points (N, 3) to moving ones."""
    grid = Grid.covering(field.grid.corners(), LATTICE_MM)
    spline = RBFInterpolator(fixed, moving - field.transform_points(fixed))
    points = grid.points()
    more = spline(points.reshape(-1, 3)).reshape(points.shape)
    return DisplacementField((field.sample(points) + more).astype(np.float32), grid)


def correlations(fixed: Volume, moving: Volume, field: DisplacementField, points) -> np.ndarray:
    """Of the patches around fixed points (N, 3) and what the field brings there: (N,)."""
    steps = np.arange(-PATCH_MM, PATCH_MM + 0.1)
    patch = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    where = points[:, None] + patch
    pairs = zip(fixed.sample(where), moving.sample(field.transform_points(where)))
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in pairs])


def main() -> None:
    """Print the table and what it comes to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    (case,) = load_dataset("pairs", parser.parse_args().folder)
    fixed, moving = case.fixed(), case.moving()
    points, partners = case.landmarks
    masks = {"fixed_mask": case.fixed_mask(), "moving_mask": case.moving_mask()}
    found = l2o.register(fixed, moving, **masks)
    annotated = bent(found.field, points, partners)
    again = l2o.register(fixed, moving, **masks, initial_transform=annotated)
    errors = [
        np.linalg.norm(field.transform_points(points) - partners, axis=1)
        for field in (found.field, annotated, again.field)
    ]
    back = np.linalg.norm(found.field.sample(points) - again.field.sample(points), axis=1)
    alike = [correlations(fixed, moving, field, points) for field in (found.field, annotated)]
    print("landmark  error  error from the landmarks  found  annotated")
    for number, row in enumerate(zip(errors[0], errors[2], *alike)):
        print("{:8d} {:6.2f} {:25.2f} {:6.3f} {:10.3f}".format(number, *row))
    print(
        f"mean error {errors[0].mean():.3f} mm; bent to the landmarks {errors[1].mean():.3f}, "
        f"registered from there {errors[2].mean():.3f}\n"
        f"the two registrations differ by {back.mean():.3f} mm at the landmarks, "
        f"at most {back.max():.3f}\n"
        f"images match better where the registration went at {(alike[0] > alike[1]).sum()} "
        f"of {len(points)} landmarks; dissimilarity {again.steps[1].dissimilarity:.4f} at the "
        f"landmarks, {again.steps[again.best].dissimilarity:.4f} at the end"
    )


if __name__ == "__main__":
    main()
