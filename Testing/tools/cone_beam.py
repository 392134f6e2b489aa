"""How well CT and cone-beam CT are registered: cone-beam scans imitated from a pair's moving CT.

    python Testing/tools/cone_beam.py PAIRS [KIND ...] [--method l2o] [--fixed] [--given-masks]

Of every pair in the folder (images, masks and landmarks, see `benchmark`) the moving scan is made
into one that is blurred, with less contrast, a hollow of HU in the middle, streaks from the axis,
noise, and a round field of view with nothing beyond it. --fixed: that scan is the fixed one, the CT
the moving one. Prints errors at the landmarks that it shows, at the others, the share of both whose
error is below what was told, and the verdict. No real cone-beam scan is as simple.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from L2ORegistrationLib.core.geometry import Volume
from L2ORegistrationLib.datasets.registry import load_dataset
from L2ORegistrationLib.engine.registration import register
from scipy import ndimage

ANGLES = 720
EDGE_MM = 5.0  # beside the edge nothing is counted as shown
NOTHING_HU = -1000.0


@dataclass(frozen=True)
class Kind:
    """diameter: of the field of view, mm; height: of it, None: all; contrast: share that is left;
    hollow, noise, streaks: HU; blur: sigma, mm."""

    diameter: float
    height: float | None
    contrast: float
    hollow: float
    noise: float
    streaks: float
    blur: float


KINDS = {
    "wide": Kind(450, None, 0.95, 50, 40, 20, 0.9),
    "usual": Kind(270, None, 0.8, 150, 70, 60, 0.9),
    "short": Kind(270, 170, 0.8, 150, 70, 60, 0.9),
    "poor": Kind(250, 170, 0.65, 250, 110, 110, 1.3),
}


def cone_beam(scan: Volume, kind: Kind, seed: int = 3):
    """The scan as cone-beam CT of that kind, and a function: which points (N, 3) it shows."""
    rng = np.random.default_rng(seed)
    points = scan.grid.points()
    body = points[scan.array > -300]
    (x, y, _), z = body.mean(axis=0), points[..., 2].mean()
    spacing = np.array(scan.grid.spacing[::-1])
    across, down = points[..., 0] - x, points[..., 1] - y
    away = np.hypot(across, down)

    image = ndimage.gaussian_filter(scan.array.astype(np.float32), kind.blur / spacing)
    tissue = np.clip((image + 1000) / 1000, 0, 1)
    image = kind.contrast * image - kind.hollow * np.exp(-((away / 110) ** 2)) * tissue
    angle = ((np.arctan2(down, across) + np.pi) / (2 * np.pi) * (ANGLES - 1)).astype(int)
    rays = ndimage.gaussian_filter1d(rng.standard_normal((len(image), ANGLES)), 1.0, mode="wrap")
    rays *= kind.streaks / rays.std()
    slices = np.arange(len(image))[:, None, None]
    image += rays[slices, angle] * np.clip(away / 120, 0.2, 1)
    noise = ndimage.gaussian_filter(rng.standard_normal(image.shape), 0.7)
    image += kind.noise / noise.std() * noise
    half = np.inf if kind.height is None else kind.height / 2
    beyond = (away > kind.diameter / 2) | (np.abs(points[..., 2] - z) > half)
    image[beyond] = NOTHING_HU

    def shows(where: np.ndarray) -> np.ndarray:
        near = np.hypot(where[:, 0] - x, where[:, 1] - y) < kind.diameter / 2 - EDGE_MM
        return near & (np.abs(where[:, 2] - z) < half - EDGE_MM)

    return Volume(image.astype(np.float32), scan.grid), shows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs")
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--method", default="l2o")
    parser.add_argument("--fixed", action="store_true")
    parser.add_argument("--given-masks", action="store_true")
    options = parser.parse_args()
    print("pair, kind: mean / 95 % / largest where shown; mean elsewhere; told enough; verdict")
    for case in load_dataset("pairs", options.pairs):
        p, q = case.landmarks
        for name in options.kinds:
            scan, shows = cone_beam(case.moving(), KINDS[name])
            images, points = [case.fixed(), scan], [p, q]
            masks = [case.fixed_mask(), case.moving_mask()] if options.given_masks else [None] * 2
            if options.fixed:
                images, points, masks = images[::-1], points[::-1], masks[::-1]
            result = register(
                *images, fixed_mask=masks[0], moving_mask=masks[1], method=options.method
            )
            errors = result.field.transform_points(points[0]) - points[1]
            errors = np.linalg.norm(errors, axis=1)
            below, there = errors < result.confidence.sample(points[0]), shows(q)
            told = [f"{below[k].mean():.0%}" if k.any() else "-" for k in (there, ~there)]
            shown = errors[there]
            print(
                f"{case.name} {name}: {shown.mean():.2f} / {np.percentile(shown, 95):.2f} / "
                f"{shown.max():.1f} mm at {len(shown)}; "
                f"{errors[~there].mean() if (~there).any() else 0:.1f} at {(~there).sum()}; "
                f"{', '.join(told)}; {result.verdict} {' '.join(result.reasons)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
