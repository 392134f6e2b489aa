"""How wrong it is where one lung has collapsed, and whether the verdict says so.

    python Testing/tools/collapsed_lung.py PAIRS [SCALE ...]

Of every pair in the folder (images, masks and landmarks, see `benchmark`) the left lung of the
moving scan is shrunk towards its hilum to SCALE of its lengths (0.93, 0.85 and 0.7), air takes its
place, and landmarks move with it. Prints the errors in that lung and in the other, with masks of
lung alone and with automatic ones, which may hold the air, and the verdict.
"""

import argparse

import numpy as np
from L2ORegistrationLib.core.geometry import Volume
from L2ORegistrationLib.datasets.registry import load_dataset
from L2ORegistrationLib.engine.registration import register
from L2ORegistrationLib.engine.start.alignment import distance_map
from L2ORegistrationLib.engine.start.apart import two_lungs

AIR_HU, NOISE_HU = -1000.0, 20.0
HILUM_MM = 10.0  # from the lung's inner edge


def collapsed(moving: Volume, lung: np.ndarray, scale: float):
    """The scan with that lung (z, y, x) shrunk, what of it is air then, and where points move."""
    points = moving.grid.points()
    hilum = points[lung].mean(axis=0)
    hilum[0] = points[lung][:, 0].min() + HILUM_MM
    source = hilum + (points - hilum) / scale
    of_lung = Volume(lung.astype(np.float32), moving.grid)
    air = lung & (of_lung.sample(source) < 0.5)
    noise = np.random.default_rng(0).normal(AIR_HU, NOISE_HU, lung.shape)
    array = np.where(lung, np.where(air, noise, moving.sample(source)), moving.array)

    def where(there: np.ndarray) -> np.ndarray:
        own, ends = of_lung.sample(there, order=0) > 0.5, there.copy()
        ends[own] = hilum + scale * (there[own] - hilum)
        return ends

    return Volume(array.astype(np.float32), moving.grid), air, where


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs")
    parser.add_argument("scales", nargs="*", type=float, default=[0.93, 0.85, 0.7])
    options = parser.parse_args()
    print("pair, scale, masks: mean / largest in the left lung, mean in the right; verdict")
    for case in load_dataset("pairs", options.pairs):
        fixed, moving, mask = case.fixed(), case.moving(), case.moving_mask()
        nearer = two_lungs(distance_map(mask)).nearer(moving.grid.points())
        p, q = case.landmarks
        lung = (nearer < 0) & (mask.array > 0)
        left = Volume(lung.astype(np.uint8), moving.grid).sample(q, order=0) > 0
        for scale in options.scales:
            scan, air, where = collapsed(moving, lung, scale)
            alone = Volume(((mask.array > 0) & ~air).astype(np.uint8), mask.grid)
            for name, moving_mask in (("lung alone", alone), ("automatic", None)):
                masks = {"fixed_mask": case.fixed_mask(), "moving_mask": moving_mask}
                result = register(fixed, scan, **masks)
                errors = np.linalg.norm(result.field.transform_points(p) - where(q), axis=1)
                print(
                    f"{case.name} {scale:g} {name}: {errors[left].mean():.2f} / "
                    f"{errors[left].max():.1f} mm, {errors[~left].mean():.2f}; {result.verdict} "
                    f"{' '.join(result.reasons)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
