"""How well one lung is followed that changed alone: pushed up from below, as by a raised diaphragm.

    python Testing/tools/raised_diaphragm.py PAIRS [HEIGHT ...]

Of every pair in the folder (images, masks and landmarks, see `benchmark`) first the right, then the
left lung of the moving scan is pressed together to a HEIGHT of what it was (0.75 and 0.55), tissue
takes its place below, and landmarks move with it. Prints the errors in that lung and in the other,
and the verdict.
"""

import argparse

import numpy as np
from L2ORegistrationLib.core.geometry import Volume
from L2ORegistrationLib.datasets.registry import load_dataset
from L2ORegistrationLib.engine.registration import register
from L2ORegistrationLib.engine.start.alignment import distance_map
from L2ORegistrationLib.engine.start.apart import two_lungs

TISSUE_HU, NOISE_HU = 30.0, 12.0


def pressed(moving: Volume, lung: np.ndarray, height: float):
    """The scan with that lung (z, y, x) pressed upwards, and where points (N, 3) of it are then."""
    points = moving.grid.points()
    top = points[lung][:, 2].max()
    source = points.copy()
    source[..., 2] = top - (top - points[..., 2]) / height
    of_lung = Volume(lung.astype(np.uint8), moving.grid)
    still = lung & (of_lung.sample(source, order=0, outside=0) > 0)
    tissue = TISSUE_HU + np.random.default_rng(0).normal(0, NOISE_HU, lung.shape)
    array = np.where(lung, np.where(still, moving.sample(source), tissue), moving.array)

    def where(there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where points lie now, and which of them are still to be seen."""
        own, ends = of_lung.sample(there, order=0, outside=0) > 0, there.copy()
        ends[own, 2] = top - height * (top - there[own, 2])
        return ends, ~own | (of_lung.sample(ends, order=0, outside=0) > 0)

    return Volume(array.astype(np.float32), moving.grid), where


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs")
    parser.add_argument("heights", nargs="*", type=float, default=[0.75, 0.55])
    options = parser.parse_args()
    print("pair, lung, height: mean / 95 % in it (before), mean in the other; verdict")
    for case in load_dataset("pairs", options.pairs):
        fixed, moving, mask = case.fixed(), case.moving(), case.moving_mask()
        nearer = two_lungs(distance_map(mask)).nearer(moving.grid.points())
        p, q = case.landmarks
        for side, own in (("right", nearer > 0), ("left", nearer < 0)):
            for height in options.heights:
                scan, where = pressed(moving, own & (mask.array > 0), height)
                ends, seen = where(q)
                there = Volume(own.astype(np.uint8), moving.grid).sample(q, order=0) > 0
                result = register(fixed, scan)
                errors = np.linalg.norm(result.field.transform_points(p) - ends, axis=1)
                inside, other = errors[seen & there], errors[seen & ~there]
                before = np.linalg.norm(p - ends, axis=1)[seen & there].mean()
                print(
                    f"{case.name} {side} {height:g}: {inside.mean():.2f} / "
                    f"{np.percentile(inside, 95):.1f} mm ({before:.0f}), {other.mean():.2f}; "
                    f"{result.verdict} {' '.join(result.reasons)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
